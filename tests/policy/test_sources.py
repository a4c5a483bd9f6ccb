"""How much one source outside may ask of an edge."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.edge import EdgeLimitsConfig
from impfed.policy.sources import SourceLimits, Verdict


class SourceTests(SynchronousTestCase):
    """Ten requests a second from an address, twenty for a domain."""

    def setUp(self) -> None:
        self.limits = SourceLimits(EdgeLimitsConfig(requests=10, domain_requests=20, hold=5.0))
        self.now = 1000.0

    def many(self, count: int, address: str = "192.0.2.1") -> list[Verdict]:
        """Ask many times at once."""
        return [self.limits.address(address, self.now) for _ in range(count)]

    def test_rate(self) -> None:
        """What fits into a second may come at once; then it is as fast as the limit says."""
        self.assertEqual(self.many(12), [Verdict.PASS] * 10 + [Verdict.OVER] * 2)
        self.now += 0.1
        self.assertEqual(self.many(2), [Verdict.PASS, Verdict.OVER])
        self.now += 60
        self.assertEqual(self.many(11).count(Verdict.PASS), 10)

    def test_sources_are_apart(self) -> None:
        """One source's flood is nobody else's trouble; a domain has a limit of its own."""
        self.many(50)
        self.assertEqual(self.many(1, "192.0.2.2"), [Verdict.PASS])
        taken = [self.limits.domain("192.0.2.1", self.now) for _ in range(21)]
        self.assertEqual(taken, [Verdict.PASS] * 20 + [Verdict.OVER])

    def test_hold(self) -> None:
        """Over the limit on end: the connection goes; a pause begins anew."""
        self.many(11)
        for _ in range(9):
            self.now += 0.5
            self.assertNotIn(Verdict.CLOSE, self.many(20))
        self.now += 0.5
        self.assertIn(Verdict.CLOSE, self.many(20))
        self.now += 3
        self.assertEqual(self.many(40)[-1], Verdict.OVER)

    def test_told(self) -> None:
        """Who was over a limit is listed, the latest first, with how often."""
        self.many(15)
        self.now += 1
        for _ in range(22):
            self.limits.domain("lync.example", self.now)
        domain, address = self.limits.over()
        self.assertEqual((domain["source"], domain["refused"]), ("lync.example", 2))
        self.assertEqual((address["source"], address["refused"]), ("192.0.2.1", 5))
        self.assertEqual(address["limit"], "10 requests a second")

    def test_no_limit(self) -> None:
        """None is no limit."""
        self.limits = SourceLimits(EdgeLimitsConfig(requests=None))
        self.assertEqual(set(self.many(5000)), {Verdict.PASS})

    def test_bounded(self) -> None:
        """A stranger with many addresses does not fill memory; who was refused is told of first."""
        self.many(12)
        for number in range(25_000):
            self.now += 0.001
            self.limits.address(f"2001:db8::{number:x}", self.now)
        self.assertLessEqual(len(self.limits), 10_000)
        (told,) = self.limits.over()
        self.assertEqual(told["source"], "192.0.2.1")
