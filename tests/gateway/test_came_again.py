"""Texts that a home server hands over once more, for it has not heard that we have them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.store.api import StoreError, StoreFault
from impfed.store.records import OutboxRecord
from impfed.testing.fakes import stanza
from tests.gateway.harness import World


class CameAgainTests(SynchronousTestCase):
    """Alice writes once, and her server sends it more than once."""

    def setUp(self) -> None:
        self.world = World()

    def hand(self, world: World, text: str, mark: str, id: str = "m1") -> None:
        arrived = stanza(
            "<message from='alice@home.example/phone' to='romeo@lync.example' type='chat'"
            f" id='{id}'><body>{text}</body></message>"
        )
        arrived.handed = mark
        world.gateway.stanza_arrived(arrived, None)

    def outbox(self) -> list[OutboxRecord]:
        found: list[OutboxRecord] = []
        self.world.store.load(OutboxRecord).addCallback(found.extend)
        return found

    def test_once(self) -> None:
        """It goes out once: while it is on its way, and after it was delivered."""
        world = self.world
        self.hand(world, "x", "Q:1")
        self.hand(world, "x", "Q:1")
        world.stack.take("INVITE").accept()
        world.stack.take("MESSAGE").answer(200)
        self.hand(world, "x", "Q:1")
        self.assertEqual((world.stack.sent, self.outbox()), ([], []))
        self.assertEqual(len(world.ledger()), 1)

    def test_the_same_words_again(self) -> None:
        """What a user has really written twice goes twice, whatever ids his client gives."""
        world = self.world
        self.hand(world, "x", "Q:1", id="")
        self.hand(world, "x", "Q:2", id="")
        self.hand(world, "x", "", id="")
        self.hand(world, "x", "", id="")
        self.assertEqual(len(self.outbox()), 4)

    def test_after_a_kill(self) -> None:
        """The next process knows it by its record, and sends it once."""
        self.hand(self.world, "x", "Q:1")
        heir = World(store=self.world.store)
        heir.im.restore(self.outbox(), [])
        self.hand(heir, "x", "Q:1")
        self.assertEqual(len(self.outbox()), 1)
        heir.stack.take("INVITE").accept()
        heir.stack.take("MESSAGE").answer(200)
        self.assertEqual(heir.stack.sent, [])

    def test_before_the_record(self) -> None:
        """Where its record comes after it, from a node that died, it goes once and leaves none."""
        world = self.world
        self.hand(world, "x", "Q:1")
        (mine,) = self.outbox()
        dead = replace_id(mine, "0")
        world.im.restore([dead], [])
        world.im.restore([mine], [])
        world.stack.take("INVITE").accept()
        world.stack.take("MESSAGE").answer(200)
        self.assertEqual((world.stack.sent, self.outbox()), ([], []))

    def test_not_taken_over(self) -> None:
        """What could not be written down was refused: it is taken anew when it comes again."""
        world = self.world
        world.store.failing = StoreError(StoreFault.FULL, "disk full")
        self.hand(world, "x", "Q:1")
        self.assertIn("<resource-constraint", world.home.sent[0].xml)
        world.store.failing = None
        self.hand(world, "x", "Q:1")
        world.stack.take("INVITE")

    def test_not_taken_over_and_forgotten(self) -> None:
        """Also where the node had lost its rights, and forgotten what it had, before that was known."""
        world = self.world
        world.store.held = True
        world.store.failing = StoreError(StoreFault.FULL, "its rights are gone")
        self.hand(world, "x", "Q:1")
        (record,) = world.im.outbox.waiting()
        world.im.outbox.forget(record.id)
        world.store.failing = None
        world.store.release()
        self.hand(world, "x", "Q:1")
        world.stack.take("INVITE")


def replace_id(record: OutboxRecord, id: str) -> OutboxRecord:
    """Return the record of the same text on another node."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return OutboxRecord(**{**fields, "id": id})
