"""Direct send: what the socket takes goes at once, the rest by Twisted's write."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from impfed.transport.direct import send_now

reactor: Any = _reactor


class Socket:
    def __init__(self, takes: int | OSError) -> None:
        self.takes = takes
        self.sent = b""

    def send(self, data: bytes) -> int:
        if isinstance(self.takes, OSError):
            raise self.takes
        self.sent += data[: self.takes]
        return min(self.takes, len(data))


class Transport(StringTransport):
    """Has what the function looks at in Twisted's own transports."""

    def __init__(self, takes: int | OSError) -> None:
        super().__init__()
        self.connected = True
        self.disconnecting = False
        self.dataBuffer = b""
        self.offset = 0
        self._tempDataLen = 0
        self.socket = Socket(takes)


class Choice(SynchronousTestCase):
    def test_all_at_once(self) -> None:
        """If nothing waits and the socket takes it, all is sent at once."""
        transport = Transport(100)
        send_now(transport, b"hello")
        self.assertEqual((transport.socket.sent, transport.value()), (b"hello", b""))

    def test_rest_is_written(self) -> None:
        """What the socket does not take is written."""
        transport = Transport(2)
        send_now(transport, b"hello")
        self.assertEqual((transport.socket.sent, transport.value()), (b"he", b"llo"))

    def test_socket_is_full_or_broken(self) -> None:
        """If the socket refuses, all is written, and the reactor will find out why."""
        for error in (BlockingIOError(), BrokenPipeError()):
            transport = Transport(error)
            send_now(transport, b"hello")
            self.assertEqual(transport.value(), b"hello")

    def test_order_is_kept(self) -> None:
        """If something waits already, all is written behind it."""
        for name, value in (("_tempDataLen", 3), ("dataBuffer", b"abc")):
            transport = Transport(100)
            setattr(transport, name, value)
            send_now(transport, b"hello")
            self.assertEqual((transport.socket.sent, transport.value()), (b"", b"hello"))

    def test_closing(self) -> None:
        """On a connection that is being closed Twisted decides."""
        transport = Transport(100)
        transport.disconnecting = True
        send_now(transport, b"hello")
        self.assertEqual(transport.socket.sent, b"")

    def test_other_transports(self) -> None:
        """A transport without those attributes gets it written."""
        transport = StringTransport()
        send_now(transport, b"hello")
        self.assertEqual(transport.value(), b"hello")


class RealTransport(TestCase):
    """The attributes are there in the Twisted that is installed, and order holds on a real socket."""

    timeout = 120

    async def test_order_over_a_full_socket(self) -> None:
        """Many small and large pieces arrive in order, though the socket is full at times."""
        received: list[bytes] = []
        done: Deferred[None] = Deferred()
        pieces = [b"%d;" % n * (1 + n % 97 * 20) for n in range(300)]
        expected = b"".join(pieces)

        class Sink(Protocol):
            def dataReceived(self, data: bytes) -> None:
                received.append(data)
                if sum(map(len, received)) == len(expected):
                    done.callback(None)

        port = reactor.listenTCP(0, Factory.forProtocol(Sink), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        client: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        transport = client.transport
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        send_now(transport, pieces[0])
        # Sent at once: nothing was left for the reactor to do.
        self.assertEqual((transport._tempDataLen, len(transport.dataBuffer)), (0, 0))
        self.assertNotIn(transport, reactor.getWriters())
        for piece in pieces[1:]:
            send_now(transport, piece)
        await done
        self.assertEqual(b"".join(received), expected)
        transport.abortConnection()
        turn: Deferred[None] = Deferred()
        reactor.callLater(0.02, turn.callback, None)
        await turn
