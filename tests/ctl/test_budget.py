"""``impfedctl budget`` and the budget's line in ``explain``."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from impfed.ctl import budget as words
from impfed.ctl.api import ControlError
from impfed.ctl.main import _parser
from impfed.ctl.operations import Operations
from impfed.gateway.budgets import Budgets
from impfed.gateway.explain import Explainer
from impfed.gateway.paced import PacedStack
from impfed.gateway.people import People
from impfed.policy.peers import PeerPolicy
from tests.ctl.test_operations import FOREIGN, LOCAL, story
from tests.gateway.harness import CONFIG
from tests.gateway.policy_world import PolicyWorld


class PacedPolicyWorld(PolicyWorld):
    """A node with the budgets that hold by default."""

    def make_stack(self, peers, timers):
        self.paced = PacedStack(self.stack, peers.domain, self.store, timers, self.metrics)
        self.budgets = Budgets(self.paced, peers.domain, timers.seconds)
        return self.paced


class BudgetCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = world = PacedPolicyWorld(CONFIG)
        peers = PeerPolicy(CONFIG.domains)
        explainer = Explainer(world.around, peers, world.im, world.presence, story, world.budgets)
        local = CONFIG.local_domains
        people = People(world.im, world.presence, world.store, local)
        self.operations = Operations(explainer, people, world.presence, local, world.budgets)

    def ask(self, *words: str) -> list[dict[str, Any]]:
        answer = self.operations.perform(words[0], words[1:])
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def writes(self, to: str, status: int, **answer: Any) -> None:
        """Alice writes to somebody; the far side answers her INVITE."""
        self.world.alice_writes("hello", to=to)
        self.world.stack.take("INVITE").answer(status, **answer)
        self.world.clock.advance(1)


class CommandTests(BudgetCase):
    def test_nothing_sent_yet(self) -> None:
        """Before anything was sent there is nothing to show, but for a domain that one names."""
        self.assertEqual(self.ask("budget"), [])
        (item,) = self.ask("budget", "Lync.Example")
        self.assertEqual((item["domain"], item["rate_limit"]), ("lync.example", 18.0))
        (item,) = self.ask("budget", "simple.example")
        self.assertEqual((item["rate_limit"], item["address_limit"]), ("no limit", "no limit"))

    def test_unknown_users(self) -> None:
        """Users who do not exist are listed, and asked for again one by one or together."""
        for name in ("a", "b", "c"):
            self.writes(f"{name}@lync.example", 404)
        users = [item["user"] for item in self.ask("budget", "lync.example", "unknown")]
        self.assertEqual(users, ["a@lync.example", "b@lync.example", "c@lync.example"])
        forget = ("budget", "lync.example", "forget")
        self.assertEqual(self.ask(*forget, "A@lync.example")[0]["forgotten"], 1)
        self.assertEqual(self.ask(*forget)[0]["forgotten"], 2)
        self.assertEqual(self.ask("budget", "lync.example", "unknown"), [])

    def test_pauses(self) -> None:
        """A pause is shown with its end, and ended by the operator."""
        self.writes(FOREIGN, 503, headers=[("Retry-After", "60")])
        (item,) = self.ask("budget")
        self.assertEqual([each["hop"] for each in item["pauses"]], ["tls:sip.lync.example:5061"])
        self.assertIn("asked for one until", words.words([item]))
        self.assertEqual(self.ask("budget", "lync.example", "resume")[0]["resumed"], 1)
        self.assertEqual(self.ask("budget")[0]["pauses"], [])

    def test_nonsense(self) -> None:
        """A domain that is none of ours and an action that does not exist are refused in words."""
        for arguments, problem in (
            (("else.example",), "is no domain that this node federates with"),
            (("lync.example", "burn"), "usage: budget"),
            (("lync.example", "resume", "now"), "usage: budget"),
        ):
            with self.assertRaises(ControlError) as caught:
                self.ask("budget", *arguments)
            self.assertIn(problem, str(caught.exception))

    def test_command_line(self) -> None:
        """The client takes the command with and without a domain."""
        for line in (["budget"], ["budget", "x.example"], ["budget", "x.example", "forget"]):
            self.assertEqual(_parser().parse_args(line).arguments, line[1:])


class WordsTests(BudgetCase):
    def test_domain(self) -> None:
        """The words name every limit, what waits, and what to do about it."""
        for number in range(30):
            self.world.alice_writes("x", to=f"u{number}@lync.example")
        for sent in list(self.world.stack.sent):
            sent.answer(404)
        self.world.clock.advance(0.0)
        text = words.words(self.ask("budget", "lync.example"))
        for expected in (
            r"lync\.example\n",
            r"requests a second  [\d.]+ of 18\n",
            r"waiting            im 28 \(without a break since",
            r"addresses          30 of 1000",
            r"failures           100\.0% of",
            r"unknown users      2 not asked for",
            r"advice             ask the administrator of lync\.example",
        ):
            self.assertTrue(re.search(expected, text), f"{expected} in\n{text}")

    def test_slowed_down(self) -> None:
        """A domain that is slowed down says from what, and since when."""
        for number in range(20):
            self.writes(f"u{number}@lync.example", 404)
        text = words.words(self.ask("budget"))
        self.assertIn("of 1.8; slowed down from 18.0 since 20", text)

    def test_other_answers(self) -> None:
        """Each form of the command has words, and an empty answer, too."""
        self.assertEqual(words.words([]), "nothing\n")
        self.assertIn("2 unknown", words.words([{"domain": "x", "forgotten": 2}]))
        self.assertIn("1 pauses", words.words([{"domain": "x", "resumed": 1}]))
        self.assertIn("\\x1b", words.words([{"user": "\x1b[2J", "not_asked_until": 0.0}]))


class ExplainTests(BudgetCase):
    def line(self, about: str) -> dict[str, Any]:
        lines = self.ask("explain", LOCAL, FOREIGN)
        (found,) = [x for x in lines if x["step"] == "budget" and x["about"] == about]
        return found

    def outcome(self, about: str) -> str:
        lines = self.ask("explain", LOCAL, FOREIGN)
        (found,) = [x for x in lines if x["step"] == "outcome" and x["about"] == about]
        return str(found["result"])

    def test_passed(self) -> None:
        """Without trouble the budget is named and nothing is used of it."""
        self.assertEqual(self.line("message")["result"], "passed")
        self.assertIn("0.0 of 18 requests a second, 0 of 1000", self.line("subscription")["why"])
        self.assertEqual(self.ask("budget"), [])

    def test_waits(self) -> None:
        """While requests wait it says for how long."""
        for number in range(20):
            self.world.alice_writes("x", to=f"u{number}@lync.example")
        self.assertEqual(self.line("message")["result"], "waits")
        self.assertIn("about 1 s", self.line("message")["why"])

    def test_unknown_user(self) -> None:
        """A user whom the partner does not know gets no message."""
        self.writes(FOREIGN, 404)
        self.assertEqual(self.line("message")["result"], "answered with 404")
        self.assertEqual(self.outcome("message"), "returned with an error")
        self.assertEqual(self.outcome("subscription"), "tried again later")
