"""What the people of a pair have allowed each other, decided at two nodes at once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.xmpp.jid import JID
from tests.cluster.gateways import FOREIGN, HOME, World

PAIR = (JID.parse(f"alice@{HOME}"), JID.parse(f"bob@{FOREIGN}"))


class AuthorizationTests(SynchronousTestCase):
    """Three nodes; each has all authorizations in memory."""

    def setUp(self) -> None:
        self.world = World("n1", "n2", "n3")
        self.nodes = [side.presence.authorizations for side in self.world.sides.values()]

    def known(self) -> set[tuple[str, str]]:
        """Return what the nodes believe, once they have heard of each other's changes."""
        self.world.run(1.0)
        return {(each.inbound(PAIR), each.outbound(PAIR)) for each in self.nodes}

    def test_each_its_own_direction(self) -> None:
        """One lets the other see her while he lets her: neither decision is lost."""
        one, two, _ = self.nodes
        one.decide_inbound(PAIR, "approved")
        two.decide_outbound(PAIR, "approved")
        self.assertEqual(self.known(), {("approved", "approved")})

    def test_same_direction(self) -> None:
        """Of two decisions about the same the later one counts, whatever the clocks say."""
        one, two, _ = self.nodes
        self.world.sides["n2"].node.clock.rightNow -= 20.0
        one.decide_inbound(PAIR, "pending")
        self.assertEqual(self.known(), {("pending", "none")})
        two.decide_inbound(PAIR, "approved")
        self.assertEqual(self.known(), {("approved", "none")})

    def test_forgotten(self) -> None:
        """What one node forgets all forget."""
        one, two, _ = self.nodes
        one.decide_inbound(PAIR, "declined")
        self.assertEqual(self.known(), {("declined", "none")})
        two.decide_inbound(PAIR, "none")
        self.assertEqual(self.known(), {("none", "none")})
