"""Dialback keys against the printed examples of XEP-0185 and XEP-0220, and their elements."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from impfed.xmpp import dialback
from impfed.xmpp.dialback import DialbackElement, DialbackKeys

DATA = Path(__file__).parents[1] / "data" / "vectors" / "dialback-xep0185.json"
VECTORS = json.loads(DATA.read_text())
ANY = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30)


def read(xml: str) -> DialbackElement:
    head = "<s xmlns='jabber:server' xmlns:db='jabber:server:dialback'>"
    return DialbackElement.of(ET.fromstring(f"{head}{xml}</s>")[0])


class KeyTests(unittest.SynchronousTestCase):
    """Known answers."""

    def test_printed_keys(self) -> None:
        """The keys of the specifications come out, and are recognised with white space around."""
        self.assertEqual(len(VECTORS["vectors"]), 3)
        for case in VECTORS["vectors"]:
            keys = DialbackKeys(case["secret"])
            parts = (case["receiving"], case["originating"], case["stream_id"])
            self.assertEqual(keys.key(*parts), case["key"], case["src"])
            self.assertTrue(keys.right(*parts, f"\n  {case['key']}\n"))

    def test_other_keys(self) -> None:
        """Another stream, another order, another secret: another key."""
        self.assertEqual(len(VECTORS["negative"]), 3)
        for case in VECTORS["negative"]:
            keys = DialbackKeys(case["secret"])
            parts = (case["receiving"], case["originating"], case["stream_id"])
            self.assertEqual(keys.key(*parts), case["key"], case["what"])
            self.assertFalse(keys.right(*parts, case["must_differ_from"]))

    def test_secret_is_not_shown(self) -> None:
        """Neither the secret nor its hash is in what Python shows of the object."""
        keys = DialbackKeys("s3cr3tf0rd14lb4ck")
        self.assertNotIn("s3cr", repr(keys))
        self.assertFalse(hasattr(keys, "__dict__"))


class ElementTests(unittest.SynchronousTestCase):
    """Elements written are elements read."""

    @given(ANY, ANY, ANY, ANY)
    def test_round_trip(self, from_: str, to: str, id: str, key: str) -> None:
        """Whatever stands in them, no element grows out of it."""
        asked = read(dialback.verify(from_, to, id, key))
        self.assertEqual((asked.from_, asked.to, asked.id, asked.type), (from_, to, id, ""))
        self.assertEqual(asked.key, key.strip())
        self.assertEqual(read(dialback.result(from_, to, key)).from_, from_)

    def test_answers(self) -> None:
        """Valid, invalid and errors with their conditions."""
        for valid, word in ((True, "valid"), (False, "invalid")):
            self.assertEqual(read(dialback.result_answer("a", "b", valid)).type, word)
            self.assertEqual(read(dialback.verify_answer("a", "b", "1", valid)).type, word)
        for condition in dialback.CONDITIONS:
            error = read(dialback.result_error("a", "b", condition, "words <&>"))
            self.assertEqual((error.type, error.condition), ("error", condition))
            error = read(dialback.verify_error("a", "b", "1", condition))
            self.assertEqual((error.type, error.condition, error.id), ("error", condition, "1"))
