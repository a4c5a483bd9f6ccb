"""When to subscribe anew after a subscription is over (RFC 6665 section 4.1.3, and a back-off)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import msgspec

from impfed.core.ids import IdSource


class EndCause(Enum):
    """Why a subscription of ours is over."""

    NOTIFIED = "NOTIFY terminated"
    GONE = "its dialog is gone"
    REFUSED = "refused"
    UNANSWERED = "SUBSCRIBE not answered"
    SILENT = "no NOTIFY came"
    EXPIRED = "expired without refresh"
    UNSUBSCRIBED = "ended by us"
    POLLED = "was a poll"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to subscribe anew, in seconds.

    :ivar first: first interval of the back-off, doubled with each failure in a row.
    :ivar cap: longest interval.
    :ivar later: pause after ``probation``, ``giveup`` and unknown reasons without retry-after.
    :ivar lived: a subscription younger than this that ends "try at once" backs off nevertheless.
    :ivar final_statuses: answers after which it is not tried again.
    :ivar slow_statuses: answers after which it is tried at the longest interval.
    """

    first: float = 30.0
    cap: float = 3600.0
    later: float = 300.0
    lived: float = 30.0
    final_statuses: frozenset[int] = frozenset({489, 603})
    slow_statuses: frozenset[int] = frozenset({403, 404, 405, 410, 416, 420, 501, 604})

    def back_off(self, failures: int, ids: IdSource) -> float:
        """Return the pause after that many failures in a row, with jitter of a quarter."""
        pause = self.cap if failures > 16 else min(self.cap, self.first * 2.0**failures)
        return pause * ids.uniform(0.75, 1.25)


class RetryKind(Enum):
    """What a reason of ``Subscription-State: terminated`` says about trying again."""

    AT_ONCE = "at once"
    LATER = "after retry-after"
    NEVER = "never"


TERMINATED_REASONS: dict[str, RetryKind] = {
    "deactivated": RetryKind.AT_ONCE,
    "timeout": RetryKind.AT_ONCE,
    "probation": RetryKind.LATER,
    "giveup": RetryKind.LATER,
    "": RetryKind.LATER,
    "rejected": RetryKind.NEVER,
    "noresource": RetryKind.NEVER,
    "invariant": RetryKind.NEVER,
}
"""RFC 6665 section 4.1.3.  A reason that is not here counts as none."""


@dataclass(frozen=True, slots=True)
class End:
    """How a subscription ended.

    :ivar cause: why.
    :ivar status: status code that ended it, 0 if none did.
    :ivar reason: reason of the NOTIFY, reason phrase, or words.
    :ivar retry_after: seconds that the far side wants us to wait, or None.
    :ivar kind: what the reason of a NOTIFY says about trying again, or None.
    """

    cause: EndCause
    status: int = 0
    reason: str = ""
    retry_after: int | None = None
    kind: RetryKind | None = None


class Attempts(msgspec.Struct, frozen=True, gc=False):
    """How the attempts at one subscription have gone, and so when the next one comes.

    :ivar failures: failed attempts in a row.
    :ivar since: when the present subscription was first confirmed by a NOTIFY; None before that.
    """

    failures: int = 0
    since: float | None = None

    def lived(self, now: float, policy: RetryPolicy) -> bool:
        """Return whether the present subscription has stood long enough to forget old failures."""
        return self.since is not None and now - self.since >= policy.lived

    def over(
        self, now: float, end: End, policy: RetryPolicy, ids: IdSource
    ) -> tuple[float, Attempts]:
        """Return the seconds from an end to the next attempt, and how it all has gone then."""
        lived = self.lived(now, policy)
        failures = 0 if lived else self.failures
        at_once = end.kind is RetryKind.AT_ONCE or end.status == 481
        if lived and (at_once or end.cause in (EndCause.EXPIRED, EndCause.SILENT)):
            return ids.uniform(0.0, 1.0), Attempts(failures)
        if at_once and failures == 0:
            return ids.uniform(0.0, 1.0), Attempts(1)  # but not again and again
        if end.kind is RetryKind.LATER and end.retry_after is None:
            return policy.later * ids.uniform(1.0, 1.25), Attempts(failures)
        if end.status in policy.slow_statuses:
            pause = policy.cap * ids.uniform(0.9, 1.1)
        else:
            pause = policy.back_off(failures, ids)
        return max(pause, float(end.retry_after or 0)), Attempts(failures + 1)


NO_ATTEMPTS = Attempts()
"""Of a subscription that is new."""

LONG_STANDING = Attempts(since=0.0)
"""Of one that has stood for long; so do all of a node, so it is one object."""
