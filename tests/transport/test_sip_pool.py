"""Connections of ours: sharing, queues, back-off, what a failure means, and where answers go."""

from __future__ import annotations

from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import ListenerConfig
from impfed.core.errors import LocalError
from impfed.sip.target import Hop
from impfed.sip.transaction import FailureCause
from impfed.transport.flow import SipLimits
from tests.transport.sip_kit import (
    MemoryStack,
    Outcome,
    answer_to,
    outgoing,
    request_bytes,
    tcp_listener,
)

HOP = Hop("tcp", "192.0.2.50", 5060)


class Connecting(SynchronousTestCase):
    def test_request_waits_for_the_connection(self) -> None:
        """What is sent while connecting leaves, in order and in one write, when the connection stands."""
        memory = MemoryStack()
        memory.stack.request(outgoing(call_id="first"), HOP, Outcome())
        memory.stack.request(outgoing(call_id="second"), HOP, Outcome())
        memory.turn()
        self.assertEqual(len(memory.reactor.tcpClients), 1)
        peer = memory.connected()
        self.assertLess(peer.value().index(b"first"), peer.value().index(b"second"))
        self.assertEqual(peer.writes, 1)

    def test_answer_reaches_the_sender(self) -> None:
        """The answer on the connection reaches the user of its own request."""
        memory = MemoryStack()
        outcome = Outcome()
        transaction = memory.stack.request(outgoing(), HOP, outcome)
        peer = memory.connected()
        memory.receive(peer, answer_to(peer.take()))
        self.assertEqual(outcome.statuses, [200])
        self.assertFalse(transaction.destination.transactions)

    def test_via_and_contact_name_the_advertised_address(self) -> None:
        """Via and Contact carry the advertised address, not the bound one."""
        memory = MemoryStack()
        memory.stack.request(outgoing(), HOP, Outcome())
        peer = memory.connected()
        self.assertIn(b"Via: SIP/2.0/TCP node1.example:15060;branch=z9hG4bK", peer.value())
        contact = memory.stack.contact("alice", "tcp")
        self.assertEqual(contact, "<sip:alice@node1.example:15060;transport=tcp>")

    def test_advertised_port_zero_means_the_bound_one(self) -> None:
        """Where no advertised port is set, the bound port is advertised; IPv6 stands in brackets."""
        listener = ListenerConfig("six", "tcp", "::1", 0, "2001:db8::1", 0)
        memory = MemoryStack([listener])
        port = memory.stack.ports["six"]
        self.assertEqual(memory.stack.advertised("tcp"), ("2001:db8::1", port))
        self.assertEqual(
            memory.stack.contact("", "tcp"), f"<sip:[2001:db8::1]:{port};transport=tcp>"
        )

    def test_no_listener_for_the_transport(self) -> None:
        """A request over a transport that we do not listen on is our own fault, told at once."""
        memory = MemoryStack([tcp_listener()])
        hop = Hop("udp", "192.0.2.50", 5060)
        self.assertRaises(LocalError, memory.stack.request, outgoing(), hop, Outcome())

    def test_own_certificate_is_part_of_the_key(self) -> None:
        """Hops that differ in TLS name or certificate do not share a connection."""
        memory = MemoryStack([tcp_listener(), ListenerConfig("t", "tcp", "::", 1, "h", 1)])
        pool = memory.stack.pool
        self.addCleanup(pool.stop)
        memory.stack.request(outgoing(), HOP, Outcome())
        memory.stack.request(outgoing(), Hop("tcp", "192.0.2.50", 5061), Outcome())
        memory.stack.request(outgoing(), HOP, Outcome())
        self.assertEqual(len(pool), 2)

    def test_request_over_the_connection_of_the_peer(self) -> None:
        """A request of ours may go over a connection that the peer has opened."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        outcome = Outcome()
        memory.stack.request(outgoing(), memory.user.requests[0][2], outcome)
        memory.turn()
        self.assertEqual(memory.reactor.tcpClients, [])
        memory.receive(peer, answer_to(peer.take()))
        self.assertEqual(outcome.statuses, [200])

    def test_request_from_the_peer_over_our_connection(self) -> None:
        """A request of the peer may come over a connection that we have opened."""
        memory = MemoryStack(answer=200)
        memory.stack.request(outgoing(), HOP, Outcome())
        peer = memory.connected()
        peer.clear()
        memory.receive(peer, request_bytes())
        self.assertTrue(peer.value().startswith(b"SIP/2.0 200 OK"))

    def test_dead_flow_of_the_peer(self) -> None:
        """A request over a connection of the peer that is gone fails in the same turn's end."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        peer.drop()
        outcome = Outcome()
        transaction = memory.stack.request(outgoing(), memory.user.requests[0][2], outcome)
        self.assertEqual(outcome.failures, [])
        memory.turn()
        self.assertEqual(outcome.failures[0][0], FailureCause.TRANSPORT)
        self.assertIsNotNone(transaction)


