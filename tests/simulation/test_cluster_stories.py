"""A cluster of three nodes in planned stories: the store goes, for all or for one."""

from __future__ import annotations

from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.membership import Standing
from impfed.cluster_setup import ClusterSide
from tests.simulation.loop import START
from tests.simulation.stories import BusyStory, KeepingStory, Story
from tests.simulation.world import Faults


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
            # What it has sent, and cannot say so any more, the others send again.
            story = Story(seed, faults=Faults(store=1e9))
            story.at(20.0, partial(story.cut, 1))
            story.at(28.0, story.look)
            story.at(32.0, story._store_well)
            self.assertEqual(story.run(), [], f"seed {seed}")
            self.assertEqual(story.seen, [[Standing.MEMBER, Standing.ASIDE, Standing.MEMBER]])


class SlowStartTests(SynchronousTestCase):
    """A node that takes long to read what it has, for most of its questions to the store get lost."""

    def test_asked_before_it_is_ready(self) -> None:
        """It serves nothing twice of which it is asked meanwhile, by connections of its own."""
        for seed in range(2, 5):
            story = Story(seed, faults=Faults(kill=1e9, store=1e9))
            process, random = story.process(1), story.loop.random

            def hard_of_hearing(process=process, random=random) -> None:  # type: ignore[no-untyped-def]
                process.start_again()
                process.before = lambda operation: operation == "rows" and random.random() < 0.8
                process.afterwards = lambda operation: operation == "beat" and random.random() < 0.6

            story.at(20.0, process.kill)
            story.at(20.3, hard_of_hearing)
            for seconds in range(22, 45):
                story.at(seconds, story.change)
            story.at(45.0, story._store_well)
            self.assertEqual(story.run(), [], f"seed {seed}")


class DrainTests(SynchronousTestCase):
    """Nodes that are stopped and started under traffic; nothing else goes wrong."""

    def assert_unnoticed(self, story: Story) -> None:
        problems = story.run()
        for text, said in story.history.texts.items():
            if said.at < START + 2.0:
                continue  # the nodes are just starting
            if len(said.shown) != 1 or said.returned:
                problems.append(f"{text!r}: {said}")
        self.assertEqual(problems, [], f"seed {story.seed}")

    def test_each_in_turn(self) -> None:
        """Each node is restarted in turn: every text is shown once and none returned."""
        for seed in range(4):
            story = (BusyStory, KeepingStory)[seed % 2](seed, 100.0)
            for number in range(3):
                story.at(15.0 + 25.0 * number, partial(story.restart, number))
            self.assert_unnoticed(story)
            self.assertEqual([process.starts for process in story.nodes], [2, 2, 2])

    def test_changed_mind(self) -> None:
        """A node that drains and takes work again has its share back, and nobody notices either."""
        story = BusyStory(1, 60.0)
        told: list[dict[str, object]] = []

        def side() -> ClusterSide:
            node = story.process(1).node
            assert node is not None and node.cluster is not None
            return node.cluster

        story.at(15.0, lambda: side().drain.begin())
        story.at(20.0, lambda: told.append(side().drain.progress()))
        story.at(25.0, lambda: side().drain.work_again())
        story.at(30.0, story.look)
        self.assert_unnoticed(story)
        empty = {"sessions": 0, "subscriptions": 0, "dialogs": 0, "letters": 0, "under_way": 0}
        self.assertEqual(
            told, [{"standing": "draining", "drained": True, **empty, "home_links": []}]
        )
        self.assertEqual(story.seen, [[Standing.MEMBER] * 3])
