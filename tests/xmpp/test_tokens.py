"""Whole tokens: where a stream is cut, and what is never held back."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from impfed.xmpp.tokens import WholeTokens

PIECES = [
    b"<message to='a>b' from=\"it's\">",
    b"<body>",
    b'don\'t > "say" &lt;',
    b"</body>",
    b"</message>",
    b"<presence/>",
    b"<![CDATA[<a b='>]] ]]>",
    b"<!-- > ' -->",
    b"<?pi '>?>",
    b" \n",
    b"gr\xc3\xbc\xc3\x9fe",
]


class TokenTests(unittest.SynchronousTestCase):
    """Streams cut anywhere."""

    @given(st.lists(st.sampled_from(PIECES), max_size=12), st.lists(st.integers(1, 20)))
    def test_nothing_is_lost_or_held(self, pieces: list[bytes], cuts: list[int]) -> None:
        """After the last octet of whole tokens all have come out, in order."""
        data = b"".join(pieces)
        tokens, out, start = WholeTokens(), b"", 0
        for cut in [*cuts, len(data)]:
            out += tokens.feed(data[start : start + cut])
            start += cut
        self.assertEqual((out, len(tokens)), (data, 0))

    def test_tags_come_whole(self) -> None:
        """A tag comes out with its last octet, a ">" in quotes does not end it."""
        tokens = WholeTokens()
        data = b"<q a='1>2' b=\">\"/>"
        got = [tokens.feed(data[i : i + 1]) for i in range(len(data))]
        self.assertEqual(got, [b""] * (len(data) - 1) + [data])

    def test_text_passes(self) -> None:
        """Text is no token that has to be waited for; nor is the inside of CDATA."""
        tokens = WholeTokens()
        self.assertEqual(tokens.feed(b"<a>half a wo"), b"<a>half a wo")
        self.assertEqual(tokens.feed(b"rd<![CDATA[half"), b"rd<![CDATA[ha")

    def test_declarations_pass(self) -> None:
        """A document type is handed on as it comes, to be refused."""
        self.assertEqual(WholeTokens().feed(b"<!DOCTYPE a [ <!EN"), b"<!DOCTYPE a [ <!EN")

    def test_linear(self) -> None:
        """A token that comes octet by octet, full of what might end it, costs no square."""

        def cost(octets: int) -> float:
            tokens, data = WholeTokens(), b"<a b='" + b'>"' * (octets // 2)
            begin = time.process_time()
            for i in range(len(data)):
                tokens.feed(data[i : i + 1])
            return time.process_time() - begin

        cost(1000)
        self.assertLess(cost(80000), 12 * cost(20000) + 0.2)
