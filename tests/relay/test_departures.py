"""A home server is told that we have a message once the foreign server has it."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial import unittest

from impfed.relay.departures import SETTLE, Departures
from impfed.transport.s2s_api import Fate
from impfed.transport.timers import ReactorTimers
from tests.transport.s2s_kit import text


class DepartureTests(unittest.SynchronousTestCase):
    """What counts as gone, and when."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.departures = Departures(ReactorTimers(self.clock))
        self.told: list[str] = []

    def leave(self, domain: str = "b.example") -> object:
        """Let a message go."""
        return self.departures.leaves(text("x@a.example", f"y@{domain}"))

    def ask(self, word: str, domain: str = "b.example") -> None:
        """Ask to be told when all so far are gone."""
        self.departures.settle(domain, lambda: self.told.append(word))

    def test_nothing_open(self) -> None:
        """With nothing on its way the answer comes at once, whatever is on its way elsewhere."""
        self.leave("c.example")
        self.ask("now")
        self.assertEqual(self.told, ["now"])

    def test_in_order(self) -> None:
        """Each question waits for what had left before it, and for nothing else."""
        first = self.leave()
        self.ask("first")
        second = self.leave()
        self.ask("second")
        self.departures.fate(second, Fate.WRITTEN)  # type: ignore[arg-type]
        self.assertEqual(self.told, [])
        self.departures.fate(first, Fate.RETURNED)  # type: ignore[arg-type]
        self.assertEqual(self.told, ["first", "second"])

    def test_not_for_ever(self) -> None:
        """A foreign server that says nothing does not keep the home server waiting for ever."""
        self.leave()
        self.ask("late")
        self.clock.advance(SETTLE - 1)
        self.assertEqual(self.told, [])
        self.clock.advance(1)
        self.assertEqual(self.told, ["late"])

    def test_of_others(self) -> None:
        """The fate of what never left here changes nothing."""
        self.leave()
        self.ask("waiting")
        self.departures.fate(text("x@a.example", "y@b.example"), Fate.ACKNOWLEDGED)
        self.assertEqual(self.told, [])
