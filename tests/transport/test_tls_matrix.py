"""Two stacks over real loopback TLS: which certificates pass, and what an operator reads if not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from impfed.config.model import TlsConfig
from impfed.sip.target import Hop
from impfed.testing.pki import Authority, Issued, make_ca, make_certificate
from impfed.transport.flow import SipLimits
from impfed.transport.sip import SipStack
from tests.transport.sip_kit import Outcome, outgoing, real_stack, request_bytes, tls_config

reactor: Any = _reactor


class PlainClient(Protocol):
    """A TLS client that sends one request and keeps what comes."""

    def __init__(self) -> None:
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(request_bytes())

    def dataReceived(self, data: bytes) -> None:
        if not self.answer.called:
            self.answer.callback(data)


async def plain_client(server: SipStack, context: SSL.Context, name: bytes = b"") -> Any:
    """Connect with a TLS context of one's own; returns the TLS layer of the connection.

    :param name: what is asked for (SNI).
    """

    @implementer(IOpenSSLClientConnectionCreator)
    class Creator:
        def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
            connection = SSL.Connection(context, None)
            if name:
                connection.set_tlsext_host_name(name)
            return connection

    factory = TLSMemoryBIOFactory(Creator(), True, Factory.forProtocol(PlainClient))
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", server.ports["outside"])
    return await endpoint.connect(factory)


class Loopback(TestCase):
    """Stacks, certificates and the log of one test."""

    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.ca = make_ca(self.folder, "Root")
        self.stacks: list[SipStack] = []
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    async def tearDown(self) -> None:
        await DeferredList([stack.stopService() for stack in self.stacks])

    def issue(
        self, name: str, sans: Any = None, *, ca: Authority | None = None, **more: Any
    ) -> Issued:
        count = len(list(self.folder.iterdir()))
        return make_certificate(
            ca or self.ca, self.folder, name, sans, file=f"{name}-{count}", **more
        )

    def node(
        self, config: TlsConfig, mode: str = "required", **limits: Any
    ) -> tuple[Any, Any, Any]:
        made = real_stack(
            reactor, config, mode, SipLimits(close_timeout=0.5, backoff=0.05, **limits)
        )
        self.stacks.append(made[0])
        return made

    async def ask(
        self, client: SipStack, server: SipStack, name: str = "peer.example", certificate: str = ""
    ) -> Outcome:
        """Send one MESSAGE and wait for what becomes of it."""
        outcome = Outcome()
        hop = Hop("tls", "127.0.0.1", server.ports["outside"], name, certificate)
        self.transaction = client.request(outgoing(), hop, outcome)
        await outcome.done
        return outcome

    def said(self, event: str) -> str:
        """Return what the log said under an event's name."""
        wanted = f"impfed.sip.{event}"
        lines = [each for each in self.events if each.get("event") == wanted]
        return "\n".join(str(each.get("reason", "")) for each in lines)

    async def until(self, condition: Any) -> None:
        """Let the reactor turn until something has become true."""
        while not condition():
            turn: Deferred[None] = Deferred()
            reactor.callLater(0.005, turn.callback, None)
            await turn


