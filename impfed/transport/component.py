"""One connection to a home server: the XEP-0114 state machine on a Twisted transport."""

from __future__ import annotations

from typing import Any
from typing import Protocol as TypingProtocol

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.timers import Timer
from impfed.transport.direct import send_now
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.component import Closed, ComponentStream, Event

#: Seconds from an orderly close to an abrupt one.
CLOSE_TIMEOUT = 3.0


class ConnectionOwner(TypingProtocol):
    """What a connection tells its link."""

    def events_arrived(self, connection: ComponentConnection, events: list[Event]) -> None:
        """Take what came of octets or of time."""

    def write_pressure(self, connection: ComponentConnection, high: bool) -> None:
        """Take note that what waits to be written is much, or is much no longer."""


@implementer(IPushProducer)
class ComponentConnection(Protocol):
    """A component's TCP connection.

    It registers itself as the transport's producer, only to be told when the home server reads more
    slowly than we write.

    :ivar stream: the stream's state machine.
    :ivar heard: when octets last came, white space included.
    :ivar gone: fires when the connection is gone.
    """

    #: The TCP transport; None before the connection.
    transport: Any = None

    def __init__(self, owner: ConnectionOwner, stream: ComponentStream, timers: ReactorTimers):
        self.stream = stream
        self._owner = owner
        self._timers = timers
        self._timer: Timer | None = None
        self.heard = 0.0
        self._closing = False
        self._reading = True
        self._lost = False
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Begin the stream."""
        transport = self.transport
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        now = self.heard = self._timers.seconds()
        self.stream.connected(now)
        if self.stream.next_timer is not None:
            self._timer = self._timers.after(self.stream.next_timer - now, self._timed_out)
        transport.write(self.stream.output())
        if not self._reading:
            transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Read what came."""
        if self._closing:
            return
        now = self.heard = self._timers.seconds()
        self._handle(self.stream.receive(data, now))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the link that the connection is gone."""
        self._lost = True
        self._stop_timer()
        self.gone.callback(None)
        events = self.stream.connection_lost(_loss_words(reason))
        if events:
            self._owner.events_arrived(self, events)

    def write(self, data: bytes) -> None:
        """Write stanzas."""
        if self.transport is not None and not self._closing:
            send_now(self.transport, data)

    def close(self) -> Deferred[None]:
        """End the stream in good order, then the connection; fires when it is gone."""
        self._handle(self.stream.close())
        gone: Deferred[None] = Deferred()
        self.gone.addCallback(gone.callback)
        return gone

    def abort(self, reason: str) -> None:
        """End the connection at once.

        :param reason: in words, for the log.
        """
        events = self.stream.connection_lost(reason)
        self._closing = True
        if self.transport is not None and not self._lost:
            self.transport.abortConnection()
        if events:
            self._owner.events_arrived(self, events)

    def pause_reading(self) -> None:
        """Read no more for now."""
        if self._reading and self.transport is not None and not self._lost:
            self.transport.pauseProducing()
        self._reading = False

    def resume_reading(self) -> None:
        """Read on."""
        if not self._reading and self.transport is not None and not self._lost:
            self.transport.resumeProducing()
        self._reading = True

    def pauseProducing(self) -> None:
        """Take note that the transport's buffer is over its high-water mark."""
        self._owner.write_pressure(self, True)

    def resumeProducing(self) -> None:
        """Take note that the transport's buffer is empty again."""
        self._owner.write_pressure(self, False)

    def stopProducing(self) -> None:
        """Nothing to do: the connection is lost, which is told otherwise."""

    def _handle(self, events: list[Event]) -> None:
        output = self.stream.output()
        if output and self.transport is not None:
            self.transport.write(output)
        if events:
            if isinstance(events[-1], Closed):
                self._lose()
            self._owner.events_arrived(self, events)
        if self._timer is not None and self.stream.next_timer is None and not self._closing:
            self._stop_timer()

    def _lose(self) -> None:
        self._closing = True
        self._stop_timer()
        if self.transport is None or self._lost:
            return
        self.transport.unregisterProducer()
        self.transport.resumeProducing()  # or a closed socket would not be noticed
        self.transport.loseConnection()
        self._timer = self._timers.after(CLOSE_TIMEOUT, self._abort_transport)

    def _abort_transport(self) -> None:
        self._timer = None
        if self.transport is not None and not self._lost:
            self.transport.abortConnection()

    def _timed_out(self) -> None:
        self._timer = None
        self._handle(self.stream.handle_timers(self._timers.seconds()))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _loss_words(reason: Failure) -> str:
    if reason.check(error.ConnectionDone):
        return "the home server closed the connection"
    if reason.check(error.ConnectionLost):
        return "the connection broke off"
    return f"the connection broke off: {reason.getErrorMessage()}"
