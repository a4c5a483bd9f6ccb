"""The built-in routes: ``local`` keeps our own domains at home, ``static`` follows the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zope.interface import implementer

from impfed.config.model import SipDomainConfig
from impfed.routing.api import INTERFACE_VERSION, IRoute, Reject, RouteQuery
from impfed.sip.target import Hop


@implementer(IRoute)
class LocalRoute:
    """Says that a local domain is never a next hop: its users are reached through the home link.

    Matching is exact (SPEC section 8): a domain under a local domain, or above one, is foreign.
    """

    name = "local"
    order = 0
    interface_version = INTERFACE_VERSION

    def __init__(self, domains: Iterable[str]) -> None:
        self._domains = frozenset(domain.lower() for domain in domains)

    def resolve(self, query: RouteQuery) -> Reject | None:
        """Refuse what is addressed to a local domain; anything else is not this route's business."""
        if query.to_domain in self._domains:
            return Reject(404, f"{query.to_domain} is a local domain")
        return None


@implementer(IRoute)
class StaticRoute:
    """Maps a foreign domain to the next hop that the configuration names for it."""

    name = "static"
    order = 100
    interface_version = INTERFACE_VERSION

    def __init__(self, domains: Iterable[SipDomainConfig]) -> None:
        self._hops: dict[str, tuple[Hop, ...]] = {}
        for domain in domains:
            if (hop := domain.next_hop) is not None:
                self._hops[domain.name] = (
                    Hop(
                        hop.transport,
                        hop.host,
                        hop.port,
                        tls_name=(hop.tls_name or hop.host) if hop.transport == "tls" else "",
                        certificate=domain.client_certificate,
                        source=f"static route of {domain.name}",
                    ),
                )

    def resolve(self, query: RouteQuery) -> Sequence[Hop] | None:
        """Return the configured next hops of the recipient's domain (exact match), if there are any."""
        return self._hops.get(query.to_domain)
