"""The composition root: one node, made from its configuration.  Only here do all rooms meet."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed import __version__
from impfed.admin.setup import UserServices
from impfed.cluster_setup import ClusterSide, awake
from impfed.config.model import SIP_KINDS, Config, HomeConfig, SipDomainConfig
from impfed.core.errors import ImpfedError
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.ctl.api import INodeView
from impfed.ctl.operations import Operations
from impfed.ctl.server import ControlServer
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
from impfed.store.records import HeldTextRecord, LedgerEntry, OutboxRecord, RelayedTextRecord
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


def end_with_failure() -> None:
    """End the process with exit code 1."""
    # The reactor has stopped and twistd would end with 0; a supervisor has to know better.
    sys.stdout.flush()
    os._exit(1)


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
        super().__init__()  # type: ignore[no-untyped-call]
        self.config = config
        self.reactor = reactor
        self.metrics = Metrics()
        self.tracer = Tracer()
        self.ids = ids or IdSource()
        self.timers = ReactorTimers(reactor)
        self.started_at = 0.0
        self.store = store or make_store(reactor, config, self.ids)
        self._elapsed = elapsed
        self._build()

    def _build(self) -> None:
        config, metrics, ids = self.config, self.metrics, self.ids
        self.routing = Routing(config, self.reactor, self.store, metrics, ids)
        opened = self.routing.opened
        peers = PeerPolicy(self.routing.domains(), config.node.trusted_upstreams, opened)
        aliases = Aliases()
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
        self.cluster: ClusterSide | None = None
        home: Any = self.home
        if isinstance(self.store, SharedStore):
            name, acceptance = config.node.name, config.im.acceptance_timeout
            home = ClusterHome(self.home, config.homes, self.timers, ids, acceptance, name)
            domain = min(config.own_domains, default="node.invalid")
            sights = Sights(name, domain, self.stack, self.routing.neighbours, ids, self.timers)
            self.cluster = ClusterSide(
                self.reactor, config, self.store, home, sights, self._elapsed
            )
        self.federation = XmppFederation(self.reactor, config, ids, metrics, self.tracer)
        router = self.routing.build(peers.may_prove, self.federation.probe)
        directory = Directory(
            {
                domain: provider
                for home in config.homes
                if (provider := self._directory(home)) is not None
                for domain in home.domains
            },
            metrics,
        )
        self.paced = PacedStack(self.stack, peers.domain, self.store, self.timers, metrics, opened)
        self.budgets = Budgets(self.paced, peers.domain, self.timers.seconds)
        around = Surroundings(
            config=config,
            stack=self.paced,
            home=home,
            store=self.store,
            resolve=router.resolve,
            lookup=directory.lookup,
            domain=peers.domain,
            aliases=aliases,
            ids=ids,
            timers=self.timers,
            metrics=metrics,
            dialogs=DialogTable(),
            kind=Kinds(
                {
                    mapping.kind: mapping.rows
                    for mapping in config.mappings
                    if mapping.kind in SIP_KINDS
                }
            ).kind,
            neighbours=self.routing.neighbours,
        )
        own_hosts = {listener.advertised_host for listener in config.listeners}
        own_hosts |= {each.contact_host for each in config.listeners if each.contact_host}
        own_hosts |= {each.advertised for each in config.local if each.advertised}
        admission = Admission(peers, config.local_domains, own_hosts, aliases, metrics)
        self.im = ImGateway(around)
        self.presence = PresenceGateway(around)
        self.presence.watched.roster = HomeRosterWriter(home)
        self.stack.closed = self._connection_closed
        self.im.screen(self.presence.watched.gates.texts)
        self.gateway = Gateway(around, admission, self.im, self.presence)
        self.junction: Junction | None = None
        tokens = self.stack.tokens = relay_tokens(config)
        if config.neighbours:
            self.junction = Junction(
                self.gateway,
                lambda call_id, tag: around.dialogs.owner(call_id, tag) is not None,
                config,
                self.stack,
                self.routing.neighbours,
                peers,
                router,
                ids,
                metrics,
                tokens,
            )
        if self.junction is not None:
            self.junction.pace(self.paced)
        self.watch = NeighbourWatch(config, self.routing.neighbours, self.stack, ids, metrics)
        self.stack.user = self.junction or self.gateway
        pat = PatCheck(config, self.stack, self.routing.neighbours, tokens, ids)
        self.home.user = self.gateway
        if self.cluster is not None:
            self.cluster.build(
                self.gateway, self.im, self.presence, self.timers, admission,
                self.routing.neighbours, self.junction,
            )  # fmt: skip
            self.paced.may_act = lambda: home.post.may_act
            self.cluster.divide(self.paced)
        watched, watching = self.presence.watched, self.presence.watching
        lists = Lists(self.presence.policies, self.presence.authorizations, watched.gates.pace)
        self.federation.build(
            self.home, lists, self.store, self.tls, self.routing.dns.lookup, opened, home
        )
        if self.cluster is not None and self.home.relay is not None:
            self.home.relay = self.cluster.place(self.home.relay, self.federation)
        self.home.opened = opened.serves
        self.paced.looped = router.looped
        watched.elsewhere, watching.elsewhere = self.federation.watchers, self.federation.contacts
        self.federation.count_with(Totals(watched.watchers, watching.contacts))
        self.users = UserServices(
            self.reactor, config, self.presence, self.home, self.tls, ids, metrics
        )
        explainer = Explainer(
            around, peers, self.im, self.presence, self.route, self.budgets, self.federation
        )
        local_domains = config.local_domains
        people = People(self.im, self.presence, self.store, local_domains)
        self._operations = Operations(
            explainer, people, self.presence, local_domains, self.budgets, pat,
            self.cluster.drain if self.cluster is not None else None,
        )  # fmt: skip
        self.control = ControlServer(self.reactor, self.config.node.control_socket, self)

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
        super().startService()  # type: ignore[no-untyped-call]
        self._start().addErrback(self._cannot_start)

    @inlineCallbacks
    def _start(self) -> Any:
        self.started_at = self.reactor.seconds()
        yield self.store.start()
        if self.cluster is not None:
            yield self.cluster.join()
        yield self.routing.start()
        yield self.paced.load()
        outbox = yield self.store.load(OutboxRecord)
        held = yield self.store.load(HeldTextRecord)
        relayed = yield self.store.load(RelayedTextRecord)
        yield self.presence.load(self.store)
        self.stack.startService()
        self.users.start()
        self.federation.start()
        self.home.startService()
        self.watch.start()
        self.presence.resume()
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

    def _cannot_start(self, failure: Failure) -> None:
        if failure.check(ImpfedError, CannotListenError) is None:
            log.failure("start_failed", "the node cannot start", failure)
        else:
            log.error("cannot_start", "the node cannot start: {why}", why=str(failure.value))
        self.reactor.addSystemEventTrigger("after", "shutdown", end_with_failure)
        self.reactor.stop()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop: nothing new comes in, what is written goes to the disk, the links close.

        A node of a cluster gives the others what it has first.
        """
        if self.cluster is not None:
            yield self.cluster.drain.before_stop()
        yield super().stopService()  # type: ignore[no-untyped-call]
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

    def where(self, text: str) -> Deferred[list[LedgerEntry]]:
        """Find messages by id or address: those on their way first, then the ledger."""
        waiting = self.im.on_their_way(text) + self.federation.on_their_way(text)
        answer = self.store.ledger(address=text) if "@" in text else self.store.ledger(id=text)
        if "@" in text:  # a Call-ID may look like an address (RFC 3261 section 8.1.1.4)
            answer.addCallback(lambda entries: entries or self.store.ledger(id=text))
        return answer.addCallback(lambda entries: waiting + entries)

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
