"""Connections through a load balancer that names the peer's own address (PROXY protocol)."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from impfed.config.model import ListenerConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.testing.pki import make_ca, make_certificate
from impfed.transport.flow import SipLimits
from impfed.transport.proxied import ProxyHeader, ProxyHeaderError
from impfed.transport.sip import SipStack
from impfed.transport.tls import TlsStore
from tests.transport.sip_kit import (
    MemoryStack,
    RecordingUser,
    request_bytes,
    tls_config,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
BALANCER = "10.0.0.5"


def version_2(block: bytes, family: int = 0x11, version: int = 0x21) -> bytes:
    """Return a binary header."""
    return SIGNATURE + struct.pack("!BBH", version, family, len(block)) + block


def tcp4(host: str = "192.0.2.9", port: int = 4711) -> bytes:
    """Return the address block of a peer that came over IPv4."""
    here, there = socket.inet_aton(host), socket.inet_aton("10.0.0.5")
    return struct.pack("!4s4sHH", here, there, port, 5061)


def tcp6(host: str) -> bytes:
    """Return the address block of a peer that came over IPv6."""
    return struct.pack("!16s16sHH", socket.inet_pton(socket.AF_INET6, host), bytes(16), 4711, 5061)


def tls_block(name: bytes | None, shown: int = 0x03, verified: int = 0) -> bytes:
    """Return the extension that tells of the peer's TLS and of its certificate's common name."""
    inner = b"\x21\x00\x07TLSv1.2"
    inner += b"" if name is None else struct.pack("!BH", 0x22, len(name)) + name
    block = struct.pack("!BI", shown, verified) + inner
    return struct.pack("!BH", 0x20, len(block)) + block


VOUCHED = {
    tls_block(b"sip.lync.example"): "sip.lync.example",
    b"\x04\x00\x01x" * 2 + tls_block(b"sip.lync.example", 0x05): "sip.lync.example",
    tls_block(None): "",
    tls_block(b"sip.lync.example", 0x01): "",
    tls_block(b"sip.lync.example", 0x03, 1): "",
    b"\x03\x00\x04abcd": None,
}
BROKEN = (
    b"\x20\x00",
    b"\x20\x00\x05abcd",
    b"\x20\x00\x04abcd",
    tls_block(b"a.example") * 2,
    b"\x20\x00\x08\x03\x00\x00\x00\x00\x22\x00\x09",
)

GOOD = {
    b"PROXY TCP4 192.0.2.9 10.0.0.5 4711 5061\r\n": ("192.0.2.9", 4711),
    b"PROXY TCP6 2001:DB8:0:0::9 2001:db8::5 65535 5061\r\n": ("2001:db8::9", 65535),
    b"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:10.0.0.5 4711 5061\r\n": ("192.0.2.9", 4711),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n": None,
    version_2(tcp4()): ("192.0.2.9", 4711),
    version_2(tcp4() + b"\x03\x00\x04\x01\x02\x03\x04"): ("192.0.2.9", 4711),
    version_2(tcp6("2001:db8::9"), 0x21): ("2001:db8::9", 4711),
    version_2(b"", 0x00, 0x20): None,
    version_2(tcp4(), 0x11, 0x20): None,
}
BAD = (
    b"OPTIONS sip:a@b SIP/2.0\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 192.0.2.9 10.0.0.5 4711\r\n",
    b"PROXY TCP4 192.0.2.9 10.0.0.5 4711 5061 9\r\n",
    b"PROXY TCP4 192.0.2.999 10.0.0.5 4711 5061\r\n",
    b"PROXY TCP4 2001:db8::9 10.0.0.5 4711 5061\r\n",
    b"PROXY TCP6 fe80::1%eth0 fe80::2 4711 5061\r\n",
    b"PROXY TCP4 192.0.2.9 10.0.0.5 65536 5061\r\n",
    b"PROXY TCP4 192.0.2.9 10.0.0.5 -1 5061\r\n",
    b"PROXY TCP4 192.0.2.9 10.0.0.5 \xb2 5061\r\n",
    b"PROXY UDP4 192.0.2.9 10.0.0.5 4711 5061\r\n",
    b"PROXY TCP4 " + b"1" * 200,
    b"PROXY UNKNOWN " + b"1" * 100 + b"\r\n",
    SIGNATURE[:-1] + b"X",
    version_2(tcp4(), 0x11, 0x11),
    version_2(tcp4(), 0x11, 0x22),
    version_2(tcp4(), 0x12),
    version_2(bytes(216), 0x31),
    version_2(b"", 0x00, 0x21),
    version_2(tcp4()[:-1]),
    version_2(bytes(5000)),
)


class HeaderTests(SynchronousTestCase):
    """The header by itself."""

    def test_good(self) -> None:
        """Both versions tell the peer's address, or that the balancer speaks for itself."""
        for data, source in GOOD.items():
            header = ProxyHeader()
            self.assertEqual(header.feed(data + b"PROXY rest"), b"PROXY rest", data)
            self.assertEqual(header.source, source, data)

    def test_cut_anywhere(self) -> None:
        """It does not matter how the network cuts the header."""
        for data, source in GOOD.items():
            header = ProxyHeader()
            for octet in data[:-1]:
                self.assertIsNone(header.feed(bytes([octet])), data)
            self.assertEqual(header.feed(data[-1:]), b"", data)
            self.assertEqual(header.source, source, data)

    def test_bad(self) -> None:
        """What is no header, or names no TCP address, is refused as soon as that is known."""
        for data in BAD:
            self.assertRaises(ProxyHeaderError, ProxyHeader().feed, data)

    def test_vouched(self) -> None:
        """The common name counts only if the balancer says that it has verified the certificate."""
        for extensions, name in VOUCHED.items():
            header = ProxyHeader()
            self.assertEqual(header.feed(version_2(tcp4() + extensions)), b"")
            self.assertEqual(header.vouched, name, extensions)

    def test_broken_extensions(self) -> None:
        """An extension that cannot be read, or says two things, is refused."""
        for extensions in BROKEN:
            data = version_2(tcp4() + extensions)
            self.assertRaises(ProxyHeaderError, ProxyHeader().feed, data)

    @given(st.binary(max_size=200), st.sampled_from((b"", SIGNATURE, b"PROXY TCP4 ", b"PROXY ")))
    def test_anything(self, data: bytes, begin: bytes) -> None:
        """Whatever comes, it is a header, incomplete, or refused; and no more than 4 KiB are kept."""
        try:
            ProxyHeader().feed(begin + data)
        except ProxyHeaderError as error:
            self.assertTrue(str(error))


