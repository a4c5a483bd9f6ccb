"""Subscriptions of others to ours (RFC 6665 section 4.2), as stories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twisted.trial import unittest

from impfed.core.errors import RemoteError
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse, parse_message
from impfed.sip.subscription import (
    GONE_STATUSES,
    AnswerSubscribe,
    ExpiresLimits,
    Notifier,
    NotifierEffect,
    NotifyFailed,
    SendNotify,
    StateDocument,
    Watch,
    WatchEnded,
)
from impfed.sip.subscription_tables import NOTIFIER, Cause, Deed
from impfed.sip.transaction import StateError
from tests.sip.test_subscription import answer

LYNC = Path(__file__).parent.parent / "data" / "wire" / "lync"
CONTACT = "<sip:juliet@fed.impfed.example:5061;transport=tls>"
OPEN = StateDocument("application/pidf+xml", b"<open/>")
AWAY = StateDocument("application/pidf+xml", b"<away/>")


def sample(name: str) -> SipRequest:
    message = parse_message((LYNC / f"{name}.sip").read_bytes())
    assert isinstance(message, SipRequest)
    return message


def subscribe(
    cseq: int = 1, expires: str = "3600", event: str = "presence", to_tag: str = ""
) -> SipRequest:
    text = (
        "SUBSCRIBE sip:juliet@impfed.example SIP/2.0\r\n"
        f"Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bKs{cseq}\r\n"
        "From: <sip:romeo@lync.example>;tag=far\r\n"
        f"To: <sip:juliet@impfed.example>{';tag=' + to_tag if to_tag else ''}\r\n"
        f"Call-ID: watch\r\nCSeq: {cseq} SUBSCRIBE\r\n"
        "Contact: <sip:romeo@192.0.2.10;transport=tls>\r\n"
        + (f"Event: {event}\r\n" if event else "")
        + (f"Expires: {expires}\r\n" if expires else "")
        + "Content-Length: 0\r\n\r\n"
    )
    message = parse_message(text.encode())
    assert isinstance(message, SipRequest)
    return message


def notifies(effects: Sequence[NotifierEffect]) -> list[OutgoingRequest]:
    return [effect.request for effect in effects if isinstance(effect, SendNotify)]


def said(request: OutgoingRequest) -> tuple[str | None, bytes]:
    return request.get("Subscription-State"), request.body


def ok(request: OutgoingRequest, status: int = 200) -> SipResponse:
    return answer(request, status)


class Story(unittest.SynchronousTestCase):
    """Romeo watches Juliet."""

    def setUp(self) -> None:
        self.now = 1000.0

    def begin(
        self, request: SipRequest | None = None, approved: bool = True, answered: bool = True
    ) -> list[NotifierEffect]:
        self.notifier, effects = Notifier.begin(
            request or subscribe(),
            local_tag="ours",
            contact=CONTACT,
            now=self.now,
            approved=approved,
            document=OPEN,
        )
        if answered:
            (first,) = notifies(effects)
            self.notifier.answered(ok(first), self.now)
        return effects


class BeginningTests(Story):
    """The first SUBSCRIBE."""

    def test_approved(self) -> None:
        """The 200 comes first, then at once a NOTIFY active with the state."""
        effects = self.begin()
        first, second = effects
        assert isinstance(first, AnswerSubscribe) and isinstance(second, SendNotify)
        self.assertEqual((first.status, first.to_tag), (200, "ours"))
        self.assertEqual(
            dict(first.headers), {"Contact": CONTACT, "Event": "presence", "Expires": "3600"}
        )
        self.assertEqual(said(second.request), ("active;expires=3600", b"<open/>"))
        self.assertEqual(second.request.get("Content-Type"), "application/pidf+xml")
        self.assertEqual(second.request.uri, "sip:romeo@192.0.2.10;transport=tls")

    def test_undecided(self) -> None:
        """Before the decision it is pending, and no state leaks."""
        effects = self.begin(approved=False)
        self.assertEqual(said(notifies(effects)[0]), ("pending;expires=3600", b""))
        self.assertEqual(self.notifier.publish(AWAY, self.now), [])
        (request,) = notifies(self.notifier.approve(self.now, AWAY))
        self.assertEqual(said(request), ("active;expires=3600", b"<away/>"))
        self.assertEqual(self.notifier.approve(self.now, AWAY), [])

    def test_poll(self) -> None:
        """With Expires: 0 there is one NOTIFY terminated with the state."""
        effects = self.begin(sample("subscribe-in-poll-expires0"), answered=False)
        assert isinstance(effects[0], AnswerSubscribe)
        self.assertEqual(dict(effects[0].headers)["Expires"], "0")
        (request,) = notifies(effects)
        self.assertEqual(said(request), ("terminated;reason=timeout", b"<open/>"))
        self.assertIsNone(self.notifier.due)
        self.assertEqual(self.notifier.answered(ok(request), self.now), [WatchEnded("timeout")])
        self.assertIs(self.notifier.state, Watch.ENDED)

    def test_undecided_poll(self) -> None:
        """A poll by someone not allowed gets no state."""
        effects = self.begin(subscribe(expires="0"), approved=False, answered=False)
        self.assertEqual(said(notifies(effects)[0]), ("terminated;reason=timeout", b""))

    def test_expires(self) -> None:
        """Never more than asked, never more than the maximum; without a wish the default."""
        for asked, granted in (("28800", "7200"), ("100", "100"), ("", "3600")):
            effects = self.begin(subscribe(expires=asked))
            assert isinstance(effects[0], AnswerSubscribe)
            self.assertEqual(dict(effects[0].headers)["Expires"], granted)

    def test_refused(self) -> None:
        """Too brief 423 with Min-Expires, another package 489 with Allow-Events, nonsense 400."""
        for request, status, headers in (
            (subscribe(expires="30"), 423, (("Min-Expires", "60"),)),
            (subscribe(event="vnd-microsoft-roaming-self"), 489, (("Allow-Events", "presence"),)),
            (subscribe(expires="soon"), 400, ()),
        ):
            with self.assertRaises(RemoteError) as caught:
                self.begin(request)
            self.assertEqual((caught.exception.status, caught.exception.headers), (status, headers))

    def test_hour_is_never_too_brief(self) -> None:
        """A wish of an hour or more may not be refused as too brief (section 4.2.1.1)."""
        notifier, _ = Notifier.begin(
            subscribe(expires="3600"),
            local_tag="ours",
            contact=CONTACT,
            now=0.0,
            approved=True,
            limits=ExpiresLimits(minimum=5000),
        )
        self.assertEqual(notifier.expires_at, 3600.0)

    def test_samples(self) -> None:
        """Lync's SUBSCRIBE is answered and notified as the samples mean."""
        notifier, effects = Notifier.begin(
            sample("subscribe-in-initial"),
            local_tag="impfed-p7",
            contact=CONTACT,
            now=self.now,
            approved=True,
            document=OPEN,
        )
        (request,) = notifies(effects)
        theirs = sample("notify-out-available")
        ours = parse_message(request.render("SIP/2.0/TLS f.example;branch=z9hG4bK1"))
        assert isinstance(ours, SipRequest)
        self.assertEqual(ours.uri_text, theirs.uri_text)
        for name in ("route", "from", "call-id", "cseq", "contact", "event"):
            self.assertEqual(ours.get_all(name), theirs.get_all(name))
        self.assertEqual(ours.to.without_params, theirs.to.without_params)
        self.assertEqual(sorted(ours.to.params), sorted(theirs.to.params))
        self.assertEqual(ours.get("subscription-state"), theirs.get("subscription-state"))
        self.assertEqual(notifier.key, (theirs.call_id, "impfed-p7"))
        refreshed = notifier.resubscribe(sample("subscribe-in-refresh"), self.now, OPEN)
        self.assertIsInstance(refreshed[0], AnswerSubscribe)


