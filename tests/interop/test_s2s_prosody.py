"""XMPP federation with a real Prosody: every way of proving a domain, and the refusals in words."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.threads import deferToThread

from impfed.core.ids import IdSource
from impfed.testing.pki import Issued
from impfed.transport.dns import DnsClient
from impfed.transport.s2s import Security, Tls
from impfed.transport.s2s_targets import DnsTargets
from tests.interop.s2s_peer import PeerProsody, Zone, serve_dns
from tests.transport.s2s_kit import Node, S2SCase, reactor, text
from tests.transport.s2s_raw import RawPeer

Steps = Generator[Deferred[Any], Any, None]
OURS, THEIRS = "ours.example", "peer.example"
STRICT = Security(Tls.REQUIRED)
DIALBACK_TLS = Security(Tls.REQUIRED, certificates=False)
OPTIONAL = Security(Tls.OPTIONAL, certificates=False)
CLEAR = Security(Tls.NONE, certificates=False)


class ProsodyCase(S2SCase):
    """A Prosody as the foreign domain."""

    timeout = 120

    def setUp(self) -> None:
        super().setUp()
        self.zone = Zone()
        self.dns, self.dns_port = serve_dns(reactor, self.zone)
        self.prosodies: list[PeerProsody] = []
        client = DnsClient(reactor, [("127.0.0.1", self.dns_port)], 5.0)
        self.world.targets = DnsTargets(client.lookup, IdSource())  # type: ignore[assignment]
        self.world.targets.table = {}  # type: ignore[attr-defined]

    def tearDown(self) -> Deferred[Any]:
        for prosody in self.prosodies:
            prosody.stop()
        stopping = super().tearDown()
        stopping.addCallback(lambda _: maybeDeferred(self.dns.stopListening))
        return stopping

    def prosody(
        self, *, hosts: Iterable[str] | Mapping[str, Issued] = (THEIRS,),
        certificate: Issued | bool | None = True, direct: bool = False, **options: Any,
    ) -> PeerProsody:  # fmt: skip
        """Start a Prosody; its hosts share a certificate unless each comes with its own."""
        shared: dict[str, Issued | None]
        if isinstance(hosts, Mapping):
            shared = dict(hosts)
        else:
            issued = self.world.issue(*hosts) if certificate is True else certificate or None
            shared = dict.fromkeys(hosts, issued)
        peer = PeerProsody(
            self.world.directory / f"prosody{len(self.prosodies)}",
            shared,
            self.world.ca.path,
            self.dns_port,
            **options,
        )
        self.prosodies.append(peer)
        peer.start()
        for host in hosts:
            self.zone.domain(host, peer.port, peer.direct if direct else 0)
        return peer

    def ours(self, *domains: str, direct: bool = False, **options: Any) -> Node:
        domains = domains or (OURS,)
        node = self.node(*domains, **options)
        for domain in domains:
            self.zone.domain(domain, node.s2s.ports[0], node.s2s.ports[1] if direct else 0)
        return node

    @inlineCallbacks
    def echo(self, node: Node, from_: str = OURS, to: str = THEIRS, body: str = "hi") -> Steps:
        """Send a text and wait for its echo, or for an error."""
        before = len(node.user.stanzas)
        node.s2s.send(text(f"alice@{from_}", f"bob@{to}", body))
        yield self.until(lambda: len(node.user.stanzas) > before)
        stanza = node.user.stanzas[-1]
        self.assertEqual(stanza.text("body"), f"echo: {body}", self.words(node))
        self.assertEqual(stanza.from_.domain, to)

    @inlineCallbacks
    def refused(self, node: Node, *words: str) -> Steps:
        """Send a text and wait for its return, with words."""
        node.s2s.send(text(f"alice@{OURS}", f"bob@{THEIRS}", "hi"))
        yield self.until(lambda: node.user.stanzas)
        self.assertEqual(len(node.user.errors), 1, self.words(node))
        xml = node.user.errors[0].to_xml()
        for word in words:
            self.assertIn(word, xml)

    def words(self, node: Node) -> str:
        return "\n".join([str(one) for one in node.s2s.status()] + [self.prosodies[-1].log[-6000:]])

    def incoming(self, node: Node) -> list[dict[str, Any]]:
        return [one for one in node.s2s.status() if one["direction"] == "in"]


class ProofTests(ProsodyCase):
    """Ways of proving a domain."""

    @inlineCallbacks
    def test_sasl_external_both_ways(self) -> Steps:
        """With Prosody's secure defaults: TLS 1.3 and SASL EXTERNAL out and in."""
        prosody, node = self.prosody(), self.ours()
        yield self.echo(node)
        self.assertEqual({one["tls"] for one in node.s2s.status()}, {"TLSv1.3"})
        self.assertIn("SASL", prosody.log)
        self.assertNotIn("dialback key", prosody.log.lower())

    @inlineCallbacks
    def test_server_only_certificate(self) -> Steps:
        """Certificates that say only serverAuth, as public authorities issue them, prove both."""
        theirs = self.world.issue(THEIRS, eku=("serverAuth",))
        self.prosody(certificate=theirs)
        node = self.ours(certificate=self.world.issue(OURS, eku=("serverAuth", "clientAuth")))
        yield self.echo(node)

    @inlineCallbacks
    def test_direct_tls(self) -> Steps:
        """SRV records for direct TLS are preferred by their priority, both ways."""
        self.prosody(direct=True)
        node = self.ours(direct=True)
        yield self.echo(node)
        out = node.s2s.status()[0]
        self.assertEqual(out["address"], f"127.0.0.1:{self.prosodies[0].direct}")

    @inlineCallbacks
    def test_dialback_without_tls(self) -> Steps:
        """Without TLS on our side dialback proves both domains."""
        self.prosody(require_encryption=False, secure_auth=False)
        node = self.ours(security=CLEAR)
        yield self.echo(node)
        self.assertEqual({one["tls"] for one in node.s2s.status()}, {""})

    @inlineCallbacks
    def test_dialback_over_tls(self) -> Steps:
        """Self-signed certificates on both sides: dialback over TLS, where both allow it."""
        self.prosody(secure_auth=False, certificate=self.world.self_signed(THEIRS))
        node = self.ours(security=DIALBACK_TLS, certificate=self.world.self_signed(OURS))
        yield self.echo(node)
        self.assertEqual({one["tls"] for one in node.s2s.status()}, {"TLSv1.3"})

    @inlineCallbacks
    def test_tls_optional_falls_back(self) -> Steps:
        """A peer without TLS is reached by dialback where TLS is optional."""
        self.prosody(
            require_encryption=False, secure_auth=False, certificate=None, disabled=("tls",)
        )
        node = self.ours(security=OPTIONAL)
        yield self.echo(node)

    @inlineCallbacks
    def test_several_domains(self) -> Steps:
        """Two domains of ours and two of theirs, all four pairs."""
        self.prosody(hosts=(THEIRS, "second.peer.example"))
        node = self.ours(OURS, "zweite.example")
        for local in (OURS, "zweite.example"):
            for remote in (THEIRS, "second.peer.example"):
                yield self.echo(node, local, remote)

    @inlineCallbacks
    def test_second_domain_on_a_stream(self) -> Steps:
        """A second domain of ours is proven by dialback on the stream of the first, both ways round."""
        prosody = self.prosody(require_encryption=False, secure_auth=False)
        node = self.ours(OURS, "zweite.example", security=CLEAR, secret="ours")

        def piggyback(port: int, to: str, first: str, second: str, secret: str) -> str:
            peer = RawPeer(port, from_=first, to=to)
            stream_id = peer.open()
            got = peer.prove(secret, stream_id).decode()
            peer.from_ = second
            got += peer.prove(secret, stream_id).decode()
            peer.send(
                f"<message from='alice@{second}' to='bob@{to}' type='chat'>"
                "<body>second</body></message>".encode()
            )
            peer.read(0.3)
            peer.close()
            return got

        got = yield deferToThread(piggyback, prosody.port, THEIRS, OURS, "zweite.example", "ours")
        self.assertEqual(got.count("'valid'"), 2, got)
        yield self.until(lambda: node.user.bodies == ["echo: second"])
        self.assertEqual(node.user.stanzas[0].to.domain, "zweite.example")
        # And the same towards us: Prosody answers for its keys.
        peers = self.prosody(
            hosts=("p1.example", "p2.example"), require_encryption=False, secure_auth=False
        )
        secret = peers.dialback_secret
        got = yield deferToThread(
            piggyback, node.s2s.ports[0], OURS, "p1.example", "p2.example", secret
        )
        self.assertEqual(got.count("'valid'"), 2, got)
        yield self.until(lambda: node.user.bodies[-1] == "second")
        self.assertEqual(node.user.stanzas[-1].from_.domain, "p2.example")

    @inlineCallbacks
    def test_acknowledged(self) -> Steps:
        """With Prosody's stream management every stanza is acknowledged."""
        self.prosody(modules=("smacks",))
        node = self.ours()
        for number in range(5):
            yield self.echo(node, body=str(number))
        out = next(one for one in node.s2s.status() if one["direction"] == "out")
        yield self.until(lambda: not node.s2s.status()[0]["unacknowledged"])
        self.assertEqual(out["state"], "a stream stands")
        self.assertIn("urn:xmpp:sm:3", self.prosodies[0].log)

    @inlineCallbacks
    def test_both_ways_on_one_stream(self) -> Steps:
        """With bidi the echo comes back by our own stream."""
        self.prosody(modules=("s2s_bidi",))
        node = self.ours()
        yield self.echo(node)
        self.assertEqual(self.incoming(node), [])


