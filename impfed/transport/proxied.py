"""The PROXY protocol, versions 1 and 2: who is really there behind a load balancer.

A balancer that is configured so begins each connection with a header that names the peer's own
address.  The header is read before anything else is made of the connection, so that bounds, log and
admission see that address and never the balancer's.  (Twisted's ``HAProxyWrappingFactory`` tells the
address only after the connection has been admitted, and wants the first octets in one piece.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from twisted.internet import address as addresses
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.transport.flow import FlowOwner

log = EventLog("impfed.sip")

_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V1 = b"PROXY "
_V1_LIMIT = 107  # with its CR LF
_V2_LIMIT = 4096  # more than all extensions together that balancers send
_Address = IPv4Address | IPv6Address
_WORDS: dict[bytes, type[_Address]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}
_FAMILIES: dict[int, tuple[type[_Address], struct.Struct]] = {
    0x11: (IPv4Address, struct.Struct("!4s4sHH")),
    0x21: (IPv6Address, struct.Struct("!16s16sHH")),
}

_TLS, _COMMON_NAME = 0x20, 0x22  # extensions, the second within the first
_PADDING = 0x04
_CERTIFICATE = 0x02 | 0x04  # the peer showed one, in this connection or in its session

Source = tuple[str, int]


class ProxyHeaderError(RemoteError):
    """A connection does not begin with a PROXY header that we can use."""

    def __init__(self, reason: str) -> None:
        super().__init__(400, reason)


class ProxyHeader:
    """Reads the header of one connection, however it is cut into pieces.

    :ivar source: the peer's address and port, once :meth:`feed` has returned; None when the balancer
        speaks for itself, as its health checks do (LOCAL, UNKNOWN).
    :ivar vouched: common name of the certificate that the peer has proven to the balancer; "" for
        none; None when the balancer says nothing of TLS.
    """

    __slots__ = ("_seen", "source", "vouched")

    def __init__(self) -> None:
        self._seen = b""
        self.source: Source | None = None
        self.vouched: str | None = None

    def feed(self, data: bytes) -> bytes | None:
        """Take octets; return what follows the header, or None while it is incomplete.

        :raises ProxyHeaderError: as soon as it can be no header.
        """
        seen = self._seen = self._seen + data
        if seen.startswith(_V2[: len(seen)]):
            return self._version_2(seen)
        if seen.startswith(_V1[: len(seen)]):
            return self._version_1(seen)
        raise ProxyHeaderError("there is no PROXY header")

    def _version_1(self, seen: bytes) -> bytes | None:
        line, end, rest = seen.partition(b"\r\n")
        if len(line) + 2 > _V1_LIMIT:
            raise ProxyHeaderError("the PROXY line is too long")
        if not end:
            return None
        if line.split(b" ")[1] != b"UNKNOWN":
            self.source = _source_of_line(line)
        return rest

    def _version_2(self, seen: bytes) -> bytes | None:
        if len(seen) < 16:
            return None
        version, family, length = struct.unpack_from("!BBH", seen, 12)
        if version not in (0x20, 0x21) or length > _V2_LIMIT:
            raise ProxyHeaderError(f"a PROXY header of type {version:#x}, {length} octets long")
        if len(seen) < 16 + length:
            return None
        if version == 0x21:
            block = seen[16 : 16 + length]
            self.source = _source_of_block(family, block)
            self.vouched = _vouched(block[_FAMILIES[family][1].size :])
        return seen[16 + length :]


def _source_of_line(line: bytes) -> Source:
    words = line.split(b" ")
    kind = _WORDS.get(words[1])
    if kind is None or len(words) != 6 or b"%" in line:
        raise ProxyHeaderError("the PROXY line is neither TCP4 nor TCP6 with two addresses")
    try:
        source, _ = (kind(word.decode("ascii")) for word in words[2:4])
        port, _ = (_port(word) for word in words[4:])
    except ValueError:
        raise ProxyHeaderError("the PROXY line has a broken address or port") from None
    return _plain(source), port


def _port(word: bytes) -> int:
    if not word.isdigit() or int(word) > 65535:
        raise ValueError
    return int(word)


def _source_of_block(family: int, block: bytes) -> Source:
    kind, layout = _FAMILIES.get(family, (IPv4Address, None))
    if layout is None or len(block) < layout.size:
        raise ProxyHeaderError(f"a PROXY header without TCP addresses (family {family:#x})")
    source, _, port, _ = layout.unpack_from(block)
    return _plain(kind(source)), port


def _extensions(block: bytes) -> dict[int, bytes]:
    found = {}
    while block:
        if len(block) < 3:
            raise ProxyHeaderError("a PROXY header with a broken extension")
        kind, length = struct.unpack_from("!BH", block)
        if len(block) < 3 + length or (kind in found and kind != _PADDING):
            raise ProxyHeaderError("a PROXY header with a broken extension")
        found[kind] = block[3 : 3 + length]
        block = block[3 + length :]
    return found


def _vouched(block: bytes) -> str | None:
    tls = _extensions(block).get(_TLS)
    if tls is None:
        return None
    if len(tls) < 5:
        raise ProxyHeaderError("a PROXY header with a broken extension")
    shown, verified = struct.unpack_from("!BI", tls)
    name = _extensions(tls[5:]).get(_COMMON_NAME, b"")
    return name.decode("utf-8", "replace") if shown & _CERTIFICATE and verified == 0 else ""


def _plain(address: _Address) -> str:
    """Return an address as sockets show it; an IPv4 address in IPv6 clothes as IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


