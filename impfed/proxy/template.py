"""What the requests of one dialog, and the answers to them, have in common, as octets.

From one request of a dialog to the next only the branch, the Vias below, the number in CSeq and that
in Content-Length change (and the body).  A template keeps the octets between these places as they
came and as they went on.  Who finds a later message equal to it knows without reading on that it is
well-formed, that it may pass as the first one might, and what is sent for it.  Whatever differs in
anything else, however little, does not match and goes the long way.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from impfed.core.errors import RemoteError
from impfed.proxy.splice import forwarded_response
from impfed.sip.message import SipRequest, SipResponse, check_response, content_length, parse_head

_BRANCH = re.compile(rb"[A-Za-z0-9\-.!%*_+`'~]{1,128}")
_NOT_BRANCH = re.compile(rb"[^A-Za-z0-9\-.!%*_+`'~]")
# Vias below the topmost: whole lines in the usual spelling, into which nobody looks.
_LOWER = re.compile(rb"(?:Via: [!-~][^\r\n]*\r\n){1,30}")
_VIA = b"Via: "
_COOKIE = b";branch=z9hG4bK"
_CSEQ = b"CSeq: "
_LENGTH = b"\r\nContent-Length: "
_ZERO = ord("0")
_MASK = 2**64 - 1


class Found(NamedTuple):
    """What changes in a request that matches.

    :ivar branch: its topmost Via's, with the cookie.
    :ivar lower: begin of the line after that Via.
    :ivar vias: end of the last Via line.
    :ivar number: the number in CSeq.
    :ivar digits: the number in Content-Length as written.
    :ivar length: octets of its body.
    :ivar print: its fingerprint, with the dot before it.
    """

    branch: bytes
    lower: int
    vias: int
    number: bytes
    digits: bytes
    length: int
    print: bytes


class RequestTemplate:
    """The requests of one method in one dialog, over one connection, to one next hop.

    :ivar method: their method.
    """

    __slots__ = (
        "_after",
        "_before",
        "_between",
        "_end",
        "_out_after",
        "_out_before",
        "_out_between",
        "_out_end",
        "_out_top",
        "_print",
        "_received",
        "_top",
        "_via",
        "method",
    )

    def __init__(
        self, method: str, print_: int, via: int, came: tuple[bytes, ...], went: tuple[bytes, ...]
    ) -> None:
        self.method = method
        self._print = print_  # less the number in CSeq
        self._via = via  # offset of the first Via line
        self._before, self._top, self._between, self._after, self._end = came
        self._out_before, self._out_top, self._received = went[:3]
        self._out_between, self._out_after, self._out_end = went[3:]

    def match(self, data: bytes, start: int, end: int) -> Found | None:
        """Return what is new in a request; None if it differs in anything that must not change.

        :param start: where it begins.
        :param end: after the empty line that ends its head.
        """
        before, top, between = self._before, self._top, self._between
        if not data.startswith(before, start):
            return None
        at = start + len(before)
        stop = data.find(top, at, at + 128 + len(top))
        if stop <= at or _NOT_BRANCH.search(data, at, stop) is not None:
            return None
        vias = lower = stop + len(top)
        while not data.startswith(between, vias):
            if not data.startswith(_VIA, vias):
                return None
            vias = data.find(b"\r\n", vias, end) + 2
        number_at = vias + len(between)
        number_end = data.find(b" ", number_at, number_at + 10)
        number = data[number_at:number_end]
        # The number is part of the fingerprint: what is written in two ways is not for here.
        if not number.isdigit() or number[0] == _ZERO:
            return None
        if not data.startswith(self._after, number_end):
            return None
        length_at = number_end + len(self._after)
        length_end = data.find(b"\r", length_at, length_at + 8)
        digits = data[length_at:length_end]
        if (
            not digits.isdigit()
            or length_end + len(self._end) != end
            or not data.startswith(self._end, length_end)
        ):
            return None
        print_ = b".%016x" % (self._print + int(number) & _MASK)
        if lower != vias and (
            _LOWER.fullmatch(data, lower, vias) is None or data.find(print_, lower, vias) >= 0
        ):
            return None  # lines that are none, or a request that may be in a loop
        return Found(data[at - 7 : stop], lower, vias, number, digits, int(digits), print_)

    def vias(self, data: bytes, start: int, found: Found) -> bytes:
        """Return the Via lines of a matching request as they are sent on, below ours."""
        if not self._received:
            return data[start + self._via : found.vias]
        end = found.lower - 2
        return data[start + self._via : end] + self._received + data[end : found.vias]

    def forwarded(self, found: Found, branch: bytes, vias: bytes, body: bytes) -> bytes:
        """Return what is sent for a matching request.

        :param branch: of our Via.
        :param vias: see :meth:`vias`.
        """
        return b"".join(
            (
                self._out_before,
                branch,
                self._out_top,
                vias,
                self._out_between,
                found.number,
                self._out_after,
                found.digits,
                self._out_end,
                body,
            )
        )


class AnswerTemplate:
    """The answers with one status to the requests of a :class:`RequestTemplate`.

    :ivar length: octets of their body.
    """

    __slots__ = ("_after", "_before", "_between", "_line", "_rest", "length")

    def __init__(self, line: int, before: bytes, rest: bytes, between: bytes, after: bytes) -> None:
        self._line = line  # length of the status line
        self._before = before
        self._rest = rest
        self._between = between
        self._after = after
        self.length = 0

    def match(
        self, data: bytes, start: int, end: int, branch: bytes, vias: bytes, number: bytes
    ) -> int:
        """Return where the Vias below ours begin in an answer; 0 if it differs in anything.

        :param branch: of our Via, as we have sent it.
        :param vias: the Via lines below it, as we have sent them.
        :param number: the number in CSeq.
        """
        if not data.startswith(self._before, start):
            return 0
        at = start + len(self._before)
        if not data.startswith(branch, at):
            return 0
        at += len(branch)
        if not data.startswith(self._rest, at):
            return 0
        below = at = at + len(self._rest)
        if not data.startswith(vias, at):
            return 0
        at += len(vias)
        if not data.startswith(self._between, at):
            return 0
        at += len(self._between)
        if not data.startswith(number, at):
            return 0
        at += len(number)
        if at + len(self._after) != end or not data.startswith(self._after, at):
            return 0
        return below

    def forwarded(self, data: bytes, start: int, below: int, stop: int) -> bytes:
        """Return what is sent for a matching answer.

        :param below: see :meth:`match`.
        :param stop: end of its body.
        """
        return data[start : start + self._line] + data[below:stop]


def learn_request(
    request: SipRequest, sent: bytes, branch: str, received: str, print_: int
) -> RequestTemplate | None:
    """Return the template of a request that has been forwarded the long way; None if it fits none.

    :param sent: the octets that were sent.
    :param branch: of our Via in them.
    :param received: what the topmost Via of the request got as ``received``; "" for nothing.
    :param print_: the request's fingerprint as a number, less the number in its CSeq.
    """
    head = request.head.encode("utf-8", "surrogateescape") + b"\r\n"
    via = head.find(b"\r\n" + _VIA) + 2
    line_end = head.find(b"\r\n", via) + 2
    at = head.find(_COOKIE, via, line_end) + len(_COOKIE)
    value = _BRANCH.match(head, at, line_end)
    if via < 2 or at < len(_COOKIE) or value is None:
        return None
    top = head[value.end() : line_end]
    if top[:1] not in b";\r" or b"," in top or b";branch" in top:
        return None
    vias, lines = line_end, 1
    while head.startswith(_VIA, vias):
        vias, lines = head.find(b"\r\n", vias) + 2, lines + 1
    number = head.find(b"\r\n" + _CSEQ, vias - 2) + 2 + len(_CSEQ)
    number_end = head.find(b" ", number)
    length = head.find(_LENGTH, number_end) + len(_LENGTH)
    length_end = head.find(b"\r\n", length)
    if number < vias or length < number_end or lines != len(request.get_all("via")):
        return None
    came = (head[:at], top, head[vias:number], head[number_end:length], head[length_end:])
    below = head[via : line_end - 2] + (f";received={received}".encode() if received else b"")
    below += head[line_end - 2 : vias]
    went = _went(sent, request, branch.encode(), below, came)
    if went is None:
        return None
    if received:
        went = (*went[:2], f";received={received}".encode(), *went[3:])
    template = RequestTemplate(request.method, print_, via, came, went)
    found = template.match(head, 0, len(head))
    if found is None or found.length != len(request.body):
        return None
    again = template.forwarded(
        found, branch.encode(), template.vias(head, 0, found), bytes(request.body)
    )
    return template if again == sent else None


def _went(
    sent: bytes, request: SipRequest, branch: bytes, below: bytes, came: tuple[bytes, ...]
) -> tuple[bytes, ...] | None:
    """Cut what was sent at the places that change."""
    head = sent[: len(sent) - len(request.body)]
    ours = head.find(branch)
    vias = head.find(below, ours)
    number = head.find(_CSEQ, vias + len(below) - 2) + len(_CSEQ)
    number_end = head.find(b" ", number)
    length = head.find(_LENGTH, number_end) + len(_LENGTH)
    length_end = head.find(b"\r\n", length)
    if ours < 0 or vias < 0 or number < vias or length < number_end:
        return None
    return (
        head[:ours],
        head[ours + len(branch) : vias],
        b"",
        head[vias + len(below) : number],
        head[number_end:length],
        head[length_end:],
    )


def learn_answer(head: bytes, branch: bytes, vias: bytes, number: bytes) -> AnswerTemplate | None:
    """Return the template of an answer; None if it fits none.

    :param head: of a 2xx, with the empty line that ends it.
    :param branch: of our Via in the request.
    :param vias: the Via lines below it in the request.
    :param number: the number in the request's CSeq.
    """
    line = head.find(b"\r\n") + 2
    ours = head.find(branch)
    rest_end = head.find(b"\r\n", ours) + 2
    below = rest_end + len(vias)
    number_at = head.find(b"\r\n" + _CSEQ + number + b" ", below - 2) + 2 + len(_CSEQ)
    if not head.startswith(_VIA, line) or ours < line or number_at < below:
        return None
    rest = head[ours + len(branch) : rest_end]
    if rest[:1] not in b";\r" or head.find(b"\r\n", line) + 2 != rest_end:
        return None
    after = head[number_at + len(number) :]
    template = AnswerTemplate(line, head[:ours], rest, head[below:number_at], after)
    if template.match(head, 0, len(head), branch, vias, number) != rest_end:
        return None
    try:
        response = parse_head(head[:-2])
        if not isinstance(response, SipResponse):
            return None
        check_response(response)
        length = content_length(response)
    except RemoteError:
        return None
    if length is None or not 200 <= response.status <= 299 or len(response.values("via")) < 2:
        return None
    template.length = length
    if template.forwarded(head, 0, rest_end, len(head)) != forwarded_response(response):
        return None
    return template
