"""The route ``srv``: finds configured SIP domains in the DNS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from twisted.internet.defer import Deferred
from zope.interface import implementer

from impfed.config.model import SipDomainConfig
from impfed.core.dns import Lookup
from impfed.routing.api import INTERFACE_VERSION, IRoute, Reject, RouteQuery
from impfed.routing.locate import Located, Plan, locate, run
from impfed.routing.order import Uniform
from impfed.sip.target import Hop

_Answer: TypeAlias = Sequence[Hop] | Reject | None


@implementer(IRoute)
class SrvRoute:
    """Looks a configured domain up: Microsoft's federation record, then RFC 3263 if its kind does so.

    The DNS is not signed, so a name that only it gives proves nothing: a server's certificate must
    carry a name that the domain may speak by anyway (SPEC section 8); where the server's own name
    is none of these, the domain itself.

    :param domain: finds a configured SIP domain.
    :param may_prove: says whether a name in a certificate proves a domain.
    :param transports: those that we have listeners for.
    """

    name = "srv"
    order = 200
    interface_version = INTERFACE_VERSION

    def __init__(
        self,
        domain: Callable[[str], SipDomainConfig | None],
        may_prove: Callable[[str, str], bool],
        lookup: Lookup,
        transports: Sequence[str],
        uniform: Uniform,
    ) -> None:
        self._domain = domain
        self._may_prove = may_prove
        self._lookup = lookup
        self._transports = tuple(each for each in ("tls", "tcp", "udp") if each in transports)
        self._uniform = uniform

    def resolve(self, query: RouteQuery) -> _Answer | Deferred[_Answer]:
        """Return the domain's servers; None for a domain that is not configured."""
        domain = self._domain(query.to_domain)
        if domain is None:
            return None
        plan = self._plan(domain)
        if not plan.transports:
            return Reject(500, f"there is no listener whose address {domain.name} could be told")
        found: list[_Answer] = []
        waiting: list[Deferred[_Answer]] = []

        def done(located: Located) -> None:
            answer = self._answer(domain, located)
            if waiting:
                waiting[0].callback(answer)
            else:
                found.append(answer)

        run(locate(plan, self._uniform), self._lookup, done)
        if found:
            return found[0]
        waiting.append(Deferred())
        return waiting[0]

    def _plan(self, domain: SipDomainConfig) -> Plan:
        standard = domain.kind == "simple"
        transports = self._transports if standard else tuple({"tls"} & set(self._transports))
        return Plan(domain.name, transports, federation=True, standard=standard)

    def _answer(self, domain: SipDomainConfig, located: Located) -> Sequence[Hop] | Reject:
        if not located.places:
            return Reject(408 if located.failed else 404, located.reason)
        return [
            Hop(
                place.transport,
                place.host,
                place.port,
                tls_name=self._tls_name(domain.name, place.name)
                if place.transport == "tls"
                else "",
                certificate=domain.client_certificate if place.transport == "tls" else "",
                priority=position,
                source=place.why,
                others=len(located.places) > 1,
            )
            for position, place in enumerate(located.places, start=1)
        ]

    def _tls_name(self, domain: str, server: str) -> str:
        return server if self._may_prove(domain, server) else domain
