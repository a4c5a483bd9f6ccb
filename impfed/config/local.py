"""``[[local_domain]]``: what a local domain has of its own towards partners (SPEC section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from impfed.config import values
from impfed.config.keys import Key, Section
from impfed.config.problems import did_you_mean

if TYPE_CHECKING:
    from impfed.config.checks import Report
    from impfed.config.model import Config


@dataclass(frozen=True, slots=True)
class LocalDomainConfig:
    """A local domain that partners know by a certificate or a host name of its own.

    :ivar certificate: name of the certificate that is shown for it; "" for what holds otherwise.
    :ivar advertised: host in Via, Contact and Record-Route; "" for the listener's.
    """

    name: str
    certificate: str = ""
    advertised: str = ""


LOCAL_DOMAIN = Section(
    "local_domain",
    True,
    LocalDomainConfig,
    "What one of several local domains has of its own, for partners that want name, certificate and SRV"
    " of each domain to fit together (Microsoft). A local domain without such a section is served as"
    " the listeners and the first certificate say.",
    (
        Key("name", values.DOMAIN, "The local domain, matched exactly.", required=True),
        Key(
            "certificate",
            values.TEXT,
            "Name of the certificate that its users' requests are sent with, over connections of its"
            " own, unless `[[route]]` or `[[domain]]` names one. A peer that asks for the domain or for"
            " `advertised` by name (SNI) is shown it, too.",
            default="the first",
        ),
        Key(
            "advertised",
            values.HOST,
            "Host that peers are told in Via, Contact and Record-Route; the port stays that of the"
            " listener. It should lie directly in the domain, as its SRV target.",
            default="that of the listener",
        ),
    ),
)


def check_local_domains(config: Config, document: dict[str, Any], report: Report) -> None:
    """Report entries for domains that are not ours, twice the same, and certificates that are not there."""
    if len(config.local) != len(document.get("local_domain", ())):
        return  # positions do not fit
    certificates = [certificate.name for certificate in config.tls.certificates]
    first: dict[str, int] = {}
    for position, local in enumerate(config.local):
        where = ("local_domain", position)
        if local.name in first:
            place = f"local_domain[{first[local.name] + 1}]"
            report.report((*where, "name"), f'"{local.name}" has {place} already')
        first.setdefault(local.name, position)
        if local.name not in config.own_domains:
            known = sorted(config.own_domains)
            report.report(
                (*where, "name"),
                f'"{local.name}" is no local domain: no [[home]] and no [[neighbour]] hosts it',
                ", ".join(f'"{name}"' for name in known),
                did_you_mean(local.name, known),
            )
        if local.certificate and local.certificate not in certificates:
            report.report(
                (*where, "certificate"),
                f'there is no certificate named "{local.certificate}"',
                ", ".join(f'"{name}"' for name in certificates),
                did_you_mean(local.certificate, certificates),
            )
        if not local.certificate and not local.advertised:
            report.report(where, "it says nothing of the domain", "certificate, advertised or both")