def proxied(transport: str = "tcp", port: int = 5060, host: str = BALANCER) -> ListenerConfig:
    """Return a listener behind a balancer."""
    return ListenerConfig(
        "balanced", transport, "127.0.0.1", port, "node1.example", 15060,
        proxy_protocol=True, proxy_addresses=(host, "2001:db8:5::/64"),
    )  # fmt: skip


@contextmanager
def captured() -> Iterator[list[str]]:
    """Collect the names of log events while it lasts."""
    events: list[str] = []

    def note(event: Any) -> None:
        if "event" in event:
            events.append(event["event"])

    globalLogPublisher.addObserver(note)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(note)


class ListenerTests(SynchronousTestCase):
    """A listener that only a balancer may connect to."""

    def stack(self, **limits: Any) -> MemoryStack:
        """Return a stack with such a listener."""
        return MemoryStack([proxied()], SipLimits(**limits), answer=200)

    def refused(self, memory: MemoryStack) -> int:
        """Return how many headers were refused; each has its line in the log."""
        return int(memory.metrics.value("sip.proxy_header_refused"))

    def test_source(self) -> None:
        """The peer's own address is the flow's, and answers go back through the balancer."""
        for header in (b"PROXY TCP4 192.0.2.9 10.0.0.5 4711 5061\r\n", version_2(tcp4())):
            memory = self.stack()
            peer = memory.accept(BALANCER)
            memory.receive(peer, header + request_bytes())
            self.assertEqual(memory.user.requests[0][2].remote, ("192.0.2.9", 4711))
            self.assertEqual(memory.stack.status()[0]["peer"], "tcp:192.0.2.9:4711")
            self.assertIn(b"SIP/2.0 200 OK", peer.value())
            peer.drop()
            self.assertEqual(memory.stack.status(), [])

    def test_own_check(self) -> None:
        """What the balancer sends for itself comes from its own address."""
        memory = self.stack()
        memory.receive(memory.accept(BALANCER, 40001), version_2(b"", 0, 0x20) + request_bytes())
        self.assertEqual(memory.user.requests[0][2].remote, (BALANCER, 40001))

    def test_without_header(self) -> None:
        """A connection without the header, or with a broken one, is closed, counted and logged once."""
        for number, data in enumerate((request_bytes(), *BAD), 1):
            memory = self.stack()
            with captured() as events:
                peer = memory.accept(BALANCER)
                memory.receive(peer, data)
                memory.receive(peer, request_bytes())
            self.assertTrue(peer.disconnecting, number)
            self.assertEqual(peer.value(), b"")
            self.assertEqual(self.refused(memory), 1)
            self.assertEqual(events, ["impfed.sip.proxy_header_refused"])
            self.assertEqual((memory.user.requests, memory.stack.status()), ([], []))

    def test_from_elsewhere(self) -> None:
        """Who is not in the list is refused before he says anything."""
        memory = self.stack()
        self.assertIsNone(memory.accept("10.0.0.6"))
        self.assertEqual(self.refused(memory), 1)
        self.assertIsNotNone(memory.accept("::ffff:10.0.0.5"))

    def test_silent(self) -> None:
        """A connection that brings no header in time is closed; one that just goes is a check."""
        memory = self.stack(handshake_timeout=3.0)
        silent, gone = memory.accept(BALANCER), memory.accept(BALANCER)
        gone.drop()
        self.assertEqual(memory.metrics.value("sip.probes"), 1)
        memory.turn(2.9)
        self.assertFalse(silent.disconnecting)
        memory.turn(0.2)
        self.assertTrue(silent.disconnecting)
        self.assertEqual(self.refused(memory), 1)

    def test_bounds(self) -> None:
        """Bounds for one address count the peers' addresses, not the balancer's."""
        memory = self.stack(connections_per_address=1)
        first, second, third = (memory.accept(BALANCER) for _ in range(3))
        memory.receive(first, version_2(tcp4("192.0.2.1")))
        memory.receive(second, version_2(tcp4("192.0.2.2")))
        memory.receive(third, version_2(tcp4("192.0.2.1")))
        self.assertEqual([p.disconnecting for p in (first, second, third)], [False, False, True])
        self.assertEqual(memory.metrics.value("sip.connections_refused"), 1)

    def test_many_without_header(self) -> None:
        """Connections that wait for their header are bounded, and closed when the listener is."""
        memory = self.stack(handshakes=1)
        waiting = memory.accept(BALANCER)
        self.assertIsNone(memory.accept(BALANCER))
        memory.reactor.tcpServers[0][1].stopFactory()
        self.assertTrue(waiting.disconnecting)


