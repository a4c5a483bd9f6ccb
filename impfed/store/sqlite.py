"""The embedded store: one SQLite file, one thread of its own, many writes in one commit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec
from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.log import EventLog
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
from impfed.store.gather import Clock, StateTeller, WriteQueue
from impfed.store.records import LedgerEntry, RecordType
from impfed.store.sqlitefile import LedgerRow, RecordChange, SqliteFile, Write, row_of

#: Name of the file within a node's state directory.
DATABASE_NAME = "impfed.sqlite"

_PURGE_CHUNK = 2000
#: Records that are read at one time.
_PORTION = 2000

_log = EventLog("impfed.store")
_Result = TypeVar("_Result")
_Job: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], Callable[[Any], None]]


class StoreReactor(Clock, Protocol):
    """What the store needs of a reactor."""

    def callFromThread(self, callable: Any, /, *args: Any) -> None:
        """Call in the reactor thread."""


@implementer(IStore)
class SqliteStore:
    """Keeps records and ledger in one SQLite file; see :class:`~impfed.store.api.IStore`.

    :param path: the file (mode 0600), made when it is not there, with its directory.
    :param gather: longest time that a write waits for company, in seconds.
    :param batch_limit: most writes in one transaction.
    :param backlog_limit: writes not on disk from which on more are refused with OVERLOADED.
    """

    def __init__(
        self,
        path: Path | str,
        reactor: StoreReactor,
        *,
        gather: float = 0.005,
        batch_limit: int = 2000,
        backlog_limit: int = 50_000,
    ) -> None:
        self._path = Path(path)
        self._reactor = reactor
        self._backlog_limit = backlog_limit
        self._file: SqliteFile | None = None
        self._thread: Thread | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._queue: WriteQueue[Write] = WriteQueue(reactor, self._commit, gather, batch_limit)
        self._trouble: StoreFault | None = None
        self._teller = StateTeller()

    @property
    def backlog(self) -> int:
        """Writes that are not on the disk."""
        return self._queue.backlog

    @property
    def state(self) -> StoreState:
        """How the store is."""
        return self._teller.state

    def observe(self, observer: Observer) -> None:
        """Call the observer whenever the state has changed."""
        self._teller.observe(observer)

    @property
    def trouble(self) -> StoreFault | None:
        """What the last commit failed with; None while all is well."""
        return self._trouble

    def start(self) -> Deferred[None]:
        """Open the file in a thread of its own; fails with a :class:`StoreError` in words."""
        if self._file is not None:
            return fail(StoreError(StoreFault.OTHER, f"store {self._path}: already started"))
        self._file = SqliteFile(self._path)
        self._jobs = SimpleQueue()
        self._thread = Thread(target=self._work, args=(self._jobs,), name="impfed-store")
        self._thread.daemon = True
        self._thread.start()
        opened: Deferred[None] = self._ask(self._file.open)
        opened.addCallbacks(self._opened, self._not_opened)
        return opened

    def stop(self) -> Deferred[None]:
        """Commit what was written, close the file, end the thread; no error when not started."""
        file = self._file
        if file is None:
            return succeed(None)
        self._queue.flush_all()
        self._file = None
        closed: Deferred[None] = self._ask(file.close)
        closed.addBoth(self._end_thread)
        self._teller.become(StoreState.CLOSED)
        return closed

    def write(
        self, changes: Sequence[Change], done: Done | None = None, *, within: float = 0.0
    ) -> None:
        """Make changes, all or none of them; see :class:`~impfed.store.api.IStore`."""
        error: StoreError | None = None
        if self._file is None:
            error = _stopped(self._path)
        elif self.backlog >= self._backlog_limit:
            error = StoreError(
                StoreFault.OVERLOADED,
                f"store {self._path}: {self.backlog} writes wait for the disk, no more are taken",
            )
        else:
            try:
                prepared = _prepared(changes)
            except (TypeError, ValueError, msgspec.MsgspecError) as problem:
                error = StoreError(StoreFault.OTHER, f"cannot write a record down: {problem}")
        if error is not None:
            self._reactor.callLater(0, lambda: call_done(done, error))
            return
        self._queue.add(prepared, done, within)

    def load(self, kind: type[RecordType]) -> Deferred[list[RecordType]]:
        """Return every record of a kind; one that cannot be read is logged and left where it is."""
        file = self._file
        if file is None:
            return fail(_stopped(self._path))
        self._queue.flush_all()
        return self._ask(_load, file, kind).addCallback(self._loaded, kind)

    def get(self, kind: type[RecordType], keys: Sequence[str]) -> Deferred[dict[str, RecordType]]:
        """Return the records of a kind that are there of some keys."""
        file = self._file
        if file is None:
            return fail(_stopped(self._path))
        self._queue.flush_all()

        def read() -> dict[str, RecordType]:
            found = ((key, file.row(kind.kind, readable(key))) for key in keys)
            return {key: decode(kind, data) for key, data in found if data is not None}

        return self._ask(read)

    def pull(self, kind: type[RecordType], key: str) -> Deferred[RecordType | None]:
        """Remove a record and return it."""
        file = self._file
        if file is None:
            return fail(_stopped(self._path))
        self._queue.flush_all()

        def read() -> RecordType | None:
            data = file.pull(kind.kind, readable(key))
            return None if data is None else decode(kind, data)

        return self._ask(read)

    @inlineCallbacks
    def each(
        self, kind: type[RecordType], take: Callable[[list[RecordType]], None]
    ) -> Generator[Deferred[Any], Any, None]:
        """Call ``take`` with every record of a kind; the next portion is read meanwhile."""
        file = self._file
        if file is None:
            raise _stopped(self._path)
        self._queue.flush_all()
        asked = self._ask(_load, file, kind, "", _PORTION)
        while True:
            loaded = yield asked
            if loaded.last:
                asked = self._ask(_load, file, kind, loaded.last, _PORTION)
            take(self._loaded(loaded, kind))
            if not loaded.last:
                return

    def ledger(
        self, *, id: str = "", address: str = "", since: float = 0.0, limit: int = 100
    ) -> Deferred[list[LedgerEntry]]:
        """Return ledger entries, newest first."""
        file = self._file
        if file is None:
            return fail(_stopped(self._path))
        self._queue.flush_all()
        return self._ask(file.ledger, readable(id), readable(address), since, limit)

    def purge_ledger(self, before: float) -> Deferred[int]:
        """Remove entries received before a time, some at a time so that writes get between."""
        file = self._file
        if file is None:
            return fail(_stopped(self._path))
        self._queue.flush_all()

        def more(removed: int, total: int) -> Deferred[int] | int:
            total += removed
            if removed < _PURGE_CHUNK or self._file is None:
                return total
            return self._ask(file.purge, before, _PURGE_CHUNK).addCallback(more, total)

        purged: Deferred[int] = self._ask(file.purge, before, _PURGE_CHUNK)
        return purged.addCallback(more, 0)

    def move_ledger(self, local: str, to: str) -> Deferred[int]:
        """Give a local user's entries to another address, or remove them if it is ""."""
        file = self._file
        if file is None:
            return fail(_stopped(self._path))
        self._queue.flush_all()
        return self._ask(file.move, readable(local), readable(to))

    # Reactor thread: gathering and confirming.

    def _commit(self, batch: list[Write], dones: list[Done | None]) -> None:
        file = self._file
        assert file is not None  # what is written without one never gets into the queue
        self._jobs.put((file.commit, (batch,), lambda result: self._committed(dones, result)))

    def _committed(
        self, dones: list[Done | None], result: list[StoreError | None] | Failure
    ) -> None:
        errors: Sequence[BaseException | None]
        if isinstance(result, Failure):
            _log.failure("commit_raised", "committing to {path} raised", result, path=self._path)
            errors = [result.value] * len(dones)
        else:
            errors = result
            self._notice(result[0])
        self._queue.settled(dones, errors)

    def _notice(self, error: StoreError | None) -> None:
        fault = error.fault if error is not None else None
        if fault is self._trouble:
            return
        self._trouble = fault
        self._teller.become(StoreState.UP if error is None else StoreState.REFUSING)
        if error is not None:
            _log.error("write_failed", "{reason}", reason=error.text, fault=error.fault.value)
        else:
            _log.info("write_recovered", "store {path} can be written again", path=self._path)

    def _loaded(self, loaded: _Loaded[RecordType], kind: type[RecordType]) -> list[RecordType]:
        for key, problem in loaded.unreadable:
            _log.error(
                "record_unreadable",
                "a {kind} record in {path} cannot be read and is left out: {problem} (key {key})",
                kind=kind.kind,
                path=self._path,
                key=key,
                problem=problem,
            )
        return loaded.records

    def _opened(self, _: None) -> None:
        self._teller.become(StoreState.UP)

    def _not_opened(self, failure: Failure) -> Failure:
        self._file = None
        self._queue.refuse(failure.value or _stopped(self._path))
        self._end_thread(None)
        return failure

    def _end_thread(self, result: _Result) -> _Result:
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return result

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self._jobs.put((call, arguments, answer.callback))
        return answer

    # The store's own thread.

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            call, arguments, answer = job
            result: Any
            try:
                result = call(*arguments)
            except Exception:  # told in the reactor thread
                result = Failure()
            self._reactor.callFromThread(answer, result)


