"""What two servers' settings lead to, foretold by one function and seen with a real Prosody."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.transport.s2s import S2SLimits, Security, Tls
from impfed.xmpp.s2s_security import Certificate
from tests.interop.s2s_matrix import CERTIFICATES, PROSODY, SOAK, Case, make, selection
from tests.interop.s2s_peer import PeerProsody
from tests.interop.s2s_play import MatrixCase, Tail
from tests.interop.test_s2s_prosody import ProsodyCase
from tests.transport.s2s_kit import Node, text

Steps = Generator[Deferred[Any], Any, None]
CONTROL = "control.peer.example"


def _domain(state: Certificate) -> str:
    return f"c{CERTIFICATES.index(state)}.peer.example"


class ProsodyStage:
    """A Prosody with one way of insisting, and a domain for each state of a certificate."""

    server = "Prosody"

    def __init__(self, peer: PeerProsody, control: Node) -> None:
        self.tail = Tail(peer.directory / "prosody.log")
        self._control = control

    def order(self, case: Case, sender: str, recipient: str) -> None:
        """Have the server's user write to ours."""
        order = text("eve@control.example", f"bob@{CONTROL}", id=f"{sender} {recipient}")
        self._control.s2s.send(order)

    def failure(self, case: Case, domain: str) -> str:
        """Return what the server's user was told when his message came back."""
        return self.tail.find(rf"returned from {domain}: (.*)")


class MatrixTests(ProsodyCase, MatrixCase):
    """A pairwise selection of settings and certificates; all of them in a soak."""

    timeout = 7200 if SOAK else 1200

    @inlineCallbacks
    def play_with(self, theirs: str) -> Steps:
        """Play every case with a Prosody of these settings."""
        cases = [case for case in selection(PROSODY) if case.theirs == theirs]
        states = dict.fromkeys(case.peer_certificate for case in cases)
        hosts = {_domain(state): make(self.world, state, _domain(state)) for state in states}
        hosts[CONTROL] = self.world.issue(CONTROL)
        peer = self.prosody(hosts=hosts, log_level="info", **PROSODY[theirs])
        optional = Security(Tls.OPTIONAL, certificates=False)
        stage = ProsodyStage(peer, self.ours("control.example", security=optional))

        def node(domain: str, patience: float, **options: Any) -> Node:
            return self.ours(domain, limits=S2SLimits(patience=patience), **options)

        yield self.play_all(stage, cases, node, lambda case: _domain(case.peer_certificate))

    def test_strict(self) -> Deferred[None]:
        """A Prosody that requires TLS and certificates."""
        return self.play_with("strict")

    def test_without_certificates(self) -> Deferred[None]:
        """A Prosody that requires TLS, and takes dialback for certificates."""
        return self.play_with("TLS without certificates")

    def test_optional(self) -> Deferred[None]:
        """A Prosody that offers TLS."""
        return self.play_with("optional")

    def test_clear(self) -> Deferred[None]:
        """A Prosody without TLS."""
        return self.play_with("clear")
