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


class ModelStoreContractTests(StoreContract, TestCase):
    def make_store(self) -> SharedStore:
        clock: Any = reactor
        return SharedStore(ModelLink(Model(clock.seconds)), MemoryStore(clock), clock, IdSource())
