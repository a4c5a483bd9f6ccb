"""When everything that was begun so far is done."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.settling import Settling


class SettlingTests(SynchronousTestCase):
    """Who waits is called when what was begun before is done."""

    def setUp(self) -> None:
        self.settling = Settling()
        self.called: list[str] = []

    def wait(self, name: str) -> None:
        self.settling.wait(lambda: self.called.append(name))

    def test_nothing(self) -> None:
        """With nothing under way nobody waits."""
        self.wait("a")
        self.assertEqual(self.called, ["a"])

    def test_order(self) -> None:
        """What was begun later holds nobody up; what was begun earlier does, whatever ends first."""
        first, second = self.settling.begin(), self.settling.begin()
        self.wait("a")
        third = self.settling.begin()
        self.wait("b")
        second(None)
        self.assertEqual(self.called, [])
        first(None)
        first(None)
        self.assertEqual(self.called, ["a"])
        third(None)
        self.assertEqual(self.called, ["a", "b"])
