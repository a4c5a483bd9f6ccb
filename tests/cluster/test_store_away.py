"""The store is away for all nodes: what goes on, and what is refused at once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.mailbox import WAITING_LIMIT
from impfed.cluster.membership import Standing
from tests.cluster.gateways import HOME, World
from tests.gateway.harness import SDP

TEXT = ("Content-Type: text/plain; charset=UTF-8",)


class StoreAwayTests(SynchronousTestCase):
    """Two nodes hold what they own; each has a session with a foreign user."""

    def setUp(self) -> None:
        self.world = World("n1", "n2")
        self.holder = self.world.holder.node.name
        self.other = next(name for name in self.world.sides if name != self.holder)
        self.tags = {name: self.opens(name) for name in (self.holder, self.other)}
        self.cut()
        for side in self.world.sides.values():
            self.assertIs(side.node.service.standing, Standing.HOLDING)

    def opens(self, node: str) -> str:
        """A foreign user opens a session with a pair's node; returns our tag."""
        self.world.far_sends(
            node, "INVITE", *self.world.pairs_of(node, 1)[0], call_id=node, cseq=1, body=SDP,
            headers=("Content-Type: application/sdp",),
        )  # fmt: skip
        self.world.run(0.5)
        return self.world.far.answers[-1].message.to_tag

    def far_writes(self, node: str, text: str) -> tuple[int, str]:
        """The foreign user writes; returns what he is told at once, and when to try again."""
        self.world.far.answers.clear()
        self.world.far_sends(
            node, "MESSAGE", *self.world.pairs_of(node, 1)[0], call_id=node, cseq=2,
            tag=self.tags[node], body=text, headers=TEXT,
        )  # fmt: skip
        self.world.run(0.5)
        (answer,) = self.world.far.answers
        return answer.status, answer.message.get("retry-after") or ""

    def shown(self, text: str) -> int:
        return sum(f"<body>{text}</body>" in xml for xml in self.world.written)

    def test_where_the_link_is(self) -> None:
        """A text from outside that needs nothing kept goes on."""
        self.assertEqual(self.far_writes(self.holder, "one"), (200, ""))
        self.assertEqual(self.shown("one"), 1)

    def test_elsewhere(self) -> None:
        """One that another node would have to bring is refused at once, and does not come later after all."""
        status, again = self.far_writes(self.other, "two")
        self.assertEqual(status, 480)
        self.assertGreater(int(again), 0)
        self.heal()
        self.assertEqual(self.shown("two"), 0)
        self.assertEqual(self.far_writes_again(), 200)

    def far_writes_again(self) -> int:
        self.world.far.answers.clear()
        self.world.far_sends(
            self.other, "MESSAGE", *self.world.pairs_of(self.other, 1)[0], call_id=self.other, cseq=3,
            tag=self.tags[self.other], body="two", headers=TEXT,
        )  # fmt: skip
        self.world.run(2.0)
        return self.world.far.answers[-1].status

    def cut(self) -> None:
        """No node reaches the store."""
        for side in self.world.sides.values():
            side.node.link.cut()
        self.world.run(6.0)

    def heal(self) -> None:
        """The store is back."""
        for side in self.world.sides.values():
            side.node.link.heal()
        self.world.run(6.0)

    def test_from_inside(self) -> None:
        """A text from inside comes back at once, whichever node its pair belongs to; the next one goes."""
        for node in (self.holder, self.other):
            local, foreign = self.world.pairs_of(node, 1)[0]
            self.world.written.clear()
            self.world.writes(local, foreign, f"to {node}")
            self.world.run(0.5)
            (refusal,) = self.world.written
            self.assertIn("resource-constraint", refusal)
            self.assertIn(f"{local}@{HOME}/pc", refusal)
        self.heal()
        self.assertEqual(self.world.far.texts, {})
        for node in (self.holder, self.other):
            self.world.writes(*self.world.pairs_of(node, 1)[0], f"again to {node}")
        self.world.run(3.0)
        self.assertEqual(len(self.world.far.texts), 2)

    def test_much_presence(self) -> None:
        """What comes from inside for another node is not dropped for want of room: it is read later."""
        holder, (local, foreign) = (
            self.world.sides[self.holder],
            self.world.pairs_of(self.other, 1)[0],
        )
        self.heal()
        self.world.far_watches(self.other, local, foreign, "watches")
        self.world.run(1.0)
        self.cut()
        read = 0
        while not holder.links.paused:
            self.world.presence(local, foreign, show="away")
            read += 1
        self.assertLess(read, WAITING_LIMIT)
        self.world.presence(local, foreign, show="dnd")
        self.heal()
        self.assertFalse(holder.links.paused)
        self.assertIn(b"busy", self.world.far.of("NOTIFY")[-1].message.body)

    def test_cut_off_alone(self) -> None:
        """A node that alone has lost the store sends nothing late that others have overtaken."""
        self.heal()
        holder = self.world.sides[self.holder]
        pair = self.world.pairs_of(self.other, 1)[0]
        holder.node.link.cut()
        self.world.run(2.2)
        self.world.written.clear()
        self.world.writes(*pair, "early")
        self.world.run(0.2)
        self.assertIn("resource-constraint", self.world.written[-1])
        self.world.run(12.0)
        holder.node.link.heal()
        self.world.run(8.0)
        self.assertNotIn("early", str(self.world.far.texts))


class UnansweredTests(SynchronousTestCase):
    """The store does what it is asked, and its answers do not come."""

    def test_refused_for_good(self) -> None:
        """A text that was refused because nobody knew whether it is kept is not sent by another node later."""
        world = World("n1", "n2")
        holder = world.holder
        (pair,) = world.pairs_of(holder.node.name, 1)
        holder.node.link.afterwards = lambda operation: operation == "write"
        world.writes(*pair, "early")
        world.run(8.0)
        self.assertIn("resource-constraint", world.written[-1])
        holder.node.link.afterwards = lambda operation: False
        world.run(8.0)
        holder.node.kill()
        world.run(10.0)
        self.assertEqual(world.far.texts, {})
