"""What the tests of the SIP transport share: requests, recording users, stacks, connections."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.config.model import CertificateConfig, ListenerConfig, TlsConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.sip.message import OutgoingRequest
from impfed.testing.pki import Authority, Issued
from impfed.transport.flow import SipLimits
from impfed.transport.sip import ISipUser, SipStack
from impfed.transport.tls import TlsStore


def request_bytes(
    method: str = "MESSAGE",
    *,
    branch: str = "z9hG4bKone",
    body: bytes = b"hello",
    sent_by: str = "peer.example:5061",
    transport: str = "TLS",
    via_params: str = "",
    call_id: str = "call-1",
    cseq: int = 1,
    extra: str = "",
) -> bytes:
    head = (
        f"{method} sip:alice@home.example SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} {sent_by};branch={branch}{via_params}\r\n"
        "Max-Forwards: 70\r\n"
        "From: <sip:bob@peer.example>;tag=b1\r\n"
        "To: <sip:alice@home.example>\r\n"
        f"Call-ID: {call_id}\r\n"
        f"CSeq: {cseq} {method}\r\n"
        f"{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def outgoing(
    method: str = "MESSAGE", body: bytes = b"hi", call_id: str = "out-1"
) -> OutgoingRequest:
    headers = [
        ("Max-Forwards", "70"),
        ("From", "<sip:alice@home.example>;tag=a1"),
        ("To", "<sip:bob@peer.example>"),
        ("Call-ID", call_id),
        ("CSeq", f"1 {method}"),
    ]
    return OutgoingRequest(method, "sip:bob@peer.example", headers, body, 1, call_id)


def answer_to(data: bytes, status: str = "200 OK", to_tag: str = "x") -> bytes:
    """Return the answer that a simple peer would give to the request in these octets."""
    head = data.partition(b"\r\n\r\n")[0].decode()
    kept = [
        line + (f";tag={to_tag}" if line.startswith("To:") and "tag=" not in line else "")
        for line in head.split("\r\n")[1:]
        if line.split(":")[0] in ("Via", "From", "To", "Call-ID", "CSeq")
    ]
    return "\r\n".join([f"SIP/2.0 {status}", *kept, "Content-Length: 0", "", ""]).encode()


@implementer(ISipUser)
@dataclass
class RecordingUser:
    """A user of the stack that remembers what it is told, and answers requests if told to."""

    answer: int = 0
    stack: SipStack | None = None
    requests: list[Any] = field(default_factory=list)
    acks: list[Any] = field(default_factory=list)
    cancels: list[Any] = field(default_factory=list)
    unacknowledged: list[Any] = field(default_factory=list)
    strays: list[Any] = field(default_factory=list)
    arrival: Deferred[Any] | None = None

    def request_arrived(self, transaction: Any, request: Any, flow: Any) -> None:
        self.requests.append((transaction, request, flow))
        if self.answer and self.stack is not None:
            self.stack.respond(transaction, self.answer)
        if self.arrival is not None:
            arrival, self.arrival = self.arrival, None
            arrival.callback(self.requests[-1])

    def ack_arrived(self, request: Any, transaction: Any, flow: Any) -> None:
        self.acks.append((request, transaction, flow))

    def cancel_arrived(self, transaction: Any, request: Any) -> None:
        self.cancels.append((transaction, request))

    def no_ack(self, transaction: Any) -> None:
        self.unacknowledged.append(transaction)

    def stray_response(self, response: Any, flow: Any) -> None:
        self.strays.append(response)


class Outcome:
    """The user of one client transaction."""

    def __init__(self) -> None:
        self.responses: list[Any] = []
        self.failures: list[tuple[Any, str]] = []
        self.done: Deferred[Outcome] = Deferred()

    def response_arrived(self, transaction: Any, response: Any) -> None:
        self.responses.append(response)
        if response.status >= 200 and not self.done.called:
            self.done.callback(self)

    def request_failed(self, transaction: Any, cause: Any, text: str) -> None:
        self.failures.append((cause, text))
        if not self.done.called:
            self.done.callback(self)

    @property
    def statuses(self) -> list[int]:
        return [response.status for response in self.responses]


class MemoryTransport(StringTransport):
    """A connection in memory that tells its protocol when it ends; the peer may stop reading."""

    def __init__(self, protocol: Any, host: str = "192.0.2.7", port: int = 40000) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, port))
        self.protocol = protocol
        self.writes = 0
        self.aborting = False

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)

    def loseConnection(self) -> None:
        self._end(ConnectionDone())

    def abortConnection(self) -> None:
        self.aborting = True
        self._end(ConnectionAborted())

    def drop(self) -> None:
        """The peer closes the connection."""
        self._end(ConnectionDone())

    def take(self) -> bytes:
        data = self.value()
        self.clear()
        return data

    def _end(self, reason: Exception) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self.protocol.connectionLost(Failure(reason))


def tcp_listener(name: str = "inside", port: int = 5060) -> ListenerConfig:
    return ListenerConfig(name, "tcp", "127.0.0.1", port, "node1.example", 15060)


def udp_listener(name: str = "datagrams", port: int = 5060) -> ListenerConfig:
    return ListenerConfig(name, "udp", "127.0.0.1", port, "node1.example", 15060)


class DatagramTransport:
    """A UDP socket in memory."""

    def __init__(self) -> None:
        self.written: list[tuple[bytes, tuple[str, int]]] = []

    def write(self, data: bytes, address: tuple[str, int]) -> None:
        self.written.append((data, address))

    def getHost(self) -> IPv4Address:
        return IPv4Address("UDP", "127.0.0.1", 5060)

    def stopListening(self) -> None:
        pass


class Reactor(MemoryReactorClock):
    """Twisted's reactor in memory, with UDP."""

    def __init__(self) -> None:
        super().__init__()
        self.datagrams: Any = None
        self.hosts: dict[str, list[str]] = {}
        self.nameResolver = self

    def resolveHostName(self, receiver: Any, name: str, port: int = 0, *_: Any, **__: Any) -> Any:
        receiver.resolutionBegan(None)
        for host in self.hosts.get(name, []):
            receiver.addressResolved(IPv4Address("TCP", host, port))
        receiver.resolutionComplete()

    def listenUDP(self, port: int, protocol: Any, interface: str = "", size: int = 0) -> Any:
        self.datagrams = protocol
        protocol.transport = DatagramTransport()
        return protocol.transport