class LifeTests(Story):
    """Refreshes, changes, and the order of NOTIFYs."""

    def test_refresh(self) -> None:
        """A refresh gets 200 and a full NOTIFY, and moves the end and the target."""
        self.begin()
        self.now += 1000
        effects = self.notifier.resubscribe(subscribe(2, "3600", to_tag="ours"), self.now, AWAY)
        assert isinstance(effects[0], AnswerSubscribe)
        (request,) = notifies(effects)
        self.assertEqual(said(request), ("active;expires=3600", b"<away/>"))
        self.assertEqual(self.notifier.due, 5600.0)

    def test_bad_refresh(self) -> None:
        """CSeq going back 500, another id 481, another package 489; all leaves it as it was."""
        self.begin()
        for request, status in (
            (subscribe(1, to_tag="ours"), 500),
            (subscribe(2, event="presence;id=3", to_tag="ours"), 481),
            (subscribe(2, event="dialog", to_tag="ours"), 489),
        ):
            with self.assertRaises(RemoteError) as caught:
                self.notifier.resubscribe(request, self.now)
            self.assertEqual(caught.exception.status, status)
        self.assertEqual(self.notifier.due, 4600.0)

    def test_one_at_a_time(self) -> None:
        """While a NOTIFY is under way only the newest state waits."""
        effects = self.begin(answered=False)
        (first,) = notifies(effects)
        self.assertEqual(self.notifier.publish(AWAY, self.now), [])
        self.assertEqual(self.notifier.publish(OPEN, self.now), [])
        self.assertEqual(self.notifier.publish(AWAY, self.now), [])
        (second,) = notifies(self.notifier.answered(ok(first), self.now))
        self.assertEqual((said(second)[1], second.cseq), (b"<away/>", first.cseq + 1))
        self.assertEqual(self.notifier.answered(ok(second), self.now), [])
        self.assertFalse(self.notifier.busy)

    def test_remaining_time(self) -> None:
        """The expires of a NOTIFY is what is left."""
        self.begin()
        self.now += 600.4
        (request,) = notifies(self.notifier.publish(AWAY, self.now))
        self.assertEqual(said(request)[0], "active;expires=3000")

    def test_event_id(self) -> None:
        """The id of the Event is echoed."""
        effects = self.begin(subscribe(event="presence;id=42"))
        self.assertEqual(notifies(effects)[0].get("Event"), "presence;id=42")

    def test_failure(self) -> None:
        """A NOTIFY refused for a while, or not sent, is told and leaves the subscription."""
        self.begin()
        (request,) = notifies(self.notifier.publish(AWAY, self.now))
        self.assertEqual(
            self.notifier.answered(ok(request, 503), self.now), [NotifyFailed(503, "Because")]
        )
        (request,) = notifies(self.notifier.publish(AWAY, self.now))
        self.assertEqual(
            self.notifier.failed(request, False, "refused", self.now), [NotifyFailed(0, "refused")]
        )
        self.assertIs(self.notifier.state, Watch.ACTIVE)

    def test_refreshed_meanwhile(self) -> None:
        """Silence after a NOTIFY ends nothing that the watcher has refreshed since: it gets the next one."""
        self.begin()
        (request,) = notifies(self.notifier.publish(AWAY, self.now))
        refreshed = self.notifier.resubscribe(subscribe(2, to_tag="ours"), self.now, AWAY)
        self.assertEqual(notifies(refreshed), [])
        effects = self.notifier.failed(request, True, "timer F", self.now)
        (request,) = notifies(effects)
        self.assertEqual((effects, said(request)[1]), ([SendNotify(request)], b"<away/>"))
        self.assertEqual(
            self.notifier.failed(request, True, "timer F", self.now), [WatchEnded("timer F")]
        )

    def test_unsubscribed_meanwhile(self) -> None:
        """Who has left since is told so, too."""
        self.begin()
        (request,) = notifies(self.notifier.publish(AWAY, self.now))
        self.notifier.resubscribe(subscribe(2, "0", to_tag="ours"), self.now)
        (last,) = notifies(self.notifier.failed(request, True, "timer F", self.now))
        self.assertEqual(said(last), ("terminated;reason=timeout", b""))

    def test_late_answer(self) -> None:
        """An answer to an older NOTIFY, or a provisional one, does nothing."""
        self.begin()
        (request,) = notifies(self.notifier.publish(AWAY, self.now))
        self.assertEqual(self.notifier.answered(ok(request, 100), self.now), [])
        self.notifier.answered(ok(request), self.now)
        self.assertEqual(self.notifier.answered(ok(request, 481), self.now), [])
        self.assertEqual(self.notifier.failed(request, True, "late", self.now), [])
        self.assertIs(self.notifier.state, Watch.ACTIVE)


