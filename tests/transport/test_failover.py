"""A next hop that is out of reach: how soon another one is tried, and how the first comes back."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.target import Hop
from impfed.transport.pool import Target
from tests.transport.sip_kit import MemoryStack, Outcome, answer_to, outgoing, request_bytes

FIRST = Hop("tcp", "192.0.2.50", 5060, others=True)
ONLY = Hop("tcp", "192.0.2.60", 5060)


class BlackHole(SynchronousTestCase):
    """Nothing comes back from the first hop: no refusal, no answer."""

    def setUp(self) -> None:
        self.memory = MemoryStack()
        self.tried = self.memory.reactor.tcpClients

    def send(self, hop: Hop = FIRST, call_id: str = "out-1") -> Outcome:
        outcome = Outcome()
        self.memory.stack.request(outgoing(call_id=call_id), hop, outcome)
        self.memory.turn()
        return outcome

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.memory.turn(0.1)

    def state(self, hop: Hop = FIRST) -> tuple[str, str]:
        return self.memory.stack.pool.condition(Target.of_hop(hop))

    def test_given_up_in_time(self) -> None:
        """With another hop to go to, what was sent to a silent one fails after three seconds."""
        outcome = self.send()
        self.wait(2.8)
        self.assertEqual(outcome.failures, [])
        self.wait(0.4)
        self.assertIn("nothing answered within 3 s", outcome.failures[0][1])

    def test_only_hop(self) -> None:
        """The only hop is given the whole connect time."""
        outcome = self.send(ONLY)
        self.wait(9.8)
        self.assertEqual(outcome.failures, [])
        self.wait(0.4)
        self.assertIn("nothing answered within 10 s", outcome.failures[0][1])

    def test_later_texts_do_not_wait(self) -> None:
        """From then on nothing waits for that hop, though it is tried again all the time."""
        self.send()
        self.wait(3.1)
        for number in range(40):
            outcome = self.send(call_id=f"later-{number}")
            self.assertIn("no connection to tcp:192.0.2.50:5060", outcome.failures[0][1])
            self.assertEqual(self.state()[0], "resting")
            self.wait(0.5)
        self.assertGreater(len(self.tried), 3)
        self.assertEqual(self.memory.metrics.value("sip.reconnects"), len(self.tried) - 1)

    def test_comes_back_by_itself(self) -> None:
        """The hop is used again as soon as a try of our own reaches it; no request had to wait."""
        self.send()
        self.wait(4.0)
        self.assertEqual(len(self.tried), 2)
        peer = self.memory.connected()
        self.memory.turn()
        self.assertEqual(self.state(), ("open", ""))
        outcome = self.send(call_id="back")
        self.assertEqual(len(self.tried), 2)
        self.memory.receive(peer, answer_to(peer.take()))
        self.assertEqual(outcome.statuses, [200])

    def test_not_tried_for_ever(self) -> None:
        """A hop that nobody has wanted for ten minutes is left alone, and is like a new one then."""
        self.send()
        self.wait(660)
        tries = len(self.tried)
        self.wait(120)
        self.assertEqual(len(self.tried), tries)
        self.assertEqual(self.state(), ("idle", ""))

    def test_refusal(self) -> None:
        """A hop that refuses is known at once; a try of ours that is under way may be joined."""
        first = self.send()
        self.memory.refuse(ConnectionRefusedError())
        self.memory.turn()
        self.assertIn("refused", first.failures[0][1])
        self.wait(0.6)
        self.assertEqual(len(self.tried), 2)
        second = self.send(call_id="second")
        self.assertEqual(second.failures, [])
        self.assertIn(b"Call-ID: second", self.memory.connected().value())

    def test_stopped(self) -> None:
        """A stack that stops tries nothing any more."""
        self.send()
        self.wait(3.1)
        self.successResultOf(self.memory.stack.stopService())
        self.assertEqual(self.memory.reactor.getDelayedCalls(), [])


class FallenSilent(SynchronousTestCase):
    """A hop that was in use acknowledges nothing any more; the kernel ends the connection."""

    def setUp(self) -> None:
        self.memory = MemoryStack()

    def lose(self, peer: Any, after: float, reason: Exception) -> Outcome:
        """Send something, and lose the connection some time later."""
        outcome = Outcome()
        self.memory.stack.request(outgoing(call_id="second"), FIRST, outcome)
        self.memory.turn(after)
        peer.disconnecting = True
        peer.protocol.connectionLost(Failure(reason))
        self.memory.turn()
        return outcome

    def open(self) -> Any:
        first = Outcome()
        self.memory.stack.request(outgoing(), FIRST, first)
        peer = self.memory.connected()
        self.memory.receive(peer, answer_to(peer.take()))
        self.assertEqual(first.statuses, [200])
        return peer

    def test_given_up_at_once(self) -> None:
        """What is on its way fails without the usual wait for an answer, and the hop rests."""
        outcome = self.lose(self.open(), 3.0, ConnectionLost())
        self.assertEqual(len(outcome.failures), 1)
        state, _ = self.memory.stack.pool.condition(Target.of_hop(FIRST))
        self.assertEqual(state, "resting")

    def test_closed_in_good_order(self) -> None:
        """After an orderly end an answer may still come over another connection."""
        self.assertEqual(self.lose(self.open(), 3.0, ConnectionDone()).failures, [])

    def test_broken_while_it_talked(self) -> None:
        """So it may when the connection breaks of which something was heard just now."""
        self.assertEqual(self.lose(self.open(), 0.5, ConnectionLost()).failures, [])


class SeveralAddresses(SynchronousTestCase):
    """One host with several addresses."""

    def setUp(self) -> None:
        self.memory = MemoryStack()
        self.memory.reactor.hosts["edge.example"] = ["2001:db8::1", "192.0.2.1", "192.0.2.2"]
        self.outcome = Outcome()
        self.memory.stack.request(outgoing(), Hop("tcp", "edge.example", 5060), self.outcome)

    @property
    def tried(self) -> list[str]:
        return [each[0] for each in self.memory.reactor.tcpClients]

    def test_silent_address(self) -> None:
        """The next one is tried half a second later; the first that answers carries everything."""
        self.assertEqual(self.tried, ["2001:db8::1"])
        self.memory.turn(0.5)
        self.assertEqual(self.tried, ["2001:db8::1", "192.0.2.1"])
        self.assertIn(b"MESSAGE sip:", self.memory.connected().value())
        connectors = self.memory.reactor.connectors
        self.assertEqual([each._disconnected for each in connectors], [True, False])
        self.memory.turn(5)
        self.assertEqual(len(self.tried), 2)
        self.assertEqual(self.outcome.failures, [])

    def test_all_fail(self) -> None:
        """Only when the last has failed does the request."""
        self.memory.turn(0.5)
        self.memory.turn(0.5)
        self.assertEqual(len(self.tried), 3)
        for index in range(3):
            self.memory.turn()
            self.assertEqual(self.outcome.failures, [])
            self.memory.refuse(ConnectionRefusedError(), index)
        self.memory.turn()
        self.assertIn("refused", self.outcome.failures[0][1])


class SilentPeer(SynchronousTestCase):
    """A peer whose own connection has fallen silent: nothing else that leads to it is waited for."""

    def setUp(self) -> None:
        self.memory = MemoryStack()
        self.theirs = self.memory.accept("192.0.2.50", 40000)
        self.memory.receive(self.theirs, request_bytes())
        self.flow = self.memory.user.requests[0][2]
        self.flow.hurry(3.0)

    def falls_silent(self) -> Outcome:
        """Send something over the peer's connection, which the kernel gives up."""
        outcome = Outcome()
        self.memory.stack.request(outgoing(call_id="lost"), self.flow, outcome)
        self.memory.turn(3.0)
        self.theirs.disconnecting = True
        self.theirs.protocol.connectionLost(Failure(ConnectionLost()))
        self.memory.turn()
        return outcome

    def test_new_connections(self) -> None:
        """A hop at its address is tried in the background, and not waited for meanwhile."""
        self.assertEqual(len(self.falls_silent().failures), 1)
        outcome = Outcome()
        self.memory.stack.request(outgoing(call_id="next"), FIRST, outcome)
        self.memory.turn()
        self.assertEqual(len(outcome.failures), 1)
        self.memory.turn(0.2)
        self.memory.connected()
        outcome = Outcome()
        self.memory.stack.request(outgoing(call_id="back"), FIRST, outcome)
        self.memory.turn()
        self.assertEqual(outcome.failures, [])

    def test_the_only_hop(self) -> None:
        """Where there is no other hop it is connected to as ever."""
        self.falls_silent()
        only = Hop("tcp", "192.0.2.50", 5060)
        self.memory.stack.request(outgoing(call_id="next"), only, Outcome())
        self.assertEqual(len(self.memory.reactor.tcpClients), 1)

    def test_connection_of_ours(self) -> None:
        """One of ours to the same machine of which nothing was heard either is given up with it."""
        self.memory.stack.request(outgoing(call_id="ours"), FIRST, Outcome())
        ours = self.memory.connected()
        self.memory.receive(ours, answer_to(ours.take()))
        self.falls_silent()
        self.assertTrue(ours.disconnecting)

    def test_one_that_talks(self) -> None:
        """One that has been heard lately stays."""
        self.memory.stack.request(outgoing(call_id="ours"), FIRST, Outcome())
        ours = self.memory.connected()
        outcome = Outcome()
        self.memory.stack.request(outgoing(call_id="lost"), self.flow, outcome)
        self.memory.turn(2.0)
        self.memory.receive(ours, answer_to(ours.take()))
        self.memory.turn(1.0)
        self.theirs.disconnecting = True
        self.theirs.protocol.connectionLost(Failure(ConnectionLost()))
        self.memory.turn()
        self.assertFalse(ours.disconnecting)
        self.assertEqual(len(outcome.failures), 1)
