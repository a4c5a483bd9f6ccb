"""The second composition root: an edge, made from its configuration.  It has no users and no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from zope.interface import implementer

from impfed import __version__
from impfed.config.edge import EdgeTargetConfig
from impfed.config.model import Config, ListenerConfig
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.ctl.api import ControlError, INodeView, Whereabouts
from impfed.ctl.server import ControlServer
from impfed.failed_start import cannot_start
from impfed.policy.peers import PeerPolicy
from impfed.policy.sources import SourceLimits
from impfed.proxy.border import Border, port_listeners
from impfed.proxy.health import HealthChecks, Rhythm
from impfed.routing.inner import InnerRoute, InnerTargets
from impfed.routing.setup import Routing
from impfed.sip.framing import FramingLimits
from impfed.sip.outgoing import OutgoingRequest
from impfed.sip.target import Hop
from impfed.store.memory import MemoryStore
from impfed.transport.flow import Flow
from impfed.transport.pool import Target
from impfed.transport.sip import SipLimits, SipStack
from impfed.transport.timers import ReactorTimers
from impfed.transport.tls import TlsStore

log = EventLog("impfed.service")


@implementer(INodeView)
class Edge(MultiService):
    """One edge.

    :param reactor: the reactor.
    :param config: a checked configuration with ``[edge]``.
    """

    def __init__(self, reactor: Any, config: Config, ids: IdSource | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        assert config.edge is not None
        self.config = config
        self.edge = config.edge
        self.reactor = reactor
        self.metrics = Metrics()
        self.tracer = Tracer()
        self.ids = ids or IdSource()
        self.timers = ReactorTimers(reactor)
        self.started_at = 0.0
        self._build()

    def _build(self) -> None:
        config, edge, metrics, ids = self.config, self.edge, self.metrics, self.ids
        self.targets = InnerTargets(edge, lambda name: self.checks.up(name))
        # Nothing is learned at an edge, so that nothing has to be kept.
        self.store = MemoryStore()
        self.routing = Routing(config, self.reactor, self.store, metrics, ids)
        peers = PeerPolicy(self.routing.domains(), config.node.trusted_upstreams)
        router = self.routing.build(peers.may_prove, first=[InnerRoute(self.targets, edge.domains)])
        self.tls = TlsStore(config.tls, metrics, self.reactor)
        ports = port_listeners(config, edge)
        listeners = [self._own(listener) for listener in config.listeners]
        limits = SipLimits(
            connect_timeout=config.sip.connect_timeout,
            failover_after=config.sip.failover_after,
            reuse=config.sip.reuse,
            framing=FramingLimits(body=config.im.message_limit),
            connections_per_address=edge.limits.connections,
            handshakes_per_address=edge.limits.handshakes,
            trusted=frozenset(each.name for each in listeners if each.side == "inside"),
        )
        self.stack = SipStack(
            self.reactor, [*listeners, *ports.values()], self.tls, ids, metrics, self.tracer,
            limits=limits, upstreams=config.node.trusted_upstreams,
        )  # fmt: skip
        rhythm = Rhythm(
            edge.check_interval, edge.check_timeout, edge.check_falls, edge.check_rises,
            edge.domains[0],
        )  # fmt: skip
        self.checks = HealthChecks(
            edge.targets, rhythm, self._ask, self.timers, ids, metrics, self._turned
        )
        self.sources = SourceLimits(edge.limits)
        by_listener = {name: port.target for name, port in zip(ports, edge.ports, strict=True)}
        self.border = Border(
            config, self.stack, self.targets, by_listener, peers, router, self.sources, ids,
            metrics,
        )  # fmt: skip
        self.stack.user = self.border
        self.stack.named = self.border.named
        self.border.heard = self.checks.heard
        self.stack.closed = self._connection_closed
        self.control = ControlServer(self.reactor, config.node.control_socket, self)

    def _own(self, listener: ListenerConfig) -> ListenerConfig:
        if listener.side == "inside" and listener.transport == "tls" and not listener.certificate:
            return replace(listener, certificate=self.edge.certificate)
        return listener

    def _ask(self, target: EdgeTargetConfig, request: OutgoingRequest, user: Any) -> None:
        hop = self.targets.check(target)
        self.stack.pool.forgive(Target.of_hop(hop))  # whether it is there is the question
        branch = self.ids.branch()
        sent_by = self.border.fronts.told("inside", target.transport)
        via = f"SIP/2.0/{target.transport.upper()} {sent_by};branch={branch}"
        self.stack.forward(request, request.render(via), branch, hop, user)

    def _turned(self, name: str, up: bool) -> None:
        if up:
            for hop in self.targets.hops():
                if hop.source == name:
                    self.stack.pool.forgive(Target.of_hop(hop))

    def _connection_closed(self, flow: Flow) -> None:
        name = self.border.flow_closed(flow)
        if name:
            self.checks.suspect(name)

    # -- life --------------------------------------------------------------------------------------

    def startService(self) -> None:
        """Start; a failure stops the reactor with the reason in the log."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self._start().addErrback(cannot_start, self.reactor, "edge")

    @inlineCallbacks
    def _start(self) -> Any:
        self.started_at = self.reactor.seconds()
        yield self.store.start()
        yield self.routing.start()
        self.stack.startService()
        self.checks.start()
        self.control.start()
        log.info(
            "started",
            "impfed {version} edge {node} is up: {domains} SIP domains, {targets} machines inside",
            version=__version__,
            node=self.config.node.name,
            domains=len(self.config.domains),
            targets=len(self.edge.targets),
        )

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop: nothing new comes in, the connections close."""
        yield super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        self.checks.stop()
        yield self.control.stop()
        yield self.stack.stopService()
        yield self.store.stop()
        self.timers.stop()
        log.info("stopped", "edge {node} has stopped", node=self.config.node.name)

    # -- the control room's view -------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what ``impfedctl status`` shows."""
        return {
            "edge": self.config.node.name,
            "version": __version__,
            "since": self.started_at,
            "domains": list(self.edge.domains),
            "targets": [self._target(target, line) for target, line in self.checks.status()],
            "ports": [
                {
                    "public": f"{port.public_host}:{port.public_port}",
                    "target": port.target,
                    "inner": f"{port.inner_host}:{port.inner_port}" if port.inner_host else "",
                }
                for port in self.edge.ports
            ],
            "sip": self.stack.status(),
            "certificates": [
                {"name": each.name, "names": each.names, "not_after": each.not_after.isoformat()}
                for each in self.tls.certificates()
            ],
            "routes": self.routing.router.status(),
            "proxying": self.border.under_way,
            "over_limit": list(self.sources.over()),
            "metrics": self.metrics.snapshot(),
        }

    def _target(self, target: EdgeTargetConfig, line: dict[str, Any]) -> dict[str, Any]:
        hops = [hop for hop in self.targets.hops() if hop.source == target.name]
        open_ = [hop for hop in hops if self._condition(hop)[0] == "open"]
        names = ("new_requests", "priority", "weight")
        line |= {name: getattr(target, name) for name in names}
        return line | {"connections": f"{len(open_)} of {len(hops)}"}

    def route(self, address: str, sender: str = "") -> Deferred[dict[str, Any]]:
        """Fire with where a message to an address would go now, and why."""
        return self.routing.explain(address, self._condition, sender)

    def _condition(self, hop: Hop) -> tuple[str, str]:
        target = Target.of_hop(hop)
        if self.border.leads_inside(target) and not self.checks.up(hop.source):
            return "resting", f"{hop.source} is down: {self.checks.reason(hop.source)}"
        return self.stack.pool.condition(target)

    def perform(self, command: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
        """Answer ``limits``: the sources that were over one.

        :raises ControlError: for commands about users.
        """
        if command == "limits" and not arguments:
            return list(self.sources.over())
        raise ControlError(
            f"{command}: an edge has no users; ask a node behind it (here: status, route, trace,"
            " limits)"
        )

    def sessions(self) -> list[dict[str, Any]]:
        """Raise ControlError: an edge holds none."""
        return self.perform("sessions", ())

    def subscriptions(self) -> list[dict[str, Any]]:
        """Raise ControlError: an edge holds none."""
        return self.perform("subscriptions", ())

    def where(self, text: str) -> Deferred[Whereabouts]:
        """Raise ControlError: an edge keeps no ledger."""
        self.perform("where", ())
        return succeed(Whereabouts([]))

    def learned(self) -> list[dict[str, Any]]:
        """Return nothing: an edge learns no domains."""
        return []

    def forget_domain(self, domain: str) -> bool:
        """Say that nothing was known."""
        return False
