"""How many new subscriptions a foreign domain may begin (SPEC section 5)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.policy.limits import NewSubscriptions


class NewSubscriptionsTests(SynchronousTestCase):
    def begun(self, pace: NewSubscriptions, domain: str, now: float) -> int:
        """Begin as many as are allowed, at most a hundred."""
        count = 0
        while count < 100 and pace.allows(domain, now):
            pace.begin(domain, now)
            count += 1
        return count

    def test_burst_then_pace(self) -> None:
        """A minute's worth may come at once, then they come evenly; domains do not share."""
        pace = NewSubscriptions(30)
        self.assertEqual(self.begun(pace, "lync.example", 1000.0), 30)
        self.assertEqual(self.begun(pace, "lync.example", 1001.0), 0)
        self.assertEqual(self.begun(pace, "lync.example", 1002.0), 1)
        self.assertEqual(self.begun(pace, "lync.example", 1012.0), 5)
        self.assertEqual(self.begun(pace, "other.example", 1012.0), 30)
        self.assertEqual(self.begun(pace, "lync.example", 9999.0), 30)

    def test_looking_takes_nothing(self) -> None:
        """To ask whether one more is allowed changes nothing."""
        pace = NewSubscriptions(1)
        for _ in range(5):
            self.assertTrue(pace.allows("lync.example", 1000.0))

    def test_no_limit(self) -> None:
        """Without a number everything is allowed."""
        self.assertEqual(self.begun(NewSubscriptions(None), "lync.example", 0.0), 100)

    def test_floods(self) -> None:
        """Refusals are counted by domain, the latest first; one a minute is worth a log line."""
        pace = NewSubscriptions(1)
        told = [pace.refused("lync.example", when, "too fast") for when in (10.0, 11.0, 12.0)]
        self.assertEqual(told, [True, False, False])
        self.assertTrue(pace.refused("other.example", 13.0, "too many pending"))
        self.assertTrue(pace.refused("lync.example", 80.0, "too fast"))
        found = pace.floods()
        self.assertEqual(list(found), ["lync.example", "other.example"])
        self.assertEqual((found["lync.example"].refused, found["lync.example"].last_at), (4, 80.0))

    def test_memory_is_bounded(self) -> None:
        """However many domains flood, only so many are remembered, the latest."""
        pace = NewSubscriptions(1)
        for number in range(1100):
            pace.refused(f"d{number}.example", float(number), "too fast")
        found = pace.floods()
        self.assertEqual((len(found), next(iter(found))), (1000, "d1099.example"))
