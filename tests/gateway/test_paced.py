"""Every request of the gateway within its partner's budget: what goes, waits, and comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import BudgetConfig
from impfed.core.errors import LocalError
from impfed.gateway.budgets import Budgets
from impfed.gateway.paced import PacedStack
from impfed.sip.message import OutgoingRequest
from impfed.sip.target import Hop
from impfed.sip.transaction import FailureCause
from impfed.store.records import PauseRecord
from impfed.testing.fakes import FakeFlow
from tests.gateway.harness import CONFIG, START, World
from tests.gateway.presence_world import PresenceWorld

HOP = Hop("tls", "sip.lync.example", 5061)
SPARE = Hop("tls", "sip2.lync.example", 5061)


def config(**budget):
    """The usual configuration with a budget for lync.example."""
    domains = (replace(CONFIG.domains[0], budget=BudgetConfig(**budget)), CONFIG.domains[1])
    return replace(CONFIG, domains=domains)


class Paced:
    """Mixed into a world: requests pass the budgets."""

    def make_stack(self, peers, timers):
        self.paced = PacedStack(self.stack, peers.domain, self.store, timers, self.metrics)
        self.budgets = Budgets(self.paced, peers.domain, timers.seconds)
        return self.paced


class PacedWorld(Paced, World):
    """Texts both ways."""


class PacedPresenceWorld(Paced, PresenceWorld):
    """Presence both ways."""


class Asker:
    """Whoever wants a request sent; notes what comes of it."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.failures: list[tuple[Any, FailureCause, str]] = []

    def response_arrived(self, transaction, response) -> None:
        self.answers.append(response)

    def request_failed(self, transaction, cause, text) -> None:
        self.failures.append((transaction, cause, text))


class PacedCase(SynchronousTestCase):
    budget: dict[str, Any] = {"rate": 10, "burst": 1}

    def setUp(self) -> None:
        self.world = PacedWorld(config(**self.budget))
        self.stack, self.clock, self.paced = self.world.stack, self.world.clock, self.world.paced
        self.numbers = iter(range(1, 10**6))

    def ask(
        self, method="INVITE", to="romeo", user="alice", call_id="", tag="", hop=HOP, headers=()
    ):
        """Have a request sent; returns its handle and whom it concerns."""
        number = next(self.numbers)
        call_id = call_id or f"c{number}"
        lines = [
            ("Max-Forwards", "70"),
            ("From", f"<sip:{user}@home.example>;tag=a"),
            ("To", f"<sip:{to}@lync.example>" + (f";tag={tag}" if tag else "")),
            ("Call-ID", call_id),
            ("CSeq", f"{number} {method}"),
            *headers,
        ]
        asker = Asker()
        request = OutgoingRequest(
            method, f"sip:{to}@lync.example", lines, cseq=number, call_id=call_id
        )
        return self.paced.request(request, hop, asker), asker

    def sent(self) -> list[str]:
        """Take what was sent, by method."""
        found = [each.method for each in self.stack.sent]
        self.stack.sent.clear()
        return found

    def status(self) -> dict[str, Any]:
        (found,) = self.world.budgets.status("lync.example")
        return found


