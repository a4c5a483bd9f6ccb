"""A node with one home server that the test plays, on a fake clock and network."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial import unittest

from impfed.config.model import HomeConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.transport.home import Delivery, HomeLinks, LinkLimits
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, message

J = JID.parse
ALICE, BOB = J("alice@home.example"), J("bob@lync.example")
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams'"
    b" xmlns='jabber:component:accept' from='federation.home.example' id='s1'>"
)
STREAMS = "urn:ietf:params:xml:ns:xmpp-streams"
DIRECTORY = "urn:xmpp:impfed:directory:0"


class Wire(StringTransport):
    """A transport in memory that knows TCP's switches."""

    def __init__(self) -> None:
        super().__init__()
        self.no_delay = False
        self.aborted = False
        self.writes: list[bytes] = []

    def setTcpNoDelay(self, on: bool) -> None:
        self.no_delay = on

    def setTcpKeepAlive(self, on: bool) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def abortConnection(self) -> None:
        self.aborted = True

    def take(self) -> str:
        """Return what was written since the last time."""
        data = self.value().decode()
        self.clear()
        self.writes.clear()
        return data


class Gateway:
    """Keeps what the links tell."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.hook: Callable[[Stanza], None] = lambda _: None

    def stanza_arrived(self, stanza: Stanza, link: Any) -> None:
        self.events.append((stanza.kind, stanza.type, stanza.id, stanza.to.text))
        self.hook(stanza)

    def link_up(self, link: Any) -> None:
        self.events.append("up")

    def link_down(self, link: Any, reason: str) -> None:
        self.events.append(("down", reason))


class HomeCase(unittest.SynchronousTestCase):
    """A node with one home server that the test plays."""

    kind = "prosody"
    foreign: tuple[str, ...] = ("lync.example", "simple.example")
    relayed: tuple[str, ...] = ()
    limits = LinkLimits(gather=0.0)

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.reactor.advance(1000.0)
        self.metrics = Metrics()
        self.tracer = Tracer()
        home = HomeConfig(
            "home",
            self.kind,
            ("home.example", "second.example"),
            "127.0.0.1",
            5347,
            "s3cret",
            "federation.home.example" if self.kind == "prosody" else "",
        )
        # Randomness in the middle of its range: jitter of none.
        ids = IdSource(lambda count: next(self._octets)[:count])
        self._octets = self._octet_source()
        self.links = HomeLinks(
            self.reactor,
            [home],
            self.foreign,
            ids,
            self.metrics,
            self.tracer,
            gateway_types={"lync.example": ("lcs", "Lync")},
            limits=self.limits,
            relayed_domains=self.relayed,
            settle=lambda done, foreign: self.settle(done, foreign),
        )
        self.links.user = self.gateway = Gateway()
        self.wires: list[Wire] = []
        self.protocols: list[Any] = []

    def settle(self, done: Callable[[], None], foreign: str) -> None:
        """Say that what came for a foreign domain is safe: at once."""
        done()

    def _octet_source(self) -> Any:
        number = 0
        while True:
            number += 1
            yield b"\x7f\xff\xff\xff" + number.to_bytes(6, "big") + bytes(6)

    # -- the home server's part ----------------------------------------------------------------

    def accept(self, index: int = -1) -> Wire:
        """Take the newest connection attempt."""
        factory = self.reactor.tcpClients[index][2]
        wire = Wire()
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(wire)
        self.wires.append(wire)
        self.protocols.append(protocol)
        return wire

    def attempts(self) -> int:
        return len(self.reactor.tcpClients)

    def say(self, data: str | bytes) -> None:
        """Speak as the home server, then let the turn end."""
        octets = data.encode() if isinstance(data, str) else data
        self.protocols[-1].dataReceived(octets)
        self.reactor.advance(0)

    def open(self) -> Wire:
        """Bring the newest attempt all the way up."""
        wire = self.accept()
        self.say(HEADER)
        self.say("<handshake/>")
        wire.take()
        return wire

    def open_unread(self) -> Wire:
        """The same, but what was written stays to be read."""
        wire = self.accept()
        self.say(HEADER)
        self.say("<handshake/>")
        return wire

    def up(self) -> Wire:
        self.links.startService()
        return self.open()

    def lose(self, reason: Exception | None = None) -> None:
        self.protocols[-1].connectionLost(Failure(reason or ConnectionLost()))
        self.reactor.advance(0)

    def stream_error(self, condition: str) -> None:
        self.say(f"<stream:error><{condition} xmlns='{STREAMS}'/></stream:error></stream:stream>")

    def turn(self) -> str:
        """Let the turn end; return what was written in it."""
        self.reactor.advance(0)
        return self.wires[-1].take()

    def ping_id(self, written: str) -> str:
        found = re.search(r"id='(b[0-9a-f]+)' type='get'><ping", written)
        assert found, written
        return found[1]

    def pong(self, id: str, type: str = "result") -> None:
        self.say(f"<iq type='{type}' from='home.example' to='federation.home.example' id='{id}'/>")

    def deliver(self, id: str, to: JID = ALICE) -> list[Delivery]:
        told: list[Delivery] = []
        self.links.deliver(message(to, BOB, id=id, body="hi"), told.append)
        return told

    def outcome(self, told: list[Delivery]) -> str:
        self.assertLessEqual(len(told), 1)
        return told[0].outcome.value if told else "open"
