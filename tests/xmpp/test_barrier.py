"""The acceptance barrier."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial import unittest

from impfed.xmpp.barrier import AcceptanceBarrier, Delivery, Outcome
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, message, message_error

BOB = JID.parse("bob@lync.example")


def text(id: str, user: str = "alice") -> OutStanza:
    return message(JID.parse(f"{user}@home.example"), BOB, id=id, body="x")


def error(id: str, user: str = "alice", condition: str = "item-not-found") -> Stanza:
    out = message_error(BOB, JID.parse(f"{user}@home.example"), id=id, condition=condition)
    return Stanza.of(ET.fromstring(out.xml))


class BarrierTests(unittest.SynchronousTestCase):
    """Stories of a batch."""

    def setUp(self) -> None:
        self.faults = 0
        self.barrier = AcceptanceBarrier(20.0, self.fault)
        self.told: dict[str, Delivery] = {}

    def fault(self) -> None:
        self.faults += 1

    def send(self, id: str, now: float = 0.0, user: str = "alice") -> None:
        def done(delivery: Delivery) -> None:
            self.assertNotIn(id, self.told)
            self.told[id] = delivery

        self.barrier.sent(text(id, user), done, now)

    def outcomes(self) -> dict[str, str]:
        return {id: delivery.outcome.value for id, delivery in self.told.items()}

    def test_batch(self) -> None:
        """One answer confirms everything before the ping, and nothing after it."""
        self.assertFalse(self.barrier.wants_ping)
        self.send("1")
        self.send("2")
        self.assertTrue(self.barrier.wants_ping)
        self.barrier.ping_sent("p1")
        self.send("3")
        self.assertFalse(self.barrier.wants_ping)  # one in flight
        self.assertEqual(self.told, {})
        self.assertTrue(self.barrier.answered("p1"))
        self.assertEqual(self.outcomes(), {"1": "accepted", "2": "accepted"})
        self.assertTrue(self.barrier.wants_ping)
        self.barrier.ping_sent("p2")
        self.barrier.answered("p2")
        self.assertEqual(len(self.barrier), 0)
        self.assertFalse(self.barrier.wants_ping)

    def test_refusal(self) -> None:
        """An error before the answer refuses its message, and only that."""
        self.send("1")
        self.send("2", user="nobody")
        self.barrier.ping_sent("p")
        self.assertFalse(self.barrier.refused(error("2", user="alice")))
        self.assertTrue(self.barrier.refused(error("2", user="nobody")))
        self.barrier.answered("p")
        self.assertEqual(self.outcomes(), {"2": "refused", "1": "accepted"})
        self.assertEqual(self.told["2"].condition, "item-not-found")

    def test_late_error(self) -> None:
        """After acceptance an error is an ordinary stanza for somebody else."""
        self.send("1")
        self.barrier.ping_sent("p")
        self.barrier.answered("p")
        self.assertFalse(self.barrier.refused(error("1")))
        self.assertEqual(self.outcomes(), {"1": "accepted"})

    def test_foreign_answers(self) -> None:
        """Other IQ results confirm nothing."""
        self.send("1")
        self.assertFalse(self.barrier.answered(""))
        self.barrier.ping_sent("p")
        self.assertFalse(self.barrier.answered("q"))
        self.assertEqual(self.told, {})

    def test_timeout(self) -> None:
        """Each message is given up in its own time; a late answer finds the next batch only."""
        self.send("1", 0.0)
        self.barrier.ping_sent("p1")
        self.send("2", 5.0)
        self.assertEqual(self.barrier.deadline, 20.0)
        self.assertEqual(self.barrier.expire(20.0), 1)
        self.assertEqual(self.outcomes(), {"1": "unsure"})
        self.assertTrue(self.barrier.wants_ping)
        self.assertFalse(self.barrier.answered("p1"))
        self.barrier.ping_sent("p2")
        self.assertEqual(self.barrier.deadline, 25.0)
        self.assertTrue(self.barrier.answered("p2"))
        self.assertEqual(self.outcomes(), {"1": "unsure", "2": "accepted"})
        self.assertIsNone(self.barrier.deadline)

    def test_loss(self) -> None:
        """With the link everything open becomes unsure, for the link's reason."""
        self.send("1")
        self.barrier.ping_sent("p")
        self.send("2")
        self.barrier.lost("cut")
        self.assertEqual(self.outcomes(), {"1": "unsure", "2": "unsure"})
        self.assertEqual(self.told["1"].text, "cut")
        self.assertFalse(self.barrier.answered("p"))

    def test_same_id_twice(self) -> None:
        """Two messages with one id that are open together are both refused by one error."""
        told: list[Delivery] = []
        self.barrier.sent(text("1"), told.append, 0.0)
        self.barrier.sent(text("1"), told.append, 0.0)
        self.barrier.refused(error("1"))
        self.assertEqual([each.outcome for each in told], [Outcome.REFUSED] * 2)
        self.barrier.ping_sent("p")
        self.barrier.answered("p")
        self.assertEqual(len(told), 2)

    def test_a_faulty_caller_harms_only_itself(self) -> None:
        """A done function that raises is reported, and the others are told all the same."""

        def faulty(_: Delivery) -> None:
            raise ValueError("bug")

        self.barrier.sent(text("0"), faulty, 0.0)
        self.send("1")
        self.barrier.ping_sent("p")
        self.barrier.answered("p")
        self.assertEqual((self.faults, self.outcomes()), (1, {"1": "accepted"}))


