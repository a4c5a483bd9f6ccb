"""Names in certificates by RFC 5922, and the words about them."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from impfed.testing.pki import make_ca, make_certificate
from impfed.transport.identity import (
    NOBODY,
    describe,
    explain_mismatch,
    identify,
    matching_name,
    names_of,
    serves_tls,
)


class Names(SynchronousTestCase):
    def certificate(
        self, name: str = "peer.example", sans: Any = None, **more: Any
    ) -> x509.Certificate:
        folder = self.mktemp()
        issued = make_certificate(make_ca(folder), folder, name, sans, **more)
        return x509.load_pem_x509_certificates(issued.certificate.read_bytes())[0]

    def test_uri_names_come_first(self) -> None:
        """With a sip: URI name the DNS names do not count (RFC 5922 section 7.1)."""
        found = names_of(self.certificate(sans=["sip:Lync.Example", "edge.lync.example"]))
        self.assertEqual(found, {"lync.example"})

    def test_dns_names(self) -> None:
        """Without a sip: URI name every DNS name counts, in lower case."""
        found = names_of(self.certificate(sans=["Lync.example", "edge.lync.example"]))
        self.assertEqual(found, {"lync.example", "edge.lync.example"})

    def test_other_uris_do_not_count(self) -> None:
        """A user's URI, another scheme and an IP address identify no domain."""
        sans = ["sip:bob@lync.example", "https://lync.example", "192.0.2.1", "real.example"]
        self.assertEqual(names_of(self.certificate(sans=sans)), {"real.example"})

    def test_uri_with_port_and_parameters(self) -> None:
        """Port and parameters of a URI name are no part of the domain."""
        self.assertEqual(names_of(self.certificate(sans=["sip:a.example:5061;lr"])), {"a.example"})

    def test_common_name_only_without_alternatives(self) -> None:
        """The common name counts if there are no alternative names at all, and only then."""
        self.assertEqual(names_of(self.certificate("cn.example", [])), {"cn.example"})
        self.assertEqual(names_of(self.certificate("cn.example", ["192.0.2.1"])), frozenset())
        self.assertEqual(names_of(self.certificate("Some Company", [])), frozenset())

    def test_wildcards_are_dropped(self) -> None:
        """A wildcard is no name, neither as DNS name nor as common name."""
        self.assertEqual(
            names_of(self.certificate(sans=["*.lync.example", "a.example"])), {"a.example"}
        )
        self.assertEqual(names_of(self.certificate("*.lync.example", [])), frozenset())

    def test_matching(self) -> None:
        """The whole name matches, whatever its case; nothing above or below it does."""
        names = frozenset({"lync.example"})
        self.assertEqual(matching_name(names, ["other.example", "LYNC.example."]), "LYNC.example.")
        for wrong in ("sip.lync.example", "example", "*.example", "ync.example"):
            self.assertIsNone(matching_name(names, [wrong]))

    def test_identity(self) -> None:
        """A verified certificate proves its names; no certificate proves nothing."""
        identity = identify(self.certificate(sans=["a.example"]))
        self.assertEqual((identity.names, identity.proven), ({"a.example"}, True))
        self.assertIn("CN=peer.example", identity.subject)
        self.assertEqual(identify(None), NOBODY)

    def test_words_about_a_certificate(self) -> None:
        """A certificate is described by subject, every name, issuer and end."""
        text = describe(self.certificate(sans=["sip:a.example", "b.example", "192.0.2.1"]))
        for part in (
            "CN=peer.example",
            "URI sip:a.example",
            "DNS b.example",
            "IP 192.0.2.1",
            "issued by CN=Test CA",
            "valid until 20",
        ):
            self.assertIn(part, text)

    def test_words_about_a_wrong_name(self) -> None:
        """The words say what was expected, what was found, and why what looks right is not."""
        text = explain_mismatch(self.certificate(sans=["*.lync.example"]), ["edge.lync.example"])
        self.assertIn("not for edge.lync.example", text)
        self.assertIn("wildcard never matches", text)
        sans = ["sip:other.example", "lync.example"]
        text = explain_mismatch(self.certificate(sans=sans), ["lync.example"])
        self.assertIn("its names are other.example", text)
        self.assertIn("DNS names do not count", text)
        text = explain_mismatch(self.certificate(), ["192.0.2.1"])
        self.assertIn("needs a tls_name", text)
        self.assertIn("showed no certificate", explain_mismatch(None, ["a.example"]))

    def test_purposes(self) -> None:
        """serverAuth or clientAuth has to be there; no purpose named, or others only, is not enough."""
        for eku, right in (
            (("serverAuth",), True),
            (("clientAuth",), True),
            (("emailProtection",), False),
            (None, False),
        ):
            self.assertEqual(serves_tls(self.certificate(eku=eku), authority=False), right)
        self.assertFalse(serves_tls(self.certificate(eku=("serverAuth",)), authority=True))
