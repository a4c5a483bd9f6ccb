"""Pauses between attempts: growing, bounded, and never the same for two nodes."""

from __future__ import annotations

from impfed.core.ids import IdSource


class Backoff:
    """Exponential back-off with jitter.

    :param ids: source of the jitter.
    :param first: first pause, in seconds.
    :param limit: longest pause.
    :param lasting: shortest pause after a failure that will not pass by itself.
    """

    __slots__ = ("_failures", "_first", "_ids", "_lasting", "_limit")

    def __init__(
        self, ids: IdSource, first: float = 0.5, limit: float = 30.0, lasting: float = 5.0
    ) -> None:
        self._ids = ids
        self._first = first
        self._limit = limit
        self._lasting = lasting
        self._failures = 0

    def next(self, lasting: bool = False) -> float:
        """Return the pause before the next attempt: between 75 % and 125 % of the nominal one."""
        nominal = min(self._limit, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        if lasting:
            nominal = max(nominal, self._lasting)
        return self._ids.uniform(0.75, 1.25) * nominal

    def reset(self) -> None:
        """Start afresh: all is well."""
        self._failures = 0
