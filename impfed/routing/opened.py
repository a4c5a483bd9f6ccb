"""Open federation: what this node makes of domains that nobody configured (SPEC section 8).

Such a domain is reached over XMPP or over SIP, never both.  Which one is found out when a local user writes
there (XMPP first), or when the domain itself comes: over TLS with a certificate that proves it, or
over a server-to-server stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from impfed.config.model import BudgetConfig, Config, SipDomainConfig
from impfed.config.s2s import covers
from impfed.core.metrics import Metrics
from impfed.routing.api import OverXmpp, Reject, RouteQuery
from impfed.routing.learned import LearnedDomains, Protocols
from impfed.routing.router import Resolution
from impfed.routing.static import StaticTable

#: Decisions that may be awaited at a time, with everything that waits for them.
_WAITING = 1000

#: A domain that has just discovered us is sent no more than any partner bears that has not listed us,
#: whatever its kind.
_BUDGET = BudgetConfig(rate=18, burst=2, addresses=1000)

#: Finds next hops; :meth:`impfed.routing.router.Router.resolve`.
Resolve = Callable[[RouteQuery, Callable[[Resolution], None]], None]


class OpenDomains:
    """Knows which domains nobody configured, and what is known of them.

    :param learned: what was found out.
    :param table: its route ``.*`` is the way to them over SIP.
    :ivar enabled: whether there is open federation at all; if not, no domain is unknown here.
    :ivar resolve: finds next hops; to be set before the start.
    """

    def __init__(
        self, config: Config, learned: LearnedDomains, table: StaticTable, metrics: Metrics
    ) -> None:
        self._config = config.open_federation
        self.enabled = self._config.enabled
        self._xmpp = config.s2s is not None
        self._learned = learned
        self._table = table
        self._metrics = metrics
        self._known = frozenset(domain.name for domain in config.domains) | config.own_domains
        self._known |= {home.address for home in config.homes if home.address}
        # Who is named for XMPP, be it to refuse him, is not unknown.
        s2s = config.s2s
        peers = () if s2s is None else (*s2s.domains, *s2s.exceptions)
        self._peers = [getattr(each, "name", "") or getattr(each, "domain", "") for each in peers]
        self._domains: dict[str, SipDomainConfig] = {}
        self._waiting = 0
        self.resolve: Resolve

    # -- what is known -----------------------------------------------------------------------------

    def unknown(self, name: str) -> bool:
        """Say whether a domain (lower case) is one that nobody configured."""
        if not self.enabled or name in self._known or "." not in name:
            return False
        return not any(covers(peer, name) for peer in self._peers)

    def protocol(self, name: str) -> Protocols | None:
        """Return how an unknown domain is reached, as far as it was found out."""
        return self._learned.protocol(name) if self.unknown(name) else None

    def domain(self, name: str) -> SipDomainConfig | None:
        """Return what holds for an unknown domain that is reached over SIP; None for any other."""
        if not self.enabled or self.protocol(name) != "sip":
            return None
        found = self._domains.get(name)
        if found is None:
            if len(self._domains) >= _WAITING:
                self._domains.clear()
            found = self._domains[name] = SipDomainConfig(
                name, self._config.kind, "open federation", budget=_BUDGET
            )
        return found

    @property
    def default_names(self) -> frozenset[str]:
        """The TLS names of the next hops of ``.*``, by which unknown domains are reached."""
        return self._table.default_names

    def expected(self, name: str) -> tuple[str, ...]:
        """Return the certificate names that prove an unknown domain; "HOST.x" is any name under x."""
        names = (name, f"HOST.{name}") if self._config.host_names else (name,)
        return (*names, *sorted(self.default_names)) if self.domain(name) is not None else names

    def proves(self, name: str, names: frozenset[str]) -> bool:
        """Say whether a certificate with these names may speak for an unknown domain.

        Nothing but the domain itself will do, unless the operator lets hosts under it count.  The next
        hop of ``.*`` may bring the answers of domains that we reach by it.
        """
        if name in names:
            return True
        if self._config.host_names and any(each.partition(".")[2] == name for each in names):
            return True
        return self.domain(name) is not None and not self.default_names.isdisjoint(names)

    # -- what happens ------------------------------------------------------------------------------

    def came_by_sip(self, name: str) -> None:
        """An unknown domain has proven itself on a SIP connection."""
        if self._learned.protocol(name) is None:
            self._metrics.count("routing.domains_came")
            self._learned.found(name, "sip")

    def came_by_xmpp(self, name: str) -> str:
        """A stanza of an unknown domain came over a stream that proves it.

        :return: why it is not taken, in words; "" when it is.
        """
        if self._learned.protocol(name) == "sip" and self._learned.proven(name):
            return (
                f"{name} is federated with over SIP (open federation has learned so), and a domain"
                " has one of both"
            )
        self._learned.found(name, "xmpp")
        self._learned.worked(name, "xmpp")
        return ""

    def worked(self, name: str) -> None:
        """A request to or from an unknown domain was accepted over SIP."""
        if self.unknown(name):
            self._learned.worked(name, "sip")

    def serves(self, name: str) -> bool:
        """Say whether SIP takes what local users write to an unknown domain.

        Without XMPP federation there is nothing to find out first.
        """
        if not self.enabled:
            return False
        known = self.protocol(name)
        if known is None and not self._xmpp and self.unknown(name):
            if self._table.match("", name) is None:
                return False
            self._learned.found(name, "sip")
            return self._learned.protocol(name) == "sip"
        return known == "sip"

    def decide(
        self, sender: str, recipient: str, done: Callable[[Protocols | None, str], None]
    ) -> bool:
        """Find out how the domain of a recipient is reached.

        :param done: called with the protocol, or with None and the reason why there is no way.
        :return: whether that is going to happen; False when too much waits already.
        """
        if self._waiting >= _WAITING:
            self._metrics.count("routing.undecided_full")
            return False
        self._waiting += 1

        def resolved(resolution: Resolution) -> None:
            self._waiting -= 1
            if isinstance(resolution, OverXmpp):
                done("xmpp", "")
            elif isinstance(resolution, Reject):
                done(None, resolution.reason)
            else:
                done("sip", "")

        self.resolve(RouteQuery("MESSAGE", sender, recipient), resolved)
        return True

    def status(self) -> dict[str, Any]:
        """Return what ``impfedctl status`` shows."""
        return {
            "enabled": self.enabled,
            "kind": self._config.kind,
            "undecided": self._waiting,
        }
