"""The port table on messages: private addresses out, public ones in, everything else byte for byte."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.proxy.readdress import PortTable
from impfed.sip.message import SipRequest, SipResponse, parse_message

TABLE = PortTable(
    [
        (("10.0.0.1", 5062), ("203.0.113.10", 5062)),
        (("10.0.0.2", 5062), ("203.0.113.10", 45062)),
        (("node3.inside.example", 5061), ("203.0.113.10", 55062)),
        (("2001:db8:a::2", 5062), ("2001:db8:f::10", 45062)),
        (("203.0.113.10", 55063), ("203.0.113.10", 55063)),
    ]
)

INVITE = """\
INVITE sip:bob@lync.example SIP/2.0
Via: SIP/2.0/TLS 10.0.0.1:5062;branch=z9hG4bKr;x="10.0.0.1:5062"
v: SIP / 2.0 / TLS 10.0.0.2 : 5062;branch=z9hG4bKn, SIP/2.0/TLS 192.0.2.1;branch=z9hG4bKq
Record-Route: <sip:10.0.0.1:5062;transport=tls;lr>
record-ROUTE : "sip:10.0.0.1:5062" <SIP:10.0.0.1:5062;lr;imp=10.0.0.1:5062> , <sip:10.0.0.1:15062;lr>
From: <sip:alice@10.0.0.2:5062>;tag=1
To: <sip:bob@lync.example>
Call-ID: c@10.0.0.2:5062
CSeq: 1 INVITE
Max-Forwards: 9
m: "A, <sip:10.0.0.2:5062>" <sip:alice@10.0.0.2:5062;transport=tls?x=10.0.0.2>;expires=9
X-Unknown:  10.0.0.2:5062\t
Content-Length: 18

