"""Who a SIP peer is, by its certificate: RFC 5922 section 7, with the words that an operator needs.

No wildcard ever matches here; XMPP, where one may (XEP-0178), needs a matcher of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a connection proves about the peer.

    :ivar names: SIP domain names of its certificate, lower case: URI names ``sip:domain``; without
        one, DNS names; the common name only without any subject alternative name; no wildcards.
    :ivar proven: whether TLS verified the certificate.
    :ivar subject: who it is, in words.
    """

    names: frozenset[str] = frozenset()
    proven: bool = False
    subject: str = "no certificate"


NOBODY = PeerIdentity()
"""The identity of a peer that showed no certificate."""


def identify(certificate: x509.Certificate | None, proven: bool = True) -> PeerIdentity:
    """Return the identity that a verified certificate gives; :data:`NOBODY` for None.

    :param proven: whether the certificate's chain was verified.
    """
    if certificate is None:
        return NOBODY
    return PeerIdentity(names_of(certificate), proven, describe(certificate))


def vouched_for(peer: PeerIdentity, name: str, upstreams: Collection[str]) -> PeerIdentity:
    """Return who stands behind an upstream that ended TLS and tells whom it has verified.

    :param peer: whose certificate we have seen ourselves.
    :param name: common name of the certificate that it has verified; "" for none.
    :param upstreams: names of whom we believe; anybody else stays who he is.
    """
    if not peer.proven or peer.names.isdisjoint(upstreams):
        return peer
    domain = _domain(name)
    subject = f"CN={domain or '(nothing)'}, by the word of {peer.subject}"
    return PeerIdentity(frozenset({domain} if domain else ()), domain is not None, subject)


def names_of(certificate: x509.Certificate) -> frozenset[str]:
    """Return a certificate's SIP domain identities (RFC 5922 section 7.1), lower case.

    A certificate that cannot be read as X.509 says has no names.
    """
    try:
        alternatives = _alternatives(certificate)
        if alternatives is None:
            return frozenset(filter(None, map(_domain, _common_names(certificate))))
        uris = alternatives.get_values_for_type(x509.UniformResourceIdentifier)
        domains = frozenset(filter(None, map(_sip_domain, uris)))
        if domains:
            return domains
        return frozenset(filter(None, map(_domain, alternatives.get_values_for_type(x509.DNSName))))
    except ValueError:
        return frozenset()


def matching_name(names: frozenset[str], wanted: Iterable[str]) -> str | None:
    """Return the first wanted name that a certificate carries (RFC 5922 section 7.2), else None.

    The whole name has to be equal; case and a final dot do not count.
    """
    for name in wanted:
        if name.lower().rstrip(".") in names:
            return name
    return None


def describe(certificate: x509.Certificate) -> str:
    """Return one line about a certificate: subject, every name in it, issuer, end of validity."""
    try:
        shown = ", ".join(_shown_names(certificate)) or "no subject alternative names"
        subject = certificate.subject.rfc4514_string() or "(empty subject)"
        issuer = certificate.issuer.rfc4514_string() or "(empty issuer)"
    except ValueError as error:
        return f"a certificate that cannot be read ({error})"
    until = date(certificate.not_valid_after_utc)
    return f"{subject} [{shown}] issued by {issuer}, valid until {until}"


def explain_mismatch(certificate: x509.Certificate | None, wanted: Collection[str]) -> str:
    """Say why a certificate proves none of the wanted names: what was expected, what was found."""
    expected = " or ".join(wanted)
    if certificate is None:
        return f"the peer showed no certificate; one for {expected} was expected"
    names = names_of(certificate)
    hints = _mismatch_hints(certificate, names)
    if all(_domain(name) is None for name in wanted):
        hints += "; an IP address is no SIP name: the next hop needs a tls_name"
    text = f"the peer's certificate is not for {expected}: its names are "
    text += ", ".join(sorted(names)) if names else "none that count for SIP"
    return f"{text} ({describe(certificate)}){hints}"


def date(moment: datetime) -> str:
    """Write a moment for people: day and time, UTC."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def serves_tls(certificate: x509.Certificate, authority: bool) -> bool:
    """Whether a certificate may be used in TLS at all, as a server's or as a client's.

    OpenSSL refuses each certificate in a client's chain whose extended key usage lacks clientAuth.
    Public authorities issue only serverAuth now, so that refusal is overruled for certificates that
    this function accepts: serverAuth or clientAuth has to be there, and the key usage has to fit.

    :param authority: whether it stands above the leaf, as an issuer.
    """
    try:
        extensions = certificate.extensions
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} & set(purposes):
        return False
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    if authority:
        return usage.key_cert_sign
    return usage.digital_signature or usage.key_agreement


def purposes_in_words(certificate: x509.Certificate) -> str:
    """Name the purposes (extended key usage) that a certificate allows."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "any"
    except ValueError:
        return "unreadable"
    names = {
        ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
        ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    }
    return ", ".join(names.get(oid, oid.dotted_string) for oid in usage) or "none"


def _alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _common_names(certificate: x509.Certificate) -> list[str]:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [str(attribute.value) for attribute in found]


def _sip_domain(uri: str) -> str | None:
    """Return the domain of a URI name ``sip:domain``; None for other schemes and for users."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "sip" or "@" in rest:
        return None
    host = rest.partition(";")[0].partition("?")[0]
    if not host.startswith("["):
        host = host.partition(":")[0]
    return _domain(host)


def _domain(name: str) -> str | None:
    """Return a name in the form in which names are compared; None for what is no plain DNS name."""
    name = name.lower().rstrip(".")
    if not name or "*" in name or any(not (c.isalnum() or c in "-._") for c in name):
        return None
    try:
        ip_address(name)
    except ValueError:
        return name
    return None


def _shown_names(certificate: x509.Certificate) -> list[str]:
    alternatives = _alternatives(certificate)
    if alternatives is None:
        return []
    shown = [
        f"URI {uri}" for uri in alternatives.get_values_for_type(x509.UniformResourceIdentifier)
    ]
    shown += [f"DNS {name}" for name in alternatives.get_values_for_type(x509.DNSName)]
    shown += [f"IP {address}" for address in alternatives.get_values_for_type(x509.IPAddress)]
    return shown


def _mismatch_hints(certificate: x509.Certificate, names: frozenset[str]) -> str:
    try:
        alternatives = _alternatives(certificate)
        dns = alternatives.get_values_for_type(x509.DNSName) if alternatives else []
    except ValueError:
        return ""
    hints = ""
    if any("*" in name for name in dns) or any("*" in name for name in _common_names(certificate)):
        hints += "; a wildcard never matches on SIP (RFC 5922)"
    if alternatives is not None and any(
        name.lower() not in names for name in dns if "*" not in name
    ):
        hints += "; its DNS names do not count because it has sip: URI names (RFC 5922)"
    return hints
