"""SIP messages: read lazily, written fast, bytes kept (RFC 3261 section 7).

A head is decoded once, as UTF-8 with surrogate escapes, so any octet survives a round trip.  One
scan names the header lines; values are looked into when somebody asks.  What a whole-message check
costs more than that is in :func:`check_request`.
"""

from __future__ import annotations

import re

from impfed.sip.errors import SipParseError
from impfed.sip.grammar import LWS, MALFORMED, NAMES, TOKEN, canonical, first_value, split_values
from impfed.sip.headers import (
    CSeq,
    MediaType,
    NameAddr,
    Via,
    parse_cseq,
    parse_media_type,
    parse_name_addr,
    parse_number,
    parse_via,
)
from impfed.sip.outgoing import (
    DIALOG_FORMING,
    REASONS,
    Headers,
    OutgoingRequest,
    response_bytes,
)
from impfed.sip.uri import OtherUri, SipUri, parse_uri

__all__ = [
    "DIALOG_FORMING",
    "REASONS",
    "Headers",
    "OutgoingRequest",
    "SipMessage",
    "SipRequest",
    "SipResponse",
    "answerable",
    "check_request",
    "check_response",
    "content_length",
    "parse_head",
    "parse_message",
    "response_bytes",
]


class SipMessage:
    """A SIP message.  Immutable by convention; header values are read when asked for.

    Names given to :meth:`get` and its sisters are long forms in lower case; compact forms
    are folded into them.

    :ivar head: start line and header lines as received, each with its CRLF, without the empty line.
    :ivar body: the body's octets.
    :ivar defect: what makes the head malformed, or None; such messages never leave
        :func:`parse_message`, but a stream framer delivers them so that they can be answered.
    """

    __slots__ = (
        "_checked",
        "_contact",
        "_content_type",
        "_cseq",
        "_first",
        "_from",
        "_more",
        "_to",
        "_via",
        "body",
        "defect",
        "head",
    )
    _contact: NameAddr | None
    _content_type: MediaType | None

    def __init__(self, head: str, body: bytes, first: dict[str, str], more: list[tuple[str, str]]):
        self.head = head
        self.body = body
        self.defect: SipParseError | None = None
        self._first = first  # canonical name -> value of the first such line, blanks not stripped
        self._more = more  # canonical name and value of the further lines, in order
        self._from: NameAddr | None = None
        self._to: NameAddr | None = None
        self._cseq: CSeq | None = None
        self._via: Via | None = None
        self._checked = False  # and found good, so that who passes it on need not check it again

    def get(self, name: str) -> str | None:
        """Return the value of the first header line of that name, or None."""
        value = self._first.get(name)
        return None if value is None else value.strip(LWS)

    def get_all(self, name: str) -> list[str]:
        """Return the values of all header lines of that name, one for each line, in order."""
        value = self._first.get(name)
        if value is None:
            return []
        values = [value.strip(LWS)]
        if self._more:
            values += [text.strip(LWS) for other, text in self._more if other == name]
        return values

    def values(self, name: str) -> list[str]:
        """Return all values of a list header (Via, Route, Contact, Allow...), split at commas."""
        value = self._first.get(name)
        if value is None:
            return []
        values = split_values(value)
        for other, text in self._more:
            if other == name:
                values += split_values(text)
        return values

    def names(self) -> list[str]:
        """Return the canonical names of the header fields present, each once, in order."""
        return list(self._first)

    @property
    def from_(self) -> NameAddr:
        """The From value. :raises SipParseError: if missing or malformed."""
        value = self._from
        if value is None:
            value = self._from = self._name_addr("from")
        return value

    @property
    def to(self) -> NameAddr:
        """The To value. :raises SipParseError: if missing or malformed."""
        value = self._to
        if value is None:
            value = self._to = self._name_addr("to")
        return value

    def _name_addr(self, name: str) -> NameAddr:
        text = self._first.get(name)
        if text is None:
            raise SipParseError(f"Missing {name.title()} header field")
        try:
            return parse_name_addr(text.strip(LWS))
        except SipParseError as error:
            raise SipParseError(f"Malformed {name.title()} header field") from error

    @property
    def from_tag(self) -> str:
        """The tag of From, "" if there is none."""
        value = self._from
        return value.tag if value is not None else self.from_.tag

    @property
    def to_tag(self) -> str:
        """The tag of To, "" if there is none."""
        value = self._to
        return value.tag if value is not None else self.to.tag

    @property
    def call_id(self) -> str:
        """The Call-ID. :raises SipParseError: if missing or empty."""
        value = self._first.get("call-id")
        if value is None or not (value := value.strip(LWS)):
            raise SipParseError("Missing Call-ID header field")
        return value

    @property
    def cseq(self) -> CSeq:
        """The CSeq value. :raises SipParseError: if missing or malformed."""
        value = self._cseq
        if value is None:
            text = self._first.get("cseq")
            if text is None:
                raise SipParseError("Missing CSeq header field")
            value = self._cseq = parse_cseq(text)
        return value

    @property
    def via(self) -> Via:
        """The topmost Via value. :raises SipParseError: if missing or malformed."""
        value = self._via
        if value is None:
            text = self._first.get("via")
            if text is None:
                raise SipParseError("Missing Via header field")
            value = self._via = parse_via(first_value(text))
        return value

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact value, None if there is none or it is "*".

        :raises SipParseError: if malformed.
        """
        try:
            return self._contact
        except AttributeError:
            pass
        value = first_value(self._first.get("contact", ""))
        self._contact = None if value in ("", "*") else parse_name_addr(value)
        return self._contact

    @property
    def content_type(self) -> MediaType | None:
        """The body's media type, None if there is no Content-Type.

        :raises SipParseError: if malformed.
        """
        try:
            return self._content_type
        except AttributeError:
            pass
        text = self._first.get("content-type")
        self._content_type = None if text is None else parse_media_type(text.strip(LWS))
        return self._content_type

    def to_bytes(self) -> bytes:
        """Return the message as it was received."""
        return self.head.encode("utf-8", "surrogateescape") + b"\r\n" + self.body


class SipRequest(SipMessage):
    """A request.

    :ivar method: method, case kept (methods are case-sensitive, RFC 3261 section 7.1).
    :ivar uri_text: Request-URI as written.
    :ivar version: "SIP/2.0"; something else only in a message with a defect.
    """

    __slots__ = ("method", "uri_text", "version")
    method: str
    uri_text: str
    version: str

    @property
    def uri(self) -> SipUri | OtherUri:
        """The Request-URI, read. :raises SipParseError: 400 or 414 if malformed."""
        return parse_uri(self.uri_text)

    def __repr__(self) -> str:
        return f"<SipRequest {self.method} {self.uri_text}>"


class SipResponse(SipMessage):
    """A response.

    :ivar status: status code, 100-699.
    :ivar reason: reason phrase, may be empty.
    """

    __slots__ = ("reason", "status")
    status: int
    reason: str

    def __repr__(self) -> str:
        return f"<SipResponse {self.status} {self.reason}>"


# The blank before an empty reason phrase is due, but some leave it out.
_STATUS_LINE = re.compile(r"SIP/2\.0 ([0-9]+)(?: (.*))?", re.DOTALL | re.IGNORECASE)
_VERSION = re.compile(r"SIP/[0-9]+\.[0-9]+", re.IGNORECASE | re.ASCII)


def parse_head(data: bytes) -> SipRequest | SipResponse:
    """Read a head: start line and header lines with a CRLF after each, without the empty line.

    The message may carry a ``defect``; its body is empty.

    :raises SipParseError: with ``close``, if this is no SIP at all.
    """
    head = data.decode("utf-8", "surrogateescape")
    # splitlines() is the fastest cut but knows other line ends as well: the comparison tells.
    lines = head.splitlines()
    lines.append("")
    stray = False
    if "\r\n".join(lines) != head:
        lines, stray = _split_lines(head)
    lines.pop()
    start = lines[0]
    del lines[0]
    first: dict[str, str] = {}
    more: list[tuple[str, str]] = []
    names = NAMES
    try:
        for line in lines:
            spelling, value = line.split(": ", 1)
            name = names[spelling]
            if name in first:
                more.append((name, value))
            else:
                first[name] = value
    except (KeyError, ValueError):
        # A name not met before, a fold, no blank after the colon, or no header line at all.
        first, more = _index(lines)
    message = _start(start, head, first, more)
    if stray:
        message.defect = SipParseError(
            "Bare CR or LF in message head", close=True, head=answerable(message)
        )
    elif MALFORMED in first and message.defect is None:
        message.defect = SipParseError("Malformed header line", head=answerable(message))
    return message


def _split_lines(head: str) -> tuple[list[str], bool]:
    """Cut at CRLF only; leave out lines with a CR or LF that stands alone, and say so."""
    lines = head.split("\r\n")
    if "\r" in lines[0] or "\n" in lines[0] or lines[-1]:
        raise SipParseError("Bare CR or LF in start line", close=True)
    sound = [line for line in lines if "\r" not in line and "\n" not in line]
    return sound, len(sound) < len(lines)


def _index(lines: list[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Name header lines of any spelling; lines that are none get the name ``MALFORMED``."""
    first: dict[str, str] = {}
    more: list[tuple[str, str]] = []
    for line in _unfold(lines):
        spelling, colon, value = line.partition(":")
        name = (NAMES.get(spelling) or canonical(spelling)) if colon else MALFORMED
        value = value.removeprefix(" ")  # as where the spelling is known
        if name in first:
            more.append((name, value))
        else:
            first[name] = value
    return first, more


