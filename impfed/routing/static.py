"""The routes that follow the configuration: ``local`` keeps our own domains at home, ``static``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from zope.interface import implementer

from impfed.config.model import NextHopConfig, RouteConfig, SipDomainConfig
from impfed.config.patterns import Breadth, Pattern
from impfed.routing.api import INTERFACE_VERSION, IRoute, Reject, RouteQuery
from impfed.sip.target import Hop


@implementer(IRoute)
class LocalRoute:
    """Says that a local domain is never a next hop: its users are reached through the home link.

    Matching is exact (SPEC section 8): a domain under a local domain, or above one, is foreign.

    :param moved: returns something else than None for a user who is at home with a neighbour.
    """

    name = "local"
    order = 0
    interface_version = INTERFACE_VERSION

    def __init__(
        self, domains: Iterable[str], moved: Callable[[str], object] = lambda address: None
    ) -> None:
        self._domains = frozenset(domain.lower() for domain in domains)
        self._moved = moved

    def resolve(self, query: RouteQuery) -> Reject | None:
        """Refuse what is addressed to a local domain; anything else is not this route's business."""
        if query.to_domain in self._domains and self._moved(query.to_address) is None:
            return Reject(404, f"{query.to_domain} is a local domain")
        return None


@dataclass(frozen=True, slots=True)
class StaticEntry:
    """All static routes of one pattern.

    :ivar hops: of the routes in service, without any order yet.
    :ivar blocked: whether the pattern is blocked.
    :ivar out_of_service: how many routes are not in service.
    """

    pattern: Pattern
    hops: tuple[Hop, ...]
    blocked: bool = False
    out_of_service: int = 0


class StaticTable:
    """The static routes of a configuration, narrowest pattern first.

    The narrowest pattern with a route in service decides; wider ones are not used even when its
    next hops are out of reach, for a default route could lead a domain's traffic to strangers.

    :param domains: their ``next_hop`` is a route of its own; certificates are inherited from them.
    :param routes: the ``[[route]]`` entries; plugins among them are passed over.
    """

    def __init__(
        self, domains: Iterable[SipDomainConfig], routes: Iterable[RouteConfig] = ()
    ) -> None:
        domains = tuple(domains)
        certificates = {domain.name: domain.client_certificate for domain in domains}
        found: dict[tuple[str, str, int], list[tuple[Pattern, RouteConfig | None, Hop | None]]] = {}
        for domain in domains:
            if (hop := domain.next_hop) is not None:
                pattern = Pattern(domain.name, Breadth.EXACT, domain.name)
                made = _hop(hop, domain.client_certificate, 1, 1, f"static route of {domain.name}")
                found.setdefault(_key(pattern), []).append((pattern, None, made))
        for route in routes:
            if route.pattern is None:
                continue
            target = NextHopConfig(route.host, route.port, route.transport, route.tls_name)
            certificate = route.client_certificate or certificates.get(route.pattern.domain, "")
            words = f"static route {route.pattern} priority {route.priority}"
            made_or_none = (
                None
                if route.block
                else _hop(target, certificate, route.priority, route.weight, words)
            )
            found.setdefault(_key(route.pattern), []).append((route.pattern, route, made_or_none))
        self.entries = tuple(
            sorted((_entry(each) for each in found.values()), key=lambda entry: entry.pattern.rank)
        )
        # Plain domains, by far the most, are found without a search.
        self._plain = {
            entry.pattern.domain: entry
            for entry in self.entries
            if entry.pattern.breadth is Breadth.EXACT and not entry.pattern.user
        }
        self._users = [entry for entry in self.entries if entry.pattern.user]
        self._wide = [
            entry
            for entry in self.entries
            if not entry.pattern.user and entry.pattern.breadth is Breadth.REVERSED
        ]
        self._all = [
            entry
            for entry in self.entries
            if not entry.pattern.user and entry.pattern.breadth is Breadth.ALL
        ]

    def match(self, user: str, domain: str, everything: bool = True) -> StaticEntry | None:
        """Return the narrowest entry that covers an address and is not wholly out of service.

        :param user: any case; patterns of users are compared in lower case.
        :param domain: lower case.
        :param everything: whether ``.*`` counts, too.
        """
        user = user.lower()
        for entry in self._users:
            if entry.pattern.breadth is Breadth.ALL and not everything:
                continue
            if _usable(entry) and entry.pattern.covers(user, domain):
                return entry
        plain = self._plain.get(domain)
        if plain is not None and _usable(plain):
            return plain
        for entry in self._wide:
            if _usable(entry) and entry.pattern.covers(user, domain):
                return entry
        return next((e for e in self._all if _usable(e)), None) if everything else None

    @property
    def default_names(self) -> frozenset[str]:
        """The TLS names of the next hops of ``.*``."""
        return frozenset(hop.tls_name for entry in self._all for hop in entry.hops if hop.tls_name)

    def names(self, domain: str) -> frozenset[str]:
        """Return the TLS names of a domain's static next hops; ``.*`` is not meant for one domain."""
        return frozenset(
            hop.tls_name
            for entry in self.entries
            if entry.pattern.breadth is not Breadth.ALL
            and replace(entry.pattern, user="").covers("", domain)
            for hop in entry.hops
            if hop.tls_name
        )


