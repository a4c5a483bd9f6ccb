"""Our own certificates: which one is shown, and what becomes of files that change or are not there."""

from __future__ import annotations

import os
from typing import Any

from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from impfed.config.model import TlsConfig
from impfed.sip.target import Hop
from impfed.testing.pki import Issued
from impfed.transport.tls import TlsStore
from impfed.transport.tls_files import TlsFileError
from tests.transport.sip_kit import Outcome, outgoing, tls_config
from tests.transport.test_tls_matrix import Loopback, plain_client, reactor


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
