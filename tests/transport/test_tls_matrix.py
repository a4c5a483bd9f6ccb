"""Two stacks over real loopback TLS: which certificates pass, and what an operator reads if not."""

from __future__ import annotations

import os
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
from impfed.transport.tls import TlsStore
from impfed.transport.tls_files import TlsFileError
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


class OwnCertificates(Loopback):
    """Which certificate we show, and how it is replaced."""

    async def test_by_server_name(self) -> None:
        """SNI chooses the certificate; an unknown name or none gets the first."""
        config = tls_config(
            self.ca,
            ("a", self.issue("a.example")),
            ("b", self.issue("b.example", ["sip:b.example"])),
        )
        server, _, _ = self.node(config)
        client, _, _ = self.node(tls_config(self.ca, ("home", self.issue("home.example"))))
        self.assertEqual((await self.ask(client, server, "b.example")).statuses, [200])
        self.assertEqual((await self.ask(client, server, "a.example")).statuses, [200])
        outcome = await self.ask(client, server, "c.example")
        self.assertIn("its names are a.example", outcome.failures[0][1])

    async def test_by_route(self) -> None:
        """The route chooses the client certificate."""
        server, user, _ = self.node(tls_config(self.ca, ("s", self.issue("peer.example"))))
        client, _, _ = self.node(
            tls_config(self.ca, ("x", self.issue("x.example")), ("y", self.issue("y.example")))
        )
        for certificate in ("", "y", "x"):
            await self.ask(client, server, certificate=certificate)
        names = [sorted(flow.peer.names) for _, _, flow in user.requests]
        self.assertEqual(names, [["x.example"], ["y.example"], ["x.example"]])

    async def test_client_certificate_is_demanded_after_sni(self) -> None:
        """The certificate chosen by SNI is no way around the client certificate."""
        config = tls_config(self.ca, ("a", self.issue("a.example")), ("b", self.issue("b.example")))
        server, _, _ = self.node(config)
        client, _, _ = self.node(tls_config(self.ca))
        outcome = await self.ask(client, server, "b.example", "none")
        self.assertEqual(outcome.statuses, [])
        self.assertIn("client certificate", outcome.failures[0][1])

    async def test_live_replacement(self) -> None:
        """New files serve new connections; what stands goes on."""
        shown = self.issue("old.example")
        server, _, metrics = self.node(tls_config(self.ca, ("s", shown)))
        client, _, _ = self.node(tls_config(self.ca, ("home", self.issue("home.example"))))
        self.assertEqual((await self.ask(client, server, "old.example")).statuses, [200])
        new = self.issue("new.example")
        os.replace(new.certificate, shown.certificate)
        os.replace(new.key, shown.key)
        self.assertTrue(server._tls.check())
        self.assertEqual(metrics.value("tls.reloads"), 1)
        self.assertEqual((await self.ask(client, server, "new.example")).statuses, [200])
        self.assertEqual((await self.ask(client, server, "old.example")).statuses, [200])
        self.assertEqual(server._tls.certificates()[0].names, ("new.example",))

    async def test_broken_replacement(self) -> None:
        """Broken new files leave the old in use, and the log says what is wrong, once."""
        shown = self.issue("peer.example")
        server, _, metrics = self.node(tls_config(self.ca, ("s", shown)))
        client, _, _ = self.node(tls_config(self.ca, ("home", self.issue("home.example"))))
        shown.certificate.write_text("not a certificate")
        self.assertFalse(server._tls.check())
        self.assertFalse(server._tls.check())
        self.assertEqual(metrics.value("tls.reload_failures"), 1)
        lines = [e for e in self.events if e.get("event") == "impfed.tls.reload_failed"]
        self.assertIn(str(shown.certificate), lines[0]["reason"])
        self.assertEqual((await self.ask(client, server)).statuses, [200])

    async def test_half_replaced_pair(self) -> None:
        """A new certificate whose key has not come yet waits for it."""
        shown = self.issue("old.example")
        server, _, _ = self.node(tls_config(self.ca, ("s", shown)))
        new = self.issue("new.example")
        os.replace(new.certificate, shown.certificate)
        self.assertFalse(server._tls.check())
        os.replace(new.key, shown.key)
        self.assertTrue(server._tls.check())

    async def test_session_is_resumed(self) -> None:
        """A second connection to the same peer resumes the session, and the peer is known again."""
        server, user, _ = self.node(tls_config(self.ca, ("s", self.issue("peer.example"))))
        client, _, _ = self.node(tls_config(self.ca, ("home", self.issue("home.example"))))
        await self.ask(client, server)
        flow = client.pool.flows[0]
        flow.close("again")
        await self.until(lambda: not len(client.pool))
        await self.ask(client, server)
        connection = client.pool.flows[0].wire.tls.getHandle()
        self.assertTrue(SSL._lib.SSL_session_reused(connection._ssl))
        self.assertEqual(user.requests[1][2].peer.names, {"home.example"})
        self.assertTrue(user.requests[1][2].peer.proven)

    async def test_any_alpn_is_accepted(self) -> None:
        """A client that offers application protocols gets through (Twisted alone would refuse it)."""
        server, _, _ = self.node(tls_config(self.ca, ("s", self.issue("peer.example"))), "none")

        context = SSL.Context(SSL.TLS_METHOD)
        context.set_alpn_protos([b"sip", b"xmpp-server"])
        wrapped = await plain_client(server, context)
        answer = await wrapped.wrappedProtocol.answer
        self.assertTrue(answer.startswith(b"SIP/2.0 200"))
        self.assertEqual(wrapped.negotiatedProtocol, b"sip")
        wrapped.loseConnection()
        await self.until(lambda: not len(server.incoming))

    async def test_old_version(self) -> None:
        """A peer whose TLS is too old for us is refused, and the log says so."""
        config = tls_config(self.ca, ("s", self.issue("peer.example")), minimum="1.3")
        server, _, _ = self.node(config, "none")
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        await plain_client(server, context)
        await self.until(lambda: self.said("not_secured"))
        self.assertIn("versions that are too old", self.said("not_secured"))

    async def test_health_check_is_no_incident(self) -> None:
        """A peer that connects and goes without a word of TLS is counted, not complained about."""
        server, _, metrics = self.node(tls_config(self.ca, ("s", self.issue("peer.example"))))
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", server.ports["outside"])
        client: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        client.transport.loseConnection()
        await self.until(lambda: metrics.value("sip.probes"))
        self.assertEqual(self.said("not_secured"), "")
        garbage: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        garbage.transport.write(b"OPTIONS sip:x SIP/2.0\r\n\r\n")
        await self.until(lambda: self.said("not_secured"))
        self.assertEqual(metrics.value("sip.connections_not_secured"), 1)

    async def test_stalled_peer_is_closed(self) -> None:
        """A TLS peer that reads nothing, not even our goodbye, is gone soon after we close."""
        server, user, _ = self.node(tls_config(self.ca, ("s", self.issue("peer.example"))), "none")
        wrapped = await plain_client(server, SSL.Context(SSL.TLS_METHOD))
        await wrapped.wrappedProtocol.answer
        wrapped.transport.pauseProducing()
        flow = user.requests[0][2]
        while flow.write(b"x" * 500_000):
            await self.until(lambda: not flow._out or flow._stalled_since is not None)
        flow.close("enough")
        self.assertEqual(len(server.incoming), 1)
        await self.until(lambda: not len(server.incoming))
        wrapped.transport.abortConnection()
        await self.until(lambda: not wrapped.connected)

    async def test_answer_over_a_new_tls_connection(self) -> None:
        """An answer whose connection is gone goes to the sent-by port, to a peer of the same name."""
        home = self.issue("home.example")
        client, _, _ = self.node(tls_config(self.ca, ("home", home)))
        server, user, _ = self.node(tls_config(self.ca, ("s", self.issue("peer.example"))))
        user.answer = 0
        outcome = Outcome()
        hop = Hop("tls", "127.0.0.1", server.ports["outside"], "peer.example")
        client.request(outgoing(), hop, outcome)
        await self.until(lambda: user.requests)
        transaction, _, flow = user.requests[0]
        flow.abort("lost")
        await self.until(lambda: not len(client.pool))
        server.respond(transaction, 200)
        await outcome.done
        self.assertEqual(outcome.statuses, [200])
        self.assertEqual(server.pool.flows[0].peer.names, {"home.example"})


