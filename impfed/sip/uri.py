"""SIP and SIPS URIs (RFC 3261 section 19.1, RFC 5954 for IPv6), compared as 19.1.4 says.

Values are kept as written, percent escapes included, except scheme and host, which are lower-case:
so ``str(SipUri.parse(text))`` equals ``text`` up to the case of those two.
Where bytes must survive (Route, Record-Route), keep the text and never write the URI anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote as _percent_quote
from urllib.parse import unquote as _percent_unquote

from impfed.sip.errors import SipParseError

MAX_URI = 8192
"""Longest URI that is read, in characters; longer is 414 (RFC 3261 section 21.4.12)."""

_UNRESERVED = r"A-Za-z0-9\-_.!~*'()"
_ESCAPED = r"%[0-9A-Fa-f]{2}"
_USER = rf"(?:[{_UNRESERVED}&=+$,;?/]|{_ESCAPED})+"
_PASSWORD = rf"(?:[{_UNRESERVED}&=+$,]|{_ESCAPED})*"
# RFC 3261 asks a top label to begin with a letter; digits-first names exist, and an IPv4 address
# fits the same pattern, so one pattern serves for both.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL})(?:\.(?:{_LABEL}))*\.?|\[[0-9A-Fa-f:.]+\]"
_PARAM_CHARS = rf"(?:[{_UNRESERVED}\[\]/:&+$]|{_ESCAPED})"
_PARAMS = rf"(?:;{_PARAM_CHARS}+(?:={_PARAM_CHARS}*)?)*"
_HEADER_CHARS = rf"(?:[{_UNRESERVED}\[\]/?:+$]|{_ESCAPED})"
_HEADERS = rf"\?{_HEADER_CHARS}+={_HEADER_CHARS}*(?:&{_HEADER_CHARS}+={_HEADER_CHARS}*)*"
_SIP_URI = re.compile(
    rf"(sips?):(?:({_USER})(?::({_PASSWORD}))?@)?({_HOST})(?::([0-9]{{1,5}}))?({_PARAMS})({_HEADERS})?",
    re.IGNORECASE | re.ASCII,
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:", re.ASCII)
_OPAQUE = re.compile(r"[!-;=?-~]+", re.ASCII)
_HOST_ONLY = re.compile(_HOST, re.ASCII)

_CACHED_LENGTH = (
    256  # longer URIs are read afresh, so that a peer cannot fill memory through the cache
)

# Parameters that must stand in both URIs or in neither (RFC 3261 section 19.1.4).
_DECISIVE = ("user", "ttl", "method", "maddr", "transport")


def unescape(text: str) -> str:
    """Undo percent escapes once; octets that are not UTF-8 come out as surrogate escapes."""
    return _percent_unquote(text, "utf-8", "surrogateescape") if "%" in text else text


def escape_user(text: str) -> str:
    """Percent-escape text so that it fits the user part (RFC 3261 section 25.1, ``user``)."""
    return _percent_quote(
        text, safe="-_.!~*'()&=+$,;?/", encoding="utf-8", errors="surrogateescape"
    )


def valid_host(text: str) -> bool:
    """Tell whether text is a host of RFC 3261: name, IPv4 address or IPv6 address in brackets."""
    if not _HOST_ONLY.fullmatch(text):
        return False
    return text[0] != "[" or _valid_ipv6(text[1:-1])


def _valid_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class SipUri:
    """A SIP or SIPS URI.

    :ivar scheme: "sip" or "sips".
    :ivar user: user part as on the wire (escapes kept); "" if there is none.
    :ivar password: password as on the wire, or None.
    :ivar host: host in lower case, an IPv6 address without its brackets.
    :ivar port: port number, or None if none is given.
    :ivar params: URI parameters in order, as on the wire; the value is None where there is no "=".
    :ivar headers: headers after "?", in order, as on the wire.
    """

    scheme: str
    user: str
    password: str | None
    host: str
    port: int | None = None
    params: tuple[tuple[str, str | None], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> SipUri:
        """Read a SIP or SIPS URI.

        :raises SipParseError: 400 if it breaks the grammar, 414 if it is too long,
            416 if the scheme is another one.
        """
        return _parse_cached(text) if len(text) <= _CACHED_LENGTH else _parse(text)

    def __str__(self) -> str:
        parts = [self.scheme, ":"]
        if self.user:
            parts.append(self.user)
            if self.password is not None:
                parts += (":", self.password)
            parts.append("@")
        parts.append(self.hostport)
        for name, value in self.params:
            parts.append(f";{name}" if value is None else f";{name}={value}")
        if self.headers:
            parts.append("?" + "&".join(f"{name}={value}" for name, value in self.headers))
        return "".join(parts)

    @property
    def hostport(self) -> str:
        """Host (IPv6 in brackets) and, if given, the port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def param(self, name: str) -> str | None:
        """Return a URI parameter with its escapes undone: None if absent, "" if it has no value."""
        name = name.lower()
        for key, value in self.params:
            if key == name or unescape(key).lower() == name:
                return "" if value is None else unescape(value)
        return None

    @property
    def unescaped_user(self) -> str:
        """The user part with its percent escapes undone, once."""
        return unescape(self.user)

    @property
    def aor(self) -> str:
        """The address of record ``user@host``: user unescaped, host in lower case, no port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{unescape(self.user)}@{host}" if self.user else host

    def same_as(self, other: SipUri) -> bool:
        """Compare by the rules of RFC 3261 section 19.1.4 (which are not transitive)."""
        if (
            self.scheme != other.scheme
            or self.host != other.host
            or self.port != other.port
            or unescape(self.user) != unescape(other.user)
            or _unescaped_or_none(self.password) != _unescaped_or_none(other.password)
        ):
            return False
        return self._same_params(other) and self._same_headers(other)

    def _same_params(self, other: SipUri) -> bool:
        if not self.params and not other.params:
            return True
        mine, theirs = _comparable(self.params), _comparable(other.params)
        if any((name in mine) != (name in theirs) for name in _DECISIVE):
            return False
        return all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())

    def _same_headers(self, other: SipUri) -> bool:
        if not self.headers and not other.headers:
            return True
        # Values are compared as text: each header's own rules would need its own parser.
        mine = sorted((unescape(name).lower(), unescape(value)) for name, value in self.headers)
        return mine == sorted((unescape(n).lower(), unescape(v)) for n, v in other.headers)


def _unescaped_or_none(text: str | None) -> str | None:
    return None if text is None else unescape(text)


def _comparable(params: tuple[tuple[str, str | None], ...]) -> dict[str, str]:
    return {unescape(name).lower(): unescape(value or "").lower() for name, value in params}


@dataclass(frozen=True, slots=True)
class OtherUri:
    """A URI of another scheme (tel, im, pres, unknown ones): kept whole, never looked into.

    :ivar scheme: scheme in lower case.
    :ivar text: the whole URI as written.
    """

    scheme: str
    text: str

    def __str__(self) -> str:
        return self.text


def _parse(text: str) -> SipUri:
    if len(text) > MAX_URI:
        raise SipParseError("Request-URI Too Long", 414)
    match = _SIP_URI.fullmatch(text)
    if match is None:
        scheme = _SCHEME.match(text)
        if scheme is not None and scheme.group().lower() not in ("sip:", "sips:"):
            raise SipParseError("Unsupported URI Scheme", 416)
        raise SipParseError("Malformed SIP URI")
    scheme_text, user, password, host, port_text, params_text, headers_text = match.groups()
    if host[0] == "[":
        host = host[1:-1]
        if not _valid_ipv6(host):
            raise SipParseError("Malformed IPv6 address in URI")
    port = None
    if port_text is not None:
        port = int(port_text)
        if port > 65535:
            raise SipParseError("Port out of range in URI")
    params: tuple[tuple[str, str | None], ...] = ()
    if params_text:
        params = tuple(_param(part) for part in params_text[1:].split(";"))
    headers: tuple[tuple[str, str], ...] = ()
    if headers_text:
        headers = tuple(_header(part) for part in headers_text[1:].split("&"))
    return SipUri(scheme_text.lower(), user or "", password, host.lower(), port, params, headers)


# The same few addresses come in message after message; values are immutable, so they are shared.
_parse_cached = lru_cache(maxsize=8192)(_parse)


def _param(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    return name, value if equals else None


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def parse_uri(text: str) -> SipUri | OtherUri:
    """Read a URI of any scheme.

    :raises SipParseError: 400 if it is no URI at all, or a SIP URI that breaks the grammar.
    """
    return _any_cached(text) if len(text) <= _CACHED_LENGTH else _parse_any(text)


def _parse_any(text: str) -> SipUri | OtherUri:
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise SipParseError("Malformed URI")
    name = scheme.group()[:-1].lower()
    if name in ("sip", "sips"):
        return _parse(text)
    if len(text) > MAX_URI or scheme.end() == len(text) or not _OPAQUE.fullmatch(text):
        raise SipParseError("Malformed URI")
    return OtherUri(name, text)


_any_cached = lru_cache(maxsize=8192)(_parse_any)
