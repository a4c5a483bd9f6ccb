"""One TCP connection of an S2S stream, with TLS put over it at once or when the stream says so."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from twisted.internet import error
from twisted.internet.interfaces import IHandshakeListener, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.timers import Timer
from impfed.transport.direct import send_now
from impfed.transport.s2s_tls import S2STls
from impfed.transport.timers import ReactorTimers
from impfed.transport.tls_transport import TlsTransport
from impfed.transport.tls_words import explain_failure
from impfed.xmpp.s2s_base import S2SStream
from impfed.xmpp.s2s_parts import BeginTls, S2SEvent, StreamClosed
from impfed.xmpp.stanza import OutStanza

if TYPE_CHECKING:
    from impfed.transport.s2s_api import LiveConnections

#: Seconds from an orderly close to an abrupt one.
CLOSE_TIMEOUT = 3.0


class StreamOwner(TypingProtocol):
    """What a connection tells its user."""

    def stream_events(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """Take what came of octets or of time; :class:`StreamClosed` comes once, and last."""

    def stream_ready(self, connection: S2SConnection) -> None:
        """Take note that the peer reads again."""

    def stream_gone(self, connection: S2SConnection) -> None:
        """Take note that the TCP connection is gone."""


class S2SConnection(Protocol):
    """The transport of one stream.

    :param owner: is told what happens; may change when the stream changes hands.
    :param client: what begins TLS for a stream of ours; None for an incoming one.
    :param direct: whether TLS begins at once (XEP-0368).
    :param dead_after: seconds after which the kernel gives a silent peer up.
    :param idle: seconds without a stanza after which the stream is closed.
    :param live: keeps count of the connections that stand.
    :ivar active: when a stanza last passed.
    :ivar pressed: whether the peer reads more slowly than we write.
    """

    #: The TCP transport; None before the connection.
    transport: Any = None

    def __init__(
        self,
        owner: StreamOwner,
        stream: S2SStream,
        timers: ReactorTimers,
        tls: S2STls,
        *,
        client: TLSMemoryBIOFactory | None = None,
        direct: bool = False,
        dead_after: float = 50.0,
        idle: float = 600.0,
        live: LiveConnections | None = None,
    ) -> None:
        self.owner = owner
        self.stream = stream
        self.remote_address = ""
        self.active = 0.0
        self.dirty = False
        self.pressed = False
        self._timers = timers
        self._tls_maker = tls
        self._client = client
        self._direct = direct
        self._dead_after = dead_after
        self._idle = idle
        self._live = live
        self._tls: Any = None  # the TlsTransport, once there is TLS
        self._timer: Timer | None = None
        self._due = 0.0
        self._closing = False
        self._lost = False
        self._reading = True

    # -- Twisted's side ------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Begin the stream."""
        peer = self.transport.getPeer()
        self.remote_address = f"{getattr(peer, 'host', '')}:{getattr(peer, 'port', '')}"
        if self._live is not None:
            self._live.add(self)
        tune(self.transport, self._dead_after)
        self.active = now = self._timers.seconds()
        events = self.stream.connected(now, self._direct)
        self._watch()
        if self._direct:
            self._begin_tls("")
        else:
            self.transport.registerProducer(_Pressure(self), True)
        self._handle(events)
        if not self._reading:
            self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Octets came: TLS records, or the stream in clear."""
        if self._tls is not None:
            self._tls.dataReceived(data)
        else:
            self.plain_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The TCP connection is gone."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        words = _loss_words(reason)
        tls = self._tls
        if tls is not None:
            tls.connectionLost(reason)
        else:
            self._end(words)
        self.owner.stream_gone(self)
        if self._live is not None:
            self._live.discard(self)

    # -- TLS -----------------------------------------------------------------------------------

    def _begin_tls(self, local: str) -> None:
        if not self._direct:
            self.transport.unregisterProducer()
        maker = self._client or self._tls_maker.server(local)
        tls: Any = TlsTransport(maker, _Inside(self))  # type: ignore[no-untyped-call]  # Twisted's
        self._tls = tls
        tls.send = send_now
        tls.makeConnection(self.transport)
        if not self._lost and not self._closing:
            tls.registerProducer(_Pressure(self), True)

    def plain_received(self, data: bytes) -> None:
        """Octets of the stream came."""
        if not self._closing:
            self._handle(self.stream.receive(data, self._timers.seconds()))

    def tls_done(self) -> None:
        """The handshake is done: go on with what the peer has shown."""
        if self._closing or self._tls is None:
            return
        peer = self._tls_maker.peer(self._tls.getHandle())
        self._handle(self.stream.tls_done(peer, self._timers.seconds()))

    def tls_lost(self, reason: Failure) -> None:
        """TLS is over, and the stream with it."""
        tls = self._tls
        self._end(explain_failure(reason, tls.refusal, tls.handshake_done))

    @property
    def encryption(self) -> str:
        """TLS version in use, "" for none."""
        if self._tls is None or not self._tls.handshake_done:
            return ""
        return str(self._tls.getHandle().get_protocol_version_name())

    # -- the stream's side ---------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a stanza can be taken now."""
        return not self._closing and not self.pressed and self.stream.room

    @property
    def closing(self) -> bool:
        """Whether the stream is over."""
        return self._closing

    def send(self, stanza: OutStanza) -> None:
        """Put a stanza into the output; :meth:`flush` writes it."""
        self.stream.send(stanza)

    def flush(self) -> None:
        """Write the output."""
        self.dirty = False
        if self._lost:
            return
        now = self.active = self._timers.seconds()
        self._write(self.stream.output(now))

    def act(self, events: list[S2SEvent]) -> None:
        """Go on after a call of a method of the stream."""
        self._handle(events)

    def close(self, words: str, condition: str = "") -> None:
        """End the stream in good order."""
        if not self._closing:
            self._handle(self.stream.close(self._timers.seconds(), words, condition))

    def abort(self) -> None:
        """End the connection at once."""
        self._closing = True
        if self.transport is not None and not self._lost:
            self.transport.abortConnection()

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

    def press(self, high: bool) -> None:
        """Take note of the transport's buffer."""
        self.pressed = high
        if not high:
            self.owner.stream_ready(self)

    def status(self) -> dict[str, Any]:
        """Return what an operator wants to know of an incoming stream."""
        stream = self.stream
        return {
            "local": stream.local,
            "remote": stream.remote,
            "direction": "in",
            "state": stream.state.value,
            "address": self.remote_address,
            "tls": self.encryption,
            "bidi": stream.bidi,
            "pairs": sorted(f"{remote} -> {local}" for remote, local in stream.pairs),
        }

    # -- inside --------------------------------------------------------------------------------

    def _handle(self, events: list[S2SEvent]) -> None:
        self._write(self.stream.output(self._timers.seconds()))
        if not events:
            return
        self.active = self._timers.seconds()
        last = events[-1]
        if type(last) is BeginTls:
            self._begin_tls(last.name)
            return
        if type(last) is StreamClosed:
            self._lose()
        self.owner.stream_events(self, events)
        self._write(self.stream.output(self._timers.seconds()))
        if not self._closing:
            self._watch()

    def _end(self, words: str) -> None:
        events = self.stream.connection_lost(words, self._timers.seconds())
        self._closing = True
        if events:
            self.owner.stream_events(self, events)

    def _write(self, data: bytes) -> None:
        if not data or self._lost or self.transport is None:
            return
        if self._tls is not None:
            self._tls.write(data)
        else:
            send_now(self.transport, data)

    def _lose(self) -> None:
        self._closing = True
        if self.transport is None or self._lost:
            return
        top: Any = self._tls if self._tls is not None else self.transport
        top.unregisterProducer()
        self.transport.resumeProducing()  # or a closed socket would not be noticed
        # Octets that nobody reads would make the kernel reset the connection, and the peer might
        # never see our last words: so only our half is closed, and what comes is thrown away.
        half = None if self._tls is not None else getattr(top, "loseWriteConnection", None)
        (half or top.loseConnection)()
        self._set_timer(CLOSE_TIMEOUT, self._abort_transport)

    def _abort_transport(self) -> None:
        self._timer = None
        if self.transport is not None and not self._lost:
            self.transport.abortConnection()

    def _watch(self) -> None:
        """See that one timer stands at the earliest time at which something can be due."""
        due = self.active + self._idle
        wanted = self.stream.next_timer
        if wanted is not None and wanted < due:
            due = wanted
        if self._timer is None or due < self._due:
            now = self._timers.seconds()
            self._due = due
            self._set_timer(max(0.0, due - now), self._wake)

    def _set_timer(self, delay: float, call: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timers.after(delay, call)

    def _wake(self) -> None:
        self._timer = None
        now = self._timers.seconds()
        events = self.stream.handle_timers(now)
        self._handle(events)
        if self._closing:
            return
        if now >= self.active + self._idle:
            self.close("idle")
        else:
            self._watch()


@implementer(IPushProducer)
class _Pressure:
    """Tells a connection of its transport's buffer; registered as producer only for that."""

    def __init__(self, connection: S2SConnection) -> None:
        self._connection = connection

    def pauseProducing(self) -> None:
        """Twisted: much waits to be read by the peer."""
        self._connection.press(True)

    def resumeProducing(self) -> None:
        """Twisted: nothing waits any more."""
        self._connection.press(False)

    def stopProducing(self) -> None:
        """Twisted: the connection is over, which is told otherwise."""


@implementer(IHandshakeListener)
class _Inside(Protocol):
    """What stands above TLS."""

    def __init__(self, connection: S2SConnection) -> None:
        self._connection = connection
        self.dataReceived = connection.plain_received  # type: ignore[method-assign]  # a call less for each read

    def handshakeCompleted(self) -> None:
        """Twisted: our half of the handshake is done."""
        self._connection.tls_done()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: TLS is over."""
        self._connection.tls_lost(reason)


def tune(transport: Any, dead_after: float) -> None:
    """Send small stanzas at once, and let the kernel notice dead peers, idle or not (Linux)."""
    if not ITCPTransport.providedBy(transport):
        return  # a double without a socket
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    handle = getattr(transport, "socket", None)
    if not isinstance(handle, socket.socket):
        return
    for name, value in (
        ("TCP_KEEPIDLE", max(1, int(dead_after * 0.6))),
        ("TCP_KEEPINTVL", max(1, int(dead_after * 0.1))),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", int(dead_after * 1000)),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


def _loss_words(reason: Failure) -> str:
    if reason.check(error.ConnectionDone):
        return "the peer closed the connection"
    if reason.check(error.ConnectionLost):
        return "the connection broke off"
    return f"the connection broke off: {reason.getErrorMessage()}"
