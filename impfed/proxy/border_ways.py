"""Where an edge sends what it may pass: to a machine inside, or to a foreign domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from impfed.config.edge import EdgeConfig
from impfed.config.model import Config
from impfed.core.errors import RemoteError
from impfed.core.hosts import bracketed
from impfed.core.metrics import Metrics
from impfed.policy.peers import PeerPolicy
from impfed.proxy.agent import Decision
from impfed.proxy.destinations import Destinations
from impfed.proxy.permission import Side
from impfed.proxy.values import Leg, Question, Target
from impfed.routing.inner import InnerTargets
from impfed.routing.neighbours import Neighbours, address_of
from impfed.routing.router import Router
from impfed.sip.message import DIALOG_FORMING, REASONS
from impfed.sip.target import Hop
from impfed.sip.uri import SipUri
from impfed.transport.flow import Flow
from impfed.transport.sip import SipStack

#: Dialogs from inside whose connection is remembered.
_BEGUN = 20_000


class Fronts:
    """The edge's own addresses on its two sides; those of the port table belong to the targets."""

    def __init__(self, config: Config, stack: SipStack) -> None:
        self._stack = stack
        self._listeners = [each for each in config.listeners if each.side]
        self._sides = {each.name: each.side for each in self._listeners}
        self._first: dict[tuple[str, str], str] = {}
        for each in self._listeners:
            self._first.setdefault((each.side, each.transport), each.name)
        self._own: frozenset[tuple[str, int]] = frozenset()

    def inside(self, listener: str) -> bool:
        """Say whether a listener is on the inside."""
        return self._sides.get(listener) == "inside"

    def sent_by(self, host: str, port: int | None) -> bool:
        """Say whether a Via's sent-by is ours."""
        addresses = self._addresses()
        return any((host, each) in addresses for each in ((port,) if port else (5060, 5061)))

    def ours(self, uri: SipUri) -> bool:
        """Say whether a URI is the edge's own."""
        return address_of(uri) in self._addresses()

    def told(self, side: str, transport: str, listener: str = "") -> str:
        """Return what we are called on a side.

        :param listener: the one that counts if it is one of that side, else the side's first.
        """
        name = listener if self._sides.get(listener) == side else self._first[side, transport]
        host, port = self._stack.advertised(transport, name)
        return f"{bracketed(host)}:{port}"

    def _addresses(self) -> frozenset[tuple[str, int]]:
        if not self._own:
            told = {self._stack.advertised(each.transport, each.name) for each in self._listeners}
            bound = {(each.host, self._stack.ports.get(each.name)) for each in self._listeners}
            self._own = frozenset((host, port) for host, port in told | bound if port)
        return self._own


class BorderDestinations(Destinations):
    """Finds the next hops at an edge.

    Towards the inside: the machine whose Contact or Route is named; else the one whose port of the
    port table the request came to; else one of those that get new requests, the same for all of a
    dialog.  Towards the outside as at any node.

    :param side: tells which side a connection belongs to.
    :param ports: which target each listener of the port table leads to, by the listener's name.
    :param domains: the local domains.
    """

    unreached_outside = 504

    def __init__(
        self,
        stack: SipStack,
        side: Callable[[Flow], Side],
        fronts: Fronts,
        targets: InnerTargets,
        ports: Mapping[str, str],
        domains: frozenset[str],
        peers: PeerPolicy,
        router: Router,
        edge: EdgeConfig,
        metrics: Metrics,
    ) -> None:
        def foreign(domain: str) -> bool:
            return peers.domain(domain) is not None

        super().__init__(stack, Neighbours(), foreign, router.resolve, metrics)
        self._side = side
        self._fronts = fronts
        self._targets = targets
        self._ports = ports
        self._domains = domains
        self._retry = str(max(1, round(edge.check_interval)))
        self._begun: dict[str, Flow] = {}

    def locate(self, question: Question, done: Callable[[Decision], None]) -> None:
        """Find targets; ``done`` is called once, at once if no route needs to wait."""
        hops = self._inner(question)
        if hops is None:
            self._begins(question)
            super().locate(question, done)
            return
        legs = tuple(self._inner_leg(question, way) for way in self._alive(question, hops))
        if legs:
            done([Target(legs, unreached=480)])
        else:
            self._metrics.count("edge.no_target")
            done(RemoteError(480, REASONS[480], (("Retry-After", self._retry),)))

    def leg(self, question: Question) -> Leg | None:
        """Return the way of an ACK; None if it is not known at once."""
        hops = self._inner(question)
        if hops is None:
            return super().leg(question)
        alive = self._alive(question, hops)
        return self._inner_leg(question, alive[0]) if alive else None

    def _inner(self, question: Question) -> Sequence[Hop] | None:
        if self._side(question.source) is Side.INSIDE:
            return None
        uri, call_id = question.uri, question.request.call_id
        found = self._targets.at(uri, call_id)
        if found:
            return found
        if question.by_route or not (uri.host in self._domains or self._fronts.ours(uri)):
            return None
        name = self._ports.get(question.source.listener)
        return self._targets.named(name, call_id) if name else self._targets.for_new(call_id)

    def _begins(self, question: Question) -> None:
        """Remember which connection a dialog from inside is on, so that its order is kept.

        A partner's NOTIFY must not overtake the answer to the SUBSCRIBE.  What is forgotten, or lost
        with a restart, goes over another connection, which is right as well.
        """
        request = question.request
        if request.method in DIALOG_FORMING and not request.to_tag:
            while len(self._begun) >= _BEGUN:
                del self._begun[next(iter(self._begun))]
            self._begun[request.call_id] = question.source

    def _alive(self, question: Question, hops: Sequence[Hop]) -> list[Flow | Hop]:
        ways: list[Flow | Hop] = [hop for hop in hops if self._targets.up(hop)]
        flow = self._begun.get(question.request.call_id)
        if flow is None or not question.request.to_tag:
            return ways
        if not flow.alive:
            del self._begun[question.request.call_id]
        elif len(hops) == 1 and self._targets.who(flow.peer.names) == hops[0].source:
            ways.insert(0, flow)
        return ways

    # -- legs: each side is told the address on its own side (RFC 5658 section 5) -------------------

    def _inner_leg(self, question: Question, way: Flow | Hop) -> Leg:
        source = question.source
        listener = way.listener if isinstance(way, Flow) else ""
        here = self._fronts.told("inside", way.transport, listener)
        there = self._fronts.told("outside", source.transport, source.listener)
        return self._bordered(question, way, here, there)

    def _leg(self, question: Question, way: Flow | Hop) -> Leg:
        source = question.source
        listener = way.listener if isinstance(way, Flow) else ""
        here = self._fronts.told("outside", way.transport, listener)
        there = self._fronts.told("inside", source.transport, source.listener)
        return self._bordered(question, way, here, there)

    @staticmethod
    def _bordered(question: Question, way: Flow | Hop, here: str, there: str) -> Leg:
        via = f"{way.transport.upper()} {here}"
        request = question.request
        # Nor in a NOTIFY, though it may make the dialog (RFC 6665 section 4.3): Microsoft's edges
        # record no route there, and ours alone would hide the one in their answer to the SUBSCRIBE.
        if request.method not in DIALOG_FORMING or request.to_tag:
            return Leg(way, via)
        source = question.source.transport
        routes = (
            f"<sip:{here};transport={way.transport};lr>",
            f"<sip:{there};transport={source};lr>",
        )
        return Leg(way, via, routes)