def _prepared(changes: Sequence[Change]) -> Write:
    records: list[RecordChange] = []
    rows: list[LedgerRow] = []
    for change in changes:
        if isinstance(change, Put):
            record = change.record
            records.append((record.kind, readable(record.key), encode(record)))
        elif isinstance(change, Delete):
            records.append((change.kind.kind, readable(change.key), None))
        elif isinstance(change, Enter):
            rows.append(row_of(change.entry))
        else:
            raise TypeError(f"not a change: {change!r}")
    return records, rows


@dataclass(slots=True)
class _Loaded(Generic[RecordType]):
    """Records, the others' keys with what is wrong, and the last key; "" if that was all."""

    records: list[RecordType]
    unreadable: list[tuple[str, str]]
    last: str


def _load(
    file: SqliteFile, kind: type[RecordType], after: str = "", limit: int = -1
) -> _Loaded[RecordType]:
    records: list[RecordType] = []
    unreadable: list[tuple[str, str]] = []
    rows = file.rows(kind.kind, after, limit)
    for key, data in rows:
        try:
            records.append(decode(kind, data))
        except msgspec.MsgspecError as error:
            unreadable.append((key, str(error)))
    return _Loaded(records, unreadable, rows[-1][0] if len(rows) == limit else "")


def _stopped(path: Path) -> StoreError:
    return StoreError(StoreFault.STOPPED, f"store {path}: it is not open")
