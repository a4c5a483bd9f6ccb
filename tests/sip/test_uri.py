"""SIP URIs: grammar, values, comparison."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.errors import SipParseError
from impfed.sip.uri import OtherUri, SipUri, escape_user, parse_uri, unescape, valid_host
from tests.sip.material import each, table

VECTORS = table("vectors", "sip-uri-rfc3261.json")


def numbered(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{number:02}", row) for number, row in enumerate(rows)]


def check_parse(test: SynchronousTestCase, row: dict[str, Any]) -> None:
    uri = SipUri.parse(row["uri"])
    test.assertEqual(uri.scheme, row["scheme"])
    test.assertEqual(uri.unescaped_user, row["user"] or "")
    test.assertEqual(uri.password, row.get("password"))
    test.assertEqual(uri.host, row["host"])
    test.assertEqual(uri.port, row.get("port"))
    for name, value in row.get("params", {}).items():
        test.assertEqual(uri.param(name), "" if value is None else value)
    headers = {unescape(name): unescape(value) for name, value in uri.headers}
    test.assertEqual(headers, row.get("headers", {}))
    test.assertEqual(str(uri), row["uri"])


def check_invalid(test: SynchronousTestCase, row: dict[str, Any]) -> None:
    error = test.assertRaises(SipParseError, SipUri.parse, row["uri"])
    test.assertEqual(error.status, 416 if row["uri"].startswith("tel:") else 400)


def check_equal(test: SynchronousTestCase, row: dict[str, Any]) -> None:
    a, b = SipUri.parse(row["a"]), SipUri.parse(row["b"])
    test.assertTrue(a.same_as(b))
    test.assertTrue(b.same_as(a))


def check_not_equal(test: SynchronousTestCase, row: dict[str, Any]) -> None:
    a, b = SipUri.parse(row["a"]), SipUri.parse(row["b"])
    test.assertFalse(a.same_as(b))
    test.assertFalse(b.same_as(a))


@each(numbered(VECTORS["parse"]), "Vector {} is read as it says.")(check_parse)
class ParseVectorTests(SynchronousTestCase):
    """Valid URIs."""


@each(numbered(VECTORS["invalid"]), "Invalid vector {} is refused.")(check_invalid)
class InvalidVectorTests(SynchronousTestCase):
    """Invalid URIs."""


@each(numbered(VECTORS["equal"]), "The two URIs of vector {} are the same.")(check_equal)
class EqualVectorTests(SynchronousTestCase):
    """Equal URIs."""


@each(numbered(VECTORS["not_equal"]), "The two URIs of vector {} differ.")(check_not_equal)
class DifferentVectorTests(SynchronousTestCase):
    """Unequal URIs."""


class SipUriTests(SynchronousTestCase):
    """What the vectors do not say."""

    def test_microsoft_gruu(self) -> None:
        """A Microsoft GRUU keeps its opaque parameter."""
        text = "sip:romeo@lync.example;opaque=user:epid:Qm9yZWQtUm9tZW8tRXBpZABB;gruu"
        uri = SipUri.parse(text)
        self.assertEqual(uri.param("opaque"), "user:epid:Qm9yZWQtUm9tZW8tRXBpZABB")
        self.assertEqual(uri.param("GRUU"), "")
        self.assertIsNone(uri.param("gr"))
        self.assertEqual(str(uri), text)

    def test_aor(self) -> None:
        """The address of record has neither escapes nor parameters nor port."""
        uri = SipUri.parse("SIP:%61lice@Atlanta.COM:5061;transport=tls")
        self.assertEqual(uri.aor, "alice@atlanta.com")
        self.assertEqual(SipUri.parse("sip:a@[2001:DB8::1]:5070").aor, "a@[2001:db8::1]")
        self.assertEqual(SipUri.parse("sip:atlanta.com").aor, "atlanta.com")

    def test_hostport(self) -> None:
        """Host and port are written with the brackets that IPv6 needs."""
        self.assertEqual(SipUri.parse("sip:[2001:db8::1]:5070").hostport, "[2001:db8::1]:5070")
        self.assertEqual(str(SipUri("sip", "a", None, "::1")), "sip:a@[::1]")

    def test_escaped_utf8(self) -> None:
        """Escapes hold UTF-8; octets that are not UTF-8 survive as surrogate escapes."""
        self.assertEqual(SipUri.parse("sip:%C3%A9@h").unescaped_user, "\u00e9")
        self.assertEqual(SipUri.parse("sip:%FF@h").unescaped_user, "\udcff")
        self.assertEqual(escape_user("\u00e9 x@y\udcff"), "%C3%A9%20x%40y%FF")

    def test_other_schemes(self) -> None:
        """URIs of other schemes are kept whole."""
        self.assertEqual(parse_uri("TEL:+1-201-555-0123"), OtherUri("tel", "TEL:+1-201-555-0123"))
        self.assertEqual(str(parse_uri("im:romeo@lync.example")), "im:romeo@lync.example")
        self.assertIsInstance(parse_uri("sips:a@b"), SipUri)

    def test_no_uri(self) -> None:
        """What has no scheme, blanks or brackets is no URI."""
        for text in ("", "romeo", "romeo@lync.example", "tel:1 2", "x:<y>", "http:", ":x"):
            self.assertRaises(SipParseError, parse_uri, text)

    def test_too_long(self) -> None:
        """A URI beyond the limit is 414."""
        error = self.assertRaises(SipParseError, SipUri.parse, "sip:" + "a" * 9000 + "@h")
        self.assertEqual(error.status, 414)

    def test_refused(self) -> None:
        """Odd hosts, ports, parameters and headers are refused."""
        for text in (
            "sip:a@-h.example",
            "sip:a@h-.example",
            "sip:a@h..example",
            "sip:a@[::1",
            "sip:a@[1.2.3.4]",
            "sip:a@[::1%25eth0]",
            "sip:a@h:123456",
            "sip:a@h:5060x",
            "sip:a@h;",
            "sip:a@h;a=b=c",
            "sip:a@h?x",
            "sip:a@h?x=1&",
            "sip:@h",
            "sip:a b@h",
            "sip:a@b@h",
            "sip:a@h\u0661",
            "sip:a@h:\u0661",
            "sip:\u00e9@h",
            "sip:a@h\n",
            "sip:a@h\0",
        ):
            self.assertRaises(SipParseError, SipUri.parse, text)

    def test_hosts(self) -> None:
        """Names, IPv4 and bracketed IPv6 addresses are hosts."""
        for text in ("a", "a.b", "a.b.", "192.0.2.1", "[::1]", "x--1.example"):
            self.assertTrue(valid_host(text), text)
        for text in ("", "a_b", "::1", "[::1", "a b", "[::::]", "a\n"):
            self.assertFalse(valid_host(text), text)
