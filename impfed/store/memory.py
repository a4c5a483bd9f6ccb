"""The store in memory: reference model of the interface, and the double that tests use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from impfed.store.api import (
    Change,
    Delete,
    Done,
    Enter,
    IStore,
    Observer,
    Put,
    StoreError,
    StoreFault,
    StoreState,
    call_done,
)
from impfed.store.encoding import decode, encode, readable
from impfed.store.gather import StateTeller
from impfed.store.records import (
    LedgerEntry,
    RecordType,
)


@implementer(IStore)
class MemoryStore:
    """Keeps everything until the process ends.

    :param clock: with one, ``done`` is called in a later turn, as a real store does; without,
        before :meth:`write` returns, which is handy in small tests.
    :ivar failing: set to a :class:`StoreError` to have every write refused with it.
    :ivar held: set to True to keep writes unconfirmed until :meth:`release`.
    """

    def __init__(self, clock: IReactorTime | None = None) -> None:
        self._clock = clock
        self._records: dict[str, dict[str, bytes]] = {}
        self._ledger: dict[str, LedgerEntry] = {}
        self._waiting: list[tuple[Done | None, BaseException | None]] = []
        self._open = False
        self._teller = StateTeller()
        self.failing: StoreError | None = None
        self.held = False

    @property
    def backlog(self) -> int:
        """Writes not confirmed yet."""
        return len(self._waiting)

    @property
    def state(self) -> StoreState:
        """How the store is."""
        return self._teller.state

    def observe(self, observer: Observer) -> None:
        """Call the observer whenever the state has changed."""
        self._teller.observe(observer)

    def start(self) -> Deferred[None]:
        """Begin; what was kept before a stop is still there."""
        self._open = True
        self._teller.become(StoreState.UP)
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """Confirm everything and end."""
        self.release()
        self._open = False
        self._teller.become(StoreState.CLOSED)
        return succeed(None)

    def release(self) -> None:
        """Confirm what was held, oldest first, and hold no longer."""
        self.held = False
        self._confirm()

    def write(
        self, changes: Sequence[Change], done: Done | None = None, *, within: float = 0.0
    ) -> None:
        """Make changes, all or none of them; see :class:`~impfed.store.api.IStore`."""
        error: BaseException | None = self._refusal()
        if error is None:
            try:
                self._apply(changes)
            except (TypeError, ValueError, msgspec.MsgspecError) as problem:
                error = StoreError(StoreFault.OTHER, f"cannot write a record down: {problem}")
        self._waiting.append((done, error))
        if self.held:
            return
        if self._clock is None:
            self._confirm()
        else:
            self._clock.callLater(0, self._confirm_unless_held)

    def load(self, kind: type[RecordType]) -> Deferred[list[RecordType]]:
        """Return every record of a kind, in order of keys."""
        if not self._open:
            return fail(_stopped())
        rows = self._records.get(kind.kind, {})
        return succeed([decode(kind, rows[key]) for key in sorted(rows)])

    def get(self, kind: type[RecordType], keys: Sequence[str]) -> Deferred[dict[str, RecordType]]:
        """Return the records of a kind that are there of some keys."""
        if not self._open:
            return fail(_stopped())
        rows = self._records.get(kind.kind, {})
        return succeed({key: decode(kind, rows[key]) for key in keys if key in rows})

    def pull(self, kind: type[RecordType], key: str) -> Deferred[RecordType | None]:
        """Remove a record and return it."""
        if not self._open:
            return fail(_stopped())
        data = self._records.get(kind.kind, {}).pop(key, None)
        return succeed(None if data is None else decode(kind, data))

    def each(
        self, kind: type[RecordType], take: Callable[[list[RecordType]], None]
    ) -> Deferred[None]:
        """Call ``take`` with every record of a kind."""
        return self.load(kind).addCallback(take)

    def ledger(
        self, *, id: str = "", address: str = "", since: float = 0.0, limit: int = 100
    ) -> Deferred[list[LedgerEntry]]:
        """Return ledger entries, newest first."""
        if not self._open:
            return fail(_stopped())
        found = [
            entry
            for entry in self._ledger.values()
            if entry.received_at >= since
            and (not id or readable(id) in (entry.id, entry.stanza_id, entry.call_id))
            and (not address or address in (entry.local, entry.foreign))
        ]
        found.sort(key=lambda entry: (entry.received_at, entry.id), reverse=True)
        return succeed([msgspec.structs.replace(entry) for entry in found[:limit]])

    def purge_ledger(self, before: float) -> Deferred[int]:
        """Remove entries received before a time."""
        if not self._open:
            return fail(_stopped())
        old = [key for key, entry in self._ledger.items() if entry.received_at < before]
        for key in old:
            del self._ledger[key]
        return succeed(len(old))

    def move_ledger(self, local: str, to: str) -> Deferred[int]:
        """Give a local user's entries to another address, or remove them if it is ""."""
        if not self._open:
            return fail(_stopped())
        found = [key for key, entry in self._ledger.items() if entry.local == local]
        for key in found:
            entry = self._ledger.pop(key)
            if to:
                self._ledger[key] = msgspec.structs.replace(entry, local=to)
        return succeed(len(found))

    def _refusal(self) -> StoreError | None:
        return self.failing if self._open else _stopped()

    def _apply(self, changes: Sequence[Change]) -> None:
        prepared = [
            (change, encode(change.record) if isinstance(change, Put) else b"")
            for change in changes
        ]
        for change, data in prepared:
            if isinstance(change, Put):
                record = change.record
                self._records.setdefault(record.kind, {})[readable(record.key)] = data
            elif isinstance(change, Delete):
                self._records.get(change.kind.kind, {}).pop(readable(change.key), None)
            elif isinstance(change, Enter):
                self._enter(change.entry)

    def _enter(self, entry: LedgerEntry) -> None:
        first = self._ledger.get(entry.id, entry)
        self._ledger[entry.id] = msgspec.structs.replace(
            entry,
            direction=first.direction,
            local=first.local,
            foreign=first.foreign,
            stanza_id=readable(first.stanza_id),
            call_id=readable(entry.call_id),
            received_at=first.received_at,
            detail=readable(entry.detail),
        )

    def _confirm_unless_held(self) -> None:
        if not self.held:
            self._confirm()

    def _confirm(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done, error in waiting:
            call_done(done, error)


def _stopped() -> StoreError:
    return StoreError(StoreFault.STOPPED, "the store is not open")
