"""How much a foreign domain, and a local user, may have of us (SPEC section 5, last paragraphs)."""

from __future__ import annotations

from dataclasses import dataclass

#: Requests that a user has not answered count against their domain for so long, in seconds.
PENDING_COUNTS_FOR = 30 * 86400.0
#: Domains remembered for ``impfedctl limits``.
_REMEMBERED = 1000


@dataclass(slots=True)
class Flood:
    """What a foreign domain was refused.

    :ivar refused: new subscriptions refused, all in all.
    :ivar last_at: when the last one was, in seconds since the epoch.
    :ivar reason: which limit it was, in words.
    """

    refused: int = 0
    last_at: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class NewSubscriptions:
    """Paces the new subscriptions of each foreign domain, and remembers who wanted too many.

    A bucket holds what a domain may begin within one minute and fills evenly.

    :param per_minute: subscriptions of strangers in a minute; None for no limit.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str, _Bucket] = {}
        self._floods: dict[str, Flood] = {}

    def _level(self, domain: str, now: float) -> float:
        assert self._per_minute is not None
        bucket = self._buckets.get(domain)
        if bucket is None:
            return float(self._per_minute)
        gained = max(0.0, now - bucket.at) * self._per_minute / 60.0
        return min(float(self._per_minute), bucket.tokens + gained)

    def allows(self, domain: str, now: float) -> bool:
        """Whether one more may begin now; changes nothing."""
        return self._per_minute is None or self._level(domain, now) >= 1.0

    def begin(self, domain: str, now: float) -> None:
        """Count one that has begun."""
        if self._per_minute is None:
            return
        self._buckets[domain] = _Bucket(max(0.0, self._level(domain, now) - 1.0), now)

    def refused(self, domain: str, now: float, reason: str) -> bool:
        """Note a refusal; returns whether it is the first for a minute, to be logged."""
        flood = self._floods.get(domain)
        if flood is None:
            if len(self._floods) >= _REMEMBERED:
                del self._floods[min(self._floods, key=lambda name: self._floods[name].last_at)]
            flood = self._floods[domain] = Flood()
        first = flood.refused == 0 or now - flood.last_at >= 60.0
        flood.refused += 1
        flood.last_at = now
        flood.reason = reason
        return first

    def floods(self) -> dict[str, Flood]:
        """Return who was refused, by domain, the latest first."""
        return dict(sorted(self._floods.items(), key=lambda item: -item[1].last_at))
