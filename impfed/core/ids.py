"""Identifiers: branches, tags, Call-IDs, message ids.  Injected, so that tests can foresee them."""

from __future__ import annotations

from collections.abc import Callable
from os import urandom


class _Pool:
    """The operating system's random octets, fetched many at a time: a call for each id costs more."""

    __slots__ = ("_at", "_octets")

    def __init__(self) -> None:
        self._octets = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return octets that were never returned before."""
        start = self._at
        if start + count > len(self._octets):
            self._octets, start = urandom(4096), 0
        self._at = start + count
        return self._octets[start : self._at]


class IdSource:
    """Makes unguessable identifiers from a source of random octets.

    :param octets: function from a count to that many random octets; the operating system's by default.
    """

    def __init__(self, octets: Callable[[int], bytes] | None = None) -> None:
        self._octets = octets or _Pool().take
        self._latest = 0  # microseconds

    def token(self, octets: int = 10) -> str:
        """Return a token of lower-case hexadecimal digits, two for each octet of randomness."""
        return self._octets(octets).hex()

    def branch(self) -> str:
        """Return a Via branch with the magic cookie of RFC 3261 section 8.1.1.7."""
        return "z9hG4bK" + self._octets(8).hex()

    def tag(self) -> str:
        """Return a From or To tag (RFC 3261 section 19.3 asks for at least 32 random bits)."""
        return self._octets(6).hex()

    def call_id(self) -> str:
        """Return a Call-ID (RFC 3261 section 8.1.1.4); no host part, so it gives nothing away."""
        return self._octets(16).hex()

    def ordered(self, now: float) -> str:
        """Return an id that sorts by time, so that records come back in the order of their arrival.

        It is higher than every one before, also within a microsecond and when the clock is set back.
        """
        self._latest = max(int(now * 1e6), self._latest + 1)
        return f"{self._latest:014x}{self.token(4)}"

    def uniform(self, low: float, high: float) -> float:
        """Return a number between low and high, for jitter and back-off."""
        return low + (high - low) * int.from_bytes(self._octets(4), "big") / 0xFFFFFFFF