@implementer(IRoute)
class StaticRoute:
    """Maps foreign addresses to the next hops that the configuration names for them.

    :param configured: says whether a domain is a configured SIP domain; ``.*`` serves only those
        here, for unknown domains are the business of open federation.
    """

    name = "static"
    order = 100
    interface_version = INTERFACE_VERSION

    def __init__(
        self,
        domains: Iterable[SipDomainConfig] = (),
        *,
        table: StaticTable | None = None,
        configured: Callable[[str], bool] | None = None,
    ) -> None:
        domains = tuple(domains)
        known = frozenset(domain.name for domain in domains)
        self._table = table if table is not None else StaticTable(domains)
        self._configured = configured or known.__contains__

    def resolve(self, query: RouteQuery) -> Sequence[Hop] | Reject | None:
        """Return the next hops of the narrowest pattern that covers the recipient, if there is one."""
        domain = query.to_domain
        entry = self._table.match(query.to_user, domain, self._configured(domain))
        return None if entry is None else decision(entry, query)


def decision(entry: StaticEntry, query: RouteQuery) -> Sequence[Hop] | Reject:
    """Return what an entry says of a query."""
    if entry.blocked:
        return Reject(403, f"{query.to_address} is blocked by the static route {entry.pattern}")
    return entry.hops


def with_static_names(domain: SipDomainConfig, table: StaticTable) -> SipDomainConfig:
    """Return a domain whose peers may prove themselves by its static next hops' names, too.

    A domain without a next hop of its own takes that of its first static route, so that an
    unencrypted one is known by its address.
    """
    names = table.names(domain.name)
    peers = tuple(dict.fromkeys((*domain.peer_names, *sorted(names))))
    hop = domain.next_hop
    entry = table.match("", domain.name, everything=False)
    if hop is None and entry is not None and not entry.blocked:
        first = min(entry.hops, key=lambda each: each.priority)
        hop = NextHopConfig(first.host, first.port, first.transport, first.tls_name)
    return replace(domain, peer_names=peers, next_hop=hop)


def _usable(entry: StaticEntry) -> bool:
    return entry.blocked or bool(entry.hops)


def _key(pattern: Pattern) -> tuple[str, str, int]:
    return (pattern.user, pattern.domain, int(pattern.breadth))


def _entry(found: list[tuple[Pattern, RouteConfig | None, Hop | None]]) -> StaticEntry:
    serving = [(route, hop) for _, route, hop in found if route is None or route.in_service]
    hops = [hop for _, hop in serving if hop is not None]
    return StaticEntry(
        found[0][0],
        tuple(replace(hop, others=len(hops) > 1) for hop in hops),
        any(route is not None and route.block for route, _ in serving),
        len(found) - len(serving),
    )


def _hop(hop: NextHopConfig, certificate: str, priority: int, weight: int, source: str) -> Hop:
    return Hop(
        hop.transport,
        hop.host,
        hop.port,
        tls_name=(hop.tls_name or hop.host) if hop.transport == "tls" else "",
        certificate=certificate,
        priority=priority,
        weight=weight,
        source=source,
    )
