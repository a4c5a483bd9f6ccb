"""How two servers agree on security: the settings, each decision, and the outcome foretold.

The stream machines decide by the functions here, and :func:`outcome` puts the same functions
together for both sides at once, so that an operator can be told beforehand what will happen.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Tls(Enum):
    """What TLS is to us (SPEC section 8)."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Security:
    """Settings of one side for one peer.

    :ivar tls: none, optional (tried, else in clear) or required.
    :ivar certificates: whether over TLS the peer's certificate must prove its domain; without it
        dialback may stand in.
    :ivar sasl_in: whether SASL EXTERNAL is offered to those who connect.
    :ivar sasl_out: whether SASL EXTERNAL is used towards those we connect to.
    :ivar dialback: whether dialback may prove a domain where no certificate does.
    """

    tls: Tls = Tls.REQUIRED
    certificates: bool = True
    sasl_in: bool = True
    sasl_out: bool = True
    dialback: bool = True


class Certificate(Enum):
    """What checking a certificate gave."""

    VALID = "valid"
    EXPIRED = "expired"
    WRONG_NAME = "for another name"
    SELF_SIGNED = "self-signed"
    UNKNOWN_CA = "of an unknown authority"
    NONE = "not shown"


class Direction(Enum):
    """Who opened the stream; stanzas pass from the one who opened it."""

    OUT = "outgoing"
    IN = "incoming"


class Offer(Enum):
    """What the receiving side says of STARTTLS."""

    NONE = "not offered"
    OPTIONAL = "offered"
    REQUIRED = "required"


class Choice(Enum):
    """What the initiating side does next."""

    TLS = "begin TLS"
    EXTERNAL = "SASL EXTERNAL"
    DIALBACK = "dialback"
    REFUSE = "give up"


class Proof(Enum):
    """How the receiving side takes a dialback request."""

    CERTIFICATE = "the certificate proves it: accepted at once"  # XEP-0344
    ASK = "the authoritative server is asked"
    REFUSE = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice, with words where it is to refuse."""

    choice: Choice
    words: str = ""


def starttls_offer(ours: Security) -> Offer:
    """Return what the receiving side offers in clear."""
    return {Tls.NONE: Offer.NONE, Tls.OPTIONAL: Offer.OPTIONAL, Tls.REQUIRED: Offer.REQUIRED}[
        ours.tls
    ]


def choose_tls(ours: Security, offer: Offer, failed_before: bool = False) -> Decision | None:
    """Decide on TLS as the initiating side; None to go on in clear.

    :param failed_before: whether TLS with this peer has just failed.
    """
    if ours.tls is Tls.NONE:
        if offer is Offer.REQUIRED:
            return Decision(Choice.REFUSE, "the peer requires TLS, and TLS is off here")
        return None
    if offer is not Offer.NONE and not failed_before:
        return Decision(Choice.TLS)
    if ours.tls is Tls.REQUIRED:
        return Decision(Choice.REFUSE, "TLS is required here, and the peer does not offer it")
    if offer is Offer.REQUIRED:
        return Decision(Choice.REFUSE, "the peer requires TLS, and TLS with it has failed")
    return None


def check_server(ours: Security, tls: bool, problem: str) -> str:
    """Say as the initiating side why the peer's certificate ends the stream; "" if it does not.

    :param problem: what is wrong with the certificate, "" for nothing.
    """
    if tls and ours.certificates and problem:
        return f"a valid certificate is required: {problem}"
    return ""


def choose_authentication(
    ours: Security, tls: bool, external: bool, dialback: bool, problem: str
) -> Decision:
    """Decide as the initiating side how to prove our domain.

    :param external: whether the peer offers SASL EXTERNAL, and we have a certificate to show.
    :param dialback: whether the peer can do dialback (one without features can).
    :param problem: what is wrong with the peer's certificate, "" for nothing.
    """
    refusal = check_server(ours, tls, problem)
    if refusal:
        return Decision(Choice.REFUSE, refusal)
    if tls and external and ours.sasl_out:
        return Decision(Choice.EXTERNAL)
    if not ours.dialback:
        if not external:
            return Decision(
                Choice.REFUSE, "the peer does not offer SASL EXTERNAL, and dialback is off here"
            )
        return Decision(Choice.REFUSE, "both SASL EXTERNAL and dialback are off here")
    if not dialback:
        return Decision(Choice.REFUSE, "the peer offers neither SASL EXTERNAL nor dialback to us")
    return Decision(Choice.DIALBACK)


def offers_external(ours: Security, tls: bool, problem: str) -> bool:
    """Say whether the receiving side offers SASL EXTERNAL.

    :param problem: what is wrong with the peer's certificate, "" for nothing.
    """
    return tls and ours.sasl_in and not problem


def judge_dialback(ours: Security, tls: bool, problem: str) -> tuple[Proof, str]:
    """Decide as the receiving side on a dialback request; words say why one is refused.

    :param problem: what is wrong with the peer's certificate for that domain, "" for nothing.
    """
    if tls and not problem:
        return Proof.CERTIFICATE, ""
    if not tls and ours.tls is Tls.REQUIRED:
        return Proof.REFUSE, "TLS is required here"
    if tls and ours.certificates:
        return Proof.REFUSE, f"a valid certificate is required: {problem}"
    if not ours.dialback:
        return Proof.REFUSE, "dialback is off here" + (f" ({problem})" if tls else "")
    return Proof.ASK, ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a stream.

    :ivar up: whether stanzas can pass.
    :ivar tls: whether it is encrypted.
    :ivar method: "SASL EXTERNAL", "certificate" (XEP-0344), "dialback", or "" if it fails.
    :ivar words: all of it in words; why, if it fails.
    """

    up: bool
    tls: bool
    method: str
    words: str

    def __str__(self) -> str:
        return self.words


