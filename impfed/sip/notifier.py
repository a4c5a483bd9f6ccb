"""Someone's subscription to events of ours: SUBSCRIBE in, NOTIFY out (RFC 6665 section 4.2).

The owner finds a notifier for a SUBSCRIBE within a dialog by (Call-ID, To tag) =
:attr:`Notifier.key`.  Every method returns effects, to be carried out in order.  One NOTIFY is
under way at a time; what changes meanwhile is sent when its answer has come, the newest state only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from impfed.core.errors import RemoteError
from impfed.sip.dialog import Dialog
from impfed.sip.headers import SubscriptionState, parse_event, parse_number
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse
from impfed.sip.subscription_parts import (
    GONE_STATUSES,
    AnswerSubscribe,
    ExpiresLimits,
    NotifierEffect,
    NotifyFailed,
    SendNotify,
    StateDocument,
    WatchEnded,
)
from impfed.sip.subscription_tables import NOTIFIER, Cause, Deed, Watch
from impfed.sip.transaction_tables import StateError

DEFAULT_LIMITS = ExpiresLimits()
"""From one minute to two hours."""


class Notifier(msgspec.Struct, eq=False, gc=False):
    """One subscription of a watcher.

    :ivar dialog: its dialog.
    :ivar state: where it stands.
    :ivar contact: our Contact value; may be changed, the next message carries it.
    :ivar event: Event value, echoed with its id.
    :ivar expires_at: when it ends unless refreshed.
    :ivar limits: how long we let others subscribe.
    """

    dialog: Dialog
    contact: str
    expires_at: float
    event: str = "presence"
    limits: ExpiresLimits = DEFAULT_LIMITS
    state: Watch = Watch.NEW
    _outstanding: int = 0  # CSeq of the NOTIFY under way; 0 for none
    _heard: bool = False  # whether the watcher has spoken in the dialog since that was sent
    _waiting: bool = False
    _waiting_document: StateDocument | None = None
    _reason: str = ""
    _retry_after: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """(Call-ID, our tag): Call-ID and To tag of a SUBSCRIBE within the dialog."""
        return self.dialog.key

    @property
    def due(self) -> float | None:
        """When :meth:`handle_timer` wants to be called."""
        return self.expires_at if self.state in (Watch.PENDING, Watch.ACTIVE) else None

    @property
    def busy(self) -> bool:
        """Whether a NOTIFY is under way."""
        return self._outstanding != 0

    @classmethod
    def begin(
        cls,
        request: SipRequest,
        *,
        local_tag: str,
        contact: str,
        now: float,
        approved: bool,
        document: StateDocument | None = None,
        package: str = "presence",
        limits: ExpiresLimits = DEFAULT_LIMITS,
    ) -> tuple[Notifier, list[NotifierEffect]]:
        """Take a SUBSCRIBE without To tag: answer it, and NOTIFY at once.

        With ``Expires: 0`` it is a poll: one NOTIFY with the state and it is over.

        :param local_tag: our tag of the new dialog.
        :param approved: whether the watcher may see the state; else the subscription is pending.
        :param document: the present state; None if it is not known.  Ignored unless approved.
        :raises RemoteError: 489 for another event package, 423 for a time too short, 400 for
            headers that cannot be read.
        """
        event = _check_event(request, package)
        expires = _granted(request, limits)
        dialog = Dialog.uas(request, local_tag)
        notifier = cls(
            dialog, contact=contact, event=event, expires_at=now + expires, limits=limits
        )
        if expires == 0:
            cause = Cause.POLL
            notifier._reason = "timeout"
        else:
            cause = Cause.SUBSCRIBE if approved else Cause.UNDECIDED
        return notifier, notifier._step(cause, now, document if approved else None)

    def resubscribe(
        self, request: SipRequest, now: float, document: StateDocument | None = None
    ) -> list[NotifierEffect]:
        """Take a SUBSCRIBE within the dialog: a refresh, or the end with ``Expires: 0``.

        :param document: the present state; None if it is not known.  Not sent while pending, nor at
            the end.
        :raises RemoteError: 481, 489, 423, 400, or 500 for a CSeq that goes back.
        """
        if _check_event(request, self.event.partition(";")[0]) != self.event:
            raise RemoteError(481, "Subscription Does Not Exist")
        expires = _granted(request, self.limits)
        self.dialog.accept(request)
        self._heard = True
        if expires == 0:
            self._reason = self._reason or "timeout"
            self.expires_at = now
            return self._step(Cause.UNSUBSCRIBE, now)
        self.expires_at = now + expires
        return self._step(Cause.REFRESH, now, document)

    def approve(self, now: float, document: StateDocument | None = None) -> list[NotifierEffect]:
        """Let the watcher see: a pending subscription becomes active."""
        return self._step(Cause.APPROVE, now, document)

    def publish(self, document: StateDocument | None, now: float) -> list[NotifierEffect]:
        """Send a new state, if the watcher may see it; None sends an active NOTIFY without body."""
        return self._step(Cause.CHANGE, now, document)

    def end(self, reason: str, now: float, retry_after: int | None = None) -> list[NotifierEffect]:
        """End the subscription from our side.

        :param reason: one of RFC 6665 section 4.1.3: deactivated, probation, rejected, timeout,
            giveup, noresource, invariant.
        """
        if self.state in (Watch.PENDING, Watch.ACTIVE):
            self._reason = reason
            self._retry_after = retry_after
        return self._step(Cause.END, now)

    def answered(self, response: SipResponse, now: float) -> list[NotifierEffect]:
        """Take the final answer to a NOTIFY of ours; provisional and late ones do nothing."""
        status = response.status
        if status < 200 or response.cseq.number != self._outstanding:
            return []
        if status < 300:
            return self._done(Cause.NOTIFY_OK, now, status, response.reason)
        cause = Cause.NOTIFY_GONE if status in GONE_STATUSES else Cause.NOTIFY_FAILED
        return self._done(cause, now, status, response.reason)

    def failed(
        self, request: OutgoingRequest, timeout: bool, text: str, now: float
    ) -> list[NotifierEffect]:
        """Hear that a NOTIFY got no answer.

        :param timeout: timer F ended it: the watcher is gone (section 4.2.2), unless it has
            subscribed again meanwhile, and so believes in what it was told by a 200.  A transport
            that could not even send it says nothing about the watcher.
        """
        if request.cseq != self._outstanding:
            return []
        gone = timeout and not self._heard
        return self._done(Cause.NOTIFY_GONE if gone else Cause.NOTIFY_FAILED, now, 0, text)

    def handle_timer(self, now: float) -> list[NotifierEffect]:
        """End a subscription that was not refreshed."""
        if self.due is None or self.due > now:
            return []
        self._reason = "timeout"
        return self._step(Cause.EXPIRED, now)

    # The machine

    def _done(self, cause: Cause, now: float, status: int, text: str) -> list[NotifierEffect]:
        self._outstanding = 0
        if self.state is Watch.ENDING and not self._waiting:
            cause = Cause.LAST_DONE
        elif cause is Cause.NOTIFY_GONE:
            self._reason = f"{status} {text}" if status else text
        return self._step(cause, now, None, status, text)

    def _step(
        self,
        cause: Cause,
        now: float,
        document: StateDocument | None = None,
        status: int = 0,
        text: str = "",
    ) -> list[NotifierEffect]:
        step = NOTIFIER[self.state].get(cause)
        if step is None:
            raise StateError(f"{cause.name} in state {self.state.name}")
        effects: list[NotifierEffect] = []
        if step.state is not None:
            assert isinstance(step.state, Watch)
            self.state = step.state
        for deed in step.actions:
            _WORKS[deed](self, now, effects, document, status, text)
        return effects

    def _answer(self, now: float, effects: list[NotifierEffect], *_: Any) -> None:
        headers = (
            ("Contact", self.contact),
            ("Event", self.event),
            ("Expires", str(round(self.expires_at - now))),
        )
        effects.append(AnswerSubscribe(200, "OK", self.dialog.local_tag, headers))

    def _refuse(self, now: float, effects: list[NotifierEffect], *_: Any) -> None:
        effects.append(
            AnswerSubscribe(481, "Subscription Does Not Exist", self.dialog.local_tag, ())
        )

    def _notify(
        self, now: float, effects: list[NotifierEffect], document: StateDocument | None, *_: Any
    ) -> None:
        if self._outstanding:
            if document is not None or not self._waiting:
                self._waiting_document = document
            self._waiting = True
        else:
            effects.append(SendNotify(self._request(document, now)))

    def _notify_last(
        self, now: float, effects: list[NotifierEffect], document: StateDocument | None, *_: Any
    ) -> None:
        self._waiting = False  # what waits is not worth sending any more
        self._notify(now, effects, document)

    def _next(self, now: float, effects: list[NotifierEffect], *_: Any) -> None:
        if self._waiting:
            document = self._waiting_document
            self._waiting = False
            self._waiting_document = None
            effects.append(SendNotify(self._request(document, now)))

    def _tell_failure(
        self, now: float, effects: list[NotifierEffect], document: Any, status: int, text: str
    ) -> None:
        if not self._waiting:
            effects.append(NotifyFailed(status, text))

    def _tell_end(self, now: float, effects: list[NotifierEffect], *_: Any) -> None:
        self._waiting = False
        self._waiting_document = None
        effects.append(WatchEnded(self._reason))

    def _request(self, document: StateDocument | None, now: float) -> OutgoingRequest:
        headers = [("Event", self.event), ("Subscription-State", str(self._subscription(now)))]
        body = b""
        if document is not None and self.state is not Watch.PENDING:
            headers.append(("Content-Type", document.content_type))
            body = document.body
        request = self.dialog.request("NOTIFY", headers, body, contact=self.contact)
        self._outstanding = request.cseq
        self._heard = False
        return request

    def _subscription(self, now: float) -> SubscriptionState:
        if self.state is Watch.ENDING:
            return SubscriptionState("terminated", self._reason, None, self._retry_after)
        word = "pending" if self.state is Watch.PENDING else "active"
        return SubscriptionState(word, expires=max(0, round(self.expires_at - now)))

    # The store

    def snapshot(self) -> dict[str, Any]:
        """Return the subscription as plain values, for the store."""
        return {
            "dialog": self.dialog.snapshot(),
            "contact": self.contact,
            "event": self.event,
            "expires_at": self.expires_at,
            "state": self.state.name,
        }

    @classmethod
    def restore(cls, values: Mapping[str, Any], limits: ExpiresLimits = DEFAULT_LIMITS) -> Notifier:
        """Make a notifier from what :meth:`snapshot` returned.

        The answer to a NOTIFY that was under way is lost; whoever restores it sends the state again
        if it is not sure that the watcher has it.
        """
        notifier = cls(
            Dialog.restore(values["dialog"]),
            contact=values["contact"],
            event=values["event"],
            expires_at=values["expires_at"],
            limits=limits,
        )
        state = Watch[values["state"]]
        notifier.state = Watch.ENDED if state in (Watch.ENDING, Watch.NEW) else state
        return notifier


def _check_event(request: SipRequest, package: str) -> str:
    """Return the Event value to echo.  A SUBSCRIBE without Event is meant for the package."""
    text = request.get("event")
    if text is None:
        return package
    event = parse_event(text)
    if event.package.lower() != package.lower():
        raise RemoteError(489, "Bad Event", (("Allow-Events", package),))
    return f"{package};id={event.id}" if event.id else package


def _granted(request: SipRequest, limits: ExpiresLimits) -> int:
    """Return for how many seconds to let a SUBSCRIBE subscribe (RFC 6665 section 4.2.1.1)."""
    text = request.get("expires")
    asked = limits.default if text is None else parse_number(text)
    if 0 < asked < limits.minimum and asked < 3600:
        raise RemoteError(423, "Interval Too Brief", (("Min-Expires", str(limits.minimum)),))
    return min(asked, limits.maximum)


_WORKS: dict[Any, Callable[..., None]] = {
    deed: getattr(Notifier, "_" + deed.name.lower()) for deed in Deed
}
