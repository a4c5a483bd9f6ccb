"""The composition root: one node, made from its configuration.  Only here do all rooms meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, inlineCallbacks
from zope.interface import implementer

from impfed import __version__
from impfed.admin.setup import UserServices
from impfed.cluster_setup import ClusterSide, awake
from impfed.config.model import SIP_KINDS, Config, HomeConfig, SipDomainConfig
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.ctl.api import INodeView, Whereabouts
from impfed.ctl.operations import Operations
from impfed.ctl.server import ControlServer
from impfed.failed_start import cannot_start
from impfed.gateway.admission import Admission
from impfed.gateway.budgets import Budgets
from impfed.gateway.cluster_home import ClusterHome
from impfed.gateway.dialogs import DialogTable
from impfed.gateway.explain import Explainer
from impfed.gateway.gateway import Gateway
from impfed.gateway.home_roster import HomeRosterWriter
from impfed.gateway.im import ImGateway
from impfed.gateway.paced import PacedStack
from impfed.gateway.people import People
from impfed.gateway.presence import PresenceGateway
from impfed.gateway.sights import Sights
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.address import Aliases
from impfed.interwork.availability import Kinds
from impfed.policy.peers import PeerPolicy
from impfed.proxy.junction import Junction
from impfed.proxy.pat_check import PatCheck
from impfed.proxy.relaying import relay_tokens
from impfed.proxy.watch import NeighbourWatch
from impfed.relay.pairs import Totals
from impfed.relay.relay import Lists
from impfed.relay.setup import XmppFederation
from impfed.routing.api import INTERFACE_VERSION, Existence, IDirectory
from impfed.routing.directory import Directory
from impfed.routing.setup import Routing
from impfed.sip.framing import FramingLimits
from impfed.sip.target import Hop
from impfed.store.records import (
    HeldTextRecord,
    OutboxRecord,
    RelayedTextRecord,
    SessionRecord,
)
from impfed.store.setup import make_store
from impfed.store.shared import SharedStore
from impfed.transport.flow import Flow
from impfed.transport.home import HomeLinks
from impfed.transport.sip import SipLimits, SipStack
from impfed.transport.timers import ReactorTimers
from impfed.transport.tls import TlsStore
from impfed.xmpp.jid import JID

log = EventLog("impfed.service")

_PURGE_EVERY = 3600.0  # seconds


@implementer(IDirectory)
class _HomeDirectory:
    """Asks a home server's own module; the link keeps what it needs to answer."""

    interface_version = INTERFACE_VERSION

    def __init__(self, home: HomeLinks, name: str) -> None:
        self.name = f"home server {name}"
        self._home = home

    def lookup(self, address: str) -> Deferred[Existence]:
        """Fire with what the home server says."""
        answer: Deferred[Existence] = Deferred()
        self._home.exists(JID.parse(address), lambda found: answer.callback(Existence(found.value)))
        return answer


def _gateway_type(domain: SipDomainConfig) -> tuple[str, str]:
    return ("simple" if domain.kind == "simple" else "lcs", domain.description or domain.name)


def _exact_peers(config: Config) -> list[str]:
    """Return the XMPP peers that are named exactly; see HomeLinks."""
    peers = config.s2s.domains if config.s2s is not None else ()
    return [peer.name for peer in peers if not peer.name.startswith("*.")]


