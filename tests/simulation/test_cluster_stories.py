"""A cluster of three nodes in planned stories: the store goes, for all or for one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.membership import Standing
from tests.simulation.cluster import ClusterNode, ClusterWorld
from tests.simulation.loop import START
from tests.simulation.world import Faults


class Story(ClusterWorld):
    """A run of a minute or so in which only happens what :meth:`at` is told.

    :ivar seen: where each node stood when :meth:`look` was called.
    """

    def __init__(self, seed: int, troubled: float = 60.0) -> None:
        super().__init__(seed, Faults(), troubled)
        self.seen: list[list[Standing]] = []

    def at(self, seconds: float, call: Callable[[], object]) -> None:
        """Have something happen some seconds after the beginning."""
        self.loop.after(seconds, call)

    def process(self, number: int) -> ClusterNode:
        """Return a node's process, counted from 0."""
        return cast(ClusterNode, self.nodes[number])

    def look(self) -> None:
        """Note where each node stands."""
        found = []
        for process in self.nodes:
            assert process.node is not None and process.node.cluster is not None
            found.append(process.node.cluster.service.standing)
        self.seen.append(found)

    def cut(self, *numbers: int) -> None:
        """Cut nodes off from the store."""
        for number in numbers:
            link = self.process(number).link
            assert link is not None
            link.cut()


class StoreAwayTests(SynchronousTestCase):
    """Nodes ask each other over their own TLS whether somebody still sees the store."""

    def test_gone_for_all(self) -> None:
        """When it is gone for every node all go on with what they own, and texts still arrive."""
        shown: list[str] = []
        for seed in range(3):
            story = Story(seed)
            story.at(20.0, partial(story.cut, 0, 1, 2))
            for seconds in (24.0, 27.0, 29.0):
                story.at(seconds, story.look)
            story.at(30.0, story._store_well)
            self.assertEqual(story.run(), [], f"seed {seed}")
            self.assertEqual(story.seen, [[Standing.HOLDING] * 3] * 3)
            shown += [
                text
                for text, said in story.history.texts.items()
                if 22.0 < said.at - START < 29.0 and said.shown and said.shown[0] < START + 30.0
            ]
        self.assertTrue(shown)

    def test_gone_for_one(self) -> None:
        """A node that alone does not see it steps aside, and the others take its share."""
        for seed in range(3):
            story = Story(seed)
            story.at(20.0, partial(story.cut, 1))
            story.at(28.0, story.look)
            story.at(32.0, story._store_well)
            self.assertEqual(story.run(), [], f"seed {seed}")
            self.assertEqual(story.seen, [[Standing.MEMBER, Standing.ASIDE, Standing.MEMBER]])
