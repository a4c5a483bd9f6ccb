"""The flow of one TCP or TLS connection, in either direction.

It exists from the moment a connection is wanted, so that what is sent meanwhile can wait in it, up
to a bound.  Once it is open, all that one reactor turn writes leaves in one piece at its end.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.errors import LocalError
from impfed.core.timers import Timer
from impfed.sip.framing import Pong, StreamFramer
from impfed.transport.direct import send_now
from impfed.transport.flow import Flow, FlowOwner
from impfed.transport.identity import explain_mismatch, identify, matching_name, vouched_for
from impfed.transport.tls_words import explain_failure

if TYPE_CHECKING:
    from impfed.transport.pool import Target

_PING = b"\r\n\r\n"
_PONG = b"\r\n"

#: How a TLS handshake and a TLS alert begin; no SIP message does.
_TLS_RECORDS = (b"\x16\x03", b"\x15\x03")

#: The kernel's timers are not ours: it may give a peer up a little early.
_GRAIN = 0.5


class State(Enum):
    """Life of a connection."""

    CONNECTING = "connecting"
    SECURING = "securing"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Event(Enum):
    """What happens to a connection."""

    CONNECTED = "connected"
    SECURED = "secured"
    CLOSE = "close"
    LOST = "lost"


TABLE: dict[tuple[State, Event], State] = {
    (State.CONNECTING, Event.CONNECTED): State.SECURING,
    (State.CONNECTING, Event.LOST): State.CLOSED,
    (State.SECURING, Event.SECURED): State.OPEN,
    (State.SECURING, Event.CLOSE): State.CLOSING,
    (State.SECURING, Event.LOST): State.CLOSED,
    (State.OPEN, Event.CLOSE): State.CLOSING,
    (State.OPEN, Event.LOST): State.CLOSED,
    # Ignored: the handshake may still end, and we may close again, while we are closing already.
    (State.CLOSING, Event.SECURED): State.CLOSING,
    (State.CLOSING, Event.CLOSE): State.CLOSING,
    (State.CLOSING, Event.LOST): State.CLOSED,
    # Ignored: a connection that we gave up while it was being made may still come.
    (State.CLOSED, Event.CONNECTED): State.CLOSED,
    (State.CLOSED, Event.SECURED): State.CLOSED,
    (State.CLOSED, Event.CLOSE): State.CLOSED,
    (State.CLOSED, Event.LOST): State.CLOSED,
}


class FlowStateError(LocalError):
    """A connection was told something that cannot happen in its state."""


class StreamFlow(Flow):
    """One TCP or TLS connection.

    :param owner: is told what happens.
    :param target: what a connection of ours is made for; None for one that came in.
    :ivar heard: whether the peer has ever sent something (after TLS).
    :ivar opened: when the connection was ready for messages; None before.
    :ivar refused: whether TLS ended it: the peer never acted on what was written.
    :ivar probe: whether a peer came and went without beginning TLS, as health checks do.
    :ivar vouched: whom a load balancer says that it has verified; None when it says nothing.
    :ivar own_check: whether it only sees whether somebody answers: a load balancer's, or ours.
    :ivar remember: called with the TLS connection once the peer has sent something.
    :ivar began: when the connection was wanted.
    :ivar patience: seconds that the peer may be silent, for there is another hop; 0 for no such.
    :ivar last_heard: when octets came last.
    :ivar silent: whether the connection ended because its peer acknowledged nothing any more.
    """

    def __init__(
        self,
        owner: FlowOwner,
        transport: str,
        listener: str = "",
        remote: tuple[str, int] = ("", 0),
        target: Target | None = None,
    ) -> None:
        super().__init__(transport, listener, remote)
        self.target = target
        self.heard = False
        self.opened: float | None = None
        self.refused = False
        self.probe = False
        self.vouched: str | None = None
        self.own_check = False
        self.remember: Callable[[SSL.Connection], None] | None = None
        self.began = owner.timers.seconds()
        self.patience = 0.0
        self.silent = False
        self.wire = Wire(self)
        self._owner = owner
        self._limits = owner.limits
        self._state = State.CONNECTING
        self._framer = StreamFramer(owner.limits.framing)
        self._out: list[bytes] = []
        self._out_size = 0
        self._reason = ""
        self._stalled_since: float | None = None
        self.last_heard = self.began
        self._message_began: float | None = None
        self._pinged: float | None = None
        self._answers_pings = False
        self._deadline: float | None = None
        self._timer: Timer | None = None

    # What users see

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state

    @property
    def alive(self) -> bool:
        """Whether something may be written: open, or not yet open."""
        return self._state is not State.CLOSED and self._state is not State.CLOSING

    @property
    def down(self) -> str:
        """Why the connection is gone; "" while it is not."""
        return "" if self.alive else self._reason or "the connection is closed"

    @property
    def ready(self) -> bool:
        """Whether what is written now leaves at the end of this turn."""
        return self._state is State.OPEN and self._stalled_since is None

    @property
    def shortcut(self) -> Callable[[bytes, int, int], int] | None:
        """Who is asked about each message before it is read; see ``StreamFramer.shortcut``."""
        return self._framer.shortcut

    @shortcut.setter
    def shortcut(self, shortcut: Callable[[bytes, int, int], int] | None) -> None:
        self._framer.shortcut = shortcut

    @property
    def unsent(self) -> bool:
        """Whether something still waits for the connection to open."""
        return bool(self._out)

    def write(self, data: bytes) -> bool:
        """Send octets at the end of this turn, or when the connection opens or is read again."""
        if not self.alive:
            return False
        if self._state is State.OPEN and self._stalled_since is None:
            if not self._out:
                self._owner.flush_later(self)
        elif self._out_size + len(data) > self._limits.queue:
            self._owner.count("sip.queue_full")
            return False
        self._out.append(data)
        self._out_size += len(data)
        return True

    def flush(self) -> None:
        """Hand what waits to the connection, if it is open and the peer reads."""
        if not self._out or self._state is not State.OPEN or self._stalled_since is not None:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._out_size = 0
        if self.transport == "tls":
            self.wire.tls.write(data)
        else:
            send_now(self.wire.transport, data)

    def close(self, reason: str) -> None:
        """End the connection in good order; abruptly if the peer takes too long about it."""
        if not self.alive:
            return
        if self._state is State.CONNECTING:
            self.lost(reason)
            return
        self.flush()
        self._reason = reason
        self._step(Event.CLOSE)
        transport = self.wire.transport
        if transport is not None:
            transport.unregisterProducer()
            transport.loseConnection()
        self._watch()

    def abort(self, reason: str = "closed by us") -> None:
        """End the connection at once."""
        if self._state is State.CLOSED:
            return
        if self._state is State.CONNECTING:
            self.lost(reason)
            return
        self._reason = self._reason or reason
        self._step(Event.CLOSE)
        transport = self.wire.transport
        if transport is not None:
            transport.abortConnection()

    def hurry(self, patience: float) -> None:
        """Expect signs of life within some seconds from now on, for there is another hop."""
        self.patience = patience
        if self._state is State.OPEN:
            _tune(self.wire.tcp, patience)

    # What the wire tells

    def connected(self) -> None:
        """The TCP connection stands."""
        if self._step(Event.CONNECTED) is State.CLOSED:
            self.wire.transport.abortConnection()
            return
        if self.target is not None:  # of one that came in it is known, from a balancer perhaps
            peer = self.wire.transport.getPeer()
            self.remote = (peer.host, peer.port)
        _tune(self.wire.tcp, self.patience or self._limits.dead_after)
        if self.transport == "tls":
            self._deadline = self._owner.timers.seconds() + self._limits.handshake_timeout
            if self.patience:
                self._deadline = self.began + self.patience
            self._watch()
        else:
            self._open()

    def secured(self) -> None:
        """The TLS handshake is done: learn who the peer is, and refuse a server by a wrong name."""
        if self._state is not State.SECURING:
            self._step(Event.SECURED)
            return
        connection = self.wire.tls.getHandle()
        certificate = connection.get_peer_certificate(as_cryptography=True)
        self.peer = identify(certificate)
        if self.vouched is not None:
            self.peer = vouched_for(self.peer, self.vouched, self._owner.upstreams)
        wanted = () if self.target is None else self.target.names
        if wanted and matching_name(self.peer.names, wanted) is None:
            self._owner.count("tls.peers_refused")
            self.abort(explain_mismatch(certificate, wanted))
            return
        self._open()

    def received(self, data: bytes) -> None:
        """Octets came."""
        self.last_heard = now = self._owner.timers.seconds()
        if not self.heard:
            if data[:2] in _TLS_RECORDS and self.transport == "tcp":
                self._owner.count("sip.tls_on_tcp")
                self.refused = True
                self.abort(
                    'what came is TLS: is transport = "tls" missing here, or on the other side?'
                )
                return
            self._first_octets()
        if self._pinged is not None:
            self._pinged = None
            if data == _PONG and not self._framer.mid_message:
                self._answers_pings = True
        if self._framer.failure is not None or self._state is not State.OPEN:
            return
        passed = self._framer.passed
        messages = self._framer.feed(data)
        for message in messages:
            if isinstance(message, Pong):
                self.write(_PONG)
            else:
                self._owner.message_arrived(message, self)
        if self._framer.failure is not None:
            self._owner.stream_failed(self, self._framer.failure)
        elif not self._framer.mid_message:
            self._message_began = None
        elif messages or self._message_began is None or self._framer.passed != passed:
            self._message_began = now

    def broken(self, unclean: bool) -> bool:
        """The connection is going to be lost; say whether its peer had fallen silent before."""
        quiet = self._owner.timers.seconds() - self.last_heard
        self.silent = unclean and 0 < self.patience <= quiet + _GRAIN
        return self.silent

    def lost(self, reason: str) -> None:
        """The connection is gone, or could not be made."""
        if self._state is State.CLOSED:
            return
        self._reason = self._reason or reason
        self._step(Event.LOST)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.flow_lost(self, self._reason)
        self._out.clear()
        self._out_size = 0

    def unanswered(self) -> None:
        """A request over this connection was never answered: with silence beside it, it is dead.

        TCP cannot tell when something on the way, such as a balancer, acknowledges for the peer.
        """
        silent = self._owner.timers.seconds() - self.last_heard
        if self._state is State.OPEN and silent >= self._limits.dead_after:
            self._owner.count("sip.dead_peers")
            self.abort(f"a request went unanswered, and nothing was heard for {silent:.0f} s")

    def stall(self) -> None:
        """The peer reads no more: what is written has to wait here."""
        if self._stalled_since is None:
            self._stalled_since = self._owner.timers.seconds()

    def unstall(self) -> None:
        """The peer reads again."""
        self._stalled_since = None
        self.flush()

    # Inside

    def _step(self, event: Event) -> State:
        try:
            self._state = TABLE[self._state, event]
        except KeyError:
            raise FlowStateError(f"{event.name} cannot happen while {self._state.name}") from None
        return self._state

    def _open(self) -> None:
        if self._state is State.SECURING and self._step(Event.SECURED) is State.OPEN:
            self.opened = self.last_heard = self._owner.timers.seconds()
            self._deadline = None
            self.wire.transport.registerProducer(self.wire, True)
            self._owner.flow_secured(self)
            self.flush()
            self._watch()

    def _first_octets(self) -> None:
        self.heard = True
        if self.remember is not None:
            self.remember(self.wire.tls.getHandle())

    def _watch(self) -> None:
        """Look after the connection at the earliest moment at which something can be due."""
        now = self._owner.timers.seconds()
        limits = self._limits
        if self._state is State.CLOSING:
            wait = limits.close_timeout
        else:
            due = [now + min(limits.message_timeout, limits.stall_timeout)]
            if self._deadline is not None:
                due.append(self._deadline)
            if self._message_began is not None:
                due.append(self._message_began + limits.message_timeout)
            if self._stalled_since is not None:
                due.append(self._stalled_since + limits.stall_timeout)
            if limits.keepalive and self._state is State.OPEN:
                due.append(self._ping_due())
            wait = max(0.0, min(due) - now)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._owner.timers.after(wait, self._check)

    def _ping_due(self) -> float:
        if self._pinged is None:
            return self.last_heard + self._limits.keepalive
        pause = self._limits.pong_timeout if self._answers_pings else self._limits.keepalive
        return self._pinged + pause

    def _check(self) -> None:
        """Something may be due: end the connection, or ping the peer, or nothing yet."""
        self._timer = None
        if self._state is State.CLOSED:
            return
        trouble = self._trouble(self._owner.timers.seconds())
        if trouble:
            self.abort(trouble)
            return
        self._watch()

    def _trouble(self, now: float) -> str:
        limits = self._limits
        if self._state is State.CLOSING:
            return self._reason
        if self._deadline is not None and now >= self._deadline:
            self._owner.count("sip.handshake_timeouts")
            allowed = self.patience or limits.handshake_timeout
            hint = "does the peer speak TLS on this port?"
            return f"the TLS handshake was not done after {allowed:g} s ({hint})"
        began = self._message_began
        if began is not None and now >= began + limits.message_timeout:
            self._owner.count("sip.message_timeouts")
            return f"a message was not complete {limits.message_timeout:g} s after it had begun"
        stalled = self._stalled_since
        if stalled is not None and now >= stalled + limits.stall_timeout:
            self._owner.count("sip.stalled_peers")
            return f"the peer has read nothing for {limits.stall_timeout:g} s"
        if limits.keepalive and self._state is State.OPEN and now >= self._ping_due():
            if self._pinged is not None and self._answers_pings:
                self._owner.count("sip.dead_peers")
                return f"the peer did not answer a keep-alive within {limits.pong_timeout:g} s"
            self._pinged = now
            self.write(_PING)
        return ""


@implementer(IHandshakeListener, IPushProducer)
class Wire(Protocol):
    """Twisted's side of a stream flow."""

    transport: Any

    def __init__(self, flow: StreamFlow) -> None:
        self.flow = flow
        self.dataReceived = flow.received  # type: ignore[method-assign]  # a call less for each read

    @property
    def tls(self) -> Any:
        """The :class:`~impfed.transport.tls.TlsTransport` of a flow whose transport is "tls"."""
        return self.transport

    @property
    def tcp(self) -> Any:
        """The TCP transport, below TLS if there is TLS."""
        return self.transport.transport if self.flow.transport == "tls" else self.transport

    def connectionMade(self) -> None:
        """Twisted: the TCP connection stands."""
        if self.flow.transport == "tls":
            self.tls.send = send_now
        self.flow.connected()

    def handshakeCompleted(self) -> None:
        """Twisted: our half of the TLS handshake is done."""
        self.flow.secured()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the connection is gone."""
        if self.flow.transport == "tls":
            self.flow.refused = isinstance(reason.value, SSL.Error)
            greeting = self.tls.getHandle().client_random()
            left = self.flow.state is State.SECURING and not self.flow.refused
            self.flow.probe = left and not (greeting and any(greeting))
            words = explain_failure(reason, self.tls.refusal, self.tls.handshake_done)
        elif isinstance(reason.value, ConnectionDone):
            words = "the peer closed the connection"
            if self.flow.target is not None and not self.flow.heard:
                words += " without a word (does it expect TLS on this port?)"
        else:
            words = reason.getErrorMessage()
        if self.flow.broken(reason.check(ConnectionLost) is not None):
            words = f"the peer has acknowledged nothing for {self.flow.patience:g} s"
        self.flow.lost(words)

    def pauseProducing(self) -> None:
        """Twisted: much waits to be read by the peer."""
        self.flow.stall()

    def resumeProducing(self) -> None:
        """Twisted: nothing waits any more."""
        self.flow.unstall()

    def stopProducing(self) -> None:
        """Twisted: the connection is over; :meth:`connectionLost` says so too."""


def _tune(tcp: Any, dead_after: float) -> None:
    """Send small messages at once, and learn of dead peers (Linux: TCP_USER_TIMEOUT)."""
    if not ITCPTransport.providedBy(tcp):
        return  # a double without a socket
    tcp.setTcpNoDelay(True)
    tcp.setTcpKeepAlive(True)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    handle = getattr(tcp, "socket", None)
    if option is not None and isinstance(handle, socket.socket):
        handle.setsockopt(socket.IPPROTO_TCP, option, int(dead_after * 1000))
