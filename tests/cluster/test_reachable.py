"""Which other nodes requests are passed on to: those whose heartbeat is heard, at once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster_setup import reachable
from impfed.config.model import NeighbourConfig
from impfed.routing.neighbours import Neighbours
from impfed.sip.target import Hop
from tests.cluster.kit import Cluster


class ReachableTests(SynchronousTestCase):
    """Node n1 looks at n2, and at another cluster's node."""

    def setUp(self) -> None:
        self.cluster = Cluster("n1", "n2")
        self.cluster.run(3.0)
        configs = [
            NeighbourConfig("n2", (), "10.0.0.2", 5062, "n2.company.example"),
            NeighbourConfig("other", ("works.example",), "10.1.0.1", 5062, "other.company.example"),
        ]
        self.neighbours = Neighbours(configs)
        self.answers = True
        self.forgiven: list[str] = []
        self.neighbours.up = lambda hop: self.answers
        service = self.cluster.nodes["n1"].service
        self.neighbours.up = reachable(service, self.neighbours, self._try_again)

    def _try_again(self, hop: Hop) -> None:
        self.forgiven.append(hop.host)

    def ways(self, name: str) -> int:
        """Return how many ways to a node there are."""
        (hop,) = self.neighbours.all_ways(name)
        return len(self.neighbours.ways(hop))

    def test_lives(self) -> None:
        """To a node that lives is connected at once, whatever has failed, and whatever it has answered."""
        for answers in (True, False):
            self.answers = answers
            self.assertEqual(self.ways("n2"), 1)
        self.assertEqual(self.forgiven, ["10.0.0.2", "10.0.0.2"])

    def test_silent(self) -> None:
        """One whose heartbeat is not heard is reached if it answers, and not pressed."""
        self.cluster.nodes["n2"].kill()
        self.cluster.run(3.0)
        self.assertEqual(self.ways("n2"), 1)
        self.answers = False
        self.assertEqual(self.ways("n2"), 0)
        self.assertEqual(self.forgiven, [])

    def test_of_another_cluster(self) -> None:
        """What a node of another cluster answers is all that is known of it."""
        self.assertEqual(self.ways("other"), 1)
        self.answers = False
        self.assertEqual(self.ways("other"), 0)
        self.assertEqual(self.forgiven, [])
