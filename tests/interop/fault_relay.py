"""A relay of TCP connections that spoils them as it is told: what networks do to processes.

Usage: python -m tests.interop.fault_relay

Commands on standard input, one JSON object a line, each answered with ``done`` and its id:

``open`` (link, port, target)
    listen on a port, and carry what connects there to another port of this machine
``spoil`` (link, way, and fields of :class:`Faults`)
    from now on, also what is connected already; fields that are not named are as if nothing were wrong
``cut``, ``mend`` (link)
    reset what is connected and refuse what comes; take connections again
``reset`` (link), ``half_close`` (link, way)
    what is connected now: RST to both ends; FIN to one, while the other way goes on
``report`` (link)
    ``done`` tells ``open`` connections, octets ``carried`` each way, and the most that was ``held``

A way is "out", from who has dialled to the target, or "back", or "both".
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

reactor: Any = _reactor
HOST = "127.0.0.1"
WAYS = ("out", "back")
#: Octets that a way holds before it reads no more.
HOLD = 65536


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with one way of a link.

    :ivar latency: seconds that octets are late; ``jitter``: seconds more at most, at random.
    :ivar rate: octets a second; 0: nothing is read, so that the sender's window closes.
    :ivar slice: octets that pass at a time; 0: as they come.
    :ivar hole: everything is swallowed, the end too.
    :ivar limit: octets of a connection that pass before both ends are reset; 0: all.
    :ivar linger: seconds by which the end is late.
    """

    latency: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    slice: int = 0
    hole: bool = False
    limit: int = 0
    linger: float = 0.0


@dataclass
class Link:
    """A port that leads to a target, and what goes over it.

    :ivar faults: by way; ``carried``: octets, by way.
    """

    port: int
    target: int
    faults: dict[str, Faults] = field(default_factory=lambda: dict.fromkeys(WAYS, Faults()))
    carried: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    held: int = 0
    connections: set[Connection] = field(default_factory=set)
    listening: Any = None

    def mend(self) -> None:
        """Take connections."""
        if self.listening is None:
            self.listening = reactor.listenTCP(self.port, Doors(self), interface=HOST)

    def cut(self) -> None:
        """Refuse connections, and reset those that there are."""
        if self.listening is not None:
            self.listening.stopListening()
            self.listening = None
        self.reset()

    def reset(self) -> None:
        """Reset what is connected."""
        for connection in list(self.connections):
            connection.reset()

    def spoil(self, way: str, faults: Faults) -> None:
        """Have what goes one way spoilt; what has a hole in it cannot be mended."""
        self.faults[way] = faults
        for connection in list(self.connections):
            if connection.flows[way].swallowed and not faults.hole:
                connection.reset()
            else:
                connection.flows[way].go()


class Doors(Factory):
    """Takes the connections of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, _: Any) -> Side:
        return Connection(self._link).near


@implementer(IHalfCloseableProtocol)
class Side(Protocol):
    """One end of a connection: what it reads goes into ``flow``."""

    flow: Flow
    transport: Any

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.gone = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.connection.made(self)

    def dataReceived(self, data: bytes) -> None:
        self.flow.take(data)

    def readConnectionLost(self) -> None:
        self.flow.take(b"")

    def writeConnectionLost(self) -> None:
        """The peer may still send."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
        self.connection.lost(self, reason)


