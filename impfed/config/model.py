"""The configuration as frozen values; :mod:`impfed.config.load` makes them from TOML.

Durations are seconds, sizes are octets (the file spells them "10m" and "256 KiB").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impfed.config.edge import EdgeConfig
    from impfed.config.local import LocalDomainConfig
    from impfed.config.s2s import S2SConfig

from impfed.config.patterns import Pattern
from impfed.config.store import DEFAULT_STORE, StoreConfig

#: Kinds of foreign domain, each with a data file of its own in ``impfed/interwork/kinds``.
SIP_KINDS = ("microsoft", "office365", "simple")

#: Kinds whose table an operator may change: those, and what is reached over XMPP.
MAPPED_KINDS = (*SIP_KINDS, "xmpp", "sametime", "webex")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The node itself: its name, where it keeps its state, where it can be talked to.

    :ivar trusted_upstreams: certificate names of who stands before this node (an edge, a balancer,
        a routing node); their word on who the far side is is taken.
    :ivar relay_secret: what the nodes sign relay tokens with; "" for no tokens.
    :ivar relay_lifetime: seconds for which a relay token is good.
    """

    name: str = "node1"
    state_directory: Path = Path("/var/lib/impfed")
    control_socket: Path = Path("/run/impfed/control.sock")
    log_format: str = "text"  # or "json"
    log_level: str = "info"
    trusted_upstreams: tuple[str, ...] = ()
    relay_secret: str = field(default="", repr=False)
    relay_lifetime: float = 12 * 3600.0