class EndTests(Story):
    """How a watch ends."""

    def test_unsubscribe(self) -> None:
        """Their Expires: 0 gets 200 with Expires: 0 and an empty NOTIFY terminated."""
        self.begin()
        effects = self.notifier.resubscribe(subscribe(2, "0", to_tag="ours"), self.now, OPEN)
        assert isinstance(effects[0], AnswerSubscribe)
        self.assertEqual(dict(effects[0].headers)["Expires"], "0")
        (request,) = notifies(effects)
        self.assertEqual(said(request), ("terminated;reason=timeout", b""))
        again = self.notifier.resubscribe(subscribe(3, to_tag="ours"), self.now)
        assert isinstance(again[0], AnswerSubscribe)
        self.assertEqual((len(again), again[0].status), (1, 481))
        self.assertEqual(
            self.notifier.answered(ok(request, 481), self.now), [WatchEnded("timeout")]
        )

    def test_expiry(self) -> None:
        """Without a refresh it ends with reason timeout."""
        self.begin()
        self.assertEqual(self.notifier.handle_timer(4599.0), [])
        (request,) = notifies(self.notifier.handle_timer(4600.0))
        self.assertEqual(said(request), ("terminated;reason=timeout", b""))
        self.assertEqual(self.notifier.handle_timer(5000.0), [])
        self.assertEqual(
            self.notifier.failed(request, True, "timer F", 5000.0), [WatchEnded("timeout")]
        )

    def test_ours(self) -> None:
        """We can end it with a reason and a retry-after."""
        self.begin()
        (request,) = notifies(self.notifier.end("probation", self.now, 60))
        self.assertEqual(said(request)[0], "terminated;reason=probation;retry-after=60")
        self.assertEqual(self.notifier.end("giveup", self.now), [])
        self.assertEqual(self.notifier.publish(OPEN, self.now), [])

    def test_end_behind_a_notify(self) -> None:
        """An end while a NOTIFY is under way waits for it; what waited before is dropped."""
        (first,) = notifies(self.begin(answered=False))
        self.notifier.publish(AWAY, self.now)
        self.assertEqual(self.notifier.end("noresource", self.now), [])
        (last,) = notifies(self.notifier.answered(ok(first, 503), self.now))
        self.assertEqual(said(last), ("terminated;reason=noresource", b""))
        self.assertEqual(self.notifier.answered(ok(last), self.now), [WatchEnded("noresource")])

    def test_dead_watcher(self) -> None:
        """481 and its like, or timer F, to a NOTIFY end the watch without a further NOTIFY."""
        for status in sorted(GONE_STATUSES):
            self.begin()
            (request,) = notifies(self.notifier.publish(AWAY, self.now))
            effects = self.notifier.answered(ok(request, status), self.now)
            self.assertEqual(effects, [WatchEnded(f"{status} Because")])
        self.begin()
        (request,) = notifies(self.notifier.publish(AWAY, self.now))
        self.notifier.publish(OPEN, self.now)
        self.assertEqual(
            self.notifier.failed(request, True, "no answer", self.now), [WatchEnded("no answer")]
        )
        self.assertIsNone(self.notifier.due)