class ClientCertificates(Loopback):
    """Mutual TLS: what a listener accepts from those who connect."""

    async def outcome(self, shown: Issued | None, mode: str = "required") -> Outcome:
        chains = [("shown", shown)] if shown else []
        own = self.issue("peer.example")
        self.server, self.user, self.metrics = self.node(tls_config(self.ca, ("s", own)), mode)
        client, _, _ = self.node(tls_config(self.ca, ("home", self.issue("home.example")), *chains))
        return await self.ask(client, self.server, certificate="shown" if shown else "none")

    async def refused(self, shown: Issued | None, *words: str) -> None:
        outcome = await self.outcome(shown)
        self.assertEqual(outcome.statuses, [])
        self.assertIn("the peer", outcome.failures[0][1])
        await self.until(lambda: self.said("not_secured"))
        for part in words:
            self.assertIn(part, self.said("not_secured"))
        self.assertEqual(self.user.requests, [])

    async def test_valid(self) -> None:
        """A valid client certificate passes, and proves its names."""
        outcome = await self.outcome(self.issue("home.example", ["sip:home.example", "x.example"]))
        self.assertEqual(outcome.statuses, [200])
        peer = self.user.requests[0][2].peer
        self.assertEqual((peer.names, peer.proven), ({"home.example"}, True))

    async def test_server_auth_only(self) -> None:
        """A client certificate that says only serverAuth passes: public ones say no more now."""
        outcome = await self.outcome(self.issue("home.example", eku=["serverAuth"]))
        self.assertEqual(outcome.statuses, [200])
        self.assertTrue(self.user.requests[0][2].peer.proven)

    async def test_server_auth_only_intermediate(self) -> None:
        """It passes under intermediates that say only serverAuth too, at every depth."""
        upper = make_ca(self.folder, "Upper", parent=self.ca, eku=["serverAuth"])
        lower = make_ca(self.folder, "Lower", parent=upper, eku=["serverAuth"])
        outcome = await self.outcome(self.issue("home.example", ca=lower, eku=["serverAuth"]))
        self.assertEqual(outcome.statuses, [200])

    async def test_other_purpose(self) -> None:
        """A certificate for mail does not pass, and the log names its purposes."""
        shown = self.issue("home.example", eku=["emailProtection"])
        await self.refused(
            shown, "it allows only the purposes 1.3.6.1.5.5.7.3.4", "CN=home.example"
        )

    async def test_intermediate_of_other_purpose(self) -> None:
        """An intermediate for mail does not pass either."""
        mail = make_ca(self.folder, "Mail", parent=self.ca, eku=["emailProtection"])
        await self.refused(
            self.issue("home.example", ca=mail, eku=["serverAuth"]), "depth 1", "CN=Mail"
        )

    async def test_expired(self) -> None:
        """An expired one does not pass, and the log says since when."""
        await self.refused(
            self.issue("home.example", days=-2), "it expired on 20", "CN=home.example"
        )

    async def test_expired_and_server_auth_only(self) -> None:
        """The tolerance for the purpose tolerates nothing else."""
        shown = self.issue("home.example", days=-2, eku=["serverAuth"])
        await self.refused(shown, "it expired on 20")

    async def test_self_signed(self) -> None:
        """A self-signed one does not pass."""
        shown = make_certificate(None, self.folder, "home.example", file="self")
        await self.refused(shown, "it is self-signed")

    async def test_unknown_authority(self) -> None:
        """One of an authority that we do not trust does not pass, and the log names it."""
        other = make_ca(self.folder, "Other Root")
        shown = make_certificate(other, self.folder, "home.example", file="other")
        await self.refused(shown, "not among the trusted authorities", "CN=Other Root")

    async def test_unknown_authority_and_server_auth_only(self) -> None:
        """One of an unknown authority that says only serverAuth does not pass."""
        other = make_ca(self.folder, "Other Root")
        shown = make_certificate(other, self.folder, "home.example", eku=["serverAuth"], file="o")
        await self.refused(shown, "not among the trusted authorities", "CN=Other Root")

    async def test_missing_intermediate(self) -> None:
        """A chain without its intermediate does not pass, and the log guesses why."""
        lower = make_ca(self.folder, "Lower", parent=self.ca)
        shown = self.issue("home.example", ca=lower)
        leaf = shown.certificate.read_text().partition("-----END CERTIFICATE-----\n")
        shown.certificate.write_text(leaf[0] + leaf[1])
        await self.refused(shown, "CN=Lower", "missing intermediate")

    async def test_none(self) -> None:
        """Without a client certificate nobody passes a mutual listener; both sides are told."""
        await self.refused(None, "showed no client certificate")
        self.assertEqual(self.metrics.value("sip.connections_not_secured"), 1)

    async def test_none_where_optional(self) -> None:
        """Without one a peer passes an optional listener, having proven nothing."""
        outcome = await self.outcome(None, "optional")
        self.assertEqual(outcome.statuses, [200])
        peer = self.user.requests[0][2].peer
        self.assertEqual((peer.names, peer.proven), (frozenset(), False))

    async def test_shown_where_optional(self) -> None:
        """With one a peer has proven its name to an optional listener."""
        outcome = await self.outcome(self.issue("home.example"), "optional")
        self.assertEqual(outcome.statuses, [200])
        self.assertTrue(self.user.requests[0][2].peer.proven)

    async def test_server_only(self) -> None:
        """A server-only listener asks for none."""
        outcome = await self.outcome(self.issue("home.example"), "none")
        self.assertEqual(outcome.statuses, [200])
        self.assertFalse(self.user.requests[0][2].peer.proven)

    async def test_refusal_words_on_our_side(self) -> None:
        """Where the peer refuses ours, late as TLS 1.3 does it, the failure says what it said."""
        outcome = await self.outcome(self.issue("home.example", days=-2))
        self.assertIn("refused our certificate: it has expired", outcome.failures[0][1])
        self.assertFalse(self.stacks[1].maybe_delivered(self.transaction))


