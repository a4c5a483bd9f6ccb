"""The shared store on the model of a server, where every fault can be had at will."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from impfed.core.ids import IdSource
from impfed.store.api import Put, StoreError, StoreFault, StoreState
from impfed.store.batches import PATIENCE
from impfed.store.memory import MemoryStore
from impfed.store.model import Model
from impfed.store.modellink import ModelLink
from impfed.store.records import OutboxRecord
from impfed.store.shared import SharedStore
from tests.store.contract import StoreContract
from tests.store.shared_contract import SharedContract, text


class ModelStoreContractTests(StoreContract, TestCase):
    def make_store(self) -> SharedStore:
        clock: Any = reactor
        return SharedStore(ModelLink(Model(clock.seconds)), MemoryStore(clock), clock, IdSource())


class ModelSharedContractTests(SharedContract, TestCase):
    def setUp(self) -> None:
        clock: Any = reactor
        self.model = Model(clock.seconds)

    def make_shared(self) -> SharedStore:
        clock: Any = reactor
        return SharedStore(ModelLink(self.model, clock), MemoryStore(clock), clock, IdSource())

    def age(self, node: str, seconds: float) -> None:
        self.model._nodes[node].beat -= round(seconds * 1000)

    def empty(self) -> None:
        self.model.empty()

    def away(self, seconds: float) -> None:
        self.model._heard -= round(seconds * 1000)
        for node in ("n1", "n2"):
            self.age(node, seconds)


class LostAnswerTests(SynchronousTestCase):
    """Time-outs before and after the server has done what it was asked; on a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.model = Model(self.clock.seconds)
        self.link = ModelLink(self.model, self.clock)
        self.store = SharedStore(self.link, MemoryStore(self.clock), self.clock, IdSource())
        self.store.start()
        self.outcomes: list[StoreFault | None] = []
        self.writes = 0

    def write(self, id: str, body: str = "x") -> None:
        def done(error: BaseException | None) -> None:
            self.outcomes.append(error.fault if isinstance(error, StoreError) else None)

        self.store.write([Put(text(id, body))], done)

    def run_clock(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds / 0.05))

    def lose(self, count: int, before: bool) -> None:
        left = iter([True] * count)

        def losing(operation: str) -> bool:
            self.writes += operation == "write"
            return operation == "write" and next(left, False)

        setattr(self.link, "before" if before else "afterwards", losing)

    def bodies(self) -> dict[str, str]:
        loaded = self.store.load(OutboxRecord)
        self.run_clock(1.0)
        return {record.id: record.body for record in self.successResultOf(loaded)}

    def test_lost_on_the_way(self) -> None:
        """A write that never arrived is sent again, and confirmed."""
        self.lose(2, before=True)
        self.write("a")
        self.run_clock(4.9)
        self.assertEqual((self.outcomes, self.bodies(), self.writes), ([None], {"a": "x"}, 3))

    def test_lost_on_the_way_back(self) -> None:
        """A write whose answer was lost is confirmed without being made again over another's."""
        self.lose(1, before=False)
        self.write("a", "first")
        self.run_clock(0.5)
        self.write("a", "second")
        self.run_clock(4.0)
        self.assertEqual((self.outcomes, self.bodies()), ([None, None], {"a": "second"}))

    def test_unsure(self) -> None:
        """A write without any answer in time is unsure, whether it was made or not."""
        for before in (True, False):
            self.outcomes.clear()
            self.lose(0, not before)
            self.lose(99, before)
            self.write("a" if before else "b")
            self.run_clock(PATIENCE + 0.1)
            self.assertEqual(self.outcomes, [StoreFault.UNSURE])
        self.lose(0, before=False)
        self.lose(0, before=True)
        self.assertEqual(self.bodies(), {"b": "x"})

    def test_old_epoch_of_several(self) -> None:
        """The end of one write is that of those behind it, which needed nothing but their turn."""
        self.link.cut()
        self.write("a")
        self.clock.advance(0.1)
        ended: list[BaseException | None] = []
        self.store.write([], ended.append)
        self.clock.advance(0.1)
        self.store.act_as("n1", 5)
        self.assertEqual((self.outcomes, ended), ([StoreFault.FENCED], [None]))

    def test_old_epoch(self) -> None:
        """What waits when the node joins anew is fenced: it was decided with rights that are gone."""
        self.link.cut()
        self.write("a")
        self.clock.advance(0)
        self.store.act_as("n1", 5)
        self.assertEqual(self.outcomes, [StoreFault.FENCED])

    def test_gone(self) -> None:
        """A second without connection, and the store is gone; a flicker is not told."""
        states: list[StoreState] = []
        self.store.observe(states.append)
        self.link.cut()
        self.run_clock(0.5)
        self.link.heal()
        self.run_clock(2.0)
        self.assertEqual(states, [])
        self.link.cut()
        self.run_clock(1.1)
        self.write("a")
        self.clock.advance(0)
        self.assertEqual((states, self.outcomes), ([StoreState.GONE], [StoreFault.UNAVAILABLE]))
        self.link.heal()
        self.assertEqual(states[1:], [StoreState.UP])
