"""What ``[[s2s.domain]]`` must say together with the other sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from impfed.config.model import Config
from impfed.config.problems import did_you_mean

if TYPE_CHECKING:
    from impfed.config.checks import Report


def check_peers(config: Config, document: dict[str, Any], report: Report) -> None:
    """No peer is ours, none is federated over SIP, none stands twice; certificates exist."""
    section = document.get("s2s")
    entries = section.get("domain", []) if isinstance(section, dict) else []
    certificates = [one.name for one in config.tls.certificates]
    sip = {domain.name for domain in config.domains}
    seen: set[str] = set()
    for position, raw in enumerate(entries if isinstance(entries, list) else []):
        where = ("s2s", "domain", position)
        if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
            continue
        name = raw["name"].strip().lower()
        if name in seen:
            report.report((*where, "name"), f'"{name}" stands there already')
        seen.add(name)
        if name in sip:
            report.report(
                (*where, "name"),
                f'"{name}" is federated over SIP; a domain is SIP or XMPP, never both',
                suggestion="take out this entry, or the [[domain]] of that name",
            )
        elif name in config.own_domains:
            report.report((*where, "name"), f'"{name}" is a local domain')
        wanted = raw.get("certificate", "")
        if isinstance(wanted, str) and wanted not in ("", "none", *certificates):
            report.report(
                (*where, "certificate"),
                f'there is no certificate named "{wanted}"',
                ", ".join(f'"{one}"' for one in (*certificates, "none")),
                did_you_mean(wanted, certificates),
            )
