"""The edge: the stack's user between the world and the machines inside (SPEC section 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zope.interface import implementer

from impfed.config.edge import EdgeConfig
from impfed.config.edge_checks import inner_address
from impfed.config.model import Config, ListenerConfig
from impfed.core.errors import RemoteError
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.trace import INSIDE
from impfed.policy.peers import PeerPolicy
from impfed.policy.sources import RETRY_AFTER, SourceLimits, Verdict
from impfed.proxy.agent import ProxyAgent
from impfed.proxy.border_policy import BorderPolicy
from impfed.proxy.border_ways import BorderDestinations, Fronts
from impfed.proxy.core import Proxy
from impfed.proxy.permission import Side
from impfed.proxy.readdress import PortTable
from impfed.proxy.values import Branch
from impfed.routing.inner import InnerTargets
from impfed.routing.router import Router
from impfed.sip.message import SipRequest, SipResponse
from impfed.sip.transaction import ClientTransaction, ServerTransaction
from impfed.sip.uri import SipUri
from impfed.transport.flow import Flow
from impfed.transport.pool import Target
from impfed.transport.sip import ALLOW, ISipUser, SipStack

log = EventLog("impfed.edge")

#: What a Proxy-Require may name: Microsoft's watchers ask that an unanswered NOTIFY passes.
_KNOWN = ("ms-benotify",)


def port_listeners(config: Config, edge: EdgeConfig) -> dict[str, ListenerConfig]:
    """Return a listener for each line of the port table, by the names of their targets' lines.

    Each shows what the first outside listener of its transport shows.
    """
    made = {}
    for port in edge.ports:
        first = next(
            each
            for each in config.listeners
            if each.side == "outside" and each.transport == port.transport
        )
        name = f"{port.target} {port.public_host}:{port.public_port}"
        made[name] = ListenerConfig(
            name,
            port.transport,
            port.host or port.public_host,
            port.port or port.public_port,
            port.public_host,
            port.public_port,
            first.client_certificates,
            first.proxy_protocol,
            first.proxy_addresses,
            "outside",
            first.certificate,
        )
    return made


class _BorderAgent(ProxyAgent):
    """The proxy on a stack, with the port table between it and the answers."""

    border: Border

    def received(self, request: SipRequest, flow: Flow) -> str:
        """Return what ``received`` has to say: nothing of the inside, which is nobody's business."""
        return "" if self.border.side(flow) is Side.INSIDE else super().received(request, flow)

    def response_arrived(self, transaction: ClientTransaction, response: SipResponse) -> None:
        """Take an answer, with the addresses that belong on the other side."""
        branch: Branch = transaction.user.branch
        super().response_arrived(
            transaction, self.border.readdressed(response, branch.context.source)
        )


