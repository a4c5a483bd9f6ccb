"""Certificates for one run, made with the openssl command."""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .parts import PartFailed


@dataclass(frozen=True)
class Certificate:
    """A certificate chain and its key, as PEM files, and the authority that signed it."""

    certificate: Path
    key: Path
    ca: Path

    @property
    def both(self) -> Path:
        """Chain and key in one file, as HAProxy wants them."""
        joined = self.certificate.with_suffix(".both.pem")
        if not joined.exists():
            joined.write_text(self.certificate.read_text() + self.key.read_text())
            joined.chmod(0o600)
        return joined


class Authority:
    """A certificate authority for one run, made with the openssl command.

    RSA, as Microsoft's edges want it.
    """

    def __init__(self, directory: Path, name: str = "demo CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.path, self._key = directory / "ca.pem", directory / "ca.key"
        self._openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}",
            "-keyout", str(self._key), "-out", str(self.path),
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    @staticmethod
    def _openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise PartFailed(f"openssl {arguments[0]}: {done.stderr}")

    def issue(self, name: str, *others: str, usage: str = "serverAuth,clientAuth") -> Certificate:
        """Return a certificate for host names; the first is also the file's name."""
        base = self.directory / name
        request, certificate, key = (base.with_name(name + end) for end in (".csr", ".pem", ".key"))
        self._openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        extensions = base.with_name(name + ".ext")
        names = ",".join(f"DNS:{one}" for one in (name, *others))
        extensions.write_text(
            f"subjectAltName={names}\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n"
            "keyUsage=digitalSignature,keyEncipherment\n"
        )
        self._openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.path), "-CAkey", str(self._key),
            # No file with the next number: certificates are made beside each other.
            "-set_serial", str(random.SystemRandom().getrandbits(63)),
            "-days", "30", "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return Certificate(certificate, key, self.path)
