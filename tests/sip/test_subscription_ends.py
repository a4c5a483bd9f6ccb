"""How subscriptions of ours end, what is kept of them, and the wire of Lync."""

from __future__ import annotations

from twisted.trial import unittest

from impfed.core.ids import IdSource
from impfed.sip.message import SipRequest, SipResponse, parse_message
from impfed.sip.subscription import (
    AnswerNotify,
    EndCause,
    Phase,
    SendSubscribe,
    StateChanged,
    Subscriber,
    SubscriptionEnded,
    Watching,
)
from impfed.sip.subscription_retry import TERMINATED_REASONS
from impfed.sip.subscription_tables import SUBSCRIBER, Act, Event
from impfed.sip.transaction import StateError
from tests.sip.test_subscription import LYNC, Story, kinds, one


class EndTests(Story):
    """Ends, and what comes after them (RFC 6665 section 4.1.3)."""

    def ended(self, state: str, lived: float = 100.0) -> SubscriptionEnded:
        self.active()
        self.now += lived
        effects = self.notify(state)
        self.assertEqual(one(effects, AnswerNotify).status, 200)
        return one(effects, SubscriptionEnded)

    def test_reasons(self) -> None:
        """Each reason has its rule: at once, later, or never."""
        for reason, low, high in (
            ("deactivated", 0.0, 1.0),
            ("timeout", 0.0, 1.0),
            ("probation;retry-after=777", 777.0, 777.0),
            ("giveup;retry-after=900", 900.0, 900.0),
            ("giveup", 300.0, 375.0),
            ("no-such-reason", 300.0, 375.0),
        ):
            self.setUp()
            end = self.ended(f"terminated;reason={reason}")
            assert end.retry_at is not None
            self.assertTrue(low <= end.retry_at - self.now <= high, (reason, end))
            self.assertEqual(kinds(self.timer()), ["SendSubscribe"])
        for reason in ("rejected", "noresource", "invariant"):
            self.setUp()
            end = self.ended(f"terminated;reason={reason}")
            self.assertIsNone(end.retry_at)
            self.assertIsNone(self.subscriber.due)
            self.assertEqual(end.reason, reason)

    def test_no_reason(self) -> None:
        """Without a reason it is tried again later."""
        self.assertIsNotNone(self.ended("terminated").retry_at)

    def test_at_once_does_not_spin(self) -> None:
        """A far side that ends each subscription at once is asked less and less often."""
        pauses = []
        for _ in range(6):
            end = self.ended("terminated;reason=timeout", lived=0.0)
            assert end.retry_at is not None
            pauses.append(end.retry_at - self.now)
            self.now = end.retry_at
            self.subscriber.forget()
        self.assertLessEqual(pauses[0], 1.0)
        self.assertGreater(pauses[-1], 300.0)
        self.assertEqual(pauses, sorted(pauses))

    def test_first_refusals(self) -> None:
        """403 is tried again hourly, 489 never, 503 after its Retry-After, a silence after a while."""
        for status, extra, low, high in (
            (403, "", 3000.0, 4200.0),
            (480, "", 20.0, 40.0),
            (503, "Retry-After: 120 (busy)\r\n", 120.0, 120.0),
        ):
            self.setUp()
            end = one(self.response(self.subscribe(), status, extra), SubscriptionEnded)
            assert end.retry_at is not None
            self.assertTrue(low <= end.retry_at - self.now <= high, end)
            self.assertEqual(end.status, status)
        self.setUp()
        end = one(self.response(self.subscribe(), 489), SubscriptionEnded)
        self.assertIsNone(end.retry_at)
        self.setUp()
        end = one(self.subscriber.failed(self.subscribe(), "gone", self.now), SubscriptionEnded)
        self.assertEqual((end.cause, end.reason), (EndCause.UNANSWERED, "gone"))
        self.assertIsNotNone(end.retry_at)

    def test_unsubscribe(self) -> None:
        """Our end is over when the last NOTIFY has come; what crosses is answered and ignored."""
        self.active()
        request = one(self.subscriber.unsubscribe(self.now), SendSubscribe).request
        self.assertEqual(request.get("Expires"), "0")
        self.assertEqual(kinds(self.notify("active", body="<presence/>")), ["AnswerNotify"])
        self.assertEqual(self.response(request, 200, "Expires: 0\r\n"), [])
        effects = self.notify("terminated;reason=timeout")
        end = one(effects, SubscriptionEnded)
        self.assertEqual((end.cause, end.retry_at), (EndCause.UNSUBSCRIBED, None))
        self.assertIs(self.subscriber.phase, Phase.IDLE)

    def test_unsubscribe_without_answer(self) -> None:
        """Our end is over as well when nobody answers."""
        for what in ("481", "failed", "silence"):
            self.setUp()
            self.active()
            request = one(self.subscriber.unsubscribe(self.now), SendSubscribe).request
            if what == "481":
                effects = self.response(request, 481)
            elif what == "failed":
                effects = self.subscriber.failed(request, "gone", self.now)
            else:
                effects = self.timer()
            self.assertIs(one(effects, SubscriptionEnded).cause, EndCause.UNSUBSCRIBED)
            self.assertIsNone(self.subscriber.due)

    def test_poll(self) -> None:
        """A poll brings one state and ends."""
        request = one(self.subscriber.poll(self.now), SendSubscribe).request
        self.assertEqual(request.get("Expires"), "0")
        self.assertEqual(self.response(request, 200, "Expires: 0\r\n"), [])
        effects = self.notify("terminated;reason=timeout", body="<presence/>")
        self.assertEqual(kinds(effects), ["AnswerNotify", "Document", "SubscriptionEnded"])
        self.assertIsNone(self.subscriber.due)


