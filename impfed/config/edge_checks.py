"""What ``[edge]`` must say together with the other sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from impfed.config.edge import EdgeConfig, EdgePortConfig, EdgeTargetConfig
from impfed.config.lines import Path
from impfed.config.model import Config, ListenerConfig
from impfed.config.neighbours import proves
from impfed.config.problems import did_you_mean
from impfed.config.values import show_address
from impfed.core.hosts import is_address

if TYPE_CHECKING:
    from impfed.config.checks import Report

_Address = tuple[str, int]

#: Sections that mean nothing at an edge, and why.
_NOT_HERE = {
    "home": "an edge has no users; the home server belongs to a node behind it",
    "neighbour": "an edge knows the nodes behind it as [[edge.target]]",
    "s2s": "XMPP passes an edge untouched, by the firewall",
    "web": "an edge has no users; the page belongs to a node behind it",
    "open_federation": "an edge lets in and out what is listed as [[domain]], and nothing else",
    "ldap": "an edge asks no directory; the nodes behind it do",
    "local_domain": "an edge shows all local domains at one address, with one certificate",
    "store": "an edge keeps nothing",
    "mapping": "an edge translates nothing; the nodes behind it do",
}


def check_edge(config: Config, document: dict[str, Any], report: Report) -> None:
    """Report what an edge cannot be, and listeners with a side where there is no edge."""
    _sides(config, document, report)
    _certificates(document, report)
    edge = config.edge
    if edge is None:
        return
    for name, why in _NOT_HERE.items():
        if name in document:
            report.report((name,), why, "", f"take [{name}] out, or [edge]")
    raw = document.get("edge")
    if not isinstance(raw, dict):
        return
    _domains(config, edge, report)
    if len(edge.targets) == len(raw.get("target", ())):  # else positions do not fit
        _targets(config, edge, report)
        if len(edge.ports) == len(raw.get("port", ())):
            _ports(config, edge, report)
    _next_hops(config, document, report)


def _listeners(config: Config, side: str) -> list[ListenerConfig]:
    return [listener for listener in config.listeners if listener.side == side]


def _sides(config: Config, document: dict[str, Any], report: Report) -> None:
    entries = document.get("listener")
    listeners = entries if isinstance(entries, list) else []
    for position, raw in enumerate(listeners):
        where: Path = ("listener", position)
        if not isinstance(raw, dict):
            continue
        if "edge" not in document:
            if "side" in raw:
                words = "only an edge has sides, and there is no [edge]"
                report.report((*where, "side"), words, "", "take side out")
            continue
        if "side" not in raw:
            report.report(where, "side is missing", 'side = "outside" or "inside"')
        if raw.get("side") != "inside":
            continue
        if raw.get("transport") == "udp":
            words = "inside there is TLS or TCP only, so that dialogs keep to a connection"
            report.report((*where, "transport"), words, '"tls", "tcp"')
        if raw.get("client_certificates", "required") != "required":
            report.report(
                (*where, "client_certificates"),
                "nodes are known by their certificates",
                '"required"',
            )
    sided = [raw for raw in listeners if isinstance(raw, dict) and "side" in raw]
    if config.edge is not None and len(config.listeners) == len(listeners) == len(sided):
        for side in ("outside", "inside"):
            if listeners and not _listeners(config, side):
                whom = "partners" if side == "outside" else "the nodes"
                words = f'there is no [[listener]] with side = "{side}" for {whom}'
                report.report(("edge",), words)


def _certificates(document: dict[str, Any], report: Report) -> None:
    tls = document.get("tls")
    given = tls.get("certificate") if isinstance(tls, dict) else None
    known = [
        each["name"]
        for each in (given if isinstance(given, list) else [])
        if isinstance(each, dict) and isinstance(each.get("name"), str)
    ]
    for where, raw in _named_certificates(document):
        wanted = raw["certificate"]
        if raw.get("transport", "tls") != "tls":
            words = f"there are no certificates over {raw['transport']}"
            report.report((*where, "certificate"), words, "", "take the key out")
        elif isinstance(wanted, str) and wanted and wanted not in known:
            report.report(
                (*where, "certificate"),
                f'there is no certificate named "{wanted}"',
                ", ".join(f'"{name}"' for name in known),
                did_you_mean(wanted, known),
            )


def _named_certificates(document: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    edge = document.get("edge")
    if isinstance(edge, dict) and "certificate" in edge:
        yield ("edge",), {"certificate": edge["certificate"]}
    entries = document.get("listener")
    for position, raw in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(raw, dict) and "certificate" in raw:
            yield ("listener", position), raw


def _domains(config: Config, edge: EdgeConfig, report: Report) -> None:
    foreign = {domain.name for domain in config.domains}
    for domain in edge.domains:
        if domain in foreign:
            words = f'"{domain}" is a [[domain]] too; a domain is either ours or foreign'
            report.report(("edge", "domains"), words, "", "take it out of one of the two places")


def _targets(config: Config, edge: EdgeConfig, report: Report) -> None:
    if not any(target.new_requests for target in edge.targets):
        report.report(
            ("edge",),
            "nobody inside gets what partners begin",
            "",
            "add an [[edge.target]]: the routing node, or the load balancer",
        )
    inside = {listener.transport for listener in _listeners(config, "inside")}
    own = {
        address: f"listener {listener.name}"
        for listener in config.listeners
        for address in (
            (listener.host, listener.port),
            (listener.advertised_host, listener.advertised_port),
        )
    }
    names: dict[str, int] = {}
    for position, target in enumerate(edge.targets):
        where: Path = ("edge", "target", position)
        if target.name in names:
            words = f'"{target.name}" names edge.target[{names[target.name] + 1}] already'
            report.report((*where, "name"), words)
        names.setdefault(target.name, position)
        for address in ((target.host, target.port), *target.advertised):
            if address in own:
                key = "address" if address == (target.host, target.port) else "advertised"
                words = f"{show_address(*address)} is this edge itself ({own[address]})"
                report.report((*where, key), words)
        if inside and target.transport not in inside:
            report.report(
                (*where, "transport"),
                f'no [[listener]] with side = "inside" speaks {target.transport}, so the target'
                " cannot send us anything",
            )
        _identity(config, where, target, report)


def _identity(config: Config, where: Path, target: EdgeTargetConfig, report: Report) -> None:
    if target.transport != "tls":
        for key in ("tls_name", "peer_names"):
            if getattr(target, key):
                report.report((*where, key), f"there is no TLS over {target.transport}")
        if not is_address(target.host):
            report.report(
                (*where, "address"),
                "without TLS a machine is known by its IP address only",
                '"10.0.0.2:5060", for example',
            )
        return
    if not target.tls_name and is_address(target.host):
        report.report(
            (*where, "address"),
            "an IP address is no name that a certificate could carry (RFC 5922)",
            "tls_name beside it",
        )
    key = "peer_names" if target.peer_names else "tls_name"
    for name in target.peer_names or (target.tls_name or target.host,):
        for domain in config.domains:
            if proves(domain, name):
                report.report(
                    (*where, key),
                    f'"{name}" may be the name of a peer of {domain.name}, too, who would pass for'
                    " a machine of ours",
                )


def _ports(config: Config, edge: EdgeConfig, report: Report) -> None:
    targets = {target.name: target for target in edge.targets}
    outside = {listener.transport for listener in _listeners(config, "outside")}
    advertised = {(each.advertised_host, each.advertised_port): each for each in config.listeners}
    bound = {(each.host, each.port): each for each in config.listeners if each.transport != "udp"}
    publics: dict[_Address, int] = {}
    inners: dict[_Address, int] = {}
    for position, port in enumerate(edge.ports):
        where: Path = ("edge", "port", position)
        public = (port.public_host, port.public_port)
        binding = (port.host or port.public_host, port.port or port.public_port)
        if port.target not in targets:
            report.report(
                (*where, "target"),
                f'there is no [[edge.target]] named "{port.target}"',
                ", ".join(f'"{name}"' for name in targets),
                did_you_mean(port.target, list(targets)),
            )
            continue
        if outside and port.transport not in outside:
            words = f'no [[listener]] with side = "outside" speaks {port.transport}'
            report.report((*where, "transport"), words)
        if public in advertised:
            words = f"{show_address(*public)} is the edge's own ({advertised[public].name})"
            hint = "a node's return path needs a port of its own"
            report.report((*where, "public"), words, "", hint)
        elif binding in bound:
            words = f"{show_address(*binding)} is bound by listener {bound[binding].name} already"
            report.report((*where, "bind" if port.host else "public"), words)
        inner = inner_address(port, targets[port.target])
        for key, address, seen in (("public", public, publics), ("inner", inner, inners)):
            if address in seen:
                words = f"{show_address(*address)} is that of edge.port[{seen[address] + 1}]"
                report.report((*where, key), words)
            seen.setdefault(address, position)


def inner_address(port: EdgePortConfig, target: EdgeTargetConfig) -> _Address:
    """Return what the target of a line of the port table writes into its messages."""
    return (port.inner_host, port.inner_port) if port.inner_host else (target.host, target.port)


def _next_hops(config: Config, document: dict[str, Any], report: Report) -> None:
    outside = {listener.transport for listener in _listeners(config, "outside")}
    if not outside:
        return
    hops: list[tuple[Path, str]] = [
        (("domain", position, "next_hop"), domain.next_hop.transport)
        for position, domain in enumerate(config.domains)
        if domain.next_hop is not None
    ]
    hops += [
        (("route", position), route.transport)
        for position, route in enumerate(config.routes)
        if route.host
    ]
    listening = {listener.transport for listener in config.listeners}
    for where, transport in hops:
        if transport in listening and transport not in outside:
            words = f"only an inside listener speaks {transport}, and partners are outside"
            report.report((*where, "transport"), words)
