"""What every store that commits many writes at once does: gather, send, confirm, tell its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall

from impfed.core.log import EventLog
from impfed.store.api import Done, Observer, StoreState, call_done

Item = TypeVar("Item")

_log = EventLog("impfed.store")


class Clock(Protocol):
    """What gathering needs of a reactor."""

    def callLater(self, delay: float, callable: Any, /) -> IDelayedCall:
        """Call after a delay (seconds)."""

    def seconds(self) -> float:
        """Return the time (seconds since the epoch)."""


class StateTeller:
    """A store's state, and who wants to hear of it.

    :ivar state: how the store is.
    """

    def __init__(self) -> None:
        self.state = StoreState.CLOSED
        self._observers: list[Observer] = []

    def observe(self, observer: Observer) -> None:
        """Call the observer whenever the state has changed."""
        self._observers.append(observer)

    def become(self, state: StoreState) -> None:
        """Take a state, and tell it if it is another one; what an observer raises is logged."""
        if state is self.state:
            return
        self.state = state
        for observer in self._observers:
            try:
                observer(state)
            except Exception:  # one must not keep the news from the next
                _log.failure("observer_raised", "an observer of the store's state raised")


class WriteQueue(Generic[Item]):
    """Gathers writes in the reactor thread until the end of the turn, and sends them together.

    While writes come densely a batch is put off until a few milliseconds after the one before, so
    that the cost of a commit is shared by more of them; a write that comes alone is sent at once.
    Until a batch is settled the next one gathers, except at :meth:`flush_all`.

    :param send: takes a batch and who waits for it; each batch ends with :meth:`settled`.
    :param gather: longest time that a write waits for company, in seconds.
    :param batch_limit: most writes in one batch.
    :ivar backlog: writes that are not settled.
    """

    def __init__(
        self,
        clock: Clock,
        send: Callable[[list[Item], list[Done | None]], None],
        gather: float,
        batch_limit: int,
    ) -> None:
        self._clock = clock
        self._send = send
        self._gather = gather
        self._batch_limit = batch_limit
        self._pending: list[tuple[Item, Done | None]] = []
        self._flush_call: IDelayedCall | None = None
        self._in_flight = 0
        self._flushed_at = 0.0
        self._dense = False
        self._patience = 0.0  # how long what is pending may wait, counted from the first of it
        self.backlog = 0

    def add(self, item: Item, done: Done | None, within: float) -> None:
        """Take a write over."""
        self.backlog += 1
        self._pending.append((item, done))
        first = len(self._pending) == 1
        hurry = not first and within < self._patience
        if first or hurry:
            self._patience = within
        if self._in_flight:
            return
        if self._flush_call is None:
            self._schedule()
        elif hurry:
            self._flush_call.cancel()
            self._schedule()

    def flush_all(self) -> None:
        """Send everything now."""
        self._cancel()
        while self._pending:
            self._flush()

    def refuse(self, error: BaseException) -> None:
        """Fail everything that was not sent yet."""
        self._cancel()
        pending, self._pending = self._pending, []
        self.backlog -= len(pending)
        for _, done in pending:
            call_done(done, error)

    def settled(self, dones: Sequence[Done | None], errors: Sequence[BaseException | None]) -> None:
        """End a batch: call everybody who waits for it, in order."""
        self._in_flight -= 1
        self.backlog -= len(dones)
        if self._pending and self._flush_call is None and not self._in_flight:
            self._schedule()
        for done, error in zip(dones, errors, strict=True):
            call_done(done, error)

    def _cancel(self) -> None:
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None

    def _schedule(self) -> None:
        delay = self._patience
        if not delay and self._dense:
            since = self._clock.seconds() - self._flushed_at
            delay = min(self._gather, max(0.0, self._gather - since))
        self._flush_call = self._clock.callLater(delay, self._flush_now)

    def _flush_now(self) -> None:
        self._flush_call = None
        self._flush()

    def _flush(self) -> None:
        limit = self._batch_limit
        batch, self._pending = self._pending[:limit], self._pending[limit:]
        if not batch:
            return
        self._patience = 0.0
        now = self._clock.seconds()
        # Dense: another gathering time would bring company at the pace since the flush before.
        self._dense = len(batch) * self._gather >= 2 * (now - self._flushed_at)
        self._flushed_at = now
        self._in_flight += 1
        self._send([item for item, _ in batch], [done for _, done in batch])
