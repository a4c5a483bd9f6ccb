"""HAProxy between the partner's edge and two nodes, of which one may be dead."""

from __future__ import annotations

import signal

from tests.topology import stories
from tests.topology.scene import LOCAL
from tests.topology.scenes import Balanced
from tests.topology.stage import Variant


class BalancerTests(stories.BothWays):
    """Both nodes of the first cluster get new requests, and know the way to every user."""

    kind = Balanced
    scene: Balanced

    def test_source(self) -> None:
        """A node is told where the partner is, past the firewall and the balancer, and who it is."""
        self.far_writes("mercutio@lync.example", LOCAL, "A plague")
        logs = self.scene.nodes["a1"].log + self.scene.nodes["a2"].log
        told = (
            r"connection from tls:198\.51\.100\.20:\d+ is open: CN=edge\.lync\.example, by the word"
        )
        self.assertRegex(logs, told)

    def test_dead_target(self) -> None:
        """What begins while a target is dead goes through the other one, for all whom it can reach."""
        first, rest = self.scene.nodes["a1"], LOCAL[2:]
        haproxy = self.scene.haproxy
        assert first.part is not None
        first.part.kill(signal.SIGSTOP)  # its sockets stay open: only the check can tell
        try:
            self.assertTrue(haproxy.becomes(1, "DOWN", 30), haproxy.state(1))
            before = self.scene.nodes["a2"].counted("proxy.forwarded")
            self.far_writes("benvolio@lync.example", rest, "Part, fools")
            self.writes(rest, "benvolio@lync.example", "Thou art drawn")
            self.assertGreater(self.scene.nodes["a2"].counted("proxy.forwarded"), before)
        finally:
            first.part.kill(signal.SIGCONT)
        self.assertTrue(haproxy.becomes(1, "UP", 30), haproxy.state(1))
        self.far_writes("capulet@lync.example", LOCAL, "What noise is this?")


class SixthVersionTests(stories.BothWays):
    """The balancer over IPv6: the PROXY header carries such addresses, too."""

    kind, variant = Balanced, Variant(version=6)
    scene: Balanced

    def test_source(self) -> None:
        """A node is told where the partner is."""
        self.far_writes("mercutio@lync.example", LOCAL, "A plague")
        logs = self.scene.nodes["a1"].log + self.scene.nodes["a2"].log
        self.assertRegex(
            logs, r"connection from tls:\[2001:db8:b::20\]:\d+ is open: .* by the word of"
        )
