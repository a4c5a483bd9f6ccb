"""Which peer may speak for which foreign domain (SPEC section 8, DESIGN section 9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from impfed.config.model import SipDomainConfig
from impfed.routing.opened import OpenDomains

#: Domains whose direct children are edges shared by many customers, by kind of foreign domain.
SHARED_EDGES = {"office365": ("online.lync.com",)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a peer may not speak for a domain.

    :ivar expected: names of which the certificate must carry one.
    :ivar found: names that it carries.
    """

    reason: str
    expected: tuple[str, ...] = ()
    found: tuple[str, ...] = ()


class PeerPolicy:
    """Knows the configured SIP domains and which certificates may speak for each.

    Accepted are the domain itself, names directly under it, the static next hop and what the
    configuration lists; never a wildcard, never a name taken from DNS.  A trusted upstream, which
    stands before this node and has proven the far side itself, speaks for every domain.

    With open federation a domain that nobody configured may come, too, if its own certificate proves
    exactly it; an upstream's word is not taken for such a one.

    :param upstreams: certificate names of trusted upstreams, lower case.
    :param opened: what is known of domains that nobody configured; None without open federation.
    """

    def __init__(
        self,
        domains: Iterable[SipDomainConfig],
        upstreams: Iterable[str] = (),
        opened: OpenDomains | None = None,
    ) -> None:
        self._opened = opened if opened is not None and opened.enabled else None
        self._upstreams = frozenset(upstreams)
        self._domains = {domain.name: domain for domain in domains}
        self._exact = {domain.name: self._expected(domain) for domain in self._domains.values()}
        self._servers = frozenset().union(*self._exact.values())
        kinds = {domain.kind for domain in self._domains.values()}
        self._edges = [edges for kind, edges in SHARED_EDGES.items() if kind in kinds]

    @staticmethod
    def _expected(domain: SipDomainConfig) -> frozenset[str]:
        names = {domain.name, *(name.lower() for name in domain.peer_names)}
        if domain.next_hop is not None:
            names.add((domain.next_hop.tls_name or domain.next_hop.host).lower())
        return frozenset(names)

    @staticmethod
    def _parents(domain: SipDomainConfig) -> tuple[str, ...]:
        return (domain.name, *SHARED_EDGES.get(domain.kind, ()))

    def domain(self, name: str) -> SipDomainConfig | None:
        """Return a foreign SIP domain's configuration by its exact, lower-case name.

        With open federation unknown domains that are reached over SIP have one, too.
        """
        found = self._domains.get(name)
        return found if found is not None or self._opened is None else self._opened.domain(name)

    def expected(self, name: str) -> tuple[str, ...]:
        """Return the certificate names that may speak for a domain; "HOST.x" is any name under x."""
        domain = self._domains.get(name)
        if domain is None:
            opened = self._opened
            return opened.expected(name) if opened is not None and opened.unknown(name) else ()
        parents = (f"HOST.{parent}" for parent in self._parents(domain))
        return (*sorted(self._exact[name]), *parents, *sorted(self._upstreams))

    def may_prove(self, name: str, host: str) -> bool:
        """Say whether a certificate's name proves a domain, both lower case.

        So a server that the DNS names may be asked for its own name, if the domain accepts that one.
        """
        domain = self._domains.get(name)
        if domain is None:
            return False
        return host in self._exact[name] or self._directly_under(host, self._parents(domain))

    def _directly_under(self, host: str, parents: tuple[str, ...]) -> bool:
        # Another federated domain is nobody's host, though its name may look like one.
        return host.partition(".")[2] in parents and host not in self._domains

    def reaches(self, host: str) -> bool:
        """Say whether a configured domain's server may have a name, lower case."""
        parent = host.partition(".")[2]
        edges = any(parent in shared for shared in self._edges)
        opened = self._opened is not None and host in self._opened.default_names
        return host in self._servers or parent in self._domains or edges or opened

    def may_speak_for(
        self, name: str, names: frozenset[str], proven: bool, transport: str, address: str
    ) -> Refusal | None:
        """Decide whether a connection may carry requests whose From is in a foreign domain.

        An unknown domain that may is remembered as reached over SIP.

        :param name: the From domain, lower case.
        :param names: names that the peer's certificate carries, lower case.
        :param proven: whether mutual TLS verified that certificate.
        :param transport: "tls", "tcp" or "udp".
        :param address: IP address of the peer.
        :return: None when it may, else why not.
        """
        domain = self._domains.get(name)
        if domain is None:
            return self._unknown(name, names, proven and transport == "tls")
        if transport != "tls":
            hop = domain.next_hop
            if hop is not None and hop.transport != "tls" and hop.host == address:
                return None
            return Refusal(
                f"{name} may not speak over {transport} from {address}: without TLS only the"
                " address of the domain's own next hop is taken"
            )
        expected, parents = self._exact[name], self._parents(domain)
        if proven and (
            not expected.isdisjoint(names)
            or not self._upstreams.isdisjoint(names)
            or any(self._directly_under(candidate, parents) for candidate in names)
        ):
            return None
        if not proven:
            reason = f"the peer showed no certificate that proves it may speak for {name}"
        else:
            reason = f"the peer's certificate carries no name that may speak for {name}"
        return Refusal(reason, self.expected(name), tuple(sorted(names)))

    def _unknown(self, name: str, names: frozenset[str], proven: bool) -> Refusal | None:
        """Decide about a domain that nobody configured."""
        opened = self._opened
        if opened is None or not opened.unknown(name):
            return Refusal(f"{name} is not a SIP federated domain")
        if opened.protocol(name) == "xmpp":
            return Refusal(
                f"{name} is reached over XMPP, as open federation has learned, and a domain has one of"
                f" both (impfedctl forget {name} lets it be tried anew)"
            )
        if proven and opened.proves(name, names):
            opened.came_by_sip(name)
            return None
        reason = f"{name} is not configured, and the connection does not prove exactly that domain"
        return Refusal(reason, opened.expected(name), tuple(sorted(names)))
