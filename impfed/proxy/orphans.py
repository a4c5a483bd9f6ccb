"""Requests for a node of the cluster that cannot be reached, until it is known whose they are now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from impfed.core.metrics import Metrics
from impfed.core.timers import Timer
from impfed.sip.message import SipRequest
from impfed.sip.transaction import ServerTransaction
from impfed.transport.flow import Flow
from impfed.transport.timers import ReactorTimers

#: Seconds for which a request is kept: the others take over a dead node within five.  The far side waits
#: for half a minute (Timer F), an INVITE longer.
PATIENCE = 10.0
#: Seconds between two attempts.
_AGAIN = 0.5
#: Seconds within which an attempt has failed, if it does.
_COMES_BACK = 40.0
#: Requests kept at most.
_LIMIT = 1_000


class Orphans:
    """Keeps requests that have not reached anybody, and has them arrive again, in their order.

    :param arrive: takes a request as if it came now.
    """

    def __init__(
        self,
        timers: ReactorTimers,
        arrive: Callable[[ServerTransaction, SipRequest, Flow], None],
        metrics: Metrics,
    ) -> None:
        self._timers = timers
        self._arrive = arrive
        self._metrics = metrics
        self._waiting: list[tuple[ServerTransaction, SipRequest, Flow]] = []
        self._calls: Counter[str] = Counter()  # their Call-IDs
        self._ends: dict[ServerTransaction, float] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> bool:
        """Keep a request for a moment; False when it has been kept for long, or too many are."""
        now = self._timers.seconds()
        end = self._ends.setdefault(transaction, now + PATIENCE)
        if now >= end or len(self._waiting) >= _LIMIT:
            del self._ends[transaction]
            return False
        self._metrics.count("proxy.orphans")
        self._waiting.append((transaction, request, flow))
        self._calls[request.call_id] += 1
        if self._timer is None:
            self._timer = self._timers.after(_AGAIN, self._again)
        return True

    def waits(self, request: SipRequest) -> bool:
        """Say whether an earlier request of the same dialog is kept: a later one must not overtake it."""
        return request.call_id in self._calls

    def cancelled(self, transaction: ServerTransaction) -> bool:
        """Give up a request that its sender has withdrawn; returns whether it was kept."""
        for index, (kept, request, _) in enumerate(self._waiting):
            if kept is transaction:
                del self._waiting[index], self._ends[transaction]
                self._calls -= Counter((request.call_id,))
                return True
        return False

    def _again(self) -> None:
        self._timer = None
        now = self._timers.seconds()
        waiting, self._waiting = self._waiting, []
        self._calls.clear()
        for transaction, request, flow in waiting:
            self._arrive(transaction, request, flow)
        # What has arrived somewhere comes back no more; after that time it could not.
        self._ends = {each: end for each, end in self._ends.items() if end > now - _COMES_BACK}
