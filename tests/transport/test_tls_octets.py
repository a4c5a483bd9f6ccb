"""TLS records read and written at once: the same octets and ends as by pyOpenSSL's own calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.metrics import Metrics
from impfed.testing.pki import make_ca, make_certificate
from impfed.transport import tls_transport
from impfed.transport.direct import send_now
from impfed.transport.tls import TlsStore
from impfed.transport.tls_octets import AVAILABLE, decrypt, encrypt, outgoing
from impfed.transport.tls_transport import TlsTransport
from tests.transport.sip_kit import tls_config


class End(Protocol):
    """Notes what it gets."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.reason: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.reason = reason.value


class Side:
    """One end of a TLS connection in memory."""

    def __init__(self, creator: Any, client: bool) -> None:
        self.end = End()
        factory = TLSMemoryBIOFactory(creator, client, Factory.forProtocol(lambda: self.end))
        self.tls = TlsTransport(factory, self.end)
        self.tls.send = send_now
        self.wire = StringTransport()

    def take(self) -> bytes:
        data = self.wire.value()
        self.wire.clear()
        return data


class OctetsTests(SynchronousTestCase):
    """A client and a server that have shaken hands."""

    fast = True

    def setUp(self) -> None:
        self.patch(tls_transport, "AVAILABLE", self.fast)
        directory = Path(self.mktemp())
        authority = make_ca(directory)
        issued = make_certificate(authority, directory, "server.example")
        store = TlsStore(tls_config(authority, ("one", issued)), Metrics())
        self.client = Side(store.client("one", "server.example"), True)
        self.server = Side(store.server(), False)
        for side in (self.client, self.server):
            side.tls.makeConnection(side.wire)
        for _ in range(4):
            self.exchange()

    def exchange(self) -> None:
        for here, there in ((self.client, self.server), (self.server, self.client)):
            if data := here.take():
                there.tls.dataReceived(data)

    def test_here(self) -> None:
        """With the pyOpenSSL of this installation the short calls can be used."""
        self.assertTrue(AVAILABLE)

    def test_many_records(self) -> None:
        """Many small writes that arrive together come in one piece, and in order."""
        texts = [b"message %d" % number for number in range(100)]
        for text in texts:
            self.client.tls.write(text)
        self.server.tls.dataReceived(self.client.take())
        self.assertEqual(b"".join(self.server.end.pieces), b"".join(texts))
        self.assertEqual(len(self.server.end.pieces), 1 if self.fast else 100)

    def test_much(self) -> None:
        """More than one buffer holds passes whole, in both directions, however it is cut."""
        text = bytes(range(256)) * 2000
        for here, there in ((self.client, self.server), (self.server, self.client)):
            here.tls.write(text)
            data = here.take()
            for begin in range(0, len(data), 300_001):
                there.tls.dataReceived(data[begin : begin + 300_001])
            self.assertEqual(b"".join(there.end.pieces), text)

    def test_in_drops(self) -> None:
        """A record that comes octet by octet is read when it is whole."""
        self.client.tls.write(b"hello")
        data = self.client.take()
        for position in range(len(data)):
            self.assertEqual(self.server.end.pieces, [])
            self.server.tls.dataReceived(data[position : position + 1])
        self.assertEqual(self.server.end.pieces, [b"hello"])

    def test_end(self) -> None:
        """What comes together with the end of TLS is still read, and the end is answered."""
        self.client.tls.write(b"last words")
        self.client.tls.loseConnection()
        self.server.tls.dataReceived(self.client.take())
        self.assertEqual(self.server.end.pieces, [b"last words"])
        self.assertTrue(self.server.wire.disconnecting)
        self.assertNotEqual(self.server.take(), b"")
        self.server.tls.connectionLost(Failure(ConnectionDone()))
        self.assertIsInstance(self.server.end.reason, ConnectionDone)

    def test_broken(self) -> None:
        """A record that somebody has touched ends the connection with OpenSSL's reason."""
        self.client.tls.write(b"hello")
        data = bytearray(self.client.take())
        data[-1] ^= 1
        self.server.tls.dataReceived(bytes(data))
        self.assertEqual(self.server.end.pieces, [])
        self.assertTrue(self.server.wire.disconnecting)
        self.server.tls.connectionLost(Failure(ConnectionDone()))
        self.assertIsInstance(self.server.end.reason, SSL.Error)

    def test_closed_while_reading(self) -> None:
        """Who closes the connection while he gets octets gets no more."""

        def closing(data: bytes) -> None:
            self.server.end.pieces.append(data)
            self.server.tls.abortConnection()

        self.server.end.dataReceived = closing  # type: ignore[method-assign]
        for text in (b"one", b"two"):
            self.client.tls.write(text)
            self.server.tls.dataReceived(self.client.take())
        self.assertEqual(self.server.end.pieces, [b"one"])


class TwistedsWayTests(OctetsTests):
    """The same without the short calls."""

    fast = False


class FunctionsTests(SynchronousTestCase):
    """The calls themselves."""

    def test_before_the_handshake(self) -> None:
        """Nothing is taken while TLS has to read first."""
        client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        client.set_connect_state()
        self.assertEqual(encrypt(client, b"too early"), 0)
        self.assertNotEqual(outgoing(client), b"")  # the greeting
        self.assertEqual(outgoing(client), b"")
        self.assertEqual(decrypt(client, b"not TLS at all"), (b"", False))