@implementer(INodeView)
class Node(MultiService):
    """One node.

    The order of the start matters: what the store knows is in memory before the first peer can ask
    for it, so that no live dialog is answered with 481.

    :param reactor: the reactor.
    :param config: a checked configuration.
    :param store: provider of :class:`~impfed.store.api.IStore`; the one of the configuration if None.
    :param ids: source of identifiers; the operating system's randomness if None.
    :param elapsed: the clock of leases in a cluster; see :func:`impfed.cluster_setup.awake`.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        store: Any = None,
        ids: IdSource | None = None,
        elapsed: Callable[[], float] = awake,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.config = config
        self.reactor = reactor
        self.metrics = Metrics()
        self.tracer = Tracer()
        self.ids = ids or IdSource()
        self.timers = ReactorTimers(reactor)
        self.started_at = 0.0
        self.store = store or make_store(reactor, config, self.ids)
        self._elapsed = elapsed
        self.routing = Routing(config, reactor, self.store, self.metrics, self.ids)
        domains, upstreams = self.routing.domains(), config.node.trusted_upstreams
        self._peers = PeerPolicy(domains, upstreams, self.routing.opened)
        self._build_transport()
        self._build_cluster()
        self._build_gateway()
        self._build_proxy()
        self._build_federation()
        self._build_views()

    def _build_transport(self) -> None:
        """Make what touches sockets: the SIP stack and the home links."""
        config, metrics, ids = self.config, self.metrics, self.ids
        self.tls = TlsStore(config.tls, metrics, self.reactor)
        limits = SipLimits(
            connect_timeout=config.sip.connect_timeout,
            failover_after=config.sip.failover_after,
            reuse=config.sip.reuse,
            framing=FramingLimits(body=config.im.message_limit),
        )
        self.stack = SipStack(
            self.reactor, config.listeners, self.tls, ids, metrics, self.tracer, limits=limits,
            upstreams=config.node.trusted_upstreams,
        )  # fmt: skip
        self.stack.hosts = config.hosts_by_domain
        self.stack.certificates = config.certificates_by_domain
        self.stack.closed = self._connection_closed
        self.home = HomeLinks(
            self.reactor,
            config.homes,
            [domain.name for domain in config.domains],
            ids,
            metrics,
            self.tracer,
            config.im.acceptance_timeout,
            {domain.name: _gateway_type(domain) for domain in config.domains},
            relayed_domains=_exact_peers(config),
            tls=self.tls,
            settle=self._settle,
        )

    def _build_cluster(self) -> None:
        """Make this node's place in a cluster, if the store is shared, and its view of the home links."""
        config, ids = self.config, self.ids
        self.cluster: ClusterSide | None = None
        self._home: Any = self.home
        if isinstance(self.store, SharedStore):
            name, acceptance = config.node.name, config.im.acceptance_timeout
            self._home = ClusterHome(self.home, config.homes, self.timers, ids, acceptance, name)
            domain = min(config.own_domains, default="node.invalid")
            sights = Sights(name, domain, self.stack, self.routing.neighbours, ids, self.timers)
            self.cluster = ClusterSide(
                self.reactor, config, self.store, self._home, sights, ids, self._elapsed
            )

    def _build_gateway(self) -> None:
        """Make the crossing between SIP and XMPP, and what it works with."""
        config, metrics, opened = self.config, self.metrics, self.routing.opened
        self.federation = XmppFederation(self.reactor, config, self.ids, metrics, self.tracer)
        self._router = self.routing.build(self._peers.may_prove, self.federation.probe)
        providers = {home.name: self._directory(home) for home in config.homes}
        directory = Directory(
            {domain: providers[home.name] for home in config.homes for domain in home.domains},
            metrics,
        )
        find = self._peers.domain
        self.paced = PacedStack(self.stack, find, self.store, self.timers, metrics, opened)
        self.paced.looped = self._router.looped
        self.budgets = Budgets(self.paced, find, self.timers.seconds)
        own = [each for each in config.mappings if each.kind in SIP_KINDS]
        self._around = Surroundings(
            config=config,
            stack=self.paced,
            home=self._home,
            store=self.store,
            resolve=self._router.resolve,
            lookup=directory.lookup,
            domain=find,
            aliases=Aliases(),
            ids=self.ids,
            timers=self.timers,
            metrics=metrics,
            dialogs=DialogTable(),
            kind=Kinds({mapping.kind: mapping.rows for mapping in own}).kind,
            neighbours=self.routing.neighbours,
        )
        own_hosts = {listener.advertised_host for listener in config.listeners}
        own_hosts |= {each.contact_host for each in config.listeners if each.contact_host}
        own_hosts |= {each.advertised for each in config.local if each.advertised}
        self._admission = Admission(
            self._peers, config.local_domains, own_hosts, self._around.aliases, metrics
        )
        self.im = ImGateway(self._around)
        self.presence = PresenceGateway(self._around)
        self.presence.watched.roster = HomeRosterWriter(self._home)
        self.im.screen(self.presence.watched.gates.texts)
        self.gateway = Gateway(self._around, self._admission, self.im, self.presence)
        self.home.user = self.gateway

    def _build_proxy(self) -> None:
        """Put the way to the other nodes before the gateway, where there are others."""
        config, neighbours = self.config, self.routing.neighbours
        self.junction: Junction | None = None
        tokens = self.stack.tokens = relay_tokens(config)
        if config.neighbours:
            dialogs = self._around.dialogs
            self.junction = Junction(
                self.gateway,
                lambda call_id, tag: dialogs.owner(call_id, tag) is not None,
                config,
                self.stack,
                neighbours,
                self._peers,
                self._router,
                self.ids,
                self.metrics,
                tokens,
            )
            self.junction.pace(self.paced)
        self.watch = NeighbourWatch(config, neighbours, self.stack, self.ids, self.metrics)
        self.stack.user = self.junction or self.gateway
        self._pat = PatCheck(config, self.stack, neighbours, tokens, self.ids)
        if self.cluster is not None:
            self.cluster.build(
                self.gateway, self.im, self.presence, self.timers, self._admission, neighbours,
                self.junction, self.paced, self.routing.learned,
            )  # fmt: skip
            home = self._home
            self.paced.may_act = lambda: home.post.may_act
            self.cluster.divide(self.paced)

    def _build_federation(self) -> None:
        """Make the relay between XMPP domains, and have both kinds of contacts counted together."""
        opened = self.routing.opened
        watched, watching = self.presence.watched, self.presence.watching
        lists = Lists(self.presence.policies, self.presence.authorizations, watched.gates.pace)
        lookup = self.routing.dns.lookup
        self.federation.build(
            self.home, lists, self.store, self.tls, lookup, opened, self._home,
            self.routing.neighbours,
        )  # fmt: skip
        if self.cluster is not None and self.home.relay is not None:
            self.home.relay = self.cluster.place(self.home.relay, self.federation)
        self.home.opened = opened.serves
        relayed = Totals(self.federation.watchers, self.federation.contacts)
        counted = self.cluster.counted(relayed) if self.cluster is not None else relayed
        watched.elsewhere, watching.elsewhere = counted.watchers, counted.contacts
        self.federation.count_with(Totals(watched.watchers, watching.contacts))

    def _build_views(self) -> None:
        """Make what users and operators look at."""
        config, presence = self.config, self.presence
        tokens = self.stack.tokens
        self.users = UserServices(
            self.reactor,
            config,
            presence,
            self.home,
            self.tls,
            self.ids,
            self.metrics,
            self.store,
            self._home,
            None if tokens is None else partial(tokens.sign, "visit"),
        )
        explainer = Explainer(
            self._around, self._peers, self.im, presence, self.route, self.budgets, self.federation
        )
        people = People(self.im, presence, self.store, config.local_domains)
        drain = self.cluster.drain if self.cluster is not None else None
        self._cluster_view = (
            self.cluster.view(self._where, people) if self.cluster is not None else None
        )
        self._operations = Operations(
            explainer, people, presence, config.local_domains, self.budgets, self._pat, drain
        )
        self.control = ControlServer(self.reactor, config.node.control_socket, self)

    def _settle(self, done: Callable[[], None], foreign: str) -> None:
        """Call when what home servers have sent for a domain so far would survive this process."""

        def departed() -> None:
            if self.cluster is not None:
                self.cluster.settle(done)
            else:
                self.store.write([], lambda _: done())

        self.federation.departed(foreign, departed)

    def _connection_closed(self, flow: Flow) -> None:
        self.presence.watching.flow_closed(flow)
        if self.junction is not None:
            self.junction.flow_closed(flow)

    def _directory(self, home: HomeConfig) -> Any:
        if (directory := self.routing.directory(home)) is not None:
            return directory
        return _HomeDirectory(self.home, home.name)  # with our module there; else it knows nobody

    # -- life --------------------------------------------------------------------------------------

    def startService(self) -> None:
        """Start in the background; a failure to start stops the reactor with the reason in the log."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self._start().addErrback(cannot_start, self.reactor, "node")

    @inlineCallbacks
    def _start(self) -> Any:
        self.started_at = self.reactor.seconds()
        yield self.store.start()
        if self.cluster is not None:
            yield self.cluster.join()
        yield self.routing.start()
        yield self.paced.load()
        loading = self._load() if self.cluster is None else self.cluster.service.load(self._load)
        sessions, outbox, held, relayed = yield loading
        self.stack.startService()
        self.users.start()
        self.federation.start()
        self.home.startService()
        self.watch.start()
        self.presence.resume()
        self.im.resume(sessions)
        self.im.restore(outbox, held)
        self.federation.restore(relayed)
        if self.cluster is not None:
            self.cluster.ready()
        self.control.start()
        self._purge()
        log.info(
            "started",
            "impfed {version} node {node} is up: {domains} SIP domains, {texts} texts to send again",
            version=__version__,
            node=self.config.node.name,
            domains=len(self.config.domains),
            texts=len(outbox) + len(relayed),
        )

    @inlineCallbacks
    def _load(self) -> Any:
        """Take in the subscriptions that the store kept; fires with its sessions and texts, by kind."""
        kept = []
        for kind in (SessionRecord, OutboxRecord, HeldTextRecord, RelayedTextRecord):
            kept.append((yield self.store.load(kind)))
        yield self.presence.load(self.store)
        return kept

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop: nothing new comes in, what is written goes to the disk, the links close.

        A node of a cluster gives the others what it has first.
        """
        if self.cluster is not None:
            yield self.cluster.drain.before_stop()
        yield super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        self.im.stop()
        self.presence.stop()
        self.paced.stop()
        self.watch.stop()
        yield self.control.stop()
        yield self.users.stop()
        yield self.federation.stop()
        yield self.home.stopService()
        if self.cluster is not None:
            yield self.cluster.leave()
        yield self.stack.stopService()
        self.timers.stop()
        yield self.store.stop()
        log.info("stopped", "node {node} has stopped", node=self.config.node.name)

    def _purge(self) -> None:
        before = self.reactor.seconds() - self.config.ledger.retention
        self.store.purge_ledger(before).addErrback(
            lambda failure: log.warn(
                "purge_failed", "the ledger cannot be purged: {why}", why=failure
            )
        )
        self.timers.after(_PURGE_EVERY, self._purge)

    # -- the control room's view -------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what ``impfedctl status`` shows."""
        return {
            "node": self.config.node.name,
            "version": __version__,
            "since": self.started_at,
            "home_links": self.home.status(),
            "sip": self.stack.status(),
            **self.federation.status(),
            "certificates": [
                {"name": each.name, "names": each.names, "not_after": each.not_after.isoformat()}
                for each in self.tls.certificates()
            ],
            "sessions": len(self.im.view()),
            "subscriptions": len(self.subscriptions()),
            "routes": self.routing.router.status(),
            "neighbours": self.routing.neighbours.status(self._condition),
            "proxying": self.junction.under_way if self.junction is not None else 0,
            "misrouted": self.junction.relaying.view() if self.junction is not None else [],
            "budgets": self.budgets.status(),
            "open_federation": opened.status()
            if (opened := self.routing.opened).enabled
            else "off",
            "learned_domains": self.routing.learned.view(),
            "allow_without_asking": [
                domain
                for domain in sorted(self.config.local_domains)
                if self.home.can_write_rosters(domain)
            ],
            "store_backlog": self.store.backlog,
            "cluster": self.cluster.status() if self.cluster is not None else "off",
            "metrics": self.metrics.snapshot(),
        }

    def sessions(self) -> list[dict[str, Any]]:
        """Return the IM sessions."""
        return self.im.view()

    def subscriptions(self) -> list[dict[str, Any]]:
        """Return the presence subscriptions, both directions."""
        return [*self.presence.view(), *self.federation.subscriptions()]

    def where(self, text: str) -> Deferred[Whereabouts]:
        """Find messages by id or address, at every node of a cluster."""
        return self._where(text) if self._cluster_view is None else self._cluster_view.where(text)

    def _where(self, text: str) -> Deferred[Whereabouts]:
        """Find them here: those on their way first, then the ledger."""
        waiting = self.im.on_their_way(text) + self.federation.on_their_way(text)
        answer = self.store.ledger(address=text) if "@" in text else self.store.ledger(id=text)
        if "@" in text:  # a Call-ID may look like an address (RFC 3261 section 8.1.1.4)
            answer.addCallback(lambda entries: entries or self.store.ledger(id=text))
        return answer.addCallback(lambda entries: Whereabouts(waiting + entries))

    def route(self, address: str, sender: str = "") -> Deferred[dict[str, Any]]:
        """Fire with where a message to an address would go now, and why."""
        return self.routing.explain(address, self._condition, sender)

    def _condition(self, hop: Hop) -> tuple[str, str]:
        return self.watch.condition(hop)

    def perform(
        self, command: str, arguments: Sequence[str]
    ) -> list[dict[str, Any]] | Deferred[list[dict[str, Any]]]:
        """Answer a command about people; see :class:`impfed.ctl.operations.Operations`."""
        return self._operations.perform(command, arguments)

    def learned(self) -> list[dict[str, Any]]:
        """Return the domains that open federation has learned."""
        return self.routing.learned.view()

    def forget_domain(self, domain: str) -> bool:
        """Forget what open federation has learned of a domain; says whether it was known."""
        return self.routing.learned.remove(domain.lower())
