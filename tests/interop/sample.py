"""The shipped sample configuration, made to run where only one test is."""

from __future__ import annotations

import shutil
from pathlib import Path

from demo.parts import free_ports
from impfed.testing.pki import make_ca, make_certificate

ROOT = Path(__file__).resolve().parents[2]


def sample_configuration(directory: Path) -> Path:
    """Copy ``etc`` with certificates and a secret into a directory; return the configuration file."""
    target = directory / "configuration"
    shutil.copytree(ROOT / "etc", target)
    authority = make_ca(target / "tls", "sample CA")
    issued = make_certificate(
        authority, target / "tls", "sip.company.example", ["sip.company.example", "company.example"]
    )
    shutil.copy(authority.path, target / "tls" / "ca.pem")
    shutil.copy(issued.certificate, target / "tls" / "company.example.pem")
    shutil.copy(issued.key, target / "tls" / "company.example.key")
    (target / "secrets").mkdir()
    (target / "secrets" / "prosody").write_text("secret")
    (directory / "state").mkdir()
    (port,) = free_ports(1)
    sample = (target / "impfed.toml").read_text()
    for here, there in (
        ("/var/lib/impfed", str(directory / "state")),
        ("/run/impfed/control.sock", str(directory / "control.sock")),
        ("0.0.0.0:5061", f"127.0.0.1:{port}"),
    ):
        if here not in sample:
            raise AssertionError(f"the sample configuration does not say {here} any more")
        sample = sample.replace(here, there)
    (target / "impfed.toml").write_text(sample)
    return target / "impfed.toml"
