"""Time: one heap of events for everybody, and a reactor for each process that lives in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IReactorCore, IReactorTCP, IReactorTime, IReactorUDP
from zope.interface import implementer

if TYPE_CHECKING:
    from tests.simulation.network import Network

#: When every run begins, in seconds since the epoch.
START = 1_790_000_000.0


class Loop:
    """What happens when, in order; events of the same instant in the order in which they were made.

    :ivar now: the true time; a process may see another one.
    :ivar random: the source of every choice that a run makes.
    """

    def __init__(self, seed: int) -> None:
        self.now = START
        self.random = Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Arrange for a call at a time; at once, if that has passed."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, call))

    def after(self, delay: float, call: Callable[[], None]) -> None:
        """Arrange for a call in so many seconds."""
        self.at(self.now + delay, call)

    def run(self, until: float) -> None:
        """Let happen what is due up to a time."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call = heapq.heappop(heap)
            call()
        self.now = until

    @property
    def digest(self) -> tuple[int, float]:
        """What two runs of one seed must agree on: how many events were made, and the state of chance."""
        return self._count, self.random.random()


@implementer(IReactorCore, IReactorTime, IReactorTCP, IReactorUDP)
class SimReactor:
    """The reactor of one process at one address.

    :ivar skew: how far its clock is ahead, in seconds.
    :ivar alive: whether the process lives; nothing happens in a dead one.
    :ivar ended: called when the process ends by itself.
    """

    def __init__(self, loop: Loop, network: Network, host: str) -> None:
        self.loop = loop
        self.network = network
        self.host = host
        self.skew = 0.0
        self.alive = True
        self.ended: Callable[[], None] = self._gave_up
        self.running = True
        self.nameResolver = None
        self._paused_until = 0.0
        self._paused = False
        self._late: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    # -- the process ---------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Let the process stand still: its timers and what arrives wait."""
        self._paused_until = max(self._paused_until, self.loop.now + seconds)
        self._paused = True
        self.loop.at(self._paused_until, self._wake)

    def _wake(self) -> None:
        """Let happen what has waited, in the order in which it came; or sleep on."""
        if self.loop.now < self._paused_until:
            return
        self._paused = False
        late, self._late = self._late, []
        for call, arguments in late:
            self.happen(call, *arguments)

    def happen(self, call: Callable[..., None], *arguments: Any) -> None:
        """Let something happen in the process: now, when it wakes, or never."""
        if self._paused:
            self._late.append((call, arguments))
        elif self.alive:
            call(*arguments)

    # -- IReactorTime --------------------------------------------------------------------------

    def seconds(self) -> float:
        """Return the time as this process sees it."""
        return self.loop.now + self.skew

    def callLater(self, delay: float, call: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """Call later; the clock of the process may jump meanwhile, the delay stays."""
        due = self.loop.now + delay
        delayed = DelayedCall(
            due, call, args, kw, lambda _: None, self._moved, lambda: self.loop.now
        )
        self._schedule(delayed)
        return delayed

    def getDelayedCalls(self) -> list[Any]:
        """Twisted: not asked for by anybody here."""
        return []

    def _schedule(self, delayed: DelayedCall) -> None:
        self.loop.at(delayed.getTime(), lambda: self._due(delayed))

    def _due(self, delayed: DelayedCall) -> None:
        if not delayed.active():
            return
        if delayed.getTime() > self.loop.now:
            self._schedule(delayed)  # it has been put off
            return
        self.happen(self._call, delayed)

    def _moved(self, delayed: DelayedCall) -> None:
        self._schedule(delayed)

    @staticmethod
    def _call(delayed: DelayedCall) -> None:
        if delayed.active():
            delayed.called = 1
            delayed.func(*delayed.args, **delayed.kw)

    # -- IReactorTCP ---------------------------------------------------------------------------

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Any:
        """Connect over the made-up network."""
        return self.network.connect(self, host, port, factory, timeout)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listen on the made-up network."""
        return self.network.listen(self, port, factory)

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> Any:
        """Take datagrams on the made-up network."""
        return self.network.bind(self, port, protocol)

    def listenUNIX(self, path: str, factory: Any, mode: int = 0o600, **_: Any) -> Any:
        """Nobody connects to a control socket here."""
        return _NoPort()

    # -- IReactorCore --------------------------------------------------------------------------

    def callWhenRunning(self, call: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Call at once: it runs."""
        self.callLater(0, call, *args, **kw)

    def callFromThread(self, call: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """There are no threads; later in this turn."""
        self.callLater(0, call, *args, **kw)

    def addSystemEventTrigger(
        self, phase: str, event: str, call: Callable[..., Any], *args: Any
    ) -> None:
        """Nothing is triggered: a process ends by being killed."""

    def installNameResolver(self, resolver: Any) -> Any:
        """Take another resolver of host names."""
        before, self.nameResolver = self.nameResolver, resolver
        return before

    def stop(self) -> None:
        """The process ends by itself: it cannot start."""
        self.ended()

    def _gave_up(self) -> None:
        raise AssertionError(f"the process at {self.host} gave up")


class _NoPort:
    """A port that nobody connects to."""

    def stopListening(self) -> None:
        """Nothing was listening."""