class OrderTests(PacedCase):
    def test_waits_its_turn(self) -> None:
        """What the budget does not allow now goes later, the most urgent first."""
        for method in ("SUBSCRIBE", "SUBSCRIBE", "NOTIFY", "UPDATE", "MESSAGE"):
            self.ask(method)
        self.assertEqual(self.sent(), ["SUBSCRIBE"])
        self.assertEqual(
            self.status()["waiting"], {"im": 1, "dialog": 1, "notify": 1, "subscribe": 1}
        )
        self.clock.pump([0.1001] * 4)
        self.assertEqual(self.sent(), ["MESSAGE", "UPDATE", "NOTIFY", "SUBSCRIBE"])
        self.assertEqual(self.world.metrics.value("budget.waiting"), 0)

    def test_nobody_overtakes(self) -> None:
        """While something waits a new request waits behind it, even if the budget has recovered."""
        self.ask("SUBSCRIBE")
        self.ask("SUBSCRIBE", "one")
        self.clock.rightNow += 0.5  # the reactor is late with our timer
        self.ask("SUBSCRIBE", "two")
        self.assertEqual(len(self.sent()), 1)
        self.clock.advance(0.0)
        self.clock.advance(0.2)
        self.assertEqual([each.message.uri.user for each in self.stack.sent], ["one", "two"])

    def test_answers_and_handles(self) -> None:
        """Whoever asked gets the answers of what was sent at once, and of what has waited."""
        (_, one), (waiting, two) = self.ask(), self.ask()
        self.assertIsNone(waiting.transaction)
        self.stack.take("INVITE").answer(180)
        self.clock.advance(0.2)
        self.stack.take("INVITE").answer(200)
        self.assertEqual([each.status for each in one.answers], [180])
        self.assertEqual([each.status for each in two.answers], [200])
        self.assertIsNotNone(waiting.transaction)

    def test_other_domain(self) -> None:
        """A domain without a budget does not wait for one that has used up its own."""
        self.ask(), self.ask()
        asker = Asker()
        lines = [("To", "<sip:b@simple.example>"), ("From", "<sip:a@home.example>;tag=a")]
        request = OutgoingRequest("MESSAGE", "sip:b@simple.example", lines, call_id="x", cseq=1)
        self.sent()
        for _ in range(100):
            self.paced.request(request, HOP, asker)
        self.assertEqual(len(self.sent()), 100)

    def test_nothing_else_waits(self) -> None:
        """Answers, ACK and CANCEL do not pass the budget at all."""
        handle, _ = self.ask()
        self.ask()
        self.paced.cancel(handle)
        self.assertTrue(self.stack._all[id(handle.transaction)].cancelled)
        self.assertEqual(self.paced.acknowledge, self.stack.acknowledge)
        self.assertEqual(self.paced.respond, self.stack.respond)

    def test_called_off(self) -> None:
        """A request that is called off while it waits is never sent, and fails once."""
        self.ask()
        handle, asker = self.ask()
        self.paced.cancel(handle)
        self.paced.cancel(handle)
        self.assertEqual(asker.failures, [], "not before the caller has its hands free")
        self.clock.advance(1)
        self.assertEqual(len(asker.failures), 1)
        self.assertFalse(self.paced.maybe_delivered(asker.failures[0][0]))
        self.assertEqual(self.sent(), ["INVITE"])

    def test_withdrawn(self) -> None:
        """What waits of one dialog is taken out without a word; the rest waits on."""
        self.ask()
        _, gone = self.ask("NOTIFY", call_id="moved", tag="x")
        self.ask("NOTIFY", call_id="stays", tag="x")
        self.assertEqual(self.paced.withdraw("lync.example", "moved"), 1)
        self.assertEqual(self.paced.withdraw("lync.example", "moved"), 0)
        self.assertEqual(self.paced.withdraw("nobody.example", "moved"), 0)
        self.clock.advance(1)
        self.assertEqual([each.message.call_id for each in self.stack.sent[1:]], ["stays"])
        self.assertEqual((gone.answers, gone.failures), ([], []))

    def test_aside(self) -> None:
        """A node that may not act any more sends nothing that has waited."""
        self.ask()
        _, waited = self.ask("NOTIFY", tag="x")
        self.paced.may_act = lambda: False
        self.clock.advance(1)
        self.assertEqual(self.sent(), ["INVITE"])
        self.assertEqual([cause for _, cause, _ in waited.failures], [FailureCause.ASIDE])

    def test_typing_does_not_wait(self) -> None:
        """A typing notice that could not go at once does not go at all."""
        typing = (("Content-Type", "application/im-iscomposing+xml"),)
        self.ask()
        _, one = self.ask("INFO", tag="x")
        _, two = self.ask("MESSAGE", tag="x", headers=typing)
        self.clock.advance(5)
        self.assertEqual(self.sent(), ["INVITE"])
        self.assertEqual([len(one.failures), len(two.failures)], [1, 1])

    def test_unsendable(self) -> None:
        """A request that turns out to be malformed when its turn comes fails, and the next goes on."""
        self.ask()
        _, bad = self.ask(headers=(("X", "a\r\nb"),))
        self.ask("NOTIFY")
        self.assertRaises(LocalError, self.stack.request, bad_request(), HOP, bad)
        self.clock.pump([0.11] * 3)
        self.flushLoggedErrors()
        self.assertEqual(bad.failures[0][1], FailureCause.TRANSPORT)
        self.assertEqual(self.sent(), ["INVITE", "NOTIFY"])

    def test_stop(self) -> None:
        """A node that stops sends nothing that waited."""
        self.ask(), self.ask()
        self.paced.stop()
        self.clock.advance(10)
        self.assertEqual(len(self.sent()), 1)


