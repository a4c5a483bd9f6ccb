"""Home links on a fake clock and network: the story of one link, line by line."""

from __future__ import annotations

import re

from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.python.failure import Failure

from impfed.core.errors import LocalError
from impfed.transport.home import Delivery, Existence, LinkLimits
from impfed.xmpp.stanza import message, presence
from tests.transport.home_case import ALICE, BOB, HEADER, HomeCase, J


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

    def test_half_open(self) -> None:
        """A home server that is silent while it has a message to confirm is given up after 20 s."""
        wire = self.up()
        self.reactor.advance(15)
        self.say(" ")
        told = self.deliver("1")
        self.reactor.advance(19)
        self.assertFalse(wire.aborted)
        self.reactor.advance(1)
        self.assertTrue(wire.aborted)
        self.assertEqual(self.outcome(told), "unsure")
        self.assertIn("nothing was heard", self.links.status()[0]["reason"])

    def test_half_open_order(self) -> None:
        """All that a half open link may have lost is unsure at once, when the link is known to be down."""
        self.up()
        states: list[tuple[str, bool]] = []
        for id in ("1", "2"):
            stanza = message(ALICE, BOB, id=id, body="hi")
            link = self.links.links[0]
            self.links.deliver(stanza, lambda _, id=id, link=link: states.append((id, link.up)))
            self.reactor.advance(5)
        self.reactor.advance(10)
        self.assertEqual(states, [("1", False), ("2", False)])

    def test_unconfirmed(self) -> None:
        """One that says something meanwhile keeps its link, though it does not confirm the message."""
        wire = self.up()
        told = self.deliver("1")
        self.reactor.advance(5)
        self.say("<presence from='alice@home.example/x' to='bob@lync.example'/>")
        self.reactor.advance(15)
        self.assertEqual(self.outcome(told), "unsure")
        self.assertFalse(wire.aborted)

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

    def test_retire(self) -> None:
        """A link that another node replaces is read to its end, and not connected again."""
        self.up()
        retired = self.links.retire("home")
        self.assertNoResult(retired)
        self.say(
            "<message from='alice@home.example/a' to='bob@lync.example' id='last'>"
            "<body>x</body></message></stream:stream>"
        )
        self.assertIn(("message", "", "last", "bob@lync.example"), self.gateway.events)
        self.lose(ConnectionDone())
        self.successResultOf(retired)
        self.reactor.advance(100)
        self.assertEqual(self.attempts(), 1)

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


class GatheringTests(HomeCase):
    """Where messages come densely, one write and one barrier serve several of them."""

    limits = LinkLimits(gather=0.002)

    def test_dense_messages_share_a_barrier(self) -> None:
        """A message after a quiet time goes at once, those right behind it go together."""
        wire = self.up()
        self.reactor.advance(1)
        self.deliver("0")
        self.reactor.advance(0)
        self.assertEqual(len(wire.writes), 1)
        self.pong(self.ping_id(wire.writes[0].decode()))
        wire.writes.clear()
        self.deliver("1")
        self.reactor.advance(0.001)
        self.deliver("2")
        self.assertEqual(wire.writes, [])
        self.reactor.advance(0.001)
        (write,) = wire.writes
        self.assertEqual(re.findall(r"<message [^>]* id='(\d)'", write.decode()), ["1", "2"])


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
        self.say(" ")
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

    limits = LinkLimits(congested=3, queue=2000, gather=0.0)

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
        """Over the transport's high-water mark the SIP side waits; over ours, messages bounce.

        What is returned to a sender is written all the same.
        """
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
        last_word = presence(ALICE, BOB)._replace(answers="Q:1")
        self.assertTrue(self.links.send(last_word), "nobody would be told")
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
