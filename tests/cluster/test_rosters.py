"""The User Options at any node of a cluster, whichever holds the link to the home server."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.admin.options import NodeOptions
from impfed.admin.options_api import Added, ForeignDomain, OptionsError
from impfed.core.ids import IdSource
from impfed.gateway.home_roster import HomeRosterWriter
from impfed.transport.rosters import RosterAnswer, RosterOutcome, unavailable
from impfed.xmpp.jid import JID
from tests.cluster.gateways import FOREIGN, HOME, Side, World


class RosterTests(SynchronousTestCase):
    """Three nodes; the user is at one that does not hold the link."""

    def setUp(self) -> None:
        self.world = World("n1", "n2", "n3")
        self.holder = self.world.holder
        self.side = next(each for each in self.world.sides.values() if each is not self.holder)
        self.options = self.options_at(self.side)
        self.user = JID.parse(f"alice@{HOME}")
        self.friend = JID.parse(f"romeo@{FOREIGN}")
        self.said: list[Any] = []

    def options_at(self, side: Side) -> NodeOptions:
        home: Any = side.home
        domains = [ForeignDomain(FOREIGN)]
        return NodeOptions(
            side.presence, side.links, home, IdSource(), lambda: domains, frozenset({HOME}),
            lambda domain: JID.parse(f"federation.{HOME}"),
        )  # fmt: skip

    def adds(self) -> Any:
        """The user puts somebody on his contact list; returns what comes of it."""
        self.said.clear()
        self.options.add_contact(self.user, self.friend, "Romeo").addBoth(self.said.append)
        self.world.run(1.0)
        (found,) = self.said
        return found

    def test_known_everywhere(self) -> None:
        """Every node knows whether rosters can be written, and hears it when that changes."""
        views = [self.options_at(each) for each in self.world.sides.values()]
        self.assertEqual({each.overview(self.user).approves for each in views}, {True})
        self.holder.links.able = False
        self.world.run(2.0)
        self.assertEqual({each.overview(self.user).approves for each in views}, {False})

    def test_add_contact(self) -> None:
        """A contact is added by the node that holds the link, and the user hears of it."""
        self.assertIs(self.adds(), Added.ROSTER)
        deed = ("add", self.user.text, self.friend.text, "Romeo")
        self.assertEqual(self.holder.links.deeds, [deed])
        self.assertEqual(self.side.links.deeds, [])

    def test_refused(self) -> None:
        """What the home server says against it reaches the user."""
        self.holder.links.told = RosterAnswer(RosterOutcome.REFUSED, "the roster is full")
        self.adds().trap(OptionsError)
        self.holder.links.told = unavailable("no module")
        self.assertIs(self.adds(), Added.SUGGESTED)
        self.assertIn("rosterx", self.world.written[-1])

    def test_accept(self) -> None:
        """Who accepts a request at one node is seen by the watcher whom another one serves."""
        self.world.far_sends(
            self.world.owner("alice", "romeo"), "SUBSCRIBE", "alice", "romeo", call_id="w", cseq=1,
            headers=("Event: presence", "Accept: application/pidf+xml", "Expires: 3600"),
        )  # fmt: skip
        self.world.run(1.0)
        (request,) = self.options.overview(self.user).waiting
        self.assertEqual(request.foreign, self.friend)
        self.options.accept(self.user, self.friend).addBoth(self.said.append)
        self.world.run(1.0)
        self.assertEqual(self.said, [None])
        self.assertEqual(self.holder.links.deeds[0][0], "approve")
        self.world.presence("alice", "romeo")
        self.world.run(3.0)
        last = self.world.far.of("NOTIFY")[-1].message
        self.assertTrue((last.get("subscription-state") or "").startswith("active"))
        self.assertIn(b"<basic>open</basic>", last.body)

    def test_decline(self) -> None:
        """Who declines at one node takes it back at his server, too."""
        self.options.decline(self.user, self.friend)
        self.world.run(1.0)
        self.assertEqual(self.holder.links.deeds[0][0], "cancel")

    def test_approved_by_the_list(self) -> None:
        """The owner of a pair has the roster approve somebody on the user's list, from where it is."""
        writer = HomeRosterWriter(self.side.home)  # type: ignore[arg-type]
        self.assertTrue(writer.available(self.user))
        writer.approve(self.user, self.friend).addBoth(self.said.append)
        self.world.run(1.0)
        self.assertEqual(self.said, [True])

    def test_holder_dies(self) -> None:
        """When the holder dies with the question the user is told that nobody knows."""
        self.holder.links.change_roster = lambda *rest: None  # type: ignore[method-assign]
        self.options.add_contact(self.user, self.friend, "").addBoth(self.said.append)
        self.world.run(1.0)
        self.holder.node.kill()
        self.world.run(20.0)
        (found,) = self.said
        self.assertIn("has not answered", str(found.value))

    def test_no_link(self) -> None:
        """While no node holds a link the user is told at once what he can do himself."""
        self.holder.node.kill()
        for side in self.world.sides.values():
            side.links.hold = lambda name: None  # type: ignore[method-assign]
        self.world.run(12.0)
        self.assertFalse(self.options.overview(self.user).approves)
        self.assertIs(self.adds(), Added.BY_HAND)
