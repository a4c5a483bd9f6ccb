"""What one node has changed lately of the records that belong to all, for a store that loses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from impfed.core.log import EventLog
from impfed.store.encoding import readable
from impfed.store.link import Argument

#: Seconds for which a change that the store has confirmed may still be lost by it (a replica that lags
#: and becomes the master, a file that ends too early).
KEPT = 600.0
#: Most changes that are remembered.
CAPACITY = 10_000

_log = EventLog("impfed.store")


class Entry:
    """One change: what a record is, or that it is gone.

    :ivar change: (kind, key, octets or b"" for a removal), as it goes to the server.
    :ivar confirmed_at: when the store said that it was made; None before.
    """

    __slots__ = ("change", "confirmed_at")

    def __init__(self, change: tuple[Argument, Argument, Argument]) -> None:
        self.change = change
        self.confirmed_at: float | None = None


class Journal:
    """The last change of each common record by this node; bounded in number and time."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[tuple[Argument, Argument], Entry] = {}  # the oldest first

    def note(self, flat: Sequence[Argument], now: float) -> list[Entry]:
        """Take in the changes of a write, flat as they go to the server; returns those of common kinds."""
        noted = []
        for at in range(0, len(flat), 3):
            kind, key, octets = flat[at : at + 3]
            if str(kind).startswith("="):
                continue  # it has an owner, who writes it again
            self._entries.pop((kind, key), None)
            entry = self._entries[kind, key] = Entry((kind, key, octets))
            noted.append(entry)
        if noted:
            self._make_room(now)
        return noted

    def superseded(self, kind: str, keys: Iterable[str]) -> None:
        """Another node has changed these after us."""
        for key in keys:
            self._entries.pop((kind, readable(key).encode()), None)

    def unconfirmed(self) -> list[Entry]:
        """Return the changes of which the store has not said that they were made."""
        return [entry for entry in self._entries.values() if entry.confirmed_at is None]

    def lately(self, now: float) -> list[Entry]:
        """Return all changes that the store may lack."""
        self._make_room(now)
        return list(self._entries.values())

    def holds(self, kind: str, key: str) -> bool:
        """Whether the last change of a record was ours, and lately."""
        return (kind, readable(key).encode()) in self._entries

    def _make_room(self, now: float) -> None:
        entries = self._entries
        while entries:
            place, oldest = next(iter(entries.items()))
            if len(entries) > CAPACITY:
                if oldest.confirmed_at is None:
                    _log.error(
                        "change_forgotten",
                        "{kind} {key} could not be written to the store, and too much waits for it",
                        kind=place[0],
                        key=place[1],
                    )
            elif oldest.confirmed_at is None or oldest.confirmed_at > now - KEPT:
                return
            del entries[place]
