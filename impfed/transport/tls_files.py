"""Certificates, keys and trusted roots read from PEM files, with words for what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from impfed.config.model import CertificateConfig
from impfed.core.errors import LocalError
from impfed.transport.identity import names_of


class TlsFileError(LocalError):
    """A certificate, key or authority file that cannot be used; the text names the file and why."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A certificate of ours with its intermediates and its key.

    :ivar name: the name it has in the configuration.
    """

    name: str
    leaf: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    key: crypto.PKey
    path: Path

    @property
    def names(self) -> frozenset[str]:
        """Every DNS name and SIP domain that the certificate carries, wildcards too, lower case."""
        names = set(names_of(self.leaf))
        try:
            extension = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (x509.ExtensionNotFound, ValueError):
            return frozenset(names)
        names.update(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
        return frozenset(names)

    @property
    def not_after(self) -> datetime:
        """End of validity of the leaf."""
        return self.leaf.not_valid_after_utc

    def install(self, context: SSL.Context) -> None:
        """Make a context show this chain.

        :raises TlsFileError: when certificate and key do not belong together.
        """
        context.use_certificate(crypto.X509.from_cryptography(self.leaf))
        for certificate in self.intermediates:
            context.add_extra_chain_cert(crypto.X509.from_cryptography(certificate))
        try:
            context.use_privatekey(self.key)
            context.check_privatekey()
        except SSL.Error as error:
            raise TlsFileError(
                f"certificate {self.path}: the key of [[tls.certificates]] {self.name!r} does not"
                " belong to it"
            ) from error


def read_chain(config: CertificateConfig) -> Chain:
    """Read a certificate chain and its key.

    :raises TlsFileError: naming the file and what is wrong with it.
    """
    certificates = read_certificates(config.certificate)
    return Chain(
        config.name,
        certificates[0],
        tuple(certificates[1:]),
        _read_key(config.key),
        config.certificate,
    )


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read every certificate of a PEM file.

    :raises TlsFileError: when there is none or the file cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise TlsFileError(f"{path} holds no usable PEM certificate: {error}") from error


def signature(paths: Iterable[Path]) -> tuple[object, ...]:
    """Return a value that changes when one of the files is replaced or rewritten."""
    marks: list[object] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            marks.append(error.errno)
        else:
            marks.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(marks)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_key(path: Path) -> crypto.PKey:
    data = _read(path)
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError as error:
        raise TlsFileError(
            f"{path}: the key is protected by a passphrase; store it without"
        ) from error
    except ValueError as error:
        raise TlsFileError(f"{path} holds no usable PEM private key: {error}") from error
    try:
        return crypto.PKey.from_cryptography_key(key)  # type: ignore[arg-type]  # it says itself which it takes
    except TypeError as error:
        raise TlsFileError(f"{path}: keys of this kind are not usable for TLS") from error
