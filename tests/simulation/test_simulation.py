"""Runs of a whole installation, each from one seed; a failure names the seed that replays it.

``IMPFED_SEED=7 trial tests.simulation`` runs that seed alone; ``IMPFED_RUNS=5000`` runs more of them, and
``IMPFED_SOAK=1`` tells how far it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from impfed.store.api import StoreFault
from tests.simulation.cast import Cast
from tests.simulation.cluster import ClusterWorld
from tests.simulation.runs import Run, failures
from tests.simulation.world import Faults, World

RUNS = int(os.environ.get("IMPFED_RUNS", "200"))
SEED = os.environ.get("IMPFED_SEED", "")
_SHORT = 20.0
_RESTARTS = 30  # runs
_ROOT = Path(__file__).parents[2]
#: Every kind of home server and partner; and one of each, for short stories.
EVERYBODY = Cast.of("prosody", "component", xmpp=True)
ALONE = Cast.of("prosody", xmpp=True)


def _problems(world: World) -> list[str]:
    problems = world.run()
    return [f"{world.cast}, {world.faults}", *problems] if problems else []


def _single(seed: int) -> list[str]:
    return _problems(World(seed))


def _cluster(seed: int) -> list[str]:
    return _problems(ClusterWorld(seed))


def _single_restarts(seed: int) -> list[str]:
    return _problems(World(seed, Faults.restarts(seed)))


def _cluster_restarts(seed: int) -> list[str]:
    return _problems(ClusterWorld(seed, Faults.restarts(seed)))


class SwarmCase(SynchronousTestCase):
    """Runs that must be right."""

    def assert_right(self, world: World) -> None:
        """Run one, which must be right afterwards."""
        self.assertEqual(_problems(world), [])

    def assert_all_right(self, run: Run, what: str, runs: int = RUNS) -> None:
        """Do the run of each seed; each must be right afterwards."""
        seeds = [int(SEED)] if SEED else range(1, runs + 1)
        if failed := failures(run, seeds, "IMPFED_SEED", what):
            self.fail(failed)


class SwarmTests(SwarmCase):
    """Kills, pauses, partitions, broken connections, a failing store, a jumping clock; then quiet."""

    def test_all_is_well(self) -> None:
        """Without faults every text is shown once and in order, and presence is right."""
        world = World(0, Faults(), cast=EVERYBODY)
        self.assert_right(world)
        said = world.history.texts.values()
        self.assertGreater(len(said), 200)
        self.assertEqual({len(each.shown) for each in said}, {1})
        self.assertEqual([each.returned for each in said if each.returned], [])

    def test_swarm(self) -> None:
        """Whatever happens, every text is shown or its sender told, and presence is right again."""
        self.assert_all_right(_single, "runs of a node")

    def test_same_seed_same_run(self) -> None:
        """A seed gives the same run again, so that a failure can be replayed."""
        for seed in (1, 51, 101, 151):
            first, second = World(seed), World(seed)
            self.assertEqual(first.run(), second.run())
            self.assertEqual(first.loop.digest, second.loop.digest)
            self.assertEqual(first.history.texts, second.history.texts)


class ClusterTests(SwarmCase):
    """The same for three nodes that share a store, which fails, too."""

    def test_all_is_well(self) -> None:
        """Without faults every text is shown once, whichever node it comes to."""
        world = ClusterWorld(0, Faults(), cast=EVERYBODY)
        self.assert_right(world)
        said = world.history.texts.values()
        self.assertGreater(len(said), 200)
        self.assertEqual({len(each.shown) for each in said}, {1})

    def test_swarm(self) -> None:
        """What a dead or silent node had is served by the others, and by one of them only."""
        self.assert_all_right(_cluster, "runs of a cluster")

    def test_same_in_another_process(self) -> None:
        """A seed gives the same run whatever order a process has its sets in."""
        words = "from tests.simulation.cluster import ClusterWorld as W; w = W(55); w.run()"
        told = [
            subprocess.run(
                [sys.executable, "-c", f"{words}; print(w.loop.digest)"],
                env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONHASHSEED": str(number)},
                capture_output=True,
                check=True,
            ).stdout
            for number in (1, 4)
        ]
        self.assertEqual(told[0], told[1])


class RestartTests(SwarmCase):
    """Home servers and partners of both kinds that are killed and started again, while nodes go on."""

    def test_node(self) -> None:
        """What a server has forgotten is told it again, and no text is lost but with one that died with it."""
        self.assert_all_right(_single_restarts, "restarts around a node", _RESTARTS)

    def test_cluster(self) -> None:
        """The same where what a partner says comes to any of the nodes."""
        self.assert_all_right(_cluster_restarts, "restarts around a cluster", _RESTARTS)


class EveryWriteTests(SynchronousTestCase):
    """The same short story again and again, each time with trouble at another write to the store."""

    def commits(self) -> int:
        world = World(5, Faults(), _SHORT, ALONE)
        self.assertEqual(world.run(), [])
        return world.node.disk.commits

    def test_refused(self) -> None:
        """Whichever single write the store refuses, nothing is lost without a word."""
        for number in range(1, self.commits() + 1):
            world = World(5, Faults(store=1e9), _SHORT, ALONE)
            disk = world.node.disk

            def trouble(count: int, disk=disk, number=number) -> None:  # type: ignore[no-untyped-def]
                disk.trouble = StoreFault.FULL if count == number else None

            disk.before_commit = trouble
            self.assertEqual(world.run(), [], f"write {number} refused")

    def test_killed(self) -> None:
        """Whichever write the node is killed at, nothing is lost without a word."""
        for number in range(1, self.commits() + 1):
            world = World(5, Faults(kill=1e9), _SHORT, ALONE)

            def kill(count: int, world=world, number=number) -> None:  # type: ignore[no-untyped-def]
                if count == number:
                    world.kill(False)

            world.node.disk.before_commit = kill
            self.assertEqual(world.run(), [], f"killed before write {number}")
