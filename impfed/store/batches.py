"""Batches of writes on their way to a shared server: one at a time, each made once.

A batch carries a number, so that one whose answer was lost is simply sent again: the server makes it
once, and never after a later one.  What could not be settled in time fails as UNAVAILABLE (certainly
not made) or UNSURE.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from impfed.core.log import EventLog
from impfed.store.api import (
    Change,
    Delete,
    Done,
    Enter,
    Fenced,
    Put,
    StoreError,
    StoreFault,
)
from impfed.store.encoding import encode, readable
from impfed.store.gather import Clock, WriteQueue
from impfed.store.link import Answer, Argument, Link, pairs
from impfed.store.records import (
    LedgerEntry,
    Record,
)
from impfed.store.sqlitefile import row_of

#: Seconds after which a write or question that could not be settled fails.
PATIENCE = 5.0

_AGAIN = 0.2  # seconds
_LEDGER_LAG = 0.1
#: Troubles that may pass while a write waits; a replica may be about to become the master.
_PASSING = (StoreFault.UNAVAILABLE, StoreFault.UNSURE, StoreFault.READ_ONLY)

_log = EventLog("impfed.store")

#: Changes of one write: flat (kind, key, octets or b"" for a removal), and its ledger entries.
Prepared: TypeAlias = tuple[list[Argument], list[LedgerEntry]]


def prepared(changes: Sequence[Change]) -> Prepared:
    """Return changes as they go to the server.

    :raises TypeError, ValueError, msgspec.MsgspecError: for what cannot be written down.
    """
    records: list[Argument] = []
    entries: list[LedgerEntry] = []
    for change in changes:
        if isinstance(change, Put):
            record = change.record
            records += (_kind(type(record)), readable(record.key).encode(), encode(record))
        elif isinstance(change, Delete):
            records += (_kind(change.kind), readable(change.key).encode(), b"")
        elif isinstance(change, Enter):
            entries.append(LedgerEntry(*row_of(change.entry)))  # type: ignore[arg-type]  # columns are in the order of the fields
        else:
            raise TypeError(f"not a change: {change!r}")
    return records, entries


def _kind(kind: type[Record]) -> str:
    return f"={kind.kind}" if kind.owned else kind.kind


class _Batch:
    """Writes that go together: from ``at``, ``step`` of them in one operation.

    :ivar number: of the operation under way; 0 when the next one has not been sent.
    """

    __slots__ = (
        "asking", "at", "deadline", "dones", "errors", "number", "over", "problem", "step",
        "unsure", "writes",
    )  # fmt: skip

    def __init__(self, writes: list[Prepared], dones: list[Done | None]) -> None:
        self.writes = writes
        self.dones = dones
        self.errors: list[BaseException | None] = [None] * len(writes)
        self.at = self.number = 0
        self.step = len(writes)
        self.asking = self.over = self.unsure = False
        self.problem: StoreError | None = None
        self.deadline: IDelayedCall | None = None

    @property
    def part(self) -> list[Prepared]:
        """The writes of the operation under way."""
        return self.writes[self.at : self.at + self.step]


class Batches:
    """Gathers writes and sends them.

    :param ledger: where ledger entries go once the records of their write are made.
    :param writer: a name that no other writer has.
    :param health: told each outcome: None for a success, or the error.
    :ivar node: as which node it writes; "" for none.
    :ivar epoch: the node's epoch.
    """

    def __init__(
        self,
        link: Link,
        ledger: Any,
        clock: Clock,
        writer: str,
        gather: float,
        limit: int,
        health: Callable[[StoreError | None], None],
    ) -> None:
        self.node = ""
        self.epoch = 0
        self._link = link
        self._ledger = ledger
        self._clock = clock
        self._writer = writer
        self._health = health
        self._queue: WriteQueue[Prepared] = WriteQueue(clock, self._take, gather, limit)
        self._batches: deque[_Batch] = deque()
        self._drained: list[Deferred[None]] = []
        self._number = 0
        self._again: IDelayedCall | None = None

    @property
    def backlog(self) -> int:
        """Writes that are not confirmed."""
        return self._queue.backlog

    def add(self, write: Prepared, done: Done | None, within: float) -> None:
        """Take a write over."""
        self._queue.add(write, done, within)

    def act_as(self, node: str, epoch: int) -> None:
        """Write as a node from now on; what is not settled yet, under another epoch, is fenced."""
        if (node, epoch) == (self.node, self.epoch):
            return
        self._queue.flush_all()
        self.node, self.epoch = node, epoch
        for batch in list(self._batches):
            if not batch.over:  # the end of one before it may have been the end of this one, too
                self._fail(batch, Fenced(f"the node is {node} with epoch {epoch} now"))

    def settle_all(self) -> Deferred[None]:
        """Fire when everything that has been added is settled."""
        self._queue.flush_all()
        settled: Deferred[None] = Deferred()
        self._drained.append(settled)
        self.advance()
        return settled

    def stop(self) -> None:
        """Send nothing again."""
        if self._again is not None and self._again.active():
            self._again.cancel()
        self._again = None

    def advance(self) -> None:
        """Send what is next, if it can be sent now."""
        if not self._batches:
            drained, self._drained = self._drained, []
            for waiting in drained:
                waiting.callback(None)
            return
        batch = self._batches[0]
        if batch.asking:
            return
        part = batch.part
        changes: list[Argument] = [word for flat, _ in part for word in flat]
        if not changes:
            self._done_with_part(batch, [None] * len(part))
            return
        if not self._link.up:
            return
        if not batch.number:
            self._number += 1
            batch.number = self._number
        counts = ",".join(str(len(flat) // 3) for flat, _ in part)
        operation = "erase" if not any(changes[2::3]) else "write"
        batch.asking = True
        asked = self._link.call(
            operation, self._writer, batch.number, self.node, self.epoch, counts, *changes
        )
        asked.addCallbacks(
            lambda answer: self._answered(answer, batch),
            lambda failure: self._troubled(failure, batch),
        )

    def fenced(self, answer: Answer) -> Fenced:
        """Return the error for an answer "fenced" or "unknown"."""
        words = "does not know" if answer[0] == b"unknown" else "has taken the rights from"
        return Fenced(f"{self._link.place}: it {words} node {self.node} with epoch {self.epoch}")

    def _take(self, writes: list[Prepared], dones: list[Done | None]) -> None:
        batch = _Batch(writes, dones)
        batch.deadline = self._clock.callLater(PATIENCE, lambda: self._too_late(batch))
        self._batches.append(batch)
        self.advance()

    def _answered(self, answer: Answer, batch: _Batch) -> None:
        batch.asking = False
        if batch.over:
            self.advance()
        elif answer[0] == b"done":
            self._health(None)
            errors: list[BaseException | None] = [None] * len(batch.part)
            for index, owner in pairs(answer[1:]):
                errors[index] = self._taken(owner.decode())
            self._done_with_part(batch, errors)
        elif answer[0] == b"unknown":  # the store was emptied; the node will be made known again
            batch.problem = self.fenced(answer)
            self._later()
        elif answer[0] == b"fenced":
            self._fail(batch, self.fenced(answer))
        else:
            self._fail(batch, self._error(StoreFault.UNSURE, "it has passed a write by"))

    def _taken(self, owner: str) -> Fenced:
        return Fenced(f"{self._link.place}: the record is that of node {owner} now", owner)

    def _troubled(self, failure: Failure, batch: _Batch) -> None:
        batch.asking = False
        if batch.over:
            self.advance()
            return
        error = failure.value
        if not isinstance(error, StoreError):
            _log.failure(
                "write_raised", "a write to {place} raised", failure, place=self._link.place
            )
            error = self._error(StoreFault.OTHER, str(error))
        self._health(error)
        if error.fault in _PASSING:
            batch.unsure = batch.unsure or error.fault is StoreFault.UNSURE
            batch.problem = error
            self._later()
        elif error.fault is StoreFault.OUT_OF_MEMORY and batch.step > 1:
            batch.step = 1  # one after the other: what only removes something gets through
            batch.number = 0
            self.advance()
        else:
            self._done_with_part(batch, [error] * len(batch.part))

    def _done_with_part(self, batch: _Batch, errors: list[BaseException | None]) -> None:
        batch.errors[batch.at : batch.at + batch.step] = errors
        batch.at += batch.step
        batch.number = 0
        batch.unsure = False
        if batch.at < len(batch.writes):
            self.advance()
        else:
            self._write_lines(batch)

    def _write_lines(self, batch: _Batch) -> None:
        """The records are made; now the lines of the ledger, which hold up nobody but themselves."""
        lines: list[Change] = [
            Enter(entry)
            for (_, entries), error in zip(batch.writes, batch.errors, strict=True)
            if error is None
            for entry in entries
        ]
        if not lines or any(changes for changes, _ in batch.writes):
            if lines:
                self._ledger.write(lines, _ledger_written, within=_LEDGER_LAG)
            self._end(batch)
            return
        batch.asking = True

        def written(error: BaseException | None) -> None:
            batch.errors = [error] * len(batch.writes)
            if not batch.over:
                self._end(batch)

        self._ledger.write(lines, written)

    def _fail(self, batch: _Batch, error: BaseException) -> None:
        batch.errors[batch.at :] = [error] * (len(batch.writes) - batch.at)
        self._end(batch)

    def _end(self, batch: _Batch) -> None:
        batch.over = True
        if batch.deadline is not None and batch.deadline.active():
            batch.deadline.cancel()
        self._batches.remove(batch)
        self._queue.settled(batch.dones, batch.errors)
        self.advance()

    def _too_late(self, batch: _Batch) -> None:
        problem = batch.problem
        if isinstance(problem, Fenced):
            self._fail(batch, problem)
            return
        fault = StoreFault.UNAVAILABLE if problem is None else problem.fault
        fault = StoreFault.UNSURE if batch.unsure or batch.asking else fault
        words = f"it has not confirmed a write within {PATIENCE:g} s"
        self._fail(batch, self._error(fault, words))

    def _later(self) -> None:
        if self._link.up and (self._again is None or not self._again.active()):
            self._again = self._clock.callLater(_AGAIN, self.advance)

    def _error(self, fault: StoreFault, words: str) -> StoreError:
        return StoreError(fault, f"{self._link.place}: {words}")


def _ledger_written(error: BaseException | None) -> None:
    if error is not None:
        _log.error("ledger_not_written", "lines of the ledger are lost: {why}", why=str(error))
