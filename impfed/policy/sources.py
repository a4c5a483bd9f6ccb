"""How much one source outside may ask of an edge: by its IP address, and by the domain it speaks for.

Nothing here reads a clock: times are arguments, seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from impfed.config.edge import EdgeLimitsConfig

#: Sources remembered; beyond this those that were quiet longest are forgotten.
_REMEMBERED = 10_000
#: Seconds without a refusal after which a source has not been over its limit in one go.
_PAUSE = 2.0
#: Seconds after which who is over the limit may try again.
RETRY_AFTER = 5


class Verdict(Enum):
    """What becomes of a request."""

    PASS = "pass"
    OVER = "over"  # answered with 480 and Retry-After
    CLOSE = "close"  # and its connection is closed, for it has been over the limit for long


@dataclass(slots=True)
class _Source:
    tokens: float
    at: float
    refused: int = 0
    since: float = 0.0
    last: float = float("-inf")


class SourceLimits:
    """A bucket for each source; it holds what may come in one second, and fills evenly."""

    def __init__(self, config: EdgeLimitsConfig) -> None:
        self._hold = config.hold
        self._rates = {"address": config.requests, "domain": config.domain_requests}
        self._sources: dict[tuple[str, str], _Source] = {}

    def __len__(self) -> int:
        """Return how many sources are remembered."""
        return len(self._sources)

    def address(self, address: str, now: float) -> Verdict:
        """Count a request from an IP address."""
        return self._take("address", address, now)

    def domain(self, domain: str, now: float) -> Verdict:
        """Count a request that a connection may send for a domain."""
        return self._take("domain", domain, now)

    def over(self) -> Iterator[dict[str, object]]:
        """Tell of the sources that were over a limit, the latest first."""
        refused = [item for item in self._sources.items() if item[1].refused]
        for (kind, name), source in sorted(refused, key=lambda item: -item[1].last):
            limit = f"{self._rates[kind]} requests a second"
            line = {"source": name, "limited_by": kind, "limit": limit, "refused": source.refused}
            yield line | {"last_at": source.last}

    def _take(self, kind: str, name: str, now: float) -> Verdict:
        rate = self._rates[kind]
        if rate is None:
            return Verdict.PASS
        source = self._sources.get((kind, name))
        if source is None:
            if len(self._sources) >= _REMEMBERED:
                self._forget(now)
            source = self._sources[kind, name] = _Source(float(rate), now)
        source.tokens = min(float(rate), source.tokens + max(0.0, now - source.at) * rate)
        source.at = now
        if source.tokens >= 1.0:
            source.tokens -= 1.0
            return Verdict.PASS
        if now - source.last > _PAUSE:
            source.since = now
        source.last = now
        source.refused += 1
        return Verdict.CLOSE if now - source.since >= self._hold else Verdict.OVER

    def _forget(self, now: float) -> None:
        """Forget those with a full bucket that nobody needs to be told of; else the quietest half."""
        kept = {
            key: source
            for key, source in self._sources.items()
            if source.refused or now - source.at < 1.0
        }
        if len(kept) >= _REMEMBERED:
            quiet = sorted(kept.items(), key=lambda item: -item[1].at)
            kept = dict(quiet[: _REMEMBERED // 2])
        self._sources = kept
