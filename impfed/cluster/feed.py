"""What other nodes change of the records that belong to all, on its way to this node's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import inlineCallbacks, maybeDeferred

from impfed.cluster.api import ClusterUser
from impfed.core.log import EventLog
from impfed.store.api import StoreError
from impfed.store.records import KINDS
from impfed.store.shared import SharedStore

_log = EventLog("impfed.cluster")


class Feed:
    """Fetches what has changed, and gives it to the user.

    :param user: returns who keeps such records in memory.
    """

    def __init__(self, store: SharedStore, user: Callable[[], ClusterUser]) -> None:
        self._store = store
        self._user = user
        self._number = 0
        self._missed = False

    @inlineCallbacks
    def arrived(self, entries: list[dict[str, bytes]]) -> Any:
        """Take entries of the feed; one that is missing between them means to load everything."""
        missed, self._missed = self._missed, False
        wanted: dict[str, set[str]] = {}
        for fields in entries:
            number = int(fields["n"])
            # A lower number is that of a store that was emptied, and is being filled from memory.
            missed = missed or number > self._number + 1 > 1
            self._number = number
            if fields["writer"].decode() != self._store.writer:
                wanted.setdefault(fields["kind"].decode(), set()).add(fields["key"].decode())
        try:
            if missed:
                yield maybeDeferred(self._user().reload)
                return
            for name, keys in wanted.items():
                if (kind := KINDS.get(name)) is not None:  # else of a newer release
                    self._store.superseded(kind, keys)
                    found = yield self._store.get(kind, sorted(keys))
                    for key in sorted(keys):
                        self._user().changed(kind, key, found.get(key))
        except StoreError as error:
            self._missed = True  # everything is loaded when the next change comes
            _log.warn("changes_missed", "cannot take in others' changes: {why}", why=error.text)
        except Exception:
            _log.failure("common_changes", "taking in the others' changes raised")
