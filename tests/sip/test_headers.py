"""Structured header values."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.errors import SipParseError
from impfed.sip.headers import (
    COMPACT,
    CSeq,
    EventType,
    MediaType,
    SubscriptionState,
    first_value,
    parse_cseq,
    parse_event,
    parse_media_type,
    parse_name_addr,
    parse_number,
    parse_params,
    parse_subscription_state,
    parse_via,
    parse_warning,
    quote,
    readable,
    split_values,
    unquote,
)
from impfed.sip.uri import OtherUri, SipUri


class SplitTests(SynchronousTestCase):
    """Lists."""

    CASES = (
        ("", []),
        (" , ,", []),
        ("a", ["a"]),
        (" a , b,c ", ["a", "b", "c"]),
        ('"a,b" <sip:c,d@e>;x="y,z", <sip:f>', ['"a,b" <sip:c,d@e>;x="y,z"', "<sip:f>"]),
        (r'"a\",b", c', [r'"a\",b"', "c"]),
        ('"open, a', ['"open, a']),
        ("<open, a", ["<open, a"]),
        (", a", ["a"]),
        ('x="1,2",y', ['x="1,2"', "y"]),
        ('x="1",y="2,3",z', ['x="1"', 'y="2,3"', "z"]),
        (r'x="\\",y', [r'x="\\"', "y"]),
        ("a>b,c", ["a>b", "c"]),
    )

    def test_split(self) -> None:
        """Commas in quotes and brackets do not separate."""
        for text, values in self.CASES:
            self.assertEqual(split_values(text), values, text)

    def test_first(self) -> None:
        """The first value is the first of the list."""
        for text, values in self.CASES:
            self.assertEqual(first_value(text), values[0] if values else "", text)


class NameAddrTests(SynchronousTestCase):
    """From, To, Contact, Route."""

    def test_forms(self) -> None:
        """Every way to write an address gives display name, URI and parameters."""
        for text, display, uri, params in (
            ("<sip:a@b>", "", "sip:a@b", ()),
            ("sip:a@b", "", "sip:a@b", ()),
            ("sip:a@b;tag=1", "", "sip:a@b", (("tag", "1"),)),
            ('"A B"<sip:a@b>;tag=1', "A B", "sip:a@b", (("tag", "1"),)),
            ("A B <sip:a@b;x=1>;tag=1;y", "A B", "sip:a@b;x=1", (("tag", "1"), ("y", None))),
            ("A<sip:a@b> ; tag = 1", "A", "sip:a@b", (("tag", "1"),)),
            (r'"a \" > <b" <sip:a@b>', 'a " > <b', "sip:a@b", ()),
            ('"\u00e9" <sip:a@b>;epid=""', "\u00e9", "sip:a@b", (("epid", ""),)),
            ("<sip:a@b>;epid=", "", "sip:a@b", (("epid", ""),)),
            ('<sip:a@b>;t="x;tag=2>"', "", "sip:a@b", (("t", "x;tag=2>"),)),
            ("<sip:a@b>;received=[::1]", "", "sip:a@b", (("received", "[::1]"),)),
            ("<sip:a@b>;", "", "sip:a@b", ()),
        ):
            value = parse_name_addr(text)
            self.assertEqual((value.display, value.uri_text, value.params), (display, uri, params))
            self.assertEqual(str(value), text)
            value.check()

    def test_refused(self) -> None:
        """What is no address, or ambiguous, is refused."""
        for text in (
            "",
            "<>",
            "<sip:a@b",
            '"A <sip:a@b>',
            "Bell, A <sip:a@b>",
            "<sip:a@b>x",
            "<sip:a@b> <sip:c@d>",
            "sip:a@b?h=1",
            "sip:a@b,sip:c@d",
            "a b",
            "A:B <sip:a@b>",
        ):
            self.assertRaises(SipParseError, parse_name_addr, text)

    def test_check(self) -> None:
        """Lazily read parts show their faults when looked at."""
        for text in ("< sip:a@b >", "<sip:a@b>;;;;", "<sip:a@b>;=1", "<sip:a@ >", "<sip:a@b>;x y"):
            self.assertRaises(SipParseError, parse_name_addr(text).check)

    def test_tag(self) -> None:
        """The tag is found wherever it stands and however it is spelled."""
        for text, tag in (
            ("<sip:a@b>", ""),
            ("<sip:a@b>;tag=x.y-z", "x.y-z"),
            ("<sip:a@b>;tag=x;epid=1", "x"),
            ("<sip:a@b>;epid=1;TAG=x", "x"),
            ("<sip:a@b>;epid=;tag=x", "x"),
            ("<sip:a@b>; tag = x ", "x"),
            ('<sip:a@b>;e=";tag=no";tag=x', "x"),
            ("<sip:a@b;tag=no>", ""),
        ):
            self.assertEqual(parse_name_addr(text).tag, tag, text)

    def test_without_params(self) -> None:
        """The value without its parameters is as written."""
        self.assertEqual(parse_name_addr('"A"<sip:a@b> ;tag=1').without_params, '"A"<sip:a@b>')
        self.assertEqual(parse_name_addr("<sip:a@b>").without_params, "<sip:a@b>")

    def test_uri(self) -> None:
        """The URI is read on demand, other schemes too."""
        self.assertEqual(parse_name_addr("<tel:+1>").uri, OtherUri("tel", "tel:+1"))
        self.assertIsInstance(parse_name_addr("<sip:a@b>").uri, SipUri)
        self.assertRaises(SipParseError, lambda: parse_name_addr("<nothing>").uri)

    def test_value(self) -> None:
        """Equal texts make equal values."""
        self.assertEqual(parse_name_addr("<sip:a@b>"), parse_name_addr("<sip:a@b>"))
        self.assertEqual(len({parse_name_addr("<sip:a@b>"), parse_name_addr("<sip:a@b>")}), 1)
        self.assertIn("sip:a@b", repr(parse_name_addr("<sip:a@b>")))


class ViaTests(SynchronousTestCase):
    """Via."""

    def test_forms(self) -> None:
        """Blanks, case, ports and IPv6 are read."""
        for text, transport, host, port, branch in (
            ("SIP/2.0/TLS a.b:5061;branch=z9hG4bK1", "TLS", "a.b", 5061, "z9hG4bK1"),
            ("SIP/2.0/tls a.b", "TLS", "a.b", None, ""),
            ("SIP / 2.0 / UDP  [::1]:5060 ; BRANCH = x", "UDP", "[::1]", 5060, "x"),
            ("sip/2.0/UDP a : 5060;rport", "UDP", "a", 5060, ""),
            ('SIP/2.0/TCP a;i="ab;12,x";branch=z9hG4bKq', "TCP", "a", None, "z9hG4bKq"),
            ("SIP/2.0/TCP a;branch=z9hG4bKq;alias", "TCP", "a", None, "z9hG4bKq"),
            ("SIP/2.0/TCP a_b", "TCP", "a_b", None, ""),
        ):
            via = parse_via(text)
            self.assertEqual((via.transport, via.host, via.port), (transport, host, port))
            self.assertEqual(via.branch, branch)
            self.assertEqual(str(via), text)
            via.check()

    def test_params(self) -> None:
        """Parameters are found in any case; valueless ones are empty."""
        via = parse_via('SIP/2.0/TCP a;Received=1.2.3.4;rport;x="y"')
        self.assertEqual(via.param("received"), "1.2.3.4")
        self.assertEqual(via.param("RPORT"), "")
        self.assertIsNone(via.param("maddr"))
        self.assertEqual(via.param("x"), "y")

    def test_refused(self) -> None:
        """Other protocols and broken sent-by values are refused."""
        for text in (
            "",
            "SIP/2.0",
            "SIP/2.0/TLS",
            "SIP/2.0/TLS ",
            "SIP/3.0/TLS a",
            "HTTP/1.1/TLS a",
            "SIP/2.0/TLS a:99999",
            "SIP/2.0/TLS a:",
            "SIP/2.0/TLS [::::]",
            "SIP/2.0/TLS a b",
        ):
            self.assertRaises(SipParseError, parse_via, text)
        self.assertRaises(SipParseError, parse_via("SIP/2.0/UDP 192.0.2.15;;").check)

    def test_value(self) -> None:
        """Equal texts make equal values."""
        self.assertEqual(len({parse_via("SIP/2.0/TLS a"), parse_via("SIP/2.0/TLS a")}), 1)
        self.assertIn("TLS", repr(parse_via("SIP/2.0/TLS a")))


class SmallValueTests(SynchronousTestCase):
    """CSeq, media types, events, numbers, warnings, quoting."""

    def test_cseq(self) -> None:
        """Number and method are read past blanks and leading zeros."""
        self.assertEqual(parse_cseq("1 INVITE"), CSeq(1, "INVITE"))
        self.assertEqual(parse_cseq(" 0009 \t INVITE "), CSeq(9, "INVITE"))
        self.assertEqual(parse_cseq("2147483647 x.y-Z"), CSeq(2147483647, "x.y-Z"))
        self.assertEqual(str(CSeq(2, "BYE")), "2 BYE")

    def test_cseq_refused(self) -> None:
        """Signs, other digits, missing parts and numbers from 2**31 on are refused."""
        for text in (
            "",
            "1",
            "INVITE",
            "1INVITE",
            "-1 INVITE",
            "+1 INVITE",
            "1_0 INVITE",
            "\u0661 INVITE",
            "1 INV\u00cfTE",
            "1 IN VITE",
            "2147483648 INVITE",
            "9" * 5000 + " INVITE",
        ):
            self.assertRaises(SipParseError, parse_cseq, text)

    def test_media_type(self) -> None:
        """Types are compared without case and parameters."""
        media = parse_media_type('Text/Plain ; charset="UTF-8";msgr=WAB')
        self.assertEqual(media.essence, "text/plain")
        self.assertEqual(media.param("Charset"), "UTF-8")
        self.assertEqual(
            parse_media_type("application/sdp;call-type=im").essence, "application/sdp"
        )
        self.assertEqual(parse_media_type("*/*"), MediaType("*", "*"))
        for text in ("", "text", "text/", "/plain", "text/plain x", "te xt/plain"):
            self.assertRaises(SipParseError, parse_media_type, text)

    def test_subscription_state(self) -> None:
        """State and its parameters are read and written."""
        state = parse_subscription_state("Terminated ;reason=Deactivated;retry-after=30")
        self.assertEqual(state, SubscriptionState("terminated", "deactivated", None, 30))
        self.assertEqual(str(state), "terminated;reason=deactivated;retry-after=30")
        state = parse_subscription_state("active;expires=3600")
        self.assertEqual((state.state, state.expires), ("active", 3600))
        self.assertEqual(str(state), "active;expires=3600")
        for text in ("", ";expires=1", "active;expires=x"):
            self.assertRaises(SipParseError, parse_subscription_state, text)

    def test_event(self) -> None:
        """Package and id are read and written."""
        self.assertEqual(parse_event("presence"), EventType("presence"))
        self.assertEqual(parse_event("presence; ID=7"), EventType("presence", "7"))
        self.assertEqual(str(EventType("presence", "7")), "presence;id=7")
        self.assertEqual(str(EventType("presence")), "presence")

    def test_number(self) -> None:
        """Only ASCII digits up to a bound are numbers."""
        self.assertEqual(parse_number("0070", 255), 70)
        for text in ("", "-1", "+1", "1_0", "\u0661", "256", "1" * 400, "\u00b2"):
            self.assertRaises(SipParseError, parse_number, text, 255)

    def test_warning(self) -> None:
        """Code, agent and text are read."""
        warning = parse_warning('309 lync.example "Message blocked"')
        self.assertEqual(warning, (309, "lync.example", "Message blocked"))
        self.assertRaises(SipParseError, parse_warning, "309 lync.example")

    def test_params(self) -> None:
        """Quoted values lose their quotes; garbage is refused."""
        self.assertEqual(
            parse_params(r';a;b=1; c = "x\"y;z" ;d="";e='),
            (("a", None), ("b", "1"), ("c", 'x"y;z'), ("d", ""), ("e", "")),
        )
        for text in ("a=1", ";a b", ';a="x', ";;", ";=1", ";a=b=c"):
            self.assertRaises(SipParseError, parse_params, text)

    def test_quote(self) -> None:
        """Quoting is undone by unquoting, and no control character gets through."""
        for text in ("", "a", 'a"b\\c', "\u00e9 <x>"):
            self.assertEqual(unquote(quote(text)), text)
        self.assertEqual(quote("a\r\nb\0c"), '"a  b c"')
        self.assertEqual(unquote("plain"), "plain")

    def test_readable(self) -> None:
        """Octets that are not UTF-8 are shown as U+FFFD."""
        self.assertEqual(readable("caf\u00e9"), "caf\u00e9")
        self.assertEqual(readable(b"caf\xe9".decode("utf-8", "surrogateescape")), "caf\ufffd")
        self.assertEqual(readable("abc"), "abc")

    def test_compact(self) -> None:
        """Compact forms are single letters with long names in lower case."""
        self.assertEqual(COMPACT["o"], "event")
        self.assertTrue(all(len(k) == 1 and v == v.lower() for k, v in COMPACT.items()))