def _unfold(lines: list[str]) -> list[str]:
    """Join continuation lines to the line before them by one blank (RFC 3261 section 7.3.1).

    A blank at the start of the first line continues nothing; that line stays and has no name.
    """
    whole: list[list[str]] = []
    for line in lines:
        if line[:1] in (" ", "\t") and whole:
            whole[-1].append(line.strip(LWS))
        else:
            whole.append([line])
    return [" ".join(parts) if len(parts) > 1 else parts[0] for parts in whole]


def _start(
    line: str, head: str, first: dict[str, str], more: list[tuple[str, str]]
) -> SipRequest | SipResponse:
    """Read the start line and make the message."""
    parts = line.split(" ")
    if len(parts) == 3 and parts[2] == "SIP/2.0" and parts[1]:
        request = SipRequest(head, b"", first, more)
        request.method, request.uri_text, request.version = parts
        if not parts[0].isalpha() and not TOKEN.fullmatch(parts[0]):
            request.defect = SipParseError("Malformed method", head=answerable(request))
        return request
    status = _STATUS_LINE.fullmatch(line)
    if status is not None:
        response = SipResponse(head, b"", first, more)
        response.reason = status.group(2) or ""
        digits = status.group(1)
        response.status = int(digits) if len(digits) == 3 else 0
        if not 100 <= response.status <= 699:
            response.defect = SipParseError("Status code out of range")
        return response
    words = line.split()
    if len(words) < 2 or not _VERSION.fullmatch(words[-1]) or not TOKEN.fullmatch(words[0]):
        raise SipParseError("Not a SIP start line", close=True)
    request = SipRequest(head, b"", first, more)
    request.method, request.version = words[0], words[-1]
    request.uri_text = " ".join(words[1:-1])
    if request.version.upper() == "SIP/2.0":
        request.defect = SipParseError("Malformed start line", head=answerable(request))
    else:
        request.defect = SipParseError("Version Not Supported", 505, head=answerable(request))
    return request


