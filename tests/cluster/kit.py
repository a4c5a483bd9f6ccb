"""A cluster in one process, on a clock: nodes with a user that keeps what it is given, one model store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import Clock

from impfed.cluster.membership import Sight
from impfed.cluster.ownership import Pair, Placement
from impfed.cluster.service import ClusterService
from impfed.core.ids import IdSource
from impfed.store.api import Put
from impfed.store.memory import MemoryStore
from impfed.store.model import Model
from impfed.store.modellink import ModelLink
from impfed.store.records import OutboundSubscriptionRecord, Record
from impfed.store.shared import SharedStore

Kind = OutboundSubscriptionRecord


def pair(number: int) -> Pair:
    return f"user{number}@company.example", f"friend{number}@lync.example"


class PausableClock(Clock):
    """The clock of one process: while paused nothing in it runs, and at the end everything is due."""

    def __init__(self, common: Clock) -> None:
        super().__init__()
        self._common = common
        self.paused = False
        self.rightNow = common.seconds()

    def follow(self) -> None:
        """Come up to the common time, unless paused."""
        if not self.paused:
            self.advance(self._common.seconds() - self.rightNow)

    def wake(self) -> None:
        """Go on: the time is a later one at once, and what was due is run."""
        self.paused = False
        self.rightNow = self._common.seconds()
        self.advance(0)


class User:
    """Keeps records by pair, as the gateway would; tells what it was told."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.told: list[str] = []
        self.records: dict[str, Kind] = {}
        self.letters: list[tuple[Pair, bytes]] = []
        self.changes: list[tuple[str, Record | None]] = []
        self.holding: list[Deferred[None]] | None = None

    def adopt(self, records: Sequence[Record]) -> None:
        self.told.append(f"adopt {len(records)}")
        for record in records:
            assert isinstance(record, Kind)
            self.records[record.key] = record

    @inlineCallbacks
    def release(self, placement: Placement) -> Any:
        leaving: dict[str, list[str]] = {}
        for key, record in self.records.items():
            owner = placement.owner((record.local, record.foreign))
            if owner not in (self.node.name, ""):
                leaving.setdefault(owner, []).append(key)
        for owner, keys in leaving.items():
            given = yield self.node.service.give(Kind, owner, keys, placement.generation)
            self.told.append(f"give {len(given)} to {owner}")
            for key in keys:
                self.records.pop(key, None)

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")

    def drop(self) -> None:
        self.told.append("drop")
        self.records.clear()

    def lost(self, kind: str, key: str, owner: str) -> None:
        self.told.append(f"lost {key} to {owner}")
        self.records.pop(key, None)

    def rewrite(self) -> None:
        self.told.append("rewrite")
        self.node.store.repeat()
        if self.records:
            self.node.store.write([Put(record) for record in self.records.values()])

    def letter(self, pair: Pair, payload: bytes) -> Deferred[None] | None:
        self.letters.append((pair, payload))
        self.node.cluster.letters.append((pair, payload))
        if self.holding is None:
            return None
        self.holding.append(Deferred())
        return self.holding[-1]

    def undelivered(self, pair: Pair, payload: bytes) -> None:
        self.told.append("undelivered")

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        self.changes.append((key, record))

    def reload(self) -> None:
        self.told.append("reload")


class Node:
    """One node: its own clock, link, store, service and user."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.clock = PausableClock(cluster.clock)
        self.link = ModelLink(cluster.model, self.clock)
        self.store = SharedStore(self.link, MemoryStore(self.clock), self.clock, IdSource())
        self.service = ClusterService(
            self.clock, self.store, name, f"instance of {name}", self, self.clock.seconds,
            lambda: f"info of {name}".encode(),
        )  # fmt: skip
        self.user = User(self)
        self.service.user = self.user
        self.alive = True
        self.reachable = True

    def sights(self, names: Sequence[str]) -> Deferred[list[Sight]]:
        """What the others would answer when asked directly."""
        found = []
        for name in names:
            node = self.cluster.nodes.get(name)
            there = node is not None and node.alive and node.reachable and not node.clock.paused
            sees = node.service.sees_store if there and node is not None else None
            found.append(Sight(name, sees if self.reachable else None))
        return succeed(found)

    def start(self) -> None:
        started: Deferred[Any] = self.store.start()
        started.addCallback(lambda _: self.service.start())
        started.addCallback(lambda _: self.service.load(self.load))
        started.addCallback(self._loaded)
        self.failed: list[Any] = []
        started.addErrback(self.failed.append)

    def load(self) -> Deferred[list[Kind]]:
        """Read what the store has for this node."""
        return self.store.load(Kind)

    def _loaded(self, records: list[Kind]) -> None:
        self.user.records = {record.key: record for record in records}
        self.service.ready()

    def own(self, *numbers: int) -> None:
        """Write records of pairs."""
        for number in numbers:
            record = Kind(*pair(number))
            self.user.records[record.key] = record
            self.store.write([Put(record)])

    def kill(self) -> None:
        """End at once, as by kill -9: nothing in it runs again."""
        self.alive = False
        self.clock.paused = True
        del self.cluster.nodes[self.name]


class Cluster:
    """The nodes and their store."""

    def __init__(self, *names: str) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000.0)
        self.model = Model(self.clock.seconds)
        self.nodes: dict[str, Node] = {}
        self.letters: list[tuple[Pair, bytes]] = []  # that any node has handled, in order
        for name in names:
            self.add(name)

    def add(self, name: str) -> Node:
        node = self.nodes[name] = Node(self, name)
        node.start()
        return node

    def run(self, seconds: float, step: float = 0.05) -> None:
        """Let time pass for every node."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            for node in list(self.nodes.values()):
                node.clock.follow()

    def stored(self) -> dict[str, list[str]]:
        """Return the keys that each node owns, by the store."""
        return {
            owner: sorted(key.decode() for key in rows)
            for (kind, owner), rows in self.model._owned.items()
            if kind == Kind.kind and rows
        }
