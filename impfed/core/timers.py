"""One heap of timers, driven from outside: a core says when it wants to be woken, and is woken.

Hundreds of thousands of things that sleep for an hour are noted in an :class:`Agenda` instead, where
each costs a place in a list until its minute has come.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Protocol


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


class Sleeper(Protocol):
    """What an agenda wakes.

    :ivar alarm: the agenda's own note of it; None at first.
    """

    alarm: Page | Timer | None

    @property
    def due(self) -> float | None:
        """When it wants to be woken; None for never."""
        ...

    def wake(self) -> None:
        """Do what is due."""
        ...


class Page:
    """Those who are due in the same minute; it is opened when the minute begins."""

    __slots__ = ("_gone", "sleepers", "when")

    def __init__(self, when: float) -> None:
        self.when = when
        self.sleepers: list[Sleeper] = []
        self._gone = 0

    def leave(self) -> None:
        """Count one who has another alarm now; once they are half of the page they are struck."""
        self._gone += 1
        if self._gone > 64 and self._gone * 2 > len(self.sleepers):
            there = (sleeper for sleeper in self.sleepers if sleeper.alarm is self)
            self.sleepers = list(dict.fromkeys(there))
            self._gone = 0


class Agenda:
    """Wakes each of many sleepers exactly when it is due.

    :param heap: has a timer for each page, and for each sleeper of the present minute.
    :param minute: length of a page, in seconds.
    """

    __slots__ = ("_heap", "_minute", "_pages")

    def __init__(self, heap: TimerHeap, minute: float = 60.0) -> None:
        self._heap = heap
        self._minute = minute
        self._pages: dict[float, Page] = {}

    def note(self, sleeper: Sleeper, now: float) -> bool:
        """Have a sleeper woken when he is due; to be called whenever that may have changed.

        :return: whether there is a new timer in the heap.
        """
        due, alarm = sleeper.due, sleeper.alarm
        if alarm is not None:
            if due is not None and alarm.when <= due:
                if isinstance(alarm, Page):
                    return False  # he is looked at in time, and noted anew
                if due < now + self._minute:
                    alarm.postpone(due)
                    return False
            self.dismiss(sleeper)
        if due is None:
            return False
        begin = due // self._minute * self._minute
        if begin <= now:
            sleeper.alarm = self._heap.at(max(due, now), self._ring, sleeper)
            return True
        new = begin not in self._pages
        page = self._new_page(begin) if new else self._pages[begin]
        page.sleepers.append(sleeper)
        sleeper.alarm = page
        return new

    def _new_page(self, begin: float) -> Page:
        page = self._pages[begin] = Page(begin)
        self._heap.at(begin, self._open, page)
        return page

    @staticmethod
    def dismiss(sleeper: Sleeper) -> None:
        """Do not wake a sleeper any more."""
        alarm, sleeper.alarm = sleeper.alarm, None
        if isinstance(alarm, Timer):
            alarm.cancel()
        elif alarm is not None:
            alarm.leave()

    def _open(self, page: Page) -> None:
        del self._pages[page.when]
        for sleeper in page.sleepers:
            if sleeper.alarm is page:
                sleeper.alarm = None
                self.note(sleeper, page.when)

    @staticmethod
    def _ring(sleeper: Sleeper) -> None:
        sleeper.alarm = None
        sleeper.wake()
