"""What an edge asks of the transport: several connections to one place, bounds for one address, one
certificate on one listener."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import ListenerConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.sip.target import Hop
from impfed.transport.flow import SipLimits
from impfed.transport.pool import Target
from impfed.transport.sip import SipStack
from impfed.transport.tls import TlsStore
from impfed.transport.tls_files import TlsFileError
from tests.transport.sip_kit import (
    MemoryStack,
    Outcome,
    RecordingUser,
    outgoing,
    tcp_listener,
    tls_config,
    tls_listener,
)
from tests.transport.test_tls_matrix import Loopback, PlainClient

reactor: Any = _reactor


class Lanes(SynchronousTestCase):
    def test_each_lane_is_a_connection(self) -> None:
        """Hops that differ in their lane alone have connections of their own, which stay apart."""
        memory = MemoryStack()
        hops = [Hop("tcp", "10.0.0.1", 5060, lane=lane) for lane in (0, 1, 0)]
        for hop in hops:
            memory.stack.request(outgoing(), hop, Outcome())
        memory.turn()
        self.assertEqual(len(memory.reactor.tcpClients), 2)
        memory.refuse(OSError("refused"), 1)
        pool = memory.stack.pool
        self.assertEqual(pool.condition(Target.of_hop(hops[0]))[0], "connecting")
        self.assertEqual(pool.condition(Target.of_hop(hops[1]))[0], "resting")

    def test_forgiven(self) -> None:
        """A target that rests is tried at once when it is forgiven, and rests longer if it fails."""
        memory = MemoryStack()
        hop = Hop("tcp", "10.0.0.1", 5060)
        memory.stack.request(outgoing(), hop, Outcome())
        memory.turn()
        memory.refuse(OSError("refused"))
        memory.stack.request(outgoing(), hop, Outcome())
        memory.turn()
        self.assertEqual(len(memory.reactor.tcpClients), 1)
        memory.stack.pool.forgive(Target.of_hop(hop))
        memory.stack.request(outgoing(), hop, Outcome())
        memory.turn()
        self.assertEqual(len(memory.reactor.tcpClients), 2)


class Bounds(SynchronousTestCase):
    def test_trusted_listener(self) -> None:
        """One address may have as many connections as it likes where only our own machines connect."""
        limits = SipLimits(connections_per_address=1, trusted=frozenset({"inside"}))
        memory = MemoryStack([tcp_listener("inside")], limits)
        for _ in range(5):
            self.assertIsNotNone(memory.accept("10.0.0.1"))

    def test_half_open(self) -> None:
        """One address cannot have many connections without TLS done; others are not kept out."""
        memory = MemoryStack(limits=SipLimits(handshakes_per_address=2))
        incoming = memory.stack.incoming
        first = incoming.admit("tls", "outside", ("192.0.2.1", 1))
        self.assertIsNotNone(incoming.admit("tls", "outside", ("192.0.2.2", 1)))
        self.assertIsNotNone(incoming.admit("tls", "outside", ("192.0.2.1", 2)))
        self.assertIsNone(incoming.admit("tls", "outside", ("192.0.2.1", 3)))
        self.assertIsNotNone(incoming.admit("tls", "outside", ("192.0.2.2", 2)))
        self.assertIsNotNone(incoming.admit("tcp", "plain", ("192.0.2.1", 4)))
        assert first is not None
        incoming.secured(first)
        self.assertIsNotNone(incoming.admit("tls", "outside", ("192.0.2.1", 5)))
        self.assertEqual(memory.metrics.value("sip.connections_refused"), 1)


class OneCertificate(Loopback):
    def stack(self, listener: ListenerConfig) -> SipStack:
        """Return a stack with two certificates, and a listener."""
        config = tls_config(
            self.ca,
            ("outside", self.issue("sip.a.example")),
            ("inside", self.issue("edge.b.example")),
        )
        user, metrics = RecordingUser(200), Metrics()
        stack = SipStack(
            reactor, [listener], TlsStore(config, metrics), IdSource(), metrics, Tracer(), user
        )
        user.stack = stack
        self.stacks.append(stack)
        stack.startService()
        return stack

    async def shown(self, stack: SipStack, asked: str) -> str:
        """Return the common name of the certificate that is shown to who asks for a name."""
        creator = TlsStore(tls_config(self.ca)).client("none", asked)
        factory = TLSMemoryBIOFactory(creator, True, Factory.forProtocol(PlainClient))
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", stack.ports["outside"])
        wrapped = await endpoint.connect(factory)
        await wrapped.wrappedProtocol.answer
        found: str = wrapped.getPeerCertificate().get_subject().CN
        wrapped.abortConnection()
        return found

    async def test_named(self) -> None:
        """A listener with a certificate of its own shows no other, whatever name is asked for."""
        stack = self.stack(replace(tls_listener("none"), certificate="inside"))
        for asked in ("", "sip.a.example", "edge.b.example"):
            self.assertEqual(await self.shown(stack, asked), "edge.b.example", asked)

    async def test_not_named(self) -> None:
        """Without one it shows the one that is asked for, else the first."""
        stack = self.stack(tls_listener("none"))
        self.assertEqual(await self.shown(stack, ""), "sip.a.example")
        self.assertEqual(await self.shown(stack, "edge.b.example"), "edge.b.example")

    def test_unknown(self) -> None:
        """A name that no certificate has is an error at the start."""
        store = TlsStore(tls_config(self.ca, ("outside", self.issue("sip.a.example"))))
        self.assertRaises(TlsFileError, store.server, "required", "inside")
