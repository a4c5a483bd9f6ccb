"""Writing requests and responses.  Injection is impossible: one count of line ends settles it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from impfed.core.errors import LocalError
from impfed.sip.errors import SipParseError
from impfed.sip.headers import TOKEN

if TYPE_CHECKING:
    from impfed.sip.message import SipRequest

Headers = Sequence[tuple[str, str]]
"""Header lines to write: (name, value) pairs in order."""

REASONS: dict[int, str] = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    430: "Flow Failed",
    436: "Bad Identity-Info",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}
"""Reason phrases of RFC 3261 section 21 and its extensions."""

_CRLF = "\r\n"
_ECHOED = (("via", "Via"), ("from", "From"), ("to", "To"), ("call-id", "Call-ID"), ("cseq", "CSeq"))

DIALOG_FORMING = frozenset(("INVITE", "SUBSCRIBE", "REFER"))
"""Methods whose 2xx, and 101-199 with a tag, make a dialog at the UAS (RFC 3261 12.1, RFC 6665)."""


_LEARN = 4096
_sound_names: set[str] = set()  # names found to be tokens; bounded


def _lines(headers: Headers) -> list[str]:
    for name, _ in headers:
        if name not in _sound_names:
            if not TOKEN.fullmatch(name):
                raise LocalError("A header name is no token")
            if len(_sound_names) < _LEARN:
                _sound_names.add(name)
    return [f"{name}: {value}\r\n" for name, value in headers]


def _refuse_injection(text: str, lines: int) -> None:
    if text.count("\n") != lines or text.count("\r") != lines or "\0" in text:
        raise LocalError("CR, LF or NUL in a header name or value")


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise LocalError("A lone surrogate in a header name or value") from error


class OutgoingRequest:
    """A request of ours before its Via is known.

    :ivar method: method.
    :ivar uri: Request-URI, written as it is.
    :ivar headers: (name, value) pairs in order, everything but Via and Content-Length.
    :ivar body: body octets.
    :ivar cseq: sequence number, the same as in the CSeq header among ``headers``.
    :ivar call_id: Call-ID, the same as in ``headers``.
    """

    __slots__ = ("body", "call_id", "cseq", "headers", "method", "uri")

    def __init__(
        self,
        method: str,
        uri: str,
        headers: Headers,
        body: bytes = b"",
        cseq: int = 0,
        call_id: str = "",
    ) -> None:
        self.method = method
        self.uri = uri
        self.headers = headers
        self.body = body
        self.cseq = cseq
        self.call_id = call_id

    def render(self, via: str) -> bytes:
        """Write the request with that topmost Via value.

        :raises LocalError: on CR, LF or NUL in any value, a name that is no token, blanks in
            method or URI.
        """
        headers = self.headers
        if self.uri.split() != [self.uri] or not TOKEN.fullmatch(self.method):
            raise LocalError("Malformed method or Request-URI")
        lines = [f"{self.method} {self.uri} SIP/2.0\r\nVia: {via}\r\n"]
        lines += _lines(headers)
        lines.append(f"Content-Length: {len(self.body)}\r\n")
        text = "".join(lines)
        _refuse_injection(text, len(headers) + 3)
        return _encode(text) + b"\r\n" + self.body

    def get(self, name: str) -> str | None:
        """Return the first header value of that name (any case), or None."""
        name = name.lower()
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"<OutgoingRequest {self.method} {self.uri}>"


def options_request(uri: str, domain: str, call_id: str, tag: str) -> OutgoingRequest:
    """Return an OPTIONS that asks a machine itself whether it is there.

    :param domain: in whose name is asked.
    """
    headers = [
        ("Max-Forwards", "1"),  # a routing node has to answer, not to pass it on
        ("From", f"<sip:{domain}>;tag={tag}"),
        ("To", f"<{uri}>"),
        ("Call-ID", call_id),
        ("CSeq", "1 OPTIONS"),
    ]
    return OutgoingRequest("OPTIONS", uri, headers, b"", 1, call_id)


def response_bytes(
    request: SipRequest,
    status: int,
    reason: str = "",
    to_tag: str = "",
    headers: Headers = (),
    body: bytes = b"",
) -> bytes:
    """Write a response (RFC 3261 section 8.2.6.2 and 12.1.1).

    Every Via, From, To, Call-ID and CSeq value is echoed as received (folded values on one line);
    To gets ``to_tag`` if it has none; 101-299 answers that form a dialog echo Record-Route as well.

    :raises LocalError: on CR, LF or NUL in anything that we add, or a name that is no token.
    """
    if not 100 <= status <= 699:
        raise LocalError(f"{status} is no status code")
    start = f"SIP/2.0 {status} {reason or REASONS.get(status, 'Unknown')}\r\n"
    tail = f"{''.join(_lines(headers))}Content-Length: {len(body)}\r\n\r\n"
    _refuse_injection(f"{start}{to_tag}{tail}", len(headers) + 3)
    return _encode(f"{start}{_echo(request, status, to_tag)}{tail}") + body


def _echo(request: SipRequest, status: int, to_tag: str) -> str:
    """Return the header lines that come from the request.  None can hold a CR or LF."""
    first, more = request._first, request._more
    tag = f";tag={to_tag}" if to_tag and not _has_tag(request) else ""
    vias = routes = ""
    for name, value in more:
        if name == "via":
            vias += f"Via: {value}\r\n"
    if "record-route" in first and 100 < status < 300 and request.method in DIALOG_FORMING:
        routes = "".join([f"Record-Route: {v}\r\n" for v in request.get_all("record-route")])
    try:
        return (
            f"Via: {first['via']}\r\n{vias}From: {first['from']}\r\nTo: {first['to']}{tag}\r\n"
            f"Call-ID: {first['call-id']}\r\nCSeq: {first['cseq']}\r\n{routes}"
        )
    except KeyError:  # a malformed request that lacks some of them
        tails = {"via": f"\r\n{vias}", "to": f"{tag}\r\n"}
        lines = [
            f"{label}: {first[name]}{tails.get(name, _CRLF)}"
            for name, label in _ECHOED
            if name in first
        ]
        return "".join(lines) + routes


def _has_tag(request: SipRequest) -> bool:
    try:
        return bool(request.to.tag)
    except SipParseError:
        return True  # unreadable: echo it as it is