class ServerCertificates(Loopback):
    """What we accept from those whom we connect to."""

    async def outcome(self, shown: Issued, name: str = "peer.example") -> Outcome:
        self.server, self.user, _ = self.node(tls_config(self.ca, ("s", shown)))
        self.client, _, _ = self.node(tls_config(self.ca, ("home", self.issue("home.example"))))
        return await self.ask(self.client, self.server, name)

    async def refused(self, shown: Issued, *words: str, name: str = "peer.example") -> None:
        outcome = await self.outcome(shown, name)
        self.assertEqual(outcome.statuses, [])
        for part in words:
            self.assertIn(part, outcome.failures[0][1])
        self.assertEqual(self.user.requests, [])
        self.assertIn(words[0], self.said("connect_failed"))

    async def test_valid(self) -> None:
        """A valid one for the right name passes."""
        self.assertEqual((await self.outcome(self.issue("peer.example"))).statuses, [200])

    async def test_uri_name(self) -> None:
        """A sip: URI name passes."""
        shown = self.issue("Edge", ["sip:peer.example", "edge.example"])
        self.assertEqual((await self.outcome(shown)).statuses, [200])

    async def test_wrong_name(self) -> None:
        """One for another name does not; the words hold both names."""
        await self.refused(
            self.issue("other.example"), "not for peer.example: its names are other.example"
        )

    async def test_wildcard(self) -> None:
        """A wildcard does not, and the words say that it never will."""
        shown = self.issue("*.peer.example")
        await self.refused(shown, "not for sip.peer.example", "wildcard", name="sip.peer.example")

    async def test_expired(self) -> None:
        """An expired one does not."""
        await self.refused(self.issue("peer.example", days=-1), "it expired on 20")

    async def test_self_signed(self) -> None:
        """A self-signed one does not."""
        shown = make_certificate(None, self.folder, "peer.example", file="self")
        await self.refused(shown, "it is self-signed")

    async def test_unknown_authority(self) -> None:
        """One of an unknown authority does not."""
        shown = make_certificate(
            make_ca(self.folder, "Foreign"), self.folder, "peer.example", file="f"
        )
        await self.refused(shown, "not among the trusted authorities")

    async def test_client_auth_only(self) -> None:
        """One that says only clientAuth does not: the tolerance is for clients."""
        await self.refused(self.issue("peer.example", eku=["clientAuth"]), "purposes clientAuth")

    async def test_through_intermediates(self) -> None:
        """One with its intermediates passes."""
        lower = make_ca(self.folder, "Lower", parent=self.ca)
        self.assertEqual((await self.outcome(self.issue("peer.example", ca=lower))).statuses, [200])

    async def test_no_tls_there(self) -> None:
        """A peer that speaks plain text is said to do so."""

        class Plain(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(b"SIP/2.0 400 Bad Request\r\n\r\n")

        port = reactor.listenTCP(0, Factory.forProtocol(Plain), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client, _, _ = self.node(tls_config(self.ca, ("home", self.issue("home.example"))))
        outcome = Outcome()
        client.request(
            outgoing(), Hop("tls", "127.0.0.1", port.getHost().port, "p.example"), outcome
        )
        await outcome.done
        self.assertIn("not TLS", outcome.failures[0][1])

    async def test_unknown_certificate_name(self) -> None:
        """A route that names a certificate of ours that there is not fails in words."""
        server, _, _ = self.node(tls_config(self.ca, ("s", self.issue("peer.example"))))
        outcome = await self.ask(server, server, certificate="typo")
        self.assertIn("no certificate named 'typo'", outcome.failures[0][1])