def outcome(
    ours: Security,
    peer: Security,
    our_certificate: Certificate = Certificate.VALID,
    peer_certificate: Certificate = Certificate.VALID,
    direction: Direction = Direction.OUT,
) -> Outcome:
    """Foretell what becomes of a stream between us and a peer.

    :param our_certificate: what the peer finds when it checks ours.
    :param peer_certificate: what we find when we check the peer's.
    :param direction: OUT for a stream that we open.
    """
    if direction is Direction.OUT:
        return _foretell(ours, peer, our_certificate, peer_certificate, ("we", "the peer"))
    return _foretell(peer, ours, peer_certificate, our_certificate, ("the peer", "we"))


def _foretell(
    initiator: Security,
    receiver: Security,
    initiator_certificate: Certificate,
    receiver_certificate: Certificate,
    names: tuple[str, str],
) -> Outcome:
    offer = starttls_offer(receiver)
    decision = choose_tls(initiator, offer)
    if decision is not None and decision.choice is Choice.REFUSE:
        return _failed(False, names[0], decision.words)
    tls = decision is not None
    if tls and receiver_certificate is Certificate.NONE:
        # Nobody can greet TLS clients without a certificate: the handshake fails.
        decision = choose_tls(initiator, offer, failed_before=True)
        if decision is not None:
            return _failed(True, names[0], decision.words)
        tls = False
    shown = _problem(initiator_certificate)
    seen = _problem(receiver_certificate)
    external = initiator_certificate is not Certificate.NONE and offers_external(
        receiver, tls, shown
    )
    # Dialback is always offered, so that a refusal can come with words.
    decision = choose_authentication(initiator, tls, external, True, seen)
    if decision.choice is Choice.REFUSE:
        return _failed(tls, names[0], decision.words)
    if decision.choice is Choice.EXTERNAL:
        return _up(tls, "SASL EXTERNAL")
    proof, why = judge_dialback(receiver, tls, shown)
    if proof is Proof.REFUSE:
        return _failed(tls, names[1], why)
    return _up(tls, "certificate" if proof is Proof.CERTIFICATE else "dialback")


def _problem(certificate: Certificate) -> str:
    return "" if certificate is Certificate.VALID else f"the certificate is {certificate.value}"


def _up(tls: bool, method: str) -> Outcome:
    return Outcome(True, tls, method, f"{'over TLS' if tls else 'in clear'}, by {method}")


def _failed(tls: bool, who: str, why: str) -> Outcome:
    verb = "refuse" if who == "we" else "refuses"
    return Outcome(False, tls, "", f"fails: {who} {verb}: {why}")
