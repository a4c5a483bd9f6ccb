"""An incoming S2S stream: another server has connected and proves its domains to us."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable
from enum import Enum
from typing import Any
from xml.etree.ElementTree import Element

from impfed.xmpp import dialback
from impfed.xmpp.dialback import DialbackElement
from impfed.xmpp.jid import JidError
from impfed.xmpp.reader import StreamHeader
from impfed.xmpp.s2s_acks import ENABLED
from impfed.xmpp.s2s_base import Input, S2SStream
from impfed.xmpp.s2s_names import domain_of
from impfed.xmpp.s2s_parts import (
    CLOSE,
    NS_BIDI_FEATURE,
    NS_SASL,
    NS_SM,
    NS_TLS,
    BeginTls,
    PairProven,
    PairRefused,
    S2SEvent,
    S2SWorld,
    VerifyWanted,
    opening,
    sasl_failure,
)
from impfed.xmpp.s2s_security import (
    Offer,
    Proof,
    Tls,
    judge_dialback,
    offers_external,
    starttls_offer,
)
from impfed.xmpp.stanza import Stanza

Next = tuple[Input, Any] | None

#: How a pair is proven that nobody negotiated: a certificate proves its domain to all of ours.
IMPLIED = "certificate, for another domain of ours"
#: Refusals of pairs that a stream tells of; a peer may go on asking for as long as it likes.
_TOLD = 10


class State(Enum):
    """Where an incoming stream stands."""

    IDLE = "not connected"
    SECURING = "waiting for TLS"
    HEADER = "waiting for the stream header"
    UNPROVEN = "open, no domain proven"
    RESTARTED = "waiting for the stream header after SASL"
    PROVEN = "open, a domain proven"
    CLOSED = "closed"


class IncomingStream(S2SStream):
    """The receiving side of a stream."""

    state: State
    CLOSED = State.CLOSED
    SECURING = State.SECURING

    def __init__(self, world: S2SWorld) -> None:
        super().__init__(world, State.IDLE)
        self._certified: set[str] = set()  # domains proven by certificate, towards all of ours
        self._pending: dict[tuple[str, str], tuple[float, str]] = {}  # (remote, local)
        self._attempts = 0
        self._refusals = 0

    def verdict(
        self, local: str, remote: str, valid: bool, condition: str, now: float
    ) -> list[S2SEvent]:
        """Take what the authoritative server of ``remote`` says of its key.

        :param condition: dialback error condition when it could not be asked, else "".
        """
        self._begin(now)
        self._step(Input.VERDICT, (local, remote, valid, condition))
        return self._events

    # -- time ----------------------------------------------------------------------------------

    def _still_asking(self) -> bool:
        return bool(self._pending)

    def _due_times(self) -> list[float]:
        return [due for due, _ in self._pending.values()]

    def _expire(self, now: float) -> None:
        for (remote, local), (due, _) in list(self._pending.items()):
            if now >= due:
                verdict = (local, remote, False, "remote-server-timeout")
                self._step(Input.VERDICT, verdict)

    # -- the header ----------------------------------------------------------------------------

    def _greet(self, header: StreamHeader) -> Next:
        """Check whom the peer wants, and answer with our header and what we offer."""
        self.id = self._world.ids.token(16)
        refusal: tuple[str, str] | None = None
        # Servers from before XMPP 1.0 (jabberd2 without TLS) may name nobody here: each of their
        # dialback elements does, and is judged by that (XEP-0220 section 2.1.1).
        nameless = not (header.to or header.from_ or header.version is not None or self.secured)
        if not nameless:
            refusal = self._address_problem(header) or self._version_problem(header)
        if refusal is not None:
            return Input.REFUSED, refusal
        self._header_sent = True
        self._output.append(opening(self.local, self.remote, self.id))
        if header.version is not None and header.version >= (1, 0):
            self._output.append(self._features())
        return None

    def _address_problem(self, header: StreamHeader) -> tuple[str, str] | None:
        world = self._world
        local = remote = ""
        try:
            local = domain_of(header.to)
            if not world.serves(local):
                return "host-unknown", f"{local} is not served here"
            self.local = local
            if header.from_:
                remote = domain_of(header.from_)
        except JidError as error:
            return "improper-addressing", str(error)
        if remote and world.serves(remote):
            return "invalid-from", f"{remote} is a domain of ours"
        if self._certified and remote not in self._certified:
            return "invalid-from", f"{remote or 'nobody'} is not who was proven"
        self.remote = remote
        refusal = world.refusal(local, remote, True) if remote else ""
        return ("policy-violation", refusal) if refusal else None

    def _version_problem(self, header: StreamHeader) -> tuple[str, str] | None:
        if header.version is not None and header.version >= (1, 0):
            return None
        if self._world.security(self.local, self.remote).tls is Tls.REQUIRED and not self.secured:
            return "unsupported-version", "TLS is required here, so XMPP 1.0 is"
        return None

    def _features(self) -> str:
        security = self._world.security(self.local, self.remote)
        features = ""
        if not self.secured:
            offer = starttls_offer(security) if self._world.offers_tls else Offer.NONE
            if offer is not Offer.NONE:
                must = "<required/>" if offer is Offer.REQUIRED else ""
                features = f"<starttls xmlns='{NS_TLS}'>{must}</starttls>"
            if offer is Offer.REQUIRED:
                return f"<stream:features>{features}</stream:features>"
        elif self.state is State.UNPROVEN and self._external_problem(self.remote) == "":
            mechanisms = "<mechanism>EXTERNAL</mechanism>"
            features = f"<mechanisms xmlns='{NS_SASL}'>{mechanisms}</mechanisms>"
        features += f"<dialback xmlns='{dialback.NS_FEATURE}'><errors/></dialback>"
        if self.state is State.UNPROVEN:
            features += f"<bidi xmlns='{NS_BIDI_FEATURE}'/>"
        features += f"<sm xmlns='{NS_SM}'/>"
        return f"<stream:features>{features}</stream:features>"

    def _external_problem(self, remote: str) -> str | None:
        """Say why a certificate does not prove a domain; None where SASL EXTERNAL is not offered."""
        security = self._world.security(self.local, remote)
        if not remote:
            return None
        problem = self.certificate.problem(remote) if self.secured else ""
        if offers_external(security, self.secured, problem):
            return ""
        return problem or None

    # -- TLS and SASL --------------------------------------------------------------------------

    def _judge_tls(self, item: Element) -> Next:
        security = self._world.security(self.local, self.remote)
        offered = self._world.offers_tls and starttls_offer(security) is not Offer.NONE
        if offered and not self.secured and self.state is State.UNPROVEN:
            return Input.GO_TLS, None
        if self.state is State.PROVEN and not self.secured:
            return Input.DENIED, "a domain is proven already"
        return Input.DENIED, "TLS is on already" if self.secured else "TLS is off here"

    def _deny_tls(self, words: str) -> Next:
        self._output.append(f"<failure xmlns='{NS_TLS}'/>{CLOSE}")
        self._finish("", f"a request for TLS was refused: {words}", True)
        return None

    def _never_secured(self, item: Any) -> Next:
        self._finish("", "the TLS handshake took too long", True)
        return None

    def _agree_tls(self, item: Any) -> Next:
        self._output.append(f"<proceed xmlns='{NS_TLS}'/>")
        self._restart(False)  # and with it goes whatever came in clear after the request
        self._pending.clear()
        self._events.append(BeginTls(self.local))
        return None

    def _secured(self, item: Any) -> Next:
        self.secured = True
        return None

    def _judge_sasl(self, item: Element) -> Next:
        """Take a SASL request (XEP-0178 section 3)."""
        condition, words = self._sasl_problem(item)
        if not condition:
            return Input.GO_SASL, None
        self._attempts += 1
        if self._attempts >= self._limits.attempts:
            return Input.REFUSED, ("policy-violation", "too many attempts to authenticate")
        self._output.append(sasl_failure(condition, words))
        return None

    def _sasl_problem(self, item: Element) -> tuple[str, str]:
        if item.get("mechanism") != "EXTERNAL":
            return "invalid-mechanism", "only EXTERNAL is possible between servers"
        if not self.secured:
            return "encryption-required", ""
        try:
            identity = _authorization_identity((item.text or "").strip())
            remote = domain_of(identity) if identity else self.remote
        except (binascii.Error, UnicodeDecodeError):
            return "incorrect-encoding", ""
        except JidError as error:
            return "invalid-authzid", str(error)
        if not remote or (self.remote and remote != self.remote):
            return "not-authorized", f"{remote or 'nobody'} is not who opened the stream"
        if self._world.serves(remote):
            return "not-authorized", f"{remote} is a domain of ours"
        refusal = self._world.refusal(self.local, remote, True)
        problem = refusal or self._external_problem(remote)
        if problem is None:
            return "invalid-mechanism", "EXTERNAL is not offered"
        self.remote = self.remote or remote
        return ("not-authorized", problem) if problem else ("", "")

    def _agree_sasl(self, item: Any) -> Next:
        self._output.append(f"<success xmlns='{NS_SASL}'/>")
        self._certified.add(self.remote)
        self._pending.clear()
        self._restart(True)
        return None

    def _greet_again(self, header: StreamHeader) -> Next:
        refused = self._greet(header)
        if refused is None:
            self._announce(self.local, self.remote, "SASL EXTERNAL")
        return refused

    def _sasl_out_of_turn(self, item: Element) -> Next:
        self._attempts += 1
        if self._attempts >= self._limits.attempts:
            return Input.REFUSED, ("policy-violation", "too many attempts to authenticate")
        aborted = item.tag.endswith("}abort")
        self._output.append(sasl_failure("aborted" if aborted else "malformed-request"))
        return None

    def _sasl_again(self, item: Element) -> Next:
        return Input.BROKEN, ("policy-violation", "SASL is done already")

    # -- dialback ------------------------------------------------------------------------------

    def _result(self, item: Element) -> Next:
        """Take a request to accept a domain (XEP-0220 section 2.1.1)."""
        asked = DialbackElement.of(item)
        try:
            remote, local = domain_of(asked.from_), domain_of(asked.to)
        except JidError as error:
            return Input.BROKEN, ("improper-addressing", str(error))
        condition, words = self._pair_problem(local, remote)
        if condition:
            return self._refuse_pair(local, remote, condition, words)
        if (remote, local) in self._pending:
            return None  # it is being asked about
        if len(self._receiving) + len(self._pending) >= self._limits.pairs:
            return Input.BROKEN, ("policy-violation", "too many domains on one stream")
        security = self._world.security(local, remote)
        problem = self.certificate.problem(remote) if self.secured else ""
        proof, words = judge_dialback(security, self.secured, problem)
        if proof is Proof.REFUSE:
            condition = "not-authorized" if self.secured else "policy-violation"
            return self._refuse_pair(local, remote, condition, words)
        if proof is Proof.CERTIFICATE:
            self._certified.add(remote)
            self._output.append(dialback.result_answer(local, remote, True))
            return Input.PROVEN, (local, remote, "certificate")
        if len(self._pending) >= self._limits.pending:
            return Input.BROKEN, ("policy-violation", "too many dialback requests at once")
        self._pending[remote, local] = (self._now + self._limits.verification, asked.key)
        self._events.append(VerifyWanted(local, remote, self.id, asked.key))
        return None

    def _refuse_pair(self, local: str, remote: str, condition: str, words: str) -> Next:
        self._output.append(dialback.result_error(local, remote, condition, words))
        self._refusals += 1
        if self._refusals <= _TOLD:
            told = words or f"its own server cannot be asked: {condition}"
            self._events.append(PairRefused(local, remote, condition, told))
        return None

    def _pair_problem(self, local: str, remote: str) -> tuple[str, str]:
        world = self._world
        if not world.serves(local):
            return "item-not-found", f"{local} is not served here"
        if world.serves(remote):
            return "not-allowed", f"{remote} is a domain of ours"
        refusal = world.refusal(local, remote, True)
        return ("policy-violation", refusal) if refusal else ("", "")

    def _verdict(self, item: tuple[str, str, bool, str]) -> Next:
        local, remote, valid, condition = item
        if self._pending.pop((remote, local), None) is None:
            return None
        if condition:
            return self._refuse_pair(local, remote, condition, "")
        self._output.append(dialback.result_answer(local, remote, valid))
        if valid:
            return Input.PROVEN, (local, remote, "dialback")
        if self.state is State.UNPROVEN and not self._pending:
            return Input.REFUSED, ("not-authorized", f"the key of {remote} is not its own")
        return None

    def _verify(self, item: Element) -> Next:
        """Say whether a key is one of ours (XEP-0220 section 2.1.2)."""
        asked = DialbackElement.of(item)
        try:
            remote, local = domain_of(asked.from_), domain_of(asked.to)
        except JidError as error:
            return Input.BROKEN, ("improper-addressing", str(error))
        world = self._world
        if not world.serves(local):
            answer = dialback.verify_error(local, remote, asked.id, "item-not-found")
        elif not self.secured and world.security(local, remote).tls is Tls.REQUIRED:
            answer = dialback.verify_error(
                local, remote, asked.id, "policy-violation", "TLS is required here"
            )
        else:
            valid = world.keys.right(remote, local, asked.id, asked.key)
            answer = dialback.verify_answer(local, remote, asked.id, valid)
        self._output.append(answer)
        return None

    def _announce_pair(self, item: tuple[str, str, str]) -> Next:
        self._announce(*item)
        return None

    def _announce(self, local: str, remote: str, method: str) -> None:
        self._prove(local, remote)
        # Back go only the reverse of what was negotiated (XEP-0288 section 2.4).
        back = self.bidi and (method != IMPLIED)
        self._events.append(PairProven(local, remote, True, back, method))

    # -- an open stream ------------------------------------------------------------------------

    def _turn_bidi(self, item: Element) -> Next:
        self.bidi = True
        return None

    def _enable(self, item: Element) -> Next:
        if not self.acks.receiving:
            self._output.append(ENABLED)
            self.acks.receiving = True
            self.acks.sending = self.bidi
        return None

    def _no_acks_yet(self, item: Element) -> Next:
        self._output.append(f"<failed xmlns='{NS_SM}'/>")
        return None

    def _stanza(self, item: Stanza) -> Next:
        """Take a stanza of a pair that has not come by yet, or of one that may not."""
        local, remote = item.to.domain, item.from_.domain
        self.acks.received()
        if (remote, local) in self._receiving:
            self._events.append(item)
            return None
        known = any(remote == proven for proven, _ in self._receiving)
        if not known:
            return Input.BROKEN, ("invalid-from", f"{remote} is not proven on this stream")
        if not self._world.serves(local):
            return Input.BROKEN, ("host-unknown", f"{local} is not served here")
        if remote not in self._certified or self._world.refusal(local, remote, True):
            return Input.BROKEN, ("invalid-from", f"{remote} is not proven towards {local}")
        # A certificate proves its domain towards every domain of ours.
        self._announce(local, remote, IMPLIED)
        self._events.append(item)
        return None


def _authorization_identity(text: str) -> str:
    """Return what a SASL EXTERNAL initial response asks for; "" for the stream's own name.

    :raises binascii.Error: it is not base64.
    :raises UnicodeDecodeError: it is not UTF-8.
    """
    if text in ("", "="):
        return ""
    return b64decode(text, validate=True).decode("utf-8")


_IN = IncomingStream
_C = State.CLOSED

_ENDINGS: dict[Input, tuple[State, Callable[..., Next]]] = {
    Input.ERROR: (_C, _IN._peer_error),
    Input.END: (_C, _IN._peer_end),
    Input.BROKEN: (_C, _IN._break),
    Input.REFUSED: (_C, _IN._break),
    Input.TIMEOUT: (_C, _IN._time_out),
    Input.SILENT: (_C, _IN._silent),
    Input.LOST: (_C, _IN._lost),
    Input.CLOSE: (_C, _IN._close),
}
# Between headers the reader gives nothing but a header; an answer may come late all the same.
_WAITING = {**_ENDINGS, Input.VERDICT: (State.HEADER, _IN._ignore)}


def _open(state: State) -> dict[Input, tuple[State, Callable[..., Next]]]:
    """Return the rows that open streams share."""
    return {
        **_ENDINGS,
        Input.STARTTLS: (state, _IN._judge_tls),
        Input.DENIED: (_C, _IN._deny_tls),
        Input.SASL_OTHER: (state, _IN._sasl_out_of_turn),
        Input.RESULT: (state, _IN._result),
        Input.VERIFY: (state, _IN._verify),
        Input.VERDICT: (state, _IN._verdict),
        Input.PROVEN: (State.PROVEN, _IN._announce_pair),
        Input.RESULT_ANSWER: (state, _IN._ignore),  # nothing was asked here: it proves nothing
        Input.VERIFY_ANSWER: (state, _IN._ignore),
        Input.RESUME: (state, _IN._no_resumption),
        Input.SM_FAILED: (state, _IN._ignore),
        Input.ENABLED: (state, _IN._ignore),
        # What only the receiving side sends.
        Input.FEATURES: (state, _IN._unknown),
        Input.PROCEED: (state, _IN._unknown),
        Input.TLS_FAILURE: (state, _IN._unknown),
        Input.SASL_SUCCESS: (state, _IN._unknown),
        Input.SASL_FAILURE: (state, _IN._unknown),
        Input.ELEMENT: (state, _IN._unknown),
    }


IncomingStream.TABLE = {
    State.IDLE: {
        Input.CONNECTED: (State.HEADER, _IN._ignore),
        Input.CONNECTED_DIRECT: (State.SECURING, _IN._ignore),
        Input.LOST: (_C, _IN._lost),
        Input.CLOSE: (_C, _IN._close_unopened),
    },
    State.SECURING: {
        Input.SECURED: (State.HEADER, _IN._secured),
        Input.TIMEOUT: (_C, _IN._never_secured),
        Input.LOST: (_C, _IN._lost),
        Input.CLOSE: (_C, _IN._close_unopened),
        Input.VERDICT: (State.SECURING, _IN._ignore),
    },
    State.HEADER: {**_WAITING, Input.HEADER: (State.UNPROVEN, _IN._greet)},
    State.UNPROVEN: {
        **_open(State.UNPROVEN),
        Input.GO_TLS: (State.SECURING, _IN._agree_tls),
        Input.GO_SASL: (State.RESTARTED, _IN._agree_sasl),
        Input.AUTH: (State.UNPROVEN, _IN._judge_sasl),
        Input.BIDI: (State.UNPROVEN, _IN._turn_bidi),
        Input.ENABLE: (State.UNPROVEN, _IN._no_acks_yet),
        Input.ACK_REQUEST: (State.UNPROVEN, _IN._answer_count),
        Input.ACK: (State.UNPROVEN, _IN._ignore),
        Input.STANZA: (State.UNPROVEN, _IN._early),
        Input.BAD_STANZA: (State.UNPROVEN, _IN._early),
    },
    State.RESTARTED: {
        **_ENDINGS,
        Input.HEADER: (State.PROVEN, _IN._greet_again),
        Input.VERDICT: (State.RESTARTED, _IN._ignore),
    },
    State.PROVEN: {
        **_open(State.PROVEN),
        Input.AUTH: (State.PROVEN, _IN._sasl_again),
        Input.BIDI: (State.PROVEN, _IN._ignore),  # too late, and harmless
        Input.ENABLE: (State.PROVEN, _IN._enable),
        Input.ACK_REQUEST: (State.PROVEN, _IN._answer_count),
        Input.ACK: (State.PROVEN, _IN._counted),
        Input.STANZA: (State.PROVEN, _IN._stanza),
        Input.BAD_STANZA: (State.PROVEN, _IN._bad_stanza),
    },
    State.CLOSED: dict.fromkeys(Input, (_C, _IN._ignore)),
}
