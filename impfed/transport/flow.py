"""Flows: connections and datagram paths over which SIP messages come and go.

A flow is what responses go back on and what a dialog may stay on.  :mod:`impfed.transport.stream`
has the flow of a connection, :mod:`impfed.transport.datagram` that of UDP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from impfed.core.hosts import bracketed
from impfed.sip.errors import SipParseError
from impfed.sip.framing import FramingLimits
from impfed.sip.message import SipMessage
from impfed.transport.identity import NOBODY, PeerIdentity
from impfed.transport.timers import ReactorTimers

if TYPE_CHECKING:
    from impfed.transport.stream import StreamFlow


@dataclass(frozen=True, slots=True)
class SipLimits:
    """Time-outs in seconds and bounds of the SIP transport.

    :ivar keepalive: silence after which we ping (CRLFCRLF, RFC 5626 section 4.4.1); 0 for never.
    :ivar pong_timeout: how long a peer that is known to answer pings may take.
    :ivar dead_after: how long the peer's machine may acknowledge nothing (TCP_USER_TIMEOUT), and how
        long a peer that owes an answer may be silent.
    :ivar connect_timeout: for a connection of ours, all addresses of the host included.
    :ivar failover_after: how long a next hop may take where there is another one: to be connected to,
        TLS included, and later to acknowledge what was sent.
    :ivar handshake_timeout: for the whole TLS handshake.
    :ivar message_timeout: from the first octet of a message to its last.
    :ivar stall_timeout: how long a peer may read nothing while much waits for it.
    :ivar close_timeout: from an orderly close to an abrupt one.
    :ivar lost_grace: how long an answer may still come, over a new connection, after the one that
        carried the request is gone (RFC 3261 section 18.2.2).
    :ivar queue: octets that may wait in a flow, while connecting or while the peer reads nothing.
    :ivar connections: incoming connections at one time.
    :ivar connections_per_address: the same from one IP address.
    :ivar handshakes: incoming connections whose TLS handshake is not done.
    :ivar handshakes_per_address: the same from one IP address.
    :ivar trusted: names of listeners where one IP address may have as many as there are at all.
    :ivar backoff: first pause after a failed connection; doubles up to ``backoff_limit``.
    :ivar reuse: whether connections of mutual TLS are used in both directions (RFC 5923).
    :ivar framing: sizes of one message.
    """

    keepalive: float = 30.0
    pong_timeout: float = 10.0
    dead_after: float = 30.0
    connect_timeout: float = 10.0
    failover_after: float = 3.0
    handshake_timeout: float = 15.0
    message_timeout: float = 30.0
    stall_timeout: float = 30.0
    close_timeout: float = 5.0
    lost_grace: float = 5.0
    queue: int = 1024 * 1024
    connections: int = 10000
    connections_per_address: int = 1000
    handshakes: int = 500
    handshakes_per_address: int = 500
    trusted: frozenset[str] = frozenset()
    backoff: float = 0.5
    backoff_limit: float = 30.0
    reuse: bool = True
    framing: FramingLimits = field(default_factory=FramingLimits)


class Flow:
    """A path to one peer.

    :ivar transport: "tls", "tcp" or "udp".
    :ivar reliable: whether the transport retransmits by itself (not UDP).
    :ivar listener: name of the listener that it came in on, "" for a connection of ours.
    :ivar remote: address and port of the peer.
    :ivar peer: what the peer has proven of itself.
    :ivar looked_at: whether its first request was asked whether we may send over it, too.
    :ivar transactions: client transactions that wait for an answer over it, oldest first (as keys).
    """

    def __init__(self, transport: str, listener: str, remote: tuple[str, int]) -> None:
        self.transport = transport
        self.reliable = transport != "udp"
        self.listener = listener
        self.remote = remote
        self.peer: PeerIdentity = NOBODY
        self.looked_at = False
        self.transactions: dict[Any, None] = {}

    @property
    def alive(self) -> bool:
        """Whether something may still be written."""
        return False

    @property
    def down(self) -> str:
        """Why the flow is not alive, in words; "" while it is."""
        return ""

    def write(self, data: bytes) -> bool:
        """Send octets, at the end of this reactor turn or when the connection stands.

        :return: whether they were taken; False when the flow is gone or its queue full.
        """
        return False

    def abort(self, reason: str = "closed by us") -> None:
        """End the flow at once.

        :param reason: in words, for whoever waits for an answer over it.
        """

    def unanswered(self) -> None:
        """A request over it was never answered."""

    def __str__(self) -> str:
        host, port = self.remote
        return f"{self.transport}:{bracketed(host)}:{port}"


class NoFlow(Flow):
    """A flow that never was: stands where none can be had, and says why."""

    def __init__(self, transport: str, remote: tuple[str, int], reason: str) -> None:
        super().__init__(transport, "", remote)
        self._reason = reason

    @property
    def down(self) -> str:
        """Why there is no flow."""
        return self._reason


class FlowOwner(Protocol):
    """What a flow tells its owner.

    :ivar upstreams: certificate names of who is believed about the peers behind it.
    """

    limits: SipLimits
    timers: ReactorTimers
    upstreams: frozenset[str]

    def flush_later(self, flow: StreamFlow) -> None:
        """Call ``flow.flush()`` at the end of this reactor turn."""

    def flow_secured(self, flow: StreamFlow) -> None:
        """The flow is open: connected and, with TLS, the peer verified."""

    def flow_lost(self, flow: StreamFlow, reason: str) -> None:
        """The flow is over; told once."""

    def message_arrived(self, message: SipMessage, flow: Flow) -> None:
        """A message came; it may have a defect."""

    def stream_failed(self, flow: StreamFlow, error: SipParseError) -> None:
        """What came is not SIP any more: answer if ``error.head`` is there, then close."""

    def path_lost(self, flow: Flow, reason: str) -> None:
        """Nothing can be sent over a flow that is no connection."""

    def datagram_failed(self, flow: Flow, error: SipParseError) -> None:
        """A datagram is not SIP: answer if ``error.head`` is there."""

    def count(self, name: str) -> None:
        """Count an event."""
