"""What part of a partner's budget a node may use (SPEC section 8): a floor, and what it borrows.

A quarter of the budget is divided evenly, so that every node can send something at once.  The rest is
lent by the store, for two seconds at a time, to those who have something to send.  While the store
cannot be asked a node keeps what it has borrowed until that ends; from then on everybody has ended,
and each takes 1/n.

Nothing here reads a clock: ``now`` is seconds on an axis that never jumps.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds for which a part is lent, and after which it is asked for again.
LENT_FOR, ASK_EVERY = 2.0, 1.0
#: Thousandths that are lent; the rest is divided evenly.
POOL = 750
#: What is asked for beyond what was used, so that a rising demand finds room.
_HEADROOM = 1.25


@dataclass(frozen=True, slots=True)
class Demand:
    """What a node would send to a partner.

    :ivar rate: requests a second that it sent lately.
    :ivar waiting: requests that wait.
    """

    rate: float
    waiting: int = 0


def wanted(demand: Demand, budget: float, nodes: int) -> int:
    """Return the thousandths to borrow for a demand.

    :param budget: requests a second that the whole cluster may send.
    :param nodes: live nodes.
    """
    need = (demand.rate * _HEADROOM + demand.waiting / LENT_FOR) / budget
    if not demand.rate and not demand.waiting:
        return 0
    return max(0, min(POOL, round(1000 * need) - (1000 - POOL) // max(1, nodes)))


class Share:
    """This node's part of one partner's budget."""

    __slots__ = ("_asked_at", "_lent", "_until")

    def __init__(self) -> None:
        self._lent = 0
        self._until = float("-inf")
        self._asked_at = float("-inf")

    @property
    def borrowed(self) -> bool:
        """Whether something was lent when the store was asked last."""
        return self._lent > 0

    def due(self, now: float) -> bool:
        """Whether it is time to ask the store."""
        return now >= self._asked_at + ASK_EVERY

    def asked(self, now: float) -> None:
        """The store is being asked."""
        self._asked_at = now

    def lent(self, thousandths: int, asked_at: float) -> None:
        """The store has lent this much, counted from when it was asked."""
        self._lent = thousandths
        self._until = asked_at + LENT_FOR

    def part(self, now: float, nodes: int, store_gone_at: float | None) -> float:
        """Return the part of the budget that the node may use, above 0 and at most 1.

        :param store_gone_at: since when the store cannot be asked; None while it can.
        """
        nodes = max(1, nodes)
        if store_gone_at is not None and now >= store_gone_at + LENT_FOR:
            return 1.0 / nodes
        borrowed = self._lent if now < self._until else 0
        return min(1.0, ((1000 - POOL) / nodes + borrowed) / 1000)
