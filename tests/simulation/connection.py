"""Connections of the made-up network: byte streams as TCP gives them, and datagrams."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IConnector, IListeningPort, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.simulation.loop import SimReactor

if TYPE_CHECKING:
    from tests.simulation.network import Network

#: Seconds after which a system gives up a connection on which nothing is acknowledged.
UNACKNOWLEDGED = 30.0
#: Octets that a writer may have under way before its producer is paused.
HIGH_WATER = 65536


@implementer(IListeningPort)
class Port:
    """A listening port."""

    def __init__(self, network: Network, reactor: SimReactor, number: int, factory: Any) -> None:
        self.network = network
        self.reactor = reactor
        self.number = number
        self.factory = factory

    def startListening(self) -> None:
        """It listens from the beginning."""

    def stopListening(self) -> None:
        """Take no more connections."""
        self.network.closed(self)

    def getHost(self) -> IPv4Address:
        """Return the address."""
        return IPv4Address("TCP", self.reactor.host, self.number)


class Datagrams:
    """A port for datagrams: a transport.

    :ivar here: its address.
    """

    def __init__(self, network: Network, reactor: SimReactor, port: int, protocol: Any) -> None:
        self._network = network
        self.reactor = reactor
        self.here = (reactor.host, port)
        self.protocol = protocol

    def write(self, data: bytes, there: tuple[str, int]) -> None:
        """Send a datagram."""
        self._network.carry(data, self.here, there)

    def stopListening(self) -> None:
        """Take no more."""
        self._network.unbind(self)


@implementer(IConnector)
class Connector:
    """A connection that is being made."""

    def __init__(
        self,
        network: Network,
        reactor: SimReactor,
        there: tuple[str, int],
        factory: Any,
        here: tuple[str, int],
    ) -> None:
        self.network = network
        self.reactor = reactor
        self.there = there
        self.here = here
        self.factory = factory
        self.over = False
        self.end: End | None = None

    def connected(self, end: End) -> None:
        """The peer has taken it."""
        if self.over:
            end.break_off()
            return
        self.over = True
        self.end = end
        self.reactor.happen(end.open, self.factory)

    def failed(self, why: Exception) -> None:
        """The peer cannot be reached."""
        if not self.over:
            self.over = True
            self.reactor.happen(self.factory.clientConnectionFailed, self, Failure(why))

    def stopConnecting(self) -> None:
        """Give up."""
        if not self.over:
            self.over = True
            failure = Failure(error.UserError())
            self.reactor.happen(self.factory.clientConnectionFailed, self, failure)

    def disconnect(self) -> None:
        """Give up, or close."""
        if self.end is not None:
            self.end.loseConnection()
        else:
            self.stopConnecting()

    def getDestination(self) -> IPv4Address:
        """Return where it leads."""
        return IPv4Address("TCP", *self.there)


@implementer(ITransport)
class End:
    """One end of a connection: a transport.

    :ivar client: whether this end began it.
    :ivar mute: whether what this end sends is lost.
    :ivar under_way: octets sent and not read by the other end.
    """

    connected = True
    disconnecting = False

    def __init__(
        self,
        network: Network,
        reactor: SimReactor,
        here: tuple[str, int],
        there: tuple[str, int],
        client: bool,
    ) -> None:
        self.network = network
        self.reactor = reactor
        self.here = here
        self.there = there
        self.client = client
        self.peer: End = self
        self.protocol: Any = None
        self.closed = False
        self.mute = False
        self._early: list[Callable[[], None]] = []
        self.sent_until = 0.0  # when what was sent last arrives
        self._reading = True
        self._unread: list[bytes] = []
        self.under_way = 0
        self._producer: Any = None
        self._producing = True
        self._ended: Exception | None = None

    def open(self, factory: Any) -> None:
        """The connection stands: make the protocol."""
        if self.closed:
            return
        self.protocol = factory.buildProtocol(self.getPeer())
        if self.protocol is None:
            self.break_off()
            return
        self.protocol.makeConnection(self)
        early, self._early = self._early, []
        for call in early:
            call()

    # -- sending ---------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send octets."""
        if self.closed or self.disconnecting or not data:
            return
        loop, weather = self.network.loop, self.network.weather
        if self.mute or self.network.parted(self.here[0], self.there[0]):
            self.mute = True  # what TCP would send again comes too late for anybody
            self.under_way += len(data)
            self._press()
            self._unacknowledged()
            return
        if self.peer.mute:
            self._unacknowledged()  # it arrives, but its acknowledgement does not
        if weather.reset and loop.random.random() < weather.reset:
            keep = self._drawn(len(data) + 1)
            data, broken = data[:keep], True
        else:
            broken = False
        for piece in self._pieces(data):
            self._send(piece)
        if broken:
            self.break_off()

    def _unacknowledged(self) -> None:
        """The system gives the connection up after a while (Linux: TCP_USER_TIMEOUT)."""
        self.network.loop.after(
            UNACKNOWLEDGED, lambda: self.arrive_end(error.TimeoutError("nothing was acknowledged"))
        )

    def _pieces(self, data: bytes) -> list[bytes]:
        random, weather = self.network.loop.random, self.network.weather
        if not weather.sliced or random.random() >= weather.sliced or len(data) < 2:
            return [data]
        cuts = sorted({0, len(data), *(1 + self._drawn(len(data) - 1) for _ in range(3))})
        return [data[start:end] for start, end in pairwise(cuts)]

    def _drawn(self, below: int) -> int:
        """Draw a whole number, by as much chance whatever the bound: a signature is now longer, now shorter."""
        return int(self.network.loop.random.random() * below)

    def _send(self, data: bytes) -> None:
        self.sent_until = max(self.sent_until, self.network.loop.now + self.network.delay())
        self.under_way += len(data)
        self._press()
        self.network.loop.at(self.sent_until, lambda: self.peer.arrive(data))

    def _press(self) -> None:
        if self._producer is not None and self._producing and self.under_way > HIGH_WATER:
            self._producing = False
            self._producer.pauseProducing()

    def _arrived(self, octets: int) -> None:
        self.under_way -= octets
        if self._producer is not None and not self._producing and self.under_way == 0:
            self._producing = True
            self.reactor.happen(self._producer.resumeProducing)

    def writeSequence(self, data: list[bytes]) -> None:
        """Send octets."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when all is sent."""
        if self.closed or self.disconnecting:
            return
        self.disconnecting = True
        if not self.mute and not self.network.parted(self.here[0], self.there[0]):
            at = max(self.sent_until, self.network.loop.now + self.network.delay())
            self.network.loop.at(at, lambda: self.peer.arrive_end(error.ConnectionDone()))
            self.network.loop.at(at, lambda: self.arrive_end(error.ConnectionDone()))
        else:
            # The end of the connection is never acknowledged: the system gives up some time.
            self.network.loop.after(60.0, lambda: self.arrive_end(error.ConnectionLost()))

    def abortConnection(self) -> None:
        """Close at once."""
        if self.closed:
            return
        if not self.network.parted(self.here[0], self.there[0]) and not self.mute:
            at = max(self.sent_until, self.network.loop.now + self.network.delay())
            self.network.loop.at(at, lambda: self.peer.arrive_end(error.ConnectionLost()))
        self.network.loop.after(0, lambda: self.arrive_end(error.ConnectionAborted()))

    def break_off(self) -> None:
        """A device on the way resets the connection; what is under way is lost."""
        self.mute = self.peer.mute = True
        for end in (self, self.peer):
            self.network.loop.after(
                self.network.delay(), lambda end=end: end.arrive_end(error.ConnectionLost())
            )

    # -- receiving -------------------------------------------------------------------------------

    def arrive(self, data: bytes) -> None:
        """Octets come; a partition or a break since they were sent has taken them."""
        if self.closed or self.peer.mute:
            return
        if self.network.parted(self.here[0], self.there[0]):
            self.peer.mute = True
            return
        self.reactor.happen(self._take, data)

    def _take(self, data: bytes) -> None:
        if self.closed:
            return
        if self.protocol is None:
            self._early.append(lambda: self._take(data))
        elif not self._reading:
            self._unread.append(data)
        else:
            self.peer._arrived(len(data))
            self.protocol.dataReceived(data)

    def arrive_end(self, why: Exception) -> None:
        """The other end is gone, or this one is."""
        if self.closed or self._ended is not None:
            return
        self._ended = why
        self.reactor.happen(self._end)

    def _end(self) -> None:
        if self.closed:
            return
        if self.protocol is None and not self._early and self._ended is not None:
            self._early.append(self._end)
            self.network.loop.after(1.0, self._never_opened)
            return
        self.closed = True
        self.connected = False
        self.network.forget(self)
        if self.protocol is not None:
            self.protocol.connectionLost(Failure(self._ended))

    def _never_opened(self) -> None:
        if self.protocol is None:
            self.closed = True
            self.network.forget(self)

    def pauseProducing(self) -> None:
        """Read no more for now."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Read on."""
        if self._reading:
            return
        self._reading = True
        unread, self._unread = self._unread, []
        for data in unread:
            self.network.loop.after(0, lambda data=data: self.reactor.happen(self._take, data))

    def stopProducing(self) -> None:
        """Close."""
        self.loseConnection()

    # -- what Twisted's transports have ----------------------------------------------------------

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Tell a producer when much is under way."""
        self._producer = producer
        self._producing = True

    def unregisterProducer(self) -> None:
        """Tell nobody any more."""
        self._producer = None

    def getPeer(self) -> IPv4Address:
        """Return the other address."""
        return IPv4Address("TCP", *self.there)

    def getHost(self) -> IPv4Address:
        """Return this address."""
        return IPv4Address("TCP", *self.here)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is ever delayed to gather."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing is ever sent to keep it alive."""