class BarrierMachine(RuleBasedStateMachine):
    """Against a model: a home server that answers in order, and errors that come before the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = AcceptanceBarrier(20.0, lambda: None)
        self.now = 0.0
        self.count = 0
        self.pings = 0
        self.queue: list[str] = []  # what the home server has yet to handle: ids, or "ping"
        self.flying = 0
        self.told: dict[str, str] = {}
        self.sent_at: dict[str, float] = {}

    @rule(user=st.sampled_from(["alice", "nobody"]))
    def send(self, user: str) -> None:
        self.count += 1
        id = f"{user}{self.count}"

        def done(delivery: Delivery) -> None:
            assert id not in self.told
            self.told[id] = delivery.outcome.value

        self.barrier.sent(text(id, user), done, self.now)
        self.sent_at[id] = self.now
        self.queue.append(id)

    @precondition(lambda self: self.barrier.wants_ping)
    @rule()
    def flush(self) -> None:
        self.pings += 1
        self.barrier.ping_sent(f"ping{self.pings}")
        self.queue.append(f"ping{self.pings}")

    @precondition(lambda self: self.queue)
    @rule()
    def home_server_handles_one(self) -> None:
        item = self.queue.pop(0)
        if item.startswith("ping"):
            self.barrier.answered(item)
        elif item.startswith("nobody"):
            expected = item not in self.told
            assert self.barrier.refused(error(item, "nobody")) is expected

    @rule(seconds=st.sampled_from([1.0, 7.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.barrier.expire(self.now)

    @rule()
    def link_lost(self) -> None:
        self.barrier.lost("cut")
        self.queue.clear()
        assert len(self.told) == self.count

    @invariant()
    def truthful(self) -> None:
        """What is accepted was handled; what has waited 20 s is decided; refusals are nobody's."""
        for id, outcome in self.told.items():
            if outcome == "accepted":
                assert id not in self.queue and id.startswith("alice")
            elif outcome == "refused":
                assert id.startswith("nobody")
        for id, sent in self.sent_at.items():
            assert id in self.told or sent + 20.0 > self.now


class BarrierModelTests(unittest.SynchronousTestCase):
    """The model under trial."""

    def test_model(self) -> None:
        """Whatever the order of events, outcomes are told once, truthfully, and in time."""
        run_state_machine_as_test(
            BarrierMachine,
            settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
        )
