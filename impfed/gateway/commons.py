"""The records that belong to all nodes of a cluster: all have them in memory, and hear of every change."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.core.log import EventLog
from impfed.gateway.rewriting import write_all
from impfed.store.api import Put
from impfed.store.records import Record
from impfed.store.shared import SharedStore

log = EventLog("impfed.cluster")


class Keeper(Protocol):
    """Has common records of some kinds in memory.

    :ivar kinds: which.
    """

    @property
    def kinds(self) -> tuple[type[Record], ...]:
        """Which kinds it keeps."""
        ...

    def records(self, kind: type[Record]) -> Iterable[Record]:
        """Return what it has of one of its kinds."""
        ...

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        """Another node has changed a record; None: it is gone."""
        ...


class Commons:
    """All that keep such records on this node."""

    def __init__(self, store: SharedStore, keepers: Sequence[Keeper]) -> None:
        self._store = store
        self._keepers = {kind: keeper for keeper in keepers for kind in keeper.kinds}

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        """Another node has changed a record; None: it is gone."""
        keeper = self._keepers.get(kind)
        if keeper is not None:
            keeper.changed(kind, key, record)

    @inlineCallbacks
    def reload(self) -> Generator[Deferred[Any], Any, None]:
        """Changes of other nodes may have been missed: take in what is different in the store."""
        for kind, keeper in self._keepers.items():
            stored = yield self._store.load(kind)
            mine = {record.key: record for record in keeper.records(kind)}
            for record in stored:
                if mine.pop(record.key, None) != record:
                    keeper.changed(kind, record.key, record)
            for key in mine:
                if not self._store.changed_here(kind, key):
                    keeper.changed(kind, key, None)

    @inlineCallbacks
    def fill(self) -> Generator[Deferred[Any], Any, None]:
        """The store has lost records that nobody has changed lately: put in what it lacks."""
        for kind, keeper in self._keepers.items():
            counts = yield self._store.counts(kind)
            mine = {record.key: record for record in keeper.records(kind)}
            if counts.get("=", 0) >= len(mine):
                continue
            for record in (yield self._store.load(kind)):
                mine.pop(record.key, None)
            log.warn(
                "common_restored",
                "the store has lost {count} {kind} records; this node puts them in again",
                count=len(mine),
                kind=kind.kind,
            )
            yield write_all(self._store, [Put(record) for record in mine.values()])
