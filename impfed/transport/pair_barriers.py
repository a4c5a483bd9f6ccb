"""The messages of a link of many streams whose outcome is open, one acceptance barrier a stream.

A ping confirms what went before it on the same stream only, so there is one for each pair of domains.
"""

from __future__ import annotations

from collections.abc import Callable

from impfed.xmpp.barrier import AcceptanceBarrier, Delivery
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza

#: Local and foreign domain.
Pair = tuple[str, str]


def pair_of(stanza: OutStanza) -> Pair:
    """Return the pair of domains that a stanza for a local user passes between."""
    return stanza.to.domain, stanza.from_.domain


class PairBarriers:
    """The barriers of all pairs that have something open.

    :param timeout: seconds after which an outcome is given up as unsure.
    :param fault: called inside the ``except`` clause when a ``done`` function raises, to log it.
    """

    def __init__(self, timeout: float, fault: Callable[[], None]) -> None:
        self._timeout = timeout
        self._fault = fault
        self._barriers: dict[Pair, AcceptanceBarrier] = {}
        self._by_ping: set[Pair] = set()
        self._pings: dict[str, Pair] = {}

    def __len__(self) -> int:
        return sum(len(barrier) for barrier in self._barriers.values())

    def sent(
        self, stanza: OutStanza, done: Callable[[Delivery], None], now: float, acked: bool
    ) -> None:
        """Take note of a message.

        :param acked: whether its stream acknowledges it; else a ping is to confirm it.
        """
        pair = pair_of(stanza)
        barrier = self._barriers.get(pair)
        if barrier is None:
            barrier = self._barriers[pair] = AcceptanceBarrier(self._timeout, self._fault)
        if not acked:
            self._by_ping.add(pair)
        barrier.sent(stanza, done, now)

    @property
    def wants_ping(self) -> bool:
        """Whether a ping is to be written for any of the pairs."""
        return bool(self.pairs_to_ping())

    def pairs_to_ping(self) -> list[Pair]:
        """Return the pairs that a ping is to be written for."""
        return [pair for pair in self._by_ping if self._barriers[pair].wants_ping]

    def ping_sent(self, pair: Pair, id: str) -> None:
        """Take note of a ping, written after every message of its pair so far."""
        self._pings[id] = pair
        self._barriers[pair].ping_sent(id)

    def answered(self, id: str) -> bool:
        """Take an IQ of type result or error; returns whether it was a ping's answer."""
        pair = self._pings.pop(id, None)
        barrier = self._barriers.get(pair) if pair is not None else None
        if pair is None or barrier is None:
            return False
        answered = barrier.answered(id)
        self._tidy(pair)
        return answered

    def refused(self, stanza: Stanza) -> bool:
        """Take a message of type error; returns whether it decided an open outcome."""
        pair = (stanza.from_.domain, stanza.to.domain)
        barrier = self._barriers.get(pair)
        if barrier is None or not barrier.refused(stanza):
            return False
        self._tidy(pair)
        return True

    def decided(self, stanza: OutStanza, delivery: Delivery) -> bool:
        """Take what became of a message that the stream tells of; returns whether it was open."""
        pair = pair_of(stanza)
        barrier = self._barriers.get(pair)
        if barrier is None or not barrier.decided(stanza, delivery):
            return False
        self._tidy(pair)
        return True

    def waits_for(self, stanza: OutStanza) -> bool:
        """Say whether the outcome of a message is open."""
        barrier = self._barriers.get(pair_of(stanza))
        return barrier is not None and barrier.waits_for(stanza)

    @property
    def deadline(self) -> float | None:
        """When :meth:`expire` is due; None while no outcome is open."""
        due = [barrier.deadline for barrier in self._barriers.values()]
        return min((one for one in due if one is not None), default=None)

    def expire(self, now: float) -> int:
        """Give up what has waited too long; returns how many."""
        count = 0
        for pair, barrier in list(self._barriers.items()):
            count += barrier.expire(now)
            self._tidy(pair)
        return count

    def pairs(self) -> list[Pair]:
        """Return the pairs that have something open."""
        return list(self._barriers)

    def take(self, pair: Pair) -> AcceptanceBarrier | None:
        """Take out what is open of a pair, whose stream is gone: for the caller to give up."""
        barrier = self._barriers.pop(pair, None)
        self._forget(pair)
        return barrier

    def _tidy(self, pair: Pair) -> None:
        """Forget a pair of which nothing is open."""
        barrier = self._barriers.get(pair)
        if barrier is not None and barrier.deadline is None:
            del self._barriers[pair]
            self._forget(pair)

    def _forget(self, pair: Pair) -> None:
        self._by_ping.discard(pair)
        for id in [id for id, of in self._pings.items() if of == pair]:
            del self._pings[id]


def bare_domain(address: JID) -> bool:
    """Say whether an address is a domain alone."""
    return not address.local and not address.resource