class MemoryStack:
    """A stack on a reactor in memory."""

    def __init__(
        self,
        listeners: Any = (),
        limits: SipLimits | None = None,
        answer: int = 0,
        tls: TlsStore | None = None,
    ) -> None:
        self.reactor = Reactor()
        self.metrics = Metrics()
        self.user = RecordingUser(answer)
        self.stack = SipStack(
            self.reactor,
            listeners or [tcp_listener(), udp_listener()],
            tls or TlsStore(TlsConfig()),
            IdSource(),
            self.metrics,
            Tracer(),
            self.user,
            limits or SipLimits(),
        )
        self.user.stack = self.stack
        self.stack.startService()

    def accept(self, host: str = "192.0.2.7", port: int = 40000) -> MemoryTransport | None:
        """Let a peer connect; None if it is refused."""
        factory = self.reactor.tcpServers[0][1]
        protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        if protocol is None:
            return None
        transport = MemoryTransport(protocol, host, port)
        protocol.makeConnection(transport)
        return transport

    def connected(self, index: int = -1) -> MemoryTransport:
        """Let a connection attempt of ours succeed."""
        host, port, factory, _, _ = self.reactor.tcpClients[index]
        protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        transport = MemoryTransport(protocol, host, port)
        protocol.makeConnection(transport)
        return transport

    def refuse(self, reason: Exception, index: int = -1) -> None:
        """Let a connection attempt of ours fail."""
        self.reactor.tcpClients[index][2].clientConnectionFailed(None, Failure(reason))

    def turn(self, seconds: float = 0.0) -> None:
        self.reactor.advance(seconds)

    def receive(self, transport: MemoryTransport, data: bytes) -> None:
        transport.protocol.dataReceived(data)
        self.turn()


def tls_config(
    ca: Authority | Path, *certificates: tuple[str, Issued], minimum: str = "1.2"
) -> TlsConfig:
    path = ca.path if isinstance(ca, Authority) else ca
    chains = tuple(
        CertificateConfig(name, each.certificate, each.key) for name, each in certificates
    )
    return TlsConfig(chains, path, minimum)


def tls_listener(mode: str = "required", name: str = "outside") -> ListenerConfig:
    return ListenerConfig(name, "tls", "127.0.0.1", 0, "127.0.0.1", 0, mode)


def real_stack(
    reactor: Any, config: TlsConfig, mode: str = "required", limits: SipLimits | None = None
) -> tuple[SipStack, RecordingUser, Metrics]:
    """Return a started stack with one TLS listener on a free loopback port; it answers 200."""
    metrics = Metrics()
    user = RecordingUser(200)
    stack = SipStack(
        reactor,
        [tls_listener(mode)],
        TlsStore(config, metrics),
        IdSource(),
        metrics,
        Tracer(),
        user,
        limits or SipLimits(close_timeout=0.5, backoff=0.05),
    )
    user.stack = stack
    stack.startService()
    return stack, user, metrics
