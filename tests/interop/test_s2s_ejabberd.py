"""XMPP federation with a real ejabberd, in a network of the test's own with a DNS in it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred

from impfed.core.ids import IdSource
from impfed.testing.pki import Issued
from impfed.transport.dns import DnsClient
from impfed.transport.s2s import S2SLimits, Security, Tls
from impfed.transport.s2s_targets import DnsTargets
from tests.interop.namespace import Network
from tests.interop.s2s_ejabberd import STRICT, PeerEjabberd, Policy
from tests.interop.s2s_matrix import EJABBERD, SOAK, Case, make, selection
from tests.interop.s2s_peer import Zone, serve_dns
from tests.interop.s2s_play import MatrixCase, Tail
from tests.transport.s2s_kit import Node, S2SCase, reactor, text

Steps = Generator[Deferred[Any], Any, None]
OURS = "ours.example"


class NetworkCase(S2SCase):
    """A network of the test's own, with a DNS at port 53."""

    def setUp(self) -> None:
        super().setUp()
        network = Network()
        self.addCleanup(network.leave)
        self.zone = Zone()
        dns, port = serve_dns(reactor, self.zone, 53)
        self.addCleanup(lambda: maybeDeferred(dns.stopListening))
        client = DnsClient(reactor, [("127.0.0.1", port)], 5.0)
        self.world.targets = DnsTargets(client.lookup, IdSource())  # type: ignore[assignment]
        self.world.targets.table = {}  # type: ignore[attr-defined]

    def ours(self, domain: str = OURS, patience: float = 20.0, **options: Any) -> Node:
        # ejabberd's mod_s2s_dialback says "remote-server-not-found" of a certificate: tried again.
        node = self.node(domain, limits=S2SLimits(patience=patience), **options)
        self.zone.domain(domain, node.s2s.ports[0])
        return node


class EjabberdCase(NetworkCase):
    """An ejabberd as the foreign domains."""

    timeout = 120

    def ejabberd(
        self, log_level: str = "debug", **hosts: tuple[Policy, Issued | None]
    ) -> PeerEjabberd:
        """Start one with the domains ``<name>.example``."""
        named = {f"{name}.example": each for name, each in hosts.items()}
        peer = PeerEjabberd(self.world.directory / "ejabberd", named, self.world.ca.path, log_level)
        self.addCleanup(peer.stop)
        peer.start()
        for name in named:
            self.zone.domain(f"echo.{name}", peer.port)
        self.peer = peer
        return peer

    @inlineCallbacks
    def echo(self, node: Node, to: str, from_: str = OURS) -> Steps:
        """Send a text and wait for its echo."""
        before = len(node.user.stanzas)
        node.s2s.send(text(f"alice@{from_}", f"bob@echo.{to}.example"))
        yield self.until(lambda: len(node.user.stanzas) > before)
        stanza = node.user.stanzas[-1]
        self.assertEqual((stanza.type, stanza.text("body")), ("chat", "hi"), self.words(node))

    @inlineCallbacks
    def refused(self, node: Node, to: str, *words: str, from_: str = OURS) -> Steps:
        """Send a text and wait for its return, with words."""
        before = len(node.user.stanzas)
        node.s2s.send(text(f"alice@{from_}", f"bob@echo.{to}.example"))
        yield self.until(lambda: len(node.user.stanzas) > before)
        self.assertEqual(len(node.user.errors), len(node.user.stanzas), self.words(node))
        for word in words:
            self.assertIn(word, node.user.errors[-1].to_xml())

    def logged(self, words: str) -> Deferred[Any]:
        """Wait until ejabberd's log says so."""
        return self.until(lambda: words in self.peer.log)

    def words(self, node: Node) -> str:
        lines = [line for line in self.peer.log.splitlines() if "@ejabberd_s2s" in line]
        return "\n".join([str(one) for one in node.s2s.status()] + lines[-12:])


