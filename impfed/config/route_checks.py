"""What routes, directories and the sections beside them must say together."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

from impfed.config.lines import Path
from impfed.config.model import Config
from impfed.config.patterns import Breadth, Pattern, parse_pattern, reversed_pattern
from impfed.config.problems import Unsuitable, did_you_mean
from impfed.config.values import host_name, read_address, show_address

_TRANSPORTS = ("tls", "tcp", "udp")
_STATIC_KEYS = ("address", "transport", "tls_name", "client_certificate", "priority", "weight")


def check_routes(config: Config, document: dict[str, Any], report: Any) -> None:
    """Report routes that cannot be followed: incomplete, contradictory, or back to ourselves."""
    seen: dict[tuple[str, str, object], int] = {}
    for position, raw in enumerate(_entries(document, "route")):
        where: Path = ("route", position)
        if "plugin" in raw:
            _plugin_route(where, raw, report)
            continue
        if "pattern" not in raw:
            report.report(where, "what it covers is missing", "pattern, or plugin")
            continue
        for key in ("order", "settings"):
            if key in raw:
                report.report((*where, key), "only a plugin has that", "", f"take {key} out")
        pattern = _pattern(raw.get("pattern"))
        if pattern is not None:
            _covered(where, pattern, document, report)
        if raw.get("block") is True:
            if "address" in raw:
                report.report((*where, "address"), "a blocked pattern has no next hop")
            continue
        if "address" not in raw:
            report.report(where, "address is missing", 'address = "host:port", or block = true')
            continue
        transport = raw.get("transport", "tls")
        hop = (str(raw.get("pattern")).lower(), str(raw.get("address")).lower(), transport)
        if hop in seen:
            report.report(where, f"the same pattern and next hop as route[{seen[hop] + 1}]")
        seen.setdefault(hop, position)
        _hop(where, raw, transport, document, report)


def check_own_addresses(config: Config, document: dict[str, Any], report: Any) -> None:
    """Report next hops that are this node itself."""
    own = _own_addresses(document)
    for position, raw in enumerate(_entries(document, "route")):
        _not_ourselves(("route", position, "address"), raw.get("address"), own, report)
    for position, raw in enumerate(_entries(document, "domain")):
        hop = raw.get("next_hop")
        if isinstance(hop, dict):
            place = ("domain", position, "next_hop", "address")
            _not_ourselves(place, hop.get("address"), own, report)


def check_directories(config: Config, document: dict[str, Any], report: Any) -> None:
    """Report directories that cannot be asked, or that nobody can tell apart."""
    names: dict[str, int] = {}
    for position, raw in enumerate(_entries(document, "ldap")):
        where: Path = ("ldap", position)
        name = str(raw.get("name", ""))
        if name in names:
            report.report((*where, "name"), f'"{name}" names ldap[{names[name] + 1}] already')
        names.setdefault(name, position)
        if str(raw.get("url", "")).startswith("ldaps:") and raw.get("start_tls") is True:
            report.report((*where, "start_tls"), "ldaps:// is TLS from the start")
        if ("bind_dn" in raw) is not ("password_file" in raw):
            report.report(where, "bind_dn and password_file belong together")
        text = raw.get("filter")
        if isinstance(text, str):
            _filter((*where, "filter"), text, report)
    for position, raw in enumerate(_entries(document, "home")):
        if "directory" in raw and "users" in raw:
            place = ("home", position, "directory")
            report.report(place, "users is there too; a home server has one directory")


def _filter(where: Path, text: str, report: Any) -> None:
    fields = re.findall(r"\{([^{}]*)\}", text)
    for field in fields:
        if field not in ("address", "user", "domain"):
            close = did_you_mean(field, ["address", "user", "domain"])
            report.report(where, f"{{{field}}} is not known", "{address}, {user}, {domain}", close)
            return
    if not {"address", "user"}.intersection(fields):
        report.report(where, "it does not say whom to look for", "{address} or {user} in it")
    elif not text.startswith("(") or text.count("(") != text.count(")"):
        report.report(where, "its parentheses do not fit", '"(mail={address})", for example')


def _plugin_route(where: Path, raw: dict[str, Any], report: Any) -> None:
    for key in ("pattern", *_STATIC_KEYS, "block"):
        if key in raw:
            report.report((*where, key), "a plugin finds its hops itself", "", f"take {key} out")


def _hop(
    where: Path, raw: dict[str, Any], transport: object, document: dict[str, Any], report: Any
) -> None:
    listening = [entry.get("transport") for entry in _entries(document, "listener")]
    known = bool(listening) and all(name in _TRANSPORTS for name in listening)
    if transport == "tls" and "tls" not in document:
        report.report((*where, "transport"), "a next hop over TLS needs a [tls] section", "[tls]")
    elif transport in _TRANSPORTS and known and transport not in listening:
        report.report(
            (*where, "transport"),
            f"there is no {transport} listener whose address the peer could be told",
            ", ".join(f'"{name}"' for name in sorted(set(map(str, listening)))),
        )
    if transport in ("tcp", "udp"):
        for key in ("tls_name", "client_certificate"):
            if key in raw:
                report.report((*where, key), f"there is no TLS over {transport}")
    elif "tls_name" not in raw and _names_address(raw.get("address")):
        report.report(
            (*where, "address"),
            "an IP address is no name that a certificate could carry (RFC 5922)",
            "tls_name beside it",
        )
    wanted = raw.get("client_certificate")
    tls = document.get("tls")
    certificates = tls.get("certificate", []) if isinstance(tls, dict) else []
    names = [str(entry.get("name")) for entry in certificates if isinstance(entry, dict)]
    if isinstance(wanted, str) and wanted not in ("", "none", *names):
        report.report(
            (*where, "client_certificate"),
            f'there is no certificate named "{wanted}"',
            ", ".join(f'"{name}"' for name in (*names, "none")),
            did_you_mean(wanted, names),
        )


def _covered(where: Path, pattern: Pattern, document: dict[str, Any], report: Any) -> None:
    """Report a pattern that is written the wrong way round, or that stands for a local domain."""
    foreign = [str(raw.get("name", "")).lower() for raw in _entries(document, "domain")]
    local = [
        str(name).lower()
        for section in ("home", "neighbour")
        for raw in _entries(document, section)
        if isinstance(raw.get("domains"), list)
        for name in raw["domains"]
    ]
    if pattern.breadth is Breadth.EXACT and pattern.domain in local:
        report.report(
            (*where, "pattern"),
            f'"{pattern.domain}" is a local domain; its users are at home with us',
        )
    if pattern.breadth is not Breadth.REVERSED:
        return
    usual = ".".join(reversed(pattern.domain.split(".")))
    if usual == pattern.domain:
        return
    for name in foreign:
        known = name == usual or name.endswith("." + usual)
        fits = name == pattern.domain or name.endswith("." + pattern.domain)
        if known and not fits and "." in usual:
            right = reversed_pattern(usual)
            right = f"{pattern.user}@{right}" if pattern.user else right
            report.report(
                (*where, "pattern"),
                f'the domain is not reversed: "{name}" stands among the domains',
                "",
                f'write "{right}"',
            )
            return


def _own_addresses(document: dict[str, Any]) -> dict[tuple[str, int], str]:
    own: dict[tuple[str, int], str] = {}
    for position, raw in enumerate(_entries(document, "listener")):
        for key in ("bind", "advertised"):
            try:
                host, port = read_address(raw.get(key))
            except Unsuitable:
                continue
            own.setdefault((host, port), f"listener[{position + 1}].{key}")
    return own


def _not_ourselves(
    where: Path, value: object, own: dict[tuple[str, int], str], report: Any
) -> None:
    try:
        host, port = read_address(value)
    except Unsuitable:
        return
    place = own.get((host, port))
    if place is None and _loopback(host):
        place = own.get(("0.0.0.0", port)) or own.get(("::", port))
    if port and place is not None:
        report.report(
            where,
            f"{show_address(host, port)} is this node itself ({place}); requests would go in a circle",
        )


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names_address(value: object) -> bool:
    try:
        host, _ = read_address(value)
        ip_address(host_name(host))
    except (Unsuitable, ValueError):
        return False
    return True


def _pattern(value: object) -> Pattern | None:
    try:
        return parse_pattern(value) if isinstance(value, str) else None
    except Unsuitable:
        return None


def _entries(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name, [])
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
