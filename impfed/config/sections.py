"""The sections and keys of the configuration file as tables: what is read and documented.

The loader reads by these tables and ``docs/configuration.md`` is made from them, so that neither
can know of a key that the other does not.  Defaults come from :mod:`impfed.config.model`.
"""

from __future__ import annotations

from impfed.config import edge, model, values
from impfed.config.keys import Key, Section
from impfed.config.local import LOCAL_DOMAIN
from impfed.config.mapping import MAPPING_FILE
from impfed.config.neighbours import NEIGHBOUR
from impfed.config.route_sections import DNS, LDAP, OPEN_FEDERATION, PLUGINS, ROUTE, SIP
from impfed.config.s2s import S2S, S2S_DOMAIN, S2S_EXCEPTION
from impfed.config.store import STORE

__all__ = [
    "DNS",
    "LDAP",
    "NEIGHBOUR",
    "OPEN_FEDERATION",
    "PLUGINS",
    "ROUTE",
    "SECTIONS",
    "SIP",
    "STORE",
    "Key",
    "Section",
]

NODE = Section(
    "node",
    False,
    model.NodeConfig,
    "The node itself.",
    (
        Key("name", values.NAME, "Name of the node in logs and in the delivery ledger."),
        Key(
            "state_directory",
            values.PATH,
            "Where the store is kept. Only the user that impfed runs as should be able to read it.",
        ),
        Key("control_socket", values.PATH, "Unix socket that `impfedctl` talks to; mode 0600."),
        Key("log_format", values.choice("text", "json"), "A line for people, or a JSON object."),
        Key(
            "log_level",
            values.choice("debug", "info", "warn", "error"),
            "The least level that is logged.",
        ),
        Key(
            "trusted_upstreams",
            values.PEER_NAMES,
            "Certificate names of who stands before this node: an edge, a load balancer, a routing"
            " node (docs/topologies.md). Their word on who the far side is is taken: whom a balancer"
            " names in the PROXY header, or else for every `[[domain]]`; nobody else's.",
        ),
        Key(
            "relay_secret_file",
            values.PATH,
            "File whose first line is the secret that relay tokens are signed with, the same on all"
            " nodes (docs/pat.md). A token in our Contact tells any node which node a request belongs"
            " to.",
            (),
            default="no tokens",
        ),
        Key("relay_secret_env", values.NAME, "Environment variable that holds it.", ()),
        Key(
            "relay_secret",
            values.NAME,
            "The secret itself; a file is better.",
            ("relay_secret",),
        ),
        Key(
            "relay_lifetime",
            values.duration(600, 7 * 86400),
            "How long a relay token is good. Subscriptions get a new one with each refresh; a session"
            " keeps the one that it began with.",
        ),
    ),
)

TLS = Section(
    "tls",
    False,
    model.TlsConfig,
    "Trust, and the certificates below. Files are read again when they change.",
    (
        Key("ca", values.CA_FILE, "Trusted root certificates.", default="the system's"),
        Key("minimum", values.choice("1.2", "1.3"), "The lowest TLS version that is spoken."),
    ),
)

CERTIFICATE = Section(
    "tls.certificate",
    True,
    model.CertificateConfig,
    "A certificate chain with its key. The first is shown where nothing else is chosen; the others"
    " are chosen by the name that a client asks for, or by the name given here.",
    (
        Key("name", values.NAME, "Name that other sections use.", required=True),
        Key("certificate", values.CERTIFICATE_FILE, "The chain, leaf first.", required=True),
        Key("key", values.KEY_FILE, "The private key.", required=True),
    ),
)

LISTENER = Section(
    "listener",
    True,
    model.ListenerConfig,
    "Where SIP peers connect to.",
    (
        Key("name", values.NAME, "Name of the listener in logs and status.", required=True),
        Key("transport", values.choice("tls", "tcp", "udp"), "The transport.", required=True),
        Key(
            "bind",
            values.ADDRESS,
            "Address and port on this machine; `0.0.0.0` or `[::]` for all addresses.",
            ("host", "port"),
            required=True,
        ),
        Key(
            "advertised",
            values.ADDRESS,
            "Address and port that peers are told, in Via and Contact.",
            ("advertised_host", "advertised_port"),
            default="what `bind` says",
        ),
        Key(
            "contact",
            values.ADDRESS,
            "Address and port that stand in our Contact instead, the same on all nodes: the federation"
            " routing name, for an edge that routes by name and not by port (docs/pat.md).",
            ("contact_host", "contact_port"),
            default="`advertised`",
        ),
        Key(
            "client_certificates",
            values.choice("required", "optional", "none"),
            "TLS only: whether a peer must show a certificate. Microsoft always does.",
        ),
        Key(
            "proxy_protocol",
            values.BOOLEAN,
            "TLS and TCP: only a load balancer connects here, and begins with a PROXY header (version 1"
            " or 2) that names the peer's own address (docs/topologies.md).",
        ),
        Key(
            "proxy_addresses",
            values.NETWORKS,
            "With `proxy_protocol`: who may connect and is believed. A connection from elsewhere, or"
            " without the header, is closed.",
        ),
        Key(
            "side",
            values.choice(*edge.SIDES),
            "With `[edge]` only, and required there: whether partners or our own nodes connect to it.",
            default="none",
        ),
        Key(
            "certificate",
            values.NAME,
            "TLS: name of the only certificate that it shows.",
            default="the one that the peer asks for by name, else the first; with `side ="
            ' "inside"` the one that `[edge]` names',
        ),
    ),
)

