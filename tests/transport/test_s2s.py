"""XMPP federation between services of this program, over real sockets and TLS."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.transport.s2s import FixedSettings, Security, Target, Tls
from tests.transport.s2s_kit import Node, S2SCase, text

OPTIONAL = Security(Tls.OPTIONAL, certificates=False)
CLEAR = Security(Tls.NONE, certificates=False)
Steps = Generator[Deferred[Any], Any, None]


class PairTests(S2SCase):
    """Two enterprises, one message each way."""

    @inlineCallbacks
    def exchange(self, **options: Any) -> Steps:
        a = self.node("a.example", **options)
        b = self.node("b.example", **options)
        a.s2s.send(text("x@a.example", "y@b.example", "there"))
        yield self.until(lambda: b.user.bodies == ["there"] or a.user.errors)
        self.assertEqual(b.user.bodies, ["there"], [e.to_xml() for e in a.user.errors])
        b.s2s.send(text("y@b.example", "x@a.example", "and back"))
        yield self.until(lambda: a.user.bodies == ["and back"])

    def methods(self, node: Node) -> set[str]:
        return {str(one.get("tls")) for one in node.s2s.status()}

    @inlineCallbacks
    def test_sasl_external(self) -> Steps:
        """With certificates of one authority, SASL EXTERNAL over TLS 1.3 both ways."""
        yield self.exchange()
        self.assertEqual(self.methods(self.nodes[0]), {"TLSv1.3"})

    @inlineCallbacks
    def test_direct_tls(self) -> Steps:
        """Direct TLS works as STARTTLS does."""
        yield self.exchange(direct=True)
        self.assertEqual(self.methods(self.nodes[0]), {"TLSv1.3"})

    @inlineCallbacks
    def test_dialback_in_clear(self) -> Steps:
        """Without TLS dialback proves both."""
        yield self.exchange(security=CLEAR)
        self.assertEqual(self.methods(self.nodes[0]), {""})

    @inlineCallbacks
    def test_dialback_over_tls(self) -> Steps:
        """Where certificates prove nothing but may do so, dialback runs over TLS."""
        a = self.node(
            "a.example", security=OPTIONAL, certificate=self.world.self_signed("a.example")
        )
        b = self.node(
            "b.example", security=OPTIONAL, certificate=self.world.self_signed("b.example")
        )
        a.s2s.send(text("x@a.example", "y@b.example", "there"))
        yield self.until(lambda: b.user.bodies == ["there"])
        self.assertEqual(self.methods(a), {"TLSv1.3"})

    @inlineCallbacks
    def test_order_and_count(self) -> Steps:
        """A thousand messages sent before there is a stream arrive in order, each once."""
        a, b = self.node("a.example"), self.node("b.example")
        for number in range(1000):
            a.s2s.send(text("x@a.example", "y@b.example", str(number)))
        yield self.until(lambda: len(b.user.bodies) >= 1000)
        self.assertEqual(b.user.bodies, [str(number) for number in range(1000)])

    @inlineCallbacks
    def test_next_server(self) -> Steps:
        """A dead first server costs an attempt, not the message."""
        a, b = self.node("a.example"), self.node("b.example")
        good = self.world.targets.table["b.example"]
        self.world.targets.table["b.example"] = [Target("127.0.0.1", 1), *good]
        a.s2s.send(text("x@a.example", "y@b.example", "there"))
        yield self.until(lambda: b.user.bodies == ["there"])

    @inlineCallbacks
    def test_unknown_domain(self) -> Steps:
        """A message to a domain without a server comes back at once, with its id and body."""
        a = self.node("a.example")
        a.s2s.send(text("x@a.example", "y@nowhere.example", "lost?", id="m1"))
        yield self.until(lambda: a.user.errors)
        error = a.user.errors[0]
        self.assertEqual((error.id, error.to.text), ("m1", "x@a.example"))
        self.assertEqual(error.from_.text, "y@nowhere.example")
        self.assertIn("remote-server-not-found", error.to_xml())
        self.assertEqual(error.text("body"), "lost?")


class StopTests(S2SCase):
    """The end of a service."""

    @inlineCallbacks
    def test_nothing_new(self) -> Steps:
        """What a service is given to send when it has stopped makes it connect to nobody."""
        a, b = self.node("a.example"), self.node("b.example")
        a.s2s.send(text("x@a.example", "y@b.example", "there"))
        yield self.until(lambda: b.user.bodies == ["there"])
        self.nodes.remove(b)
        yield b.stop()
        for domain in ("a.example", "c.example"):
            b.s2s.send(text("y@b.example", f"x@{domain}", "too late"))
        self.assertEqual({one["state"] for one in b.s2s.status()}, {"no stream, none wanted"})


class CertificateTests(S2SCase):
    """Which certificate is shown and trusted."""

    @inlineCallbacks
    def test_one_for_each_domain(self) -> Steps:
        """By SNI, direct or not, each local domain shows the certificate that carries it."""
        for direct in (False, True):
            issued = [self.world.issue(name) for name in ("b.example", "b2.example")]
            b = self.node("b.example", "b2.example", certificate=issued, direct=direct)
            a = self.node("a.example")
            for to in ("b.example", "b2.example"):
                a.s2s.send(text("x@a.example", f"y@{to}", to))
                yield self.until(lambda b=b, to=to: b.user.bodies[-1:] == [to])
                b.s2s.send(text(f"y@{to}", "x@a.example", f"from {to}"))
                yield self.until(lambda a=a, to=to: a.user.bodies[-1:] == [f"from {to}"])
            for node in (a, b):
                self.nodes.remove(node)
                yield node.stop()

    @inlineCallbacks
    def test_partner_with_his_own_authority(self) -> Steps:
        """A partner's own roots make his certificate good, and nobody else's."""
        roots = {"b.example": self.world.other_ca.path}
        settings = FixedSettings(roots=roots)
        a = self.node("a.example", settings=settings)
        for name in ("b.example", "c.example"):
            issued = self.world.issue(name, ca=self.world.other_ca)
            node = self.node(name, certificate=issued)
            a.s2s.send(text("x@a.example", f"y@{name}", name))
            if name == "b.example":
                yield self.until(lambda node=node: node.user.bodies == ["b.example"])
        yield self.until(lambda: a.user.errors)
        self.assertIn("Unknown CA", a.user.errors[0].to_xml())

    @inlineCallbacks
    def test_replaced_file(self) -> Steps:
        """A certificate that is replaced is in use for the next stream, without a restart."""
        issued = self.world.issue("b.example", days=-1)
        a, b = self.node("a.example"), self.node("b.example", certificate=issued)
        a.s2s.send(text("x@a.example", "y@b.example", "expired"))
        yield self.until(lambda: a.user.errors)
        self.assertIn("it expired on", a.user.errors[0].to_xml())
        fresh = self.world.issue("b.example")
        issued.certificate.write_bytes(fresh.certificate.read_bytes())
        issued.key.write_bytes(fresh.key.read_bytes())
        self.assertTrue(b.tls.check())
        b.s2s.send(text("y@b.example", "x@a.example", "fresh"))
        yield self.until(lambda: a.user.bodies == ["fresh"])
