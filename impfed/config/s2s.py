"""XMPP federation in the configuration: ``[s2s]`` and, for single peers, ``[[s2s.domain]]``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from impfed.config import values
from impfed.config.keys import Key, Section
from impfed.config.problems import Unsuitable
from impfed.config.values import Kind, domain_name

TLS_MODES = ("none", "optional", "required")

#: Kinds of XMPP peer, each with a data file of its own in ``impfed/interwork/kinds``.
PEER_KINDS = ("xmpp", "sametime", "webex")


def covers(name: str, domain: str) -> bool:
    """Say whether a name, or ``*.domain`` for it and everything under it, means a domain."""
    if not name.startswith("*."):
        return domain == name
    parent = name[2:]
    return domain == parent or domain.endswith("." + parent)


@dataclass(frozen=True, slots=True)
class S2SDomainConfig:
    """What is different for one peer, or for all under a domain; None for what ``[s2s]`` says.

    :ivar name: a domain, or ``*.domain`` for it and everything under it.
    :ivar kind: one of :data:`PEER_KINDS`.
    :ivar until: last day on which this holds.
    :ivar ca: trusted roots for this peer alone.
    :ivar certificate: name of the certificate to show, "" by our domain, "none" for none.
    :ivar host: server to connect to, "" for what DNS says.
    """

    name: str
    kind: str = "xmpp"
    tls: str | None = None
    require_certificates: bool | None = None
    sasl_in: bool | None = None
    sasl_out: bool | None = None
    dialback: bool | None = None
    until: date | None = None
    ca: Path | None = None
    certificate: str = ""
    host: str = ""
    port: int = 5269
    direct_tls: bool = False


@dataclass(frozen=True, slots=True)
class S2SExceptionConfig:
    """An exception that inverts ``[s2s] policy``.

    :ivar domain: a domain, or ``*.domain`` for it and everything under it.
    :ivar direction: "in" (from there), "out" (to there) or "both".
    """

    domain: str
    direction: str = "both"


@dataclass(frozen=True, slots=True)
class S2SConfig:
    """XMPP federation (SPEC section 8).

    :ivar direct_host: where direct TLS is listened for; "" for nowhere.
    :ivar secret: dialback secret, the same on all nodes; "" for one made at the start.
    :ivar certificate_names: what our certificates are to carry besides the local domains.
    :ivar policy: "allow" or "deny" what no exception names.
    :ivar patience: seconds that a stanza may wait for a stream.
    :ivar stream_idle: seconds without a stanza after which a stream is closed.
    :ivar nodes: nodes of the cluster that speak with other servers; none for all.
    """

    host: str = "0.0.0.0"
    port: int = 5269
    direct_host: str = ""
    direct_port: int = 5270
    secret: str = field(default="", repr=False)
    tls: str = "required"
    require_certificates: bool = True
    sasl_in: bool = True
    sasl_out: bool = True
    dialback: bool = True
    patience: float = 30.0
    stream_idle: float = 600.0
    domains: tuple[S2SDomainConfig, ...] = ()
    policy: str = "allow"
    certificate_names: tuple[str, ...] = ()
    exceptions: tuple[S2SExceptionConfig, ...] = ()
    nodes: tuple[str, ...] = ()

    def speaks(self, node: str) -> bool:
        """Say whether a node speaks with other servers."""
        return not self.nodes or node in self.nodes


def _peer(value: Any, _: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Unsuitable
    text = value.strip().lower()
    if text.startswith("*."):
        return "*." + domain_name(text[2:])
    return domain_name(text)


def _date(value: Any, _: Path) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        found = date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is not None:
        raise Unsuitable("", f"write {found.isoformat()} without quotes")
    raise Unsuitable


PEER = Kind(
    'a domain such as "partner.example", or "*.partner.example" for all under it too', _peer
)
DATE = Kind("a date such as 2027-03-31", _date)

_SECURITY = (
    Key(
        "tls",
        values.choice(*TLS_MODES),
        "`none`: never; `optional`: tried, else in clear; `required`: nothing passes without.",
    ),
    Key(
        "require_certificates",
        values.BOOLEAN,
        "Whether over TLS a peer's certificate must prove its domain.",
    ),
    Key("sasl_in", values.BOOLEAN, "Whether SASL EXTERNAL is offered to peers that connect."),
    Key("sasl_out", values.BOOLEAN, "Whether SASL EXTERNAL is used where a peer offers it."),
    Key(
        "dialback",
        values.BOOLEAN,
        "Whether dialback may prove a domain where no certificate does.",
    ),
)

S2S = Section(
    "s2s",
    False,
    S2SConfig,
    "XMPP federation with other servers; without this section there is none.",
    (
        Key("nodes", values.NAMES,
            "The nodes of a cluster that speak with other servers, by their `[node]` names; the same list on"
            " every node. The others do not listen, and hand on what their users send"
            " (docs/cluster.md).", default="every node"),
        Key("bind", values.ADDRESS, "Where peers connect to.", ("host", "port"),
            default='"0.0.0.0:5269"'),
        Key("direct_bind", values.ADDRESS, "Where peers connect to with direct TLS (XEP-0368).",
            ("direct_host", "direct_port"), default="nowhere"),
        Key("secret_file", values.PATH,
            "File whose first line is the dialback secret, the same on all nodes.", (),
            default="a secret of this process"),
        Key("secret_env", values.NAME, "Environment variable that holds it.", ()),
        Key("secret", values.NAME, "The secret itself; a file is better.", ("secret",)),
        Key("policy", values.choice("allow", "deny"),
            "Whether every domain is federated with, or none, but for `[[s2s.exception]]`."),
        Key("certificate_names", values.DOMAINS,
            "Further domains that our certificates must carry, such as mail domains. Local domains, rooms"
            " among them, always count; what is missing is told at the start, by `status` and by"
            " `check-config`.", default="none"),
        *_SECURITY,
        Key("patience", values.duration(1, 600),
            "How long a stanza may wait for a stream before it is returned to its sender."),
        Key("stream_idle", values.duration(30, 86400),
            "A stream without a stanza for so long is closed."),
    ),
)  # fmt: skip

S2S_DOMAIN = Section(
    "s2s.domain",
    True,
    S2SDomainConfig,
    "What is different for one XMPP peer. The exact domain counts before a pattern, and of two"
    " patterns the longer.",
    (
        Key("name", PEER, "The peer.", required=True),
        Key("kind", values.choice(*PEER_KINDS),
            "What it is. `sametime` and `webex` have presence changed on the way (docs/presence.md)"
            " and bring what their streams need: `sametime` TLS, certificates and SASL EXTERNAL,"
            " `webex` no certificate."),
        *[Key(key.name, key.kind, key.text, default="what the kind needs, else what `[s2s]` says")
          for key in _SECURITY],
        Key("until", DATE, "The last day on which this entry holds; after it `[s2s]` does.",
            default="for ever"),
        Key("ca", values.CA_FILE, "Trusted roots for this peer alone.", default="those of `[tls]`"),
        Key("certificate", values.TEXT,
            'Name of the certificate we show there; "none" for none.',
            default="the one that carries our domain, else the first"),
        Key("connect", values.ADDRESS, "Its server, where DNS does not tell.", ("host", "port"),
            default="what DNS says"),
        Key("direct_tls", values.BOOLEAN, "Whether that server expects direct TLS."),
    ),
)  # fmt: skip

S2S_EXCEPTION = Section(
    "s2s.exception",
    True,
    S2SExceptionConfig,
    "A domain for which the contrary of `[s2s] policy` holds.",
    (
        Key("domain", PEER, "The domain, or all under it too.", required=True),
        Key("direction", values.choice("in", "out", "both"),
            "`in`: what comes from there; `out`: what goes there."),
    ),
)  # fmt: skip
