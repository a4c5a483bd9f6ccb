"""What an operator asks one node is answered by all: where a message is, that a user is gone, limits."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster_view import ClusterView
from impfed.ctl.api import Whereabouts
from impfed.gateway.people import Done, People
from impfed.gateway.presence_moves import PairsElsewhere
from impfed.xmpp.jid import JID
from tests.cluster.gateways import FOREIGN, HOME, Side, World

NAMES = ("n1", "n2", "n3")
ALICE = JID.parse(f"alice@{HOME}")


class Room:
    """A node with what its operator sees."""

    def __init__(self, world: World, side: Side) -> None:
        name = side.node.name
        self.side = side
        self.people = People(side.im, side.presence, side.node.store, frozenset({HOME}))
        self.people.subscribe = side.clustered.subscribe
        others = [other for other in NAMES if other != name]
        self.view = ClusterView(side.questions, lambda: others, self._where, self.people)
        elsewhere = PairsElsewhere(side.presence, lambda domain: domain == FOREIGN)
        side.presence.watched.elsewhere = elsewhere.watchers
        side.presence.watching.elsewhere = elsewhere.contacts

    def _where(self, text: str) -> Deferred[Whereabouts]:
        return self.side.node.store.ledger(address=text).addCallback(Whereabouts)


class ViewTests(SynchronousTestCase):
    """Alice has a friend at each of three nodes, who sees her, whom she sees, and to whom she has written."""

    def setUp(self) -> None:
        self.world = World(*NAMES)
        self.rooms = {name: Room(self.world, side) for name, side in self.world.sides.items()}
        numbers = range(1000)
        self.friends = {
            name: next(
                f"friend{number}"
                for number in numbers
                if self.world.owner("alice", f"friend{number}") == name
            )
            for name in NAMES
        }
        for name, friend in self.friends.items():
            self.world.far_watches(name, "alice", friend, call_id=f"w-{name}")
            self.world.presence("alice", friend, "subscribe")
            self.world.writes("alice", friend, f"hello {name}")
        self.world.run(2.0)
        for sent in self.world.far.of("SUBSCRIBE"):
            self.world.far_notifies(sent)
        self.world.run(2.0)
        self.world.far.sent.clear()

    def where(self, name: str) -> Whereabouts:
        asked = self.rooms[name].view.where(ALICE.text)
        self.world.run(4.0)
        found: Whereabouts = self.successResultOf(asked)
        return found

    def gone(self, name: str, new: str = "") -> Done:
        people = self.rooms[name].people
        asked = people.rename(ALICE, JID.parse(new)) if new else people.remove(ALICE)
        self.world.run(4.0)
        done: Done = self.successResultOf(asked)
        return done

    def test_where(self) -> None:
        """A message is found whichever node has handled it, and whichever is asked."""
        for name in NAMES:
            found = self.where(name)
            self.assertEqual(
                sorted((each.node, each.foreign.partition("@")[0]) for each in found.found),
                sorted(self.friends.items()),
            )
            self.assertEqual(found.silent, ())

    def test_where_a_node_is_away(self) -> None:
        """What the others know is told, and who did not answer."""
        self.world.sides["n3"].node.kill()
        found = self.where("n1")
        self.assertEqual(sorted(each.node for each in found.found), ["n1", "n2"])
        self.assertEqual(found.silent, ("n3",))

    def test_counted_everywhere(self) -> None:
        """Every node knows how many people a user watches, and how many watch him."""
        for side in self.world.sides.values():
            presence = side.presence
            self.assertEqual(presence.watched.watchers(ALICE), 3)
            self.assertEqual(presence.watching.contacts(ALICE), 3)

    def test_removed(self) -> None:
        """A user who is removed at one node is gone at all, with what each had of him."""
        done = self.gone("n2")
        counted = (done.watchers, done.contacts, done.sessions, done.ledger, done.silent)
        self.assertEqual(counted, (3, 3, 3, 3, ()))
        ends = [
            (each.node, each.message.get("subscription-state") or each.message.get("expires"))
            for each in self.world.far.sent
            if each.message.method in ("NOTIFY", "SUBSCRIBE")
        ]
        over = "terminated;reason=noresource"
        self.assertEqual(sorted(ends), sorted([(n, w) for n in NAMES for w in ("0", over)]))
        for name in NAMES:
            self.assertEqual(self.where(name).found, [])
            self.assertEqual(self.rooms[name].side.presence.authorizations.of(ALICE), [])
        asked = [xml for xml in self.world.written if "type='subscribe'" in xml]
        self.assertEqual(len(asked), 3)  # those of the beginning: nobody is asked again

    def test_renamed(self) -> None:
        """Contacts are subscribed to anew, each by the node of the new pair; the ledger moves."""
        new = f"alicia@{HOME}"
        done = self.gone("n1", new)
        self.assertEqual((done.contacts, done.ledger, done.silent), (3, 3, ()))
        begun: dict[str, str] = {
            each.people[1]: each.node
            for each in self.world.far.of("SUBSCRIBE")
            if each.message.get("expires") != "0"
        }
        expected = {friend: self.world.owner("alicia", friend) for friend in self.friends.values()}
        self.assertEqual(begun, expected)
        kept: Any = self.rooms["n3"].side.presence.authorizations.of(JID.parse(new))
        self.assertEqual({each.inbound for each in kept}, {"approved"})

    def test_removed_while_a_node_is_away(self) -> None:
        """Who did not answer is named, and what he had can be ended later by the same command."""
        self.world.sides["n3"].node.clock.paused = True
        done = self.gone("n1")
        self.assertEqual((done.watchers, done.silent), (2, ("n3",)))
