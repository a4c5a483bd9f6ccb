"""The page over TLS: which protocol and which certificate a browser gets."""

from __future__ import annotations

import contextlib
from pathlib import Path

from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from impfed.admin.site import WebService
from impfed.config.model import WebConfig
from impfed.core.metrics import Metrics
from impfed.testing.pki import make_ca, make_certificate
from impfed.transport.tls import TlsStore
from impfed.transport.tls_files import TlsFileError
from tests.admin.kit import URL, Place
from tests.transport.sip_kit import tls_config


class Wire(StringTransport):
    """A transport in memory that knows TCP's switches."""

    def setTcpNoDelay(self, on: bool) -> None:
        pass


class TlsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.place = Place()
        directory = Path(self.mktemp())
        directory.mkdir()
        authority = make_ca(directory, "Root")
        issued = make_certificate(authority, directory, "fed.home.example")
        self.tls = TlsStore(tls_config(authority, ("federation", issued)), Metrics(), Clock())
        self.reactor = MemoryReactorClock()

    def service(self, certificate: str = "") -> WebService:
        config = WebConfig("127.0.0.1", 8443, URL, certificate)
        service = WebService(self.reactor, config, self.place.web, self.tls, self.place.metrics)
        service.startService()
        return service

    def test_browser(self) -> None:
        """A browser that offers HTTP/2 first gets HTTP/1.1, the certificate, and the page."""
        self.service()
        factory = self.reactor.tcpServers[0][1]
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_alpn_protos([b"h2", b"http/1.1"])
        client = SSL.Connection(context, None)
        client.set_connect_state()
        client.set_tlsext_host_name(b"fed.home.example")
        server, transport = factory.buildProtocol(None), Wire()
        server.makeConnection(transport)

        def pump() -> None:
            for _ in range(6):
                with contextlib.suppress(SSL.WantReadError):
                    server.dataReceived(client.bio_read(65536))
                self.reactor.advance(0)
                if transport.value():
                    client.bio_write(transport.value())
                    transport.clear()

        self.assertRaises(SSL.WantReadError, client.do_handshake)
        pump()
        client.do_handshake()
        self.assertEqual(client.get_alpn_proto_negotiated(), b"")  # which means HTTP/1.1
        client.send(b"GET / HTTP/1.1\r\nHost: fed.home.example\r\n\r\n")
        pump()
        self.assertIn(b"200 OK", client.recv(65536))

    def test_unknown_certificate(self) -> None:
        """A certificate that is not there is told at the start."""
        self.assertRaises(TlsFileError, self.service, "nowhere")

    def test_behind_a_proxy(self) -> None:
        """Behind a proxy plain HTTP is spoken."""
        self.service("none")
        protocol = self.reactor.tcpServers[0][1].buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b"200 OK", transport.value())