class Failing(SynchronousTestCase):
    def test_refused_connection(self) -> None:
        """A connection that is refused fails what waits for it, and says why."""
        memory = MemoryStack()
        outcome = Outcome()
        transaction = memory.stack.request(outgoing(), HOP, outcome)
        memory.refuse(ConnectionRefusedError())
        self.assertEqual(outcome.failures, [])
        memory.turn()
        self.assertEqual(outcome.failures[0][0], FailureCause.TRANSPORT)
        self.assertIn("tcp:192.0.2.50:5060", outcome.failures[0][1])
        self.assertIn("refused", outcome.failures[0][1])
        self.assertFalse(memory.stack.maybe_delivered(transaction))

    def test_back_off(self) -> None:
        """After a failure requests fail at once, until the pause, longer each time, is over."""
        memory = MemoryStack()
        pauses = []
        for _ in range(3):
            attempts = len(memory.reactor.tcpClients)
            memory.stack.request(outgoing(), HOP, Outcome())
            self.assertEqual(len(memory.reactor.tcpClients), attempts + 1)
            memory.refuse(ConnectionRefusedError())
            began = memory.reactor.seconds()
            while True:
                outcome = Outcome()
                memory.stack.request(outgoing(), HOP, outcome)
                memory.turn()
                if len(memory.reactor.tcpClients) > attempts + 1:
                    memory.reactor.tcpClients.pop()
                    memory.stack.pool._flows.clear()
                    break
                self.assertIn("next try in", outcome.failures[0][1])
                memory.turn(0.01)
            pauses.append(memory.reactor.seconds() - began)
        self.assertTrue(0.25 <= pauses[0] <= 0.52)
        self.assertTrue(0.5 <= pauses[1] <= 1.02)
        self.assertTrue(1.0 <= pauses[2] <= 2.02)

    def test_back_off_ends_when_the_peer_speaks(self) -> None:
        """A target whose peer has spoken starts with a clean slate."""
        memory = MemoryStack()
        memory.stack.request(outgoing(), HOP, Outcome())
        memory.refuse(ConnectionRefusedError())
        memory.turn(1)
        memory.stack.request(outgoing(), HOP, Outcome())
        peer = memory.connected()
        memory.receive(peer, answer_to(peer.take()))
        peer.drop()
        self.assertEqual(memory.stack.pool.resting(), {})
        memory.stack.request(outgoing(), HOP, Outcome())
        self.assertEqual(len(memory.reactor.tcpClients), 3)

    def test_queue_is_bounded(self) -> None:
        """What no longer fits into the queue of a connection being made fails; the rest goes out."""
        memory = MemoryStack(limits=SipLimits(queue=1500))
        outcomes = [Outcome() for _ in range(5)]
        for outcome in outcomes:
            memory.stack.request(outgoing(body=b"x" * 500), HOP, outcome)
        memory.turn()
        self.assertEqual([len(outcome.failures) for outcome in outcomes], [0, 0, 1, 1, 1])
        self.assertIn("too much waits", outcomes[2].failures[0][1])
        self.assertEqual(memory.connected().value().count(b"MESSAGE sip:"), 2)

    def test_connection_lost_after_writing(self) -> None:
        """A request on a lost connection fails only when no answer came over another one in 5 s."""
        memory = MemoryStack()
        outcome = Outcome()
        transaction = memory.stack.request(outgoing(), HOP, outcome)
        memory.connected().drop()
        memory.turn(4)
        self.assertEqual(outcome.failures, [])
        memory.turn(1)
        memory.turn()
        self.assertEqual(outcome.failures[0][0], FailureCause.TRANSPORT)
        self.assertIn("before an answer came", outcome.failures[0][1])
        self.assertTrue(memory.stack.maybe_delivered(transaction))

    def test_answer_over_another_connection(self) -> None:
        """An answer that the peer brings over a connection of its own counts, and nothing fails."""
        memory = MemoryStack()
        outcome = Outcome()
        memory.stack.request(outgoing(), HOP, outcome)
        first = memory.connected()
        data = first.take()
        first.drop()
        memory.receive(memory.accept(), answer_to(data))
        memory.turn(40)
        self.assertEqual(outcome.statuses, [200])
        self.assertEqual(outcome.failures, [])

    def test_ringing_invite_survives_its_connection(self) -> None:
        """An INVITE that has had a provisional answer goes on waiting when its connection is lost."""
        memory = MemoryStack()
        outcome = Outcome()
        memory.stack.request(outgoing("INVITE"), HOP, outcome)
        first = memory.connected()
        data = first.take()
        memory.receive(first, answer_to(data, "180 Ringing"))
        first.drop()
        memory.turn(30)
        self.assertEqual(outcome.failures, [])
        memory.receive(memory.accept(), answer_to(data))
        self.assertEqual(outcome.statuses, [180, 200])

    def test_host_without_address(self) -> None:
        """A host name that does not resolve is said by name."""
        memory = MemoryStack()
        outcome = Outcome()
        memory.stack.request(outgoing(), Hop("tcp", "nowhere.invalid", 5060), outcome)
        memory.turn()
        self.assertIn("nowhere.invalid", outcome.failures[0][1])

    def test_host_with_several_addresses(self) -> None:
        """The addresses of a host are tried in turn; what waits goes to the first that answers."""
        memory = MemoryStack()
        memory.reactor.hosts["edge.example"] = ["192.0.2.1", "192.0.2.2"]
        outcome = Outcome()
        memory.stack.request(outgoing(), Hop("tcp", "edge.example", 5060), outcome)
        memory.refuse(ConnectionRefusedError())
        self.assertEqual(
            [each[0] for each in memory.reactor.tcpClients], ["192.0.2.1", "192.0.2.2"]
        )
        self.assertIn(b"MESSAGE sip:", memory.connected().value())
        self.assertEqual(outcome.failures, [])

    def test_timeout_of_the_transaction(self) -> None:
        """No answer within 64*T1 is a time-out, driven by one delayed call."""
        memory = MemoryStack(limits=SipLimits(keepalive=0))
        outcome = Outcome()
        memory.stack.request(outgoing(), HOP, outcome)
        memory.connected()
        for _ in range(33):
            memory.turn(1)
        self.assertEqual([cause for cause, _ in outcome.failures], [FailureCause.TIMEOUT])

    def test_fault_in_the_user_of_a_request(self) -> None:
        """A fault in whoever takes an answer is logged, and the next answer is still taken."""
        memory = MemoryStack()
        first, second = Outcome(), Outcome()

        def fail(*_: object) -> None:
            raise ZeroDivisionError("a bug")

        first.response_arrived = fail  # type: ignore[method-assign]
        memory.stack.request(outgoing(call_id="a"), HOP, first)
        peer = memory.connected()
        one = peer.take()
        memory.stack.request(outgoing(call_id="b"), HOP, second)
        memory.turn()
        memory.receive(peer, answer_to(one) + answer_to(peer.take()))
        self.assertEqual(second.statuses, [200])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ResponseRouting(SynchronousTestCase):
    """RFC 3261 section 18.2.2."""

    def test_same_connection(self) -> None:
        """An answer goes back over the connection that its request came on."""
        memory = MemoryStack()
        first, second = memory.accept(port=1), memory.accept(port=2)
        memory.receive(first, request_bytes())
        memory.stack.respond(memory.user.requests[0][0], 200)
        memory.turn()
        self.assertTrue(first.value().startswith(b"SIP/2.0 200"))
        self.assertEqual(second.value(), b"")

    def test_connection_is_gone(self) -> None:
        """If it is gone, a new one goes to the source address and the port of the Via's sent-by."""
        memory = MemoryStack()
        peer = memory.accept("192.0.2.7", 40000)
        memory.receive(peer, request_bytes(sent_by="inner.peer.example:45062"))
        peer.drop()
        memory.stack.respond(memory.user.requests[0][0], 200)
        host, port = memory.reactor.tcpClients[0][:2]
        self.assertEqual((host, port), ("192.0.2.7", 45062))
        self.assertTrue(memory.connected().value().startswith(b"SIP/2.0 200"))

    def test_default_port(self) -> None:
        """Without a port in sent-by the transport's own port is used."""
        memory = MemoryStack()
        peer = memory.accept("192.0.2.7", 40000)
        memory.receive(peer, request_bytes(sent_by="inner.peer.example"))
        peer.drop()
        memory.stack.respond(memory.user.requests[0][0], 200)
        self.assertEqual(memory.reactor.tcpClients[0][:2], ("192.0.2.7", 5060))

    def test_maddr_is_not_followed(self) -> None:
        """A Via cannot aim our answer at a third host."""
        memory = MemoryStack()
        peer = memory.accept("192.0.2.7", 40000)
        memory.receive(peer, request_bytes(via_params=";maddr=10.0.0.1;received=10.0.0.2"))
        peer.drop()
        memory.stack.respond(memory.user.requests[0][0], 200)
        self.assertEqual(memory.reactor.tcpClients[0][0], "192.0.2.7")

    def test_answer_to_a_node_of_ours(self) -> None:
        """One of our own nodes is found where it is, not at the port that it tells peers."""
        memory = MemoryStack()
        ours, other = memory.accept("10.0.0.2", 40000), memory.accept("10.0.0.9", 40000)
        hop = Hop("tcp", "10.0.0.2", 5062)
        memory.stack.inside = lambda flow: hop if flow.remote[0] == "10.0.0.2" else None
        for number, peer in enumerate((ours, other)):
            data = request_bytes(
                branch=f"z9hG4bK{number}", call_id=f"c{number}", sent_by="203.0.113.10:45062"
            )
            memory.receive(peer, data)
            peer.drop()
        for transaction, _, _ in memory.user.requests:
            memory.stack.respond(transaction, 200)
        places = [client[:2] for client in memory.reactor.tcpClients]
        self.assertEqual(places, [("10.0.0.2", 5062), ("10.0.0.9", 45062)])

    def test_several_answers_share_the_new_connection(self) -> None:
        """Answers to several requests of one lost connection share the new one."""
        memory = MemoryStack()
        peer = memory.accept()
        for number in range(3):
            data = request_bytes(branch=f"z9hG4bK{number}", call_id=f"c{number}")
            memory.receive(peer, data)
        peer.drop()
        for transaction, _, _ in memory.user.requests:
            memory.stack.respond(transaction, 200)
        self.assertEqual(len(memory.reactor.tcpClients), 1)
        self.assertEqual(memory.connected().value().count(b"SIP/2.0 200"), 3)

    def test_answer_that_cannot_be_sent(self) -> None:
        """An answer for which there is no connection either is counted, and harms nothing."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes("INVITE"))
        peer.drop()
        memory.stack.respond(memory.user.requests[0][0], 200)
        memory.refuse(ConnectionRefusedError())
        for _ in range(40):
            memory.turn(1)
        self.assertTrue(memory.user.unacknowledged)


class Stopping(SynchronousTestCase):
    def test_stop_closes_everything(self) -> None:
        """Stopping closes listeners and connections, tells who waits, and leaves no delayed call."""
        memory = MemoryStack()
        outcome = Outcome()
        memory.stack.request(outgoing(), HOP, outcome)
        peer = memory.accept()
        stopped = memory.stack.stopService()
        self.successResultOf(stopped)
        self.assertTrue(peer.disconnecting)
        self.assertEqual(outcome.failures[0][0], FailureCause.TRANSPORT)
        self.assertEqual(memory.reactor.getDelayedCalls(), [])
