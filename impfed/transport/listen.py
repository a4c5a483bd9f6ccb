"""SIP listeners: who may connect, how many, and what the listener is called from outside."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from impfed.config.model import ListenerConfig
from impfed.core.log import EventLog
from impfed.transport.datagram import DatagramListener
from impfed.transport.flow import FlowOwner
from impfed.transport.proxied import ProxiedFactory
from impfed.transport.stream import StreamFlow
from impfed.transport.tls import TlsStore
from impfed.transport.tls_transport import TlsTransport

log = EventLog("impfed.sip")

#: Connections that may wait to be accepted.
_BACKLOG = 511


class Incoming:
    """All connections that came in, over every listener, and their bounds."""

    def __init__(self, owner: FlowOwner) -> None:
        self._owner = owner
        self._flows: set[StreamFlow] = set()
        self._securing: set[StreamFlow] = set()
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def flows(self) -> list[StreamFlow]:
        """All connections that came in."""
        return list(self._flows)

    def admit(self, transport: str, listener: str, remote: tuple[str, int]) -> StreamFlow | None:
        """Return the flow of a new connection; None when there are too many."""
        limits = self._owner.limits
        address = remote[0]
        tls = transport == "tls"
        full = len(self._flows) >= limits.connections
        full = full or (tls and len(self._securing) >= limits.handshakes)
        if listener not in limits.trusted:
            full = full or self._by_address[address] >= limits.connections_per_address
            full = full or (tls and self._securing_from(address) >= limits.handshakes_per_address)
        if full:
            self._owner.count("sip.connections_refused")
            return None
        flow = StreamFlow(self._owner, transport, listener, remote)
        self._flows.add(flow)
        self._by_address[remote[0]] += 1
        if transport == "tls":
            self._securing.add(flow)
        return flow

    def _securing_from(self, address: str) -> int:
        if len(self._securing) < self._owner.limits.handshakes_per_address:
            return 0  # not all of them are enough
        return sum(flow.remote[0] == address for flow in self._securing)

    def secured(self, flow: StreamFlow) -> None:
        """A connection's TLS handshake is done."""
        self._securing.discard(flow)

    def lost(self, flow: StreamFlow) -> None:
        """A connection is gone."""
        self._securing.discard(flow)
        if flow in self._flows:
            self._flows.discard(flow)
            address = flow.remote[0]
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]


class _FlowFactory(Factory[Protocol]):
    """Makes the flow of each connection to one listener."""

    noisy = False

    def __init__(self, incoming: Incoming, config: ListenerConfig) -> None:
        self._incoming = incoming
        self._config = config

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """Twisted: somebody has connected; None refuses."""
        config = self._config
        flow = self._incoming.admit(config.transport, config.name, (addr.host, addr.port))
        return None if flow is None else flow.wire


class _TlsFactory(TLSMemoryBIOFactory):
    """Puts TLS below a flow; Twisted's own cannot refuse a connection."""

    protocol = TlsTransport
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted: somebody has connected; None refuses."""
        inner: Protocol | None = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else TlsTransport(self, inner)  # type: ignore[no-untyped-call]  # Twisted's


def listen(
    reactor: Any, owner: FlowOwner, incoming: Incoming, tls: TlsStore, config: ListenerConfig
) -> tuple[IListeningPort, DatagramListener | None]:
    """Open a listener; returns its port and, for UDP, what sends through it.

    :raises twisted.internet.error.CannotListenError: when the address is not to be had.
    """
    if config.transport == "udp":
        datagrams = DatagramListener(owner, config, reactor)
        return reactor.listenUDP(config.port, datagrams, config.host, 65536), datagrams
    factory: Any = _FlowFactory(incoming, config)
    if config.transport == "tls":
        creator = tls.server(config.client_certificates, config.certificate)
        factory = _TlsFactory(creator, False, factory, reactor)
    if config.proxy_protocol:
        factory = ProxiedFactory(owner, config.name, factory, config.proxy_addresses)
    port = reactor.listenTCP(config.port, factory, _BACKLOG, config.host)
    bound = port.getHost()
    log.info(
        "listening",
        "SIP over {transport} on {host}:{port} ({listener})",
        transport=config.transport,
        host=bound.host,
        port=bound.port,
        listener=config.name,
    )
    return port, None
