"""The heap of timers: order, cancelling, postponing, and that the dead do not pile up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.timers import TimerHeap


class TimerHeapTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.heap = TimerHeap()
        self.rung: list[object] = []

    def test_earliest_first(self) -> None:
        """What is due is called by time, and at one time in the order it was asked for."""
        for when, name in ((3.0, "c"), (1.0, "a"), (3.0, "d"), (2.0, "b"), (9.0, "e")):
            self.heap.at(when, self.rung.append, name)
        self.assertEqual(self.heap.next, 1.0)
        self.heap.run(3.0)
        self.assertEqual(self.rung, ["a", "b", "c", "d"])
        self.assertEqual((self.heap.next, len(self.heap)), (9.0, 1))

    def test_cancel(self) -> None:
        """A cancelled timer is not called; cancelling again, or after it rang, does nothing."""
        timer = self.heap.at(1.0, self.rung.append, "x")
        self.assertTrue(timer.active)
        timer.cancel()
        timer.cancel()
        self.assertFalse(timer.active)
        self.assertEqual((self.heap.next, len(self.heap)), (None, 0))
        other = self.heap.at(1.0, self.rung.append, "y")
        self.heap.run(2.0)
        other.cancel()
        self.assertEqual((self.rung, len(self.heap)), (["y"], 0))

    def test_postpone(self) -> None:
        """A postponed timer rings at its new time."""
        timer = self.heap.at(1.0, self.rung.append, "x")
        timer.postpone(5.0)
        self.heap.run(4.0)
        self.assertEqual((self.rung, self.heap.next), ([], 5.0))
        self.heap.run(5.0)
        self.assertEqual(self.rung, ["x"])

    def test_due_meanwhile(self) -> None:
        """What a call asks for within the time reached is called in the same run."""
        self.heap.at(1.0, lambda: self.heap.at(1.5, self.rung.append, "inner"))
        self.heap.run(2.0)
        self.assertEqual(self.rung, ["inner"])

    def test_the_dead_do_not_pile_up(self) -> None:
        """Timers made and cancelled again and again take no more than a bounded place."""
        for number in range(10_000):
            self.heap.at(1e9 + number, self.rung.append).cancel()
        self.assertLess(len(self.heap._heap), 200)
        self.assertEqual(len(self.heap), 0)

    @given(
        st.lists(
            st.tuples(
                st.floats(0, 100), st.sampled_from(["keep", "cancel", "postpone"]), st.floats(0, 50)
            ),
            max_size=60,
        )
    )
    def test_against_a_sorted_list(self, wishes: list[tuple[float, str, float]]) -> None:
        """Whatever is cancelled and postponed, the calls come as from a sorted list."""
        heap = TimerHeap()
        rung: list[int] = []
        expected = []
        for number, (when, what, later) in enumerate(wishes):
            timer = heap.at(when, rung.append, number)
            if what == "cancel":
                timer.cancel()
            elif what == "postpone":
                timer.postpone(when + later)
                expected.append((when + later, number))
            else:
                expected.append((when, number))
        self.assertEqual(len(heap), len(expected))
        times = {number: when for when, number in expected}
        heap.run(1000.0)
        self.assertEqual([times[number] for number in rung], sorted(times.values()))
        self.assertEqual(sorted(rung), sorted(times))
        self.assertEqual((heap.next, len(heap)), (None, 0))
