"""A partner's budget that three real nodes share while they come and go: what the partner sees of it."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from demo.node import Node
from demo.parts import wait_until
from tests.interop.cluster import NAMES, Cluster, ClusterNode
from tests.interop.cluster_load import Load

#: Requests a second that the partner bears of all nodes together, and at once after a pause.
RATE, BURST = 8, 2
#: Seconds over which is counted, and requests that the network may have shifted into them.
WINDOW, SHIFTED = 5.0, 3
KIND = 'kind = "microsoft"'


class BoundedCluster(Cluster):
    """The cluster, with a partner that bears little."""

    def _node(self, name: str, port: int) -> Node:
        node = super()._node(name, port)
        assert isinstance(node, ClusterNode)
        node.places[KIND] += f"\nbudget = {{ rate = {RATE}, burst = {BURST} }}"
        return node


class BudgetTests(SynchronousTestCase):
    timeout = 900

    def setUp(self) -> None:
        self.scene = BoundedCluster("cluster-budget", standing=20)
        self.addCleanup(self.scene.stop)
        self.scene.start()

    def flows(self, seconds: float) -> None:
        """Let texts flow for some time."""
        end = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > end, seconds + 5)

    def times(self, since: int) -> list[float]:
        """Return when requests of ours reached the partner, those that count."""
        found = self.scene.far.seen(since, event="wire", direction="received")
        methods = [(each["at"], each["text"].partition(" ")[0]) for each in found]
        print(Counter(method for _, method in methods), flush=True)
        uncounted = ("ACK", "CANCEL", "NEGOTIATE")
        return sorted(at for at, method in methods if not method.startswith(("SIP/", *uncounted)))

    def test_shared(self) -> None:
        """All nodes together keep to the rate while one drains and one dies; no text is lost, order is kept."""
        since, (first, second, _) = self.scene.far.position, NAMES
        load = Load(self.scene, 4.0)
        try:
            self.flows(5)
            self.scene.control(first, "drain")
            self.flows(3)
            self.scene.control(first, "drain", "stop")
            self.scene.settle(60)
            self.flows(3)
            self.scene.kill(second)
            self.scene.settle(30, [name for name in NAMES if name != second])
            self.flows(3)
            self.scene.nodes[second].start()
            self.scene.settle(60)
            self.flows(3)
        finally:
            history = load.end(120.0)
        times = self.times(since)
        seconds = times[-1] - times[0]
        most = max(sum(start <= at < start + WINDOW for at in times) for start in times)
        gap = max(later - earlier for earlier, later in pairwise(times))
        print(f"\n{history}; {len(times)} requests in {seconds:.0f} s, {most} in the worst {WINDOW:.0f} s,"
              f" longest pause {gap:.1f} s", flush=True)  # fmt: skip
        self.assertLessEqual(most, RATE * WINDOW + BURST + SHIFTED)
        self.assertGreater(len(times), RATE * seconds * 0.3)
        self.assertEqual((history.lost, history.disordered, history.changed), ([], [], []))
        told = [why for body, why in history.refused.items() if body.endswith("out")]
        self.assertTrue(all(why.startswith("resource-constraint ") for why in told), str(history))
