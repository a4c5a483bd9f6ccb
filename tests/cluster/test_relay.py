"""The relay in a cluster: each pair's stanzas leave at the pair's node, and come in at the link's holder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.ownership import Enabled, Rendezvous
from impfed.config.model import HomeConfig
from impfed.core.ids import IdSource
from impfed.gateway.cluster_home import ClusterHome
from impfed.gateway.clustered import Clustered
from impfed.store.api import Put
from impfed.store.records import RelayedTextRecord
from impfed.testing.fakes import stanza
from impfed.transport.home import ACCEPTED
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza
from tests.cluster.homelinks import Links
from tests.cluster.kit import Cluster, Node

HOME = HomeConfig("home", "component", ("home.example",))


class Nothing:
    """The SIP half, which has nothing to do here."""

    search = None

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: {}


class Relay:
    """A node's relay, and the texts that wait in it."""

    def __init__(self) -> None:
        self.out: list[Stanza] = []
        self.waiting: dict[str, RelayedTextRecord] = {}
        self.ups = 0
        self.held: list[Any] = []
        self.slow = False

    def takes(self, domain: str) -> bool:
        return domain == "jabber.example"

    def from_home(self, stanza: Stanza) -> None:
        self.out.append(stanza)

    def link_up(self, domains: frozenset[str]) -> None:
        self.ups += 1

    def restore(self, records: list[RelayedTextRecord]) -> None:
        self.waiting.update({record.id: record for record in records})

    def surrender(self, leaves: Any) -> dict[str, list[str]]:
        given: dict[str, list[str]] = {}
        for key, record in list(self.waiting.items()):
            if owner := leaves(record.pair):
                given.setdefault(owner, []).append(key)
                del self.waiting[key]
        return given

    def abandon(self) -> None:
        self.waiting.clear()

    def departed(self, domain: str, call: Any) -> None:
        if self.slow:
            self.held.append(call)
        else:
            call()


class Side:
    """What stands around one node of the kit."""

    def __init__(self, node: Node) -> None:
        self.node = node
        timers = ReactorTimers(node.clock)
        self.links: Any = Links(HOME, [])
        self.home = ClusterHome(self.links, [HOME], timers, IdSource(), 20.0, node.name)
        nothing: Any = Nothing()
        self.clustered = Clustered(
            node.service, self.home, [HOME], nothing, nothing, nothing, timers, node.clock, node.store,
            nothing,
        )  # fmt: skip
        node.service._info = self.clustered.info
        self.relay = Relay()
        self.placed = self.clustered.place(self.relay, self.relay)
        self.links.user = self.clustered

    def write(self, number: int, text: str) -> None:
        """A local user writes to somebody at a domain that is reached over XMPP."""
        self.placed.from_home(
            stanza(
                f"<message from='user{number}@home.example/pc' id='{text}' type='chat'"
                f" to='friend{number}@jabber.example/phone'><body>{text}</body></message>"
            )
        )


