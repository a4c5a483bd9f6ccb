"""The route ``open-federation``: domains that nobody configured, XMPP first, then the route ``.*``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface, implementer

from impfed.core.log import EventLog
from impfed.routing.api import INTERFACE_VERSION, IRoute, OverXmpp, Reject, RouteQuery
from impfed.routing.learned import LearnedDomains
from impfed.routing.static import StaticTable, decision
from impfed.sip.target import Hop

log = EventLog("impfed.routing")

_Answer: TypeAlias = Sequence[Hop] | Reject | None


class IXmppProbe(Interface):
    """Finds out whether a domain can be reached over XMPP; the server-to-server side provides it."""

    def reachable(domain: str) -> Deferred[bool]:
        """Fire with whether a stream to the domain came about; failures count as no."""


@implementer(IXmppProbe)
class NoXmpp:
    """Stands where there is no XMPP federation: nothing is reachable that way."""

    def reachable(self, domain: str) -> Deferred[bool]:
        """Say no."""
        return succeed(False)


@implementer(IRoute)
class OpenFederationRoute:
    """Tries an unknown domain by XMPP, then by the static route ``.*``; what worked is remembered.

    Several requests to one new domain wait for one probe.

    :param foreign: says whether a domain is configured, over SIP or XMPP; those are not unknown.
    :param probe: provider of :class:`IXmppProbe`.
    """

    name = "open-federation"
    order = 300
    interface_version = INTERFACE_VERSION

    def __init__(
        self,
        table: StaticTable,
        foreign: Callable[[str], bool],
        learned: LearnedDomains,
        probe: IXmppProbe,
    ) -> None:
        self._table = table
        self._foreign = foreign
        self._learned = learned
        self._probe = probe
        self._probing: dict[str, list[Deferred[bool]]] = {}

    def resolve(self, query: RouteQuery) -> _Answer | Deferred[_Answer]:
        """Return where an unknown domain is; None for a domain that is configured."""
        domain = query.to_domain
        if self._foreign(domain) or "." not in domain:
            return None
        known = self._learned.protocol(domain)
        if known is not None:
            return self._by(known == "xmpp", query)
        return self._reachable(domain).addCallback(self._by, query)

    def _reachable(self, domain: str) -> Deferred[bool]:
        waiting = self._probing.get(domain)
        answer: Deferred[bool] = Deferred()
        if waiting is not None:
            waiting.append(answer)
            return answer
        self._probing[domain] = [answer]

        def ended(result: object) -> None:
            reachable = result is True
            self._learned.found(domain, "xmpp" if reachable else "sip")
            for each in self._probing.pop(domain):
                if not each.called:
                    each.callback(reachable)

        try:
            probed = self._probe.reachable(domain)
        except Exception as error:
            log.warn("probe_failed", "{domain}: {why}", domain=domain, why=str(error))
            ended(False)
            return answer
        probed.addErrback(
            lambda failure: log.warn(
                "probe_failed", "{domain}: {why}", domain=domain, why=failure.getErrorMessage()
            )
        )
        probed.addCallback(ended)
        return answer

    def _by(self, xmpp: bool, query: RouteQuery) -> _Answer:
        domain = query.to_domain
        if xmpp:
            return OverXmpp(404, f"{domain} is reached over XMPP (open federation)")
        entry = self._table.match(query.to_user, domain)
        if entry is None:
            return Reject(
                404, f"{domain} does not answer over XMPP, and there is no static route .* for SIP"
            )
        return decision(entry, query)