class ProxiedFactory(Factory[Protocol]):
    """Accepts connections of balancers; lets another factory go on behind the header.

    :param inner: what each connection is for; asked with the peer's own address.
    :param allowed: addresses and networks that may connect.
    """

    noisy = False

    def __init__(
        self, owner: FlowOwner, listener: str, inner: Factory[Any], allowed: Iterable[str]
    ) -> None:
        self.owner = owner
        self.listener = listener
        self.inner = inner
        self.waiting: set[_Greeting] = set()
        self._allowed = [ip_network(network) for network in allowed]

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """Twisted: somebody has connected; None refuses."""
        if not self._permitted(addr.host):
            self.refused(f"{addr.host}:{addr.port}", "it is not in proxy_addresses")
            return None
        if len(self.waiting) >= self.owner.limits.handshakes:
            self.owner.count("sip.connections_refused")
            return None
        return _Greeting(self)

    def stopFactory(self) -> None:
        """Twisted: nobody is listened to any more."""
        for greeting in list(self.waiting):
            greeting.abort()

    def refused(self, balancer: str, reason: str) -> None:
        """Count and log a connection that brought no header, or may not bring one."""
        self.owner.count("sip.proxy_header_refused")
        log.warn(
            "proxy_header_refused",
            "connection from {balancer} to {listener} closed: {reason}",
            balancer=balancer,
            listener=self.listener,
            reason=reason,
        )

    def _permitted(self, host: str) -> bool:
        address = ip_address(_plain(ip_address(host.partition("%")[0])))
        return any(
            address in network
            for network in self._allowed
            if isinstance(network, IPv6Network) == isinstance(address, IPv6Address)
        )


class _Greeting(Protocol):
    """A connection until its header is there."""

    transport: Any

    def __init__(self, factory: ProxiedFactory) -> None:
        self._factory = factory
        self._header = ProxyHeader()
        self._timer: Timer | None = None

    def connectionMade(self) -> None:
        """Twisted: the TCP connection stands."""
        self._factory.waiting.add(self)
        owner = self._factory.owner
        wait = owner.limits.handshake_timeout
        late = f"there was no PROXY header after {wait:g} s"
        self._timer = owner.timers.after(wait, self._refuse, late)

    def dataReceived(self, data: bytes) -> None:
        """Twisted: octets came."""
        if self._timer is None:
            return  # refused already
        try:
            rest = self._header.feed(data)
        except ProxyHeaderError as error:
            self._refuse(error.reason)
            return
        if rest is not None:
            self._done()
            self._go_on(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the balancer has gone before it said for whom it came, as bare checks do."""
        if self._timer is not None:
            self._done()
            self._factory.owner.count("sip.probes")

    def abort(self) -> None:
        """End the connection: nothing is known of it yet."""
        self._done()
        self.transport.abortConnection()

    def _go_on(self, rest: bytes) -> None:
        peer = self.transport.getPeer()
        host, port = self._header.source or (peer.host, peer.port)
        kind = addresses.IPv6Address if ":" in host else addresses.IPv4Address
        protocol = self._factory.inner.buildProtocol(kind("TCP", host, port))
        if protocol is None:
            self.transport.abortConnection()
            return
        wire = getattr(protocol, "wrappedProtocol", protocol)  # what TLS is wrapped around
        wire.flow.vouched = self._header.vouched
        wire.flow.own_check = self._header.source is None
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        if rest:
            protocol.dataReceived(rest)

    def _refuse(self, reason: str) -> None:
        peer = self.transport.getPeer()
        self._factory.refused(f"{peer.host}:{peer.port}", reason)
        self.abort()

    def _done(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._factory.waiting.discard(self)