def bad_request() -> OutgoingRequest:
    return OutgoingRequest("INVITE", "sip:a@b", [("X", "a\r\nb")])


class OverflowTests(PacedCase):
    budget = {"rate": 1, "burst": 1}

    def test_too_many(self) -> None:
        """What would wait too long fails soon, with words, and is counted and shown."""
        askers = [self.ask(user=f"u{number}")[1] for number in range(40)]
        self.clock.advance(0.0)
        failed = [asker for asker in askers if asker.failures]
        self.assertEqual(len(failed), 9)
        self.assertIs(failed[0].failures[0][1], FailureCause.OVERLOAD)
        self.assertIn("about 31 s", failed[0].failures[0][2])
        self.assertEqual(self.status()["not_sent"], 9)
        self.assertEqual(self.status()["waiting"]["im"], 30)
        self.assertIn("listed = true", self.status()["advice"])

    def test_waited_too_long(self) -> None:
        """What more urgent requests have pushed back for too long fails when its time is over."""
        self.ask("MESSAGE")
        _, patient = self.ask("NOTIFY")
        for _ in range(130):
            self.ask("MESSAGE", user=f"u{next(self.numbers)}")
            self.clock.advance(1)
        self.assertEqual([cause for _, cause, _ in patient.failures], [FailureCause.OVERLOAD])
        self.assertNotIn("NOTIFY", self.sent())


class LearningTests(PacedCase):
    budget = {"rate": None, "addresses": 3}

    def test_unknown_user(self) -> None:
        """Who is not known there is answered for by us, in the partner's words, for a while."""
        self.ask("INVITE", "nobody")
        self.stack.take("INVITE").answer(404)
        handle, again = self.ask("SUBSCRIBE", "nobody")
        self.assertEqual((self.sent(), again.answers), ([], []))
        self.clock.advance(60)
        (answer,) = again.answers
        self.assertEqual((answer.status, answer.cseq.method), (404, "SUBSCRIBE"))
        self.assertIn("was not asked again", answer.get("warning"))
        self.assertFalse(self.paced.maybe_delivered(handle))
        self.assertEqual(self.status()["unknown_users"], 1)
        self.clock.advance(600)
        self.ask("INVITE", "nobody")
        self.assertEqual(self.sent(), ["INVITE"])

    def test_unknown_user_cleared(self) -> None:
        """The operator has him asked for again, and so does a request that reaches him."""
        self.ask("INVITE", "nobody")
        self.stack.take("INVITE").answer(404)
        self.assertEqual(
            self.world.budgets.forget_unknown("lync.example", "NoBody@lync.example"), 1
        )
        self.ask("INVITE", "nobody")
        self.stack.take("INVITE").answer(404)
        self.ask("MESSAGE", "nobody", tag="x")
        self.stack.take("MESSAGE").answer(200)
        self.ask("INVITE", "nobody")
        self.assertEqual(self.sent(), ["INVITE"])

    def test_404_inside_a_dialog(self) -> None:
        """A dialog that is gone tells nothing of the user."""
        self.ask("MESSAGE", tag="x")
        self.stack.take("MESSAGE").answer(404)
        self.ask("INVITE")
        self.assertEqual(self.sent(), ["INVITE"])

    def test_addresses(self) -> None:
        """Beyond the addresses of a day only those already counted, and dialogs, go on."""
        for to in ("a", "b", "c", "a"):
            self.ask("INVITE", to)
        _, asker = self.ask("INVITE", "d")
        self.ask("MESSAGE", "d", tag="x")
        self.clock.advance(0.0)
        self.assertEqual(self.sent(), ["INVITE"] * 4 + ["MESSAGE"])
        ((_, cause, words),) = asker.failures
        self.assertIs(cause, FailureCause.OVERLOAD)
        self.assertIn("3 different people", words)
        self.assertEqual(self.status()["addresses"], 3)

    def test_display_names(self) -> None:
        """A display name that looks like an address hides nobody."""
        lines = [("To", '"x> <sip:a@lync.example>" <sip:b@simple.example>')]
        self.paced.request(OutgoingRequest("INVITE", "sip:b", lines, cseq=1), HOP, Asker())
        self.assertEqual(list(self.paced.lanes), ["simple.example"])


