"""The store on a real Redis: the contract, and what only a server has."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from impfed.config.store import StoreConfig
from impfed.core.ids import IdSource
from impfed.store.redislink import RedisLink
from impfed.store.shared import SharedStore
from impfed.store.sqlite import SqliteStore
from tests.store.contract import StoreContract
from tests.store.redis_server import RedisServer, common_server
from tests.store.shared_contract import SharedContract

_numbers = count(1)


def new_prefix() -> str:
    return f"t{next(_numbers)}"


def make_store(
    case: TestCase, server: RedisServer, prefix: str = "", **changes: Any
) -> SharedStore:
    """Return a store that is not started."""
    values = {"kind": "redis", "socket": server.socket, "prefix": prefix or new_prefix()}
    link = RedisLink(reactor, StoreConfig(**{**values, **changes}))
    clock: Any = reactor
    ledger = SqliteStore(Path(case.mktemp()) / "impfed.sqlite", clock)
    return SharedStore(link, ledger, clock, IdSource())


class RedisStoreContractTests(StoreContract, TestCase):
    def make_store(self) -> SharedStore:
        return make_store(self, common_server())


class RedisSharedContractTests(SharedContract, TestCase):
    def setUp(self) -> None:
        self.server = common_server()
        self.prefix = new_prefix()

    def make_shared(self) -> SharedStore:
        return make_store(self, self.server, self.prefix)

    def age(self, node: str, seconds: float) -> None:
        by = str(-round(seconds * 1000))
        self.server.command("HINCRBY", f"{self.prefix}:node:{node}", "beat", by)

    def empty(self) -> None:
        self.server.command("FLUSHALL")

    def away(self, seconds: float) -> None:
        by = str(-round(seconds * 1000))
        self.server.command("HINCRBY", f"{self.prefix}:meta", "heard", by)
        for node in ("n1", "n2"):
            self.age(node, seconds)
