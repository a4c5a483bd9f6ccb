"""What a node passes on to a partner counts against the partner's budget, like what it sends itself."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from impfed.config.model import BudgetConfig, SipDomainConfig
from impfed.gateway.budgets import Budgets
from impfed.gateway.paced import PacedStack
from impfed.proxy.values import Target
from impfed.store.memory import MemoryStore
from tests.proxy.test_agent import AgentCase
from tests.transport.sip_kit import answer_to, request_bytes

RATE = 2


class PacedCase(AgentCase):
    """A proxy and the budget of one partner."""

    rate: int | None = RATE

    def setUp(self) -> None:
        super().setUp()
        domain = SipDomainConfig("home.example", budget=BudgetConfig(rate=self.rate, burst=1))
        store = MemoryStore()
        self.assertIsInstance(store.start(), Deferred)
        timers = self.memory.stack.timers
        self.paced = PacedStack(
            self.memory.stack, {domain.name: domain}.get, store, timers, self.memory.metrics
        )
        self.budgets = Budgets(self.paced, {domain.name: domain}.get, timers.seconds)
        self.agent.pacer = self.paced

    def locate(self, question, done) -> None:
        bounded = self.paced.bounded("home.example")
        done(self.decision or [Target(self.legs(), lasting=not bounded, partner=bounded)])

    def sends(self, number: int, method: str = "MESSAGE", **options) -> None:
        """Let the caller send a request of its own dialog."""
        data = request_bytes(
            method, transport="TCP", branch=f"z9hG4bK{number}", call_id=f"call-{number}", cseq=number,
            **options,
        )  # fmt: skip
        self.memory.receive(self.caller, data)
        self.memory.turn()

    def turn_comes(self) -> None:
        """Let the time pass in which the budget allows one request."""
        self.memory.turn(1.0 / RATE + 0.001)
        self.memory.turn()


class PacedProxyTests(PacedCase):
    """Requests wait their turn, are refused in time, and teach the budget what was answered."""

    def test_waits_its_turn(self) -> None:
        """What the budget does not allow now goes later, texts before subscriptions."""
        hop = self.call(request_bytes(transport="TCP"))
        hop.clear()
        self.sends(1, "SUBSCRIBE")
        self.sends(2)
        self.assertEqual(hop.take(), b"")
        self.turn_comes()
        self.assertTrue(hop.take().startswith(b"MESSAGE "))
        self.turn_comes()
        sent = hop.take()
        self.assertTrue(sent.startswith(b"SUBSCRIBE "))
        self.assertIn(b"call-1", self.reply(hop, sent, "200 OK"))
        (line,) = self.budgets.status("home.example")
        self.assertEqual(set(line["waiting"].values()), {0})
        self.assertEqual(self.memory.metrics.value("budget.forwarded"), 3)

    def test_overflow(self) -> None:
        """What would wait longer than its sender does is answered at once with 500, never 503."""
        self.call(request_bytes(transport="TCP"))
        for number in range(80):
            self.sends(number + 1, "SUBSCRIBE")
        answers = self.heard().split(b"SIP/2.0 ")[1:]
        self.assertEqual({answer[:3] for answer in answers}, {b"500"})
        self.assertEqual(len(answers), 80 - 25 * RATE)

    def test_nobody_waits_any_more(self) -> None:
        """One whose sender has given up by now is not sent."""
        hop = self.call(request_bytes(transport="TCP"))
        hop.clear()
        for number in range(40):
            self.sends(number + 1, "SUBSCRIBE")
        self.memory.turn(30.0)
        for _ in range(40):
            self.turn_comes()
        self.assertEqual(hop.take().count(b"SUBSCRIBE sip:"), 0)
        self.assertIn(b"SIP/2.0 500", self.heard())
        self.assertEqual(self.memory.metrics.value("budget.expired"), 40)

    def test_cancelled_while_it_waits(self) -> None:
        """An INVITE that waits and is cancelled is never sent: 487."""
        hop = self.call(request_bytes(transport="TCP"))
        hop.clear()
        self.sends(1, "INVITE", body=b"")
        self.sends(1, "CANCEL", body=b"")
        self.memory.turn()
        self.assertIn(b"SIP/2.0 487", self.heard())
        self.memory.turn(5.0)
        self.assertEqual(hop.take(), b"")

    def test_unknown_user(self) -> None:
        """A user whom the partner has just not known is not asked for again: 404."""
        hop = self.call(request_bytes(transport="TCP"))
        self.reply(hop, hop.take(), "404 Not Found")
        self.memory.turn(5.0)
        self.sends(1)
        self.memory.turn()
        self.assertTrue(self.heard().startswith(b"SIP/2.0 404"))
        self.assertEqual(hop.take(), b"")

    def test_pause(self) -> None:
        """A partner that asks for a pause gets it; what is for it is answered with 500."""
        hop = self.call(request_bytes(transport="TCP"))
        answer = answer_to(hop.take(), "503 Busy").replace(
            b"\r\n\r\n", b"\r\nRetry-After: 60\r\n\r\n"
        )
        self.memory.receive(hop, answer)
        self.assertTrue(self.heard().startswith(b"SIP/2.0 500"))
        self.memory.turn(5.0)
        self.sends(1)
        self.memory.turn()
        self.assertTrue(self.heard().startswith(b"SIP/2.0 500"))
        self.assertEqual(hop.take(), b"")


class UnboundedTests(PacedCase):
    """A partner without a budget: nothing waits, and nothing is asked of the budget."""

    rate = None

    def test_waits_its_turn(self) -> None:
        """Everything goes at once, without passing the budget."""
        hop = self.call(request_bytes(transport="TCP"))
        for number in range(20):
            self.sends(number + 1)
        self.assertEqual(hop.take().count(b"MESSAGE sip:"), 21)
        self.assertEqual(self.memory.metrics.value("budget.forwarded"), 0)
