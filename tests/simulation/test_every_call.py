"""One short story of a cluster again and again, each time with trouble at another call to the store.

``IMPFED_SOAK=1 trial tests.simulation.test_every_call`` makes trouble at every call; without, at every
so many-th.  ``IMPFED_CALL=123`` makes it at that one alone, as a failure names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.simulation.cluster import ClusterNode
from tests.simulation.loop import START
from tests.simulation.runs import SOAK, failures
from tests.simulation.stories import KeepingStory
from tests.simulation.world import Faults

CALL = int(os.environ.get("IMPFED_CALL") or "0")
#: From one call with trouble to the next.
STEP = 1 if SOAK else 16
_TROUBLED, _QUIET = 16.0, 72.0  # seconds; half of the quiet ones outlast any transaction

#: What befalls a call of a node's process; returns whether the call gets lost on its way there.
Trouble = Callable[["CalledStory", ClusterNode, str], bool]


class CalledStory(KeepingStory):
    """Three nodes, of which one is killed, found dead and started again, and one is drained.

    :param number: the call that has trouble, counted from 1 over all nodes; 0 for none.
    :param trouble: what befalls it.
    :ivar calls: how many there were while anything went on.
    :ivar operations: which kinds of calls these were.
    :ivar unanswered: the node and operation whose next answer gets lost.
    """

    xmpp = False

    def __init__(self, number: int = 0, trouble: Trouble | None = None) -> None:
        super().__init__(1, _TROUBLED, Faults(store=1e9), _QUIET)
        self.calls = 0
        self.operations: set[str] = set()
        self.unanswered: tuple[ClusterNode, str] | None = None
        self._number = number
        self._trouble = trouble
        for process in map(self.process, range(3)):
            process.before = partial(self._asked, process)
            process.afterwards = partial(self._answered, process)
        self.at(4.0, lambda: self.process(2).kill())
        local, foreign = self.pairs[1]
        self.at(4.2, lambda: self.server(local).write(local, foreign, "to the dead node"))
        self.at(7.0, lambda: self.server(foreign).show(foreign, "busy"))
        self.at(10.0, lambda: self._restart(self.process(2)))
        self.at(12.0, partial(self.restart, 1))

    def _asked(self, process: ClusterNode, operation: str) -> bool:
        if self.loop.now >= START + _TROUBLED:
            return False
        self.calls += 1
        self.operations.add(operation)
        return (
            self.calls == self._number
            and self._trouble is not None
            and self._trouble(self, process, operation)
        )

    def _answered(self, process: ClusterNode, operation: str) -> bool:
        lost = self.unanswered == (process, operation)
        if lost:
            self.unanswered = None
        return lost


def _lost(story: CalledStory, process: ClusterNode, operation: str) -> bool:
    return True


def _unanswered(story: CalledStory, process: ClusterNode, operation: str) -> bool:
    story.unanswered = (process, operation)
    return False


def _killed(story: CalledStory, process: ClusterNode, operation: str) -> bool:
    story.kill_node(process)
    return True


def _run(trouble: Trouble, number: int) -> list[str]:
    return CalledStory(number, trouble).run()


class EveryCallTests(SynchronousTestCase):
    """Whichever call it is, nothing is lost, and each subscription is served by one node in the end."""

    def assert_right_with(self, trouble: Trouble, first: int) -> None:
        story = CalledStory()
        self.assertEqual(story.run(), [])
        numbers = [CALL] if CALL else range(min(first, STEP), story.calls + 1, STEP)
        what = f"calls {trouble.__name__.strip('_')}"
        failed = failures(partial(_run, trouble), numbers, "IMPFED_CALL", what)
        if failed:
            self.fail(failed)

    def test_story(self) -> None:
        """The story has every kind of call in which nodes take, give, write and tell each other."""
        story = CalledStory()
        self.assertEqual(story.run(), [])
        wanted = {"join", "beat", "leave", "lease", "rows", "get", "write", "erase", "post", "trim"}
        wanted |= {"last", "wait", "take", "adopt", "give", "letters", "strike"}
        self.assertEqual(wanted - story.operations, set())

    def test_lost(self) -> None:
        """A call gets lost on its way to the store, which does nothing."""
        self.assert_right_with(_lost, 1)

    def test_unanswered(self) -> None:
        """The store does what it is asked for, and its answer gets lost."""
        self.assert_right_with(_unanswered, 6)

    def test_killed(self) -> None:
        """The node is killed when it calls."""
        self.assert_right_with(_killed, 11)
