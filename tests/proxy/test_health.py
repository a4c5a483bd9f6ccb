"""Which machines answer: OPTIONS on a clock, and what follows from the answers."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.edge import EdgeTargetConfig
from impfed.core.metrics import Metrics
from impfed.proxy.health import HealthChecks, Rhythm
from impfed.sip.message import SipRequest, SipResponse, parse_message, response_bytes
from impfed.testing.fakes import counting_ids
from impfed.transport.timers import ReactorTimers

NODE1 = EdgeTargetConfig("node1", "10.0.0.1", 5062, tls_name="node1.inside.example")
NODE2 = EdgeTargetConfig("node2", "2001:db8::2", 5060, transport="tcp")


class HealthTests(SynchronousTestCase):
    """Asked every 5 s; an answer may take 3 s; down after 2 failures, up after 2 successes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[tuple[str, SipRequest, Any]] = []
        self.changes: list[tuple[str, bool]] = []
        self.metrics = Metrics()
        self.checks = HealthChecks(
            (NODE1, NODE2),
            Rhythm(5.0, 3.0, 2, 2, "company.example"),
            self.ask,
            ReactorTimers(self.clock),
            counting_ids(),
            self.metrics,
            lambda name, up: self.changes.append((name, up)),
        )
        self.checks.start()
        self.answer("node2")

    def ask(self, target: EdgeTargetConfig, request: Any, user: Any) -> None:
        sent = parse_message(request.render("SIP/2.0/TLS e.example;branch=z9hG4bK1"))
        assert isinstance(sent, SipRequest)
        self.asked.append((target.name, sent, user))

    def last(self, name: str) -> tuple[SipRequest, Any]:
        """Return what was sent to a machine last, and who waits for the answer."""
        return next((sent, user) for who, sent, user in reversed(self.asked) if who == name)

    def answer(self, name: str, status: int = 200) -> None:
        """Let a machine answer."""
        sent, user = self.last(name)
        response = parse_message(response_bytes(sent, status, "", "t"))
        assert isinstance(response, SipResponse)
        user.response_arrived(None, response)

    def break_(self, name: str) -> None:
        """Let it be out of reach."""
        self.last(name)[1].request_failed(None, None, "connection refused")

    def of_node1(self) -> list[bool]:
        """Return how node 1 has changed; node 2 is nobody's business here."""
        return [up for name, up in self.changes if name == "node1"]

    def count(self, name: str) -> int:
        """Return how often a machine was asked."""
        return sum(who == name for who, _, _ in self.asked)

    def state(self, name: str) -> dict[str, Any]:
        """Return what is known of a machine."""
        return next(line for target, line in self.checks.status() if target.name == name)

    def test_question(self) -> None:
        """Each is asked at once, itself and not a user, and may not pass it on."""
        sent, _ = self.last("node1")
        self.assertEqual(sent.uri_text, "sip:10.0.0.1:5062;transport=tls")
        self.assertEqual((sent.method, sent.get("max-forwards")), ("OPTIONS", "1"))
        self.assertEqual(self.last("node2")[0].uri_text, "sip:[2001:db8::2]:5060;transport=tcp")
        self.assertNotEqual(sent.call_id, self.last("node2")[0].call_id)

    def test_rhythm(self) -> None:
        """The next question comes an interval after the answer."""
        self.clock.advance(1)
        self.answer("node1")
        self.clock.advance(4.9)
        self.assertEqual(self.count("node1"), 1)
        self.clock.advance(0.2)
        self.assertEqual(self.count("node1"), 2)

    def test_down_and_up(self) -> None:
        """One failure is none; two are; and so it is with successes."""
        self.break_("node1")
        self.assertTrue(self.checks.up("node1"))
        self.clock.advance(1)  # asked again soon, to be sure
        self.break_("node1")
        self.assertFalse(self.checks.up("node1"))
        self.assertTrue(self.checks.up("node2"))
        self.assertEqual(self.state("node1")["reason"], "connection refused")
        self.assertEqual(
            (self.state("node1")["state"], self.state("node1")["since"]), ("down", 1.0)
        )
        self.clock.advance(5)
        self.answer("node1")
        self.assertFalse(self.checks.up("node1"))
        self.clock.advance(5)
        self.answer("node1")
        self.assertTrue(self.checks.up("node1"))
        self.assertEqual(self.of_node1(), [False, True])
        self.assertEqual(self.metrics.value("edge.targets_down"), 1)

    def test_a_success_between(self) -> None:
        """Failures count only in a row."""
        for _ in range(4):
            self.break_("node1")
            self.clock.advance(1)
            self.answer("node1")
            self.clock.advance(5)
        self.assertEqual(self.of_node1(), [])

    def test_silence(self) -> None:
        """No answer in time is a failure; one that comes later counts for nothing."""
        self.clock.advance(3)
        _, late = self.last("node1")
        self.clock.advance(1)
        self.assertEqual(self.count("node1"), 2)
        late.request_failed(None, None, "late")
        self.clock.advance(3)
        self.assertFalse(self.checks.up("node1"))
        self.assertIn("within 3 s", self.state("node1")["reason"])

    def test_answers(self) -> None:
        """A machine that is there but does not want to work is down; any other answer is alive."""
        for status in (200, 403, 404, 405, 481, 501):
            self.answer("node1", status)
            self.clock.advance(5)
        self.assertEqual(self.of_node1(), [])
        for status in (503, 500):
            self.answer("node1", 100)
            self.answer("node1", status)
            self.clock.advance(1)
        self.assertEqual(self.of_node1(), [False])

    def test_suspicion(self) -> None:
        """A lost connection has it asked at once, but not twice at a time."""
        self.answer("node1")
        self.checks.suspect("node1")
        self.checks.suspect("node1")
        self.assertEqual(self.count("node1"), 2)
        self.break_("node1")
        self.clock.advance(1)
        self.break_("node1")
        self.assertFalse(self.checks.up("node1"))

    def test_heard(self) -> None:
        """What a machine sends of its own counts as an answer while it is down, else as nothing."""
        self.break_("node1")
        self.clock.advance(1)
        self.break_("node1")
        self.checks.heard("node1")
        self.checks.heard("node1")
        self.checks.heard("node1")
        self.assertEqual(self.of_node1(), [False, True])
        self.clock.advance(5)
        self.break_("node1")
        self.checks.heard("node1")
        self.clock.advance(1)
        self.break_("node1")
        self.assertEqual(self.of_node1(), [False, True, False])

    def test_stop(self) -> None:
        """Nobody is asked any more, and what still comes changes nothing."""
        self.answer("node1")
        self.checks.stop()
        self.checks.suspect("node1")
        self.clock.advance(60)
        self.break_("node2")
        self.assertEqual((len(self.asked), self.changes), (2, []))
