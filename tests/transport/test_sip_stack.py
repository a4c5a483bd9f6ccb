"""What the stack does for its user: INVITE with ACK and CANCEL, traces, status, log lines, reloads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from impfed.config.model import ListenerConfig
from impfed.core.metrics import Metrics
from impfed.core.trace import TraceLine
from impfed.sip.message import parse_message
from impfed.sip.target import Hop
from impfed.sip.transaction import FailureCause, Transactions
from impfed.testing.pki import make_ca, make_certificate
from impfed.transport.sip import ISipUser
from impfed.transport.tls import TlsStore
from tests.transport.sip_kit import (
    MemoryStack,
    Outcome,
    RecordingUser,
    answer_to,
    outgoing,
    request_bytes,
    tls_config,
)

HOP = Hop("tcp", "192.0.2.50", 5060)


class Invitations(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = MemoryStack()
        self.outcome = Outcome()

    def invite(self) -> tuple[Any, Any, bytes]:
        transaction = self.memory.stack.request(outgoing("INVITE"), HOP, self.outcome)
        peer = self.memory.connected()
        return transaction, peer, peer.take()

    def test_acknowledged_again_for_each_2xx(self) -> None:
        """The ACK of a 2xx is sent at once, and again whenever that 2xx comes again."""
        transaction, peer, data = self.invite()
        ok = answer_to(data, to_tag="t1")
        self.memory.receive(peer, ok)
        self.memory.stack.acknowledge(transaction, "t1", outgoing("ACK"), HOP)
        self.memory.turn()
        self.assertEqual(peer.take().count(b"ACK sip:"), 1)
        self.memory.receive(peer, ok)
        self.assertEqual(peer.take().count(b"ACK sip:"), 1)
        self.assertEqual(self.outcome.statuses, [200])

    def test_repeated_2xx_over_another_connection(self) -> None:
        """If the connection of the ACK is gone, a repeated 2xx is acknowledged over a new one."""
        transaction, peer, data = self.invite()
        ok = answer_to(data, to_tag="t1")
        self.memory.receive(peer, ok)
        self.memory.stack.acknowledge(transaction, "t1", outgoing("ACK"), HOP)
        self.memory.turn()
        peer.drop()
        self.memory.receive(self.memory.accept(), ok)
        self.assertIn(b"ACK sip:", self.memory.connected().value())

    def test_cancel(self) -> None:
        """CANCEL waits for a provisional answer; the INVITE then ends with 487 and is acknowledged."""
        transaction, peer, data = self.invite()
        self.memory.stack.cancel(transaction)
        self.memory.turn()
        self.assertEqual(peer.value(), b"")
        self.memory.receive(peer, answer_to(data, "180 Ringing"))
        cancel = peer.take()
        self.assertTrue(cancel.startswith(b"CANCEL sip:"))
        self.memory.receive(peer, answer_to(cancel))
        self.memory.receive(peer, answer_to(data, "487 Request Terminated"))
        self.assertTrue(peer.take().startswith(b"ACK sip:"))
        self.assertEqual(self.outcome.statuses, [180, 487])

    def test_invitation_from_the_peer(self) -> None:
        """The user hears of an INVITE's ACK, with the flow that it came over."""
        peer = self.memory.accept()
        self.memory.receive(peer, request_bytes("INVITE"))
        transaction, _, flow = self.memory.user.requests[0]
        self.memory.stack.respond(transaction, 200, to_tag="ours")
        self.memory.turn()
        self.assertIn(b";tag=ours\r\n", peer.take())
        ack = request_bytes("ACK", branch="z9hG4bKack", body=b"")
        self.memory.receive(peer, ack.replace(b"home.example>\r\n", b"home.example>;tag=ours\r\n"))
        request, acknowledged, over = self.memory.user.acks[0]
        self.assertEqual(request.method, "ACK")
        self.assertIs(acknowledged, transaction)
        self.assertIs(over, flow)

    def test_cancelled_by_the_peer(self) -> None:
        """The user hears of a CANCEL, which is answered already."""
        peer = self.memory.accept()
        self.memory.receive(peer, request_bytes("INVITE"))
        self.memory.receive(peer, request_bytes("CANCEL", body=b""))
        self.assertIn(b"SIP/2.0 200 OK", peer.value())
        self.assertEqual(len(self.memory.user.cancels), 1)

    def test_late_trying(self) -> None:
        """An INVITE that the user has not answered within 200 ms gets 100 Trying."""
        peer = self.memory.accept()
        self.memory.receive(peer, request_bytes("INVITE"))
        self.assertEqual(peer.value(), b"")
        self.memory.turn(0.2)
        self.memory.turn()
        self.assertTrue(peer.value().startswith(b"SIP/2.0 100 Trying"))

    def test_one_delayed_call(self) -> None:
        """However many transactions are pending, their timers need one delayed call."""
        peer = self.memory.accept()
        for number in range(50):
            data = request_bytes("INVITE", branch=f"z9hG4bK{number}", call_id=f"c{number}")
            self.memory.receive(peer, data)
        # One for the transactions, one for the flows.
        self.assertEqual(len(self.memory.reactor.getDelayedCalls()), 2)

    def test_too_many_transactions(self) -> None:
        """A request beyond the limit of pending ones fails in the next turn."""
        self.memory.stack.transactions = Transactions(limit=1)
        self.memory.stack.request(outgoing(), HOP, Outcome())
        self.memory.stack.request(outgoing(), HOP, self.outcome)
        self.assertEqual(self.outcome.failures, [])
        self.memory.turn()
        self.assertEqual(self.outcome.failures[0][0], FailureCause.OVERLOAD)


