"""Forwarding from the original octets: only what a proxy has to change is cut out and put in.

Everything else passes byte for byte: unknown headers and parameters, their order, case and blanks.
A place is found by ``find()`` where a header is spelt as nearly everybody spells it; any other
spelling (compact forms, folds, several values in a line, blanks before the colon) takes the slow
path, which looks at every line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from impfed.core.errors import LocalError
from impfed.sip.grammar import LWS, QUOTED, canonical, split_values
from impfed.sip.message import SipMessage, SipRequest, SipResponse

#: Max-Forwards of a request that came without one (RFC 3261 section 16.6, step 3).
MAX_FORWARDS = 70

_BLANK = r"(?:[ \t]|\r\n[ \t])*"
# One value of a list in its raw form, folds and all, and the comma with the blanks around it.
_VALUE = re.compile(rf'(?:[^",<]++|{QUOTED}|<[^>]*+>)*+', re.DOTALL)
_COMMA = re.compile(rf"{_BLANK},{_BLANK}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a header line stands in a head.

    :ivar start: of its name.
    :ivar value: of its raw value, after the colon.
    :ivar end: of its last line, after the CRLF.
    """

    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class RequestChanges:
    """What a proxy changes in a request.

    :ivar via: the new topmost Via value.
    :ivar record_route: Record-Route values to put on top, in order; empty for none.
    :ivar uri: the new Request-URI, "" to leave it.
    :ivar routes: the Route values to send; None to leave them.
    :ivar popped: how many Route values go from the top; ignored when ``routes`` is given.
    :ivar received: value for a ``received`` parameter of the Via that was topmost; "" for none.
    :ivar max_breadth: value of Max-Breadth (RFC 5393 section 5); None to leave it.
    """

    via: str
    record_route: tuple[str, ...] = ()
    uri: str = ""
    routes: tuple[str, ...] | None = None
    popped: int = 0
    received: str = ""
    max_breadth: int | None = None


Edit = tuple[int, int, str]


def forwarded_request(request: SipRequest, changes: RequestChanges) -> bytes:
    """Return a request's octets with the changes made.

    Max-Forwards is counted down, or set to 70 where there is none; Content-Length is added to a
    request that came in a datagram without one.

    :raises LocalError: when one of our own values could break a line.
    """
    head = request.head
    begin = head.find("\r\n") + 2
    top = f"Via: {changes.via}\r\n"
    if changes.record_route:
        top += "".join(f"Record-Route: {value}\r\n" for value in changes.record_route)
    edits: list[Edit] = []
    if changes.uri and changes.uri != request.uri_text:
        at = len(request.method) + 1
        edits.append((at, at + len(request.uri_text), changes.uri))
    hops = request.get("max-forwards")
    if hops is None:
        top += f"Max-Forwards: {MAX_FORWARDS}\r\n"
    else:
        edits.append(_value_edit(request, "max-forwards", str(int(hops) - 1)))
    if changes.max_breadth is not None:
        if request.get("max-breadth") is None:
            top += f"Max-Breadth: {changes.max_breadth}\r\n"
        else:
            edits.append(_value_edit(request, "max-breadth", str(changes.max_breadth)))
    if request.get("content-length") is None:
        top += f"Content-Length: {len(request.body)}\r\n"
    if changes.received:
        edits.append(_received_edit(request, changes.received))
    if changes.routes is not None:
        top += "".join(f"Route: {value}\r\n" for value in changes.routes)
        edits += [(place.start, place.end, "") for place in places(head, "route")]
    elif changes.popped == 1:
        edits.append(_pop(request, "route"))
    elif changes.popped > 1:
        rest = request.values("route")[changes.popped :]
        top += "".join(f"Route: {value}\r\n" for value in rest)
        edits += [(place.start, place.end, "") for place in places(head, "route")]
    for own in (changes.via, changes.uri, changes.received, *changes.record_route):
        if "\r" in own or "\n" in own:
            raise LocalError("CR or LF in a value that a proxy puts in")
    edits.append((begin, begin, top))
    return _spliced(head, edits).encode("utf-8", "surrogateescape") + b"\r\n" + request.body


