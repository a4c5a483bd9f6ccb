"""The sections that say where requests go, and who exists."""

from __future__ import annotations

from impfed.config import model, values
from impfed.config.keys import Key, Section

ROUTE = Section(
    "route",
    True,
    model.RouteConfig,
    "A static route: the narrowest pattern that matches decides (a user pattern, a plain domain, the"
    " longest reversed one); among its routes the lower priority comes first, and equal ones share"
    " by weight. A blocked pattern blocks what no narrower pattern allows. `.*` serves configured"
    " domains that nothing else leads to, and unknown domains only with `[open_federation]`. With"
    " `plugin` it is a route of a third party instead (docs/plugins.md).",
    (
        Key("pattern", values.PATTERN, "What it covers."),
        Key("address", values.ADDRESS, "Host and port of the next hop.", ("host", "port")),
        Key("transport", values.choice("tls", "tcp", "udp"), "The transport."),
        Key(
            "tls_name",
            values.HOST,
            "Name that the peer's certificate must carry.",
            default="the host",
        ),
        Key(
            "client_certificate",
            values.TEXT,
            'Name of the certificate we show there; "none" for none.',
            default="that of the domain, else the first",
        ),
        Key(
            "priority",
            values.whole(0, 65535),
            "Lower is tried first; a higher one only while the better cannot be reached.",
        ),
        Key("weight", values.whole(0, 65535), "Share among equals."),
        Key(
            "in_service", values.BOOLEAN, "false takes it out of service, as if it were not there."
        ),
        Key("block", values.BOOLEAN, "true sends nothing there: 403, and the sender is told."),
        Key("plugin", values.NAME, "Name of a route plugin, in place of a pattern."),
        Key(
            "order",
            values.whole(-1000, 1000),
            "When the plugin is asked; `local` has 0, `static` 100, `srv` 200, `open-federation`"
            " 300.",
            default="what the plugin says",
        ),
        Key("settings", values.SETTINGS, "What the plugin wants to know.", default="none"),
    ),
)

SIP = Section(
    "sip",
    False,
    model.SipConfig,
    "Connections to the next hops of SIP. A hop that cannot be reached is left alone for half a second"
    " at first and for half a minute at most, and then tried by itself, so that it is used again as"
    " soon as it is back and no text has to wait for that.",
    (
        Key(
            "connect_timeout",
            values.duration(1, 60),
            "How long a connection may take, all addresses of the host and its look-up included.",
        ),
        Key(
            "failover_after",
            values.duration(0.5, 30),
            "The same, TLS included, where there is another hop: then that one is used. Also how long"
            " a hop that is in use may acknowledge nothing (TCP) before its connection is given up.",
        ),
        Key(
            "reuse",
            values.BOOLEAN,
            "Whether a connection of mutual TLS carries requests of both sides, if the side that has opened"
            " it says `alias` in its Via (RFC 5923). We say so, too.",
        ),
    ),
)

DNS = Section(
    "dns",
    False,
    model.DnsConfig,
    "How a `[[domain]]` without a static route is found: SRV `_sipfederationtls._tcp`, then, for"
    " kind `simple`, RFC 3263 (NAPTR, SRV, A and AAAA). Certificates are never checked against a"
    " name that only the DNS gave.",
    (
        Key("discovery", values.BOOLEAN, "Whether the DNS is asked at all."),
        Key(
            "servers",
            values.SERVERS,
            "Name servers; they then serve the host names of next hops, too.",
            default="the system's",
        ),
        Key("timeout", values.duration(0.5, 30), "How long one question may take."),
    ),
)

OPEN_FEDERATION = Section(
    "open_federation",
    False,
    model.OpenFederationConfig,
    "Domains that nobody configured: tried by XMPP first, then by the static route `.*`; and those that"
    " come by themselves and prove who they are. What worked is remembered (docs/routing.md).",
    (
        Key("enabled", values.BOOLEAN, "Off unless said otherwise."),
        Key(
            "kind",
            values.choice(*model.SIP_KINDS),
            "Whose dialect those speak that are reached over SIP.",
        ),
        Key(
            "host_names",
            values.BOOLEAN,
            "Whether a certificate with a name directly under an unknown domain (`sip.DOMAIN`) proves the"
            " domain, as many Microsoft edges have it. Whoever can have a name under somebody's domain"
            " certified can then speak for all of it.",
        ),
        Key(
            "probe_timeout", values.duration(1, 60), "How long the XMPP side may take to find out."
        ),
        Key(
            "remember",
            values.duration(10, 86400),
            "How long a finding is kept that no traffic has proven yet.",
        ),
    ),
)

PLUGINS = Section(
    "plugins",
    False,
    model.PluginsConfig,
    "Plugins (docs/plugins.md).",
    (
        Key("routes", values.NAMES, "Route plugins that need no settings."),
        Key(
            "timeout",
            values.duration(0.1, 60),
            "A plugin that has not answered by then is skipped, logged and counted.",
        ),
    ),
)

LDAP = Section(
    "ldap",
    True,
    model.LdapConfig,
    "An LDAP directory that says who exists; needs the package `impfed[ldap]`. A person counts only"
    " if his address is exactly the one asked for: people of foreign domains in the same directory"
    " do not become local.",
    (
        Key("name", values.NAME, "Name that `[[home]] directory` uses.", required=True),
        Key("url", values.LDAP_URL, "The server.", required=True),
        Key("base", values.NAME, "Where the search begins.", required=True),
        Key(
            "filter",
            values.NAME,
            "Search filter; {address}, {user} and {domain} are filled in, escaped.",
        ),
        Key(
            "attribute",
            values.NAME,
            "Attribute with a person's address, or with his local part alone, which then holds in"
            " every domain that uses this directory.",
        ),
        Key("bind_dn", values.TEXT, "Who we log in as; none is anonymous."),
        Key("password_file", values.PATH, "File whose first line is the password.", default="none"),
        Key("start_tls", values.BOOLEAN, "TLS on an `ldap://` connection."),
        Key("ca", values.CA_FILE, "Trusted root certificates.", default="the system's"),
        Key("timeout", values.duration(1, 60), "For connecting, and for each search."),
        Key("cache", values.duration(0, 3600), "How long an answer is kept."),
    ),
)
