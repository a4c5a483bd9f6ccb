"""Reading messages."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.errors import SipParseError
from impfed.sip.message import (
    SipRequest,
    SipResponse,
    check_request,
    check_response,
    content_length,
    parse_message,
)
from tests.sip.material import request_lines


def request(*lines: str, method: str = "OPTIONS", body: bytes = b"") -> SipRequest:
    message = parse_message(request_lines(*lines, method=method, body=body))
    assert isinstance(message, SipRequest)
    return message


RESPONSE = (
    b"SIP/2.0 101 Progress Report\r\nVia: SIP/2.0/TLS a;branch=z9hG4bK1\r\n"
    b"From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class GetTests(SynchronousTestCase):
    """Header lookup."""

    def test_names(self) -> None:
        """Names are found in any case and spelling, long or compact."""
        message = request("sUPPORTED : a", "k:b", "K: c, d", "X-Own:1", "x-oWN : 2")
        self.assertEqual(message.get("supported"), "a")
        self.assertEqual(message.get_all("supported"), ["a", "b", "c, d"])
        self.assertEqual(message.values("supported"), ["a", "b", "c", "d"])
        self.assertEqual(message.get_all("x-own"), ["1", "2"])
        self.assertIn("x-own", message.names())

    def test_absent(self) -> None:
        """What is not there is None or empty."""
        message = request()
        self.assertIsNone(message.get("subject"))
        self.assertEqual(message.get_all("subject"), [])
        self.assertEqual(message.values("subject"), [])
        self.assertIsNone(message.contact)
        self.assertIsNone(message.content_type)

    def test_empty_value(self) -> None:
        """A header may be empty."""
        self.assertEqual(request("Subject:", "Accept: ").get("subject"), "")
        self.assertEqual(request("Subject:", "Accept: ").values("accept"), [])

    def test_folding(self) -> None:
        """A fold of any depth reads as one blank, and the octets stay."""
        data = request_lines("Subject: a\r\n b\r\n\t \tc", "X-Z:\r\n  y")
        message = parse_message(data)
        self.assertEqual(message.get("subject"), "a b c")
        self.assertEqual(message.get("x-z"), "y")
        self.assertEqual(message.to_bytes(), data)

    def test_colons_in_value(self) -> None:
        """Only the first colon ends the name."""
        self.assertEqual(request("X-Z:a: b").get("x-z"), "a: b")

    def test_raw_octets(self) -> None:
        """UTF-8 is decoded, other octets survive, other line ends of Unicode end no line."""
        data = request_lines().replace(
            b"\r\nFrom", b"\r\nSubject: \xff\xc3\xa9\xe2\x80\xa8\x0bx\r\nFrom"
        )
        message = parse_message(data)
        self.assertEqual(message.get("subject"), "\udcff\u00e9\u2028\x0bx")
        self.assertEqual(message.to_bytes(), data)

    def test_next_line_character_at_head(self) -> None:
        """A Unicode line separator at the end of a line changes nothing."""
        data = request_lines().replace(b"\r\nFrom", "\r\nSubject: x\u2028\r\nFrom".encode())
        self.assertEqual(parse_message(data).get("subject"), "x\u2028")

    def test_unnamed_spelling_bound(self) -> None:
        """Thousands of different names are read although not all are remembered."""
        for number in range(0, 6000, 50):
            message = request(*[f"X-{number + i}: v{i}" for i in range(50)])
            self.assertEqual(message.get(f"x-{number + 49}"), "v49")


class PropertyTests(SynchronousTestCase):
    """Decoded values."""

    def test_request(self) -> None:
        """Everything a gateway asks for is decoded and kept."""
        message = request("Contact: <sip:x@1.2.3.4>", "Content-Type: text/plain", body=b"hi")
        self.assertEqual(message.method, "OPTIONS")
        self.assertEqual(str(message.uri), "sip:u@impfed.example")
        self.assertEqual((message.from_tag, message.to_tag), ("1", ""))
        self.assertEqual((message.from_tag, message.to_tag), ("1", ""))
        self.assertEqual(message.call_id, "1@a.example")
        self.assertEqual(message.cseq, (1, "OPTIONS"))
        self.assertEqual(message.via.branch, "z9hG4bK1")
        assert message.contact is not None and message.content_type is not None
        self.assertEqual(message.contact.uri_text, "sip:x@1.2.3.4")
        self.assertIs(message.contact, message.contact)
        self.assertIs(message.content_type, message.content_type)
        self.assertIs(message.from_, message.from_)
        self.assertEqual(message.body, b"hi")
        self.assertIn("OPTIONS", repr(message))

    def test_response(self) -> None:
        """Status and reason are read; an unusual provisional is one like others."""
        message = parse_message(RESPONSE)
        assert isinstance(message, SipResponse)
        self.assertEqual((message.status, message.reason), (101, "Progress Report"))
        self.assertIn("101", repr(message))

    def test_no_reason(self) -> None:
        """The blank after the status code may be missing."""
        message = parse_message(RESPONSE.replace(b"101 Progress Report", b"200"))
        assert isinstance(message, SipResponse)
        self.assertEqual((message.status, message.reason), (200, ""))

    def test_star_contact(self) -> None:
        """The Contact "*" is no address."""
        self.assertIsNone(request("Contact: *").contact)

    def test_top_via_of_list(self) -> None:
        """The top Via is the first of a line that holds several."""
        data = request_lines().replace(
            b";branch=z9hG4bK1", b';i="a,b";branch=z9hG4bKtop, SIP/2.0/UDP low'
        )
        message = parse_message(data)
        self.assertEqual(message.via.branch, "z9hG4bKtop")
        self.assertEqual(len(message.values("via")), 2)

    def test_missing(self) -> None:
        """A value that must be there and is not is a parse error."""
        data = b"OPTIONS sip:a@b SIP/2.0\r\nX: y\r\n\r\n"
        message = parse_message(data)
        for name in ("from_", "to", "call_id", "cseq", "via", "from_tag", "to_tag"):
            self.assertRaises(SipParseError, getattr, message, name)


class RefusalTests(SynchronousTestCase):
    """What is refused, with what, and whether it can be answered."""

    def refused(self, data: bytes) -> SipParseError:
        def read() -> None:
            message = parse_message(data)
            if isinstance(message, SipRequest):
                check_request(message)

        return self.assertRaises(SipParseError, read)

    def replaced(self, old: str, new: str, **more: str) -> SipParseError:
        data = request_lines(**more)  # type: ignore[arg-type]
        self.assertIn(old.encode(), data)
        return self.refused(data.replace(old.encode(), new.encode(), 1))

    def test_answerable(self) -> None:
        """Each fault of a request with a Via is 400 with the head to answer from."""
        for old, new in (
            ("Max-Forwards: 70", "Max-Forwards: 256"),
            ("Max-Forwards: 70", "Max-Forwards: x"),
            ("Max-Forwards: 70", "Max-Forwards"),
            ("Max-Forwards: 70", "Max Forwards: 70"),
            ("Max-Forwards: 70", "\u00c4: 70"),
            ("Max-Forwards: 70", "X: a\rb"),
            ("Max-Forwards: 70", "X: a\nb"),
            ("From: ", "X: "),
            ("Call-ID: 1@a.example", "Call-ID: "),
            ("To: ", "To: <sip:a@b>\r\nTo: "),
            ("CSeq: 1 OPTIONS", "CSeq: 1 INVITE"),
            ("CSeq: 1 OPTIONS", "CSeq: 4294967296 OPTIONS"),
            ("branch=z9hG4bK1", "branch=z9hG4bK"),
            ("branch=z9hG4bK1", ";branch=z9hG4bK1"),
            ("SIP/2.0/TLS a", "SIP/2.0/TLS"),
            ("sip:u@impfed.example SIP", "sip:u@impfed.example?a=b SIP"),
            ("sip:u@impfed.example SIP", "<sip:u@impfed.example> SIP"),
            ("sip:u@impfed.example SIP", "sip:u@impfed.example  SIP"),
            ("sip:u@impfed.example SIP", "sip:u@im\\r\\npfed.example SIP"),
            ("OPTIONS sip", "OPT\u00cfONS sip"),
            ("OPTIONS sip:u@impfed.example", "OPTIONS"),
            ("Content-Length: 0", "Content-Length: 5"),
            ("Content-Length: 0", "Content-Length: 0\r\nl: 0"),
            ("Content-Length: 0", "Content-Length: -1"),
        ):
            error = self.replaced(old, new)
            self.assertEqual(error.status, 400, new)
            self.assertIsInstance(error.head, SipRequest, new)

    def test_other_statuses(self) -> None:
        """A foreign version is 505, a Request-URI beyond the limit 414, a huge length 513."""
        self.assertEqual(self.replaced("SIP/2.0\r\n", "SIP/7.0\r\n").status, 505)
        self.assertEqual(self.replaced("u@impfed", "u" * 9000 + "@impfed").status, 414)
        error = self.replaced("Content-Length: 0", "Content-Length: 99999999999999999999")
        self.assertEqual((error.status, error.close), (513, True))

    def test_not_answerable(self) -> None:
        """Without a Via, or to an ACK, nothing can be answered."""
        self.assertIsNone(self.replaced("Via: ", "X: ").head)
        for method in ("ACK", "BENOTIFY"):
            self.assertIsNone(self.replaced("CSeq: 1", "CSeq: x", method=method).head)

    def test_contact(self) -> None:
        """A malformed Contact is refused where it would become a target."""
        for method, refused in (("INVITE", True), ("NOTIFY", True), ("REGISTER", False)):
            message = request("Contact: <sip:a@b>;;;;", method=method)
            if refused:
                self.assertRaises(SipParseError, check_request, message)
            else:
                check_request(message)

    def test_responses(self) -> None:
        """A malformed response is refused by the parser itself."""
        check_response(parse_message(RESPONSE))  # type: ignore[arg-type]
        for old, new in (
            (b"1 INVITE", b"x"),
            (b"101", b"1010"),
            (b"101", b"099"),
            (b"101", b"700"),
            (b"Via", b"X"),
            (b"\r\nTo", b"\r\nTo : <sip:a@b>\r\nTo"),
        ):
            error = self.refused(RESPONSE.replace(old, new, 1))
            self.assertIsNone(error.head)

    def test_content_length(self) -> None:
        """A missing length is None; leading zeros are fine."""
        message = parse_message(request_lines().replace(b"Content-Length: 0\r\n", b""))
        self.assertIsNone(content_length(message))
        message = parse_message(request_lines().replace(b"Length: 0", b"Length: " + b"0" * 30))
        self.assertEqual(content_length(message), 0)
