"""The barriers of a link of many streams."""

from __future__ import annotations

from twisted.trial import unittest

from impfed.transport.pair_barriers import PairBarriers
from impfed.xmpp.barrier import ACCEPTED, Delivery, Outcome, not_sent
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, message

J = JID.parse


def text(id: str, foreign: str = "lync.example") -> OutStanza:
    """Return a text from a foreign domain."""
    return message(J("alice@home.example"), J(f"bob@{foreign}"), id=id, body=id)


class PairTests(unittest.SynchronousTestCase):
    """Each pair of domains is confirmed by itself."""

    def setUp(self) -> None:
        self.told: dict[str, Delivery] = {}
        self.barriers = PairBarriers(10.0, lambda: None)

    def send(self, stanza: OutStanza, acked: bool = False, now: float = 0.0) -> OutStanza:
        """Note a text whose outcome is kept."""

        def done(delivery: Delivery) -> None:
            self.told[stanza.id] = delivery

        self.barriers.sent(stanza, done, now, acked)
        return stanza

    def test_pings(self) -> None:
        """A ping's answer confirms its own pair, and no other."""
        self.send(text("a"))
        self.send(text("b", "other.example"))
        pairs = self.barriers.pairs_to_ping()
        self.assertEqual(len(pairs), 2)
        for pair in pairs:
            self.barriers.ping_sent(pair, f"ping {pair[1]}")
        self.assertTrue(self.barriers.answered("ping other.example"))
        self.assertEqual(self.told, {"b": ACCEPTED})
        self.assertFalse(self.barriers.answered("ping other.example"))
        self.assertEqual(len(self.barriers), 1)

    def test_acknowledged(self) -> None:
        """What a stream acknowledges needs no ping, and leaves nothing behind."""
        first, second = self.send(text("a"), True), self.send(text("b"), True)
        self.assertFalse(self.barriers.wants_ping)
        self.assertTrue(self.barriers.decided(first, ACCEPTED))
        self.assertFalse(self.barriers.decided(first, ACCEPTED))
        self.assertTrue(self.barriers.decided(second, not_sent("gone", "words")))
        self.assertEqual(self.told["b"].outcome, Outcome.NOT_SENT)
        self.assertEqual((len(self.barriers), self.barriers.deadline), (0, None))

    def test_one_id_twice(self) -> None:
        """Of two texts with one id the older is acknowledged first, and each is told once."""
        twin = text("a")
        outcomes: list[Outcome] = []
        for _ in range(2):
            self.barriers.sent(twin, lambda each: outcomes.append(each.outcome), 0.0, True)
        self.barriers.decided(twin, ACCEPTED)
        self.assertEqual(len(outcomes), 1)
        self.barriers.decided(twin, not_sent("gone", "words"))
        self.assertEqual(outcomes, [Outcome.ACCEPTED, Outcome.NOT_SENT])
        self.assertEqual(len(self.barriers), 0)

    def test_taken_out(self) -> None:
        """What a broken stream left is given up apart from what its successor carries."""
        self.send(text("old"))
        left = self.barriers.take(("home.example", "lync.example"))
        self.assertIsNotNone(left)
        new = self.send(text("new"), True)
        assert left is not None
        left.lost("gone")
        self.assertEqual({id: each.outcome for id, each in self.told.items()},
                         {"old": Outcome.UNSURE})  # fmt: skip
        self.assertTrue(self.barriers.decided(new, ACCEPTED))

    def test_time(self) -> None:
        """What nobody confirms is unsure when its time is up."""
        self.send(text("a"), now=1.0)
        self.assertEqual(self.barriers.deadline, 11.0)
        self.assertEqual(self.barriers.expire(11.0), 1)
        self.assertEqual(self.told["a"].outcome, Outcome.UNSURE)
        self.assertIsNone(self.barriers.deadline)
