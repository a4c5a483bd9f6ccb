"""Home links on a fake clock and network: the story of one link, line by line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial import unittest

from impfed.config.model import HomeConfig
from impfed.core.errors import LocalError
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import TraceLine, Tracer
from impfed.transport.home import Delivery, Existence, HomeLinks, LinkLimits
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, message, presence

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
    limits = LinkLimits()

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
        )
        self.links.user = self.gateway = Gateway()
        self.wires: list[Wire] = []
        self.protocols: list[Any] = []

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


class LifeTests(HomeCase):
    """Connecting, failing, coming back."""

    def test_comes_up(self) -> None:
        """The link connects with the configured address, TCP_NODELAY on, and says so."""
        self.links.startService()
        host, port = self.reactor.tcpClients[0][:2]
        self.assertEqual((host, port), ("127.0.0.1", 5347))
        self.assertEqual(self.links.status()[0]["state"], "connecting")
        wire = self.accept()
        self.assertTrue(wire.no_delay)
        self.assertIn("to='federation.home.example'", wire.take())
        self.assertEqual(self.links.status()[0]["state"], "handshake")
        self.say(HEADER)
        self.assertIn("<handshake>", wire.take())
        self.say("<handshake/>")
        self.assertEqual(self.gateway.events, ["up"])
        status = self.links.status()[0]
        self.assertEqual((status["state"], status["reason"]), ("up", ""))

    def test_needs_a_user(self) -> None:
        """Without somebody to take stanzas the links do not start."""
        self.links.user = None
        self.assertRaises(LocalError, self.links.startService)

    def test_stream_errors_in_words(self) -> None:
        """What the home server objects to is in the status, in words."""
        for condition, words in (
            ("not-authorized", "the secret is wrong"),
            ("conflict", "another connection holds"),
            ("host-unknown", "has no component"),
        ):
            self.setUp()
            self.links.startService()
            self.accept()
            self.say(HEADER)
            self.stream_error(condition)
            status = self.links.status()[0]
            self.assertEqual(status["state"], "waiting")
            self.assertIn(words, status["reason"])
            self.assertIn(condition, status["reason"])
            # A fault that does not pass by itself is not tried again every half second.
            self.assertGreaterEqual(status["retry_at"] - self.reactor.seconds(), 3.75)
            self.assertEqual(self.gateway.events, [])

    def test_back_off(self) -> None:
        """Attempts come at growing intervals, up to half a minute and a quarter."""
        self.links.startService()
        pauses = []
        for _ in range(10):
            connector = self.reactor.tcpClients[-1][2]
            connector.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
            status = self.links.status()[0]
            self.assertIn("nothing listens at 127.0.0.1:5347", status["reason"])
            pauses.append(status["retry_at"] - self.reactor.seconds())
            before = self.attempts()
            self.reactor.advance(pauses[-1])
            self.assertEqual(self.attempts(), before + 1)
        self.assertEqual([round(pause, 1) for pause in pauses[:6]], [0.5, 1, 2, 4, 8, 16])
        self.assertLessEqual(max(pauses), 37.5)

    def test_comes_back(self) -> None:
        """A link that is lost says so, comes back, and starts its back-off afresh once stable."""
        self.up()
        self.reactor.advance(29)
        self.lose(ConnectionDone())
        self.assertEqual(
            self.gateway.events, ["up", ("down", "the home server closed the connection")]
        )
        self.reactor.advance(0.6)
        self.open()
        for _ in range(4):
            self.reactor.advance(20)
            self.say(" ")
        self.lose()
        retry = self.links.status()[0]["retry_at"]
        self.assertAlmostEqual(retry - self.reactor.seconds(), 0.5, 1)
        self.assertEqual(self.gateway.events[2:], ["up", ("down", "the connection broke off")])

    def test_unstable_link_backs_off(self) -> None:
        """A link that comes up only to be thrown out again waits longer each time."""
        self.up()
        self.stream_error("conflict")
        self.lose(ConnectionDone())
        for expected in (5.0, 5.0, 5.0, 5.0, 8.0, 16.0):
            pause = self.links.status()[0]["retry_at"] - self.reactor.seconds()
            self.assertAlmostEqual(pause, expected, 1)
            self.reactor.advance(pause)
            self.open()
            self.stream_error("conflict")
            self.lose(ConnectionDone())

    def test_malformed_stream(self) -> None:
        """Malformed XML gets a stream error and the connection ends; what came before counts."""
        wire = self.up()
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='1'/><message></x>")
        self.assertIn(("message", "", "1", "bob@lync.example"), self.gateway.events)
        self.assertIn("<not-well-formed", wire.take())
        self.assertTrue(wire.disconnecting)
        self.assertIn("broke the rules", self.links.status()[0]["reason"])
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='2'/>")
        self.assertEqual(len(self.gateway.events), 3)
        self.reactor.advance(3)
        self.assertTrue(wire.aborted)
        self.lose()
        self.assertGreaterEqual(self.attempts(), 2)

    def test_silent_home_server(self) -> None:
        """After 30 s of silence the home server is asked; after 30 more the link is given up."""
        wire = self.up()
        self.reactor.advance(30)
        self.assertIn("<ping", self.turn())
        self.say("<iq type='result' from='home.example' to='federation.home.example' id='x'/>")
        self.reactor.advance(30)
        self.assertIn("<ping", self.turn())
        self.reactor.advance(30)
        self.assertTrue(wire.aborted)
        self.assertIn("nothing heard", self.links.status()[0]["reason"])

    def test_no_handshake(self) -> None:
        """A home server that does not answer the handshake is given up after 30 s."""
        self.links.startService()
        wire = self.accept()
        self.reactor.advance(30)
        self.assertTrue(wire.disconnecting)
        self.assertIn("did not answer in time", self.links.status()[0]["reason"])

    def test_stop(self) -> None:
        """Stopping ends the stream in good order and fires when the connection is gone."""
        wire = self.up()
        told = self.deliver("1")
        stopped = self.links.stopService()
        written = wire.take()
        self.assertIn("id='1'", written)
        self.assertTrue(written.endswith("</stream:stream>"))
        self.assertNoResult(stopped)
        self.lose(ConnectionDone())
        self.successResultOf(stopped)
        self.assertEqual(self.outcome(told), "unsure")
        self.reactor.advance(100)
        self.assertEqual(self.attempts(), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_while_waiting(self) -> None:
        """Stopping between two attempts, or within one, leaves nothing behind."""
        self.links.startService()
        self.reactor.tcpClients[-1][2].clientConnectionFailed(
            None, Failure(ConnectionRefusedError())
        )
        self.successResultOf(self.links.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.setUp()
        self.links.startService()
        self.successResultOf(self.links.stopService())
        self.assertEqual(self.links.status()[0]["state"], "stopped")


class BarrierTests(HomeCase):
    """Messages and what became of them."""

    def test_one_write(self) -> None:
        """All of one turn, and the ping behind it, goes in one write."""
        wire = self.up()
        told = [self.deliver(str(number)) for number in range(3)]
        self.assertEqual(wire.writes, [])
        self.reactor.advance(0)
        (write,) = wire.writes
        written = write.decode()
        self.assertEqual(re.findall(r"<message [^>]* id='(\d)'", written), ["0", "1", "2"])
        id = self.ping_id(written)
        self.assertIn("to='home.example'", written[written.index("<iq") :])
        self.assertEqual([self.outcome(each) for each in told], ["open"] * 3)
        self.pong(id)
        self.assertEqual([self.outcome(each) for each in told], ["accepted"] * 3)

    def test_next_batch_rides_behind(self) -> None:
        """While a ping is in flight messages go out at once, and the next ping after its answer."""
        wire = self.up()
        first = self.deliver("1")
        id = self.ping_id(self.turn())
        second = self.deliver("2")
        written = self.turn()
        self.assertIn("id='2'", written)
        self.assertNotIn("<ping", written)
        self.pong(id)
        self.assertEqual((self.outcome(first), self.outcome(second)), ("accepted", "open"))
        self.pong(self.ping_id(wire.take()), type="error")
        self.assertEqual(self.outcome(second), "accepted")

    def test_refused(self) -> None:
        """An error before the answer refuses; one after it is the gateway's."""
        self.up()
        told = self.deliver("1", J("nobody@home.example"))
        other = self.deliver("2")
        id = self.ping_id(self.turn())
        self.say(
            "<message type='error' id='1' from='nobody@home.example' to='bob@lync.example'>"
            "<error type='cancel'><service-unavailable"
            " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        self.assertEqual(told[0].condition, "service-unavailable")
        self.pong(id)
        self.assertEqual(self.outcome(other), "accepted")
        self.assertEqual(self.gateway.events, ["up"])
        self.say(
            "<message type='error' id='2' from='alice@home.example' to='bob@lync.example'>"
            "<error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
            "</message>"
        )
        self.assertEqual(self.gateway.events[1:], [("message", "error", "2", "bob@lync.example")])
        self.assertEqual(self.outcome(other), "accepted")

    def test_time_out(self) -> None:
        """Without an answer in 20 s the message is unsure, and the next batch gets its ping."""
        self.up()
        told = self.deliver("1")
        id = self.ping_id(self.turn())
        self.reactor.advance(15)
        later = self.deliver("2")
        self.turn()
        self.reactor.advance(5)
        self.assertEqual((self.outcome(told), self.outcome(later)), ("unsure", "open"))
        self.assertIn("20 s", told[0].text)
        self.assertEqual(self.metrics.value("home.unconfirmed"), 1)
        second = self.ping_id(self.turn())
        self.pong(id)  # too late for the first, and nothing to do with the second
        self.assertEqual(self.outcome(later), "open")
        self.pong(second)
        self.assertEqual(self.outcome(later), "accepted")

    def test_link_loss(self) -> None:
        """With the link goes the knowledge: unsure, whether written or not."""
        self.up()
        written = self.deliver("1")
        self.turn()
        unwritten = self.deliver("2")
        self.lose()
        self.assertEqual((self.outcome(written), self.outcome(unwritten)), ("unsure", "unsure"))
        self.assertIn("broke off", written[0].text)

    def test_no_link(self) -> None:
        """Without a link a message is refused at once: it surely did not arrive."""
        told = self.deliver("1")
        self.assertEqual(told[0].condition, "recipient-unavailable")
        self.assertFalse(self.links.send(presence(ALICE, BOB)))
        self.assertTrue(self.links.congested("home.example"))
        stranger: list[Delivery] = []
        self.links.deliver(message(J("a@nowhere.example"), BOB, id="1"), stranger.append)
        self.assertEqual(stranger[0].condition, "item-not-found")

    def test_id_needed(self) -> None:
        """A message without id cannot be confirmed: a bug of ours."""
        self.up()
        self.assertRaises(LocalError, self.deliver, "")

    def test_faulty_caller(self) -> None:
        """A caller that fails harms neither the link nor the other messages."""
        self.up()

        def faulty(_: Delivery) -> None:
            raise ValueError("bug")

        self.links.deliver(message(ALICE, BOB, id="1"), faulty)
        told = self.deliver("2")
        self.pong(self.ping_id(self.turn()))
        self.assertEqual(self.outcome(told), "accepted")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class PressureTests(HomeCase):
    """Nobody is asked to take more than he can."""

    limits = LinkLimits(congested=3, queue=2000)

    def test_reading_pauses(self) -> None:
        """While the gateway is behind nothing is read, on a new connection neither."""
        wire = self.up()
        self.links.pause()
        self.assertEqual(wire.producerState, "paused")
        self.reactor.advance(120)  # silence that is our own doing is no reason to give up
        self.assertFalse(wire.aborted)
        self.lose()
        self.reactor.advance(1)
        again = self.accept()
        self.assertEqual(again.producerState, "paused")
        self.links.resume()
        self.assertEqual(again.producerState, "producing")

    def test_slow_home_server(self) -> None:
        """Over the transport's high-water mark the SIP side waits; over ours, messages bounce."""
        wire = self.up()
        self.assertFalse(self.links.congested("home.example"))
        wire.producer.pauseProducing()
        self.assertTrue(self.links.congested("home.example"))
        told = [self.deliver("1")]
        while self.outcome(told[-1]) == "open":
            self.turn()
            told.append(self.deliver(str(len(told) + 1)))
        self.assertEqual(told[-1][0].condition, "resource-constraint")
        self.assertLess(len(told), 30)
        self.assertFalse(self.links.send(presence(ALICE, BOB)))
        wire.producer.resumeProducing()
        self.assertTrue(self.links.send(presence(ALICE, BOB)))

    def test_many_unconfirmed(self) -> None:
        """A home server that confirms slowly counts as behind."""
        self.up()
        for number in range(3):
            self.assertFalse(self.links.congested("home.example"))
            self.deliver(str(number))
        self.assertTrue(self.links.congested("home.example"))
        self.pong(self.ping_id(self.turn()))
        self.assertFalse(self.links.congested("home.example"))


class InboundTests(HomeCase):
    """Who may say what over a link."""

    def test_gateway_takes(self) -> None:
        """Messages and presence from local users to foreign domains reach the gateway."""
        self.up()
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='1' type='chat'/>")
        self.say("<presence from='carol@second.example/x' to='dan@simple.example' type='probe'/>")
        self.assertEqual(
            self.gateway.events[1:],
            [
                ("message", "chat", "1", "bob@lync.example"),
                ("presence", "probe", "", "dan@simple.example"),
            ],
        )

    def test_foreign_sender(self) -> None:
        """A home link speaks only for its own local domains; the others are refused and counted."""
        self.up()
        for sender in ("eve@evil.example", "eve@sub.home.example", "bob@lync.example"):
            self.say(
                f"<message from='{sender}' to='bob@lync.example' id='1'><body>x</body></message>"
            )
            self.assertIn("<forbidden", self.turn() or self.wires[-1].take())
        self.say("<message from='eve@evil.example' to='bob@lync.example' type='error'/>")
        self.assertEqual(self.turn(), "")
        self.assertEqual(self.gateway.events, ["up"])
        self.assertEqual(self.metrics.value("home.foreign_sender"), 4)

    def test_unknown_foreign_domain(self) -> None:
        """A domain that is not federated with is told so; subdomains are domains of their own."""
        wire = self.up()
        for domain in ("elsewhere.example", "sub.lync.example"):
            self.say(f"<message from='alice@home.example/x' to='bob@{domain}' id='1'/>")
            self.assertIn("<remote-server-not-found", wire.take())
        self.say(
            "<presence from='alice@home.example/x' to='b@elsewhere.example' type='unavailable'/>"
        )
        self.assertEqual(wire.take(), "")

    def test_own_address(self) -> None:
        """The component's own address takes no messages yet, and says so."""
        wire = self.up()
        self.say("<message from='alice@home.example/x' to='federation.home.example' id='1'/>")
        self.assertIn("<service-unavailable", wire.take())

    def test_malformed_addresses(self) -> None:
        """A stanza whose address cannot be read is answered jid-malformed, errors never."""
        wire = self.up()
        self.say("<message from='alice@home.example/x' to='b&apos;b@lync.example' id='1'/>")
        answer = wire.take()
        self.assertIn("<jid-malformed", answer)
        self.assertIn("to='alice@home.example/x'", answer)
        self.say("<message from='alice@home.example/x' to='@' type='error'/><presence to='x'/>")
        self.assertEqual(wire.take(), "")
        self.assertEqual(self.metrics.value("home.bad_stanza"), 3)

    def test_faulty_gateway(self) -> None:
        """A bug in the gateway costs one message, whose sender is told, and not the link."""
        wire = self.up()

        def fail(stanza: Stanza) -> None:
            raise ValueError("bug")

        self.gateway.hook = fail
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='1'/>")
        self.assertIn("<internal-server-error", wire.take())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(self.links.links[0].up)

    def test_trace(self) -> None:
        """Whoever watches sees both directions as they stand on the wire."""
        self.up()
        seen: list[TraceLine] = []
        stop = self.tracer.watch(seen.append)
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='1'/>")
        self.deliver("2")
        stop()
        self.assertEqual(
            [(line.inbound, line.peer) for line in seen], [(True, "home"), (False, "home")]
        )
        self.assertIn("id='1'", seen[0].text)


class QueryTests(HomeCase):
    """IQs are answered by the link itself."""

    def ask(
        self, to: str, payload: str, type: str = "get", sender: str = "alice@home.example/x"
    ) -> str:
        self.say(f"<iq type='{type}' id='q' from='{sender}' to='{to}'>{payload}</iq>")
        return self.turn() or self.wires[-1].take()

    def test_discovery(self) -> None:
        """A foreign domain is a gateway of its kind, its users are accounts."""
        self.up()
        query = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
        self.wires[-1].take()
        self.say(
            f"<iq type='get' id='q' from='alice@home.example/x' to='lync.example'>{query}</iq>"
        )
        domain = self.wires[-1].take()
        self.assertIn("category='gateway' type='lcs' name='Lync'", domain)
        self.assertIn("var='urn:xmpp:ping'", domain)
        self.assertIn("type='simple'", self.ask("simple.example", query))
        user = self.ask("bob@lync.example", query)
        self.assertIn("category='account' type='registered'", user)
        self.assertIn("chatstates", user)
        node = query.replace("/>", " node='x'/>")
        self.assertIn("<item-not-found", self.ask("lync.example", node))
        items = self.ask("lync.example", "<query xmlns='http://jabber.org/protocol/disco#items'/>")
        self.assertIn("type='result'", items)

    def test_ping_and_version(self) -> None:
        """Ping and version have answers."""
        self.up()
        self.assertIn("type='result'", self.ask("lync.example", "<ping xmlns='urn:xmpp:ping'/>"))
        version = self.ask("lync.example", "<query xmlns='jabber:iq:version'/>")
        self.assertIn("<name>impfed</name>", version)

    def test_others(self) -> None:
        """What nobody knows is service-unavailable, with the question quoted; vCards are the same."""
        self.up()
        for type, payload in (
            ("get", "<vCard xmlns='vcard-temp'/>"),
            ("set", "<x xmlns='u:x'>&lt;y/&gt;</x>"),
        ):
            answer = self.ask("bob@lync.example", payload, type)
            self.assertIn("<service-unavailable", answer)
            self.assertIn(payload, answer)
        self.assertIn("<bad-request", self.ask("lync.example", "<x xmlns='u:x'/>", "odd"))

    def test_results_are_not_answered(self) -> None:
        """Results and errors that belong to nothing are let go."""
        self.up()
        for type in ("result", "error"):
            self.assertEqual(self.ask("lync.example", "", type), "")

    def test_strangers(self) -> None:
        """An IQ from elsewhere is refused."""
        self.up()
        payload = "<ping xmlns='urn:xmpp:ping'/>"
        self.assertIn("<forbidden", self.ask("lync.example", payload, sender="eve@evil.example"))

    def test_old_profiles(self) -> None:
        """An address that the older profiles of twisted.words refuse still gets an answer."""
        self.up()
        sender = "alice@home.example/\U0001f9d1"
        query = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
        answer = self.ask("lync.example", query, sender=sender)
        self.assertIn("category='gateway'", answer)
        self.assertIn(f"to='{sender}'", answer)
        answer = self.ask("lync.example/\U0001f9d1", query)
        self.assertIn("<service-unavailable", answer)


class DirectoryTests(HomeCase):
    """Who exists, by the Prosody module."""

    def ask(self, *users: str) -> dict[str, Existence]:
        told: dict[str, Existence] = {}
        for user in users:
            self.links.exists(J(user), lambda existence, user=user: told.update({user: existence}))
        return told

    def query_id(self, written: str) -> str:
        found = re.search(rf"id='(d[0-9a-f]+)' type='get'><query xmlns='{DIRECTORY}'", written)
        assert found, written
        return found[1]

    def answer(self, id: str, content: str, type: str = "result") -> None:
        own = "federation.home.example"
        self.say(
            f"<iq type='{type}' from='{own}' to='{own}' id='{id}'>"
            f"<query xmlns='{DIRECTORY}'>{content}</query></iq>"
        )

    def test_batch(self) -> None:
        """Questions of one turn ride in one IQ; an address is asked about once."""
        self.up()
        told = self.ask(
            "alice@home.example", "x@home.example", "alice@home.example/r", "y@second.example"
        )
        written = self.turn()
        self.assertEqual(written.count("<user"), 3)
        self.answer(
            self.query_id(written),
            "<user jid='alice@home.example' state='exists'/><user jid='x@home.example'"
            " state='absent'/><user jid='y@second.example' state='odd'/>",
        )
        self.assertEqual(
            told,
            {
                "alice@home.example": Existence.EXISTS,
                "alice@home.example/r": Existence.EXISTS,
                "x@home.example": Existence.ABSENT,
                "y@second.example": Existence.UNKNOWN,
            },
        )

    def test_unknown(self) -> None:
        """No link, no answer, an error, a lost link: nothing is known, and nobody waits for ever."""
        self.assertEqual(self.ask("a@home.example"), {"a@home.example": Existence.UNKNOWN})
        self.up()
        self.assertEqual(self.ask("a@nowhere.example"), {"a@nowhere.example": Existence.UNKNOWN})
        refused = self.ask("a@home.example")
        self.answer(self.query_id(self.turn()), "", "error")
        self.assertEqual(refused, {"a@home.example": Existence.UNKNOWN})
        silent = self.ask("b@home.example")
        self.turn()
        self.reactor.advance(10)
        self.assertEqual(silent, {"b@home.example": Existence.UNKNOWN})
        lost = self.ask("c@home.example")
        self.lose()
        self.assertEqual(lost, {"c@home.example": Existence.UNKNOWN})

    def test_greeting(self) -> None:
        """The module's answer to the greeting shows in the status; its absence too."""
        self.links.startService()
        wire = self.accept()
        self.say(HEADER)
        self.say("<handshake/>")
        id = self.query_id(wire.take())
        self.assertEqual(self.links.status()[0]["module"], "no answer")
        self.answer(id, "<host name='home.example'/><host name='second.example'/>")
        self.assertEqual(self.links.status()[0]["module"], "there")

    def test_no_module(self) -> None:
        """Without the module our question comes back to ourselves, and is not answered."""
        wire = self.up()
        told = self.ask("a@home.example")
        self.answer(self.query_id(self.turn()), "<user jid='a@home.example'/>", "get")
        self.assertEqual(told, {"a@home.example": Existence.UNKNOWN})
        self.assertEqual(wire.take(), "")


class ComponentModeTests(HomeCase):
    """One component for each foreign domain."""

    kind = "component"

    def test_links(self) -> None:
        """Each foreign domain has its own connection, and its stanzas go over that one."""
        self.links.startService()
        self.assertEqual(self.attempts(), 2)
        wires = {}
        for index, domain in enumerate(("lync.example", "simple.example")):
            wire = wires[domain] = self.accept(index)
            self.assertIn(f"to='{domain}'", wire.take())
            self.say(HEADER)
            self.say("<handshake/>")
            wire.take()
        for domain, wire in wires.items():
            self.links.send(presence(ALICE, J(f"bob@{domain}")))
            self.reactor.advance(0)
            self.assertIn(f"from='bob@{domain}'", wire.take())
        self.assertEqual(
            [status["link"] for status in self.links.status()],
            ["home/lync.example", "home/simple.example"],
        )
        self.assertFalse(self.links.send(presence(ALICE, J("bob@elsewhere.example"))))

    def test_nobody_knows(self) -> None:
        """Nothing tells who exists."""
        told: list[Existence] = []
        self.links.exists(ALICE, told.append)
        self.assertEqual(told, [Existence.UNKNOWN])

    def test_congested_by_pair(self) -> None:
        """A pair of domains is behind while its own link is, a local domain while all are."""
        self.links.startService()
        self.assertTrue(self.links.congested("home.example"))
        self.accept(0)
        self.say(HEADER)
        self.say("<handshake/>")
        self.assertFalse(self.links.congested("home.example"))
        self.assertFalse(self.links.congested("home.example", "lync.example"))
        self.assertTrue(self.links.congested("home.example", "simple.example"))
        self.assertTrue(self.links.congested("home.example", "elsewhere.example"))
