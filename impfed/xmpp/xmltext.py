"""Text into XML, safely: what a user wrote can neither open a tag nor end an attribute.

Characters that XML 1.0 forbids (section 2.2: most controls, lone surrogates, U+FFFE, U+FFFF) become
U+FFFD, so that no text, however it came about, makes a home server close the stream.
"""

from __future__ import annotations

import re

_FORBIDDEN = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
_in_text = re.compile(f"[&<>\r{_FORBIDDEN}]")
_in_attribute = re.compile(f"[&<>\"'\t\n\r{_FORBIDDEN}]")
_ESCAPES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&apos;",
    "\t": "&#9;",
    "\n": "&#10;",
    "\r": "&#13;",
}


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0], "\ufffd")


def xml_text(text: str) -> str:
    """Return text fit for element content; forbidden characters become U+FFFD."""
    return _in_text.sub(_escape, text) if _in_text.search(text) else text


def xml_attr(text: str) -> str:
    """Return text fit to stand between single or double quotes as an attribute value."""
    return _in_attribute.sub(_escape, text) if _in_attribute.search(text) else text