DOMAIN = Section(
    "domain",
    True,
    model.SipDomainConfig,
    "A foreign domain that is federated over SIP. Its users may reach ours as soon as it stands"
    " here, and no longer when it is removed.",
    (
        Key("name", values.DOMAIN, "The domain, matched exactly.", required=True),
        Key(
            "kind",
            values.choice(*model.SIP_KINDS),
            "Whose dialect it speaks: Lync and Skype for Business, Office 365, or standard SIMPLE.",
        ),
        Key("description", values.TEXT, "Shown to users and operators."),
        Key(
            "peer_names",
            values.PEER_NAMES,
            "Certificate names accepted besides the domain itself, names directly under it, and"
            " the next hop.",
        ),
        Key(
            "client_certificate",
            values.TEXT,
            'Name of the certificate we show there; "none" for none.',
            default="the first",
        ),
        Key("text_limit", values.whole(100, 100_000), "Characters from which on a text is split."),
        Key(
            "presence_pace",
            values.limit(1, 100_000),
            "Subscriptions that are refreshed there in a second after a restart, those of users who"
            " were there last first.",
            default="10 for Microsoft's kinds, 100 for `simple`",
        ),
        Key(
            "listed",
            values.BOOLEAN,
            "Whether its administrator has allowed us by name (docs/partner-budget.md): then there"
            " is no budget unless one is given below.",
        ),
    ),
)

BUDGET = Section(
    "domain.budget",
    False,
    model.BudgetConfig,
    "How much we send to the domain, so that it has no reason to slow us down or to block us"
    " (docs/partner-budget.md).",
    (
        Key(
            "rate",
            values.limit(1, 100_000),
            "Requests a second.",
            default="18 for Microsoft's kinds that have not listed us, else no limit",
        ),
        Key(
            "burst",
            values.whole(1, 100_000),
            "Requests that may go at once after a pause.",
            default="2 with the 18 above, else a tenth of `rate`",
        ),
        Key(
            "addresses",
            values.limit(1, 10_000_000),
            "Different people there whom we write to, or ask for their presence, in a day.",
            default="1000 for Microsoft's kinds that have not listed us, else no limit",
        ),
        Key(
            "unknown_users",
            values.duration(0, 86400),
            "How long a user whom the domain does not know (404) is not asked for again.",
        ),
    ),
)

NEXT_HOP = Section(
    "domain.next_hop",
    False,
    model.NextHopConfig,
    "Where the domain's requests go: the same as one `[[route]]` with the domain as pattern. Without"
    " either the DNS is asked (`[dns] discovery`).",
    (
        Key("address", values.ADDRESS, "Host and port.", ("host", "port"), required=True),
        Key("transport", values.choice("tls", "tcp", "udp"), "The transport."),
        Key(
            "tls_name",
            values.HOST,
            "Name that the peer's certificate must carry.",
            default="the host",
        ),
    ),
)

HOME = Section(
    "home",
    True,
    model.HomeConfig,
    "A home server and the local domains that it hosts. One of `secret_file`, `secret_env` and"
    " `secret` is required, but not for kind `s2s`, where it is the dialback secret.",
    (
        Key("name", values.NAME, "Name of the home server in logs and status.", required=True),
        Key(
            "kind",
            values.choice("component", "prosody", "s2s"),
            "`component`: one XEP-0114 component for each foreign domain, with any server."
            " `prosody`: one component for all of them, fed by `mod_impfed`. `s2s`: it takes this"
            " node for the server of every foreign domain (docs/home-servers.md).",
            required=True,
        ),
        Key("domains", values.DOMAINS, "The local domains.", required=True),
        Key(
            "connect",
            values.ADDRESS,
            "Where its component port listens; for kind `s2s` its port for other servers.",
            ("host", "port"),
            default='"127.0.0.1:5347"',
        ),
        Key("secret_file", values.PATH, "File whose first line is the component's secret.", ()),
        Key("secret_env", values.NAME, "Environment variable that holds the secret.", ()),
        Key("secret", values.NAME, "The secret itself; a file is better.", ("secret",)),
        Key(
            "address",
            values.DOMAIN,
            "The component's own domain, and the node's own address for users: help, `login`, ad-hoc"
            " commands. Required with kinds `prosody` and `s2s`; with kind `component` one component"
            " more.",
        ),
        Key(
            "bind",
            values.ADDRESS,
            "Where a home server of kind `s2s` connects to us, inside the house.",
            ("bind_host", "bind_port"),
            default="required with kind `s2s`",
        ),
        Key(
            "tls",
            values.choice("none", "optional", "required"),
            "TLS on the streams of kind `s2s`; `optional`: in clear where it fails.",
        ),
        Key(
            "require_certificates",
            values.BOOLEAN,
            "Whether there its certificate must prove its domains; else dialback may do.",
        ),
        Key(
            "ca",
            values.CA_FILE,
            "Trusted roots for its certificate alone.",
            default="those of `[tls]`",
        ),
        Key(
            "users",
            values.USERS_FILE,
            "Who exists, for kind `component`: without it an unknown user cannot be told from one"
            " who is away.",
        ),
        Key(
            "directory",
            values.NAME,
            "Who exists, from an `[[ldap]]` of that name or a directory plugin.",
            default="none",
        ),
    ),
)

