"""A cache before the DNS: answers for their time to live, "no" for a while, failures for a moment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from impfed.core.dns import Answer, Lookup, Outcome, Question
from impfed.core.metrics import Metrics

#: Bounds in seconds: positive answers, negative ones (RFC 2308 section 5), failures (section 7).
LONGEST = 86400.0
LONGEST_NEGATIVE = 3600.0
FAILURE = 5.0
#: Entries kept; beyond it the one unused for the longest time goes.
CAPACITY = 10000


class DnsCache:
    """Answers what it knows, asks what it does not, and asks nothing twice at a time.

    :param lookup: asks the DNS.
    :param seconds: tells the time.
    """

    def __init__(
        self,
        lookup: Lookup,
        seconds: Callable[[], float],
        metrics: Metrics,
        capacity: int = CAPACITY,
    ) -> None:
        self._ask = lookup
        self._seconds = seconds
        self._metrics = metrics
        self._capacity = capacity
        self._known: OrderedDict[Question, tuple[float, Answer]] = OrderedDict()
        self._asking: dict[Question, list[Callable[[Answer], None]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def lookup(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Answer a question; the time to live of the answer is what is left of it."""
        known = self._known.get(question)
        now = self._seconds()
        if known is not None and known[0] > now:
            self._known.move_to_end(question)
            self._metrics.count("dns.cached")
            done(replace(known[1], ttl=known[0] - now))
            return
        waiting = self._asking.get(question)
        if waiting is not None:
            waiting.append(done)
            return
        self._asking[question] = [done]
        self._metrics.count("dns.asked")
        self._ask(question, lambda answer: self._arrived(question, answer))

    def forget(self) -> None:
        """Forget everything, so that a changed record is seen at once."""
        self._known.clear()

    def _arrived(self, question: Question, answer: Answer) -> None:
        if answer.outcome is Outcome.FOUND:
            ttl = min(answer.ttl, LONGEST)
        elif answer.outcome is Outcome.FAILED:
            ttl = FAILURE
            self._metrics.count("dns.failed")
        else:
            ttl = min(answer.ttl, LONGEST_NEGATIVE)
        answer = replace(answer, ttl=max(ttl, 0.0))
        if answer.ttl > 0:
            self._known[question] = (self._seconds() + answer.ttl, answer)
            self._known.move_to_end(question)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)
        for done in self._asking.pop(question, []):
            done(answer)