class EjabberdTests(EjabberdCase):
    """Ways of proving a domain, and refusals."""

    @inlineCallbacks
    def test_sasl_external_both_ways(self) -> Steps:
        """Where ejabberd requires TLS it is SASL EXTERNAL out and in."""
        self.ejabberd(strict=(STRICT, self.world.issue("echo.strict.example")))
        node = self.ours()
        yield self.echo(node, "strict")
        self.assertEqual({one["tls"] for one in node.s2s.status()}, {"TLSv1.3"})
        yield self.logged("Accepted inbound s2s EXTERNAL authentication ours.example")
        yield self.logged("Accepted outbound s2s EXTERNAL authentication echo.strict.example")

    @inlineCallbacks
    def test_dialback(self) -> Steps:
        """Where ejabberd's policy allows it: dialback over TLS with self-signed certificates, and in clear."""
        self.ejabberd(
            optional=(("optional", "all"), self.world.self_signed("echo.optional.example")),
            clear=(("false", "all"), None),
        )
        certificate = self.world.self_signed(OURS)
        security = Security(Tls.OPTIONAL, certificates=False)
        node = self.ours(security=security, certificate=certificate)
        yield self.echo(node, "optional")
        self.assertEqual({one["tls"] for one in node.s2s.status()}, {"TLSv1.3"})
        yield self.logged("Accepted inbound s2s dialback authentication ours.example")
        yield self.logged("Accepted outbound s2s dialback authentication echo.optional.example")
        yield self.echo(node, "clear")
        self.assertIn("", {one["tls"] for one in node.s2s.status()})

    @inlineCallbacks
    def test_refusals(self) -> Steps:
        """The sender is told which check of ejabberd's certificate failed, or what ejabberd says of ours."""
        self.ejabberd(
            expired=(STRICT, self.world.issue("echo.expired.example", days=-1)),
            wrong=(STRICT, self.world.issue("other.example")),
            unknown=(
                STRICT,
                self.world.issue("echo.unknown.example", ca=self.world.other_ca),
            ),
            own=(STRICT, self.world.self_signed("echo.own.example")),
            strict=(STRICT, self.world.issue("echo.strict.example")),
            clear=(("false", "all"), None),
        )
        node = self.ours(patience=5.0)
        yield self.refused(node, "expired", "remote-server-timeout", "it expired on 20")
        yield self.refused(node, "wrong", "not for echo.wrong.example")
        yield self.refused(node, "unknown", "Unknown CA")
        yield self.refused(node, "own", "self-signed")
        yield self.refused(node, "clear", "TLS is required here")
        bare = self.ours("bare.example", 5.0, certificate=self.world.self_signed("bare.example"))
        yield self.refused(bare, "strict", "certificate", from_="bare.example")


class EjabberdStage:
    """An ejabberd with a domain for each of its settings and states of certificates."""

    server = "ejabberd"

    def __init__(self, peer: PeerEjabberd, control: Node) -> None:
        self.tail = Tail(peer.directory / "ejabberd.out.log")
        self._control = control

    def order(self, case: Case, sender: str, recipient: str) -> None:
        """Have the server's user write to ours."""
        order = text("eve@control.example", "bob@echo.control.example", id=f"{sender} {recipient}")
        self._control.s2s.send(order)

    def failure(self, case: Case, domain: str) -> str:
        """Return what the server's user was told when his message came back."""
        return self.tail.find(rf"returned from alice@{domain}: (.*)")


class MatrixTests(EjabberdCase, MatrixCase):
    """A pairwise selection of settings and certificates; all of them in a soak."""

    timeout = 7200 if SOAK else 1200

    @inlineCallbacks
    def test_matrix(self) -> Steps:
        """What is foretold of settings and certificates is what happens, both ways."""
        cases = selection(EJABBERD)
        pairs = sorted({(case.theirs, case.peer_certificate) for case in cases}, key=str)
        names = {pair: f"m{number}" for number, pair in enumerate(pairs)}

        def domain(case: Case) -> str:
            return f"echo.{names[case.theirs, case.peer_certificate]}.example"

        hosts = {
            name: (EJABBERD[theirs], make(self.world, state, f"echo.{name}.example"))
            for (theirs, state), name in names.items()
        }
        hosts["control"] = (STRICT, self.world.issue("echo.control.example"))
        stage = EjabberdStage(self.ejabberd("warning", **hosts), self.ours("control.example"))
        yield self.play_all(stage, cases, self.ours, domain)
