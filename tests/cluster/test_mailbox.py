"""Letters: order, room, repetition, and what a dead node leaves."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.mailbox import (
    KEPT_FOR,
    POSTED_AT_ONCE,
    WAITING_LIMIT,
    Envelope,
    Incoming,
    Outgoing,
    opened,
    sealed,
)
from impfed.cluster.ownership import Pair

ONE, TWO = ("a@x.example", "b@y.example"), ("c@x.example", "d@y.example")


def letter(number: int, pair: Pair = ONE, box: str = "me", generation: int = 1) -> Envelope:
    return Envelope("other", 3, box, number, generation, *pair, b"%d" % number)


class OutgoingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.queue = Outgoing("me", "other")

    def put(self, count: int) -> list[bool]:
        return [self.queue.put(ONE, b"x", 3, 1, token) for token in range(count)]

    def test_numbered_batches(self) -> None:
        """Letters are numbered and posted in order, one batch at a time."""
        self.put(POSTED_AT_ONCE + 5)
        first = self.queue.batch()
        self.assertEqual([each.number for each in first], list(range(1, POSTED_AT_ONCE + 1)))
        self.assertEqual(self.queue.batch(), [])
        self.assertEqual(self.queue.posted(0.0), list(range(POSTED_AT_ONCE)))
        self.assertEqual([each.number for each in self.queue.batch()], [201, 202, 203, 204, 205])

    def test_again_with_the_same_numbers(self) -> None:
        """What may have been posted is posted again as it was."""
        self.put(2)
        first = self.queue.batch()
        self.queue.again()
        self.put(1)
        self.assertEqual(self.queue.batch()[:2], first)

    def test_repeated_after_a_loss(self) -> None:
        """What was posted lately is posted again as it was, behind what is under way, before what waits."""
        for now, count in ((0.0, 1), (KEPT_FOR, 2), (KEPT_FOR + 1, 1)):
            self.put(count)
            self.queue.batch()
            self.queue.posted(now)
        self.put(2)
        self.queue.batch()
        self.put(1)
        self.queue.repeat(KEPT_FOR + 2)
        self.assertEqual(self.queue.posted(KEPT_FOR + 2), [0, 1])
        self.assertEqual([each.number for each in self.queue.batch()], [2, 3, 4, 7])

    def test_back_pressure(self) -> None:
        """When too many wait no more are taken."""
        self.assertTrue(all(self.put(WAITING_LIMIT)))
        self.assertEqual(self.put(1), [False])
        self.queue.forward(letter(9), 2)
        self.assertEqual(len(self.queue), WAITING_LIMIT + 1)

    def test_taken_back(self) -> None:
        """When the other node is gone everything comes back in order."""
        self.put(3)
        self.queue.batch()
        back = self.queue.take_back()
        self.assertEqual([(each.number, token) for each, token in back], [(1, 0), (2, 1), (3, 2)])
        self.assertEqual(len(self.queue), 0)

    def test_sealed(self) -> None:
        """A letter survives the mailbox."""
        self.assertEqual(opened(sealed(letter(4))), letter(4))


class IncomingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.held: set[Pair] = set()
        self.incoming = Incoming("me", lambda envelope: envelope.pair in self.held)

    def read(self, id: int, envelope: Envelope, box: str = "me") -> bool:
        return self.incoming.read(box, f"{id}-0", envelope) is envelope

    def test_trimmed_up_to_the_lowest_that_is_not_done(self) -> None:
        """What is done goes only when all before it is done."""
        letters = [letter(number) for number in (1, 2, 3)]
        for number, each in enumerate(letters, 1):
            self.assertTrue(self.read(number, each))
        self.incoming.done(letters[1])
        self.assertEqual(self.incoming.trim(), "")
        self.incoming.done(letters[0])
        self.assertEqual(self.incoming.trim(), "3-0")
        self.incoming.done(letters[2])
        self.assertEqual(self.incoming.trim(), "3-1")
        self.assertEqual(self.incoming.under_way, 0)

    def test_repetition(self) -> None:
        """A letter that was posted twice is handled once, and both can go."""
        first = letter(1)
        self.assertTrue(self.read(1, first))
        self.assertFalse(self.read(2, letter(1)))
        self.incoming.done(first)
        self.assertEqual(self.incoming.trim(), "2-1")

    def test_coming_back(self) -> None:
        """A letter that was passed on and comes back is new; one that was handled is not."""
        queue = Outgoing("me", "other")
        first = letter(1)
        self.assertTrue(self.read(1, first))
        self.incoming.passed_on(first)
        queue.forward(first, 5)
        [passed] = queue.batch()
        self.assertEqual((passed.generation, passed.hops, passed.number), (5, 1, 1))
        self.assertFalse(self.read(2, letter(1)))
        self.assertTrue(self.read(3, passed))
        self.assertFalse(self.read(4, msgspec.structs.replace(passed, hops=2)))

    def test_later_number_first(self) -> None:
        """A letter whose pair came another way counts, even though a later number was seen."""
        self.assertTrue(self.read(1, letter(7, box="dead")))
        self.assertTrue(self.read(5, letter(5, TWO, box="dead"), box="dead"))
        self.assertFalse(self.read(6, letter(7, box="dead"), box="dead"))

    def test_held_pairs_keep_their_order(self) -> None:
        """Letters of a pair that has to wait wait in order; others pass."""
        self.held.add(ONE)
        self.assertFalse(self.read(1, letter(1)))
        self.assertTrue(self.read(2, letter(2, TWO)))
        self.held.clear()
        self.assertFalse(self.read(3, letter(3)))  # behind the first, though nothing holds it
        self.assertEqual([each.number for each in self.incoming.released()], [1, 3])

    def test_dead_box_overtakes_nothing_older(self) -> None:
        """What has waited for us since the pair was ours comes before what its owner after us has left."""
        self.held.update((ONE, TWO))
        for number, pair, generation in ((1, ONE, 1), (2, TWO, 1), (3, ONE, 3)):
            self.assertFalse(self.read(number, letter(number, pair, generation=generation)))
        left = letter(4, box="dead", generation=2)
        self.assertTrue(self.read(9, left, box="dead"))
        self.assertEqual([each.number for each in self.incoming.overtaken(left)], [1])
        self.assertEqual(self.incoming.overtaken(left), [])
        self.held.clear()
        self.assertEqual([each.number for each in self.incoming.released()], [2, 3])

    def test_dead_box_is_handled_at_once(self) -> None:
        """A dead node's letters come before those that wait for them, and are struck when done."""
        self.held.add(ONE)
        old, new = letter(1, box="dead"), letter(1)
        self.assertFalse(self.read(1, new))
        self.assertTrue(self.read(9, old, box="dead"))
        self.assertFalse(self.read(9, old, box="dead"))
        self.assertEqual((self.incoming.from_others, self.incoming.struck("dead")), (1, []))
        self.incoming.done(old)
        self.assertEqual((self.incoming.from_others, self.incoming.struck("dead")), (0, ["9-0"]))
        self.held.clear()
        self.assertEqual(self.incoming.released(), [new])