class Showing(SynchronousTestCase):
    def test_trace(self) -> None:
        """Whoever watches sees each message both ways, with peer and time."""
        memory = MemoryStack(answer=200)
        lines: list[TraceLine] = []
        stop = memory.stack._tracer.watch(lines.append)
        memory.receive(memory.accept("192.0.2.7", 40000), request_bytes())
        stop()
        self.assertEqual([line.inbound for line in lines], [True, False])
        self.assertEqual(lines[0].text.encode(), request_bytes())
        self.assertEqual({line.peer for line in lines}, {"tcp:192.0.2.7:40000"})

    def test_status(self) -> None:
        """Status has a line for each connection, either direction; gauges count them."""
        memory = MemoryStack()
        memory.accept("2001:db8::7", 40000)
        memory.stack.request(outgoing(), HOP, Outcome())
        memory.connected()
        lines = memory.stack.status()
        self.assertEqual([line["direction"] for line in lines], ["in", "out"])
        self.assertEqual(lines[0]["peer"], "tcp:[2001:db8::7]:40000")
        self.assertEqual(lines[1]["pending"], 1)
        self.assertEqual(memory.metrics.value("sip.connections_in"), 1)
        self.assertEqual(memory.metrics.value("sip.connections_out"), 1)

    def test_one_line_for_what_is_malformed(self) -> None:
        """A malformed message is one line in the log: from whom, what is wrong, what was done."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        memory = MemoryStack()
        memory.receive(memory.accept("192.0.2.7", 40000), b"\x80garbage\r\n\r\n")
        found = [each for each in events if each.get("event") == "impfed.sip.malformed"]
        self.assertEqual(len(found), 1)
        self.assertEqual(found[0]["peer"], "tcp:192.0.2.7:40000")
        self.assertIn("connection closed", found[0]["outcome"])

    def test_contact_of_a_listener(self) -> None:
        """Contact and Via can tell of one listener among several of a transport."""
        first = ListenerConfig("a", "tcp", "::", 1, "a.example", 5060)
        second = ListenerConfig("b", "tcp", "::", 2, "b.example", 5062)
        stack = MemoryStack([first, second]).stack
        self.assertEqual(stack.contact("u", "tcp"), "<sip:u@a.example:5060;transport=tcp>")
        self.assertEqual(stack.contact("u", "tcp", "b"), "<sip:u@b.example:5062;transport=tcp>")

    def test_user_interface(self) -> None:
        """The user of these tests is one by the interface."""
        self.assertTrue(verifyObject(ISipUser, RecordingUser()))


class Injection(SynchronousTestCase):
    def test_answer_cannot_carry_further_headers(self) -> None:
        """A line break in what the user answers is an error of ours and never reaches the wire."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        transaction = memory.user.requests[0][0]
        for bad in (
            {"reason": "OK\r\nX: y"},
            {"to_tag": "a\r\nX: y"},
            {"headers": (("A", "b\nX: y"),)},
        ):
            with self.assertRaisesRegex(Exception, "CR, LF or NUL"):
                memory.stack.respond(transaction, 200, **bad)  # type: ignore[arg-type]
        memory.turn()
        self.assertEqual(peer.value(), b"")

    def test_answer_is_readable(self) -> None:
        """What goes out can be read back, with the tag that was given."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        memory.stack.respond(memory.user.requests[0][0], 200, to_tag="ours", body=b"x")
        memory.turn()
        answer = parse_message(peer.value())
        self.assertEqual((answer.to_tag, answer.body), ("ours", b"x"))


class Watching(SynchronousTestCase):
    def test_files_are_checked_by_time(self) -> None:
        """The store looks at its files every ten seconds, between start and stop."""
        folder = Path(self.mktemp())
        ca = make_ca(folder)
        shown = make_certificate(ca, folder, "old.example")
        clock, metrics = Clock(), Metrics()
        store = TlsStore(tls_config(ca, ("a", shown)), metrics, clock)
        store.start()
        new = make_certificate(ca, folder, "new.example")
        os.replace(new.certificate, shown.certificate)
        os.replace(new.key, shown.key)
        clock.advance(9)
        self.assertEqual(store.certificates()[0].names, ("old.example",))
        clock.advance(1)
        self.assertEqual(store.certificates()[0].names, ("new.example",))
        self.assertEqual(metrics.value("tls.reloads"), 1)
        store.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