class PauseTests(PacedCase):
    budget = {"rate": None}

    def asked_for_pause(self, seconds=120, hop=HOP) -> None:
        self.ask(hop=hop)
        self.stack.take("INVITE").answer(503, headers=[("Retry-After", f"{seconds} (busy)")])

    def test_retry_after(self) -> None:
        """A hop that asks for a pause gets it; other hops, and later requests, are not held."""
        self.asked_for_pause()
        _, asker = self.ask()
        self.ask(hop=SPARE)
        self.clock.advance(1)
        self.assertEqual(self.sent(), ["INVITE"])
        ((_, cause, words),) = asker.failures
        self.assertIs(cause, FailureCause.PAUSED)
        self.assertIn("tls:sip.lync.example:5061 asked us to send nothing for 120 s more", words)
        self.assertEqual(len(self.status()["pauses"]), 1)
        self.clock.advance(120)
        self.ask()
        self.assertEqual(self.sent(), ["INVITE"])

    def test_survives(self) -> None:
        """A pause outlives the process, and is forgotten when the hop serves again."""
        self.asked_for_pause()
        fresh = PacedWorld(config(rate=None), self.world.store)
        fresh.paced.load()
        self.paced, self.stack, self.clock = fresh.paced, fresh.stack, fresh.clock
        self.ask()
        self.assertEqual(self.sent(), [])
        self.clock.advance(121)
        self.ask()
        self.stack.take("INVITE").answer(480)
        self.assertEqual(self.successResultOf(self.world.store.load(PauseRecord)), [])

    def test_operator_ends_it(self) -> None:
        """The operator knows better: a pause ends by his word, in the store, too."""
        self.asked_for_pause()
        self.assertEqual(self.world.budgets.end_pauses("lync.example"), 1)
        self.ask()
        self.assertEqual(self.sent(), ["INVITE"])
        self.assertEqual(self.successResultOf(self.world.store.load(PauseRecord)), [])

    def test_by_the_peers_connection(self) -> None:
        """What goes over a connection of the peer's is paused by its address."""
        flow = FakeFlow()
        self.asked_for_pause(hop=flow)
        _, asker = self.ask(hop=FakeFlow(remote=("192.0.2.10", 1234)))
        self.clock.advance(0.0)
        self.assertEqual(len(asker.failures), 1)


class GuardTests(PacedCase):
    budget = {"rate": 100, "burst": 50}

    def test_slows_down(self) -> None:
        """Guessing addresses slows us down before the partner does, and the status says why."""
        for number in range(25):
            self.ask("INVITE", f"guess{number}")
        for sent in list(self.stack.sent):
            sent.answer(404)
        self.sent()
        status = self.status()
        self.assertEqual((status["rate_now"], status["rate_limit"]), (10.0, 100))
        self.assertEqual(status["failure_ratio"], 1.0)
        self.assertEqual(status["slowed_since"], START)
        self.assertIn("100 % of our requests failed", status["advice"])
        for number in range(30):
            self.ask("INVITE", f"more{number}", user=f"u{number}")
        self.clock.pump([0.1001] * 10)
        self.assertLessEqual(len(self.sent()), 11)
