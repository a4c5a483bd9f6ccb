"""Where a node's proxy sends what it may pass: to a neighbour, or on to a foreign domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from impfed.core.errors import RemoteError
from impfed.core.hosts import bracketed
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.proxy.agent import Decision
from impfed.proxy.relaying import Relaying
from impfed.proxy.values import Leg, Question, Target
from impfed.routing.api import Reject, RouteQuery
from impfed.routing.neighbours import Neighbours
from impfed.routing.router import Resolution
from impfed.sip.message import DIALOG_FORMING, REASONS, SipRequest
from impfed.sip.target import Hop
from impfed.sip.uri import SipUri
from impfed.transport.flow import Flow
from impfed.transport.sip import SipStack

log = EventLog("impfed.proxy")


class Destinations:
    """Finds the next hops of a request that may pass.

    A request towards the inside goes to the neighbour that hosts the domain, or whose Contact or Route
    it names.  One towards the outside goes to the hops of the foreign domain in its To (within a
    dialog) or Request-URI; first of all over a connection from the host that its Route names, where
    that has proven this name.

    :param foreign: says whether a domain is a configured SIP domain.
    :param resolve: finds next hops; see :meth:`impfed.routing.router.Router.resolve`.
    :param relaying: finds the owner of a request by its relay token, and hears of misrouted ones;
        None on a node that has no neighbours.
    :ivar bounded: says whether a foreign domain has a budget; None where there is none at all.
    :cvar unreached_outside: status when none of a foreign domain's hops can be reached.
    """

    bounded: Callable[[str], bool] | None = None
    unreached_outside = 500

    def __init__(
        self,
        stack: SipStack,
        neighbours: Neighbours,
        foreign: Callable[[str], bool],
        resolve: Callable[[RouteQuery, Callable[[Resolution], None]], None],
        metrics: Metrics,
        relaying: Relaying | None = None,
    ) -> None:
        self._stack = stack
        self._neighbours = neighbours
        self._foreign = foreign
        self._resolve = resolve
        self._metrics = metrics
        self._relaying = relaying
        self._flows: dict[str, Flow] = {}

    def locate(self, question: Question, done: Callable[[Decision], None]) -> None:
        """Find targets; ``done`` is called once, at once if no route needs to wait."""
        inside = self._inside(question)
        if inside is not None:
            # The far user is shown that nobody can be reached, not that a server is broken.
            ways = self._neighbours.ways(inside)
            legs = tuple(self._leg(question, way) for way in ways)
            # What is misrouted is counted, each time.
            lasting = not self._misrouted(question)
            inherited = not question.by_route and self._neighbours.serves_the_same(inside)
            done([Target(legs, unreached=480, lasting=lasting, inherited=inherited)])
            return

        def resolved(resolution: Resolution) -> None:
            if isinstance(resolution, Reject):
                status = resolution.status
                log.info(
                    "no_way",
                    "{method} for {recipient} is answered with {status}: {why}",
                    method=question.request.method,
                    recipient=str(self._recipient(question)),
                    status=status,
                    why=resolution.reason,
                    conversation=question.request.call_id,
                )
                done(RemoteError(status, REASONS.get(status, resolution.reason)))
            else:
                ways = self._onward(question, resolution)
                legs = tuple(self._leg(question, way) for way in ways)
                bounded = self._bounded(question)
                done(
                    [
                        Target(
                            legs,
                            unreached=self.unreached_outside,
                            lasting=not bounded,
                            partner=bounded,
                        )
                    ]
                )

        self._ask(question, resolved)

    def leg(self, question: Question) -> Leg | None:
        """Return the way of an ACK; None if it is not known at once.

        What follows in the dialog must not overtake it, so it goes over the peer's own connection where
        that will, even if the next hops are not known yet.
        """
        inside = self._inside(question)
        if inside is not None:
            return self._leg(question, inside)
        told: list[Resolution] = []
        self._ask(question, told.append)
        resolution = told[0] if told else ()
        if isinstance(resolution, Reject):
            return None
        ways = self._onward(question, resolution)
        return self._leg(question, ways[0]) if ways else None

    def came_by(self, flow: Flow) -> None:
        """A request came from outside over a connection, which is a way back to who it proves to be."""
        if flow.peer.proven:
            for name in flow.peer.names:
                self._flows[name] = flow

    def flow_closed(self, flow: Flow) -> None:
        """A connection is gone."""
        for name in flow.peer.names:
            if self._flows.get(name) is flow:
                del self._flows[name]

    # -- towards the inside ------------------------------------------------------------------------

    def _inside(self, question: Question) -> Hop | None:
        uri, request, flow = question.uri, question.request, question.source
        there = self._neighbours.at(uri)
        if question.by_route or self._relaying is None:
            return there
        owner = self._relaying.by_token(request, question.way, uri, flow) or there
        if owner is None:
            return self._neighbours.hosting(uri.aor)
        if self._misrouted(question):
            self._relaying.misrouted(request, uri, owner, flow)
        return owner

    def _misrouted(self, question: Question) -> bool:
        """Whether a request for another node's address came here from outside without a Route of ours."""
        if question.by_route or question.way.ours:
            return False
        if self._neighbours.who(question.source.peer.names):
            return False  # another cluster's node knows but one way in
        return self._neighbours.at(question.uri) is not None

    # -- towards the outside -----------------------------------------------------------------------

    def _recipient(self, question: Question) -> object:
        """Return whom a request is for at last: within a dialog its To, else its Request-URI."""
        request = question.request
        return request.to.uri if request.to_tag or question.by_route else question.uri

    def _bounded(self, question: Question) -> bool:
        to = self._recipient(question) if self.bounded is not None else None
        return self.bounded is not None and isinstance(to, SipUri) and self.bounded(to.host)

    def _ask(self, question: Question, resolved: Callable[[Resolution], None]) -> None:
        request = question.request
        to = self._recipient(question)
        sender = request.from_.uri
        if not isinstance(to, SipUri) or not isinstance(sender, SipUri):
            resolved(Reject(416, "no SIP address"))
        elif not self._foreign(to.host):
            resolved(Reject(404, f"{to.host} is no configured domain"))
        else:
            self._resolve(RouteQuery(request.method, sender.aor, to.aor), resolved)

    def _onward(self, question: Question, hops: Sequence[Hop]) -> list[Flow | Hop]:
        if not question.by_route:
            return list(hops)
        host = question.uri.host
        named = sorted(hops, key=lambda hop: host not in (hop.tls_name, hop.host))
        flow = self._flows.get(host)
        return [flow, *named] if flow is not None and flow.alive else list(named)

    # -- legs --------------------------------------------------------------------------------------

    def _leg(self, question: Question, way: Flow | Hop) -> Leg:
        transport = way.transport
        request, source = question.request, question.source
        domain = self._local_domain(request) if self._stack.hosts else ""
        sent_by = self._sent_by(transport, way.listener if isinstance(way, Flow) else "", domain)
        via = f"{transport.upper()} {sent_by}{';alias' if self._stack.offers(way) else ''}"
        if request.method not in DIALOG_FORMING or request.to_tag:
            return Leg(way, via)
        if self._relaying is not None and self._relaying.by_placement(request, source) is not None:
            return Leg(way, via)  # what follows goes straight to the node that owns it
        here = f"<sip:{sent_by};transport={transport};lr>"
        there = self._sent_by(source.transport, source.listener, domain)
        there = f"<sip:{there};transport={source.transport};lr>"
        # Each side is told the address on its own side (RFC 5658 section 5).
        return Leg(way, via, (here,) if here == there else (here, there))

    def _local_domain(self, request: SipRequest) -> str:
        """Return the local domain of a request for which peers are told a host of its own; "" for none."""
        for uri in (request.from_.uri, request.to.uri):
            if isinstance(uri, SipUri) and uri.host in self._stack.hosts:
                return uri.host
        return ""

    def _sent_by(self, transport: str, listener: str, domain: str) -> str:
        host, port = self._stack.advertised(transport, listener, domain)
        return f"{bracketed(host)}:{port}"
