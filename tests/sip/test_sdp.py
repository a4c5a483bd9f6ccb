"""Session descriptions of instant message sessions."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import LocalError
from impfed.sip.errors import SipParseError
from impfed.sip.message import parse_message
from impfed.sip.sdp import ImOffer, im_answer, im_offer, parse_offer
from tests.sip.material import lync


def description(*lines: str) -> bytes:
    head = ("v=0", "o=- 0 0 IN IP4 10.0.0.5", "s=session", "c=IN IP4 10.0.0.5", "t=0 0")
    return "".join(line + "\r\n" for line in (*head, *lines)).encode()


class OfferTests(SynchronousTestCase):
    """parse_offer."""

    def test_modern(self) -> None:
        """The list of accepted types is read, lower-case, with a blank at its end."""
        offer = parse_offer(parse_message(lync("invite-in-plain")).body)
        self.assertEqual(offer.media, "message")
        self.assertTrue(offer.is_im)
        self.assertEqual(offer.accept_types[:2], ("text/plain", "multipart/alternative"))

    def test_legacy(self) -> None:
        """The old media name is remembered and no list is no fault."""
        offer = parse_offer(parse_message(lync("invite-in-legacy-x-ms-message")).body)
        self.assertEqual((offer.media, offer.accept_types), ("x-ms-message", ()))

    def test_variants(self) -> None:
        """Port and format do not matter; nor do case, bare LF and unknown lines."""
        for line in ("m=message 0 sip null", "m=MESSAGE 9 SIP sip:a@b", "m=message 5060 sip"):
            self.assertTrue(parse_offer(description(line)).is_im)
        self.assertTrue(
            parse_offer(description("m=message 5060 sip null").replace(b"\r", b"")).is_im
        )
        offer = parse_offer(
            description(
                "m=message 5060 sip null",
                "A=Accept-Types:application/ms-imdn+xml",
                "a=accept-wrapped-types:Text/HTML",
                "a=accept-types:text/plain",
            )
        )
        self.assertEqual(offer.accept_types, ("application/ms-imdn+xml", "text/plain"))
        self.assertEqual(offer.wrapped_types, ("text/html",))

    def test_refused(self) -> None:
        """Other media, MSRP, several media and none are 488; what is no description is 400."""
        for lines, status in (
            (("m=audio 50024 RTP/SAVP 104",), 488),
            (("m=message 2855 TCP/MSRP *",), 488),
            (("m=message 5060 sip null", "m=audio 1 RTP/AVP 0"), 488),
            ((), 488),
            (("m=message",), 400),
        ):
            error = self.assertRaises(SipParseError, parse_offer, description(*lines))
            self.assertEqual(error.status, status, lines)
        for body in (b"", b"hello", b"\xff\xfe", b"m=message 5060 sip null"):
            self.assertEqual(self.assertRaises(SipParseError, parse_offer, body).status, 400)
        error = self.assertRaises(SipParseError, parse_offer, b"v=0\r\n" + b"a=x\r\n" * 20000)
        self.assertEqual(error.status, 488)

    def test_warning(self) -> None:
        """A 488 says why."""
        body = parse_message(lync("invite-audio-in")).body
        error = self.assertRaises(SipParseError, parse_offer, body)
        self.assertEqual(error.status, 488)
        self.assertIn("304", dict(error.headers)["Warning"])


class WriteTests(SynchronousTestCase):
    """Answers and offers."""

    def test_answer(self) -> None:
        """Our answers are those of the wire samples, octet for octet."""
        for name, media in (
            ("invite-200-out", "message"),
            ("invite-200-out-legacy", "x-ms-message"),
        ):
            answer = im_answer(ImOffer(media), "198.51.100.20", "juliet@impfed.example")
            self.assertEqual(answer, parse_message(lync(name)).body)

    def test_offer(self) -> None:
        """Our offer is that of the wire sample, octet for octet, and reads as one."""
        offer = im_offer("198.51.100.20")
        self.assertEqual(offer, parse_message(lync("invite-out-minimal")).body)
        self.assertEqual(parse_offer(offer), ImOffer("message", ("text/plain",)))

    def test_ipv6(self) -> None:
        """IPv6 addresses are written bare and named as such."""
        self.assertIn(b"c=IN IP6 2001:db8::1\r\n", im_offer("[2001:db8::1]"))

    def test_injection(self) -> None:
        """No line end gets in by an address."""
        for text in ("a\r\nb", "a\nb", "a b", ""):
            self.assertRaises(LocalError, im_offer, text)
            self.assertRaises(LocalError, im_answer, ImOffer("message"), "1.2.3.4", text)
