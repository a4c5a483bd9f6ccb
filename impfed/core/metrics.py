"""Counters and gauges, kept by name; the administration and control rooms read them."""

from __future__ import annotations

from collections import defaultdict


class Metrics:
    """A flat set of counters and gauges.

    Names are dotted (``sip.malformed``); a label value that could grow without bound must never be
    part of a name: configured domains may be, addresses and users may not.
    """

    __slots__ = ("_counters", "_gauges")

    def __init__(self) -> None:
        self._counters: defaultdict[str, int] = defaultdict(int)
        self._gauges: dict[str, float] = {}

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        self._counters[name] += by

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._gauges[name] = value

    def value(self, name: str) -> float:
        """Return a counter's or gauge's value; zero when it was never touched."""
        if name in self._gauges:
            return self._gauges[name]
        return self._counters.get(name, 0)

    def snapshot(self) -> dict[str, float]:
        """Return all values by name, sorted."""
        return dict(sorted({**self._counters, **self._gauges}.items()))
