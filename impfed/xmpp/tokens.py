"""Hands XML to a parser in whole tokens, for parsers that put off reading a cut one.

Since the repair of CVE-2023-52425, expat reads a token again that was cut only when twice as much
of it is there, so that the end of a stanza may lie unread until the peer says something more.
Newer Pythons can tell it not to (``flush``); Debian 12's cannot, but has that expat.  There, the
reader holds back what is cut, and the parser never sees half a token.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import XMLPullParser

_CDATA, _CDATA_END = b"<![CDATA[", b"]]>"
#: (No possessive quantifier on a group: Python before 3.11.5 matches too much with them, gh-106052.)
#: As many whole tokens as there are: text, tags, CDATA, comments, processing instructions.
_WHOLE = re.compile(
    rb"(?:[^<]++|<(?![!?])(?:[^'\">]++|'[^']*+'|\"[^\"]*+\")*>"
    rb"|<!\[CDATA\[.*?\]\]>|<!--.*?-->|<\?.*?\?>)*",
    re.DOTALL,
)
_NEXT = re.compile(rb"[>'\"]")


def parser_defers() -> bool:
    """Say whether this Python's parser may leave a complete element unread, and cannot flush."""
    parser: Any = XMLPullParser(("start",))
    if hasattr(parser, "flush"):
        return False
    parser.feed(b"<a" + b" " * 64)
    parser.feed(b">")
    return not list(parser.read_events())


#: Whether the reader has to hold cut tokens back.
DEFERS = parser_defers()


class WholeTokens:
    """Octets in, cut anywhere; whole tokens out.

    Each octet is looked at a small number of times, however the stream is cut.  A declaration that
    is neither a comment nor CDATA passes as it comes: the parser refuses it.
    """

    __slots__ = ("_cdata", "_held", "_quote", "_seen")

    def __init__(self) -> None:
        self._held = bytearray()
        self._seen = 0  # octets of the cut token, first in _held, that were looked at
        self._quote = b""  # the quote that the cut tag is in
        self._cdata = False

    def __len__(self) -> int:
        """Return how many octets are held back."""
        return len(self._held)

    def feed(self, data: bytes) -> bytes:
        """Take octets; return what may be parsed now."""
        held = self._held
        held += data
        if self._seen and not self._completes():
            return b""
        self._seen = 0
        end = self._whole_end()
        whole = bytes(held[:end])
        del held[:end]
        if held and not self._cdata:
            self._seen, self._quote = 1, b""
            self._completes()
        return whole

    def _whole_end(self) -> int:
        held, end = self._held, 0
        while True:
            if self._cdata:
                found = held.find(_CDATA_END, end)
                if found < 0:
                    return max(end, len(held) - len(_CDATA_END) + 1)
                end, self._cdata = found + len(_CDATA_END), False
            match = _WHOLE.match(held, end)
            end = match.end() if match is not None else end
            start = bytes(held[end : end + len(_CDATA)])
            if start == _CDATA:
                end, self._cdata = end + len(_CDATA), True
            elif start.startswith(b"<!") and not any(
                mark.startswith(start) or start.startswith(mark) for mark in (_CDATA, b"<!--")
            ):
                return len(held)
            else:
                return end

    def _completes(self) -> bool:
        """Look at what has come of the cut token since; say whether its end has."""
        held, position = self._held, self._seen
        start = bytes(held[:4])
        self._seen = len(held)
        if start.startswith((b"<?", b"<!--")):
            mark = b"?>" if start.startswith(b"<?") else b"-->"
            return held.find(mark, max(2, position - 2)) >= 0
        if start.startswith(b"<!"):
            return True  # what it is may show now
        while True:
            if self._quote:
                position = held.find(self._quote, position) + 1
                if not position:
                    return False
                self._quote = b""
            match = _NEXT.search(held, position)
            if match is None:
                return False
            position = match.end()
            if match[0] == b">":
                return True
            self._quote = bytes(match[0])
