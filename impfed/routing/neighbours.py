"""The other nodes of the organisation: which domain, which address and which certificate is whose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zope.interface import implementer

from impfed.config.model import NeighbourConfig
from impfed.core.errors import RemoteError
from impfed.routing.api import INTERFACE_VERSION, IRoute, RouteQuery
from impfed.routing.userfile import UserFile
from impfed.sip.headers import parse_name_addr
from impfed.sip.target import Hop
from impfed.sip.uri import SipUri

#: Says how things stand with a hop, and why: ("open", "").
Condition = Callable[[Hop], tuple[str, str]]

_PORTS = {"tls": 5061, "sips": 5061}


def address_of(uri: SipUri) -> tuple[str, int]:
    """Return host (lower case, an IPv6 address without brackets) and port that a URI leads to."""
    transport = (uri.param("transport") or "").lower()
    port = uri.port or _PORTS.get(transport) or _PORTS.get(uri.scheme, 5060)
    return uri.host.strip("[]"), port


class Neighbours:
    """What is known of the other nodes.

    :param local_domains: those of this node, some users of which may be at home in another cluster.
    :ivar up: says whether a hop answers when it is asked whether it is there.
    :ivar gone: says whether a node of this cluster is dead, so that what is its own may be served here.
    :ivar members: names of the nodes that serve the same users as this one: those of its cluster.
    """

    def __init__(
        self, configs: Iterable[NeighbourConfig] = (), local_domains: Iterable[str] = ()
    ) -> None:
        self._all = tuple(configs)
        self.members = frozenset(each.name for each in self._all if each.is_member)
        self._ways = {each.name: _hops(each) for each in self._all}
        self.up: Callable[[Hop], bool] = lambda hop: True
        self.gone: Callable[[str], bool] = lambda name: False
        self._by_domain = {domain: each for each in self._all for domain in each.domains}
        domains = tuple(local_domains)
        self._users = [
            (each, UserFile(each.users, domains)) for each in self._all if each.users is not None
        ]
        self._by_name = {name: each for each in self._all for name in each.certificate_names}
        self._by_address: dict[tuple[str, int], NeighbourConfig] = {}
        for each in self._all:
            for address in (*each.addresses, *each.advertised):
                self._by_address[address] = each

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def configs(self) -> tuple[NeighbourConfig, ...]:
        """The neighbours as configured."""
        return self._all

    def all_ways(self, name: str) -> tuple[Hop, ...]:
        """Return every hop to a neighbour, in order."""
        return self._ways[name]

    def ways(self, hop: Hop) -> Sequence[Hop]:
        """Return the hops to try for a request that goes to a neighbour.

        :param hop: one of the neighbour's; it comes first.
        :return: those that answer; all of them empty when none does.
        """
        found = next((ways for ways in self._ways.values() if hop in ways), (hop,))
        return [each for each in (hop, *(way for way in found if way != hop)) if self.up(each)]

    def _hop(self, name: str) -> Hop:
        """Return the first hop to a neighbour that answers; if none does, the first."""
        ways = self._ways[name]
        return next((hop for hop in ways if self.up(hop)), ways[0])

    def hosting(self, address: str) -> Hop | None:
        """Return where requests for a local user, or a local domain, go; None when no neighbour hosts it.

        :param address: the domain in lower case; matched exactly.
        """
        found = self.home_of(address)
        return None if found is None else self._hop(found.name)

    def home_of(self, address: str) -> NeighbourConfig | None:
        """Return the neighbour with whom a local user, or a whole local domain, is at home."""
        for neighbour, users in self._users:
            if address in users:
                return neighbour
        return self._by_domain.get(address.rpartition("@")[2])

    def at(self, uri: SipUri) -> Hop | None:
        """Return the way to the neighbour whose Contact or Route a URI is; None if it is nobody's.

        A dead node of this cluster is nobody: what is for it can be served here.
        """
        found = self._by_address.get(address_of(uri))
        return None if found is None or self.gone(found.name) else self._hop(found.name)

    def named(self, name: str) -> Hop | None:
        """Return the way to a neighbour by its name; None when there is none called so."""
        return self._hop(name) if name in self._ways else None

    def advertising(self, address: tuple[str, int]) -> str:
        """Return the name of the neighbour that tells peers a (host, port) of its own, "" for none."""
        found = self._by_address.get(address)
        return "" if found is None else found.name

    def by_route(self, route_set: Sequence[str]) -> Hop | None:
        """Return where a request within a dialog goes whose first Route is a neighbour's, else None.

        In a dialog that came through another node the peer wants to be answered through it.
        """
        if not self._all or not route_set:
            return None
        try:
            uri = parse_name_addr(route_set[0]).uri
        except RemoteError:
            return None
        return self.at(uri) if isinstance(uri, SipUri) else None

    def who(self, names: Iterable[str]) -> str:
        """Return the name of the neighbour that a proven certificate belongs to; "" for none."""
        for name in names:
            if name in self._by_name:
                return self._by_name[name].name
        return ""

    def is_member(self, names: Iterable[str]) -> bool:
        """Say whether a proven certificate belongs to a node of this cluster."""
        return self.who(names) in self.members

    def serves_the_same(self, hop: Hop) -> bool:
        """Say whether a hop leads to a node of this cluster."""
        return hop.source.removeprefix("neighbour ") in self.members

    def status(self, condition: Condition) -> list[dict[str, Any]]:
        """Return a line about each address of each neighbour, in the order in which they are used.

        :param condition: says how things stand with a hop.
        """
        return [
            {"name": each.name, "domains": list(each.domains), "hop": str(hop)}
            | dict(zip(("state", "reason"), condition(hop), strict=True))
            for each in self._all
            for hop in self._ways[each.name]
        ]


@implementer(IRoute)
class NeighbourRoute:
    """Leads to the neighbours that host local domains, or single users of ours.

    :cvar inside: whether its hops are of our own organisation, who knows us by our usual certificate.
    """

    inside = True
    name = "neighbour"
    order = 10
    interface_version = INTERFACE_VERSION

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def resolve(self, query: RouteQuery) -> Sequence[Hop] | None:
        """Return the ways to the neighbour that hosts the recipient's domain, if there is one."""
        found = self._neighbours.home_of(query.to_address)
        return self._neighbours.all_ways(found.name) if found is not None else None


def _hops(neighbour: NeighbourConfig) -> tuple[Hop, ...]:
    return tuple(
        Hop(
            "tls",
            host,
            port,
            tls_name=neighbour.tls_name or host,
            priority=number,
            source=f"neighbour {neighbour.name}",
            others=bool(neighbour.fallback),
        )
        for number, (host, port) in enumerate(neighbour.addresses, 1)
    )
