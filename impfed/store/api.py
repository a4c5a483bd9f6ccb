"""The store's interface: changes, errors, and what an implementation promises.

Three implementations are proved equal by one test suite: :class:`impfed.store.memory.MemoryStore`
(the reference model), :class:`impfed.store.sqlite.SqliteStore` (the embedded default) and
:class:`impfed.store.shared.SharedStore` (what the nodes of a cluster share, in Redis).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from impfed.core.errors import ImpfedError
from impfed.core.log import EventLog
from impfed.store.records import LedgerEntry, Record, RecordType

#: Version of the interface; a plugin names the one it was written for.
INTERFACE_VERSION = 2


class StoreFault(Enum):
    """What kind of trouble a store has, for code; :class:`StoreError` says it in words."""

    FULL = "full"
    READ_ONLY = "read-only"
    CORRUPT = "corrupt"
    LOCKED = "locked"
    NEWER = "newer"
    FOREIGN = "foreign"
    OVERLOADED = "overloaded"
    STOPPED = "stopped"
    UNREADABLE = "unreadable"
    UNAVAILABLE = "unavailable"  # it cannot be reached; nothing was changed
    UNSURE = "unsure"  # it did not answer in time; the change may have been made
    OUT_OF_MEMORY = "out of memory"
    FENCED = "fenced"  # another node has taken over
    DENIED = "denied"  # it does not know us, or does not let us do this
    OTHER = "other"


#: Troubles that pass by themselves: asking again later may be answered.
PASSING = (StoreFault.UNAVAILABLE, StoreFault.UNSURE)


class StoreState(Enum):
    """How a store is, for who has to decide whether to go on; see :meth:`IStore.observe`."""

    CLOSED = "closed"
    UP = "up"
    #: It cannot be asked: writes fail at once, nobody can tell what others do.
    GONE = "gone"
    #: It answers, but takes nothing new (disk or memory full, read-only).
    REFUSING = "refusing"


class StoreError(ImpfedError):
    """The store could not do what was asked.

    :ivar fault: what kind of trouble.
    :ivar text: the trouble and the remedy in words for an operator.
    """

    def __init__(self, fault: StoreFault, text: str) -> None:
        super().__init__(text)
        self.fault = fault
        self.text = text


class Fenced(StoreError):
    """A write of a node that is no longer the owner; nothing of it was made.

    :ivar owner: who owns the record now; "" when it is the whole node that was taken over.
    """

    def __init__(self, text: str, owner: str = "") -> None:
        super().__init__(StoreFault.FENCED, text)
        self.owner = owner


@dataclass(frozen=True, slots=True)
class Put:
    """Insert a record, or replace the one of its kind and key."""

    record: Record


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the record of a kind and key; nothing happens when there is none."""

    kind: type[Record]
    key: str


@dataclass(frozen=True, slots=True)
class Enter:
    """Insert a ledger entry, or bring the one with its id up to date.

    Direction, both addresses, stanza id and time of reception stay as first entered.
    """

    entry: LedgerEntry


Change: TypeAlias = Put | Delete | Enter
Done: TypeAlias = Callable[[BaseException | None], None]
Observer: TypeAlias = Callable[[StoreState], None]

_log = EventLog("impfed.store")


def call_done(done: Done | None, error: BaseException | None) -> None:
    """Call a ``done``; what it raises is logged and stops no other."""
    if done is None:
        return
    try:
        done(error)
    except Exception:  # of one write among many
        _log.failure("done_raised", "a callback of a write raised")


class IStore(Interface):
    """Keeps records and the delivery ledger.  Every method is called in the reactor thread."""

    backlog = Attribute("Writes taken over that are not confirmed yet (int).")
    state = Attribute("How it is (StoreState).")

    def observe(observer: Observer) -> None:
        """Call ``observer(state)`` whenever the state has changed, in the reactor thread."""

    def start() -> Deferred[None]:
        """Open the store.  Fails with a :class:`StoreError`."""

    def stop() -> Deferred[None]:
        """Finish what was written before, then close.  What comes later fails with STOPPED."""

    def write(changes: Sequence[Change], done: Done | None = None, *, within: float = 0.0) -> None:
        """Make changes, all or none of them.

        ``done(None)`` is called in the reactor thread, exactly once, when they would outlive the
        death of the process, ``done(StoreError)`` when they were not made.  Writes take effect in
        the order of the calls, and several may share one commit.  The records are read before the
        call returns, so the caller may change them afterwards.

        :param within: seconds for which the write may wait for company, because its loss in a
            crash costs nothing but a line of history or a repetition.
        """

    def load(kind: type[RecordType]) -> Deferred[list[RecordType]]:
        """Return every record of a kind, in order of keys, including all writes called before.

        A shared store gives, of the kinds that have an owner, only those of this node.
        """

    def get(kind: type[RecordType], keys: Sequence[str]) -> Deferred[dict[str, RecordType]]:
        """Return the records of a kind that are there of some keys, by key."""

    def pull(kind: type[RecordType], key: str) -> Deferred[RecordType | None]:
        """Remove a record that belongs to all nodes, and return it.

        Of several that pull the same one, at whatever nodes, only one gets it.
        """

    def each(kind: type[RecordType], take: Callable[[list[RecordType]], None]) -> Deferred[None]:
        """Call ``take`` with what :meth:`load` returns, a portion at a time, in no order.

        So not all of a kind are in memory at once when something else is made of each.
        """

    def ledger(
        *, id: str = "", address: str = "", since: float = 0.0, limit: int = 100
    ) -> Deferred[list[LedgerEntry]]:
        """Return ledger entries, newest first.

        :param id: only this id of ours, of the stanza, or Call-ID.
        :param address: only with this bare JID on either side.
        :param since: only received at this time (seconds since the epoch) or later.
        :param limit: at most so many.
        """

    def purge_ledger(before: float) -> Deferred[int]:
        """Remove settled and unsettled entries received before a time; returns how many."""

    def move_ledger(local: str, to: str) -> Deferred[int]:
        """Give a local user's ledger entries to another address, or remove them if it is "".

        Returns how many.
        """
