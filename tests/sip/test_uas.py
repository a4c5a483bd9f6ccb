"""What a user agent server refuses before it looks at what is meant."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.message import SipRequest, SipResponse, parse_message
from impfed.sip.uas import KNOWN_METHODS, allow_value, for_us, screen
from tests.sip.material import lync, request_lines

METHODS = frozenset(
    ("SUBSCRIBE", "INVITE", "ACK", "CANCEL", "BYE", "MESSAGE", "INFO", "OPTIONS", "NOTIFY")
)
CONTACT = "Contact: <sip:x@1.2.3.4>"


def verdict(
    *lines: str, method: str = "OPTIONS", body: bytes = b"", uri: str = "", known: str = ""
) -> tuple[int, tuple[tuple[str, str], ...]] | None:
    data = request_lines(*lines, method=method, body=body)
    if uri:
        data = data.replace(b"sip:u@impfed.example SIP", uri.encode() + b" SIP", 1)
    request = parse_message(data)
    assert isinstance(request, SipRequest)
    refusal = screen(request, METHODS, frozenset(known.split()))
    return None if refusal is None else (refusal.status, refusal.headers)


class ScreenTests(SynchronousTestCase):
    """screen."""

    def test_good(self) -> None:
        """An ordinary request passes."""
        self.assertIsNone(verdict())
        self.assertIsNone(verdict(CONTACT, method="INVITE"))
        self.assertIsNone(verdict("Max-Forwards: 0"))
        self.assertIsNone(verdict(uri="sips:a@b"))

    def test_methods(self) -> None:
        """A method that exists is 405, any other 501, both with Allow in the usual order."""
        allow = "INVITE, ACK, CANCEL, BYE, MESSAGE, INFO, OPTIONS, SUBSCRIBE, NOTIFY"
        for method, status in (
            ("REGISTER", 405),
            ("NEGOTIATE", 405),
            ("SING", 501),
            ("invite", 501),
        ):
            self.assertEqual(verdict(method=method), (status, (("Allow", allow),)))
        self.assertTrue(METHODS < KNOWN_METHODS)
        self.assertEqual(allow_value({"SING", "BYE", "DANCE"}), "BYE, DANCE, SING")

    def test_unanswered(self) -> None:
        """ACK and BENOTIFY are never refused, for they are never answered."""
        self.assertIsNone(verdict("Require: x", method="ACK", uri="tel:1"))
        self.assertIsNone(verdict("Require: x", method="BENOTIFY"))

    def test_scheme(self) -> None:
        """A scheme that is not ours is 416, whatever it begins with."""
        for uri in ("tel:+1", "sipx:a@b", "im:a@b", "nobodyKnowsThisScheme:opaque"):
            self.assertEqual(verdict(uri=uri), (416, ()))

    def test_require(self) -> None:
        """Unknown option tags are 420 and named; known ones pass; CANCEL does not ask."""
        self.assertEqual(
            verdict("Require: a, TIMER", "Require: b", known="timer"),
            (420, (("Unsupported", "a, b"),)),
        )
        self.assertIsNone(verdict("Require: timer", known="timer"))
        self.assertIsNone(verdict("Require: a", method="CANCEL"))
        self.assertIsNone(verdict("Proxy-Require: a"))

    def test_contact(self) -> None:
        """Where a dialog would be made a Contact must be."""
        for method in ("INVITE", "SUBSCRIBE"):
            self.assertEqual(verdict(method=method), (400, ()))

    def test_invite_bodies(self) -> None:
        """An INVITE may carry what can be judged as an offer; other bodies are 415."""
        for media, passes in (
            ("application/sdp", True),
            ("Application/SDP;call-type=im", True),
            ("multipart/mixed;boundary=x", True),
            ("application/ms-conf-invite+xml", True),
            ("application/unknownformat", False),
            ("text/plain", False),
        ):
            got = verdict(CONTACT, f"Content-Type: {media}", method="INVITE", body=b"x")
            self.assertEqual(got, None if passes else (415, (("Accept", "application/sdp"),)))

    def test_invite_accept(self) -> None:
        """Who takes no session description back cannot be answered: 406."""
        for accept, passes in (
            ("application/sdp", True),
            ("text/html, Application/SDP;level=1", True),
            ("*/*", True),
            ("application/*", True),
            ("text/nobodyKnowsThis", False),
        ):
            got = verdict(CONTACT, f"Accept: {accept}", method="INVITE")
            self.assertEqual(got is None, passes, accept)
            if got is not None:
                self.assertEqual(got[0], 406)

    def test_encoding(self) -> None:
        """A compressed body is 415; without a body the header does not matter."""
        refused = (415, (("Accept-Encoding", "identity"),))
        self.assertEqual(verdict("e: gzip", method="MESSAGE", body=b"x"), refused)
        self.assertIsNone(verdict("e: identity", method="MESSAGE", body=b"x"))
        self.assertIsNone(verdict("e: gzip", method="MESSAGE"))

    def test_for_us(self) -> None:
        """A response with a second Via went astray."""
        for name, ours in (("message-200-in", True), ("message-200-out", False)):
            response = parse_message(lync(name))
            assert isinstance(response, SipResponse)
            self.assertEqual(for_us(response), ours)
