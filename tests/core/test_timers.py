"""Timers and the agenda: order, cancelling, postponing, and that the dead do not pile up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.timers import Agenda, Page, Timer, TimerHeap


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


class Guest:
    """A sleeper that writes down when it is woken."""

    def __init__(self, hotel: AgendaTests, due: float | None) -> None:
        self.hotel = hotel
        self.alarm: Page | Timer | None = None
        self.due = due

    def wake(self) -> None:
        self.hotel.woken.append((self.hotel.now, self))
        self.due = None


class AgendaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.heap = TimerHeap()
        self.agenda = Agenda(self.heap)
        self.woken: list[tuple[float, Guest]] = []
        self.now = 1000.0

    def guest(self, due: float | None) -> Guest:
        guest = Guest(self, due)
        self.agenda.note(guest, self.now)
        return guest

    def run_until(self, end: float) -> None:
        while (when := self.heap.next) is not None and when <= end:
            self.now = max(self.now, when)
            self.heap.run(self.now)
        self.now = end

    def test_each_at_his_time(self) -> None:
        """Sleepers of one minute and of others are woken exactly when they are due."""
        late, soon, third = self.guest(4000.25), self.guest(1000.5), self.guest(3999.75)
        never, past = self.guest(None), self.guest(900.0)
        self.assertEqual(len(self.heap), 3)  # two of this minute, and a page for those of the other
        self.run_until(5000.0)
        self.assertEqual(
            self.woken, [(1000.0, past), (1000.5, soon), (3999.75, third), (4000.25, late)]
        )
        self.assertIsNone(never.alarm)

    def test_put_off_and_called_sooner(self) -> None:
        """Who is put off or called sooner is woken once, at his new time."""
        put_off, sooner, near = self.guest(2000.0), self.guest(3000.0), self.guest(1001.0)
        put_off.due, sooner.due, near.due = 3500.0, 1500.0, 2500.0
        for guest in (put_off, sooner, near):
            self.agenda.note(guest, self.now)
        self.assertIsInstance(near.alarm, Page)  # it takes less room than a timer
        self.run_until(9000.0)
        self.assertEqual(self.woken, [(1500.0, sooner), (2500.0, near), (3500.0, put_off)])

    def test_to_and_fro(self) -> None:
        """Who leaves a page and comes back to it is woken once."""
        guest = self.guest(3000.0)
        for due in (1500.0, 3000.0):
            guest.due = due
            self.agenda.note(guest, self.now)
        self.agenda.dismiss(guest)
        self.agenda.note(guest, self.now)
        self.run_until(9000.0)
        self.assertEqual(self.woken, [(3000.0, guest)])

    def test_dismissed(self) -> None:
        """Who is dismissed is not woken, and many who were take no room."""
        page = self.guest(3000.0).alarm
        assert isinstance(page, Page)
        for due in (3000.0, 1001.0):
            for _ in range(1000):
                self.agenda.dismiss(self.guest(due))
        self.assertLess(len(page.sleepers), 100)
        self.run_until(9000.0)
        self.assertEqual(len(self.woken), 1)
