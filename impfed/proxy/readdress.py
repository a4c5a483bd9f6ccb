"""Addresses of machines inside, and what the world sees of them: the edge's port table on messages.

Machines that advertise private addresses write them into Via, Contact and Record-Route.  On the way out
each is replaced by its public address, on the way in it is put back.  Nothing but host and port
changes; every other octet stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from impfed.core.hosts import bracketed
from impfed.proxy.splice import places
from impfed.routing.neighbours import address_of
from impfed.sip.errors import SipParseError
from impfed.sip.message import SipMessage, SipRequest, parse_head
from impfed.sip.uri import SipUri, parse_uri

Address = tuple[str, int]
_Message = TypeVar("_Message", bound=SipMessage)

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
_PORT = r"((?:[ \t]|\r\n[ \t])*:(?:[ \t]|\r\n[ \t])*[0-9]+)?"
# A quoted text, which is passed over, or a URI at the beginning of a value.
_URI = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"'
    r"|(?P<before>(?:<|\A|,)(?:[ \t]|\r\n[ \t])*)(?P<uri>sips?:[^\s<>\",]+)",
    re.DOTALL | re.IGNORECASE,
)
_URI_HOST = re.compile(rf"\A(sips?:(?:[^@]*@)?){_HOST}(:[0-9]+)?", re.IGNORECASE)
_BLANK = r"(?:[ \t]|\r\n[ \t])"
_SENT_BY = re.compile(
    rf"(SIP{_BLANK}*/{_BLANK}*2\.0{_BLANK}*/{_BLANK}*)(TLS|TCP|UDP)({_BLANK}+){_HOST}{_PORT}",
    re.IGNORECASE,
)
_DEFAULT = {"TLS": 5061, "TCP": 5060, "UDP": 5060}


class PortTable:
    """Which inner address is which public one.

    :param pairs: (inner, public) addresses; pairs of equal addresses change nothing.
    """

    def __init__(self, pairs: Iterable[tuple[Address, Address]] = ()) -> None:
        different = [(inner, public) for inner, public in pairs if inner != public]
        self._public = dict(different)
        self._inner = {public: inner for inner, public in different}

    def __bool__(self) -> bool:
        return bool(self._public)

    def request_outward(self, request: SipRequest) -> SipRequest:
        """Return a request as the world may see it."""
        return _changed(request, self._public, ("via", "contact", "record-route"))

    def response_outward(self, response: _Message) -> _Message:
        """Return an answer to a request of the world as it may see it."""
        return _changed(response, self._public, ("contact", "record-route"))

    def request_inward(self, request: SipRequest) -> SipRequest:
        """Return a request with the inner addresses of those whom it is for."""
        return _changed(request, self._inner, ("route",), True)

    def response_inward(self, response: _Message) -> _Message:
        """Return an answer to a request from inside with what that request had said."""
        return _changed(response, self._inner, ("via", "record-route"))


def _changed(
    message: _Message, table: Mapping[Address, Address], names: Iterable[str], uri: bool = False
) -> _Message:
    head = message.head
    if not any(host in head for host, _ in table):
        lowered = head.lower()  # a name may be spelt in capitals
        if not any(host in lowered for host, _ in table):
            return message
    edits: list[tuple[int, int, str]] = []
    if uri and isinstance(message, SipRequest):
        at = len(message.method) + 1
        edits.append((at, at + len(message.uri_text), _uri(message.uri_text, table)))
    for name in names:
        change = _via if name == "via" else _addresses
        for place in places(head, name):
            edits.append((place.value, place.end, change(head[place.value : place.end], table)))
    parts, position = [], 0
    for start, end, text in sorted(edits):
        parts += [head[position:start], text]
        position = end
    spliced = "".join(parts) + head[position:]
    if spliced == head:
        return message
    changed = parse_head(spliced.encode("utf-8", "surrogateescape"))
    changed.body = message.body
    assert type(changed) is type(message)  # the start line is what it was but for a host
    return changed


def _addresses(text: str, table: Mapping[Address, Address]) -> str:
    def replaced(match: re.Match[str]) -> str:
        if match["uri"] is None:
            return match[0]
        return match["before"] + _uri(match["uri"], table)

    return _URI.sub(replaced, text)


def _uri(text: str, table: Mapping[Address, Address]) -> str:
    match = _URI_HOST.match(text)
    if match is None:
        return text
    try:
        uri = parse_uri(text)
    except SipParseError:
        return text  # whoever has to read it will refuse it
    if not isinstance(uri, SipUri) or uri.host.strip("[]") != match[2].strip("[]").lower():
        return text
    other = table.get(address_of(uri))
    if other is None:
        return text
    return f"{match[1]}{bracketed(other[0])}:{other[1]}{text[match.end() :]}"


def _via(text: str, table: Mapping[Address, Address]) -> str:
    def replaced(match: re.Match[str]) -> str:
        transport, host, port = match[2].upper(), match[4], match[5]
        number = int(port.strip(" \t\r\n").lstrip(":")) if port else _DEFAULT[transport]
        other = table.get((host.strip("[]").lower(), number))
        if other is None:
            return match[0]
        return f"{match[1]}{match[2]}{match[3]}{bracketed(other[0])}:{other[1]}"

    return _SENT_BY.sub(replaced, text)