def answerable(message: SipMessage) -> SipMessage | None:
    """Return the message if it is a request that an answer can be sent to, else None."""
    if not isinstance(message, SipRequest) or message.method in ("ACK", "BENOTIFY"):
        return None
    return message if "via" in message._first else None


def content_length(message: SipMessage) -> int | None:
    """Return the Content-Length, None if there is none.

    :raises SipParseError: with ``close``: no number of ASCII digits, more than one line, too great
        (513 beyond nine digits). Where the next message begins is then unknown.
    """
    text = message._first.get("content-length")
    if text is None:
        return None
    for name, _ in message._more:
        if name == "content-length":
            raise SipParseError(
                "More than one Content-Length", close=True, head=answerable(message)
            )
    text = text.strip(LWS)
    if not (text.isascii() and text.isdigit()):
        raise SipParseError("Malformed Content-Length", close=True, head=answerable(message))
    if len(text) > 9 and len(text.lstrip("0")) > 9:
        raise SipParseError("Message Too Large", 513, close=True, head=answerable(message))
    return int(text)


def parse_message(data: bytes) -> SipRequest | SipResponse:
    """Read one datagram, or one message of a stream already cut out by its framer.

    Octets after the body that Content-Length names are dropped (RFC 3261 section 18.3).

    :raises SipParseError: with the answer to give; ``head`` is set if an answer can be built.
    """
    start = 0
    while data[start : start + 2] == b"\r\n":
        start += 2
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        raise SipParseError("Message head does not end")
    message = parse_head(data[start : end + 2])
    if message.defect is not None:
        raise message.defect
    message.body = body = data[end + 4 :]
    length = content_length(message)
    if length is not None and length != len(body):
        if length > len(body):
            raise SipParseError("Body shorter than its Content-Length", head=answerable(message))
        message.body = body[:length]
    if isinstance(message, SipResponse):
        check_response(message)
    return message


_SINGLE = frozenset(
    ("from", "to", "call-id", "cseq", "max-forwards", "content-type", "content-length", "expires")
)


def check_request(request: SipRequest) -> None:
    """Refuse what no user agent may act on (RFC 3261 section 8.2, RFC 4475 section 3.1.2).

    :raises SipParseError: 400, 414 or 505, with ``head`` set if an answer can be built.
    """
    if request._checked:
        return
    if request.defect is not None:
        raise request.defect
    try:
        _check_common(request)
        if request.cseq.method != request.method:
            raise SipParseError("CSeq method does not match")
        if request.via.branch == "z9hG4bK":
            raise SipParseError("Empty branch in Via")
        uri = request.uri
        if isinstance(uri, SipUri) and uri.headers:
            raise SipParseError("Headers in Request-URI")
        hops = request._first.get("max-forwards")
        if hops is not None:
            parse_number(hops.strip(LWS), 255)
        if request.method in _CONTACT_METHODS:
            contact = request.contact
            if contact is not None:
                contact.check()
        request._checked = True
    except SipParseError as error:
        if error.head is None:
            error.head = answerable(request)
        raise


# Where a Contact makes or moves a dialog, so that a malformed one must not be taken.
_CONTACT_METHODS = frozenset(("INVITE", "SUBSCRIBE", "NOTIFY", "UPDATE", "REFER"))


def check_response(response: SipResponse) -> None:
    """Refuse a response that no transaction may see.

    :raises SipParseError: never to be answered; drop the response and count it.
    """
    if response.defect is not None:
        raise response.defect
    _check_common(response)


def _check_common(message: SipMessage) -> None:
    for name, _ in message._more:
        if name in _SINGLE:
            raise SipParseError(f"More than one {name.title()} header field")
    message.from_.check()
    message.to.check()
    message.via.check()
    _ = message.call_id, message.cseq
