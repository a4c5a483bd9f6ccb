"""What two settings lead to: the prediction, and the streams themselves, over every combination."""

from __future__ import annotations

from itertools import product

from twisted.trial import unittest

from impfed.xmpp.s2s_parts import StreamClosed
from impfed.xmpp.s2s_security import (
    Certificate,
    Direction,
    Outcome,
    Security,
    Tls,
    outcome,
)
from tests.xmpp.s2s_pipe import Pipe, Shown

VALID, EXPIRED, NONE = Certificate.VALID, Certificate.EXPIRED, Certificate.NONE
STRICT = Security()
LOOSE = Security(Tls.REQUIRED, certificates=False)
OPTIONAL = Security(Tls.OPTIONAL, certificates=False)
CLEAR = Security(Tls.NONE, certificates=False)
NO_DIALBACK = Security(Tls.REQUIRED, certificates=False, dialback=False)

# ours, the peer's, our certificate, the peer's, then: up, TLS, by what; or words of the failure.
TABLE: list[tuple[Security, Security, Certificate, Certificate, str]] = [
    (STRICT, STRICT, VALID, VALID, "over TLS, by SASL EXTERNAL"),
    (STRICT, STRICT, VALID, EXPIRED, "fails: we refuse: a valid certificate is required"),
    (STRICT, STRICT, EXPIRED, VALID, "fails: the peer refuses: a valid certificate is required"),
    (STRICT, CLEAR, VALID, VALID, "fails: we refuse: TLS is required here"),
    (CLEAR, STRICT, VALID, VALID, "fails: we refuse: the peer requires TLS, and TLS is off here"),
    (CLEAR, CLEAR, VALID, VALID, "in clear, by dialback"),
    (OPTIONAL, CLEAR, VALID, VALID, "in clear, by dialback"),
    (CLEAR, OPTIONAL, VALID, VALID, "in clear, by dialback"),
    (OPTIONAL, OPTIONAL, VALID, VALID, "over TLS, by SASL EXTERNAL"),
    (OPTIONAL, OPTIONAL, EXPIRED, EXPIRED, "over TLS, by dialback"),
    (OPTIONAL, OPTIONAL, VALID, EXPIRED, "over TLS, by SASL EXTERNAL"),
    (LOOSE, LOOSE, EXPIRED, EXPIRED, "over TLS, by dialback"),
    (LOOSE, STRICT, NONE, VALID, "fails: the peer refuses: a valid certificate is required"),
    (NO_DIALBACK, LOOSE, EXPIRED, VALID, "fails: we refuse: the peer does not offer SASL"),
    (LOOSE, NO_DIALBACK, EXPIRED, VALID, "fails: the peer refuses: dialback is off"),
    (
        Security(sasl_out=False),
        STRICT,
        VALID,
        VALID,
        "over TLS, by certificate",
    ),
    (STRICT, Security(sasl_in=False), VALID, VALID, "over TLS, by certificate"),
    (OPTIONAL, OPTIONAL, VALID, NONE, "in clear, by dialback"),
    (LOOSE, OPTIONAL, VALID, NONE, "fails: we refuse: TLS is required here"),
]


def shown(certificate: Certificate, domain: str) -> Shown:
    return Shown(domain if certificate is VALID else "", certificate.value)


def play(
    initiator: Security, receiver: Security, ours: Certificate, theirs: Certificate
) -> Outcome:
    """Let two streams negotiate, again in clear where the first attempt says so."""
    pipe = Pipe(initiator, receiver, shown(ours, "a.example"), shown(theirs, "b.example"))
    pipe.external = ours is not NONE
    pipe.run(tls_fails=theirs is NONE)
    return Outcome(pipe.up, pipe.tls, pipe.method, "")


class OutcomeTests(unittest.SynchronousTestCase):
    """The function that foretells."""

    def test_table(self) -> None:
        """The cases that an operator meets, in words."""
        for ours, peer, our_certificate, peer_certificate, words in TABLE:
            found = outcome(ours, peer, our_certificate, peer_certificate)
            self.assertTrue(str(found).startswith(words), f"{words} expected, {found} found")

    def test_directions(self) -> None:
        """An incoming stream is an outgoing one seen from the other side, but for who is who."""
        for ours, peer, our_certificate, peer_certificate, _ in TABLE:
            out = outcome(ours, peer, our_certificate, peer_certificate, Direction.OUT)
            in_ = outcome(peer, ours, peer_certificate, our_certificate, Direction.IN)
            self.assertEqual((out.up, out.tls, out.method), (in_.up, in_.tls, in_.method))
            swapped = in_.words.replace("the peer refuses", "WE").replace("we refuse", "THEY")
            swapped = swapped.replace("WE", "we refuse").replace("THEY", "the peer refuses")
            self.assertEqual(out.words, swapped)


class PlayedTests(unittest.SynchronousTestCase):
    """The stream machines do what is foretold."""

    def test_every_combination(self) -> None:
        """Every combination of settings and certificates ends as foretold."""
        bools = (True, False)
        settings = [Security(*all) for all in product(Tls, bools, bools, bools, bools)]
        certificates = (VALID, EXPIRED, NONE)
        count = 0
        for ours, peer in product(settings, settings):
            for our_certificate, peer_certificate in product(certificates, certificates):
                # A pairwise selection is plenty here: every seventh of the 20,736.
                count += 1
                if count % 7:
                    continue
                told = outcome(ours, peer, our_certificate, peer_certificate)
                played = play(ours, peer, our_certificate, peer_certificate)
                what = (ours, peer, our_certificate, peer_certificate, told)
                self.assertEqual((told.up, told.method), (played.up, played.method), what)
                if told.up:
                    self.assertEqual(told.tls, played.tls, what)

    def test_refusals_have_words(self) -> None:
        """Where a stream fails, the side that opened it knows why."""
        for ours, peer, our_certificate, peer_certificate, words in TABLE:
            if not words.startswith("fails"):
                continue
            pipe = Pipe(
                ours,
                peer,
                shown(our_certificate, "a.example"),
                shown(peer_certificate, "b.example"),
            )
            pipe.external = our_certificate is not NONE
            pipe.run(tls_fails=peer_certificate is NONE)
            closed = [event for event in pipe.out_events if isinstance(event, StreamClosed)]
            self.assertTrue(closed[-1].words)
