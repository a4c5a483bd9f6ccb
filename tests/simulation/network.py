"""The network: byte streams between addresses, as TCP gives them, and what can befall them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet import error

from tests.simulation.connection import Connector, Datagrams, End, Port
from tests.simulation.loop import Loop, SimReactor

_FIRST_PORT = 40000


@dataclass
class Weather:
    """How the network behaves.

    :ivar latency: least and greatest time on the way, in seconds.
    :ivar sliced: share of the writes that arrive in several pieces.
    :ivar reset: probability that a write finds its connection broken.
    """

    latency: tuple[float, float] = (0.0005, 0.005)
    sliced: float = 0.0
    reset: float = 0.0


class Network:
    """Everything between the processes.

    :ivar weather: changed by whoever makes faults.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.weather = Weather()
        self._listeners: dict[tuple[str, int], Port] = {}
        self._ends: list[End] = []
        self._bound: dict[tuple[str, int], Datagrams] = {}
        self._parted: set[frozenset[str]] = set()
        self._port = _FIRST_PORT

    # -- faults ----------------------------------------------------------------------------------

    def part(self, one: str, other: str) -> None:
        """Let nothing pass between two addresses, without a word: packets are lost."""
        self._parted.add(frozenset((one, other)))

    def join(self, one: str, other: str) -> None:
        """Let everything pass again; connections that lost something are found dead."""
        self._parted.discard(frozenset((one, other)))

    def join_all(self) -> None:
        """Heal every partition."""
        self._parted.clear()

    def parted(self, one: str, other: str) -> bool:
        """Whether nothing passes between two addresses."""
        return frozenset((one, other)) in self._parted

    def under_way(self, host: str) -> int:
        """Return how many octets an address has sent on one connection, at most, that nobody has read."""
        return max((end.under_way for end in self._ends if end.here[0] == host), default=0)

    def cut(self, one: str, other: str) -> int:
        """Break every connection between two addresses; returns how many."""
        pair = {one, other}
        ends = [end for end in self._ends if {end.here[0], end.there[0]} == pair and end.client]
        for end in ends:
            end.break_off()
        return len(ends)

    def process_died(self, reactor: SimReactor, silent: bool) -> None:
        """A process is gone: its system resets its connections, unless it is gone, too."""
        reactor.alive = False
        for key in [key for key, port in self._listeners.items() if port.reactor is reactor]:
            del self._listeners[key]
        for key in [key for key, port in self._bound.items() if port.reactor is reactor]:
            del self._bound[key]
        for end in [end for end in self._ends if end.reactor is reactor]:
            end.closed = True
            self._ends.remove(end)
            if silent:
                end.mute = True
            else:
                at = max(end.sent_until, self.loop.now + self.delay())
                self.loop.at(at, lambda end=end: end.peer.arrive_end(error.ConnectionLost()))

    # -- connections -----------------------------------------------------------------------------

    def listen(self, reactor: SimReactor, port: int, factory: Any) -> Port:
        """Take connections at an address."""
        key = (reactor.host, port)
        if key in self._listeners:
            raise error.CannotListenError(reactor.host, port, OSError("in use"))
        self._listeners[key] = listener = Port(self, reactor, port, factory)
        factory.doStart()
        return listener

    def closed(self, port: Port) -> None:
        """Take no more connections."""
        self._listeners.pop((port.reactor.host, port.number), None)

    def connect(
        self, reactor: SimReactor, host: str, port: int, factory: Any, timeout: float
    ) -> Connector:
        """Begin a connection."""
        self._port += 1
        here = (reactor.host, self._port)
        connector = Connector(self, reactor, (host, port), factory, here)
        factory.doStart()
        factory.startedConnecting(connector)
        if self.parted(reactor.host, host):
            self.loop.after(timeout, lambda: connector.failed(error.TimeoutError()))
        else:
            self.loop.after(self.delay(), lambda: self._arrived(connector))
            self.loop.after(timeout, lambda: connector.failed(error.TimeoutError()))
        return connector

    def _arrived(self, connector: Connector) -> None:
        listener = self._listeners.get(connector.there)
        if connector.over or not connector.reactor.alive:
            return
        if listener is None:
            connector.failed(error.ConnectionRefusedError())
            return
        client = End(self, connector.reactor, connector.here, connector.there, True)
        server = End(self, listener.reactor, connector.there, connector.here, False)
        client.peer, server.peer = server, client
        self._ends += [client, server]
        server.reactor.happen(server.open, listener.factory)
        self.loop.after(self.delay(), lambda: connector.connected(client))

    def bind(self, reactor: SimReactor, port: int, protocol: Any) -> Datagrams:
        """Take datagrams at an address."""
        key = (reactor.host, port)
        if key in self._bound:
            raise error.CannotListenError(reactor.host, port, OSError("in use"))
        self._bound[key] = datagrams = Datagrams(self, reactor, port, protocol)
        protocol.makeConnection(datagrams)
        return datagrams

    def unbind(self, datagrams: Datagrams) -> None:
        """Take no more datagrams."""
        self._bound.pop(datagrams.here, None)

    def carry(self, data: bytes, here: tuple[str, int], there: tuple[str, int]) -> None:
        """Carry a datagram, which gets lost where nothing passes or nobody takes it."""

        def arrived() -> None:
            port = self._bound.get(there)
            if port is not None and not self.parted(here[0], there[0]):
                port.reactor.happen(port.protocol.datagramReceived, data, here)

        self.loop.after(self.delay(), arrived)

    def delay(self) -> float:
        """Draw a time on the way."""
        return self.loop.random.uniform(*self.weather.latency)

    def forget(self, end: End) -> None:
        """A connection is over at one end."""
        if end in self._ends:
            self._ends.remove(end)
