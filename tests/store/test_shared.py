"""The shared store on the model of a server, where every fault can be had at will."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from impfed.core.ids import IdSource
from impfed.store.memory import MemoryStore
from impfed.store.model import Model
from impfed.store.modellink import ModelLink
from impfed.store.shared import SharedStore
from tests.store.contract import StoreContract
from tests.store.shared_contract import SharedContract


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
