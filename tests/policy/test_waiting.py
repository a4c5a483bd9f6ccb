"""The order in which requests go that had to wait, and the pauses that hops ask for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.policy.budget import Urgency
from impfed.policy.pauses import LONGEST, Pauses, retry_after
from impfed.policy.waiting import PATIENCE, WaitingRoom

IM, DIALOG, NOTIFY, SUBSCRIBE = Urgency
NOW = 1_790_000_000.0


class OrderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.room: WaitingRoom[str] = WaitingRoom()

    def push(self, item: str, urgency: Urgency, user: str = "a", dialog: str = "", at=0.0):
        return self.room.push(item, urgency, user, dialog or f"call-{item}", NOW + at)

    def order(self) -> list[str]:
        return [self.room.pop() for _ in range(len(self.room))]

    def test_urgent_first(self) -> None:
        """Whatever came first, the most urgent goes first."""
        for item, urgency in (("s", SUBSCRIBE), ("n", NOTIFY), ("d", DIALOG), ("i", IM)):
            self.push(item, urgency)
        self.assertEqual(self.order(), ["i", "d", "n", "s"])
        self.assertRaises(LookupError, self.room.pop)

    def test_users_take_turns(self) -> None:
        """One user's flood does not hold up the others; each user's own go in order."""
        for number in range(4):
            self.push(f"a{number}", IM, "a")
        self.push("b0", IM, "b")
        self.push("c0", IM, "c")
        self.push("b1", IM, "b")
        self.assertEqual(self.order(), ["a0", "b0", "c0", "a1", "b1", "a2", "a3"])

    def test_order_within_a_dialog(self) -> None:
        """A request never overtakes one of its own dialog, though it be more urgent."""
        self.push("subscribe", SUBSCRIBE, dialog="x")
        self.push("bye", IM, dialog="x")
        self.push("other", NOTIFY)
        self.assertEqual(self.order(), ["other", "subscribe", "bye"])
        self.push("first", IM, dialog="y")
        self.push("second", SUBSCRIBE, dialog="y")
        self.push("third", IM, "somebody else", dialog="y")
        self.assertEqual(self.order(), ["first", "second", "third"])

    def test_room(self) -> None:
        """So many wait as can go in time; and no user takes more than his part."""
        rate = 1.0
        taken = 0
        while self.room.has_room(IM, f"u{taken}", rate):
            self.push(f"i{taken}", IM, f"u{taken}")
            taken += 1
        self.assertEqual(taken, PATIENCE[IM] * rate)
        self.assertTrue(self.room.has_room(SUBSCRIBE, "a", rate))
        mine = 0
        while self.room.has_room(SUBSCRIBE, "a", rate):
            self.push(f"s{mine}", SUBSCRIBE, "a")
            mine += 1
        self.assertEqual(mine, 38)
        self.assertTrue(self.room.has_room(SUBSCRIBE, "b", rate))

    def test_less_urgent_counts_not(self) -> None:
        """What is less urgent takes no room from a text, and more urgent ones make it wait."""
        for number in range(200):
            self.push(f"s{number}", SUBSCRIBE, f"u{number}")
        self.assertTrue(self.room.has_room(IM, "a", 1.0))
        self.assertEqual(self.room.wait(IM, 2.0), 0.5)
        self.assertEqual(self.room.wait(SUBSCRIBE, 2.0), 100.5)

    def test_bounded_at_any_rate(self) -> None:
        """However fast they go, not more than a fixed number waits."""
        for number in range(5000):
            self.push(str(number), NOTIFY, f"u{number}")
        self.assertFalse(self.room.has_room(NOTIFY, "x", 1e6))
        self.assertTrue(self.room.has_room(IM, "x", 1e6))

    def test_too_long(self) -> None:
        """What has waited too long comes out as such, each kind after its own time."""
        self.push("s", SUBSCRIBE, at=0)
        self.push("i", IM, at=0)
        self.push("j", IM, at=5)
        self.assertEqual(self.room.next_expiry, NOW + PATIENCE[IM])
        self.assertEqual(list(self.room.expired(NOW + PATIENCE[IM])), ["i"])
        self.assertEqual(list(self.room.expired(NOW + PATIENCE[SUBSCRIBE])), ["j", "s"])
        self.assertEqual((len(self.room), self.room.next_expiry), (0, None))

    def test_remove(self) -> None:
        """What is called off does not go, and can be called off once."""
        tickets = [self.push(f"i{number}", IM) for number in range(3)]
        self.assertTrue(self.room.remove(tickets[1]))
        self.assertFalse(self.room.remove(tickets[1]))
        self.assertEqual(self.order(), ["i0", "i2"])
        self.assertFalse(self.room.remove(tickets[0]))
        self.assertEqual(self.room.lengths, [0, 0, 0, 0])


class PauseTests(SynchronousTestCase):
    HOP = "tls:sip.lync.example:5061"

    def test_retry_after(self) -> None:
        """Seconds, with whatever comes behind them; anything else is as good as nothing."""
        for value, seconds in (
            ("120", 120.0),
            (" 5 (maintenance);duration=60", 5.0),
            ("0", 0.0),
            (None, None),
            ("", None),
            ("soon", None),
            ("-3", None),
            ("9" * 30, None),
        ):
            self.assertEqual(retry_after(value), seconds, value)

    def test_named_pause(self) -> None:
        """A hop is left alone for as long as it says, an hour at most."""
        pauses = Pauses()
        pauses.refused(self.HOP, "lync.example", 120.0, NOW)
        self.assertEqual(pauses.of(self.HOP, NOW + 119).until, NOW + 120)
        self.assertIsNone(pauses.of(self.HOP, NOW + 120))
        self.assertIsNone(pauses.of("tls:other:5061", NOW))
        pauses.refused(self.HOP, "lync.example", 1e9, NOW)
        self.assertIsNone(pauses.of(self.HOP, NOW + LONGEST))

    def test_shorter_pause_does_not_end_a_longer_one(self) -> None:
        """Answers that cross each other leave the longest pause."""
        pauses = Pauses()
        pauses.refused(self.HOP, "lync.example", 100.0, NOW)
        pauses.refused(self.HOP, "lync.example", 1.0, NOW)
        self.assertIsNotNone(pauses.of(self.HOP, NOW + 99))

    def test_without_seconds(self) -> None:
        """One 503 alone is no pause; in a row they make longer and longer ones, to a limit."""
        pauses, lengths = Pauses(), []
        for _ in range(9):
            lengths.append(pauses.refused(self.HOP, "lync.example", None, NOW).until - NOW)
        self.assertEqual(lengths, [0, 2, 4, 8, 16, 32, 60, 60, 60])

    def test_served(self) -> None:
        """Any other answer wipes the slate."""
        pauses = Pauses()
        pauses.refused(self.HOP, "lync.example", None, NOW)
        self.assertIsNotNone(pauses.served(self.HOP))
        self.assertIsNone(pauses.served(self.HOP))
        self.assertEqual(pauses.refused(self.HOP, "lync.example", None, NOW).until, NOW)

    def test_operator(self) -> None:
        """The pauses of a domain are shown, and end when the operator says so."""
        pauses = Pauses()
        pauses.refused(self.HOP, "lync.example", 60.0, NOW)
        pauses.refused("tls:else:5061", "else.example", 60.0, NOW)
        self.assertEqual([each.hop for each in pauses.view("lync.example", NOW)], [self.HOP])
        self.assertEqual([each.hop for each in pauses.end("lync.example")], [self.HOP])
        self.assertEqual((pauses.view("lync.example", NOW), len(pauses.known)), ([], 1))

    def test_bounded(self) -> None:
        """What is long past is forgotten, and then the oldest."""
        pauses = Pauses()
        for number in range(1500):
            pauses.refused(f"tls:h{number}:5061", "x.example", 60.0, NOW)
        self.assertEqual(len(pauses.known), 1000)
        pauses.refused("tls:new:5061", "x.example", 60.0, NOW + 2 * LONGEST)
        self.assertEqual(list(pauses.known), ["tls:new:5061"])
