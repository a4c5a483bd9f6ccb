"""Drives one heap of timers with one delayed call of the reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from impfed.core.log import EventLog
from impfed.core.timers import Agenda, Sleeper, Timer, TimerHeap

log = EventLog("impfed.transport")


class ReactorTimers:
    """Timers for any number of sessions at the price of one delayed call.

    :param reactor: provider of ``IReactorTime``; a ``Clock`` in tests.
    """

    __slots__ = ("_agenda", "_call", "_due", "_heap", "_reactor")

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._heap = TimerHeap()
        self._agenda = Agenda(self._heap)
        self._call: IDelayedCall | None = None
        self._due = 0.0  # what the call was made for; its own time is a little later

    def seconds(self) -> float:
        """Return the time in seconds since the epoch."""
        return self._reactor.seconds()

    def after(self, delay: float, call: Callable[..., None], *arguments: Any) -> Timer:
        """Arrange for ``call(*arguments)`` in ``delay`` seconds."""
        timer = self._heap.at(self._reactor.seconds() + delay, call, *arguments)
        self._arm()
        return timer

    def note(self, sleeper: Sleeper) -> None:
        """Have a sleeper woken when he is due; to be called whenever that may have changed."""
        if self._agenda.note(sleeper, self._reactor.seconds()):
            self._arm()

    def dismiss(self, sleeper: Sleeper) -> None:
        """Do not wake a sleeper any more."""
        self._agenda.dismiss(sleeper)

    def stop(self) -> None:
        """Drive the timers no longer."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _arm(self) -> None:
        due = self._heap.next
        call = self._call
        if due is None:
            return
        if call is not None and call.active():
            if self._due <= due:
                return
            call.cancel()
        delay = max(0.0, due - self._reactor.seconds())
        self._due = due
        self._call = self._reactor.callLater(delay, self._run)

    def _run(self) -> None:
        self._call = None
        try:
            self._heap.run(self._reactor.seconds())
        except Exception:
            # The faulty timer is spent; the others are as due as before and run in the next turn.
            log.failure("timer_failed", "a timer failed")
        finally:
            self._arm()
