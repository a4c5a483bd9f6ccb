"""Next hops that have asked for a pause (503), with Retry-After or without (RFC 3261 section 21.5.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Longest pause that we keep, in seconds; a hop that asks for more is tried again after this.
LONGEST = 3600.0
#: Pause after the second 503 in a row that names none; doubled for each further one, to a limit.
_FIRST, _LIMIT = 2.0, 60.0
_CAPACITY = 1000
_SECONDS = re.compile(r"\s*(\d{1,9})(?!\d)")


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After value; None if there is none or it cannot be read."""
    match = _SECONDS.match(value) if value is not None else None
    return None if match is None else float(match[1])


@dataclass(slots=True)
class Pause:
    """A hop that is left alone.

    :ivar hop: which, as "transport:host:port".
    :ivar domain: for whose sake it was asked.
    :ivar until: when it may be asked again; what is past tells only how often it refused in a row.
    :ivar refusals: its 503s in a row.
    """

    hop: str
    domain: str
    until: float
    refusals: int = 1


class Pauses:
    """The hops of all domains.

    :ivar known: by hop; empty in ordinary times, so that asking costs nothing.
    """

    __slots__ = ("known",)

    def __init__(self, known: Iterable[Pause] = ()) -> None:
        self.known = {pause.hop: pause for pause in known}

    def of(self, hop: str, now: float) -> Pause | None:
        """Return the pause that holds for a hop now."""
        pause = self.known.get(hop)
        return pause if pause is not None and pause.until > now else None

    def refused(self, hop: str, domain: str, seconds: float | None, now: float) -> Pause:
        """Take in a 503.

        :param seconds: of its Retry-After; None without one.
        :return: the pause, whose ``until`` may be now: a single 503 without Retry-After is none.
        """
        pause = self.known.get(hop)
        if pause is None:
            if len(self.known) >= _CAPACITY:
                self.clean(now)
            if len(self.known) >= _CAPACITY:
                del self.known[next(iter(self.known))]
            pause = self.known[hop] = Pause(hop, domain, now, 0)
        pause.refusals += 1
        if seconds is None:
            again = pause.refusals - 2
            seconds = 0.0 if again < 0 else min(_LIMIT, _FIRST * 2.0 ** min(again, 10))
        pause.until = max(pause.until, now + min(seconds, LONGEST))
        return pause

    def served(self, hop: str) -> Pause | None:
        """A hop has answered something else than 503: whatever was held against it is forgotten."""
        return self.known.pop(hop, None)

    def end(self, domain: str) -> list[Pause]:
        """Forget the pauses of a domain, by the operator's word; returns them."""
        ended = [pause for pause in self.known.values() if pause.domain == domain]
        for pause in ended:
            del self.known[pause.hop]
        return ended

    def clean(self, now: float) -> None:
        """Forget what is long past."""
        for hop in [pause.hop for pause in self.known.values() if pause.until + LONGEST < now]:
            del self.known[hop]

    def view(self, domain: str, now: float) -> list[Pause]:
        """Return the pauses of a domain that hold now."""
        return [each for each in self.known.values() if each.domain == domain and each.until > now]