class StoreTests(Story):
    """Subscriptions in the store."""

    def again(self) -> None:
        values = self.subscriber.snapshot()
        self.subscriber = Subscriber.restore(self.watching, values, self.now)

    def test_active(self) -> None:
        """After a restart the same dialog goes on, its numbers too."""
        request = self.active()
        self.again()
        self.assertIs(self.subscriber.phase, Phase.ACTIVE)
        self.assertEqual(self.subscriber.key[0], request.call_id)
        self.assertEqual(kinds(self.notify("active", body="x")), ["AnswerNotify", "Document"])
        refresh = one(self.subscriber.subscribe(self.now), SendSubscribe).request
        self.assertEqual((refresh.call_id, refresh.cseq), (request.call_id, 2))

    def test_expired_meanwhile(self) -> None:
        """One that expired while we were away begins anew."""
        self.active(600)
        self.now += 1000
        self.again()
        self.assertEqual(kinds(self.timer()), ["SubscriptionEnded"])
        self.assertEqual(kinds(self.timer()), ["SendSubscribe"])

    def test_unfinished(self) -> None:
        """One whose SUBSCRIBE was under way is tried at once; an ending one is forgotten."""
        self.subscribe()
        self.again()
        self.assertEqual(kinds(self.subscriber.handle_timer(self.now)), ["SendSubscribe"])
        self.setUp()
        self.active()
        self.subscriber.unsubscribe(self.now)
        self.again()
        self.assertIs(self.subscriber.phase, Phase.IDLE)


class TableTests(unittest.SynchronousTestCase):
    """The table itself."""

    def test_everything_from_outside_is_written_out(self) -> None:
        """Each state knows every NOTIFY, answer and wish of the owner."""
        outside = set(Event) - {Event.TIMER_N, Event.REFRESH_DUE, Event.EXPIRED, Event.RETRY_DUE}
        for phase, row in SUBSCRIBER.items():
            self.assertLessEqual(outside, row.keys(), phase)

    def test_every_notify_is_answered(self) -> None:
        """Every NOTIFY is answered first, with 200 or 481."""
        for row in SUBSCRIBER.values():
            for event, step in row.items():
                if event.name.startswith("NOTIFY"):
                    self.assertIn(step.actions[0], (Act.ANSWER, Act.ANSWER_UNKNOWN))

    def test_unknown_pair(self) -> None:
        """An event that a state does not know is a fault of ours."""
        subscriber = Subscriber(Watching(IdSource()), local="", remote="", target="", contact="")
        self.assertRaises(StateError, subscriber._step, Event.RETRY_DUE, 0.0)

    def test_all_reasons(self) -> None:
        """Every reason of RFC 6665 has a rule."""
        self.assertEqual(
            set(TERMINATED_REASONS) - {""},
            {
                "deactivated",
                "probation",
                "rejected",
                "timeout",
                "giveup",
                "noresource",
                "invariant",
            },
        )


class WireTests(Story):
    """The samples of the wire."""

    def test_sample_story(self) -> None:
        """200, available, terminated: read, answered, and tried again."""
        self.subscribe()
        answered = parse_message((LYNC / "subscribe-200-in.sip").read_bytes())
        notify = parse_message((LYNC / "notify-in-available.sip").read_bytes())
        ended = parse_message((LYNC / "notify-in-terminated.sip").read_bytes())
        assert isinstance(answered, SipResponse)
        assert isinstance(notify, SipRequest) and isinstance(ended, SipRequest)
        self.subscriber.call_id = answered.call_id
        self.subscriber.local_tag = answered.from_tag
        self.assertEqual(self.subscriber.response(answered, self.now), [])
        effects = self.subscriber.notify(notify, self.now)
        self.assertEqual(kinds(effects), ["AnswerNotify", "StateChanged", "Document"])
        self.assertIs(one(effects, StateChanged).phase, Phase.ACTIVE)
        assert self.subscriber.dialog is not None
        self.assertEqual(len(self.subscriber.dialog.route_set), 2)
        self.assertIn("sip.lync.example", self.subscriber.dialog.route_set[0])
        self.assertIsNotNone(
            one(self.subscriber.notify(ended, self.now), SubscriptionEnded).retry_at
        )