class Connection:
    """Two ends and the two ways between them.

    :ivar near: the end towards who has dialled; ``far``: towards the target.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.near, self.far = Side(self), Side(self)
        self.flows = {
            "out": Flow(self, "out", self.near, self.far),
            "back": Flow(self, "back", self.far, self.near),
        }

    def made(self, side: Side) -> None:
        """An end is connected: dial the other, or begin."""
        if side is self.near:
            self.link.connections.add(self)
            side.transport.pauseProducing()
            target = TCP4ClientEndpoint(reactor, HOST, self.link.target)
            connectProtocol(target, self.far).addErrback(lambda _: self.reset())
            return
        if self.near.gone:
            self.reset()
            return
        for flow in self.flows.values():
            flow.begin()

    def lost(self, side: Side, reason: Failure) -> None:
        """An end has gone: the other goes as well, the same way, unless a hole hides it."""
        if self.near.gone and (self.far.gone or self.far.transport is None):
            self.link.connections.discard(self)
        if not side.flow.faults.hole and not reason.check(ConnectionDone):
            self.reset()

    def reset(self) -> None:
        """RST to both ends."""
        for side in (self.near, self.far):
            if side.transport is not None:
                side.transport.abortConnection()


@implementer(IPushProducer)
class Flow:
    """What goes one way over a connection: octets, each with the time when it is due; b"" is the end."""

    def __init__(self, connection: Connection, way: str, source: Side, sink: Side) -> None:
        self._connection, self._way = connection, way
        self._source, self._sink = source, sink
        self._queue: deque[tuple[float, bytes]] = deque()
        self._held = self._passed = 0
        self._free = 0.0  # when the rate lets the next octets pass
        self._begun = False
        self._full = False  # the other end takes nothing now
        self._ended = False
        self._timer: Any = None
        self.swallowed = False
        source.flow = self

    @property
    def faults(self) -> Faults:
        return self._connection.link.faults[self._way]

    def begin(self) -> None:
        """Both ends are there."""
        self._begun = True
        self._sink.transport.registerProducer(self, True)
        self.go()

    def take(self, data: bytes) -> None:
        """Take what was read; what comes after the end is nothing."""
        faults = self.faults
        if faults.hole:
            self.swallowed = True
        if faults.hole or self._ended:
            return
        self._ended = not data
        late = faults.latency + random.uniform(0, faults.jitter)
        if not data:
            late += faults.linger
        last = self._queue[-1][0] if self._queue else 0.0
        self._queue.append((max(last, reactor.seconds() + late), data))
        self._held += len(data)
        self._connection.link.held = max(self._connection.link.held, self._held)
        self.go()

    def go(self) -> None:
        """Pass on what may pass now, and read if there is room."""
        if not self._begun:
            return
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        faults = self.faults
        while self._queue and not self._full and faults.rate != 0:
            due, data = self._queue.popleft()
            if (wait := max(due, self._free) - reactor.seconds()) > 0:
                self._queue.appendleft((due, data))
                self._timer = reactor.callLater(wait, self.go)
                break
            size = self._portion(faults, data)
            if data[size:]:
                self._queue.appendleft((due, data[size:]))
            self._pass(faults, data[:size])
        if faults.rate == 0 or self._held >= HOLD or self._ended:
            self._source.transport.pauseProducing()
        else:
            self._source.transport.resumeProducing()

    def _portion(self, faults: Faults, data: bytes) -> int:
        sizes = [len(data)]
        if faults.slice:
            sizes.append(faults.slice)
        if faults.rate:
            sizes.append(max(1, int(faults.rate / 20)))
        return min(sizes)

    def _pass(self, faults: Faults, data: bytes) -> None:
        transport = self._sink.transport
        if not data:
            transport.unregisterProducer()
            transport.loseWriteConnection()
            return
        self._held -= len(data)
        self._passed += len(data)
        self._connection.link.carried[self._way] += len(data)
        if faults.rate:
            self._free = reactor.seconds() + len(data) / faults.rate
        elif faults.slice:
            self._free = reactor.seconds() + 0.001  # a packet of its own
        transport.write(data)
        if faults.limit and self._passed >= faults.limit:
            self._connection.reset()

    # The other end's transport tells whether it takes anything.

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self.go()

    def stopProducing(self) -> None:
        self._queue.clear()
        self._full = True


class Commands(LineOnlyReceiver):
    """Standard input and output."""

    delimiter = b"\n"

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}

    def lineReceived(self, line: bytes) -> None:
        if line == b"quit":
            reactor.stop()
            return
        command = json.loads(line)
        do, number, name = command.pop("do"), command.pop("id"), command.pop("link")
        if do == "open":
            self._links[name] = Link(command["port"], command["target"])
            self._links[name].mend()
        told = getattr(self, f"_{do}", self._nothing)(self._links[name], **command)
        answer = {"event": "done", "id": number, **(told or {})}
        self.sendLine(json.dumps(answer).encode())

    def _nothing(self, link: Link, **_: Any) -> None:
        """What ``open`` has left to do."""

    def _spoil(self, link: Link, way: str, **faults: Any) -> None:
        for each in ways(way):
            link.spoil(each, Faults(**faults))

    def _cut(self, link: Link) -> None:
        link.cut()

    def _mend(self, link: Link) -> None:
        link.mend()

    def _reset(self, link: Link) -> None:
        link.reset()

    def _half_close(self, link: Link, way: str) -> None:
        for connection in link.connections:
            for each in ways(way):
                connection.flows[each].take(b"")

    def _report(self, link: Link) -> dict[str, Any]:
        return {"open": len(link.connections), "carried": link.carried, "held": link.held}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reactor.running:
            reactor.stop()


def ways(way: str) -> Sequence[str]:
    """Return the ways that are meant."""
    return WAYS if way == "both" else (way,)


if __name__ == "__main__":
    StandardIO(Commands())
    reactor.run()
