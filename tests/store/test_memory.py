"""The model in memory keeps the contract, and lets tests hold and fail writes."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from impfed.store.api import Delete, StoreError, StoreFault
from impfed.store.memory import MemoryStore
from impfed.store.records import OutboxRecord
from tests.store.contract import StoreContract


class MemoryStoreContractTests(StoreContract, TestCase):
    def make_store(self) -> MemoryStore:
        return MemoryStore()


class MemoryStoreDoubleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.confirmed: list[BaseException | None] = []

    def test_with_a_clock_confirmation_is_a_turn_later(self) -> None:
        """With a clock nothing is confirmed before write has returned."""
        clock = Clock()
        store = MemoryStore(clock)
        store.start()
        store.write([Delete(OutboxRecord, "0")], self.confirmed.append)
        self.assertEqual((self.confirmed, store.backlog), ([], 1))
        clock.advance(0)
        self.assertEqual((self.confirmed, store.backlog), ([None], 0))

    def test_hold_and_release(self) -> None:
        """Held writes are confirmed at the release."""
        store = MemoryStore()
        store.start()
        store.held = True
        store.write([Delete(OutboxRecord, "0")], self.confirmed.append)
        self.assertEqual((self.confirmed, store.backlog), ([], 1))
        store.release()
        self.assertEqual(self.confirmed, [None])

    def test_failing(self) -> None:
        """A store told to fail refuses writes with the error it was given."""
        store = MemoryStore()
        store.start()
        store.failing = StoreError(StoreFault.FULL, "the disk is full")
        store.write([Delete(OutboxRecord, "0")], self.confirmed.append)
        self.assertEqual(self.confirmed, [store.failing])
