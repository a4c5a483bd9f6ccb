"""Addresses: the tables of RFC 7247 section 6, our decisions, and the way there and back."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.interwork.address import AddressError, Aliases, jid_of, jid_of_text, uri_of
from impfed.sip.uri import SipUri, parse_uri
from impfed.xmpp.jid import JID, JidError, escape_local

VECTORS = json.loads(
    (Path(__file__).parent.parent / "data/vectors/stox-address-rfc7247.json").read_text()
)

#: Vectors that our decisions change: RFC 7247 section 8 forbids to translate sips: at all.
REFUSED = {"sips:foo@sip.example": 416}


class VectorTests(SynchronousTestCase):
    """RFC 7247 sections 6.4 and 6.5."""

    def test_sip_to_xmpp(self) -> None:
        """Every SIP address gives the JID of the table."""
        for row in VECTORS["sip_to_xmpp"]:
            if row["sip"] in REFUSED:
                error = self.assertRaises(AddressError, jid_of, parse_uri(row["sip"]))
                self.assertEqual(error.status, REFUSED[row["sip"]])
            else:
                self.assertEqual(str(jid_of(parse_uri(row["sip"]))), row["jid"], row["src"])

    def test_xmpp_to_sip(self) -> None:
        """Every JID gives the SIP address of the table."""
        for row in VECTORS["xmpp_to_sip"]:
            self.assertEqual(uri_of(JID.parse(row["jid"])), row["sip"], row["src"])

    def test_round_trip(self) -> None:
        """Every JID of the table comes back from its SIP address."""
        for text in VECTORS["round_trip"]:
            jid = JID.parse(text)
            if jid.local:
                self.assertEqual(jid_of(SipUri.parse(uri_of(jid))), jid)

    def test_characters(self) -> None:
        """Allowed characters stand for themselves, the others are escaped (table 1)."""
        for character in VECTORS["sip_allowed"]:
            local = escape_local(f"a{character}b")
            self.assertEqual(
                uri_of(JID.parse(f"{local}@d.example")), f"sip:a{character}b@d.example"
            )
        for character in VECTORS["sip_disallowed"]:
            local = escape_local(f"a{character}b")
            expected = f"sip:a%{ord(character):02X}b@d.example"
            self.assertEqual(uri_of(JID.parse(f"{local}@d.example")), expected)


class DecisionTests(SynchronousTestCase):
    """What the tables leave open."""

    def test_no_user(self) -> None:
        """An address without a user is nobody's."""
        for text in ("sip:example.org", "im:example.org", "pres:@example.org"):
            error = self.assertRaises(AddressError, jid_of, parse_uri(text))
            self.assertEqual(error.status, 404)

    def test_other_schemes(self) -> None:
        """tel: and unknown schemes are not served."""
        for text in ("tel:+15551234", "mailto:a@b.example"):
            self.assertEqual(self.assertRaises(AddressError, jid_of, parse_uri(text)).status, 416)

    def test_hidden_octets(self) -> None:
        """Escapes that are no UTF-8, or stand for what no JID may hold, are refused."""
        for user in ("%FF", "%00", "a%0D%0Ab", "%20a", "a%20", "%C0%80"):
            error = self.assertRaises(AddressError, jid_of, parse_uri(f"sip:{user}@d.example"))
            self.assertEqual(error.status, 400)

    def test_what_is_left_out(self) -> None:
        """Password, port, headers and other parameters are no part of the address."""
        uri = parse_uri("sip:Alice:secret@Sip.Example:5061;transport=tls;gr=x%20y?subject=a")
        self.assertEqual(str(jid_of(uri)), "alice@sip.example/x y")

    def test_ambiguous_local_part(self) -> None:
        """A local part that is no escaped form would share its SIP address with another."""
        self.assertEqual(uri_of(JID.parse("foo\\bar@d.example")), "sip:foo%5Cbar@d.example")
        self.assertRaises(AddressError, uri_of, JID.parse("foo\\5cbar@d.example"))
        self.assertRaises(AddressError, uri_of, JID.parse("\\20foo@d.example"))

    def test_international_domain(self) -> None:
        """The SIP side has A-labels."""
        self.assertEqual(uri_of(JID.parse("a@bücher.example")), "sip:a@xn--bcher-kva.example")
        self.assertEqual(jid_of_text("sip:a@xn--bcher-kva.example"), JID.parse("a@bücher.example"))

    def test_text(self) -> None:
        """Text that is no URI is an address error too."""
        self.assertRaises(AddressError, jid_of_text, "no uri")
        self.assertEqual(jid_of_text("sip:a@b.example;gr=c"), JID.parse("a@b.example"))

    def test_aliases(self) -> None:
        """The alias layer is the identity."""
        jid = JID.parse("a@b.example")
        self.assertIs(Aliases().to_outside(jid), jid)
        self.assertIs(Aliases().to_inside(jid), jid)


users = st.text(
    st.one_of(
        st.characters(min_codepoint=0x20, max_codepoint=0x7E),
        st.sampled_from("äßøłπжあ漢"),
        st.sampled_from("\\2f5cgr;="),
    ),
    min_size=1,
    max_size=20,
)


class PropertyTests(SynchronousTestCase):
    """There and back again."""

    @given(users)
    def test_jid_survives(self, user: str) -> None:
        """f(g(x)) == x for the JID of every user name that has one."""
        try:
            jid = JID.of(escape_local(user), "d.example")
        except JidError:
            return
        try:
            uri = uri_of(jid)
        except AddressError:
            return
        self.assertTrue(uri.isascii())
        self.assertEqual(jid_of(parse_uri(uri)), jid)

    @given(users)
    def test_every_local_part_or_refused(self, local: str) -> None:
        """A local part as it stands either comes back or is refused; never another one's."""
        try:
            jid = JID.of(local, "d.example")
            uri = uri_of(jid)
        except (JidError, AddressError):
            return
        self.assertEqual(jid_of(parse_uri(uri)), jid)
