"""Divides the partners' budgets between the nodes, on Twisted: asks for parts and hands them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from impfed.cluster.service import ClusterService
from impfed.cluster.shares import ASK_EVERY, LENT_FOR, POOL, Demand, Share, wanted
from impfed.store.api import StoreError
from impfed.store.gather import Clock

#: By domain: requests a second that the whole cluster may send, and what this node would send.
Demands: TypeAlias = Mapping[str, tuple[float, Demand]]


class Portions:
    """Keeps every partner's budget divided.

    :param demands: returns what this node would send, of every partner with a budget.
    :param apply: called with a domain and the part of its budget that holds now, whenever that
        may have changed; see :meth:`impfed.policy.budget.PartnerBudget.share`.
    :param elapsed: seconds on an axis that never jumps.
    """

    def __init__(
        self,
        clock: Clock,
        cluster: ClusterService,
        demands: Callable[[], Demands],
        apply: Callable[[str, float], None],
        elapsed: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._cluster = cluster
        self._demands = demands
        self._apply = apply
        self._elapsed = elapsed
        self._shares: dict[str, Share] = {}
        self._gone_at: float | None = None
        self._running = False
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """Ask, once a second, until :meth:`stop`."""
        self._running = True
        self._round()

    def stop(self) -> None:
        """Ask no more."""
        self._running = False
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _round(self) -> None:
        now = self._elapsed()
        if self._cluster.sees_store:
            self._gone_at = None
        elif self._gone_at is None:
            self._gone_at = now
        nodes = len(self._cluster.placement.living)
        for domain, (budget, demand) in self._demands().items():
            share = self._shares.setdefault(domain, Share())
            want = wanted(demand, budget, nodes)
            if self._gone_at is None and (want or share.borrowed):
                share.asked(now)
                asked = self._cluster.coordination.portion(
                    self._cluster.name, self._cluster.epoch, domain, want, POOL, LENT_FOR
                )
                self._await(domain, share, now, asked)
            self._tell(domain)
        self._next = self._clock.callLater(ASK_EVERY, self._round)

    def _await(self, domain: str, share: Share, asked_at: float, asked: Deferred[int]) -> None:
        def lent(thousandths: int) -> None:
            share.lent(thousandths, asked_at)
            self._tell(domain)

        def refused(failure: Failure) -> None:
            failure.trap(StoreError)  # what was lent runs out

        asked.addCallbacks(lent, refused)

    def part(self, domain: str) -> float:
        """Return the part of a domain's budget that holds now."""
        share, nodes = self._shares.get(domain) or Share(), len(self._cluster.placement.living)
        return share.part(self._elapsed(), nodes, self._gone_at)

    def _tell(self, domain: str) -> None:
        if self._running:
            self._apply(domain, self.part(domain))
