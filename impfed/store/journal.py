"""What one node has changed lately and nobody writes again by itself, for a store that loses it.

Records that belong to all, and the end of those that have an owner: who owns a record writes it again, but not
that it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from impfed.core.log import EventLog
from impfed.store.encoding import readable
from impfed.store.link import Argument

#: Seconds for which a change that the store has confirmed may still be lost by it (a replica that lags
#: and becomes the master, a file that ends too early): of what belongs to all, and of the many removals.
KEPT, REMOVALS_KEPT = 600.0, 15.0
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


def of_all(kind: Argument, octets: Argument) -> bool:
    """Whether a change is one of a record that belongs to all."""
    return not str(kind).startswith("=")


def ended(kind: Argument, octets: Argument) -> bool:
    """Whether a change removes a record that has an owner."""
    return not octets and not of_all(kind, octets)


class Journal:
    """The last change of each record by this node; bounded in number and time.

    :param concerns: says of a kind and octets whether such a change is kept here.
    :param kept: seconds for which one is that the store has confirmed.
    """

    __slots__ = ("_concerns", "_entries", "_kept")

    def __init__(self, concerns: Callable[[Argument, Argument], bool], kept: float) -> None:
        self._concerns = concerns
        self._kept = kept
        self._entries: dict[tuple[Argument, Argument], Entry] = {}  # the oldest first

    def note(self, flat: Sequence[Argument], now: float) -> list[Entry]:
        """Take in the changes of a write, flat as they go to the server; returns those that are kept."""
        noted = []
        for at in range(0, len(flat), 3):
            kind, key, octets = flat[at : at + 3]
            self._entries.pop((kind, key), None)
            if self._concerns(kind, octets):
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
            elif oldest.confirmed_at is None or oldest.confirmed_at > now - self._kept:
                return
            del entries[place]