class RefusalTests(ProsodyCase):
    """Certificates that will not do: the sender is told which check failed."""

    @inlineCallbacks
    def test_expired(self) -> Steps:
        """An expired certificate is named with its date."""
        self.prosody(certificate=self.world.issue(THEIRS, days=-1))
        yield self.refused(self.ours(), "remote-server-timeout", "it expired on 20")

    @inlineCallbacks
    def test_wrong_name(self) -> Steps:
        """A certificate for another domain is named with the names it has."""
        self.prosody(certificate=self.world.issue("other.example"))
        yield self.refused(self.ours(), f"not for {THEIRS}", "DNS other.example")

    @inlineCallbacks
    def test_self_signed(self) -> Steps:
        """A self-signed certificate is refused as such."""
        self.prosody(certificate=self.world.self_signed(THEIRS))
        yield self.refused(self.ours(), "self-signed")

    @inlineCallbacks
    def test_unknown_authority(self) -> Steps:
        """A certificate of an authority that is not trusted is refused, and the authority named."""
        issued = self.world.issue(THEIRS, ca=self.world.other_ca)
        self.prosody(certificate=issued)
        yield self.refused(self.ours(), "Unknown CA")

    @inlineCallbacks
    def test_peer_refuses_ours(self) -> Steps:
        """What the peer says of our certificate reaches the sender."""
        self.prosody()
        node = self.ours(certificate=self.world.self_signed(OURS))
        yield self.refused(node, "remote-server-timeout", "certificate")

    @inlineCallbacks
    def test_peer_without_tls(self) -> Steps:
        """Where TLS is required here, a peer without it is not talked to."""
        self.prosody(
            require_encryption=False, secure_auth=False, certificate=None, disabled=("tls",)
        )
        yield self.refused(self.ours(security=STRICT), "TLS is required here")
