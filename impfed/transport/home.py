"""The home links: every connection to every home server, behind one service.

A home of kind "component" has one XEP-0114 component for each foreign domain, and one for the
node's own address if it has any; a home of kind "prosody" has one component, and the module
``etc/prosody/mod_impfed.lua`` feeds it with the stanzas for every foreign domain.  A home of kind
"s2s" takes us for the server of every foreign domain (:mod:`.home_streams`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.protocol import Factory
from zope.interface import implementer

from impfed.config.model import HomeConfig
from impfed.core.errors import LocalError
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.transport.directory import Existence
from impfed.transport.home_streams import StreamLink
from impfed.transport.link import HomeLink
from impfed.transport.link_api import (
    IHomeUser,
    ILinkOwner,
    IOwnAddress,
    LinkContext,
    LinkLimits,
)
from impfed.transport.link_base import LinkBase
from impfed.transport.queries import Description
from impfed.transport.rosters import Deed, RosterAnswer, RosterOutcome, unavailable
from impfed.transport.timers import ReactorTimers
from impfed.transport.tls import TlsStore
from impfed.xmpp.barrier import ACCEPTED, Delivery, Outcome, not_sent, refused, unsure
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza

__all__ = [
    "ACCEPTED",
    "Delivery",
    "Description",
    "Existence",
    "HomeLink",
    "HomeLinks",
    "IHomeUser",
    "IOwnAddress",
    "LinkLimits",
    "Outcome",
    "RosterAnswer",
    "RosterOutcome",
    "not_sent",
    "refused",
    "unsure",
]

AnyLink = HomeLink | StreamLink

#: Features of foreign users, whatever their clients can do: we translate these.
USER_FEATURES = ("http://jabber.org/protocol/chatstates", "urn:xmpp:receipts")


@implementer(ILinkOwner)
class HomeLinks(Service):
    """All links to all home servers.

    :param reactor: provides time, TCP and name resolution.
    :param homes: the home servers.
    :param foreign_domains: domains whose users local users may talk to.
    :param acceptance_timeout: seconds that a home server may take to accept a message.
    :param relayed_domains: foreign domains reached over XMPP that have a component of their own on
        a home of kind "component"; a home of kind "prosody" needs none.
    :param gateway_types: for a foreign domain the type of its service discovery identity in
        category "gateway" ("lcs", "simple") and its name; type "simple" where it is missing.
    :param tls: our certificates and trusted roots, for homes of kind "s2s".
    :param settle: calls a function once what has been taken over so far for a foreign domain would
        survive this process.
    :ivar placed: not None in a cluster, which says by :meth:`hold` what is connected.
    :ivar user: who takes the stanzas; to be set before the start.
    :ivar relay: who takes stanzas for other foreign domains, an IForeignRelay; None for nobody.
    :ivar opened: says whether SIP reaches a domain that nobody configured.
    :ivar own: who answers at the node's own address, an IOwnAddress; None for nobody.
    :ivar own_domains: the node's own addresses, one at most for each home server.
    :ivar links: the links, in the order of the configuration.
    """

    placed: object = None
    user: Any = None
    relay: Any = None
    own: Any = None
    opened: Callable[[str], bool] = staticmethod(lambda domain: False)

    def __init__(
        self,
        reactor: Any,
        homes: Sequence[HomeConfig],
        foreign_domains: Sequence[str],
        ids: IdSource,
        metrics: Metrics,
        tracer: Tracer,
        acceptance_timeout: float = 20.0,
        gateway_types: Mapping[str, tuple[str, str]] | None = None,
        limits: LinkLimits | None = None,
        relayed_domains: Sequence[str] = (),
        tls: TlsStore | None = None,
        settle: Callable[[Callable[[], None], str], None] = lambda done, foreign: done(),
    ) -> None:
        self._reactor = reactor
        self._foreign = frozenset(JID.parse(domain).domain for domain in foreign_domains)
        self._gateway_types = dict(gateway_types or {})
        self._dirty: list[LinkBase] = []
        self._timers = ReactorTimers(reactor)
        limits = limits or LinkLimits(acceptance=acceptance_timeout)
        self._gather = limits.gather
        self._flushed_at = 0.0
        context = LinkContext(self._dial, self._timers, ids, metrics, tracer, limits, settle)
        self.own_domains = frozenset(
            JID.parse(home.address).domain for home in homes if home.address
        )
        self.links: list[AnyLink] = []
        # By local domain: the links by foreign domain; "" stands for every foreign domain.
        self._by_local: dict[str, dict[str, AnyLink]] = {}
        locals = frozenset(JID.parse(name).domain for home in homes for name in home.domains)
        relayed = {JID.parse(domain).domain for domain in relayed_domains}
        for home in homes:
            links: dict[str, AnyLink] = {}
            domains = [home.address] if home.address else []
            if home.kind == "s2s":
                assert tls is not None
                links[""] = StreamLink(self, home, context, reactor, tls, locals, settle)
                self.links.append(links[""])
                domains.clear()
            elif home.kind != "prosody":
                domains += sorted(self._foreign | relayed)
            for domain in domains:
                link = HomeLink(self, home, domain, context)
                self.links.append(link)
                links["" if link.carries_all else domain] = link
            for local in home.domains:
                self._by_local[JID.parse(local).domain] = links

    def startService(self) -> None:
        """Connect to all home servers, and stay connected."""
        if self.user is None:
            raise LocalError("HomeLinks.user must be set before the start")
        Service.startService(self)
        for link in self.links if self.placed is None else ():
            link.start()

    def hold(self, home: str) -> None:
        """Connect to a home server: of the nodes of a cluster, this one holds its links."""
        for link in self._links_of(home):
            link.start()

    def let_go(self, home: str) -> Deferred[Any]:
        """Disconnect from a home server, for another node holds its links; fires when that is done."""
        return gatherResults([link.stop() for link in self._links_of(home)])

    def keeps(self, home: str) -> bool:
        """Say whether a home server keeps what it has for us while no node is connected."""
        return all(link.keeps for link in self._links_of(home))

    def unconfirmed(self, home: str) -> int:
        """Return how many messages a home server has not confirmed yet."""
        return sum(link.unconfirmed for link in self._links_of(home))

    def retire(self, home: str) -> Deferred[Any]:
        """Go on reading until the home server has given our place to another node's links.

        Fires when it has; to be followed by :meth:`let_go` in any case.
        """
        return gatherResults([link.retire() for link in self._links_of(home)])

    def _links_of(self, home: str) -> list[AnyLink]:
        return [link for link in self.links if link.home.name == home]

    def stopService(self) -> Deferred[Any]:
        """Disconnect; what has no confirmation yet becomes unsure."""
        Service.stopService(self)
        stopped = gatherResults([link.stop() for link in self.links])
        stopped.addCallback(self._stopped)
        return stopped

    def _stopped(self, _: object) -> None:
        self._timers.stop()

    def _dial(self, home: HomeConfig, factory: Factory, timeout: float) -> Deferred[Any]:
        endpoint: Any
        if isIPv6Address(home.host):
            endpoint = TCP6ClientEndpoint(self._reactor, home.host, home.port, timeout)
        elif isIPAddress(home.host):
            endpoint = TCP4ClientEndpoint(self._reactor, home.host, home.port, timeout)
        else:
            endpoint = HostnameEndpoint(self._reactor, home.host, home.port, timeout)
        connecting: Deferred[Any] = endpoint.connect(factory)
        return connecting

    # -- for the gateway -----------------------------------------------------------------------

    def link(self, local: str, foreign: str) -> AnyLink | None:
        """Return the link that carries stanzas between a local and a foreign domain."""
        links = self._by_local.get(local)
        if links is None:
            return None
        return links.get("") or links.get(foreign)

    def send(self, stanza: OutStanza) -> bool:
        """Write a stanza that needs no confirmation: presence, chat states, errors.

        :return: False when there is no link, or the home server reads too slowly; the stanza is
            then dropped, and the caller knows.
        """
        link = self.link(stanza.to.domain, stanza.from_.domain)
        return link is not None and link.send(stanza)

    def deliver(self, stanza: OutStanza, done: Callable[[Delivery], None]) -> None:
        """Write a message under the acceptance barrier (:mod:`impfed.xmpp.barrier`).

        :param stanza: needs an id of its own; a repeated message had better have a new one.
        :param done: called exactly once, perhaps before this returns.
        """
        link = self.link(stanza.to.domain, stanza.from_.domain)
        if link is None:
            done(refused("item-not-found", "cancel", f"no home server for {stanza.to.domain}"))
            return
        link.deliver(stanza, done)

    def congested(self, domain: str, foreign: str = "") -> bool:
        """Say whether a local domain's home server is behind, or not connected at all.

        :param foreign: the foreign domain concerned; without it the question is whether every
            link of the home server is behind.
        """
        if foreign:
            link = self.link(domain, foreign)
            return link is None or link.congested
        links = self._by_local.get(domain)
        return not links or all(link.congested for link in links.values())

    def pause(self) -> None:
        """Stop reading from the home servers: whoever takes the stanzas is behind."""
        for link in self.links:
            link.pause()

    def resume(self) -> None:
        """Go on reading."""
        for link in self.links:
            link.resume()

    def exists(self, user: JID, done: Callable[[Existence], None]) -> None:
        """Ask whether a local user exists; unknown without our module or without a link.

        :param done: called exactly once, perhaps before this returns.
        """
        links = self._by_local.get(user.domain, {})
        link = next((link for link in links.values() if link.knows_users), None)
        if link is None:
            done(Existence.UNKNOWN)
        else:
            link.exists(user, done)

    def can_write_rosters(self, domain: str) -> bool:
        """Say whether we may approve contacts in the rosters of a local domain's users now."""
        links = self._by_local.get(domain, {})
        return any(not link.roster_obstacle(domain, Deed.APPROVE) for link in links.values())

    def approve(self, local: JID, foreign: JID, done: Callable[[RosterAnswer], None]) -> None:
        """Let a foreign user see a local one's presence, as if he had approved him himself.

        :param done: called exactly once, perhaps before this returns.
        """
        self.change_roster(Deed.APPROVE, local, foreign, "", done)

    def cancel_approval(
        self, local: JID, foreign: JID, done: Callable[[RosterAnswer], None]
    ) -> None:
        """Take an approval back, or decline a request, as if the local user had done it himself."""
        self.change_roster(Deed.CANCEL, local, foreign, "", done)

    def add_contact(
        self, local: JID, foreign: JID, name: str, done: Callable[[RosterAnswer], None]
    ) -> None:
        """Put a foreign user on a local one's roster.

        With our module he is subscribed to as well; by XEP-0356 the user's client has to do that.

        :param name: the item's name, or "" to leave it.
        """
        self.change_roster(Deed.ADD, local, foreign, name, done)

    def remove_contact(
        self, local: JID, foreign: JID, done: Callable[[RosterAnswer], None]
    ) -> None:
        """Take a foreign user off a local one's roster; neither sees the other any more."""
        self.change_roster(Deed.REMOVE, local, foreign, "", done)

    def change_roster(
        self, deed: Deed, local: JID, foreign: JID, name: str, done: Callable[[RosterAnswer], None]
    ) -> None:
        """Do any of these.

        :param name: of a contact that is added, else "".
        """
        link = self.link(local.domain, foreign.domain)
        if link is None:
            done(unavailable(f"no home link between {local.domain} and {foreign.domain}"))
        else:
            link.change_roster(deed, local, foreign, name, done)

    def status(self) -> list[dict[str, object]]:
        """Return what an operator wants to know of each link."""
        return [link.status() for link in self.links]

    # -- for the links -------------------------------------------------------------------------

    def flush_later(self, link: LinkBase) -> None:
        """Write what the link has gathered: at the end of this reactor turn, or a little later.

        Where stanzas come densely they wait for company, so that one write, one barrier and one
        answer serve several.
        """
        if not self._dirty:
            dense = self._reactor.seconds() - self._flushed_at < self._gather
            self._reactor.callLater(self._gather if dense else 0, self._flush)
        self._dirty.append(link)

    def _flush(self) -> None:
        self._flushed_at = self._reactor.seconds()
        dirty, self._dirty = self._dirty, []
        for link in dirty:
            link.flush()

    def serves(self, domain: str) -> bool:
        """Say whether a domain is one of the foreign domains, exactly, or one that SIP has opened."""
        return domain in self._foreign or self.opened(domain)

    def describe(self, address: JID) -> Sequence[Description]:
        """Say what service discovery says of a foreign domain, of its users, and of ourselves."""
        if address.local:
            return (Description("account", "registered", "", USER_FEATURES),)
        default = ("simple", "SIP federation" if address.domain in self._foreign else "impfed")
        type, name = self._gateway_types.get(address.domain, default)
        own = self.own is not None and address.domain in self.own_domains
        return (Description("gateway", type, name, tuple(self.own.features) if own else ()),)
