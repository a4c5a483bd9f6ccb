"""A partner's budget that three nodes share: what they send together, and how soon."""

from __future__ import annotations

from itertools import count
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster_setup import divide
from impfed.core.metrics import Metrics
from impfed.gateway.budgets import Budgets
from impfed.gateway.paced import PacedStack
from impfed.sip.message import OutgoingRequest
from impfed.sip.target import Hop
from impfed.store.memory import MemoryStore
from impfed.testing.fakes import FakeStack
from impfed.transport.timers import ReactorTimers
from tests.cluster.kit import Cluster, Node
from tests.gateway.test_paced import Asker

PARTNER = "lync.example"
HOP = Hop("tls", f"sip.{PARTNER}", 5061)
#: What a Microsoft partner bears that has merely discovered us, in any second.
BEARS = 20


class _Stack(FakeStack):
    """Notes when something is sent."""

    def __init__(self, node: Node, times: list[float]) -> None:
        super().__init__()
        self._node = node
        self._times = times
        self.count = 0

    def request(self, *arguments: Any) -> Any:
        self._times.append(self._node.clock.seconds())
        self.count += 1
        return super().request(*arguments)


class SharedBudgetTests(SynchronousTestCase):
    """Three nodes that know nothing of the partner but that it is there."""

    def setUp(self) -> None:
        self.cluster = Cluster("n1", "n2", "n3")
        self.cluster.run(3.0)
        self.times: list[float] = []
        self.numbers = count()
        self.paced: dict[str, PacedStack] = {}
        self.stacks: dict[str, _Stack] = {}
        for name, node in self.cluster.nodes.items():
            stack = self.stacks[name] = _Stack(node, self.times)
            paced = self.paced[name] = PacedStack(
                stack, lambda domain: None, MemoryStore(), ReactorTimers(node.clock), Metrics()  # type: ignore[arg-type]
            )  # fmt: skip
            divide(node.clock, node.service, paced, node.clock.seconds).start()
        self.cluster.run(1.0)

    def write(self, name: str, texts: int) -> None:
        """Have a node send so many texts, all to the same people."""
        for _ in range(texts):
            number = next(self.numbers)
            headers = [
                ("From", f"<sip:user{number % 40}@home.example>;tag=a"),
                ("To", f"<sip:friend{number % 20}@{PARTNER}>"),
                ("Call-ID", f"c{number}"),
                ("CSeq", "1 INVITE"),
            ]
            uri = f"sip:friend@{PARTNER}"
            request = OutgoingRequest("INVITE", uri, headers, b"", 1, f"c{number}")
            self.paced[name].request(request, HOP, Asker())

    def run_busy(self, seconds: int, **texts: int) -> None:
        """Let time pass in which each node gets so many texts a second."""
        for _ in range(seconds):
            for name, number in texts.items():
                self.write(name, number)
            self.cluster.run(1.0, 0.01)

    def most(self, seconds: float = 1.0) -> int:
        """Return how many were sent in the worst window of a length."""
        times = sorted(self.times)
        return max(sum(start <= time < start + seconds for time in times) for start in times)

    def test_one_busy(self) -> None:
        """A node that alone has much to send soon has nearly the whole budget, and never more."""
        self.run_busy(20, n1=30)
        self.assertLessEqual(self.most(), BEARS)
        self.assertGreater(len(self.times), 0.7 * 18 * 20)

    def test_all_busy(self) -> None:
        """All together keep to the rate, whoever has how much to send, and each gets on."""
        self.run_busy(25, n1=40, n2=10, n3=1)
        self.assertLessEqual(self.most(), BEARS)
        self.assertLessEqual(self.most(10.0), 18 * 10 + 3)
        self.assertGreater(len(self.times), 0.7 * 18 * 25)
        self.assertGreaterEqual(self.stacks["n3"].count, 20)
        floor = 0.25 / 3 * 17.0 * 25
        self.assertGreater(self.stacks["n2"].count, 0.9 * floor)

    def test_store_away(self) -> None:
        """Without the store each has a third, and all together still keep to the rate."""
        self.run_busy(5, n1=20, n2=20, n3=20)
        for node in self.cluster.nodes.values():
            node.link.cut()
        self.run_busy(5, n1=20, n2=20, n3=20)
        before = [stack.count for stack in self.stacks.values()]
        self.run_busy(15, n1=20, n2=20, n3=20)
        self.assertLessEqual(self.most(), BEARS)
        after = [stack.count for stack in self.stacks.values()]
        for was, now in zip(before, after, strict=True):
            self.assertLess(abs((now - was) / 15.0 - 17.0 / 3), 0.7)

    def test_status(self) -> None:
        """The operator sees which part of the budget is this node's, and addresses are shared evenly."""
        self.run_busy(5, n1=30)
        budgets = Budgets(self.paced["n1"], lambda domain: None, self.cluster.clock.seconds)
        (line,) = budgets.status(PARTNER)
        self.assertGreater(line["share"], 0.7)
        self.assertEqual(line["address_limit"], 333)
        self.assertEqual(line["rate_limit"], 18.0)
