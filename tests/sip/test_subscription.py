"""Our subscriptions to others (RFC 6665 section 4.1), as stories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from twisted.trial import unittest

from impfed.core.ids import IdSource
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse, parse_message
from impfed.sip.subscription import (
    AnswerNotify,
    Document,
    EndCause,
    Phase,
    SendSubscribe,
    Setback,
    Subscriber,
    SubscriberEffect,
    SubscriptionEnded,
    Watching,
)

LYNC = Path(__file__).parent.parent / "data" / "wire" / "lync"
EDGE = "<sip:sip.lync.example:5061;transport=tls;lr>"
POOL = "<sip:pool01.lync.example:5061;transport=tls;lr;opaque=x>"
Effect = TypeVar("Effect")


class Octets:
    """Foreseeable identifiers: every one differs, and jitter is in the middle."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, octets: int) -> bytes:
        if octets == 4:
            return b"\x80\x00\x00\x00"
        self.count += 1
        return self.count.to_bytes(octets, "big")


def one(effects: Sequence[SubscriberEffect], kind: type[Effect]) -> Effect:
    """Return the only effect of a kind."""
    (found,) = [effect for effect in effects if isinstance(effect, kind)]
    return found


def kinds(effects: Sequence[SubscriberEffect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def answer(request: OutgoingRequest, status: int, extra: str = "", body: str = "") -> SipResponse:
    """Make the far side's answer to a SUBSCRIBE."""
    to = request.get("To") or ""
    if ";tag=" not in to:
        to += ";tag=far"
    text = (
        f"SIP/2.0 {status} Because\r\nVia: SIP/2.0/TLS f.example;branch=z9hG4bK1\r\n"
        f"From: {request.get('From')}\r\nTo: {to}\r\nCall-ID: {request.call_id}\r\n"
        f"CSeq: {request.cseq} SUBSCRIBE\r\n{extra}Content-Length: {len(body)}\r\n\r\n{body}"
    )
    message = parse_message(text.encode())
    assert isinstance(message, SipResponse)
    return message


class Story(unittest.SynchronousTestCase):
    """Juliet watches Romeo."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.watching = Watching(IdSource(Octets()))
        self.subscriber = Subscriber(
            self.watching,
            local="<sip:juliet@impfed.example>",
            remote="<sip:romeo@lync.example>",
            target="sip:romeo@lync.example",
            contact="<sip:juliet@fed.impfed.example:5061;transport=tls>",
        )
        self.cseq = 0

    def subscribe(self) -> OutgoingRequest:
        self.cseq = 0
        return one(self.subscriber.subscribe(self.now), SendSubscribe).request

    def response(
        self, request: OutgoingRequest, status: int, extra: str = "", body: str = ""
    ) -> list[SubscriberEffect]:
        return self.subscriber.response(answer(request, status, extra, body), self.now)

    def notify(
        self,
        state: str,
        *,
        body: str = "",
        method: str = "NOTIFY",
        tag: str = "far",
        event: str = "presence",
        cseq: int = 0,
        routes: str = "",
    ) -> list[SubscriberEffect]:
        self.cseq = cseq or self.cseq + 1
        call_id, local_tag = self.subscriber.key
        text = (
            f"{method} sip:juliet@fed.impfed.example:5061;transport=tls SIP/2.0\r\n"
            f"Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bKn{self.cseq}\r\n{routes}"
            f"From: <sip:romeo@lync.example>;tag={tag}\r\n"
            f"To: <sip:juliet@impfed.example>;tag={local_tag}\r\nCall-ID: {call_id}\r\n"
            f"CSeq: {self.cseq} {method}\r\nContact: <sip:romeo@lync.example;opaque=o;gruu>\r\n"
            + (f"Event: {event}\r\n" if event else "")
            + (f"Subscription-State: {state}\r\n" if state else "")
            + f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        message = parse_message(text.encode())
        assert isinstance(message, SipRequest)
        return self.subscriber.notify(message, self.now)

    def active(self, expires: int = 7200) -> OutgoingRequest:
        """Bring the subscription up."""
        request = self.subscribe()
        self.response(request, 200, f"Expires: {expires}\r\n")
        self.notify(f"active;expires={expires}", body="<presence/>")
        self.assertIs(self.subscriber.phase, Phase.ACTIVE)
        return request

    def timer(self) -> list[SubscriberEffect]:
        """Go to the next timer."""
        due = self.subscriber.due
        assert due is not None
        self.assertEqual(self.subscriber.handle_timer(due - 0.001), [])
        self.now = due
        return self.subscriber.handle_timer(due)


class BeginningTests(Story):
    """From the first SUBSCRIBE to the first state."""

    def test_first_subscribe(self) -> None:
        """The SUBSCRIBE asks for plain PIDF and nothing else, as the sample does."""
        request = self.subscribe()
        ours = parse_message(request.render("SIP/2.0/TLS f.example;branch=z9hG4bK1"))
        theirs = parse_message((LYNC / "subscribe-out.sip").read_bytes())
        assert isinstance(ours, SipRequest) and isinstance(theirs, SipRequest)
        self.assertEqual(ours.uri_text, theirs.uri_text)
        self.assertEqual(sorted(ours.names()), sorted(theirs.names()))
        for name in ("contact", "event", "accept", "expires", "to", "cseq", "max-forwards"):
            self.assertEqual(ours.get(name), theirs.get(name))

    def test_usual_order(self) -> None:
        """200, then NOTIFY pending, then NOTIFY active with the state."""
        request = self.subscribe()
        self.assertEqual(self.response(request, 200, "Expires: 3600\r\n"), [])
        self.assertEqual(
            kinds(self.notify("pending;expires=3600")), ["AnswerNotify", "StateChanged"]
        )
        self.assertIs(self.subscriber.phase, Phase.PENDING)
        effects = self.notify("active;expires=3590", body="<presence/>")
        self.assertEqual(kinds(effects), ["AnswerNotify", "StateChanged", "Document"])
        self.assertEqual(one(effects, AnswerNotify).status, 200)
        self.assertEqual(self.subscriber.expires_at, self.now + 3590)
        again = self.notify("active;expires=3500", body="<presence/>")
        self.assertEqual(kinds(again), ["AnswerNotify", "Document"])

    def test_notify_overtakes_answer(self) -> None:
        """A NOTIFY before the 200 makes the dialog; the 200 then adds nothing."""
        request = self.subscribe()
        effects = self.notify("active;expires=3600", body="x", routes=f"Record-Route: {EDGE}\r\n")
        self.assertEqual(kinds(effects), ["AnswerNotify", "StateChanged", "Document"])
        self.assertEqual(
            self.response(request, 200, f"Record-Route: {POOL}\r\nExpires: 3600\r\n"), []
        )
        assert self.subscriber.dialog is not None
        self.assertEqual(self.subscriber.dialog.route_set, (EDGE,))
        self.assertEqual(self.subscriber.dialog.remote_tag, "far")

    def test_route_set_of_both(self) -> None:
        """A proxy that records its route in the NOTIFY, too, does not hide those that do not."""
        other = "<sip:other.example;lr>"
        both = f"Record-Route: {POOL}\r\nRecord-Route: {EDGE}\r\nExpires: 3600\r\n"
        for notified, wanted in ((EDGE, (EDGE, POOL)), (other, (other,))):
            for answer_first in (True, False):
                self.setUp()
                request = self.subscribe()
                if answer_first:
                    self.response(request, 200, both)
                self.notify("active", routes=f"Record-Route: {notified}\r\n")
                if not answer_first:
                    self.response(request, 200, both)
                assert self.subscriber.dialog is not None
                self.assertEqual(self.subscriber.dialog.route_set, wanted)

    def test_route_set_of_the_answer(self) -> None:
        """A NOTIFY without Record-Route leaves the route set to the 200's, reversed, either order."""
        routes = f"Record-Route: {POOL}\r\nRecord-Route: {EDGE}\r\nExpires: 3600\r\n"
        request = self.subscribe()
        self.response(request, 200, routes)
        self.notify("active")
        assert self.subscriber.dialog is not None
        self.assertEqual(self.subscriber.dialog.route_set, (EDGE, POOL))
        self.subscriber.forget()
        request = self.subscribe()
        self.notify("active")
        self.response(request, 200, routes)
        self.assertEqual(self.subscriber.dialog.route_set, (EDGE, POOL))

    def test_nothing_leaks_while_pending(self) -> None:
        """A body while pending is not passed on."""
        self.subscribe()
        self.assertNotIn("Document", kinds(self.notify("pending", body="<presence/>")))

    def test_document_in_answer(self) -> None:
        """A document inside the 200 (Microsoft's piggyback) is read as a NOTIFY's."""
        request = self.subscribe()
        effects = self.response(request, 200, "Expires: 29087\r\n", "<presence/>")
        self.assertEqual(one(effects, Document).message.body, b"<presence/>")

    def test_benotify(self) -> None:
        """A BENOTIFY is taken like a NOTIFY and never answered."""
        self.active()
        effects = self.notify("active", body="<presence/>", method="BENOTIFY")
        self.assertEqual(kinds(effects), ["Document"])

    def test_fork(self) -> None:
        """A NOTIFY from a second branch gets 481: presence makes one dialog only."""
        self.active()
        effects = self.notify("active", tag="fork", cseq=1)
        self.assertEqual(one(effects, AnswerNotify).status, 481)

    def test_timer_n(self) -> None:
        """Without NOTIFY within 64*T1 the attempt has failed, also after a 200; a later one gets 481."""
        request = self.subscribe()
        self.response(request, 200, "Expires: 3600\r\n")
        key = self.subscriber.key
        effects = self.timer()
        self.assertEqual(self.now, 1032.0)
        end = one(effects, SubscriptionEnded)
        self.assertIs(end.cause, EndCause.SILENT)
        assert end.retry_at is not None
        self.assertNotEqual(self.subscriber.key, key)
        self.assertEqual(one(self.notify("active"), AnswerNotify).status, 481)
        self.assertEqual(kinds(self.timer()), ["SendSubscribe"])
        self.assertEqual(self.now, end.retry_at)

    def test_too_brief(self) -> None:
        """423 makes it ask again, once, for as long as the far side wants."""
        request = self.subscribe()
        again = one(self.response(request, 423, "Min-Expires: 9000\r\n"), SendSubscribe).request
        self.assertEqual(again.get("Expires"), "9000")
        self.assertEqual((again.call_id, again.cseq), (request.call_id, 2))
        effects = self.response(again, 423, "Min-Expires: 9000\r\n")
        self.assertEqual(one(effects, SubscriptionEnded).status, 423)

    def test_old_answers(self) -> None:
        """An answer to an older SUBSCRIBE, or a provisional one, does nothing."""
        request = self.subscribe()
        self.assertEqual(self.response(request, 100), [])
        self.response(request, 503)
        self.assertEqual(self.response(request, 404), [])
        self.assertEqual(self.subscriber.failed(request, "late", self.now), [])


class BadNotifyTests(Story):
    """NOTIFYs that are refused."""

    def refused(self, effects: list[SubscriberEffect]) -> int:
        self.assertEqual(kinds(effects), ["AnswerNotify"])
        return one(effects, AnswerNotify).status

    def test_each(self) -> None:
        """Another package 489 with Allow-Events, an id 481, no state 400, CSeq back 500."""
        self.active()
        effects = self.notify("active", event="dialog")
        self.assertEqual(self.refused(effects), 489)
        self.assertEqual(one(effects, AnswerNotify).headers, (("Allow-Events", "presence"),))
        self.assertEqual(self.refused(self.notify("active", event="presence;id=7")), 481)
        self.assertEqual(self.refused(self.notify("")), 400)
        self.assertEqual(self.refused(self.notify(";;", cseq=50)), 400)
        self.assertEqual(self.refused(self.notify("active", cseq=1)), 500)
        self.assertIs(self.subscriber.phase, Phase.ACTIVE)

    def test_idle(self) -> None:
        """A NOTIFY for nothing gets 481."""
        self.assertEqual(self.refused(self.notify("active")), 481)


class RefreshTests(Story):
    """Keeping a subscription alive."""

    def test_in_time(self) -> None:
        """The refresh goes in the dialog after 80 to 90 % of the time, with the same Accept."""
        self.active(7200)
        request = one(self.timer(), SendSubscribe).request
        self.assertTrue(1000 + 5760 <= self.now <= 1000 + 6480, self.now)
        self.assertEqual(request.uri, "sip:romeo@lync.example;opaque=o;gruu")
        self.assertEqual(request.get("Accept"), "application/pidf+xml")
        self.assertEqual(request.cseq, 2)
        self.assertIn(";tag=far", request.get("To") or "")
        self.response(request, 200, "Expires: 3600\r\n")
        self.assertEqual(self.subscriber.expires_at, self.now + 3600)
        self.notify("active;expires=3600", body="<presence/>")
        self.assertIs(self.subscriber.phase, Phase.ACTIVE)

    def test_short_subscription(self) -> None:
        """A short one is refreshed at half its time rather than in the last 32 s."""
        self.active(60)
        self.timer()
        self.assertEqual(self.now, 1030.0)

    def test_notify_without_expires(self) -> None:
        """A NOTIFY without expires leaves what the 200 said."""
        request = self.subscribe()
        self.response(request, 200, "Expires: 600\r\n")
        self.notify("active")
        self.assertEqual(self.subscriber.expires_at, 1600.0)

    def test_481(self) -> None:
        """481 to a refresh: at once a new dialog."""
        self.active()
        request = one(self.timer(), SendSubscribe).request
        end = one(self.response(request, 481), SubscriptionEnded)
        self.assertIs(end.cause, EndCause.GONE)
        assert end.retry_at is not None
        self.assertLessEqual(end.retry_at - self.now, 1.0)
        fresh = one(self.timer(), SendSubscribe).request
        self.assertNotEqual(fresh.call_id, request.call_id)
        self.assertEqual((fresh.cseq, fresh.uri), (1, "sip:romeo@lync.example"))
        self.assertNotIn("tag=", fresh.get("To") or "")

    def test_other_failure(self) -> None:
        """Any other failure leaves the subscription until it expires; the refresh is tried again."""
        self.active()
        request = one(self.timer(), SendSubscribe).request
        for _ in range(3):
            self.assertEqual(kinds(self.response(request, 503, "Retry-After: 20\r\n")), ["Setback"])
            self.assertIs(self.subscriber.phase, Phase.ACTIVE)
            before = self.now
            request = one(self.timer(), SendSubscribe).request
            self.assertGreaterEqual(self.now - before, 20.0)
        self.response(request, 200, "Expires: 7200\r\n")
        self.notify("active;expires=7200")
        self.assertEqual(self.subscriber.expires_at, self.now + 7200)

    def test_refresh_403(self) -> None:
        """A 403 to a refresh ends nothing: on Microsoft's side it means a missing allow entry."""
        self.active()
        request = one(self.timer(), SendSubscribe).request
        self.assertEqual(one(self.response(request, 403), Setback).status, 403)

    def test_expiry(self) -> None:
        """When no refresh got through it expires and begins anew."""
        self.active(600)
        ends: list[SubscriptionEnded] = []
        while not ends:
            effects = self.timer()
            for effect in effects:
                if isinstance(effect, SendSubscribe):
                    self.subscriber.failed(effect.request, "no connection", self.now)
            ends = [effect for effect in effects if isinstance(effect, SubscriptionEnded)]
        self.assertIs(ends[0].cause, EndCause.EXPIRED)
        self.assertEqual(self.now, 1600.0)
        self.assertEqual(kinds(self.timer()), ["SendSubscribe"])

    def test_no_notify_after_refresh(self) -> None:
        """Timer N guards a refresh as well."""
        self.active()
        request = one(self.timer(), SendSubscribe).request
        self.response(request, 200, "Expires: 7200\r\n")
        self.assertIs(one(self.timer(), SubscriptionEnded).cause, EndCause.SILENT)

    def test_paused(self) -> None:
        """Without refreshing it lapses, and comes back when told to."""
        self.active(600)
        self.subscriber.refreshing = False
        end = one(self.timer(), SubscriptionEnded)
        self.assertEqual((end.cause, end.retry_at, self.now), (EndCause.EXPIRED, None, 1600.0))
        self.assertIsNone(self.subscriber.due)
        self.subscriber.refreshing = True
        self.assertEqual(kinds(self.subscriber.subscribe(self.now)), ["SendSubscribe"])

    def test_on_demand(self) -> None:
        """Subscribing to what stands is a refresh; polling too."""
        self.active()
        self.assertEqual(one(self.subscriber.subscribe(self.now), SendSubscribe).request.cseq, 2)
        self.assertEqual(one(self.subscriber.poll(self.now), SendSubscribe).request.cseq, 3)
