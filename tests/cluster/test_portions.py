"""A partner's budget among three nodes on a clock."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.portions import Demands, Portions
from impfed.cluster.shares import Demand
from tests.cluster.kit import Cluster, Node


class PortionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.cluster = Cluster("n1", "n2", "n3")
        self.cluster.run(3.0)
        self.nodes = dict(self.cluster.nodes)
        self.demand = dict.fromkeys(self.nodes, Demand(0.0))
        self.parts: dict[str, float] = {}
        self.sums: list[float] = []
        for node in self.nodes.values():
            self.portions(node).start()
        self.cluster.run(1.5)

    def portions(self, node: Node) -> Portions:
        def demands() -> Demands:
            return {"lync.example": (18.0, self.demand[node.name])}

        def apply(name: str) -> Callable[[str, float], None]:
            def part(domain: str, part: float) -> None:
                self.parts[name] = part
                self.sums.append(sum(self.parts.values()))

            return part

        return Portions(
            node.clock, node.service, demands, apply(node.name), node.clock.seconds
        )  # fmt: skip

    def test_idle(self) -> None:
        """Without demand everybody has the small even part."""
        for part in self.parts.values():
            self.assertAlmostEqual(part, 0.25 / 3)

    def test_one_busy(self) -> None:
        """Who has something to send gets what the others do not need, within two seconds."""
        self.demand["n2"] = Demand(1.0, 100)
        self.cluster.run(2.0)
        self.assertAlmostEqual(self.parts["n2"], 0.25 / 3 + 0.75)

    def test_never_more_than_all(self) -> None:
        """While demand wanders the parts never add up to more than the budget."""
        self.sums.clear()
        for busy in ("n1", "n2", "n3", "n1"):
            self.demand = dict.fromkeys(self.nodes, Demand(0.0)) | {busy: Demand(10.0, 500)}
            self.cluster.run(4.3)
        self.assertLessEqual(max(self.sums), 1.0 + 1e-9)
        self.assertAlmostEqual(self.parts["n1"], 0.25 / 3 + 0.75)

    def test_store_away(self) -> None:
        """Without the store everybody comes to an even third, and never to more together."""
        self.demand["n2"] = Demand(1.0, 100)
        self.cluster.run(3.0)
        self.sums.clear()
        for node in self.nodes.values():
            node.link.cut()
        self.cluster.run(10.0)
        self.assertLessEqual(max(self.sums), 1.0 + 1e-9)
        for part in self.parts.values():
            self.assertAlmostEqual(part, 1 / 3)
