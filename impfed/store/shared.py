"""The store that the nodes of a cluster share: records on a server, the ledger in a file of the node."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.store.api import (
    PASSING,
    Change,
    Done,
    Fenced,
    IStore,
    Observer,
    StoreError,
    StoreFault,
    StoreState,
    call_done,
)
from impfed.store.batches import PATIENCE, Batches, prepared
from impfed.store.encoding import decode, readable
from impfed.store.gather import Clock, StateTeller
from impfed.store.journal import KEPT, REMOVALS_KEPT, Entry, Journal, ended, of_all
from impfed.store.link import Argument, Link, pairs
from impfed.store.records import Record, RecordType

#: Seconds without a connection after which the store counts as gone.
GRACE = 1.0

#: Records that are read, or keys that are moved, in one operation.
_CHUNK = 2000
#: Why records have not been moved, by the answer, said of the other node.
_NOT_MOVED = {
    b"alive": "lives",
    b"gone": "is not live",
    b"over": "may not be the one any more, for the nodes are others now",
}
#: Records that are handed over in one turn of the reactor.
_PORTION = 250
#: Seconds until what has failed for a moment is asked again.
_AGAIN = 0.2
#: Faults of a server that answers, and takes no writes.
_REFUSING = (StoreFault.OUT_OF_MEMORY, StoreFault.READ_ONLY, StoreFault.FULL)

_log = EventLog("impfed.store")


@implementer(IStore)
class SharedStore:
    """Keeps records on a server; see :class:`~impfed.store.api.IStore`.

    Until :meth:`act_as` it is nobody: what it writes of the kinds with owners is unclaimed.

    :param link: the way to the server.
    :param ledger: this node's own store, which keeps nothing but the ledger.
    """

    def __init__(
        self,
        link: Link,
        ledger: Any,
        clock: Clock,
        ids: IdSource,
        *,
        gather: float = 0.005,
        batch_limit: int = 500,
        backlog_limit: int = 50_000,
    ) -> None:
        self.link = link
        self._ledger = ledger
        self._clock = clock
        self._writer = ids.token()
        self._backlog_limit = backlog_limit
        self._batches = Batches(
            link, ledger, clock, self._writer, gather, batch_limit, self._outcome
        )
        self._journal = Journal(of_all, KEPT)
        self._removals = Journal(ended, REMOVALS_KEPT)
        self._upward: list[Deferred[None]] = []
        self._grace: IDelayedCall | None = None
        self._teller = StateTeller()
        link.watch(self._link_changed)

    @property
    def backlog(self) -> int:
        """Writes that are not confirmed."""
        return self._batches.backlog

    @property
    def node(self) -> str:
        """As which node it writes; "" for none."""
        return self._batches.node

    @property
    def epoch(self) -> int:
        """The node's epoch."""
        return self._batches.epoch

    @property
    def state(self) -> StoreState:
        """How the store is."""
        return self._teller.state

    @property
    def writer(self) -> str:
        """The name under which its changes of common records stand in the feed."""
        return self._writer

    def observe(self, observer: Observer) -> None:
        """Call the observer whenever the state has changed."""
        self._teller.observe(observer)

    def act_as(self, node: str, epoch: int) -> None:
        """Write as a node from now on; what is not settled yet, under another epoch, is fenced."""
        self._batches.act_as(node, epoch)
        self._repeat(self._journal.unconfirmed() + self._removals.unconfirmed())

    # -- life --------------------------------------------------------------------------------------

    @inlineCallbacks
    def start(self) -> Any:
        """Open the ledger and connect; fails with a :class:`StoreError` in words."""
        if self.state is not StoreState.CLOSED:
            raise StoreError(StoreFault.OTHER, f"{self.link.place}: already started")
        yield self._ledger.start()
        try:
            yield self.link.start()
        except Exception:  # whatever it is, nothing stays open
            yield self._ledger.stop()
            raise
        self._teller.become(StoreState.UP)

    @inlineCallbacks
    def stop(self) -> Any:
        """Settle what was written, then close."""
        if self.state is StoreState.CLOSED:
            return
        yield self._batches.settle_all()
        self._teller.become(StoreState.CLOSED)
        self._batches.stop()
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        yield self.link.stop()
        yield self._ledger.stop()

    # -- records -----------------------------------------------------------------------------------

    def write(
        self, changes: Sequence[Change], done: Done | None = None, *, within: float = 0.0
    ) -> None:
        """Make changes, all or none of them; see :class:`~impfed.store.api.IStore`."""
        error: StoreError | None = None
        try:
            write = prepared(changes)
        except (TypeError, ValueError, msgspec.MsgspecError) as problem:
            error = StoreError(StoreFault.OTHER, f"cannot write a record down: {problem}")
        else:
            done = self._journaled(write[0], done)
            error = self._refusal(bool(write[0]))
        if error is not None:
            self._clock.callLater(0, lambda: call_done(done, error))
            return
        self._batches.add(write, done, within)

    def _journaled(self, flat: list[Argument], done: Done | None) -> Done | None:
        now = self._clock.seconds()
        noted = self._journal.note(flat, now) + self._removals.note(flat, now)
        if not noted:
            return done

        def confirmed(error: BaseException | None) -> None:
            if error is None:
                for entry in noted:
                    entry.confirmed_at = self._clock.seconds()
            call_done(done, error)

        return confirmed

    def repeat(self) -> Deferred[None]:
        """Make this node's last changes again that the store may have lost, or could not take.

        Those that nobody else writes again: of common records, and of what is no more.  Fires when all have
        been tried.
        """
        now = self._clock.seconds()
        return self._repeat(self._journal.lately(now) + self._removals.lately(now))

    def _repeat(self, entries: list[Entry]) -> Deferred[None]:
        for entry in entries:

            def confirmed(error: BaseException | None, entry: Entry = entry) -> None:
                if error is None or isinstance(error, Fenced):  # another node has it now
                    entry.confirmed_at = self._clock.seconds()

            self._batches.add((list(entry.change), []), confirmed, 0.0)
        return self._batches.settle_all()

    def superseded(self, kind: type[Record], keys: Iterable[str]) -> None:
        """Other nodes have changed these common records; what this one made of them before is past."""
        self._journal.superseded(kind.kind, keys)

    def changed_here(self, kind: type[Record], key: str) -> bool:
        """Whether this node has made the last change of a common record, and not long ago."""
        return self._journal.holds(kind.kind, key)

    def _refusal(self, records: bool) -> StoreError | None:
        if self.state is StoreState.CLOSED:
            return self._error(StoreFault.STOPPED, "it is not open")
        if self.state is StoreState.GONE and records:
            return self._error(StoreFault.UNAVAILABLE, "it cannot be reached")
        if self.backlog >= self._backlog_limit:
            return self._error(StoreFault.OVERLOADED, f"{self.backlog} writes wait for it")
        return None

    def load(self, kind: type[RecordType]) -> Deferred[list[RecordType]]:
        """Return the records of a kind; of those with owners, this node's."""
        return self._load(kind, self.node if kind.owned else None)

    @inlineCallbacks
    def each(
        self, kind: type[RecordType], take: Callable[[list[RecordType]], None]
    ) -> Generator[Deferred[Any], Any, None]:
        """Call ``take`` with them all; the next portion is read meanwhile, in no order."""
        yield from self._portions(kind, self.node if kind.owned else None, take)

    def load_of(self, owner: str, kind: type[RecordType]) -> Deferred[list[RecordType]]:
        """Return the records of a kind that a node owns, "" for those that nobody has claimed."""
        return self._load(kind, owner)

    @inlineCallbacks
    def _load(
        self, kind: type[RecordType], owner: str | None
    ) -> Generator[Deferred[Any], Any, list[RecordType]]:
        found: list[RecordType] = []
        yield from self._portions(kind, owner, found.extend)
        found.sort(key=lambda record: record.key)
        return found

    def _portions(
        self,
        kind: type[RecordType],
        owner: str | None,
        take: Callable[[list[RecordType]], None],
    ) -> Generator[Deferred[Any], Any, None]:
        """Hand over the records of an owner, "" for nobody's, None where the kind has no owners."""
        if self.state is StoreState.CLOSED:
            raise self._error(StoreFault.STOPPED, "it is not open")
        yield self._batches.settle_all()
        seen: set[bytes] = set()  # a record may come twice while the server makes room for others
        whose = "*" if owner is None else f"={owner}"
        asked = self.ask("rows", kind.kind, whose, b"0", _CHUNK)
        while True:
            cursor, flat = yield asked
            if cursor != b"0":  # the server goes on while we read what it has sent
                asked = self.ask("rows", kind.kind, whose, cursor, _CHUNK)
            rows = pairs(flat)
            for start in range(0, len(rows), _PORTION):
                if start:  # what is asked goes out, and what is answered comes in, between turns
                    yield self._sleep(0.0)
                portion = []
                for key, data in rows[start : start + _PORTION]:
                    if key in seen:
                        continue
                    seen.add(key)
                    record = self._decoded(kind, key, data)
                    if record is not None:
                        portion.append(record)
                take(portion)
            if cursor == b"0":
                return

    def _decoded(self, kind: type[RecordType], key: bytes, data: bytes) -> RecordType | None:
        try:
            return decode(kind, data)
        except msgspec.MsgspecError as problem:
            _log.error(
                "record_unreadable",
                "a {kind} record in {path} cannot be read and is left out: {problem} (key {key})",
                kind=kind.kind,
                path=self.link.place,
                key=key.decode("utf-8", "replace"),
                problem=str(problem),
            )
            return None

    @inlineCallbacks
    def get(self, kind: type[RecordType], keys: Sequence[str]) -> Any:
        """Return {key: record}, of this node's own if the kind has owners; others are left out."""
        if not keys:
            return {}
        yield self._batches.settle_all()
        place = f"{kind.kind}:{self.node}" if kind.owned else kind.kind
        values = yield self.ask("get", place, *map(_octets, keys))
        found = {}
        for key, data in zip(keys, values, strict=True):
            if data is not None and (record := self._decoded(kind, key.encode(), data)) is not None:
                found[key] = record
        return found

    @inlineCallbacks
    def pull(self, kind: type[RecordType], key: str) -> Any:
        """Remove a record that belongs to all nodes and return it; see IStore."""
        yield self._batches.settle_all()
        answer = yield self.ask("pull", kind.kind, _octets(key), self._writer)
        return self._decoded(kind, key.encode(), answer[0]) if answer else None

    @inlineCallbacks
    def counts(self, kind: type[Record]) -> Any:
        """Return {owner: number of records}; a kind without owners has the one owner "="."""
        flat = yield self.ask("counts", kind.kind)
        counted = {owner.decode(): count for owner, count in pairs(flat)}
        return {
            owner: count
            for owner, count in counted.items()
            if (owner != "=") is kind.owned and (count or owner == "=")
        }

    # -- who owns what -----------------------------------------------------------------------------

    @inlineCallbacks
    def find(self, kind: type[RecordType], key: str) -> Any:
        """Return (owner, record) of a record with an owner, or None when it is not there."""
        answer = yield self.ask("find", kind.kind, _octets(key))
        if not answer:
            return None
        record = self._decoded(kind, key.encode(), answer[1])
        return None if record is None else (answer[0].decode(), record)

    @inlineCallbacks
    def take(self, kind: type[RecordType], key: str) -> Any:
        """Take over one record of a node that is suspected or dead ("adopt on touch").

        Returns (owner, record): the owner is this node when it has been taken, else the node that
        holds it, and None stands for a record that is not there.  Fails with :class:`Fenced`.
        """
        yield self._batches.settle_all()
        answer = yield self._asked_as_node("take", kind.kind, _octets(key))
        if answer[0] == b"none":
            return None
        if answer[0] == b"held":
            return answer[1].decode(), None
        return self.node, self._decoded(kind, key.encode(), answer[1])

    def adopt(self, kind: type[Record], owner: str, keys: Sequence[str]) -> Deferred[list[str]]:
        """Take over records of a dead node, or unclaimed ones (""); returns the keys that are ours now.

        Fails with :class:`Fenced`, also when the other node lives after all.
        """
        return self._move("adopt", kind, owner, keys)

    def give(
        self, kind: type[Record], to: str, keys: Sequence[str], generation: int
    ) -> Deferred[list[str]]:
        """Give records of this node to a live one; returns the keys that the other has now.

        Fails with :class:`Fenced`, also when the other node is not live, or the generation by which
        they are its own is over.
        """
        return self._move("give", kind, to, keys, generation)

    @inlineCallbacks
    def _move(
        self, operation: str, kind: type[Record], other: str, keys: Sequence[str], *more: Argument
    ) -> Any:
        yield self._batches.settle_all()
        moved: list[str] = []
        for start in range(0, len(keys), _CHUNK):
            part = [_octets(key) for key in keys[start : start + _CHUNK]]
            answer = yield self._asked_as_node(operation, kind.kind, other, *more, *part)
            if why := _NOT_MOVED.get(answer[0]):
                raise Fenced(f"{self.link.place}: node {other} {why}", other)
            moved += [key.decode() for key in answer[1:]]
        return moved

    @inlineCallbacks
    def _asked_as_node(self, operation: str, *arguments: Argument) -> Any:
        answer = yield self.ask(operation, self.node, self.epoch, *arguments)
        if answer[0] in (b"fenced", b"unknown"):
            raise self._batches.fenced(answer)
        return answer

    @inlineCallbacks
    def ask(self, operation: str, *arguments: Argument) -> Any:
        """Ask for an operation that may be repeated, until it is answered or patience ends."""
        end = self._clock.seconds() + PATIENCE
        while True:
            left = end - self._clock.seconds()
            if self.state is StoreState.CLOSED:
                raise self._error(StoreFault.STOPPED, "it is not open")
            if not self.link.up:
                if self.state is StoreState.GONE or left <= 0:
                    raise self._error(StoreFault.UNAVAILABLE, "it cannot be reached")
                risen: Deferred[None] = Deferred()
                self._upward.append(risen)
                wake = self._clock.callLater(min(left, GRACE), partial(_fire, risen))
                yield risen
                if wake.active():
                    wake.cancel()
                continue
            try:
                answer = yield self.link.call(
                    operation, *arguments, timeout=max(0.1, min(2.0, left))
                )
            except StoreError as error:
                passing = error.fault in PASSING
                if not passing or left <= _AGAIN or self.state is StoreState.GONE:
                    raise
                if self.link.up:
                    yield self._sleep(_AGAIN)
            else:
                return answer

    # -- the ledger --------------------------------------------------------------------------------

    @inlineCallbacks
    def ledger(
        self, *, id: str = "", address: str = "", since: float = 0.0, limit: int = 100
    ) -> Any:
        """Return entries of this node's ledger, newest first."""
        yield self._batches.settle_all()
        return (yield self._ledger.ledger(id=id, address=address, since=since, limit=limit))

    @inlineCallbacks
    def purge_ledger(self, before: float) -> Any:
        """Remove entries received before a time."""
        yield self._batches.settle_all()
        return (yield self._ledger.purge_ledger(before))

    @inlineCallbacks
    def move_ledger(self, local: str, to: str) -> Any:
        """Give a local user's entries to another address, or remove them if it is ""."""
        yield self._batches.settle_all()
        return (yield self._ledger.move_ledger(local, to))

    # -- the link ----------------------------------------------------------------------------------

    def _link_changed(self, up: bool) -> None:
        if self.state is StoreState.CLOSED:
            return
        if up:
            if self._grace is not None:
                self._grace.cancel()
                self._grace = None
            if self.state is StoreState.GONE:
                self._teller.become(StoreState.UP)
            self._batches.advance()
        elif self._grace is None and self.state is not StoreState.GONE:
            self._grace = self._clock.callLater(GRACE, self._gone)
        upward, self._upward = self._upward, []
        for risen in upward:
            _fire(risen)

    def _gone(self) -> None:
        self._grace = None
        self._teller.become(StoreState.GONE)

    def _outcome(self, error: StoreError | None) -> None:
        if error is None and self.state is StoreState.REFUSING:
            _log.info("write_recovered", "{place} takes writes again", place=self.link.place)
            self._teller.become(StoreState.UP)
        elif error is not None and error.fault in _REFUSING and self.state is StoreState.UP:
            _log.error("write_failed", "{reason}", reason=error.text, fault=error.fault.value)
            self._teller.become(StoreState.REFUSING)

    def _sleep(self, seconds: float) -> Deferred[None]:
        slept: Deferred[None] = Deferred()
        self._clock.callLater(seconds, partial(_fire, slept))
        return slept

    def _error(self, fault: StoreFault, words: str) -> StoreError:
        return StoreError(fault, f"{self.link.place}: {words}")


def _fire(waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(None)


def _octets(key: str) -> bytes:
    return readable(key).encode()
