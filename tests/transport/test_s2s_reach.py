"""How a server is reached and left: addresses in turn, ALPN, international names, idle and dead streams."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread

from demo.parts import free_ports
from impfed.testing.pki import Issued
from impfed.transport.s2s import S2SLimits, Target
from impfed.xmpp.s2s_parts import StreamLimits
from tests.transport.s2s_kit import Node, S2SCase, text

Steps = Generator[Deferred[Any], Any, None]


class ReachTests(S2SCase):
    """From the DNS's answer to a stream."""

    @inlineCallbacks
    def test_other_address(self) -> Steps:
        """Where a server's IPv6 address cannot be reached its IPv4 address is tried."""
        a, b = self.node("a.example"), self.node("b.example")
        port = b.s2s.ports[0]
        self.world.targets.table["b.example"] = [
            Target("2001:db8::1", port),
            Target("127.0.0.1", port),
        ]
        a.s2s.send(text("x@a.example", "y@b.example", "there"))
        yield self.until(lambda: b.user.bodies == ["there"] or a.user.errors)
        self.assertEqual(b.user.bodies, ["there"], [one.to_xml() for one in a.user.errors])

    @inlineCallbacks
    def test_other_kind(self) -> Steps:
        """Servers with direct TLS and with STARTTLS are one list: the next is tried, whatever its kind."""
        (dead,) = free_ports(1)
        for direct in (True, False):
            a, b = self.node("a.example"), self.node("b.example")
            plain, secure = b.s2s.ports
            self.world.targets.table["b.example"] = [
                Target("127.0.0.1", dead, direct),
                Target("127.0.0.1", plain if direct else secure, not direct),
            ]
            a.s2s.send(text("x@a.example", "y@b.example", "there"))
            yield self.until(lambda b=b: b.user.bodies == ["there"])
            for node in (a, b):
                self.nodes.remove(node)
                yield node.stop()

    @inlineCallbacks
    def test_international(self) -> Steps:
        """Domains beyond ASCII: certificates, SNI and headers agree on them, both ways."""
        a = self.node("a.example")
        certificate = self.world.issue("xn--bcher-kva.example")
        b = self.node("bücher.example", certificate=certificate)
        a.s2s.send(text("x@a.example", "y@BÜCHER.example", "there"))
        yield self.until(lambda: b.user.bodies == ["there"] or a.user.errors)
        self.assertEqual(b.user.bodies, ["there"], [one.to_xml() for one in a.user.errors])
        b.s2s.send(text("y@bücher.example", "x@a.example", "and back"))
        yield self.until(lambda: a.user.bodies == ["and back"])
        self.assertEqual(a.user.stanzas[0].from_.domain, "bücher.example")


class AlpnTests(S2SCase):
    """ALPN on connections that begin with TLS (XEP-0368)."""

    @inlineCallbacks
    def test_ours(self) -> Steps:
        """Who connects with direct TLS is greeted as xmpp-server, and without ALPN, too."""
        node = self.node("a.example")

        def ask(protocols: list[str]) -> str | None:
            context = ssl.create_default_context(cafile=str(self.world.ca.path))
            if protocols:
                context.set_alpn_protocols(protocols)
            with (
                socket.create_connection(("127.0.0.1", node.s2s.ports[1]), 5) as plain,
                context.wrap_socket(plain, server_hostname="a.example") as secure,
            ):
                return secure.selected_alpn_protocol()

        for offered, chosen in (
            (["xmpp-server"], "xmpp-server"),
            (["xmpp-client", "xmpp-server"], "xmpp-server"),
            ([], None),
            (["h2"], None),
        ):
            self.assertEqual((yield deferToThread(ask, offered)), chosen)

    @inlineCallbacks
    def test_theirs(self) -> Steps:
        """We say xmpp-server, and the domain, where we connect with direct TLS."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        issued: Issued = self.world.issue("b.example")
        node = self.node("a.example")
        port = listener.getsockname()[1]
        self.world.targets.table["b.example"] = [Target("127.0.0.1", port, True)]

        def accept() -> tuple[str | None, list[str]]:
            names: list[str] = []
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(issued.certificate, issued.key)
            context.set_alpn_protocols(["xmpp-server"])
            context.sni_callback = lambda _, name, __: names.append(name)
            listener.settimeout(10)
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as secure:
                return secure.selected_alpn_protocol(), names

        accepted = deferToThread(accept)
        node.s2s.send(text("x@a.example", "y@b.example"))
        self.assertEqual((yield accepted), ("xmpp-server", ["b.example"]))


class EndTests(S2SCase):
    """Streams that nobody needs, or nobody hears."""

    def incoming(self, node: Node) -> list[dict[str, Any]]:
        return [one for one in node.s2s.status() if one["direction"] == "in"]

    @inlineCallbacks
    def test_idle_incoming(self) -> Steps:
        """A peer's idle stream is closed in good order; what comes later comes by another."""
        a, b = self.node("a.example"), self.node("b.example", limits=S2SLimits(idle_in=0.3))
        for body in ("0", "1"):
            a.s2s.send(text("x@a.example", "y@b.example", body))
            yield self.until(lambda body=body: b.user.bodies[-1:] == [body])
            yield self.until(lambda: not self.incoming(b) and not a.s2s.status()[0].get("address"))
        self.assertEqual(a.metrics.value("s2s.streams_out"), 2)
        self.assertEqual(a.user.errors, [])

    def test_dead_in_time(self) -> None:
        """By default neither way of noticing a dead peer takes longer than 65 s."""
        stream, limits = StreamLimits(), S2SLimits()
        self.assertLessEqual(stream.silence + stream.acknowledgement, 65)
        self.assertLessEqual(limits.dead, 65)

    @inlineCallbacks
    def test_back_off(self) -> Steps:
        """A server that is away is tried less and less often."""
        a = self.node("a.example", limits=S2SLimits(patience=60.0))
        (dead,) = free_ports(1)
        self.world.targets.table["b.example"] = [Target("127.0.0.1", dead)]
        waits: list[float] = []
        a.s2s.send(text("x@a.example", "y@b.example", "there"))
        for attempt in range(3):
            failed = lambda n=attempt: a.metrics.value("s2s.connect_failed") > n  # noqa: E731
            yield self.until(failed, 15)
            status = a.s2s.status()[0]
            self.assertIn("nothing listens there", str(status["reason"]))
            waits.append(status["retry_at"] - status["since"])
        self.assertTrue(all(wait > 0 for wait in waits), waits)
        self.assertGreater(waits[2], waits[0])
