"""A directory with files that a configuration names, and a small configuration that is right."""

from __future__ import annotations

from pathlib import Path

from impfed.config.load import load
from impfed.config.model import Config
from impfed.config.problems import ConfigErrors, Problem

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"

GOOD = """\
[tls]
ca = "ca.pem"

[[tls.certificate]]
name = "company"
certificate = "node.pem"
key = "node.key"

[[listener]]
name = "federation"
transport = "tls"
bind = "127.0.0.1:5061"

[[domain]]
name = "lync.example"
next_hop = { address = "sip.lync.example:5061" }

[[home]]
name = "prosody"
kind = "component"
domains = ["company.example"]
secret = "s3cr3t-of-the-component"
"""


class Workshop:
    """A directory to write configurations into and to load them from."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        self.path = self.directory / "impfed.toml"
        for name, text in (("ca.pem", CERTIFICATE), ("node.pem", CERTIFICATE), ("node.key", KEY)):
            self.put(name, text)

    def put(self, name: str, text: str) -> Path:
        """Write a file beside the configuration."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def load(self, text: str = GOOD, **environ: str) -> Config:
        """Load a configuration text."""
        self.put("impfed.toml", text)
        return load(self.path, environ)

    def problems(self, text: str, **environ: str) -> list[Problem]:
        """Return what is wrong with a configuration text."""
        try:
            self.load(text, **environ)
        except ConfigErrors as errors:
            return list(errors.problems)
        return []