@dataclass(frozen=True, slots=True)
class CertificateConfig:
    """A certificate chain with its key, both PEM, under a name that other sections use."""

    name: str
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Certificates and trust.

    :ivar certificates: the first is the default; the others are chosen by SNI or by name.
    :ivar ca: PEM file of trusted roots, None for the system's.
    :ivar minimum: lowest version spoken: "1.2" or "1.3".
    :ivar asked: (name, certificate) of host names for which that certificate is shown to whoever
        asks for them, whatever names are in it.
    """

    certificates: tuple[CertificateConfig, ...] = ()
    ca: Path | None = None
    minimum: str = "1.2"
    asked: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """One SIP listener: where it is bound and what peers are told (SPEC "bound" and "advertised").

    :ivar transport: "tls", "tcp" or "udp".
    :ivar client_certificates: TLS only: "required" (mutual), "optional" or "none" (server-only).
    :ivar contact_host: what stands in our Contact in place of the advertised address; "" for that.
    :ivar proxy_protocol: whether each connection begins with a PROXY header.
    :ivar proxy_addresses: addresses and networks whose PROXY headers are believed.
    :ivar side: of an edge: "outside" or "inside"; "" otherwise.
    :ivar certificate: name of the only certificate that it shows; "" for the one asked for by name.
    """

    name: str
    transport: str
    host: str
    port: int
    advertised_host: str
    advertised_port: int
    client_certificates: str = "required"
    proxy_protocol: bool = False
    proxy_addresses: tuple[str, ...] = ()
    side: str = ""
    certificate: str = ""
    contact_host: str = ""
    contact_port: int = 0


@dataclass(frozen=True, slots=True)
class NextHopConfig:
    """Where a domain's requests go.

    :ivar tls_name: name that the peer's certificate must carry; the host when empty.
    """

    host: str
    port: int = 5061
    transport: str = "tls"
    tls_name: str = ""


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """How much we send to a domain; 0 is what its kind bears, None no limit.

    :ivar rate: requests a second.
    :ivar burst: requests at once after a pause.
    :ivar addresses: distinct addresses in a day.
    :ivar unknown_users: seconds for which a user whom the domain does not know is not asked for.
    """

    rate: int | None = 0
    burst: int = 0
    addresses: int | None = 0
    unknown_users: float = 600.0


@dataclass(frozen=True, slots=True)
class SipDomainConfig:
    """A SIP federated domain.

    :ivar peer_names: certificate names accepted besides the domain, names directly under it, and
        the static next hop; none of them may be a wildcard.
    :ivar client_certificate: name of the certificate we show, "" for the default, "none" for none.
    :ivar text_limit: characters after which an outgoing text is split.
    :ivar presence_pace: SUBSCRIBEs a second after a restart; None for no limit, 0 for what the kind
        bears.
    :ivar listed: whether the domain's administrator has allowed us by name.
    """

    name: str
    kind: str = "microsoft"
    description: str = ""
    next_hop: NextHopConfig | None = None
    peer_names: tuple[str, ...] = ()
    client_certificate: str = ""
    text_limit: int = 8000
    presence_pace: int | None = 0
    listed: bool = False
    budget: BudgetConfig = BudgetConfig()


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """A static route, or a route plugin with its settings.

    :ivar pattern: what a static route covers; None for a plugin.
    :ivar host: next hop; "" for a blocking route.
    :ivar priority: lower is tried first; a higher one only while the better cannot be reached.
    :ivar weight: share of the traffic among routes of equal priority.
    :ivar plugin: name of a route plugin; "" for a static route.
    :ivar order: when the plugin is asked; None for what it says itself.
    """

    pattern: Pattern | None = None
    host: str = ""
    port: int = 5061
    transport: str = "tls"
    tls_name: str = ""
    client_certificate: str = ""
    priority: int = 1
    weight: int = 1
    in_service: bool = True
    block: bool = False
    plugin: str = ""
    order: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SipConfig:
    """Connections to next hops.

    :ivar connect_timeout: seconds for a connection to the only hop that there is.
    :ivar failover_after: seconds after which another hop takes over, where there is one.
    :ivar reuse: whether connections of mutual TLS are used in both directions.
    """

    connect_timeout: float = 10.0
    failover_after: float = 3.0
    reuse: bool = True


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """How foreign domains are looked up.

    :ivar discovery: whether a domain without static route is looked for in the DNS.
    :ivar servers: (address, port) of name servers; empty for the system's.
    :ivar timeout: seconds for one question, repetitions included.
    """

    discovery: bool = True
    servers: tuple[tuple[str, int], ...] = ()
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class OpenFederationConfig:
    """What becomes of domains that nobody configured.

    :ivar kind: the dialect of those that are reached over SIP.
    :ivar host_names: whether a certificate for a name directly under such a domain proves it.
    :ivar probe_timeout: seconds for finding out whether a domain speaks XMPP.
    :ivar remember: seconds for which an answer is kept that no traffic has proven yet.
    """

    enabled: bool = False
    kind: str = "microsoft"
    host_names: bool = False
    probe_timeout: float = 10.0
    remember: float = 600.0


@dataclass(frozen=True, slots=True)
class PluginsConfig:
    """Route plugins that need no settings, and how long any plugin may think.

    :ivar routes: names of route plugins.
    :ivar timeout: seconds after which a plugin is skipped.
    """

    routes: tuple[str, ...] = ()
    timeout: float = 2.0


@dataclass(frozen=True, slots=True)
class LdapConfig:
    """An LDAP directory of local users.

    :ivar url: "ldap://host:port" or "ldaps://host:port".
    :ivar filter: search filter with {address}, {user} and {domain}.
    :ivar attribute: holds the whole address of a person, or (without "@") the local part.
    :ivar cache: seconds for which an answer is kept.
    """

    name: str
    url: str
    base: str
    filter: str = "(mail={address})"
    attribute: str = "mail"
    bind_dn: str = ""
    password_file: Path | None = None
    start_tls: bool = False
    ca: Path | None = None
    timeout: float = 3.0
    cache: float = 60.0


@dataclass(frozen=True, slots=True)
class HomeConfig:
    """A home server and the local domains that it hosts.

    :ivar kind: "component" (one XEP-0114 component for each foreign domain), "prosody" (one
        component, fed by ``mod_impfed``) or "s2s" (it takes us for every foreign server).
    :ivar secret: the component's; for kind "s2s" the dialback secret, "" for one made at the start.
    :ivar address: the node's own address; required for kinds "prosody" and "s2s".
    :ivar bind_host: where a home of kind "s2s" connects to us; "" for the others.
    :ivar tls: "none", "optional" or "required" on the streams of kind "s2s".
    :ivar require_certificates: whether there its certificate must prove its domains.
    :ivar ca: trusted roots for it alone.
    :ivar users: file with one bare JID or local part a line, the directory of kind "component".
    :ivar directory: name of an LDAP directory or of a directory plugin.
    """

    name: str
    kind: str
    domains: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 5347
    secret: str = field(default="", repr=False)
    address: str = ""
    users: Path | None = None
    directory: str = ""
    bind_host: str = ""
    bind_port: int = 5269
    tls: str = "optional"
    require_certificates: bool = False
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class NeighbourConfig:
    """Another node, or the way into another cluster, of the same organisation.

    :ivar domains: local domains that it hosts.
    :ivar host: where we connect to, over TLS.
    :ivar tls_name: name that its certificate must carry; the host when empty.
    :ivar peer_names: names by which it is known when it connects to us; ``tls_name`` when empty.
    :ivar advertised: (host, port) that it tells peers; where we connect to when empty.
    :ivar fallback: more (host, port) to connect to, in order, when the ones before do not answer.
    :ivar xmpp: (host, port) where XMPP for its domains is taken, to be tried in order; none for nowhere.
    :ivar check_interval: seconds from one OPTIONS to each address to the next; 0 for none.
    :ivar users: file with users of our own domains who are at home with it.
    """

    name: str
    domains: tuple[str, ...]
    host: str
    port: int
    tls_name: str = ""
    peer_names: tuple[str, ...] = ()
    advertised: tuple[tuple[str, int], ...] = ()
    fallback: tuple[tuple[str, int], ...] = ()
    xmpp: tuple[tuple[str, int], ...] = ()
    check_interval: float = 10.0
    users: Path | None = None

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Every (host, port) that we connect to, in order."""
        return ((self.host, self.port), *self.fallback)

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The names by which it is known when it connects to us."""
        if self.peer_names:
            return self.peer_names
        return (self.tls_name,) if self.tls_name else tuple(host for host, _ in self.addresses)

    @property
    def is_member(self) -> bool:
        """Whether it is a node of the same cluster, which serves the same users."""
        return not self.domains and self.users is None


@dataclass(frozen=True, slots=True)
class ImConfig:
    """Instant messages (SPEC section 3).

    :ivar blocked_texts: "refuse" or "discard" what a blocked person writes.
    """

    idle_timeout: float = 600.0
    answer_timeout: float = 90.0
    acceptance_timeout: float = 20.0
    embedded_text_hold: float = 10.0
    message_limit: int = 256 * 1024
    blocked_texts: str = "refuse"


@dataclass(frozen=True, slots=True)
class PresenceConfig:
    """Presence (SPEC section 5).

    :ivar contacts_per_user: None for no limit, like the others.
    :ivar pending_per_domain: unanswered requests of one foreign domain.
    :ivar new_per_minute: new subscriptions of strangers of one foreign domain.
    """

    expires: int = 7200
    minimum_expires: int = 60
    logout_after: float = 86400.0
    stale_after: float = 300.0
    contacts_per_user: int | None = 1000
    watchers_per_user: int | None = 1000
    pending_per_domain: int | None = 500
    new_per_minute: int | None = 600


@dataclass(frozen=True, slots=True)
class MappingConfig:
    """An operator's own rows of an availability table (SPEC section 6).

    :ivar kind: the kind of peer whose table it is.
    :ivar rows: table name to rows, as the file says it.
    """

    kind: str
    rows: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The User Options page.

    :ivar public_url: where users find it, "https://host[:port][/path]" without a slash at the end.
    :ivar certificate: name of the certificate, "" for the default; "none" for plain HTTP behind a
        proxy that speaks TLS.
    :ivar idle_timeout: seconds without a click after which a user is logged out.
    """

    host: str
    port: int
    public_url: str
    certificate: str = ""
    idle_timeout: float = 1800.0


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """The delivery ledger: how long an entry is kept, in seconds."""

    retention: float = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Config:
    """Everything, as read from one file."""

    path: Path
    node: NodeConfig
    tls: TlsConfig
    listeners: tuple[ListenerConfig, ...]
    domains: tuple[SipDomainConfig, ...]
    homes: tuple[HomeConfig, ...]
    im: ImConfig = ImConfig()
    presence: PresenceConfig = PresenceConfig()
    ledger: LedgerConfig = LedgerConfig()
    web: WebConfig | None = None
    routes: tuple[RouteConfig, ...] = ()
    dns: DnsConfig = DnsConfig()
    open_federation: OpenFederationConfig = OpenFederationConfig()
    plugins: PluginsConfig = PluginsConfig()
    ldap: tuple[LdapConfig, ...] = ()
    mappings: tuple[MappingConfig, ...] = ()
    s2s: S2SConfig | None = None
    neighbours: tuple[NeighbourConfig, ...] = ()
    edge: EdgeConfig | None = None
    sip: SipConfig = SipConfig()
    local: tuple[LocalDomainConfig, ...] = ()
    store: StoreConfig = DEFAULT_STORE

    @property
    def local_domains(self) -> frozenset[str]:
        """Every domain whose users are at home here, lower case."""
        return frozenset(domain for home in self.homes for domain in home.domains)

    @property
    def certificates_by_domain(self) -> dict[str, str]:
        """The certificates of local domains that have one of their own."""
        return {each.name: each.certificate for each in self.local if each.certificate}

    @property
    def hosts_by_domain(self) -> dict[str, str]:
        """The hosts that peers are told for local domains that have one of their own."""
        return {each.name: each.advertised for each in self.local if each.advertised}

    @property
    def own_domains(self) -> frozenset[str]:
        """Every domain of the organisation, those of its other nodes included, lower case."""
        there = {domain for neighbour in self.neighbours for domain in neighbour.domains}
        behind = self.edge.domains if self.edge is not None else ()
        return self.local_domains | there | frozenset(behind)