class StoreTests(Story):
    """Watches in the store."""

    def test_round_trip(self) -> None:
        """After a restart the watch goes on: the dialog, the numbers, the end."""
        self.begin()
        again = Notifier.restore(self.notifier.snapshot())
        self.assertEqual(again.snapshot(), self.notifier.snapshot())
        (request,) = notifies(again.publish(AWAY, self.now))
        self.assertEqual((request.cseq, said(request)[0]), (2, "active;expires=3600"))

    def test_ending(self) -> None:
        """One that was ending is not taken up again."""
        self.begin()
        self.notifier.end("giveup", self.now)
        self.assertIs(Notifier.restore(self.notifier.snapshot()).state, Watch.ENDED)


class TableTests(unittest.SynchronousTestCase):
    """The table itself."""

    def test_everything_is_written_out(self) -> None:
        """Each state after the first knows everything but a first SUBSCRIBE."""
        wanted = set(Cause) - {Cause.SUBSCRIBE, Cause.UNDECIDED, Cause.POLL, Cause.LAST_DONE}
        for state, row in NOTIFIER.items():
            if state is not Watch.NEW:
                self.assertLessEqual(wanted, row.keys(), state)

    def test_every_200_is_followed_by_a_notify(self) -> None:
        """Every 2xx to a SUBSCRIBE is followed by a NOTIFY at once (section 4.2.1.2)."""
        for row in NOTIFIER.values():
            for step in row.values():
                if Deed.ANSWER in step.actions:
                    self.assertIn(step.actions[1], (Deed.NOTIFY, Deed.NOTIFY_LAST))

    def test_unknown_pair(self) -> None:
        """An event that a state does not know is a fault of ours."""
        notifier, _ = Notifier.begin(
            subscribe(), local_tag="x", contact=CONTACT, now=0.0, approved=True
        )
        self.assertRaises(StateError, notifier._step, Cause.POLL, 0.0)
