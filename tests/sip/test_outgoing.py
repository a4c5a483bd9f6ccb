"""Writing messages."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import LocalError
from impfed.sip.message import (
    REASONS,
    OutgoingRequest,
    SipRequest,
    SipResponse,
    parse_message,
    response_bytes,
)
from tests.sip.material import lync, octets, request_lines


def read_request(data: bytes) -> SipRequest:
    message = parse_message(data)
    assert isinstance(message, SipRequest)
    return message


def read_response(data: bytes) -> SipResponse:
    message = parse_message(data)
    assert isinstance(message, SipResponse)
    return message


VIA = "SIP/2.0/TLS fed.impfed.example:5061;branch=z9hG4bKx"
INJECTIONS = ("a\r\nX: y", "a\nX: y", "a\rX", "a\0b", "\r\n", "\r\n\r\nbody")


class ResponseTests(SynchronousTestCase):
    """response_bytes."""

    def test_echo(self) -> None:
        """Via, From, To, Call-ID and CSeq come back octet for octet, To with our tag."""
        request = read_request(lync("invite-in-plain"))
        answer = read_response(response_bytes(request, 200, to_tag="ours"))
        self.assertEqual(answer.get_all("via"), request.get_all("via"))
        self.assertEqual(answer.get_all("record-route"), request.get_all("record-route"))
        self.assertEqual(answer.from_.text, request.from_.text)
        self.assertEqual(answer.to.text, request.to.text + ";tag=ours")
        self.assertEqual(answer.call_id, request.call_id)
        self.assertEqual(answer.cseq, request.cseq)
        self.assertIsNone(answer.get("supported"))
        self.assertEqual((answer.status, answer.reason), (200, "OK"))

    def test_tag_kept(self) -> None:
        """A To that has a tag keeps it and gets no other."""
        request = read_request(lync("message-in-text-plain"))
        answer = read_response(response_bytes(request, 200, to_tag="ours"))
        self.assertEqual(answer.to.text, request.to.text)

    def test_record_route(self) -> None:
        """Record-Route is echoed in 101-299 answers to requests that form a dialog only."""
        invite = read_request(lync("invite-in-plain"))
        for status, echoed in ((100, False), (101, True), (180, True), (200, True), (486, False)):
            answer = read_response(response_bytes(invite, status))
            self.assertEqual(answer.get("record-route") is not None, echoed, status)
        message = read_request(request_lines("Record-Route: <sip:p;lr>", method="MESSAGE"))
        self.assertIsNone(read_response(response_bytes(message, 200)).get("record-route"))

    def test_headers_and_body(self) -> None:
        """Our headers and body are written with the length of the body."""
        request = read_request(request_lines())
        data = response_bytes(
            request, 415, "No", headers=[("Accept", "text/plain")], body="\u00e9".encode()
        )
        answer = read_response(data)
        self.assertEqual((answer.status, answer.reason), (415, "No"))
        self.assertEqual(answer.get("accept"), "text/plain")
        self.assertEqual(answer.get("content-length"), "2")
        self.assertEqual(answer.body, "\u00e9".encode())

    def test_raw_octets(self) -> None:
        """Octets that are not UTF-8 come back as they came."""
        request = read_request(request_lines().replace(b"From: ", b'From: "\xff\xe9" '))
        self.assertIn(b'From: "\xff\xe9" <sip:x@a.example>;tag=1\r\n', response_bytes(request, 200))

    def test_folded(self) -> None:
        """A folded value comes back on one line."""
        request = read_request(octets("rfc4475", "wsinv.dat"))
        answer = read_response(response_bytes(request, 200, to_tag="x"))
        self.assertEqual(answer.values("via"), request.values("via"))
        self.assertEqual(answer.to_tag, "1918181833n")

    def test_malformed_request(self) -> None:
        """What a malformed request lacks is left out; an unreadable To gets no tag."""
        request = read_request(octets("rfc4475", "insuf.dat"))
        data = response_bytes(request, 400, to_tag="x")
        self.assertIn(b"CSeq: 193942 INVITE\r\n", data)
        self.assertNotIn(b"To:", data)
        request = read_request(octets("rfc4475", "quotbal.dat"))
        self.assertIn(
            b'To: "Mr. J. User <sip:j.user@example.com>\r\n',
            response_bytes(request, 400, to_tag="x"),
        )

    def test_reasons(self) -> None:
        """A code without a reason phrase of its own is still written."""
        request = read_request(request_lines())
        self.assertEqual(read_response(response_bytes(request, 299)).reason, "Unknown")
        self.assertTrue(all(100 <= status <= 699 for status in REASONS))

    def test_injection(self) -> None:
        """No CR, LF or NUL gets into a response, whichever way."""
        request = read_request(request_lines())
        for text in INJECTIONS:
            for arguments in (
                {"reason": text},
                {"to_tag": text},
                {"headers": [("X", text)]},
                {"headers": [(text, "x")]},
            ):
                self.assertRaises(LocalError, response_bytes, request, 200, **arguments)
        self.assertRaises(LocalError, response_bytes, request, 200, headers=[("X", "\ud800")])
        self.assertRaises(LocalError, response_bytes, request, 20)

    def test_bad_names(self) -> None:
        """A header name that is no token cannot be written."""
        request = read_request(request_lines())
        for name in ("", "a b", "X: y", "\u00e9", "X "):
            self.assertRaises(LocalError, response_bytes, request, 200, headers=[(name, "x")])


class RequestTests(SynchronousTestCase):
    """OutgoingRequest."""

    def outgoing(self, uri: str = "sip:a@b", **more: object) -> OutgoingRequest:
        headers = [("From", "<sip:c@d>;tag=1"), ("To", "<sip:a@b>"), ("Call-ID", "x")]
        headers.append(("CSeq", "2 MESSAGE"))
        return OutgoingRequest("MESSAGE", uri, headers, b"hello", 2, "x")

    def test_render(self) -> None:
        """The request is written with its Via on top and the length of its body."""
        request = read_request(self.outgoing().render(VIA))
        self.assertEqual((request.method, request.uri_text), ("MESSAGE", "sip:a@b"))
        self.assertEqual(request.get_all("via"), [VIA])
        self.assertEqual(request.names()[0], "via")
        self.assertEqual(request.cseq, (2, "MESSAGE"))
        self.assertEqual(request.body, b"hello")
        self.assertIn("MESSAGE", repr(self.outgoing()))

    def test_get(self) -> None:
        """Headers are found in any case."""
        self.assertEqual(self.outgoing().get("call-id"), "x")
        self.assertIsNone(self.outgoing().get("route"))

    def test_injection(self) -> None:
        """No CR, LF or NUL gets into a request, whichever way."""
        for text in INJECTIONS:
            self.assertRaises(LocalError, self.outgoing().render, text)
            self.assertRaises(LocalError, self.outgoing(uri=text).render, VIA)
            for header in ((text, "x"), ("X", text)):
                request = self.outgoing()
                request.headers = [*request.headers, header]
                self.assertRaises(LocalError, request.render, VIA)
            request = self.outgoing()
            request.method = text
            self.assertRaises(LocalError, request.render, VIA)

    def test_balanced_injection(self) -> None:
        """A line end in one place cannot hide behind a missing one in another."""
        request = self.outgoing()
        request.headers = [*request.headers, ("X", "a\r\n\r\nb")]
        self.assertRaises(LocalError, request.render, VIA)

    def test_malformed(self) -> None:
        """Blanks in method or URI and names that are no tokens are refused."""
        for uri in ("", "sip:a@b SIP/2.0", "sip:a@b\tx"):
            self.assertRaises(LocalError, self.outgoing(uri=uri).render, VIA)
        for name in ("", "a b", "X:", "\u00e9"):
            request = self.outgoing()
            request.headers = [*request.headers, (name, "x")]
            self.assertRaises(LocalError, request.render, VIA)