class RelayTests(SynchronousTestCase):
    """Three nodes, one of which holds the link."""

    def setUp(self) -> None:
        self.cluster = Cluster("n1", "n2", "n3")
        self.sides = {name: Side(node) for name, node in self.cluster.nodes.items()}
        self.cluster.run(3.0)
        for side in self.sides.values():
            side.clustered.start()
        self.cluster.run(2.0)
        (self.holder,) = [side for side in self.sides.values() if side.links.one.up]
        self.others = [side for side in self.sides.values() if side is not self.holder]

    def owner(self, number: int) -> str:
        pair = (f"user{number}@home.example", f"friend{number}@jabber.example")
        return self.holder.node.service.owner(pair)

    def left(self) -> dict[str, list[str]]:
        """Return what left at each node."""
        return {name: [each.id for each in side.relay.out] for name, side in self.sides.items()}

    def test_outbound(self) -> None:
        """Whoever holds the link, each pair's stanzas leave at the pair's own node, in order."""
        for turn in range(5):
            for number in range(60):
                self.holder.write(number, f"{number} {turn}")
        self.cluster.run(2.0)
        left = self.left()
        self.assertEqual(sum(map(len, left.values())), 300)
        for name, ids in left.items():
            self.assertGreater(len(ids), 50)
            last: dict[str, int] = {}
            for id in ids:
                number, _, turn = id.partition(" ")
                self.assertEqual(self.owner(int(number)), name)
                self.assertEqual(int(turn), last.get(number, -1) + 1)
                last[number] = int(turn)

    def test_share_of_the_dead(self) -> None:
        """What a dead node had not sent leaves at the others, and its share goes there from then on."""
        dead = self.others[0]
        dead.node.kill()
        for number in range(60):
            self.holder.write(number, str(number))
        self.cluster.run(8.0)
        moved = Counter(
            each.id for side in self.sides.values() if side is not dead for each in side.relay.out
        )
        self.assertEqual(sorted(moved, key=int), [str(number) for number in range(60)])
        self.assertEqual(set(moved.values()), {1})
        self.assertEqual(dead.relay.out, [])

    def test_nobody_enabled(self) -> None:
        """When no node lives that is enabled for XMPP who has written is told, and so is who writes later."""
        name = next(name for name in self.sides if name != self.holder.node.name)
        some = Enabled(frozenset({name}), lambda pair: pair[1].endswith("@jabber.example"))
        for side in self.sides.values():
            side.node.service.placement = replace(
                side.node.service.placement, now=Rendezvous(self.sides, some), enabled=some
            )
        self.holder.write(1, "before")
        self.cluster.run(1.0)
        self.assertEqual([each.id for each in self.sides[name].relay.out], ["before"])
        self.sides[name].node.kill()
        self.holder.write(1, "meanwhile")
        self.cluster.run(8.0)
        self.holder.write(1, "after")
        told = self.holder.links.written
        for text in ("meanwhile", "after"):
            (error,) = [xml for xml in told if f"<body>{text}</body>" in xml]
            self.assertIn("<remote-server-timeout", error)

    def test_until_it_is_safe(self) -> None:
        """A stanza stays in the mailbox until its message is the foreign server's, or in the store."""
        for side in self.others:
            side.relay.slow = True
        numbers = [number for number in range(60) if self.owner(number) == self.others[0].node.name]
        self.holder.write(numbers[0], "a")
        self.cluster.run(1.0)
        self.assertEqual(len(self.others[0].relay.out), 1)
        self.others[0].node.kill()
        for side in self.others:
            side.relay.slow = False
        self.cluster.run(8.0)
        again = [side for side in (self.holder, self.others[1]) if side.relay.out]
        self.assertEqual([each.relay.out[0].id for each in again], ["a"])

    def test_not_listening_yet(self) -> None:
        """A node that has joined and does not listen yet is passed nothing by another node."""
        late = Side(self.cluster.add("n4"))
        self.cluster.run(2.0)
        pairs = [
            (JID.parse(f"user{number}@home.example"), JID.parse(f"friend{number}@jabber.example"))
            for number in range(60)
            if self.owner(number) == "n4"
        ]
        self.assertTrue(pairs)
        self.assertEqual({self.holder.clustered.elsewhere(*pair) for pair in pairs}, {""})
        late.clustered.start()
        self.cluster.run(2.0)
        self.assertEqual({self.holder.clustered.elsewhere(*pair) for pair in pairs}, {"n4"})

    def test_inbound(self) -> None:
        """What a foreign server sends to any node reaches the home server, and its fate the node."""
        told: list[Any] = []
        local, foreign = JID.parse("alice@home.example"), JID.parse("romeo@jabber.example")
        for side in self.sides.values():
            self.assertEqual(side.relay.ups, 1)
            name = side.node.name
            link = side.home.link("home.example", "jabber.example")
            assert link is not None
            self.assertTrue(link.up)
            link.pass_on(OutStanza("presence", local, foreign, "", f"<presence id='{name}'/>"))
            message = OutStanza("message", local, foreign, "m1", f"<message id='{name}'/>")
            side.home.deliver(message, told.append)
        self.cluster.run(1.0)
        names = sorted(self.sides)
        written = sorted(self.holder.links.written)
        self.assertEqual(
            written,
            [f"<{kind} id='{name}'/>" for kind in ("message", "presence") for name in names],
        )
        self.assertEqual([each.outcome for each in told], [ACCEPTED.outcome] * 3)

    def test_order_across_death(self) -> None:
        """What waits in a dead holder's mailbox comes to the home server before what is written later."""
        alice, romeo = JID.parse("alice@home.example"), JID.parse("romeo@jabber.example")
        self.holder.node.kill()
        for side in self.others:
            side.node.link.delay = 0.2  # so that the link is up before the mailbox has been read
        for number in range(200):
            for side in self.others:
                id = f"{side.node.name} {number}"
                side.home.deliver(OutStanza("message", alice, romeo, id, id), lambda _: None)
                self.cluster.run(0.02, 0.01)
        self.cluster.run(2.0)
        (written,) = [side.links.written for side in self.others if side.links.written]
        for side in self.others:
            name = side.node.name
            came = [text for text in written if text.startswith(name)]
            self.assertEqual(came, [f"{name} {number}" for number in range(200)])

    def test_waiting_texts_move(self) -> None:
        """Texts that wait for a stream go with their pairs: when a node drains, and when it dies."""
        texts = {}
        for number in range(30):
            record = RelayedTextRecord(
                str(number), f"user{number}@home.example/pc", f"friend{number}@jabber.example", "", "", 0.0
            )  # fmt: skip
            side = self.sides[self.owner(number)]
            side.relay.waiting[record.id] = texts[record.id] = record
            side.node.store.write([Put(record)])
        self.cluster.run(1.0)
        self.others[0].node.service.drain()
        self.cluster.run(3.0)
        self.assertEqual(self.others[0].relay.waiting, {})
        self.others[1].node.kill()
        self.cluster.run(7.0)
        self.assertEqual(sorted(self.holder.relay.waiting), sorted(texts))
