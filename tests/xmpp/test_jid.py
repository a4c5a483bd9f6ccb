"""JIDs against RFC 7622 and XEP-0106."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial import unittest

from impfed.xmpp.jid import JID, JidError, escape_local, unescape_local
from impfed.xmpp.xmltext import xml_attr

VECTORS = Path(__file__).parents[1] / "data" / "vectors"
JIDS = json.loads((VECTORS / "jid-rfc7622.json").read_text())
ESCAPES = json.loads((VECTORS / "jid-escape-xep0106.json").read_text())


class Rfc7622Tests(unittest.SynchronousTestCase):
    """The tables of RFC 7622 and what its prose says."""

    def test_valid(self) -> None:
        """Each valid address of table 1, and each derived one, is split and prepared as printed."""
        for case in JIDS["valid"] + JIDS["derived"]:
            jid = JID.parse(case["jid"])
            parts = (jid.local or None, jid.domain, jid.resource or None)
            self.assertEqual(parts, (case["local"], case["domain"], case["resource"]), case)

    def test_invalid(self) -> None:
        """Each invalid address of table 2 is refused, and the refusal is answerable."""
        for case in JIDS["invalid"]:
            error = self.assertRaises(JidError, JID.parse, case["jid"])
            self.assertEqual(error.status, 400)

    def test_equality(self) -> None:
        """Addresses are equal exactly where the RFC says so."""
        numbered = {case["n"]: JID.parse(case["jid"]) for case in JIDS["valid"]}
        for one, other in JIDS["equal_pairs"]:
            self.assertEqual(numbered[one].local, numbered[other].local)
        for one, other in JIDS["not_equal_pairs"]:
            self.assertNotEqual(numbered[one].local, numbered[other].local)

    def test_limits(self) -> None:
        """A part may have 1 to 1,023 octets after preparation."""
        for case in JIDS["limits"]:
            octets = case["octets"]
            if case["part"] == "local":
                text = "x" * octets + "@example.com"
            elif case["part"] == "resource":
                text = "example.com/" + "x" * octets
            else:
                labels = ".".join(["x" * 63] * 16)  # 16 * 64 - 1 = 1023
                text = labels if octets >= 1023 else "x" * octets
                text += "y" if octets > 1023 else ""
            if case["valid"]:
                JID.parse(text)
            else:
                self.assertRaises(JidError, JID.parse, text)

    def test_new_emoji_in_a_resource(self) -> None:
        """A resource with a character newer than our Unicode tables does not cost the message."""
        self.assertEqual(JID.parse("a@b.example/\U000e0fff").resource, "\U000e0fff")

    def test_control_characters(self) -> None:
        """No part can hold a control character or a lone surrogate."""
        for text in ("a\x00b@c", "a@b\x00c", "a@b/c\x00", "a@b/\n", "a\ud800@b", "a@b/\ud800"):
            self.assertRaises(JidError, JID.parse, text)

    def test_a_labels(self) -> None:
        """A-labels become U-labels, so both spellings of a domain are one."""
        self.assertEqual(JID.parse("xn--mnchen-3ya.example"), JID.parse("MÜNCHEN.example"))


class ValueTests(unittest.SynchronousTestCase):
    """JIDs as values."""

    def test_interned(self) -> None:
        """The same spelling gives the same object; another spelling an equal one."""
        self.assertIs(JID.parse("a@b.example/c"), JID.parse("a@b.example/c"))
        self.assertEqual(JID.parse("A@B.example"), JID.parse("a@b.example"))
        self.assertEqual(len({JID.parse("A@B.example"), JID.parse("a@b.example")}), 1)
        self.assertNotEqual(JID.parse("a@b.example"), "a@b.example")

    def test_bare(self) -> None:
        """The bare address loses only the resource."""
        full = JID.parse("a@b.example/c")
        self.assertEqual(full.bare, JID.parse("a@b.example"))
        self.assertTrue(full.bare.is_bare)
        self.assertFalse(full.is_bare)
        self.assertEqual(full.bare.with_resource("d").text, "a@b.example/d")

    def test_of(self) -> None:
        """Parts are prepared like whole addresses, and a part cannot smuggle in another."""
        self.assertEqual(JID.of("Alice", "B.example").text, "alice@b.example")
        self.assertRaises(JidError, JID.of, "a@evil.example/", "b.example")
        self.assertRaises(JidError, JID.of, "a", "b.example/c")

    @given(st.from_regex(r"[A-Za-z0-9.'<;~\\-]{1,6}@[a-z0-9.-]{1,9}", fullmatch=True))
    @example("juliet@xn--bcher-kva.example")
    @example(f"juliet@{'a' * 64}.example")
    def test_as_it_stands(self, text: str) -> None:
        """A text is the same address, or none, as its parts put together."""
        try:
            made = JID.of(*text.split("@"))
        except JidError:
            self.assertRaises(JidError, JID.parse, text)
        else:
            parsed = JID.parse(text)
            parts = [(jid.local, jid.domain, jid.text, jid.attribute) for jid in (made, parsed)]
            self.assertEqual(*parts)
            self.assertTrue(parsed.is_bare)

    @given(st.text(max_size=30))
    def test_attribute_is_escaped(self, text: str) -> None:
        """Whatever a text is, it is refused or its JID is safe between quotes."""
        try:
            jid = JID.parse(text)
        except JidError:
            return
        self.assertEqual(jid.attribute, xml_attr(str(jid)))
        self.assertFalse(set(jid.attribute) & set("<>'\""))
        self.assertEqual(JID.parse(str(jid)), jid)


class Xep0106Tests(unittest.SynchronousTestCase):
    """Escaping of user names."""

    def test_escape(self) -> None:
        """Each printed user name has the printed local part, and the way back leads back."""
        for case in ESCAPES["escape"]:
            self.assertEqual(escape_local(case["user"]), case["jid"])
            self.assertEqual(unescape_local(case["jid"]), case["user"])

    def test_unchanged(self) -> None:
        """What is no escape sequence is left alone."""
        for text in ESCAPES["unchanged"]:
            self.assertEqual(escape_local(text), text)
            self.assertEqual(unescape_local(text), text)

    def test_spaces_at_the_ends(self) -> None:
        """A space at either end can be neither written nor read."""
        for case in ESCAPES["invalid_escaped"]:
            self.assertRaises(JidError, unescape_local, case["jid"])
        for text in (" foo", "foo ", " "):
            self.assertRaises(JidError, escape_local, text)

    @given(st.text(min_size=1).filter(lambda text: text == text.strip(" ")))
    def test_round_trip(self, text: str) -> None:
        """Every user name survives, and its escaped form has none of the forbidden characters."""
        escaped = escape_local(text)
        self.assertEqual(unescape_local(escaped), text)
        self.assertFalse(set(escaped) & set(" \"&'/:<>@"))