c=IN IP4 10.0.0.2
"""

OUT = {
    "SIP/2.0/TLS 10.0.0.1:5062;branch": "SIP/2.0/TLS 203.0.113.10:5062;branch",
    "TLS 10.0.0.2 : 5062;": "TLS 203.0.113.10:45062;",
    "<sip:10.0.0.1:5062;transport=tls;lr>": "<sip:203.0.113.10:5062;transport=tls;lr>",
    "<SIP:10.0.0.1:5062;lr;imp": "<SIP:203.0.113.10:5062;lr;imp",
    "<sip:alice@10.0.0.2:5062;transport": "<sip:alice@203.0.113.10:45062;transport",
}


def parsed(text: str) -> SipRequest | SipResponse:
    """Return a message from lines that end as Python ends them."""
    return parse_message(text.replace("\n", "\r\n").encode("utf-8", "surrogateescape"))


def request(text: str) -> SipRequest:
    """Return a request."""
    found = parsed(text)
    assert isinstance(found, SipRequest)
    return found


class PortTableTests(SynchronousTestCase):
    """A routing node (10.0.0.1) and two others behind 203.0.113.10."""

    def test_request_outward(self) -> None:
        """Via, Contact and Record-Route change where they name a machine inside, nothing else does."""
        expected = INVITE
        for inner, public in OUT.items():
            self.assertEqual(expected.count(inner), 1, inner)
            expected = expected.replace(inner, public)
        changed = TABLE.request_outward(request(INVITE))
        self.assertEqual(changed.to_bytes(), request(expected).to_bytes())
        self.assertEqual(changed.via.host, "203.0.113.10")

    def test_answer_inward(self) -> None:
        """What comes back to the machine inside is what it had written, byte for byte."""
        text = INVITE.replace("INVITE sip:bob@lync.example SIP/2.0", "SIP/2.0 200 OK")
        there = text
        for inner, public in OUT.items():
            there = there.replace(inner, public)
        there = there.replace("\nm: ", "\nX-Contact: ")
        back = TABLE.response_inward(parsed(there))
        self.assertIn("\r\nVia: SIP/2.0/TLS 10.0.0.1:5062;branch=z9hG4bKr;", back.head)
        self.assertIn("TLS 10.0.0.2:5062;branch=z9hG4bKn, SIP/2.0/TLS 192.0.2.1;", back.head)
        self.assertIn(
            "<SIP:10.0.0.1:5062;lr;imp=10.0.0.1:5062> , <sip:10.0.0.1:15062;lr>", back.head
        )
        self.assertIn(
            'X-Contact: "A, <sip:10.0.0.2:5062>" <sip:alice@203.0.113.10:45062;', back.head
        )

    def test_request_inward(self) -> None:
        """A partner's request for a public Contact names the machine's own address, Route included."""
        text = (
            "BYE sip:alice@203.0.113.10:45062;transport=tls;x=1 SIP/2.0\n"
            "Via: SIP/2.0/TLS 203.0.113.10:45062;branch=z9hG4bKf\n"
            "Route: <sip:203.0.113.10:5061;lr>, <sip:203.0.113.10:5062;transport=tls;lr>\n"
            "From: <sip:bob@lync.example>;tag=2\nTo: <sip:alice@company.example>;tag=1\n"
            "Contact: <sip:203.0.113.10:45062>\n"
            "Call-ID: c\nCSeq: 2 BYE\nMax-Forwards: 9\nContent-Length: 0\n\n"
        )
        changed = TABLE.request_inward(request(text))
        self.assertEqual(changed.uri_text, "sip:alice@10.0.0.2:5062;transport=tls;x=1")
        self.assertEqual(
            changed.values("route"),
            ["<sip:203.0.113.10:5061;lr>", "<sip:10.0.0.1:5062;transport=tls;lr>"],
        )
        # What a stranger says of himself stays his word.
        self.assertEqual(changed.get("contact"), "<sip:203.0.113.10:45062>")
        self.assertEqual(changed.via.port, 45062)

    def test_answer_outward(self) -> None:
        """In an answer to a partner Contact and Record-Route are public, his Vias are left alone."""
        text = (
            "SIP/2.0 200 OK\nVia: SIP/2.0/TLS 10.0.0.2:5062;branch=z9hG4bKf\n"
            "Record-Route: <sip:10.0.0.1:5062;transport=tls;lr>, <sip:x.example;lr>\n"
            "From: <sip:bob@lync.example>;tag=2\nTo: <sip:alice@company.example>;tag=1\n"
            "Contact: sip:alice@10.0.0.2:5062;expires=60\n"
            "Call-ID: c\nCSeq: 2 INVITE\nContent-Length: 0\n\n"
        )
        changed = TABLE.response_outward(parsed(text))
        self.assertEqual(changed.get("contact"), "sip:alice@203.0.113.10:45062;expires=60")
        self.assertIn("<sip:203.0.113.10:5062;transport=tls;lr>, <sip:x", changed.head)
        self.assertEqual(changed.via.host, "10.0.0.2")

    def test_spellings(self) -> None:
        """Names in any case, ports left out, IPv6 and folded lines are found."""
        cases = {
            "<sip:a@Node3.INSIDE.example;transport=tls>": "<sip:a@203.0.113.10:55062;transport=tls>",
            "<sips:a@node3.inside.example>": "<sips:a@203.0.113.10:55062>",
            "<sip:a@node3.inside.example>": None,  # port 5060
            "<sip:a@[2001:db8:a::2]:5062;transport=tls>": "<sip:a@[2001:db8:f::10]:45062;transport=tls>",
            "\n <sip:a@10.0.0.2:5062>": "\n <sip:a@203.0.113.10:45062>",
            "<sip:10.0.0.2:5062@victim.example>": None,
            "<sip:a@10.0.0.2:50621>": None,
            "<sip:a@110.0.0.2:5062>": None,
            "<sip:a@10.0.0.2:5062x>": None,
            "<tel:10.0.0.2:5062>": None,
            "*": None,
        }
        for contact, wanted in cases.items():
            one = request(INVITE.replace("X-Unknown:  10.0.0.2:5062\t", f"Contact: {contact}"))
            head = TABLE.request_outward(one).head
            line = f"\r\nContact: {contact if wanted is None else wanted}\r\n".replace("\n", "\r\n")
            self.assertIn(line.replace("\r\r", "\r"), head, contact)

    def test_public_already(self) -> None:
        """A machine that advertises its public address is left alone, and so is the message object."""
        text = INVITE.replace("10.0.0.1:5062", "203.0.113.10:55063")
        text = text.replace("10.0.0.2:5062", "203.0.113.10:55063").replace(
            "10.0.0.2 : 5062", "a.example"
        )
        text = text.replace("10.0.0.1:15062", "b.example").replace("10.0.0.2", "c.example")
        one = request(text)
        self.assertIs(TABLE.request_outward(one), one)
        self.assertFalse(PortTable([(("203.0.113.10", 5062), ("203.0.113.10", 5062))]))

    def test_odd_octets(self) -> None:
        """Octets that are no UTF-8 survive."""
        one = request(INVITE.replace("X-Unknown:", "Subject: \udcff\udcfe\nX-Unknown:"))
        self.assertIn(b"Subject: \xff\xfe\r\n", TABLE.request_outward(one).to_bytes())
