"""One heap of timers, driven from outside: a core says when it wants to be woken, and is woken."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any


class Timer:
    """A pending call.  Cancelling is cheap; moving it later is cheaper still."""

    __slots__ = ("_heap", "arguments", "call", "when")

    def __init__(
        self, heap: TimerHeap, when: float, call: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        self._heap = heap
        self.when = when
        self.call: Callable[..., None] | None = call
        self.arguments = arguments

    @property
    def active(self) -> bool:
        """Whether the call is still to come."""
        return self.call is not None

    def cancel(self) -> None:
        """Forget the call.  Cancelling twice, or after it ran, does nothing."""
        if self.call is not None:
            self.call = None
            self.arguments = ()
            self._heap._cancelled += 1

    def postpone(self, when: float) -> None:
        """Move an active call to a later time; the heap notices when the old time comes."""
        self.when = when


class TimerHeap:
    """Timers in order of time.  Times are seconds on whatever axis the caller uses.

    The owner calls :meth:`run` when :attr:`next` has come.  A cancelled timer stays in the heap until
    its time or until half of the heap is dead.
    """

    __slots__ = ("_cancelled", "_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> Timer:
        """Arrange for ``call(*arguments)`` at a time."""
        timer = Timer(self, when, call, arguments)
        heappush(self._heap, (when, next(self._order), timer))
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].call is not None]
            heapify(self._heap)
            self._cancelled = 0
        return timer

    @property
    def next(self) -> float | None:
        """When the earliest timer may be due; None without any."""
        heap = self._heap
        while heap:
            when, _, timer = heap[0]
            if timer.call is None:
                heappop(heap)
                self._cancelled -= 1
            elif timer.when > when:
                heappop(heap)
                heappush(heap, (timer.when, next(self._order), timer))
            else:
                return when
        return None

    def run(self, now: float) -> None:
        """Call everything that is due, earliest first, including what becomes due meanwhile."""
        while (when := self.next) is not None and when <= now:
            timer = heappop(self._heap)[2]
            call, arguments = timer.call, timer.arguments
            timer.call, timer.arguments = None, ()
            if call is not None:
                call(*arguments)
