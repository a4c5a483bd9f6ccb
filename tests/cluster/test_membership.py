"""A node's own standing: the table is whole, and time is on the safe side."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.membership import (
    ACTING,
    ANSWERS_LAST,
    LEASE,
    OWN_LEASE,
    TABLE,
    Action,
    Event,
    Membership,
    Sight,
    Standing,
)


def member(at: float = 100.0) -> Membership:
    found = Membership()
    found.happens(Event.JOIN)
    found.granted(7, at)
    return found


class TableTests(SynchronousTestCase):
    def test_standings_with_beats_take_every_answer(self) -> None:
        """Wherever a node beats, each answer of the store has its row."""
        for standing in (Standing.MEMBER, Standing.DRAINING, Standing.HOLDING, Standing.ASIDE):
            for event in Event:
                if event not in (Event.JOIN, Event.GRANTED, Event.RETURN):
                    self.assertIn((standing, event), TABLE)

    def test_whoever_stops_acting_is_told(self) -> None:
        """Each step out of acting pauses, and each step into it resumes, but for a drain's end."""
        for (before, _), (after, actions) in TABLE.items():
            if before in ACTING and after not in ACTING:
                self.assertIn(Action.PAUSE, actions)
            if before not in ACTING and after in ACTING:
                self.assertIn(Action.RESUME, actions)

    def test_fenced_nodes_forget(self) -> None:
        """Nobody keeps what others have taken over."""
        for (_, event), (_, actions) in TABLE.items():
            if event is Event.FENCED:
                self.assertIn(Action.DROP, actions)


class TimeTests(SynchronousTestCase):
    def test_own_lease_ends_before_the_others_end_it(self) -> None:
        """A node stops a second before its lease is over, counted from when it sent its beat."""
        self.assertLess(OWN_LEASE, LEASE)
        node = member()
        self.assertTrue(node.may_act(102.9))
        self.assertFalse(node.may_act(103.0))
        node.beat_confirmed(node.next_beat(), 0, sent_at=101.0)
        self.assertTrue(node.may_act(103.9))
        self.assertEqual(node.passes(104.0), (Action.PAUSE,))
        self.assertIs(node.standing, Standing.ASIDE)

    def test_late_answer_helps_only_as_far_as_its_question(self) -> None:
        """An answer to an old beat does not prolong the lease beyond that beat's time."""
        node = member()
        node.passes(103.5)
        self.assertEqual(
            node.beat_confirmed(node.next_beat(), 0, sent_at=100.4),
            (Action.RESUME, Action.REWRITE),
        )
        self.assertFalse(node.may_act(103.5))

    def test_holding_while_all_are_blind(self) -> None:
        """As long as all others say that the store is gone the node acts; no longer."""
        node = member()
        self.assertFalse(node.in_doubt(100.9))
        self.assertTrue(node.in_doubt(101.0))
        blind = [Sight("n2", False), Sight("n3", False)]
        node.others_say(blind, 102.0)
        self.assertEqual(node.passes(103.0), ())
        self.assertIs(node.standing, Standing.HOLDING)
        self.assertTrue(node.may_act(103.9))
        self.assertFalse(node.may_act(102.0 + ANSWERS_LAST))
        node.others_say(blind, 103.9)
        self.assertTrue(node.may_act(105.8))
        node.others_say([Sight("n2", True), Sight("n3", False)], 105.8)
        self.assertEqual(node.passes(105.8), (Action.PAUSE,))

    def test_no_answer_counts_as_sight(self) -> None:
        """Another that does not answer may see the store, so the node steps down."""
        node = member()
        node.others_say([Sight("n2", None)], 102.0)
        self.assertFalse(node.may_act(103.0))

    def test_alone(self) -> None:
        """A node without others holds on by itself."""
        node = member()
        node.others_say([], 102.9)
        node.passes(103.0)
        self.assertIs(node.standing, Standing.HOLDING)

    def test_lost_writes_are_found_by_the_count(self) -> None:
        """A store whose count of our beats went back has lost writes: they are made again."""
        node = member()
        for number in (1, 2, 3):
            self.assertEqual(node.beat_confirmed(node.next_beat(), number - 1, 100.0), ())
        again = (Action.REPEAT, Action.REWRITE)
        self.assertEqual(node.beat_confirmed(node.next_beat(), 1, 100.0), again)
        node.next_beat()  # one whose answer was lost, though it was made
        self.assertEqual(node.beat_confirmed(node.next_beat(), 5, 100.0), ())
