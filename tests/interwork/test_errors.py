"""Errors both ways: the RFC's table in one direction, our own in the other, and the words."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from impfed.interwork.errors import diagnostics, explain, sip_to_xmpp, xmpp_to_sip
from impfed.sip.message import SipResponse, parse_message
from impfed.xmpp.stanza import CONDITIONS, ERROR_TYPES

DATA = Path(__file__).parent.parent / "data"
VECTORS = json.loads((DATA / "vectors/stox-errors-rfc7247.json").read_text())

# Our table, written down a second time from its description.
OURS = {
    "bad-request": 400,
    "conflict": 400,
    "feature-not-implemented": 501,
    "forbidden": 403,
    "gone": 410,
    "internal-server-error": 500,
    "item-not-found": 404,
    "jid-malformed": 400,
    "not-acceptable": 406,
    "not-allowed": 403,
    "not-authorized": 403,
    "policy-violation": 403,
    "recipient-unavailable": 480,
    "redirect": 480,
    "registration-required": 403,
    "remote-server-not-found": 404,
    "remote-server-timeout": 408,
    "resource-constraint": 480,
    "service-unavailable": 480,
    "subscription-required": 400,
    "undefined-condition": 400,
    "unexpected-request": 400,
}


def response(name: str) -> SipResponse:
    """A response of the Microsoft dialect."""
    message = parse_message((DATA / f"wire/lync/{name}.sip").read_bytes())
    assert isinstance(message, SipResponse)
    return message


class SipToXmppTests(SynchronousTestCase):
    """RFC 7247 table 3."""

    def test_every_row(self) -> None:
        """Every code of the table, and every class for what is not in it."""
        for row in VECTORS["sip_to_xmpp"]:
            code = row["sip"]
            status = int(code[0]) * 100 + 99 if code.endswith("xx") else int(code)
            found = sip_to_xmpp(status)
            self.assertEqual(found.condition, row["xmpp"], code)

    def test_every_status(self) -> None:
        """Whatever a peer answers is a condition and a type of RFC 6120."""
        for status in range(300, 700):
            found = sip_to_xmpp(status)
            self.assertIn(found.condition, CONDITIONS)
            self.assertIn(found.type, ERROR_TYPES)


class XmppToSipTests(SynchronousTestCase):
    """Our own table."""

    def test_every_row(self) -> None:
        """Every condition of RFC 7247 has a row, and its code is ours."""
        self.assertEqual({row["xmpp"] for row in VECTORS["xmpp_to_sip"]}, set(OURS))
        for condition, status in OURS.items():
            self.assertEqual(xmpp_to_sip(condition).status, status, condition)

    def test_never(self) -> None:
        """No condition of a user becomes 6xx, 401, 407 or 503."""
        for condition in (*CONDITIONS, "no-such-condition"):
            status = xmpp_to_sip(condition).status
            self.assertLess(status, 600)
            self.assertNotIn(status, (401, 407, 503))

    def test_headers(self) -> None:
        """Codes that need a header have it."""
        self.assertEqual(xmpp_to_sip("resource-constraint").headers[0][0], "Retry-After")
        moved = xmpp_to_sip("gone", "sip:new@b.example")
        self.assertEqual(
            (moved.status, moved.headers), (301, (("Contact", "<sip:new@b.example>"),))
        )
        self.assertEqual(xmpp_to_sip("redirect", "sip:new@b.example").status, 302)


class WordTests(SynchronousTestCase):
    """What people are told."""

    def test_samples(self) -> None:
        """Every refusal of the Microsoft dialect has words, with its diagnostics in words too."""
        for name, words in (
            ("err-403-bare-in", "does not allow"),
            ("err-403-1017-in", "hybrid"),
            ("err-403-1027-in", "policy"),
            ("err-404-1034-in", "no such user"),
            ("err-480-in", "not signed in"),
            ("err-486-in", "disturbed"),
            ("err-504-1008-in", "_sipfederationtls._tcp"),
            ("err-504-1009-in", "outside our SIP domain"),
            ("err-504-1010-in", "certificate"),
            ("err-504-1047-in", "TLS handshake"),
            ("err-504-public-10003-in", "10003"),
            ("err-606-309-in", "Message contents not allowed by policy"),
        ):
            text = explain(response(name))
            self.assertIn(words, text)
            self.assertIn(f"SIP {response(name).status}", text)

    def test_lenient(self) -> None:
        """Order, blanks and repetition do not matter; nonsense is left out."""
        raw = (DATA / "wire/lync/err-504-1008-in.sip").read_bytes()
        start = raw.index(b"ms-diagnostics")
        end = raw.index(b"Content-Length")
        for value, expected in (
            (b' 1047 ; source="x" ; Reason = "no TLS"', [(1047, "no TLS")]),
            (b"1047", [(1047, "")]),
            (b"nonsense", []),
            (b'99999;reason="odd <b>"\r\nms-diagnostics: 1008', [(99999, "odd <b>"), (1008, "")]),
        ):
            message = parse_message(raw[:start] + b"ms-diagnostics: " + value + b"\r\n" + raw[end:])
            assert isinstance(message, SipResponse)
            self.assertEqual([(one.code, one.reason) for one in diagnostics(message)], expected)
            self.assertIn("SIP 504", explain(message))