class Files(Loopback):
    """What is wrong with the files, at start."""

    def refused(self, config: TlsConfig, *words: str) -> None:
        error = self.assertRaises(TlsFileError, TlsStore, config)
        for part in words:
            self.assertIn(part, str(error))

    def test_missing(self) -> None:
        """A file that is not there is named."""
        issued = self.issue("a.example")
        gone = Issued(self.folder / "gone.pem", issued.key)
        self.refused(tls_config(self.ca, ("a", gone)), "gone.pem", "No such file")
        self.refused(tls_config(self.folder / "noca.pem", ("a", issued)), "noca.pem")

    def test_key_of_another(self) -> None:
        """A key that does not belong to its certificate is said to."""
        pair = Issued(self.issue("a.example").certificate, self.issue("b.example").key)
        self.refused(tls_config(self.ca, ("a", pair)), "does not belong")

    def test_swapped(self) -> None:
        """Certificate and key in each other's place are told apart."""
        issued = self.issue("a.example")
        swapped = Issued(issued.key, issued.certificate)
        self.refused(tls_config(self.ca, ("a", swapped)), "no usable PEM certificate")

    def test_without_certificates_there_is_no_listener(self) -> None:
        """A store without certificates serves clients that show none, but no listener."""
        store = TlsStore(tls_config(self.ca))
        store.client("none", "peer.example")
        creator: Any = store.server()
        self.assertRaises(TlsFileError, creator.serverConnectionForTLS, None)

    def test_expiring_soon(self) -> None:
        """A certificate that ends within two weeks is told of at start."""
        TlsStore(tls_config(self.ca, ("a", self.issue("a.example", days=3))))
        events = [e for e in self.events if e.get("event") == "impfed.tls.certificate_expires"]
        self.assertEqual(events[0]["verb"], "expires")