class TlsTests(TestCase):
    """The header stands before TLS."""

    @inlineCallbacks
    def through(self, header: bytes, *upstreams: str) -> Any:
        """Send a request behind a header, in TLS with the balancer's certificate; return its flow."""
        directory = Path(self.mktemp())
        ca = make_ca(directory, "balancer CA")
        node = make_certificate(ca, directory, "node1.example")
        edge = make_certificate(ca, directory, "edge.example")
        listener = proxied("tls", 0, "127.0.0.1")
        metrics, user = Metrics(), RecordingUser(200)
        stack = SipStack(
            reactor, [listener], TlsStore(tls_config(ca, ("node", node)), metrics), IdSource(),
            metrics, Tracer(), user, SipLimits(close_timeout=0.5), upstreams=upstreams,
        )  # fmt: skip
        user.stack = stack
        stack.startService()
        self.addCleanup(stack.stopService)

        def talk() -> bytes:
            context = ssl.create_default_context(cafile=str(ca.path))
            context.load_cert_chain(edge.certificate, edge.key)
            with socket.create_connection(("127.0.0.1", stack.ports["balanced"])) as plain:
                plain.sendall(header)
                with context.wrap_socket(plain, server_hostname="node1.example") as wire:
                    wire.sendall(request_bytes())
                    return wire.recv(65536)

        answer = yield deferToThread(talk)
        self.assertTrue(answer.startswith(b"SIP/2.0 200 OK"))
        return user.requests[0][2]

    @inlineCallbacks
    def test_tls(self) -> Any:
        """Over real sockets TLS begins behind the header, and the certificate is the balancer's."""
        flow = yield self.through(version_2(tcp4()), "edge.example")
        self.assertEqual(flow.remote, ("192.0.2.9", 4711))
        self.assertEqual(flow.peer.names, {"edge.example"})

    @inlineCallbacks
    def test_upstream(self) -> Any:
        """A trusted upstream's word on who the peer is takes the place of its own certificate."""
        header = version_2(tcp4() + tls_block(b"SIP.lync.example"))
        flow = yield self.through(header, "edge.example")
        self.assertEqual((flow.peer.names, flow.peer.proven), ({"sip.lync.example"}, True))
        self.assertIn("by the word of CN=edge.example", flow.peer.subject)

    @inlineCallbacks
    def test_upstream_without_name(self) -> Any:
        """A peer that has proven nothing to the upstream has proven nothing; nor does a wildcard."""
        for name in (None, b"*.lync.example"):
            flow = yield self.through(version_2(tcp4() + tls_block(name)), "edge.example")
            self.assertEqual((flow.peer.names, flow.peer.proven), (frozenset(), False))

    @inlineCallbacks
    def test_not_trusted(self) -> Any:
        """Who is no trusted upstream speaks for himself, whatever he says."""
        header = version_2(tcp4() + tls_block(b"sip.lync.example"))
        flow = yield self.through(header, "other.example")
        self.assertEqual(flow.peer.names, {"edge.example"})
