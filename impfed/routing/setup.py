"""Makes the routing of a node from its configuration: the static table, the DNS, the chain of routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from impfed.config.model import Config, HomeConfig, SipDomainConfig
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.routing.api import OverXmpp, PluginContext, Reject, RouteQuery
from impfed.routing.directory import FileDirectory
from impfed.routing.dnscache import DnsCache
from impfed.routing.learned import LearnedDomains, Records
from impfed.routing.neighbours import Neighbours
from impfed.routing.opened import OpenDomains
from impfed.routing.openfederation import NoXmpp
from impfed.routing.plugins import make_directory, make_route
from impfed.routing.router import Resolution, Router, Step
from impfed.routing.static import StaticTable, with_static_names
from impfed.sip.target import Hop
from impfed.transport.dns import DnsClient, DnsHostnames

log = EventLog("impfed.routing")

#: Says how things stand with a hop, and why: ("open", "").
Condition = Callable[[Hop], tuple[str, str]]


class Routing:
    """All that decides where requests go.

    :param store: keeps learned domains.
    :ivar table: the static routes.
    :ivar router: the chain, once :meth:`build` was called.
    :ivar learned: what open federation has learned.
    :ivar opened: which domains nobody configured, and what is known of them.
    :ivar dns: the cache before the DNS.
    :ivar neighbours: the organisation's other nodes.
    """

    router: Router

    def __init__(
        self, config: Config, reactor: Any, store: Records, metrics: Metrics, ids: IdSource
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._metrics = metrics
        self._ids = ids
        self.neighbours = Neighbours(config.neighbours, config.local_domains)
        self.table = StaticTable(config.domains, config.routes)
        client = DnsClient(reactor, config.dns.servers, config.dns.timeout)
        self.dns = DnsCache(client.lookup, reactor.seconds, metrics)
        self.learned = LearnedDomains(
            store, reactor.seconds, metrics, config.open_federation.remember
        )

        self.opened = OpenDomains(config, self.learned, self.table, metrics)

    def domains(self) -> list[SipDomainConfig]:
        """Return the SIP domains with what their static routes say of their peers."""
        return [with_static_names(domain, self.table) for domain in self._config.domains]

    def build(
        self, may_prove: Callable[[str, str], bool], probe: Any = None, first: Sequence[Any] = ()
    ) -> Router:
        """Make the chain of routes.

        :param may_prove: says whether a name in a certificate proves a domain.
        :param probe: provider of :class:`impfed.routing.openfederation.IXmppProbe`.
        :param first: more routes of ours.
        :raises PluginError: when a plugin of the configuration cannot be used.
        """
        config = self._config
        shared = {
            "neighbours": self.neighbours,
            "table": self.table,
            "may_prove": may_prove,
            "learned": self.learned,
            "opened": self.opened,
            "probe": probe if probe is not None else NoXmpp(),
        }
        names = ["local", "neighbour", "static"] if self.neighbours else ["local", "static"]
        if config.dns.discovery:
            names.append("srv")
        if config.open_federation.enabled:
            names.append("open-federation")
        own = self._context({}, shared)
        routes = [*first, *(make_route(name, own) for name in names)]
        routes += [make_route(name, self._context({})) for name in config.plugins.routes]
        routes += [
            make_route(route.plugin, self._context(route.settings), route.order)
            for route in config.routes
            if route.plugin
        ]
        limits = {route.name: config.plugins.timeout for route in routes}
        # One search asks up to four times, one question after the other.
        limits["srv"] = 4 * config.dns.timeout + 1.0
        limits["open-federation"] = config.open_federation.probe_timeout
        self.router = Router(
            routes,
            self._metrics,
            clock=self._reactor,
            limits=limits,
            uniform=self._ids.uniform,
            own={
                address
                for listener in config.listeners
                for address in (
                    (listener.host, listener.port),
                    (listener.advertised_host, listener.advertised_port),
                    *((each.advertised, listener.advertised_port) for each in config.local),
                )
            },
            kinds={domain.name: domain.kind for domain in config.domains},
            certificates=config.certificates_by_domain,
        )
        self.opened.resolve = self.router.resolve
        return self.router

    def start(self) -> Deferred[None]:
        """Read what was learned; let configured name servers serve the reactor's host names, too."""
        if self._config.dns.servers:
            self._reactor.installNameResolver(
                DnsHostnames(self.dns.lookup, self._reactor.nameResolver)
            )
        return self.learned.load()

    def directory(self, home: HomeConfig) -> Any:
        """Return the directory that a home server's entry names; None where it names none.

        :raises PluginError: when it cannot be used.
        """
        if home.users is not None:
            return FileDirectory(home.users, home.domains)
        if not home.directory:
            return None
        for entry in self._config.ldap:
            if entry.name == home.directory:
                from impfed.routing.ldap import LdapDirectory  # needs the extra "ldap"

                return LdapDirectory(entry, home.domains, self._reactor, self._metrics)
        return make_directory(home.directory, self._context({}), home.domains)

    def explain(
        self, address: str, condition: Condition, sender: str = ""
    ) -> Deferred[dict[str, Any]]:
        """Fire with where a message to an address would go now, and why (plain values).

        :param condition: says how things stand with a hop.
        """
        answer: Deferred[dict[str, Any]] = Deferred()
        query = RouteQuery("MESSAGE", sender, address)

        def told(steps: list[Step], resolution: Resolution) -> None:
            lately = self.router.lately(query.to_domain)
            answer.callback(story(address, steps, resolution, condition) | {"lately": lately})

        self.router.explain(query, told)
        return answer

    def _context(self, settings: Any, shared: dict[str, Any] | None = None) -> PluginContext:
        return PluginContext(
            settings,
            self._config,
            self._reactor,
            self._metrics,
            self.dns.lookup,
            self._ids.uniform,
            shared or {},
        )


