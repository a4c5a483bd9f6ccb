"""A node's part of a partner's budget: never more than all together, something for everybody."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.shares import LENT_FOR, POOL, Demand, Share, wanted


class WantedTests(SynchronousTestCase):
    def test_idle_node_borrows_nothing(self) -> None:
        """Who sends nothing leaves the pool to the others."""
        self.assertEqual(wanted(Demand(0.0), 20.0, 3), 0)

    def test_floor_is_used_first(self) -> None:
        """What the even part covers is not borrowed."""
        self.assertEqual(wanted(Demand(1.0), 20.0, 3), 0)
        self.assertEqual(wanted(Demand(8.0), 20.0, 3), 500 - 83)

    def test_a_queue_asks_for_all(self) -> None:
        """Whoever has more to send than the budget asks for all of the pool."""
        self.assertEqual(wanted(Demand(0.0, 500), 20.0, 3), POOL)


class ShareTests(SynchronousTestCase):
    def test_floor_and_loan(self) -> None:
        """The part is the even one and what was lent, until that ends."""
        share = Share()
        self.assertAlmostEqual(share.part(0.0, 5, None), 0.05)
        self.assertTrue(share.due(0.0))
        share.asked(0.0)
        share.lent(600, 0.0)
        self.assertFalse(share.due(0.5))
        self.assertAlmostEqual(share.part(1.9, 5, None), 0.65)
        self.assertAlmostEqual(share.part(LENT_FOR, 5, None), 0.05)

    def test_alone_it_has_all(self) -> None:
        """One node with the whole pool has the whole budget."""
        share = Share()
        share.lent(POOL, 0.0)
        self.assertEqual(share.part(0.0, 1, None), 1.0)

    def test_store_away(self) -> None:
        """Without the store loans run out, and only then everybody takes an even part."""
        rich, poor = Share(), Share()
        rich.lent(POOL, 9.9)
        for now in (10.0, 11.0, 11.89, 12.0, 60.0):
            parts = [share.part(now, 2, 10.0) for share in (rich, poor)]
            self.assertLessEqual(sum(parts), 1.0)
        self.assertEqual(parts, [0.5, 0.5])