IM = Section(
    "im",
    False,
    model.ImConfig,
    "Instant messages.",
    (
        Key("idle_timeout", values.duration(1, 86400), "A session without text ends after this."),
        Key(
            "answer_timeout",
            values.duration(60, 600),
            "How long we wait for the answer to an INVITE; a person may have to click first.",
        ),
        Key(
            "acceptance_timeout",
            values.duration(1, 30),
            "How long the home server may take to accept a message before 480 is answered.",
        ),
        Key(
            "embedded_text_hold",
            values.duration(1, 60),
            "How long a text inside an INVITE is held in case a MESSAGE repeats it.",
        ),
        Key("message_limit", values.size(1300, 16 * 1024**2), "The largest message accepted."),
        Key(
            "blocked_texts",
            values.choice("refuse", "discard"),
            "What becomes of a message to a user who blocks its sender: refused with 480, or taken,"
            " thrown away and counted.",
        ),
    ),
)

PRESENCE = Section(
    "presence",
    False,
    model.PresenceConfig,
    "Presence subscriptions.",
    (
        Key("expires", values.duration(60, 86400, True), "Lifetime that we ask for."),
        Key(
            "minimum_expires",
            values.duration(1, 3600, True),
            "A shorter lifetime is refused with 423, except 0.",
        ),
        Key(
            "logout_after",
            values.duration(60, 30 * 86400),
            "Without a sign of a user for so long he counts as logged out.",
        ),
        Key(
            "stale_after",
            values.duration(1, 86400),
            "While a partner cannot be reached the last presence is shown for so long.",
        ),
        Key(
            "contacts_per_user",
            values.limit(1, 1_000_000),
            "Foreign contacts that a local user may watch; one more gets `resource-constraint`.",
        ),
        Key(
            "watchers_per_user",
            values.limit(1, 1_000_000),
            "Foreign users who may watch a local one; one more gets 403.",
        ),
        Key(
            "pending_per_domain",
            values.limit(1, 1_000_000),
            "Requests of one foreign domain that local users have not answered; one more gets 403.",
        ),
        Key(
            "new_per_minute",
            values.limit(1, 1_000_000),
            "Subscriptions that people of one foreign domain whom nobody here has answered yet may"
            " begin in a minute; more get 403.",
        ),
    ),
)

LEDGER = Section(
    "ledger",
    False,
    model.LedgerConfig,
    "The delivery ledger: what became of each message, never its text.",
    (Key("retention", values.duration(3600, 3650 * 86400), "How long an entry is kept."),),
)

WEB = Section(
    "web",
    False,
    model.WebConfig,
    "The User Options page, where users decide who outside may see them (docs/user-options.md)."
    " Without this section there is none; `bind` and `public_url` are required in it.",
    (
        Key("bind", values.ADDRESS, "Address and port on this machine.", ("host", "port")),
        Key("public_url", values.PUBLIC_URL, "Where users find it; links to it are sent to them."),
        Key(
            "certificate",
            values.TEXT,
            'Name of the certificate it shows; "none" for plain HTTP behind a proxy that speaks TLS.',
            default="the first",
        ),
        Key(
            "idle_timeout",
            values.duration(60, 8 * 3600),
            "Without a click for so long a user is logged out.",
        ),
    ),
)

MAPPING = Section(
    "mapping",
    True,
    model.MappingConfig,
    "Rows of your own in the table that says how a kind of peer shows availability. The program's"
    " tables are in `impfed/interwork/kinds`; a row takes the place of the one with the same"
    " `state`, or is tried before all others.",
    (
        Key("kind", values.choice(*model.MAPPED_KINDS), "Whose table it is.", required=True),
        Key("file", MAPPING_FILE, "File with the rows.", ("rows",), required=True),
    ),
)

#: Every section, in the order of the reference page.
SECTIONS = (
    NODE,
    TLS,
    CERTIFICATE,
    LISTENER,
    DOMAIN,
    NEXT_HOP,
    BUDGET,
    ROUTE,
    SIP,
    DNS,
    OPEN_FEDERATION,
    PLUGINS,
    HOME,
    LDAP,
    NEIGHBOUR,
    LOCAL_DOMAIN,
    edge.EDGE,
    edge.TARGET,
    edge.PORT,
    edge.LIMITS,
    S2S,
    S2S_DOMAIN,
    S2S_EXCEPTION,
    IM,
    PRESENCE,
    MAPPING,
    STORE,
    LEDGER,
    WEB,
)