def forwarded_response(response: SipResponse, more: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return a response's octets without its topmost Via value.

    :param more: header lines to add, for example challenges of other branches (section 16.7, step 7).
    """
    head = response.head
    edits = [_pop(response, "via")]
    if more:
        edits.append(
            (len(head), len(head), "".join(f"{name}: {value}\r\n" for name, value in more))
        )
    return _spliced(head, edits).encode("utf-8", "surrogateescape") + b"\r\n" + response.body


def places(head: str, name: str) -> list[Place]:
    """Return where the lines of a header stand, by looking at every line.

    :param name: long form, lower case.
    """
    found: list[Place] = []
    position = head.find("\r\n") + 2
    end = len(head)
    while position < end:
        stop = head.find("\r\n", position)
        stop = end if stop < 0 else stop + 2
        while stop < end and head[stop] in LWS:  # a fold
            following = head.find("\r\n", stop)
            stop = end if following < 0 else following + 2
        colon = head.find(":", position, stop)
        if colon >= 0 and canonical(head[position:colon]) == name:
            found.append(Place(position, colon + 1, stop))
        position = stop
    return found


_USUAL = {
    "via": ("\r\nVia: ", "\r\nv"),
    "route": ("\r\nRoute: ", "\r\nroute"),
    "max-forwards": ("\r\nMax-Forwards: ", ""),
    "max-breadth": ("\r\nMax-Breadth: ", ""),
}


def first_place(message: SipMessage, name: str) -> Place:
    """Return where the first line of a header stands.

    :raises LocalError: when there is none.
    """
    spelling, other = _USUAL[name]
    head = message.head
    at = head.find(spelling)
    if at >= 0:
        value = at + len(spelling)
        stop = head.find("\r\n", value)
        # The usual spelling, not folded, and no line of another spelling before it.
        if (stop + 2 == len(head) or head[stop + 2] not in LWS) and (
            not other or other not in head[:at].lower()
        ):
            return Place(at + 2, value - 1, stop + 2)
    found = places(head, name)
    if not found:
        raise LocalError(f"the message has no {name}")
    return found[0]


def _value_edit(message: SipMessage, name: str, value: str) -> Edit:
    place = first_place(message, name)
    return (place.value, place.end - 2, f" {value}")


def _pop(message: SipMessage, name: str) -> Edit:
    """Return the edit that takes the first value of a list header away."""
    place = first_place(message, name)
    head = message.head
    if head.find(",", place.value, place.end) < 0:
        return (place.start, place.end, "")
    position = place.value
    while True:  # empty values may come first
        match = _VALUE.match(head, position, place.end - 2)
        stop = place.end - 2 if match is None else match.end()
        comma = _COMMA.match(head, stop, place.end - 2)
        if comma is None:
            return (place.start, place.end, "")
        if head[position:stop].strip(" \t\r\n"):
            rest = head[comma.end() : place.end - 2]
            if not split_values(rest.replace("\r\n", "")):
                return (place.start, place.end, "")
            return (place.value, comma.end(), " ")
        position = comma.end()


def _received_edit(request: SipRequest, received: str) -> Edit:
    """Return the edit that says where a request came from, at the end of its topmost Via value."""
    place = first_place(request, "via")
    head = request.head
    position = place.value
    while True:
        match = _VALUE.match(head, position, place.end - 2)
        stop = place.end - 2 if match is None else match.end()
        if head[position:stop].strip(" \t\r\n"):
            break
        position = stop + 1
    bare = position + len(head[position:stop].rstrip(" \t\r\n"))
    return (bare, bare, f";received={received}")


def _spliced(head: str, edits: list[Edit]) -> str:
    parts: list[str] = []
    position = 0
    for start, end, text in sorted(edits):
        parts.append(head[position:start])
        parts.append(text)
        position = end
    parts.append(head[position:])
    return "".join(parts)
