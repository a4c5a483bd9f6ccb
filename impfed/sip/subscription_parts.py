"""Values of event subscriptions: what the machines ask for, and what they are told to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from impfed.core.ids import IdSource
from impfed.sip.message import Headers, OutgoingRequest, SipMessage
from impfed.sip.subscription_retry import EndCause, RetryPolicy
from impfed.sip.subscription_tables import Phase
from impfed.sip.transaction_parts import RFC3261_TIMERS, TimerValues

GONE_STATUSES = frozenset({404, 405, 410, 416, 480, 481, 482, 483, 484, 485, 489, 501, 604})
"""Answers to SUBSCRIBE or NOTIFY after which the subscription is dead (RFC 6665 4.1.2.2, 4.2.2)."""


# What a subscriber asks for.


@dataclass(frozen=True, slots=True)
class SendSubscribe:
    """Send this in a transaction; then call ``response`` or ``failed`` with what became of it."""

    request: OutgoingRequest


@dataclass(frozen=True, slots=True)
class AnswerNotify:
    """Answer the NOTIFY (a BENOTIFY gets no answer and makes no such effect)."""

    status: int
    reason: str = ""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The subscription is now pending or active; comes when that changes."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Document:
    """A body with state: of an active NOTIFY, or of a 2xx (Microsoft's piggyback)."""

    message: SipMessage


@dataclass(frozen=True, slots=True)
class SubscriptionEnded:
    """The subscription is over.

    :ivar cause: why.
    :ivar status: status code that ended it, 0 if none did.
    :ivar reason: reason of the NOTIFY, reason phrase, or words.
    :ivar retry_at: when the subscriber tries again by itself; None: only if told to.
    """

    cause: EndCause
    status: int
    reason: str
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class Setback:
    """A refresh failed; the subscription lives until it expires and the refresh is tried again.

    :ivar status: status code, 0 if none came.
    """

    status: int
    reason: str


SubscriberEffect = (
    SendSubscribe | AnswerNotify | StateChanged | Document | SubscriptionEnded | Setback
)


# What a notifier asks for.


@dataclass(frozen=True, slots=True)
class AnswerSubscribe:
    """Answer the SUBSCRIBE; before the NOTIFY that follows in the same list."""

    status: int
    reason: str
    to_tag: str
    headers: Headers


@dataclass(frozen=True, slots=True)
class SendNotify:
    """Send this in a transaction; then call ``answered`` or ``failed`` with what became of it."""

    request: OutgoingRequest


@dataclass(frozen=True, slots=True)
class NotifyFailed:
    """A NOTIFY was refused or not sent; the subscription lives but its watcher has not seen it.

    :ivar status: status code, 0 if none came.
    """

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """The subscription is over: forget it.

    :ivar reason: our reason in the last NOTIFY, or what the watcher's side answered.
    """

    reason: str


NotifierEffect = AnswerSubscribe | SendNotify | NotifyFailed | WatchEnded


class StateDocument(NamedTuple):
    """A body of a NOTIFY: Content-Type value and octets."""

    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ExpiresLimits:
    """How long we let others subscribe, in seconds.

    :ivar minimum: shorter wishes below one hour get 423 (RFC 6665 section 4.2.1.1).
    :ivar maximum: longer wishes are cut to this.
    :ivar default: without a wish (RFC 3856 section 6.4).
    """

    minimum: int = 60
    maximum: int = 7200
    default: int = 3600


class Watching:
    """What does not change between the SUBSCRIBEs of one subscription; may be shared.

    :ivar ids: makes Call-IDs, tags and jitter.
    :ivar timers: for timer N.
    :ivar retry: when to try again.
    :ivar package: event package.
    :ivar accept: Accept value of every SUBSCRIBE, refreshes too.
    :ivar expires: seconds to ask for.
    :ivar headers: further headers of every SUBSCRIBE.
    """

    __slots__ = ("accept", "expires", "headers", "ids", "package", "retry", "timers")

    def __init__(
        self,
        ids: IdSource,
        *,
        timers: TimerValues = RFC3261_TIMERS,
        retry: RetryPolicy | None = None,
        package: str = "presence",
        accept: str = "application/pidf+xml",
        expires: int = 7200,
        headers: Headers = (),
    ) -> None:
        self.ids = ids
        self.timers = timers
        self.retry = retry or RetryPolicy()
        self.package = package
        self.accept = accept
        self.expires = expires
        self.headers = headers
