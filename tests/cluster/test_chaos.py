"""Kills, pauses, cuts and lost answers from a seed: one owner at a time, and in the end everything is whole."""

from __future__ import annotations

import os
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.kit import Cluster, Node, pair

PAIRS = range(60)
SEEDS = range(1, 21)


class Chaos:
    """One run.

    :ivar told: what was done, for whoever has to understand a failure.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.cluster = Cluster("n1", "n2", "n3")
        self.told: list[str] = []
        self.cluster.run(3.0)
        for number in PAIRS:
            owner = self.cluster.nodes["n1"].service.owner(pair(number))
            self.cluster.nodes[owner].own(number)
        self.cluster.run(1.0)

    def act(self) -> None:
        """Do one thing to the cluster."""
        nodes = list(self.cluster.nodes.values())
        node, seconds = self.random.choice(nodes), self.random.uniform(0.5, 8.0)
        what = self.random.choice(["kill", "pause", "cut", "cut all", "add", "lose answers"])
        self.told.append(f"{what} {node.name} {seconds:.1f}")
        if what == "kill" and len(nodes) > 1:
            node.kill()
        elif what == "pause":
            node.clock.paused = True
            self.cluster.run(seconds)
            node.clock.wake()
        elif what in ("cut", "cut all"):
            chosen = [node] if what == "cut" else nodes
            for each in chosen:
                each.link.cut()
            self.cluster.run(seconds)
            for each in chosen:
                each.link.heal()
        elif what == "add":
            absent = [name for name in ("n1", "n2", "n3", "n4") if name not in self.cluster.nodes]
            if absent:
                self.cluster.add(absent[0])
                self.cluster.run(1.0)
        elif what == "lose answers":
            dice = Random(self.random.random())
            node.link.afterwards = lambda operation: dice.random() < 0.2
            self.cluster.run(seconds)
            node.link.afterwards = lambda operation: False

    def acting(self) -> dict[str, list[str]]:
        """Return by key the nodes that would act on a record now."""
        found: dict[str, list[str]] = {}
        for name, node in self.cluster.nodes.items():
            if node.service.may_act:
                for key in self._free(node):
                    found.setdefault(key, []).append(name)
        return found

    def _free(self, node: Node) -> list[str]:
        place = node.service.placement
        return [
            key
            for key, record in node.user.records.items()
            if place.mine(record.pair) and not place.held(record.pair)
        ]


class ChaosTests(SynchronousTestCase):
    def test_seeds(self) -> None:
        """IMPFED_SEED names the one seed to run, to see a failure again."""
        one = os.environ.get("IMPFED_SEED")
        for seed in [int(one)] if one else SEEDS:
            chaos = Chaos(seed)
            for _ in range(25):
                chaos.act()
                for _ in range(chaos.random.randrange(60)):
                    chaos.cluster.run(0.1)
                    for key, names in chaos.acting().items():
                        self.assertEqual(len(names), 1, (seed, key, names, chaos.told))
            chaos.cluster.run(40.0)
            self.whole(chaos, f"seed {seed}: {chaos.told}")

    def whole(self, chaos: Chaos, words: str) -> None:
        """Every record is served by its owner, and the store knows it."""
        stored = chaos.cluster.stored()
        total = 0
        for name, node in chaos.cluster.nodes.items():
            self.assertEqual(stored.pop(name, []), sorted(node.user.records), words)
            self.assertTrue(node.service.may_act and node.service.placement.settled, words)
            for record in node.user.records.values():
                self.assertEqual(node.service.owner(record.pair), name, words)
            total += len(node.user.records)
        self.assertEqual((stored, total), ({}, len(PAIRS)), words)
