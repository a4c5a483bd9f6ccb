"""Local users' messages on their way to foreign servers, until those have them.

A home server that asks what we have taken (XEP-0198, or our module) is told once the foreign server has
it, or it was given back, or waits in the store: so a message outlives the death of this node.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from impfed.core.timers import Timer
from impfed.transport.s2s_api import Fate
from impfed.xmpp.stanza import OutStanza

#: Seconds after which a home server is told all the same: it would give our stream up.
SETTLE = 30.0
#: Messages remembered, altogether.
_LIMIT = 50_000


class Departures:
    """Messages that have left for S2S.

    :param timers: calls later.
    :param limit: seconds after which who asks is told all the same.
    """

    def __init__(self, timers: Any, limit: float = SETTLE) -> None:
        self._timers = timers
        self._limit = limit
        # By identity: S2S tells the fate of the very object that it was given.
        self._open: OrderedDict[int, tuple[int, OutStanza]] = OrderedDict()
        self._by_domain: dict[str, OrderedDict[int, None]] = {}  # numbers, oldest first
        self._waiting: dict[str, deque[tuple[int, Callable[[], None], Timer]]] = {}
        self._count = 0

    def leaves(self, stanza: OutStanza) -> OutStanza:
        """Note a message that is given to S2S now; returns it."""
        self._count += 1
        self._open[id(stanza)] = (self._count, stanza)
        self._by_domain.setdefault(stanza.to.domain, OrderedDict())[self._count] = None
        if len(self._open) > _LIMIT:
            self._ended(next(iter(self._open)))
        return stanza

    def fate(self, stanza: OutStanza, fate: Fate) -> None:
        """Take what S2S tells of a stanza: the message is not ours any more, or waits in the store."""
        if id(stanza) in self._open:
            self._ended(id(stanza))

    def settle(self, domain: str, call: Callable[[], None]) -> None:
        """Call when every message to a foreign domain so far has come to its end, or time is up."""
        if domain not in self._by_domain:
            call()
            return
        timer = self._timers.after(self._limit, self._settled, domain, self._count)
        self._waiting.setdefault(domain, deque()).append((self._count, call, timer))

    def _ended(self, key: int) -> None:
        number, stanza = self._open.pop(key)
        domain = stanza.to.domain
        numbers = self._by_domain[domain]
        del numbers[number]
        if not numbers:
            del self._by_domain[domain]
        self._settled(domain, next(iter(numbers)) - 1 if numbers else self._count)

    def _settled(self, domain: str, count: int) -> None:
        waiting = self._waiting.get(domain)
        while waiting and waiting[0][0] <= count:
            _, call, timer = waiting.popleft()
            timer.cancel()
            call()
        if waiting is not None and not waiting:
            self._waiting.pop(domain, None)
