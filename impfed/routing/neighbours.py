"""The other nodes of the organisation: which domain, which address and which certificate is whose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zope.interface import implementer

from impfed.config.model import NeighbourConfig
from impfed.core.errors import RemoteError
from impfed.routing.api import INTERFACE_VERSION, IRoute, RouteQuery
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
    """What is known of the other nodes; nothing of it changes while the node runs."""

    def __init__(self, configs: Iterable[NeighbourConfig] = ()) -> None:
        self._all = tuple(configs)
        self._hops = {each.name: _hop(each) for each in self._all}
        self._by_domain = {domain: each for each in self._all for domain in each.domains}
        self._by_name = {
            name: each
            for each in self._all
            for name in each.peer_names or (each.tls_name or each.host,)
        }
        self._by_address: dict[tuple[str, int], NeighbourConfig] = {}
        for each in self._all:
            for address in ((each.host, each.port), *each.advertised):
                self._by_address[address] = each

    def __bool__(self) -> bool:
        return bool(self._all)

    def hosting(self, domain: str) -> Hop | None:
        """Return where requests for a local domain go; None when no neighbour hosts it.

        :param domain: lower case; matched exactly.
        """
        found = self._by_domain.get(domain)
        return None if found is None else self._hops[found.name]

    def at(self, uri: SipUri) -> Hop | None:
        """Return the way to the neighbour whose Contact or Route a URI is; None if it is nobody's."""
        found = self._by_address.get(address_of(uri))
        return None if found is None else self._hops[found.name]

    def named(self, name: str) -> Hop | None:
        """Return the way to a neighbour by its name; None when there is none called so."""
        return self._hops.get(name)

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

    def status(self, condition: Condition) -> list[dict[str, Any]]:
        """Return a line about each neighbour.

        :param condition: says how things stand with a hop.
        """
        lines = []
        for each in self._all:
            state, reason = condition(self._hops[each.name])
            line = {"name": each.name, "domains": list(each.domains)}
            line |= {"hop": str(self._hops[each.name]), "state": state, "reason": reason}
            lines.append(line)
        return lines


@implementer(IRoute)
class NeighbourRoute:
    """Leads to the neighbours that host local domains."""

    name = "neighbour"
    order = 10
    interface_version = INTERFACE_VERSION

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def resolve(self, query: RouteQuery) -> Sequence[Hop] | None:
        """Return the neighbour that hosts the recipient's domain, if there is one."""
        hop = self._neighbours.hosting(query.to_domain)
        return None if hop is None else (hop,)


def _hop(neighbour: NeighbourConfig) -> Hop:
    return Hop(
        "tls",
        neighbour.host,
        neighbour.port,
        tls_name=neighbour.tls_name or neighbour.host,
        source=f"neighbour {neighbour.name}",
    )
