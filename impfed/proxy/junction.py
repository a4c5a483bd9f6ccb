"""Before the gateway: what is for a neighbour, or comes from one, is proxied; the rest is the gateway's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from impfed.config.model import Config
from impfed.core.errors import RemoteError
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.policy.peers import PeerPolicy
from impfed.proxy.agent import ProxyAgent
from impfed.proxy.core import Proxy
from impfed.proxy.destinations import Destinations
from impfed.proxy.orphans import Orphans
from impfed.proxy.permission import PairPolicy, Side, unproven
from impfed.proxy.relaying import Relaying
from impfed.routing.neighbours import Neighbours, address_of
from impfed.routing.router import Router
from impfed.sip.message import SipRequest, SipResponse
from impfed.sip.relay_token import RelayTokens
from impfed.sip.target import Hop
from impfed.sip.transaction import ServerTransaction
from impfed.sip.uri import SipUri, parse_uri
from impfed.transport.flow import Flow
from impfed.transport.pool import Target
from impfed.transport.sip import ISipUser, SipStack

log = EventLog("impfed.proxy")

#: What a Proxy-Require may name: Microsoft's watchers ask that an unanswered NOTIFY passes.
_KNOWN = ("ms-benotify",)

#: Seconds between two lines in the log about circles of one domain, and for how many it is kept.
_SAY_AGAIN, _SAID_LIMIT = 60.0, 1000

#: Says whether a dialog is the gateway's own, by Call-ID and our tag.
Owned = Callable[[str, str], bool]


@implementer(ISipUser)
class Junction:
    """The stack's user on a node that has neighbours.

    :param gateway: the user for everything that ends at this node.
    :param owned: says which dialogs are the gateway's.
    :param tokens: finds the owner of what came to the wrong node; None where nodes share no secret.
    """

    def __init__(
        self,
        gateway: Any,
        owned: Owned,
        config: Config,
        stack: SipStack,
        neighbours: Neighbours,
        peers: PeerPolicy,
        router: Router,
        ids: IdSource,
        metrics: Metrics,
        tokens: RelayTokens | None = None,
    ) -> None:
        self._gateway = gateway
        self._owned = owned
        self._stack = stack
        self._neighbours = neighbours
        self._peers = peers
        self._metrics = metrics
        self._listeners = config.listeners
        self._homes = config.local_domains
        self._router = router
        self._said: dict[str, float] = {}
        self._own: frozenset[tuple[str, int]] = frozenset()
        self.relaying = Relaying(
            tokens, neighbours, config.listeners, self._ours, stack.timers.seconds, metrics
        )
        self.destinations = Destinations(
            stack, neighbours, self._foreign, router.resolve, metrics, self.relaying
        )
        policy = PairPolicy(
            self._side,
            config.own_domains.__contains__,
            self._foreign,
            lambda flow, domain: unproven(peers, flow, domain),
            # A dead node's, too: what belongs to it is served by others.
            lambda uri: self._ours(uri) or bool(neighbours.advertising(address_of(uri))),
            peers.reaches,
            self._refused,
        )
        stack.inside = self._inside
        mark = "" if tokens is None else tokens.mark
        self._proxy = Proxy(self._ours, self._sent_by_us, policy, ids, _KNOWN, mark=mark)
        self._agent = ProxyAgent(
            stack,
            self._proxy,
            self.destinations.locate,
            self.destinations.leg,
            stack.timers,
            metrics,
            express=True,
        )
        self._agent.looped = self._looped
        self._orphans = Orphans(stack.timers, self._arrived_again, metrics)
        self._agent.given_back = self._orphans.keep

    def _looped(self, request: SipRequest, status: int) -> None:
        """A request came back, or has no hops left: tell the operator, once a minute for each domain."""
        uri = request.to.uri if request.to_tag else request.uri
        domain = uri.host if isinstance(uri, SipUri) else ""
        came = "came back to this node" if status == 482 else "has been at too many nodes"
        words = (
            f"a request for {domain} {came} and was answered with {status}: the routes of two nodes lead"
            " to each other (see impfedctl route at both)"
        )
        self._metrics.count("routing.loops")
        self._router.note(domain, words)
        now = self._stack.timers.seconds()
        if now >= self._said.get(domain, float("-inf")) + _SAY_AGAIN:
            if len(self._said) >= _SAID_LIMIT:
                self._said.clear()
            self._said[domain] = now
            log.warn("loop", "{why}", why=words, conversation=request.call_id)

    def pace(self, pacer: Any) -> None:
        """Pass on within the partners' budgets.

        :param pacer: a :class:`impfed.gateway.paced.PacedStack`.
        """
        self._agent.pacer = pacer
        self.destinations.bounded = pacer.bounded

    def try_again(self, hop: Hop) -> None:
        """Connect to a neighbour at once when something goes there next, whatever has failed."""
        self._stack.pool.forgive(Target.of_hop(hop))

    @property
    def under_way(self) -> int:
        """How many requests are being proxied."""
        return self._agent.under_way + len(self._orphans)

    # -- the stack's user --------------------------------------------------------------------------

    def request_arrived(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow
    ) -> None:
        """Proxy a request, or leave it to the gateway.

        :raises RemoteError: to have the stack answer with it.
        """
        try:
            passes_on = self._passes_on(request, flow)
        except RemoteError:
            if request.method == "BENOTIFY":
                return  # never answered, whatever is wrong with it
            raise
        if self._orphans.waits(request) and self._orphans.keep(transaction, request, flow):
            return
        if not passes_on:
            self._gateway.request_arrived(transaction, request, flow)
            return
        if self._side(flow) is Side.OUTSIDE:
            self.destinations.came_by(flow)
        self._agent.request_arrived(transaction, request, flow)

    def _arrived_again(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow
    ) -> None:
        """Take a request for a node that could not be reached: it may be another's by now, or ours."""
        transaction.proxied = False
        try:
            self.request_arrived(transaction, request, flow)
        except RemoteError as error:
            self._stack.respond(transaction, error.status, error.reason, headers=error.headers)

    def pass_on(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow, name: str
    ) -> bool:
        """Have a node of the cluster answer a request of whose dialog it is known to be the owner.

        :return: False when that node is no neighbour, or has itself sent the request here.
        """
        if not self.relaying.belongs(request, name, flow):
            return False
        self.request_arrived(transaction, request, flow)
        return True

    def ack_arrived(
        self, request: SipRequest, transaction: ServerTransaction | None, flow: Flow
    ) -> None:
        """Forward the ACK of a proxied 2xx, or leave it to the gateway."""
        try:
            proxied = self._passes_on(request, flow)
        except RemoteError:
            return  # an ACK is never answered
        if proxied:
            self._agent.ack_arrived(request, transaction, flow)
        else:
            self._gateway.ack_arrived(request, transaction, flow)

    def cancel_arrived(self, transaction: ServerTransaction, request: SipRequest) -> None:
        """Cancel where the INVITE has gone."""
        if self._orphans.cancelled(transaction):
            self._stack.respond(transaction, 487)
            return
        user = self._agent if transaction.proxied else self._gateway
        user.cancel_arrived(transaction, request)

    def no_ack(self, transaction: ServerTransaction) -> None:
        """A 2xx was never acknowledged; of a proxied one the user agents take care."""
        if not transaction.proxied:
            self._gateway.no_ack(transaction)

    def stray_response(self, response: SipResponse, flow: Flow) -> None:
        """A response that belongs to no request of this node goes to the node whose it is, if any."""
        owner = self.relaying.answer_owner(response, flow)
        if owner is None:
            self._gateway.stray_response(response, flow)
        else:
            self._metrics.count("proxy.answers_relayed")
            # It comes once, so it is not lost because an earlier connection there has failed.
            self.try_again(owner)
            self._stack.send(response.to_bytes(), owner)

    def flow_closed(self, flow: Flow) -> None:
        """A connection is gone."""
        self.destinations.flow_closed(flow)

    # -- whose it is -------------------------------------------------------------------------------

    def _passes_on(self, request: SipRequest, flow: Flow) -> bool:
        """Whether a request goes on from here, or tries to; whether it may is asked later."""
        if request.to_tag and self._owned(request.call_id, request.to_tag):
            return False
        if not isinstance(request.uri, SipUri):
            return False
        way = self._proxy.way(request)
        target = parse_uri(way.next)
        if not isinstance(target, SipUri):
            return False
        if self.relaying.by_token(request, way, target, flow) is not None:
            return True
        there = self._neighbours.at(target)
        if there is not None and not self.relaying.back(request, there, flow):
            return True
        home = self._neighbours.hosting(target.aor) if not way.routes else None
        if not way.routes and (self._ours(target) or target.host in self._homes):
            # A single user of ours may be at home with a neighbour.
            return home is not None and target.host in self._homes
        if request.method == "OPTIONS" and not way.routes and not target.user:
            # Not for a user: who watches this node, as a balancer does, asks with any domain of ours.
            return False
        if home is not None:
            return True
        # From a node of ours to a foreign domain; nobody else is passed on to one.  What comes to a
        # dead node's address for a user of ours is served here, whichever way it came.
        for_ = request.to.uri if request.to_tag or way.routes else target
        ours = isinstance(for_, SipUri) and for_.host in self._homes
        return not ours and self._side(flow) is Side.INSIDE

    def _inside(self, flow: Flow) -> Hop | None:
        """Return the way to the neighbour that a connection was from; None for anybody else's."""
        if self._side(flow) is not Side.INSIDE:
            return None
        return self._neighbours.named(self._neighbours.who(flow.peer.names))

    def _side(self, flow: Flow) -> Side:
        peer = flow.peer
        inside = flow.transport == "tls" and peer.proven and self._neighbours.who(peer.names)
        return Side.INSIDE if inside else Side.OUTSIDE

    def _foreign(self, domain: str) -> bool:
        return self._peers.domain(domain) is not None

    def _refused(self, request: SipRequest, flow: Flow, reason: str) -> None:
        self._metrics.count("gateway.sender_refused")
        log.warn(
            "refused",
            "{method} from {peer} is not passed on: {reason}",
            method=request.method,
            peer=str(flow),
            reason=reason,
            conversation=request.call_id,
        )

    # -- what is ours ------------------------------------------------------------------------------

    def _ours(self, uri: SipUri) -> bool:
        return address_of(uri) in self._addresses()

    def _sent_by_us(self, host: str, port: int | None) -> bool:
        addresses = self._addresses()
        return any((host, each) in addresses for each in ((port,) if port else (5060, 5061)))

    def _addresses(self) -> frozenset[tuple[str, int]]:
        """Return the addresses that our Via, Contact and Record-Route name, and that we listen on.

        One that all nodes write into their Contacts is among them.
        """
        if not self._own:
            told = {self._stack.advertised(each.transport, each.name) for each in self._listeners}
            bound = {(each.host, self._stack.ports.get(each.name)) for each in self._listeners}
            shared = {(each.contact_host, each.contact_port) for each in self._listeners}
            told |= {
                (host, port) for host in self._stack.hosts.values() for _, port in told | shared
            }
            self._own = frozenset((host, port) for host, port in told | bound | shared if port)
        return self._own
