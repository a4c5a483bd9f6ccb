"""Asks the other nodes of the cluster directly whether they see the store, and answers them.

The way does not lead over the store: an OPTIONS over the mutual TLS between neighbours, answered with a
header.  Nobody but a neighbour gets that header.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, gatherResults

from impfed.cluster.membership import Sight
from impfed.core.hosts import bracketed
from impfed.core.ids import IdSource
from impfed.core.timers import Timer
from impfed.routing.neighbours import Neighbours
from impfed.sip.message import SipResponse
from impfed.sip.outgoing import options_request
from impfed.sip.transaction import ClientTransaction, FailureCause
from impfed.transport.flow import Flow
from impfed.transport.pool import Target
from impfed.transport.sip import SipStack
from impfed.transport.timers import ReactorTimers

#: The header of the answer: the node's name, and whether it sees the store.
HEADER = "Impfed-Store"
_SEEN, _GONE = "seen", "gone"
#: Seconds that an answer may take.
PATIENCE = 0.9


class Sees(Protocol):
    """What is asked of the cluster."""

    @property
    def sees_store(self) -> bool:
        """Whether this node sees the store."""
        ...


class Sights:
    """Provider of :class:`impfed.cluster.api.Others`.

    :param name: this node's name.
    :param domain: a domain of ours, in whose name is asked.
    """

    def __init__(
        self,
        name: str,
        domain: str,
        stack: SipStack,
        neighbours: Neighbours,
        ids: IdSource,
        timers: ReactorTimers,
    ) -> None:
        self._name = name
        self._domain = domain
        self._stack = stack
        self._neighbours = neighbours
        self._ids = ids
        self._timers = timers

    # -- asking ------------------------------------------------------------------------------------

    def sights(self, names: Sequence[str]) -> Deferred[list[Sight]]:
        """Ask each node whether it sees the store; one that is no neighbour gives no answer."""
        return gatherResults([self._sight(name) for name in names])

    def _sight(self, name: str) -> Deferred[Sight]:
        answer: Deferred[Sight] = Deferred()
        known = self._neighbours.named(name) is not None
        hops = self._neighbours.all_ways(name) if known else ()
        question = _Question(name, len(hops), answer.callback)
        if not hops:
            question.end(None)
            return answer
        question.timer = self._timers.after(PATIENCE, question.end, None)
        for hop in hops:
            # A node that was away a moment ago may be the one that has taken over.
            self._stack.pool.forgive(Target.of_hop(hop))
            uri = f"sip:{bracketed(hop.host)}:{hop.port};transport={hop.transport}"
            request = options_request(uri, self._domain, self._ids.call_id(), self._ids.tag())
            self._stack.request(request, hop, question)
        return answer

    # -- answering ---------------------------------------------------------------------------------

    def told(self, flow: Flow, cluster: Sees) -> tuple[tuple[str, str], ...]:
        """Return the header lines for the answer to an OPTIONS; none for a stranger."""
        peer = flow.peer
        if not (flow.transport == "tls" and peer.proven and self._neighbours.who(peer.names)):
            return ()
        return ((HEADER, f"{self._name} {_SEEN if cluster.sees_store else _GONE}"),)


class _Question:
    """The user of the OPTIONS to one node, one for each of its addresses."""

    __slots__ = ("_name", "_open", "_tell", "timer")

    def __init__(self, name: str, ways: int, done: Callable[[Sight], None]) -> None:
        self._name = name
        self._open = ways
        self._tell: Callable[[Sight], None] | None = done
        self.timer: Timer | None = None

    def response_arrived(self, transaction: ClientTransaction, response: SipResponse) -> None:
        """Somebody has answered, perhaps the node itself."""
        if response.status < 200:
            return
        name, _, what = (response.get(HEADER.lower()) or "").partition(" ")
        if name == self._name and what in (_SEEN, _GONE):
            self.end(what == _SEEN)
        else:
            self._failed()

    def request_failed(
        self, transaction: ClientTransaction, cause: FailureCause, text: str
    ) -> None:
        """There will be no answer from this address."""
        self._failed()

    def _failed(self) -> None:
        self._open -= 1
        if not self._open:
            self.end(None)

    def end(self, sees_store: bool | None) -> None:
        """Give the answer, unless it has been given."""
        done, self._tell = self._tell, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(Sight(self._name, sees_store))
