"""Which certificates prove which XMPP domains, and the words for those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import crypto
from twisted.trial import unittest

from impfed.config.model import TlsConfig
from impfed.testing.pki import Authority, Issued, make_ca, make_certificate
from impfed.transport.s2s_identity import (
    SRV_NAME,
    XMPP_ADDRESS,
    XmppNames,
    explain_mismatch,
    missing_names,
    xmpp_names,
)
from impfed.transport.s2s_tls import S2STls, ShownCertificate
from impfed.transport.tls import TlsStore

DAY = timedelta(days=1)
NOW = datetime.now(UTC)


def utf8(text: str) -> bytes:
    data = text.encode()
    return bytes([0x0C, len(data)]) + data


def ia5(text: str) -> bytes:
    data = text.encode("latin-1")
    head = bytes([0x16, len(data)]) if len(data) < 128 else bytes([0x16, 0x81, len(data)])
    return head + data


def certificate(*names: x509.GeneralName, cn: str = "cn.example") -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, cn)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW - DAY, NOW + DAY)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def address(text: str) -> x509.OtherName:
    return x509.OtherName(XMPP_ADDRESS, utf8(text))


def service(text: str) -> x509.OtherName:
    return x509.OtherName(SRV_NAME, ia5(text))


DNS = x509.DNSName
# names of the certificate, domains that they prove, domains that they do not
CASES: list[tuple[Sequence[x509.GeneralName], Sequence[str], Sequence[str]]] = [
    ([DNS("a.example")], ["a.example"], ["b.example", "x.a.example", "example"]),
    ([DNS("A.Example")], ["a.example"], []),
    ([DNS("*.a.example")], ["x.a.example"], ["a.example", "y.x.a.example"]),
    ([DNS("*.example")], [], ["a.example", "example"]),
    ([DNS("x*.a.example")], [], ["xy.a.example"]),
    ([DNS("*")], [], ["a.example", "example"]),
    ([DNS("a.*.example")], [], ["a.b.example"]),
    ([DNS("xn--bcher-kva.example")], ["bücher.example"], ["bucher.example"]),
    ([address("a.example")], ["a.example"], ["b.example"]),
    ([address("BÜCHER.example")], ["bücher.example"], []),
    ([address("u@a.example"), address("a.example/r")], [], ["a.example"]),
    ([service("_xmpp-server.a.example")], ["a.example"], ["_xmpp-server.a.example"]),
    ([service("_xmpp-client.a.example"), service("_sip.a.example")], [], ["a.example"]),
    ([service("_xmpp-server." + "a" * 60 + "." + "b" * 63 + ".example")],
     ["a" * 60 + "." + "b" * 63 + ".example"], []),
    ([x509.OtherName(XMPP_ADDRESS, b"\x05\x00"),
      x509.OtherName(XMPP_ADDRESS, b"\x04\x09a.example")], [], ["a.example"]),
    ([x509.UniformResourceIdentifier("sip:a.example")], [], ["a.example"]),
    ([], [], ["cn.example"]),
]  # fmt: skip


class NameTests(unittest.SynchronousTestCase):
    """RFC 6120 section 13.7.1.2."""

    def test_matches(self) -> None:
        """Each kind of name proves what it should and nothing more."""
        for names, proven, others in CASES:
            found = xmpp_names(certificate(*names))
            for domain in proven:
                self.assertTrue(found.match(domain), f"{found} should prove {domain}")
            for domain in others:
                self.assertFalse(found.match(domain), f"{found} should not prove {domain}")

    def test_words(self) -> None:
        """A refusal says what was expected, what was found, and the likely mistake."""
        words = explain_mismatch(certificate(DNS("b.example"), address("c.example")), "a.example")
        self.assertIn("not for a.example: its names are XmppAddr c.example, DNS b.example", words)
        self.assertIn("valid until", words)
        words = explain_mismatch(certificate(DNS("*.a.example")), "a.example")
        self.assertIn("a wildcard stands for exactly one label", words)
        words = explain_mismatch(certificate(cn="a.example"), "a.example")
        self.assertIn("the common name does not count", words)
        self.assertEqual(str(XmppNames()), "none that count for XMPP")

    def test_missing(self) -> None:
        """Our domains without a certificate are named, each with what to ask for."""
        ours = [certificate(DNS("a.example"), DNS("*.rooms.example"))]
        missing = missing_names(ours, ["a.example", "x.rooms.example", "bücher.example"])
        self.assertEqual(list(missing), ["bücher.example"])
        self.assertIn("DNS:xn--bcher-kva.example", missing["bücher.example"])


class ChainTests(unittest.SynchronousTestCase):
    """The chain, judged after the handshake."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.ca = make_ca(self.directory, "Root")
        self.other = make_ca(self.directory, "Partner Root")
        self.roots: dict[str, Path] = {}
        store = TlsStore(TlsConfig((), self.ca.path))
        self.tls = S2STls(store, self.roots.get)

    def problem(self, issued: Issued, domain: str = "a.example") -> str:
        chain = [
            crypto.X509.from_cryptography(one)
            for one in x509.load_pem_x509_certificates(issued.certificate.read_bytes())
        ]
        return ShownCertificate(chain[0], chain[1:], self.tls.trust).problem(domain)

    def issue(self, ca: Authority | None = None, **options: object) -> Issued:
        return make_certificate(ca or self.ca, self.directory, "a.example", **options)  # type: ignore[arg-type]

    def test_good(self) -> None:
        """Client and server purposes, either, or no purposes at all; and through intermediates."""
        for eku in (("serverAuth", "clientAuth"), ("serverAuth",), ("clientAuth",), None):
            self.assertEqual(self.problem(self.issue(eku=eku)), "")
        for eku in (None, ("serverAuth",)):
            middle = make_ca(self.directory, "Middle", parent=self.ca, eku=eku)
            self.assertEqual(self.problem(self.issue(middle, eku=("serverAuth",))), "")

    def test_bad(self) -> None:
        """Each fault is named: date, authority, purpose, self-signed."""
        self.assertIn("it expired on 20", self.problem(self.issue(days=-1)))
        self.assertIn("CN=Partner Root", self.problem(self.issue(self.other)))
        self_signed = make_certificate(None, self.directory, "a.example", file="self")
        self.assertIn("it is self-signed", self.problem(self_signed))
        mail = self.issue(eku=("emailProtection",))
        self.assertIn("allows only the purposes", self.problem(mail))
        lapsed = make_ca(self.directory, "Lapsed", parent=self.ca, days=-1)
        words = self.problem(self.issue(lapsed))
        self.assertIn("an authority of the peer (depth 1) was refused: it expired", words)

    def test_partner_roots(self) -> None:
        """A partner's own roots count for him alone, and he needs no other."""
        issued = self.issue(self.other, sans=("a.example", "b.example"))
        self.roots["a.example"] = self.other.path
        self.assertEqual(self.problem(issued), "")
        self.assertIn("Partner Root", self.problem(issued, "b.example"))
        self.assertIn("not among the trusted", self.problem(self.issue()))
