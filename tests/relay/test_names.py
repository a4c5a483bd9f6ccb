"""The names that our certificates must carry."""

from __future__ import annotations

import io
from pathlib import Path

from twisted.trial import unittest

from impfed.ctl.main import main
from impfed.testing.pki import make_ca, make_certificate

CONFIGURATION = """\
[node]
name = "x"
[tls]
ca = "ca.pem"
[[tls.certificate]]
name = "a"
certificate = "{certificate}"
key = "{key}"
[[home]]
name = "home"
kind = "s2s"
domains = ["company.example", "rooms.company.example"]
address = "federation.company.example"
bind = "127.0.0.2:5269"
[s2s]
bind = "127.0.0.1:5269"
certificate_names = ["mail.company.example"]
"""


class NamesTests(unittest.SynchronousTestCase):
    """``check-config``, where the certificates can be read."""

    def check(self, *names: str) -> str:
        """Return what check-config says of a certificate with these names."""
        base = Path(self.mktemp())
        base.mkdir()
        issued = make_certificate(make_ca(base, "CA"), base, names[0], list(names))
        file = base / "impfed.toml"
        (base / "ca.pem").write_bytes(issued.certificate.read_bytes())
        file.write_text(
            CONFIGURATION.format(certificate=issued.certificate.name, key=issued.key.name)
        )
        out = io.StringIO()
        self.assertEqual(main(["check-config", str(file)], out), 0, out.getvalue())
        return out.getvalue()

    def test_complete(self) -> None:
        """Nothing is said of a certificate that carries all of them, by a wildcard too."""
        said = self.check("company.example", "*.company.example")
        self.assertEqual(len(said.splitlines()), 1)

    def test_missing(self) -> None:
        """Each missing name is said, with the name to ask for: a room domain, a mail domain."""
        said = self.check("company.example")
        self.assertIn("DNS:rooms.company.example", said)
        self.assertIn("DNS:mail.company.example", said)
        self.assertEqual(len(said.splitlines()), 3)
