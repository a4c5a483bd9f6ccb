"""Values of structured SIP header fields (RFC 3261 section 25.1, RFC 6665 for events).

Every reader here takes the value of one header field, unfolded and without white space at its ends.
Readers are lenient about white space and strict about structure; each raises
:class:`~impfed.sip.errors.SipParseError` with status 400 on what it cannot read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from impfed.sip.errors import SipParseError
from impfed.sip.grammar import (
    COMPACT,
    LWS,
    PARAMS,
    QUOTED,
    TOKEN,
    TOKEN_CHARS,
    Params,
    find_param,
    first_value,
    parse_params,
    quote,
    readable,
    split_values,
    unquote,
)
from impfed.sip.uri import OtherUri, SipUri, parse_uri, valid_host

__all__ = [
    "COMPACT",
    "LWS",
    "TOKEN",
    "CSeq",
    "EventType",
    "MediaType",
    "NameAddr",
    "Params",
    "SubscriptionState",
    "Via",
    "find_param",
    "first_value",
    "parse_cseq",
    "parse_event",
    "parse_media_type",
    "parse_name_addr",
    "parse_number",
    "parse_params",
    "parse_subscription_state",
    "parse_via",
    "parse_warning",
    "quote",
    "readable",
    "split_values",
    "unquote",
]


_NAME_ADDR = re.compile(
    rf"(?:({QUOTED})|([^\"<:;,]*+))[ \t]*+<([^<>\"]++)>[ \t]*+(;.*|)", re.DOTALL
)
_VIA = re.compile(
    rf"[Ss][Ii][Pp][ \t]*+/[ \t]*+2\.0[ \t]*+/[ \t]*+([{TOKEN_CHARS}]++)[ \t]++"
    r"([A-Za-z0-9.\-_]++|\[[0-9A-Fa-f:.]++\])(?:[ \t]*+:[ \t]*+([0-9]{1,5}+))?[ \t]*+(?:;.*|)",
    re.DOTALL,
)


class NameAddr:
    """A From, To, Contact or Route value: ``"Display" <uri>;params`` or ``uri;params``.

    Immutable by convention.  Parameters and the URI are read when first asked for.

    :ivar text: the whole value as written.
    :ivar display: display name without quotes; "" if there is none.
    :ivar uri_text: the URI as written.
    """

    __slots__ = ("_params", "_params_text", "_sound", "_tag", "display", "text", "uri_text")

    def __init__(self, display: str, uri_text: str, params_text: str, text: str) -> None:
        self.display = display
        self.uri_text = uri_text
        self.text = text
        self._params_text = params_text
        self._params: Params | None = None
        self._tag: str | None = None
        self._sound = False  # found to be well-formed in every part

    @property
    def params(self) -> Params:
        """Header parameters (those after ``>``, e.g. tag, epid, expires)."""
        params = self._params
        if params is None:
            params = self._params = parse_params(self._params_text)
        return params

    @property
    def uri(self) -> SipUri | OtherUri:
        """The URI, read.

        :raises SipParseError: if it is malformed.
        """
        return parse_uri(self.uri_text)

    def check(self) -> None:
        """Look into everything.

        :raises SipParseError: if the URI or a parameter is malformed.
        """
        if self._sound:
            return
        if self._params is None and not PARAMS.fullmatch(self._params_text):
            raise SipParseError("Malformed header parameter")
        parse_uri(self.uri_text)
        self._sound = True

    @property
    def tag(self) -> str:
        """The tag parameter, "" if there is none."""
        tag = self._tag
        if tag is None:
            tag = self._tag = self._read_tag()
        return tag

    def _read_tag(self) -> str:
        text = self._params_text
        if not text:
            return ""
        # The ordinary case: the tag first, and nothing in quotes or blanks.
        if text.startswith(";tag=") and not ('"' in text or " " in text or "\t" in text):
            end = text.find(";", 5)
            return text[5:] if end < 0 else text[5:end]
        return find_param(self.params, "tag") or ""

    def param(self, name: str) -> str | None:
        """Return a header parameter: None if absent, "" if it has no value."""
        return find_param(self.params, name.lower())

    @property
    def without_params(self) -> str:
        """The value without its header parameters: display name and URI in brackets, as written."""
        if not self._params_text:
            return self.text
        return self.text[: len(self.text) - len(self._params_text)].rstrip(LWS)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"NameAddr({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NameAddr) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def parse_name_addr(text: str) -> NameAddr:
    """Read one From, To, Contact, Route, Record-Route, Refer-To or P-Asserted-Identity value.

    No blank is needed before ``<`` (RFC 4475 section 3.1.1.6).  Without brackets everything after
    the first ";" belongs to the header, not to the URI (RFC 3261 section 20.10).

    The values of a dialog come with each of its messages, so the same object is given out again.

    :raises SipParseError: 400.
    """
    return _cached_name_addr(text) if len(text) <= 256 else _read_name_addr(text)


def _read_name_addr(text: str) -> NameAddr:
    end = text.find(">") + 1
    if 0 < end <= 256:
        # The ordinary case.  Addresses repeat, what follows them does not, so only they are kept.
        address = _address(text[:end])
        rest = text[end:]
        if address is not None and (not rest or rest[0] == ";"):
            return NameAddr(address[0], address[1], rest, text)
    match = _NAME_ADDR.fullmatch(text)
    if match is not None:
        return NameAddr(_display(match), match.group(3), match.group(4), text)
    uri_text, semicolon, rest = text.partition(";")
    uri_text = uri_text.rstrip(LWS)
    if not uri_text or not _plain_addr(uri_text):
        raise SipParseError("Malformed name-addr")
    return NameAddr("", uri_text, semicolon + rest, text)


_cached_name_addr = lru_cache(maxsize=8192)(_read_name_addr)


def _display(match: re.Match[str]) -> str:
    quoted, plain = match.group(1, 2)
    return unquote(quoted) if quoted is not None else plain.rstrip(LWS)


@lru_cache(maxsize=8192)
def _address(text: str) -> tuple[str, str] | None:
    """Read display name and URI of a name-addr that ends with its first ">"."""
    match = _NAME_ADDR.fullmatch(text)
    return None if match is None else (_display(match), match.group(3))


def _plain_addr(text: str) -> bool:
    # An addr-spec without brackets must not hold "?" or "," (RFC 3261 section 20).
    return not any(ch in text for ch in '<>" \t,?')


class Via:
    """One Via value (RFC 3261 section 20.42).  Immutable by convention.

    :ivar text: the whole value as written.
    :ivar transport: transport in upper case, e.g. "TLS".
    :ivar host: sent-by host as written (IPv6 in brackets).
    :ivar port: sent-by port, or None.
    """

    __slots__ = ("_params", "_params_text", "host", "port", "text", "transport")

    def __init__(
        self, transport: str, host: str, port: int | None, params_text: str, text: str
    ) -> None:
        self.transport = transport
        self.host = host
        self.port = port
        self.text = text
        self._params_text = params_text
        self._params: Params | None = None

    @property
    def params(self) -> Params:
        """Via parameters: branch, received, rport, maddr, ttl, alias, ms-*..."""
        params = self._params
        if params is None:
            params = self._params = parse_params(self._params_text)
        return params

    def check(self) -> None:
        """Look into everything.

        :raises SipParseError: if a parameter is malformed.
        """
        if self._params is None and not PARAMS.fullmatch(self._params_text):
            raise SipParseError("Malformed Via parameter")

    @property
    def branch(self) -> str:
        """The branch parameter, "" if there is none (RFC 2543 peers and clients' own Vias)."""
        text = self._params_text
        if text.startswith(";branch=z9hG4bK"):  # the ordinary case
            end = text.find(";", 15)
            branch = text[8:] if end < 0 else text[8:end]
            if not (" " in branch or '"' in branch or "\t" in branch):
                return branch
        return find_param(self.params, "branch") or ""

    def param(self, name: str) -> str | None:
        """Return a Via parameter: None if absent, "" if it has no value."""
        return find_param(self.params, name.lower())

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Via({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Via) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def parse_via(text: str) -> Via:
    """Read one Via value.

    :raises SipParseError: 400; also for a protocol other than SIP/2.0.
    """
    semicolon = text.find(";")
    if 0 < semicolon <= 128:  # the ordinary case: few peers, so few sent-by values
        transport, host, port = _sent_by(text[:semicolon])
        return Via(transport, host, port, text[semicolon:], text)
    transport, host, port = _read_sent_by(text)
    return Via(transport, host, port, "" if semicolon < 0 else text[semicolon:], text)


def _read_sent_by(text: str) -> tuple[str, str, int | None]:
    """Read transport, host and port of a Via value; what follows a ";" is not looked at."""
    match = _VIA.fullmatch(text)
    if match is None:
        raise SipParseError("Malformed Via")
    transport, host, port_text = match.groups()
    port = None
    if port_text is not None:
        port = int(port_text)
        if port > 65535:
            raise SipParseError("Port out of range in Via")
    if host[0] == "[" and not valid_host(host):
        raise SipParseError("Malformed IPv6 address in Via")
    return transport.upper(), host, port


_sent_by = lru_cache(maxsize=8192)(_read_sent_by)


class CSeq(NamedTuple):
    """A CSeq value: sequence number below 2**31 and method (RFC 3261 section 8.1.1.5)."""

    number: int
    method: str

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


def parse_number(text: str, maximum: int = 4294967295) -> int:
    """Read an unsigned decimal number of ASCII digits only, at most ``maximum``.

    :raises SipParseError: 400 for signs, underscores, other digits, or a number too great.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or (value := int(text)) > maximum:
        raise SipParseError("Malformed number")
    return value


def parse_cseq(text: str) -> CSeq:
    """Read a CSeq value.

    :raises SipParseError: 400.
    """
    return _cached_cseq(text) if len(text) <= 32 else _read_cseq(text)


def _read_cseq(text: str) -> CSeq:
    number_text, _, method = text.strip(LWS).partition(" ")
    if not method.isalpha() or not method.isascii():
        match = _CSEQ.fullmatch(text)
        if match is None:
            raise SipParseError("Malformed CSeq")
        number_text, method = match.groups()
    if not (number_text.isdigit() and number_text.isascii()):
        raise SipParseError("Malformed CSeq")
    # Leading zeros are legal (RFC 4475 section 3.1.1.1); int() of a long text is not linear.
    if len(number_text) > 32 or (number := int(number_text)) >= 2147483648:
        raise SipParseError("CSeq number out of range")
    return _new_tuple(CSeq, (number, method))


_cached_cseq = lru_cache(maxsize=2048)(_read_cseq)  # small numbers and few methods: few values
_CSEQ = re.compile(rf"[ \t]*+([0-9]++)[ \t]++([{TOKEN_CHARS}]++)[ \t]*+", re.ASCII)
_new_tuple = tuple.__new__  # skips the constructor that NamedTuple writes in Python


@dataclass(frozen=True, slots=True)
class MediaType:
    """A Content-Type or Accept element: type and subtype as written, parameters (20.15)."""

    type: str
    subtype: str
    params: Params = ()

    @property
    def essence(self) -> str:
        """``type/subtype`` in lower case: what media types are compared by."""
        return f"{self.type}/{self.subtype}".lower()

    def param(self, name: str) -> str | None:
        """Return a parameter: None if absent, "" if it has no value."""
        return find_param(self.params, name.lower())


_MEDIA = re.compile(
    rf"([{TOKEN_CHARS}]++)[ \t]*+/[ \t]*+([{TOKEN_CHARS}]++)[ \t]*+(;.*|)", re.DOTALL | re.ASCII
)


def parse_media_type(text: str) -> MediaType:
    """Read a media type with its parameters; the few that come again and again are read once.

    :raises SipParseError: 400.
    """
    return _cached_media_type(text) if len(text) <= 256 else _read_media_type(text)


def _read_media_type(text: str) -> MediaType:
    match = _MEDIA.fullmatch(text)
    if match is None:
        raise SipParseError("Malformed media type")
    return MediaType(match.group(1), match.group(2), parse_params(match.group(3)))


_cached_media_type = lru_cache(maxsize=1024)(_read_media_type)


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A Subscription-State value (RFC 6665 section 8.4).

    :ivar state: "active", "pending", "terminated" or an extension, in lower case.
    :ivar reason: reason of a termination in lower case, "" if none.
    :ivar expires: seconds, or None.
    :ivar retry_after: seconds, or None.
    """

    state: str
    reason: str = ""
    expires: int | None = None
    retry_after: int | None = None

    def __str__(self) -> str:
        text = self.state
        if self.reason:
            text += f";reason={self.reason}"
        if self.expires is not None:
            text += f";expires={self.expires}"
        if self.retry_after is not None:
            text += f";retry-after={self.retry_after}"
        return text


def _word_and_params(text: str, what: str) -> tuple[str, Params]:
    match = TOKEN.match(text)
    if match is None:
        raise SipParseError(f"Malformed {what}")
    return match.group(), parse_params(text[match.end() :])


def _seconds(params: Params, name: str) -> int | None:
    text = find_param(params, name)
    return None if text is None else parse_number(text)


def parse_subscription_state(text: str) -> SubscriptionState:
    """Read a Subscription-State value.

    :raises SipParseError: 400.
    """
    state, params = _word_and_params(text, "Subscription-State")
    return SubscriptionState(
        state.lower(),
        (find_param(params, "reason") or "").lower(),
        _seconds(params, "expires"),
        _seconds(params, "retry-after"),
    )


@dataclass(frozen=True, slots=True)
class EventType:
    """An Event value: package (compared case-sensitively by RFC 6665 8.2.1) and id ("" if none)."""

    package: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.package};id={self.id}" if self.id else self.package


def parse_event(text: str) -> EventType:
    """Read an Event value.

    :raises SipParseError: 400.
    """
    package, params = _word_and_params(text, "Event")
    return EventType(package, find_param(params, "id") or "")


def parse_warning(text: str) -> tuple[int, str, str]:
    """Read one Warning value into code, agent and text (RFC 3261 section 20.43).

    :raises SipParseError: 400.
    """
    parts = text.split(None, 2)
    if len(parts) != 3:
        raise SipParseError("Malformed Warning")
    return parse_number(parts[0], 999), parts[1], unquote(parts[2].strip(LWS))