@implementer(ISipUser)
class Border:
    """The stack's user at an edge: everything is proxied, from one side to the other.

    :param config: a configuration with ``[edge]``.
    :param ports: which target each listener of the port table leads to, by the listener's name.
    :ivar fronts: our own addresses on both sides.
    :ivar heard: told the name of a target that counts as down and has sent something.
    """

    heard: Callable[[str], None] | None = None

    def __init__(
        self,
        config: Config,
        stack: SipStack,
        targets: InnerTargets,
        ports: Mapping[str, str],
        peers: PeerPolicy,
        router: Router,
        sources: SourceLimits,
        ids: IdSource,
        metrics: Metrics,
    ) -> None:
        assert config.edge is not None
        edge = config.edge
        self._stack = stack
        self._targets = targets
        self._metrics = metrics
        self._sources = sources
        self._domains = frozenset(edge.domains)
        self.fronts = Fronts(config, stack)
        self._inner = {Target.of_hop(hop): hop.source for hop in targets.hops()}
        named = {target.name: target for target in edge.targets}
        self._table = PortTable(
            (inner_address(port, named[port.target]), (port.public_host, port.public_port))
            for port in edge.ports
        )
        self.destinations = BorderDestinations(
            stack,
            self.side,
            self.fronts,
            targets,
            ports,
            self._domains,
            peers,
            router,
            edge,
            metrics,
        )
        self._policy = BorderPolicy(
            self.side,
            self._domains,
            peers,
            targets,
            self.fronts,
            self._allowance,
            self._refused,
        )
        self._proxy = Proxy(self.fronts.ours, self.fronts.sent_by, self._policy, ids, _KNOWN)
        self._agent = _BorderAgent(
            stack,
            self._proxy,
            self.destinations.locate,
            self.destinations.leg,
            stack.timers,
            metrics,
        )
        self._agent.border = self

    @property
    def under_way(self) -> int:
        """How many requests are being proxied."""
        return len(self._proxy)

    # -- the stack's user --------------------------------------------------------------------------

    def request_arrived(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow
    ) -> None:
        """Proxy a request.

        :raises RemoteError: to have the stack answer with it.
        """
        if self.side(flow) is Side.INSIDE:
            name = self._targets.who(flow.peer.names) or self._targets.who_at(flow.remote[0])
            if self.heard is not None and not self._targets.answers(name):
                self.heard(name)
        else:
            now = self._stack.timers.seconds()
            self._judge(self._sources.address(flow.remote[0], now), flow.remote[0], flow)
            self.destinations.came_by(flow)
        if self._asks_us(request) and not self._policy.calls_itself(request, flow):
            self._stack.respond(transaction, 200, headers=(("Allow", ALLOW),))
            return
        self._agent.request_arrived(transaction, self._readdressed_request(request, flow), flow)

    def ack_arrived(
        self, request: SipRequest, transaction: ServerTransaction | None, flow: Flow
    ) -> None:
        """Forward the ACK of a 2xx."""
        self._agent.ack_arrived(self._readdressed_request(request, flow), transaction, flow)

    def cancel_arrived(self, transaction: ServerTransaction, request: SipRequest) -> None:
        """Cancel where the INVITE has gone."""
        self._agent.cancel_arrived(transaction, request)

    def no_ack(self, transaction: ServerTransaction) -> None:
        """Never comes: the user agents see to the ACK of a 2xx."""

    def stray_response(self, response: SipResponse, flow: Flow) -> None:
        """A response that belongs to no request of ours goes nowhere."""
        self._agent.stray_response(response, flow)

    def flow_closed(self, flow: Flow) -> str:
        """A connection is gone; returns the name of the target that it led to, "" for none."""
        self.destinations.flow_closed(flow)
        return self._inner.get(getattr(flow, "target", None), "")  # type: ignore[arg-type]  # None is no target

    def named(self, flow: Flow) -> str:
        """Return what the trace calls a connection: with a word before those of our own machines."""
        inside = getattr(flow, "target", None) in self._inner or self.side(flow) is Side.INSIDE
        return f"{INSIDE}{flow}" if inside else str(flow)

    def leads_inside(self, target: Target) -> bool:
        """Say whether a connection of ours for it leads to a machine inside."""
        return target in self._inner

    # -- sides -------------------------------------------------------------------------------------

    def side(self, flow: Flow) -> Side:
        """Say on which side a connection is: inside is who proves it, where only they can come from."""
        if flow.listener:
            if not self.fronts.inside(flow.listener):
                return Side.OUTSIDE
        elif getattr(flow, "target", None) not in self._inner:
            return Side.OUTSIDE
        if flow.transport == "tls":
            known = flow.peer.proven and self._targets.who(flow.peer.names)
        else:
            known = self._targets.who_at(flow.remote[0])
        return Side.INSIDE if known else Side.OUTSIDE

    def readdressed(self, response: SipResponse, source: Flow) -> SipResponse:
        """Return an answer with the addresses that whoever has asked knows."""
        if not self._table:
            return response
        if self.side(source) is Side.INSIDE:
            return self._table.response_inward(response)
        return self._table.response_outward(response)

    def _readdressed_request(self, request: SipRequest, flow: Flow) -> SipRequest:
        if not self._table:
            return request
        if self.side(flow) is Side.INSIDE:
            return self._table.request_outward(request)
        return self._table.request_inward(request)

    def _asks_us(self, request: SipRequest) -> bool:
        if request.method != "OPTIONS" or request.to_tag:
            return False
        uri = request.uri
        if not isinstance(uri, SipUri) or uri.user:
            return False
        return self.fronts.ours(uri) or (uri.host in self._domains and uri.port is None)

    # -- limits and refusals -----------------------------------------------------------------------

    def _allowance(self, domain: str, flow: Flow) -> RemoteError | None:
        now = self._stack.timers.seconds()
        try:
            self._judge(self._sources.domain(domain, now), domain, flow)
        except RemoteError as error:
            return error
        return None

    def _judge(self, verdict: Verdict, source: str, flow: Flow) -> None:
        """Refuse what is over a limit.

        :raises RemoteError: 480 with Retry-After; a 503 would take the whole edge out of use.
        """
        if verdict is Verdict.PASS:
            return
        self._metrics.count("edge.over_limit")
        if verdict is Verdict.CLOSE:
            self._metrics.count("edge.closed_over_limit")
            log.warn(
                "over_limit",
                "connection with {peer} closed: {source} sends more than it may",
                peer=str(flow),
                source=source,
            )
            flow.abort(f"{source} sends more than it may")
        raise RemoteError(480, "Temporarily Unavailable", (("Retry-After", str(RETRY_AFTER)),))

    def _refused(self, request: SipRequest, flow: Flow, reason: str) -> None:
        self._metrics.count("edge.refused")
        log.warn(
            "refused",
            "{method} from {peer} is not passed on: {reason}",
            method=request.method,
            peer=str(flow),
            reason=reason,
            conversation=request.call_id,
        )
