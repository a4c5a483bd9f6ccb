"""Who an XMPP peer is, by its certificate: RFC 6120 section 13.7.1, and the words for a refusal.

Three kinds of name count: XmppAddr, SRV-ID ``_xmpp-server.domain``, and DNS-ID, in which a wildcard
may stand for the first label.  On SIP no wildcard ever matches: see :mod:`.identity`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from impfed.transport.identity import describe
from impfed.xmpp.jid import JidError
from impfed.xmpp.s2s_names import ascii_domain, domain_of

XMPP_ADDRESS = ObjectIdentifier("1.3.6.1.5.5.7.8.5")
SRV_NAME = ObjectIdentifier("1.3.6.1.5.5.7.8.7")

_SERVICE = "_xmpp-server."
_STRINGS = {0x0C: "utf-8", 0x16: "ascii", 0x13: "ascii"}  # UTF8String, IA5String, PrintableString


@dataclass(frozen=True, slots=True)
class XmppNames:
    """The names of a certificate that count between XMPP servers.

    :ivar addresses: XmppAddr names that are domains, prepared.
    :ivar services: domains of SRV names for ``_xmpp-server``, A-labels.
    :ivar dns: DNS names, A-labels, lower case, wildcards included.
    """

    addresses: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    dns: frozenset[str] = frozenset()

    def match(self, domain: str) -> bool:
        """Say whether a domain (prepared, as in a JID) is among them."""
        if domain in self.addresses:
            return True
        try:
            name = ascii_domain(domain)
        except JidError:
            return False
        if name in self.services or name in self.dns:
            return True
        _, dot, parent = name.partition(".")
        # The wildcard stands for exactly one label, and never for a whole public suffix.
        return bool(dot) and "." in parent and f"*.{parent}" in self.dns

    def __str__(self) -> str:
        shown = [f"XmppAddr {name}" for name in sorted(self.addresses)]
        shown += [f"SRV {name}" for name in sorted(self.services)]
        shown += [f"DNS {name}" for name in sorted(self.dns)]
        return ", ".join(shown) or "none that count for XMPP"


def xmpp_names(certificate: x509.Certificate) -> XmppNames:
    """Return the names that a certificate carries; none of one that cannot be read."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return XmppNames()
    addresses, services, dns = set(), set(), set()
    for name in extension.value:
        if isinstance(name, x509.DNSName):
            dns.add(name.value.lower().rstrip("."))
        elif isinstance(name, x509.OtherName):
            text = _der_text(name.value)
            if name.type_id == XMPP_ADDRESS:
                addresses.add(_address(text))
            elif name.type_id == SRV_NAME and text.lower().startswith(_SERVICE):
                services.add(text.lower().removeprefix(_SERVICE).rstrip("."))
    return XmppNames(frozenset(addresses - {""}), frozenset(services), frozenset(dns))


def explain_mismatch(certificate: x509.Certificate, domain: str) -> str:
    """Say why a certificate does not prove a domain: what was expected, what was found."""
    names = xmpp_names(certificate)
    text = f"the peer's certificate is not for {domain}: its names are {names}"
    hint = ""
    if any(name.startswith("*.") for name in names.dns):
        hint = "; a wildcard stands for exactly one label"
    elif names == XmppNames():
        hint = "; the common name does not count"
    return f"{text} ({describe(certificate)}){hint}"


def missing_names(
    certificates: Iterable[x509.Certificate], domains: Iterable[str]
) -> dict[str, str]:
    """Return our domains that none of our certificates proves, each with words for the operator."""
    names = [xmpp_names(certificate) for certificate in certificates]
    missing = {}
    for domain in sorted(domains):
        if not any(one.match(domain) for one in names):
            wanted = _wanted_name(domain)
            missing[domain] = (
                f"no certificate carries the local domain {domain}: peers that check certificates"
                f" will refuse it; ask for one with the subject alternative name DNS:{wanted}"
            )
    return missing


def _wanted_name(domain: str) -> str:
    try:
        return ascii_domain(domain)
    except JidError:
        return domain


def _address(text: str) -> str:
    try:
        return domain_of(text)
    except JidError:
        return ""


def _der_text(value: bytes) -> str:
    """Return the text of a DER string; "" for anything else."""
    if len(value) < 2 or value[0] not in _STRINGS:
        return ""
    length, start = value[1], 2
    if length & 0x80:
        octets = length & 0x7F
        length, start = int.from_bytes(value[2 : 2 + octets], "big"), 2 + octets
    content = value[start:]
    if len(content) != length:
        return ""
    try:
        return content.decode(_STRINGS[value[0]])
    except UnicodeDecodeError:
        return ""
