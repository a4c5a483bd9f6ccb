"""A small certificate authority for tests and the demo; it makes wrong certificates on purpose too.

Keys are P-256.  Every certificate is written as PEM: the chain (leaf first, intermediates after, no
root) and the key beside it.  Nothing here is fit for anything but a laboratory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

#: Purposes by the names that :func:`make_certificate` takes.
PURPOSES: dict[str, ObjectIdentifier] = {
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
}


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority.

    :ivar name: its common name.
    :ivar certificate: its certificate.
    :ivar key: its private key.
    :ivar path: PEM file of the certificate (what others trust, if it is a root).
    :ivar issuers: certificates of the intermediate authorities between a leaf and the root, this
        one's own first; empty for a root.
    """

    name: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    path: Path
    issuers: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, as files.

    :ivar certificate: PEM file: the leaf, then its intermediates.
    :ivar key: PEM file of the private key, mode 0600.
    """

    certificate: Path
    key: Path


def make_ca(
    directory: Path | str,
    name: str = "Test CA",
    *,
    parent: Authority | None = None,
    eku: Sequence[str] | None = None,
    days: float = 365.0,
) -> Authority:
    """Make a certificate authority and write its certificate to ``<directory>/<name>.pem``.

    :param directory: created when it is not there.
    :param parent: the authority that issues it, the new one being an intermediate; None for a root.
    :param eku: extended key usage (keys of :data:`PURPOSES`); None leaves the extension out.
    :param days: end of validity, in days from now; negative for one that is over.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, parent.certificate.subject if parent else subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    if eku is not None:
        builder = builder.add_extension(_purposes(eku), critical=False)
    certificate = _sign(builder, parent.key if parent else key)
    path = _folder(directory) / f"{_file_name(name)}.pem"
    path.write_bytes(_pem(certificate))
    return Authority(name, certificate, key, path, (certificate, *parent.issuers) if parent else ())


def make_certificate(
    ca: Authority | None,
    directory: Path | str,
    name: str,
    sans: Sequence[str] | None = None,
    *,
    eku: Sequence[str] | None = ("serverAuth", "clientAuth"),
    days: float = 90.0,
    file: str = "",
) -> Issued:
    """Issue a certificate and write ``<file>.pem`` and ``<file>.key``.

    :param ca: who issues it; None for a self-signed one.
    :param name: common name of the subject.
    :param sans: subject alternative names: ``sip:domain`` and other URIs become URI names, IP
        addresses become addresses, the rest DNS names (``*.example`` too); None for just ``name``
        as a DNS name, an empty sequence for none at all.
    :param eku: extended key usage (keys of :data:`PURPOSES`); None leaves the extension out.
    :param days: end of validity, in days from now; negative for an expired one.
    :param file: base name of the files; ``name`` by default.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, ca.certificate.subject if ca else subject, key, days)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    names = [name] if sans is None else sans
    if names:
        general = x509.SubjectAlternativeName([_general_name(text) for text in names])
        builder = builder.add_extension(general, critical=False)
    if eku is not None:
        builder = builder.add_extension(_purposes(eku), critical=False)
    certificate = _sign(builder, ca.key if ca else key)
    base = _folder(directory) / _file_name(file or name)
    issued = Issued(base.with_name(base.name + ".pem"), base.with_name(base.name + ".key"))
    chain = [certificate, *(ca.issuers if ca else ())]
    issued.certificate.write_bytes(b"".join(_pem(each) for each in chain))
    issued.key.touch(mode=0o600)
    issued.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return issued


def _folder(directory: Path | str) -> Path:
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _file_name(name: str) -> str:
    return name.replace("*", "wildcard").replace(" ", "-").replace("/", "-").replace(":", "-")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    end = now + timedelta(days=days)
    start = min(now, end) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _purposes(eku: Sequence[str]) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage([PURPOSES[purpose] for purpose in eku])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    if ":" in text:
        return x509.UniformResourceIdentifier(text)
    return x509.DNSName(text)
