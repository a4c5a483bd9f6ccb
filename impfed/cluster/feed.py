"""What other nodes change of the records that belong to all, on its way to this node's memory."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred

from impfed.cluster.api import ClusterUser
from impfed.core.log import EventLog
from impfed.store.api import StoreError
from impfed.store.records import KINDS
from impfed.store.shared import SharedStore

_log = EventLog("impfed.cluster")


class Feed:
    """Fetches what has changed, and gives it to the user; what cannot be fetched now is fetched later.

    :param user: returns who keeps such records in memory.
    :param later: has something called after a while.
    """

    def __init__(
        self,
        store: SharedStore,
        user: Callable[[], ClusterUser],
        later: Callable[[Callable[[], object]], object],
    ) -> None:
        self._store = store
        self._user = user
        self._later = later
        self._number = 0
        self._wanted: dict[str, set[str]] = {}  # keys by kind
        self._missed = self._running = self._late = False

    def arrived(self, entries: list[dict[str, bytes]]) -> None:
        """Take entries of the feed; one that is missing between them means to load everything."""
        for fields in entries:
            number = int(fields["n"])
            # A lower number is that of a store that was emptied, and is being filled from memory.
            self._missed = self._missed or number > self._number + 1 > 1
            self._number = number
            name = fields["kind"].decode()
            if fields["writer"].decode() != self._store.writer and name in KINDS:
                self._wanted.setdefault(name, set()).add(fields["key"].decode())
        self._take_in()

    def _take_in(self) -> None:
        if not self._running:
            self._running = True
            self._fetch().addErrback(
                lambda failure: _log.failure(
                    "common_changes", "taking in the others' changes raised", failure
                )
            )

    @inlineCallbacks
    def _fetch(self) -> Generator[Deferred[Any], Any, None]:
        try:
            while self._missed or self._wanted:
                if self._missed:
                    yield from self._reload()
                else:
                    yield from self._fetch_kind(next(iter(self._wanted)))
            self._late = False
        except StoreError as error:
            if not self._late:
                _log.warn("changes_late", "the others' changes come later: {why}", why=error.text)
            self._late = True
            self._later(self._take_in)
        finally:
            self._running = False

    def _reload(self) -> Generator[Deferred[Any], Any, None]:
        self._missed = False
        self._wanted.clear()  # what comes from now on may be newer than what is loaded
        try:
            yield maybeDeferred(self._user().reload)
        except StoreError:
            self._missed = True
            raise

    def _fetch_kind(self, name: str) -> Generator[Deferred[Any], Any, None]:
        kind, keys = KINDS[name], sorted(self._wanted.pop(name))  # one may change again meanwhile
        self._store.superseded(kind, keys)
        try:
            found = yield self._store.get(kind, keys)
        except StoreError:
            self._wanted.setdefault(name, set()).update(keys)
            raise
        for key in keys:
            self._user().changed(kind, key, found.get(key))
