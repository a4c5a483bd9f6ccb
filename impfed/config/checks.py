"""What the sections of a file must say together: names, domains, transports, certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address
from typing import Any, Protocol

from impfed.config.edge_checks import check_edge
from impfed.config.lines import Path
from impfed.config.local import check_local_domains
from impfed.config.model import SIP_KINDS, Config
from impfed.config.neighbours import check_neighbours
from impfed.config.problems import Unsuitable, did_you_mean
from impfed.config.route_checks import check_directories, check_own_addresses, check_routes
from impfed.config.s2s_checks import check_exceptions, check_nodes, check_peers
from impfed.config.store import check_store
from impfed.config.values import domain_name, read_address, show_address


class Report(Protocol):
    """Where problems go; :class:`impfed.config.load.Loader` is one."""

    def report(self, where: Path, message: str, allowed: str = "", suggestion: str = "") -> None:
        """Note a problem at a key path."""


def check(config: Config, document: dict[str, Any], report: Report) -> None:
    """Report whatever does not fit together.

    :param config: what could be read; entries with problems of their own may be missing from it.
    :param document: the TOML document, for the places of what is reported.
    """
    for one in _CHECKS:
        one(config, document, report)


def _tables(document: dict[str, Any], *path: str) -> list[tuple[Path, dict[str, Any]]]:
    holder: Any = document
    for part in path:
        holder = holder.get(part, []) if isinstance(holder, dict) else []
    entries = holder if isinstance(holder, list) else []
    return [((*path, i), entry) for i, entry in enumerate(entries) if isinstance(entry, dict)]


def _clean(name: object) -> str:
    try:
        return domain_name(name) if isinstance(name, str) else ""
    except Unsuitable:
        return ""


def _repeated(
    found: Iterable[tuple[Path, str]], report: Report, message: Callable[[str, str], str]
) -> None:
    first: dict[str, Path] = {}
    for where, name in found:
        if name in first:
            place = first[name]
            words = [f"[{part + 1}]" if isinstance(part, int) else part for part in place[:-1]]
            report.report(where, message(name, ".".join(words).replace(".[", "[")))
        elif name:
            first[name] = where


def _names(config: Config, document: dict[str, Any], report: Report) -> None:
    for path in (("tls", "certificate"), ("listener",), ("home",), ("domain",), ("neighbour",)):
        found = [
            ((*where, "name"), _clean(raw.get("name")) or str(raw.get("name", "")))
            for where, raw in _tables(document, *path)
        ]
        title = ".".join(path)
        _repeated(found, report, partial(_second, title))


def _mappings(config: Config, document: dict[str, Any], report: Report) -> None:
    found = [
        ((*where, "kind"), str(raw.get("kind", ""))) for where, raw in _tables(document, "mapping")
    ]
    _repeated(
        found,
        report,
        lambda name, place: f'"{name}" has the rows of {place} already; join the files',
    )
    for position, mapping in enumerate(config.mappings):
        sip = mapping.kind in SIP_KINDS
        tables = ("to_xmpp", "from_xmpp") if sip else ("from_peer", "to_peer")
        for table in mapping.rows:
            if table not in tables:
                allowed = " and ".join(f"[[{name}]]" for name in tables)
                where = ("mapping", position, "file")
                report.report(where, f"a {mapping.kind} domain has no rows [[{table}]]", allowed)


def _second(title: str, name: str, place: str) -> str:
    return f'"{name}" names {place} already; each {title} needs a name of its own'


def _local_domains(document: dict[str, Any]) -> list[tuple[Path, str]]:
    return [
        ((*where, "domains"), _clean(name))
        for where, raw in _tables(document, "home")
        if isinstance(raw.get("domains"), list)
        for name in raw["domains"]
    ]


def _domains(config: Config, document: dict[str, Any], report: Report) -> None:
    local = _local_domains(document)
    foreign = [
        ((*where, "name"), _clean(raw.get("name"))) for where, raw in _tables(document, "domain")
    ]
    between = [pair for pair in local if [name for _, name in local].count(pair[1]) > 1]
    homes = {(where[1], name): where for where, name in between}
    _repeated(
        [(where, name) for (_, name), where in homes.items()],
        report,
        lambda name, place: f'"{name}" is hosted by {place} already; a domain has one home server',
    )
    hosted = {name: where for where, name in local if name}
    for where, name in foreign:
        if name in hosted:
            number = int(hosted[name][1]) + 1
            report.report(
                where,
                f'"{name}" is a local domain too (home[{number}].domains); a domain is either ours'
                " or foreign",
                suggestion="take it out of one of the two places",
            )
    for where, raw in _tables(document, "home"):
        address = _clean(raw.get("address"))
        taken = "a local domain" if address in hosted else ""
        taken = taken or ("a foreign domain" if address in [name for _, name in foreign] else "")
        if address and taken:
            report.report(
                (*where, "address"),
                f'"{address}" is {taken} too',
                "a domain of the component's own",
                f'for example "federation.{next(iter(hosted), "company.example")}"',
            )


def _homes(config: Config, document: dict[str, Any], report: Report) -> None:
    # A node that only passes on, and an edge, have nobody at home.
    elsewhere = config.neighbours or "edge" in document
    if not (config.homes or _tables(document, "home") or elsewhere):
        report.report((), "there is no [[home]]", "", "add the server that your users log in to")
    for where, raw in _tables(document, "home"):
        _home(where, raw, bool(_tables(document, "tls", "certificate")), report)
        if "bind" in raw:
            _beside_peers(where, raw["bind"], document, report)


def _beside_peers(where: Path, bind: object, document: dict[str, Any], report: Report) -> None:
    """Report a home server's streams that would come where other organisations' streams do."""
    s2s = document.get("s2s")
    given = s2s.get("bind", "0.0.0.0:5269") if isinstance(s2s, dict) else None
    (outside, port), (inside, wanted) = _address(given), _address(bind)
    if port and port == wanted and (outside == inside or _unspecified(outside)):
        report.report(
            (*where, "bind"),
            f"[s2s] listens at {show_address(outside, port)} already, for other organisations",
            suggestion="give [s2s] bind the outer address, and this one the inner",
        )


def _home(where: Path, raw: dict[str, Any], certificates: bool, report: Report) -> None:
    kind = raw.get("kind")
    if kind == "prosody" and "address" not in raw:
        report.report(
            (*where, "kind"),
            "address is missing",
            'with kind "prosody": address = the domain of the Component in Prosody\'s'
            " configuration",
        )
    if kind == "s2s":
        if "address" not in raw:
            allowed = 'with kind "s2s": address = a name of the node\'s own'
            report.report((*where, "kind"), "address is missing", allowed)
        if "bind" not in raw:
            allowed = 'with kind "s2s": bind = "host:port", where it connects to us'
            report.report((*where, "kind"), "bind is missing", allowed)
        if raw.get("tls") == "required" and not certificates:
            report.report(
                (*where, "tls"),
                "TLS needs a certificate to show, and there is none",
                "[[tls.certificate]] with name, certificate and key",
            )
    elif kind in ("component", "prosody"):
        for key in ("bind", "tls", "require_certificates", "ca"):
            if key in raw:
                report.report((*where, key), f'it counts for nothing with kind "{kind}"')


def _listeners(config: Config, document: dict[str, Any], report: Report) -> None:
    listeners = _tables(document, "listener")
    if not listeners and _speaks_sip(config, document):
        report.report((), "there is no [[listener]]", "", "add one so that SIP peers can connect")
    bound = []
    for where, raw in listeners:
        transport = raw.get("transport")
        host, port = _address(raw.get("bind"))
        # Two listeners of one network may not share a port; TLS and TCP are both TCP there.
        network = "udp" if transport == "udp" else "tcp"
        if port:
            bound.append(((*where, "bind"), f"{network} {show_address(host, port)}"))
        told = _address(raw.get("advertised"))[0]
        if "advertised" not in raw and _unspecified(host):
            report.report(
                where,
                f"bound to every address ({host}), so peers must be told which to use",
                'advertised = "host:port"',
            )
        elif _unspecified(told):
            report.report(
                (*where, "advertised"), f"{told} is no address that a peer can connect to"
            )
        if transport in ("tcp", "udp") and "client_certificates" in raw:
            report.report(
                (*where, "client_certificates"),
                f"there are no certificates over {transport}",
                "",
                'take the key out, or set transport = "tls"',
            )
        _proxied(where, raw, report)
    _repeated(bound, report, lambda name, place: f"{name} is bound by {place} already")


def _speaks_sip(config: Config, document: dict[str, Any]) -> bool:
    """Say whether anything is to come or go by SIP: without, XMPP federation is enough."""
    sip = ("domain", "route", "neighbour", "edge")
    asked = any(name in document for name in sip) or config.open_federation.enabled
    return asked or "s2s" not in document


def _proxied(where: Path, raw: dict[str, Any], report: Report) -> None:
    wanted = raw.get("proxy_protocol") is True
    if wanted and raw.get("transport") == "udp":
        report.report((*where, "proxy_protocol"), "there is no PROXY header over udp")
    elif wanted and not raw.get("proxy_addresses"):
        report.report(
            (*where, "proxy_protocol"),
            "whoever may connect could name any address as the peer's",
            'proxy_addresses = the balancer\'s addresses, for example ["10.0.0.5"]',
        )
    elif raw.get("proxy_addresses") and not wanted:
        report.report(
            (*where, "proxy_addresses"),
            "it counts for nothing without proxy_protocol",
            suggestion="write proxy_protocol = true",
        )


def _address(value: object) -> tuple[str, int]:
    try:
        return read_address(value)
    except Unsuitable:
        return "", 0


def _unspecified(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _certificates(config: Config, document: dict[str, Any], report: Report) -> None:
    names = [raw.get("name") for _, raw in _tables(document, "tls", "certificate")]
    for where, raw in _tables(document, "listener"):
        if raw.get("transport") == "tls" and not names:
            report.report(
                (*where, "transport"),
                "a TLS listener needs a certificate, and there is none",
                "[[tls.certificate]] with name, certificate and key",
            )
    for where, raw in _tables(document, "domain"):
        wanted = raw.get("client_certificate")
        if isinstance(wanted, str) and wanted not in ("", "none", *names):
            known = [name for name in names if isinstance(name, str)]
            report.report(
                (*where, "client_certificate"),
                f'there is no certificate named "{wanted}"',
                ", ".join(f'"{name}"' for name in (*known, "none")),
                did_you_mean(wanted, known),
            )


def _next_hops(config: Config, document: dict[str, Any], report: Report) -> None:
    known = ("tls", "tcp", "udp")
    listening = [raw.get("transport") for _, raw in _tables(document, "listener")]
    # With a listener whose transport cannot be read there is nothing to say about next hops yet.
    transports = set(listening) if all(name in known for name in listening) else set()
    for where, raw in _tables(document, "domain"):
        hop = raw.get("next_hop")
        if not isinstance(hop, dict):
            continue
        transport = hop.get("transport", "tls")
        place = (*where, "next_hop", "transport")
        if transport == "tls" and "tls" not in document:
            report.report(
                place,
                "a next hop over TLS needs a [tls] section",
                "[tls] with ca, and [[tls.certificate]]",
            )
        elif transport in known and transports and transport not in transports:
            report.report(
                place,
                f"there is no {transport} listener whose address the peer could be told",
                ", ".join(f'"{name}"' for name in sorted(map(str, transports))),
                f'add a [[listener]] with transport = "{transport}"',
            )
        if transport != "tls" and "tls_name" in hop:
            report.report((*where, "next_hop", "tls_name"), f"there is no TLS over {transport}")


def _presence(config: Config, document: dict[str, Any], report: Report) -> None:
    if config.presence.minimum_expires > config.presence.expires:
        report.report(
            ("presence", "minimum_expires"),
            "longer than presence.expires, the lifetime that we ask for ourselves",
        )


def _web(config: Config, document: dict[str, Any], report: Report) -> None:
    raw = document.get("web")
    if not isinstance(raw, dict):
        return
    for key, example in (("bind", "[::]:8443"), ("public_url", "https://federation.example:8443")):
        if key not in raw:
            report.report(("web",), f"{key} is missing", "", f'for example {key} = "{example}"')
    if not any("address" in home for _, home in _tables(document, "home")):
        report.report(
            ("web",),
            "no [[home]] has an address, so nobody can be sent a link to the page",
            "",
            'give each home server the component of the node\'s own: address = "federation.…"',
        )
    names = [each.get("name") for _, each in _tables(document, "tls", "certificate")]
    wanted = raw.get("certificate", "")
    if wanted == "none" or not isinstance(wanted, str):
        return
    if not names:
        problem = "the page needs a certificate, and there is none"
        hint = 'certificate = "none" behind a proxy that speaks TLS'
        report.report(("web",), problem, "[[tls.certificate]] with name, certificate and key", hint)
    elif wanted and wanted not in names:
        known = [name for name in names if isinstance(name, str)]
        allowed = ", ".join(f'"{name}"' for name in (*known, "none"))
        problem = f'there is no certificate named "{wanted}"'
        report.report(("web", "certificate"), problem, allowed, did_you_mean(wanted, known))


_CHECKS = (
    _mappings,
    _names,
    _domains,
    _homes,
    _listeners,
    _certificates,
    _next_hops,
    _presence,
    _web,
    check_routes,
    check_own_addresses,
    check_directories,
    check_peers,
    check_nodes,
    check_exceptions,
    check_neighbours,
    check_local_domains,
    check_edge,
    check_store,
)