def story(
    address: str, steps: Sequence[Step], resolution: Resolution, condition: Condition
) -> dict[str, Any]:
    """Return what ``impfedctl route`` shows (plain values): the chain, the hops, the one used and why."""
    decided = next((step.route for step in steps if step.answer is not None), "")
    chain = [
        {
            "route": step.route,
            "order": step.order,
            "answer": _answer(step),
            "decides": step.route == decided,
        }
        for step in steps
    ]
    story: dict[str, Any] = {"address": address, "chain": chain, "hops": [], "status": 0}
    if isinstance(resolution, Reject):
        story["status"] = 0 if isinstance(resolution, OverXmpp) else resolution.status
        story["used"] = ""
        story["why"] = resolution.reason
        return story
    used: Hop | None = None
    for hop in resolution:
        state, reason = condition(hop)
        story["hops"].append(_hop(hop, state, reason))
        if used is None and state not in ("resting", "down"):
            used = hop
    story["used"] = str(used) if used is not None else ""
    story["why"] = _why(used, resolution, decided)
    return story


def _hop(hop: Hop, state: str, reason: str) -> dict[str, Any]:
    return {
        "hop": str(hop),
        "tls_name": hop.tls_name,
        "certificate": hop.certificate or ("the first" if hop.transport == "tls" else ""),
        "priority": hop.priority,
        "weight": hop.weight,
        "from": hop.source,
        "state": state,
        "reason": reason,
    }


def _why(used: Hop | None, hops: Sequence[Hop], decided: str) -> str:
    if used is None:
        return f"{decided} decides, but none of its {len(hops)} hops can be reached now"
    place = hops.index(used)
    if place == 0:
        return f"{decided} decides; the first hop in order"
    return f"{decided} decides; the {place} before it cannot be reached now"


def _answer(step: Step) -> str:
    if step.failure:
        return f"skipped: {step.failure}"
    if step.answer is None:
        return "not mine"
    if isinstance(step.answer, OverXmpp):
        return f"XMPP: {step.answer.reason}"
    if isinstance(step.answer, Reject):
        return f"{step.answer.status}: {step.answer.reason}"
    return ", ".join(map(str, step.answer))
