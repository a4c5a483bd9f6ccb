"""Our side of a subscription to someone's events: SUBSCRIBE out, NOTIFY in (RFC 6665 section 4.1).

The owner finds a subscriber for a NOTIFY by (Call-ID, To tag) = :attr:`Subscriber.key`, which
exists from the first SUBSCRIBE on, for a NOTIFY may overtake the 200.  Every method returns
effects, to be carried out in order; :attr:`Subscriber.due` says when
:meth:`Subscriber.handle_timer` wants to be called.  It may be called later than that, which is how
an owner paces a wave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from impfed.core.errors import RemoteError
from impfed.sip.dialog import Dialog, record_routes
from impfed.sip.headers import (
    SubscriptionState,
    parse_event,
    parse_number,
    parse_subscription_state,
)
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse
from impfed.sip.subscription_parts import (
    GONE_STATUSES,
    AnswerNotify,
    Document,
    SendSubscribe,
    Setback,
    StateChanged,
    SubscriberEffect,
    SubscriptionEnded,
    Watching,
)
from impfed.sip.subscription_retry import (
    LONG_STANDING,
    NO_ATTEMPTS,
    TERMINATED_REASONS,
    Attempts,
    End,
    EndCause,
    RetryKind,
)
from impfed.sip.subscription_tables import SUBSCRIBER, Act, Event, Phase
from impfed.sip.transaction_tables import StateError

LONGEST_EXPIRES = 86400
"""A Min-Expires above this (seconds) is not followed."""

_OURS = End(EndCause.UNSUBSCRIBED)


class Subscriber(msgspec.Struct, eq=False, gc=False):
    """One subscription of ours.

    :ivar watching: what all subscriptions of this sort share.
    :ivar local: our From value without tag, e.g. ``<sip:juliet@impfed.example>``.  This, ``remote``
        and ``target`` are needed to begin a dialog; a dialog has its own.
    :ivar remote: the To value.
    :ivar target: Request-URI of the first SUBSCRIBE.
    :ivar contact: our Contact value; may be changed, the next SUBSCRIBE carries it.
    :ivar phase: where it stands.
    :ivar dialog: its dialog, once a NOTIFY has come.
    :ivar refreshing: whether it refreshes and tries again by itself; may be changed.  Without that
        it lapses, until :meth:`subscribe`.
    """

    watching: Watching
    local: str = ""
    remote: str = ""
    target: str = ""
    contact: str = ""
    phase: Phase = Phase.IDLE
    refreshing: bool = True
    dialog: Dialog | None = None
    call_id: str = ""
    local_tag: str = ""
    _cseq: int = 0  # of the SUBSCRIBE last sent
    _asked: int = 0
    _answer_routes: tuple[str, ...] = ()  # Record-Route of the first 2xx, reversed
    _told: Phase | None = None
    _attempts: Attempts = NO_ATTEMPTS
    _granted: int | None = None  # Expires of the first 2xx
    _expires_at: float | None = None
    _refresh_at: float | None = None
    _n_at: float | None = None
    _retry_at: float | None = None
    _end: End = _OURS  # what the event at hand says, should it be the end

    def __post_init__(self) -> None:
        """Ask for what all ask for."""
        self._asked = self.watching.expires

    @property
    def key(self) -> tuple[str, str]:
        """(Call-ID, our tag): Call-ID and To tag of a NOTIFY.  Changes with each new dialog."""
        return (self.call_id, self.local_tag)

    @property
    def expires_at(self) -> float | None:
        """When the subscription ends unless refreshed; None while that is not known."""
        return self._expires_at

    @property
    def due(self) -> float | None:
        """When :meth:`handle_timer` wants to be called."""
        refresh_at = self._refresh_at if self.refreshing else None
        times = (self._n_at, refresh_at, self._expires_at, self._retry_at)
        return min((time for time in times if time is not None), default=None)

    # What the owner wants

    def subscribe(self, now: float) -> list[SubscriberEffect]:
        """Subscribe, or refresh now if the subscription stands."""
        return self._step(Event.SUBSCRIBE, now)

    def poll(self, now: float) -> list[SubscriberEffect]:
        """Ask once for the state (Expires: 0 in a new dialog), or refresh if there is a dialog."""
        return self._step(Event.POLL, now)

    def unsubscribe(self, now: float) -> list[SubscriberEffect]:
        """End the subscription; it is over when :class:`SubscriptionEnded` comes."""
        self._end = _OURS
        return self._step(Event.UNSUBSCRIBE, now)

    def forget(self) -> None:
        """Drop everything without a word to the far side; its next NOTIFY gets 481."""
        self._clear()
        self.phase = Phase.IDLE

    # What the far side says

    def response(self, response: SipResponse, now: float) -> list[SubscriberEffect]:
        """Take an answer to a SUBSCRIBE; provisional ones and those to an older one do nothing.

        :raises SipParseError: if a header of a 2xx cannot be read.
        """
        status = response.status
        if status < 200 or (response.call_id, response.cseq.number) != (self.call_id, self._cseq):
            return []
        if status < 300:
            return self._step(Event.OK, now, response)
        self._n_at = None
        if status == 423 and self._longer(response):
            return self._step(Event.TOO_BRIEF, now)
        cause = EndCause.GONE if status == 481 else EndCause.REFUSED
        self._end = self._ending(cause, status, response.reason, _retry_after(response))
        if status in self.watching.retry.final_statuses:
            return self._step(Event.REFUSED, now)
        return self._step(Event.GONE if status in GONE_STATUSES else Event.FAILED, now)

    def failed(self, request: OutgoingRequest, text: str, now: float) -> list[SubscriberEffect]:
        """Hear that a SUBSCRIBE got no answer at all."""
        if (request.call_id, request.cseq) != (self.call_id, self._cseq):
            return []
        self._n_at = None
        self._end = self._ending(EndCause.UNANSWERED, 0, text)
        return self._step(Event.FAILED, now)

    def notify(self, request: SipRequest, now: float) -> list[SubscriberEffect]:
        """Take a NOTIFY (or BENOTIFY) whose Call-ID and To tag are ours."""
        try:
            effects = self._notified(request, now)
        except RemoteError as error:
            effects = [AnswerNotify(error.status, error.reason, error.headers)]
        if request.method == "BENOTIFY":
            return [effect for effect in effects if not isinstance(effect, AnswerNotify)]
        return effects

    def _notified(self, request: SipRequest, now: float) -> list[SubscriberEffect]:
        event = parse_event(request.get("event") or self.watching.package)
        if event.package.lower() != self.watching.package:
            raise RemoteError(489, "Bad Event", (("Allow-Events", self.watching.package),))
        if event.id:
            raise RemoteError(481, "Subscription Does Not Exist")
        text = request.get("subscription-state")
        if text is None:
            raise RemoteError(400, "Missing Subscription-State")
        state = parse_subscription_state(text)
        if self.phase not in (Phase.IDLE, Phase.RETRY_WAIT):
            self._take_into_dialog(request, now)
        return self._step(self._classify(state), now, request, state)

    def _take_into_dialog(self, request: SipRequest, now: float) -> None:
        """Check a NOTIFY against the dialog, or let it make one (RFC 6665 section 4.4.1).

        Presence lets one SUBSCRIBE make one dialog only (RFC 3856 section 6.9): a forked NOTIFY is
        refused with 481, as the tag differs.
        """
        if self.dialog is not None:
            self.dialog.accept(request)
            return
        sent = OutgoingRequest(
            "SUBSCRIBE", self.target, [("From", self.local)], b"", self._cseq, self.call_id
        )
        self.dialog = Dialog.uac_from_notify(sent, request, self.local_tag)
        self.dialog.route_set = _whole(self.dialog.route_set, self._answer_routes)
        self._attempts = msgspec.structs.replace(self._attempts, since=now)

    def _classify(self, state: SubscriptionState) -> Event:
        if state.state == "pending":
            return Event.NOTIFY_PENDING
        if state.state != "terminated":
            return Event.NOTIFY_ACTIVE  # extension states are live
        kind = TERMINATED_REASONS.get(state.reason, RetryKind.LATER)
        self._end = self._ending(EndCause.NOTIFIED, 0, state.reason, state.retry_after, kind)
        return Event.NOTIFY_FINAL if kind is RetryKind.NEVER else Event.NOTIFY_RETRY

    def handle_timer(self, now: float) -> list[SubscriberEffect]:
        """Do what is due: timer N, expiry, refresh, or a new attempt."""
        if self._n_at is not None and self._n_at <= now:
            self._n_at = None
            self._end = self._ending(EndCause.SILENT, 0, "no NOTIFY came")
            return self._step(Event.TIMER_N, now)
        if self._expires_at is not None and self._expires_at <= now:
            self._expires_at = None
            self._end = End(EndCause.EXPIRED, 0, "expired")
            return self._step(Event.EXPIRED, now)
        if self.refreshing and self._refresh_at is not None and self._refresh_at <= now:
            self._refresh_at = None
            return self._step(Event.REFRESH_DUE, now)
        if self._retry_at is not None and self._retry_at <= now:
            return self._step(Event.RETRY_DUE, now)
        return []

    # The machine

    def _step(
        self, event: Event, now: float, message: Any = None, state: SubscriptionState | None = None
    ) -> list[SubscriberEffect]:
        step = SUBSCRIBER[self.phase].get(event)
        if step is None:
            raise StateError(f"{event.name} in state {self.phase.name}")
        effects: list[SubscriberEffect] = []
        if step.state is not None:
            assert isinstance(step.state, Phase)
            self.phase = step.state
        for act in step.actions:
            _WORKS[act](self, now, effects, message, state)
        return effects

    def _ending(
        self,
        cause: EndCause,
        status: int,
        reason: str,
        retry_after: int | None = None,
        kind: RetryKind | None = None,
    ) -> End:
        if self.phase is Phase.ENDING:
            cause = EndCause.UNSUBSCRIBED  # however it goes, that is why
        return End(cause, status, reason, retry_after, kind)

    def _longer(self, response: SipResponse) -> bool:
        try:
            minimum = _seconds(response, "min-expires")
        except RemoteError:  # it says nothing
            return False
        if minimum is None or not self._asked < minimum <= LONGEST_EXPIRES or self._asked == 0:
            return False
        self._asked = minimum
        return True

    def _send(self, request: OutgoingRequest, now: float, effects: list[SubscriberEffect]) -> None:
        self._cseq = request.cseq
        self._refresh_at = None
        self._n_at = now + self.watching.timers.limit
        effects.append(SendSubscribe(request))

    def _headers(self, expires: int) -> list[tuple[str, str]]:
        watching = self.watching
        return [
            ("Event", watching.package),
            ("Accept", watching.accept),
            ("Expires", str(expires)),
            *watching.headers,
        ]

    def _outside(self, now: float, effects: list[SubscriberEffect], expires: int) -> None:
        number = self._cseq + 1
        headers = [
            ("Max-Forwards", "70"),
            ("From", f"{self.local};tag={self.local_tag}"),
            ("To", self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{number} SUBSCRIBE"),
            ("Contact", self.contact),
            *self._headers(expires),
        ]
        request = OutgoingRequest("SUBSCRIBE", self.target, headers, b"", number, self.call_id)
        self._send(request, now, effects)

    def _inside(self, now: float, effects: list[SubscriberEffect], expires: int) -> None:
        assert self.dialog is not None
        # A SUBSCRIBE from before the dialog stood may have had a higher number.
        self.dialog.local_cseq = max(self.dialog.local_cseq, self._cseq)
        request = self.dialog.request("SUBSCRIBE", self._headers(expires), contact=self.contact)
        self._send(request, now, effects)

    def _begin(self) -> None:
        self._clear()
        self.call_id = self.watching.ids.call_id()
        self.local_tag = self.watching.ids.tag()

    def _clear(self, *_: Any) -> None:
        self.dialog = None
        self.call_id = self.local_tag = ""
        self._cseq = 0
        self._asked = self.watching.expires
        self._answer_routes = ()
        self._granted = None
        self._told = None
        self._expires_at = self._refresh_at = self._n_at = self._retry_at = None

    def _send_initial(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        self._begin()
        self._outside(now, effects, self._asked)

    def _send_poll(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        self._begin()
        self._asked = 0
        self._outside(now, effects, 0)

    def _send_longer(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        if self.dialog is None:
            self._outside(now, effects, self._asked)
        else:
            self._inside(now, effects, self._asked)

    def _send_refresh(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        self._inside(now, effects, self._asked)

    def _send_end(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        self._expires_at = None
        self._inside(now, effects, 0)

    def _answer(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        effects.append(AnswerNotify(200))

    def _answer_unknown(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        effects.append(AnswerNotify(481, "Subscription Does Not Exist"))

    def _note_expires(
        self, now: float, effects: list[SubscriberEffect], response: SipResponse, *_: Any
    ) -> None:
        expires = _seconds(response, "expires")
        granted = self._asked if expires is None else min(expires, LONGEST_EXPIRES)
        if self.dialog is None:
            self._granted = granted
            self._answer_routes = record_routes(response)[::-1]
        else:
            if self._answer_routes == ():  # the NOTIFY overtook the 200
                self._answer_routes = record_routes(response)[::-1]
                self.dialog.route_set = _whole(self.dialog.route_set, self._answer_routes)
            self.dialog.refresh_target(response)
            self._schedule(now, granted)

    def _note_state(
        self,
        now: float,
        effects: list[SubscriberEffect],
        request: SipRequest,
        state: SubscriptionState,
    ) -> None:
        self._n_at = None
        if state.expires is not None:  # it outranks the Expires of the 200
            self._schedule(now, min(state.expires, LONGEST_EXPIRES))
        elif self._expires_at is None:
            self._schedule(now, self._asked if self._granted is None else self._granted)

    def _schedule(self, now: float, expires: float) -> None:
        """Note the end, and refresh after 80 to 90 % of the time but not in its last 32 s."""
        self._expires_at = now + expires
        share = self.watching.ids.uniform(0.8, 0.9)
        lead = min(self.watching.timers.limit, expires / 2)
        self._refresh_at = now + min(expires * share, expires - lead)

    def _tell_state(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        if self._attempts.lived(now, self.watching.retry):
            self._attempts = LONG_STANDING
        if self._told is not self.phase:
            self._told = self.phase
            effects.append(StateChanged(self.phase))

    def _tell_document(
        self, now: float, effects: list[SubscriberEffect], message: Any, *_: Any
    ) -> None:
        if message.body and self.phase is not Phase.PENDING:
            effects.append(Document(message))

    def _tell_end(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        end = self._end
        effects.append(SubscriptionEnded(end.cause, end.status, end.reason, self._retry_at))

    def _tell_setback(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        effects.append(Setback(self._end.status, self._end.reason))

    def _refresh_sooner(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        if self._expires_at is None:
            return
        left = self._expires_at - now
        pause = max(left * self.watching.ids.uniform(0.25, 0.5), self._end.retry_after or 0, 5.0)
        self._refresh_at = now + pause if pause < left else None

    def _plan_retry(self, now: float, effects: list[SubscriberEffect], *_: Any) -> None:
        watching = self.watching
        retry, ids = watching.retry, watching.ids
        pause, self._attempts = self._attempts.over(now, self._end, retry, ids)
        self._retry_at = now + pause if self.refreshing else None

    # The store

    def snapshot(self) -> dict[str, Any]:
        """Return the subscription as plain values, for the store."""
        return {
            "local": self.local,
            "remote": self.remote,
            "target": self.target,
            "contact": self.contact,
            "phase": self.phase.name,
            "expires_at": self._expires_at,
            "retry_at": self._retry_at,
            "dialog": None if self.dialog is None else self.dialog.snapshot(),
        }

    @classmethod
    def restore(cls, watching: Watching, values: Mapping[str, Any], now: float) -> Subscriber:
        """Make a subscriber from what :meth:`snapshot` returned; see :meth:`stand`."""
        subscriber = cls(
            watching,
            local=values["local"],
            remote=values["remote"],
            target=values["target"],
            contact=values["contact"],
        )
        dialog = values["dialog"]
        subscriber.stand(
            Phase[values["phase"]],
            None if dialog is None else Dialog.restore(dialog),
            values["expires_at"],
            values["retry_at"],
            now,
        )
        return subscriber

    def stand(
        self,
        phase: Phase,
        dialog: Dialog | None,
        expires_at: float | None,
        retry_at: float | None,
        now: float,
    ) -> None:
        """Stand as a subscriber did that was ended by a restart; its values are given.

        A standing subscription is refreshed when its time has come or by :meth:`subscribe`; one
        that was being set up or has expired is due at once; a poll or an end is forgotten.
        """
        if dialog is not None and (phase is Phase.ACTIVE or phase is Phase.PENDING):
            self.dialog = dialog
            self.call_id, self.local_tag = dialog.call_id, dialog.local_tag
            self._cseq = dialog.local_cseq
            self.phase = self._told = phase
            self._attempts = LONG_STANDING
            self._schedule(now, max(0.0, (expires_at or now) - now))
        elif phase in (Phase.NOTIFY_WAIT, Phase.PENDING, Phase.ACTIVE, Phase.RETRY_WAIT):
            self.phase = Phase.RETRY_WAIT
            self._retry_at = retry_at or now


def _whole(notified: tuple[str, ...], answered: tuple[str, ...]) -> tuple[str, ...]:
    """Return the route set of a NOTIFY's Record-Route and that of the 200, whichever came first.

    It is the NOTIFY's, unless the 200 has the same proxies and more: some record their route in the
    SUBSCRIBE only (Microsoft's do), others in the NOTIFY too (RFC 6665 section 4.3).
    """
    rest = iter(answered)
    return answered if all(route in rest for route in notified) else notified


def _seconds(response: SipResponse, name: str) -> int | None:
    text = response.get(name)
    return None if text is None else parse_number(text)


def _retry_after(response: SipResponse) -> int | None:
    text = response.get("retry-after")
    if text is None:
        return None
    digits = text.partition(";")[0].partition("(")[0].strip()
    return min(int(digits), LONGEST_EXPIRES) if digits.isascii() and digits.isdigit() else None


_WORKS: dict[Any, Callable[..., None]] = {
    act: getattr(Subscriber, "_" + act.name.lower()) for act in Act
}
