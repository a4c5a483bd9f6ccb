"""What ``[s2s]`` and the lists under it must say together with the other sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from impfed.config.lines import Path
from impfed.config.model import Config
from impfed.config.problems import did_you_mean

if TYPE_CHECKING:
    from impfed.config.checks import Report


def check_peers(config: Config, document: dict[str, Any], report: Report) -> None:
    """No peer is ours, none is federated over SIP, none stands twice; certificates exist."""
    certificates = [one.name for one in config.tls.certificates]
    seen: set[str] = set()
    for where, raw, name in _entries(document, "domain", "name"):
        if name in seen:
            report.report((*where, "name"), f'"{name}" stands there already')
        seen.add(name)
        _check_foreign(config, document, report, (*where, "name"), name)
        wanted = raw.get("certificate", "")
        if isinstance(wanted, str) and wanted not in ("", "none", *certificates):
            report.report(
                (*where, "certificate"),
                f'there is no certificate named "{wanted}"',
                ", ".join(f'"{one}"' for one in (*certificates, "none")),
                did_you_mean(wanted, certificates),
            )


def check_nodes(config: Config, document: dict[str, Any], report: Report) -> None:
    """Whoever speaks with other servers is this node, or another one of its cluster."""
    if config.s2s is None or not config.s2s.nodes:
        return
    where = ("s2s", "nodes")
    if config.store.kind != "redis":
        words = "only nodes of a cluster, which share a store, do this for one another"
        report.report(where, words, '[store] kind = "redis"')
        return
    members = [config.node.name, *(each.name for each in config.neighbours if each.is_member)]
    for name in config.s2s.nodes:
        if name not in members:
            report.report(
                where,
                f'no node of this cluster is called "{name}"',
                ", ".join(f'"{one}"' for one in members),
                did_you_mean(name, members),
            )


def check_exceptions(config: Config, document: dict[str, Any], report: Report) -> None:
    """None stands twice; none lets a domain in that is ours, or federated with over SIP."""
    seen: dict[tuple[str, str], int] = {}
    for where, raw, name in _entries(document, "exception", "domain"):
        direction = raw.get("direction", "both")
        for each in ("in", "out") if direction == "both" else (str(direction),):
            if (name, each) in seen:
                first = f"s2s.exception[{seen[name, each] + 1}]"
                report.report((*where, "domain"), f'"{name}" is the exception of {first} already')
                break
            seen[name, each] = where[2]
        if config.s2s is not None and config.s2s.policy == "deny":
            _check_foreign(config, document, report, (*where, "domain"), name)


def _entries(
    document: dict[str, Any], section: str, key: str
) -> Iterator[tuple[tuple[str, str, int], dict[str, Any], str]]:
    """Yield place, entry and name of what can be read of a list under ``[s2s]``."""
    above = document.get("s2s")
    entries = above.get(section, []) if isinstance(above, dict) else []
    for position, raw in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(raw, dict) and isinstance(raw.get(key), str):
            yield ("s2s", section, position), raw, raw[key].strip().lower()


def _check_foreign(
    config: Config, document: dict[str, Any], report: Report, where: Path, name: str
) -> None:
    if name in config.own_domains:
        report.report(where, f'"{name}" is a local domain')
        return
    domains = document.get("domain")
    for position, raw in enumerate(domains if isinstance(domains, list) else []):
        if isinstance(raw, dict) and str(raw.get("name", "")).strip().lower() == name:
            report.report(
                where,
                f'"{name}" is federated over SIP by domain[{position + 1}].name; a domain is SIP or'
                " XMPP, never both",
                suggestion="take out this entry, or the [[domain]] of that name"
                " (docs/xmpp-federation.md says what a change means)",
            )
