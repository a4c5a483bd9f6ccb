"""What header fields share: tokens, names, quoting, lists, parameters (RFC 3261 section 25.1)."""

from __future__ import annotations

import re

from impfed.sip.errors import SipParseError

Params = tuple[tuple[str, str | None], ...]
"""Header parameters in order: name as written, value without quotes; None where there is no "="."""

COMPACT: dict[str, str] = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
"""Compact header names of the IANA registry, with their long forms in lower case."""

LWS = " \t"
TOKEN_CHARS = r"A-Za-z0-9\-.!%*_+`'~"
TOKEN = re.compile(rf"[{TOKEN_CHARS}]+", re.ASCII)
"""``token`` of RFC 3261 section 25.1."""

# No possessive quantifier on a group: Python before 3.11.5 matches too much with them (gh-106052).
QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARAM = re.compile(
    rf"[ \t]*+;[ \t]*+([^\x00-\x20\x22(),;<=>]++)"
    rf"(?:[ \t]*+=[ \t]*+({QUOTED}|[^\x00-\x20\x22,;<>=]*+))?",
    re.DOTALL,
)
_UNQUOTE = re.compile(r"\\(.)", re.DOTALL)
_ONE_VALUE = re.compile(rf'(?:[^",<]++|{QUOTED}|<[^>]*+>)*', re.DOTALL)


MALFORMED = ""
"""The canonical name of a line that is no header line."""

_LEARN = 4096  # spellings of header names that are remembered

NAMES: dict[str, str] = {}
"""Canonical (long, lower-case) header names by the spelling met.  Learns, up to a bound."""


def canonical(spelling: str) -> str:
    """Return the long form in lower case of a header name; ``MALFORMED`` if it is no token."""
    name = spelling.rstrip(LWS)
    if not TOKEN.fullmatch(name):
        return MALFORMED
    name = name.lower()
    name = COMPACT.get(name, name)
    if len(NAMES) < _LEARN and len(spelling) <= 64:
        NAMES[spelling] = name
    return name


def split_values(text: str) -> list[str]:
    """Split a header value at its top-level commas; quoted strings and ``<...>`` are respected.

    Empty elements are dropped (RFC 3261 section 7.3.1 lists have none; peers send them).
    An open quote or bracket runs to the end of the text.
    """
    if "," not in text:
        text = text.strip(LWS)
        return [text] if text else []
    if '"' not in text and "<" not in text:
        parts = text.split(",")
    else:
        parts = _split_quoted(text)
    return [part for part in (part.strip(LWS) for part in parts) if part]


def _split_quoted(text: str) -> list[str]:
    parts: list[str] = []
    position, end = 0, len(text)
    while position <= end:
        match = _ONE_VALUE.match(text, position)
        stop = end if match is None else match.end()
        if stop < end and text[stop] != ",":  # an open quote or bracket
            stop = end
        parts.append(text[position:stop])
        position = stop + 1
    return parts


def first_value(text: str) -> str:
    """Return the first of the values that :func:`split_values` would give, "" if there is none."""
    comma = text.find(",")
    if comma < 0:
        return text.strip(LWS)
    if "<" in text or "\\" in text:
        values = split_values(text)
        return values[0] if values else ""
    position = 0
    while (quote_at := text.find('"', position, comma)) >= 0:
        position = text.find('"', quote_at + 1) + 1
        if position == 0:  # an open quote
            return text.strip(LWS)
        if comma < position:
            comma = text.find(",", position)
            if comma < 0:
                return text.strip(LWS)
    return text[:comma].strip(LWS) or first_value(text[comma + 1 :].lstrip(" \t,"))


def quote(display: str) -> str:
    """Write text as a quoted-string (RFC 3261 section 25.1), with its quotes.

    Line ends, NUL and other control characters, which would break a header, become blanks.
    """
    cleaned = "".join(" " if ch < " " or ch == "\x7f" else ch for ch in display)
    return '"' + cleaned.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    """Undo :func:`quote`; text that is not in quotes comes back as it is."""
    if len(text) >= 2 and text[0] == '"' and text[-1] == '"':
        inner = text[1:-1]
        return _UNQUOTE.sub(r"\1", inner) if "\\" in inner else inner
    return text


def readable(text: str) -> str:
    """Return text with octets that were not UTF-8 (surrogate escapes) replaced by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


PARAMS = re.compile(
    rf"(?:[ \t]*+;[ \t]*+[^\x00-\x20\x22(),;<=>]++"
    rf"(?:[ \t]*+=[ \t]*+(?:{QUOTED}|[^\x00-\x20\x22,;<>=]*+))?)*[ \t]*+;?+[ \t]*+",
    re.DOTALL,
)


def parse_params(text: str) -> Params:
    """Read header parameters ``;name=value;name="value";name`` (``generic-param``, section 25.1).

    :raises SipParseError: if the text holds anything else.
    """
    if not text:
        return ()
    params: list[tuple[str, str | None]] = []
    position, end = 0, len(text)
    while position < end:
        match = _PARAM.match(text, position)
        if match is None:
            if text[position:].strip(LWS) in ("", ";"):  # an empty last parameter is forgiven
                break
            raise SipParseError("Malformed header parameter")
        value = match.group(2)
        if value and value[0] == '"':
            value = unquote(value)
        params.append((match.group(1), value))
        position = match.end()
    return tuple(params)


def find_param(params: Params, name: str) -> str | None:
    """Return a parameter's value: None if absent, "" if it has no value. ``name`` in lower case."""
    for key, value in params:
        if key == name or key.lower() == name:
            return "" if value is None else value
    return None
