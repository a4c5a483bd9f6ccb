"""Cutting a byte stream into SIP messages (RFC 3261 sections 7.5 and 18.3, RFC 5626 section 3.5.1).

No IO and no clock: octets in, messages out.  The result does not depend on where the octets are
cut, work is linear in their number, and no more than one head and one body are ever held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from impfed.sip.errors import SipParseError
from impfed.sip.message import (
    SipMessage,
    SipRequest,
    SipResponse,
    answerable,
    content_length,
    parse_head,
    parse_message,
)


class Pong(Enum):
    """Asks the owner of a stream to answer a keep-alive ping (CRLFCRLF) with one CRLF."""

    PONG = "pong"


PONG: Final = Pong.PONG
"""The only :class:`Pong`."""


@dataclass(frozen=True, slots=True)
class FramingLimits:
    """What a peer may send.

    :ivar head: octets of one head.
    :ivar body: octets of one body.
    :ivar headers: header lines (folds count too) of one head.
    """

    head: int = 65536
    body: int = 262144
    headers: int = 100


# What a message may begin with: a token, or half a CRLF whose other half is to come.
_STARTS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.!%*_+`'~\r")


# A beginning up to this size is copied to what comes next, so that a shortcut sees whole messages.
_SHORT = 4096


class StreamFramer:
    """Cuts one stream into messages.

    A malformed message whose extent is known comes out like others and the stream goes on:
    :func:`~impfed.sip.message.check_request` and :func:`~impfed.sip.message.check_response`
    refuse it.  When the extent is lost, :attr:`failure` is set.

    :param limits: what the peer may send.
    :ivar failure: why nothing more can be read; ``failure.head`` is the request to answer, if any.
    :ivar shortcut: is asked before a head is read, when nothing that came before waits to be taken:
        gets octets, where the message begins and where its head ends, and returns the message's
        end if it has dealt with it, 0 if not, -1 to be asked again when more has come.
    :ivar passed: how many messages the shortcut has dealt with.
    """

    __slots__ = (
        "_body_length",
        "_buffer",
        "_crlfs",
        "_message",
        "_scanned",
        "_start_line_seen",
        "failure",
        "limits",
        "passed",
        "shortcut",
    )

    def __init__(self, limits: FramingLimits | None = None) -> None:
        self.limits = limits or FramingLimits()
        self.failure: SipParseError | None = None
        self._buffer = bytearray()
        self._scanned = 0  # octets of the buffer already searched for the end of a head
        self._start_line_seen = False  # of an unfinished head, and found good
        self._message: SipRequest | SipResponse | None = None  # head read, body outstanding
        self._body_length = 0
        self._crlfs = 0  # consecutive CRLFs seen between messages
        self.shortcut: Callable[[bytes, int, int], int] | None = None
        self.passed = 0

    @property
    def in_body(self) -> bool:
        """A head has been read and its body is not complete (for a body time-out)."""
        return self._message is not None

    @property
    def mid_message(self) -> bool:
        """Some octets of an incomplete message are held (for a time-out)."""
        return self._message is not None or len(self._buffer) > 0

    @property
    def buffered(self) -> int:
        """Octets held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[SipMessage | Pong]:
        """Take octets from the stream and return what they complete.

        At most one :class:`Pong` is returned each time, however many pings came.

        :raises SipParseError: if the stream had already failed (:attr:`failure`).
        """
        if self.failure is not None:
            raise self.failure
        out: list[SipMessage | Pong] = []
        buffer = self._buffer
        try:
            if self.shortcut is not None and self._message is None and len(buffer) <= _SHORT:
                whole = bytes(buffer) + data if buffer else data
                used = self._cut(whole, out)
                buffer[:] = whole[used:]
            elif buffer or self._message is not None:
                buffer += data
                used = self._cut(buffer, out)
                del buffer[:used]
            else:
                used = self._cut(data, out)
                if used < len(data):
                    buffer += data[used:]
        except SipParseError as error:
            error.close = True
            self.failure = error
            self._message = None
            self._buffer = bytearray()
        return out

    def _cut(self, data: bytes | bytearray, out: list[SipMessage | Pong]) -> int:
        """Take complete messages from data; return how many octets were used up."""
        position = 0
        size = len(data)
        while True:
            message = self._message
            if message is not None:
                end = position + self._body_length
                if size < end:
                    return position
                message.body = bytes(data[position:end])
                self._message = None
                position = end
                out.append(message)
            if position < size and data[position] in b"\r\n":
                position = self._blank_lines(data, position, out)
            if position >= size:
                return position
            if data[position] not in _STARTS:
                raise SipParseError("Not SIP", close=True)
            end = data.find(b"\r\n\r\n", position + self._scanned)
            if end < 0:
                self._check_unfinished(data, position)
                self._scanned = max(0, size - position - 3)
                return position
            self._scanned = 0
            self._start_line_seen = False
            self._crlfs = 0
            if self.shortcut is not None and not out and type(data) is bytes:
                stop = self.shortcut(data, position, end + 4)
                if stop < 0:
                    return position
                if stop:
                    self.passed += 1
                    position = stop
                    continue
            self._head(data, position, end + 2)
            position = end + 4

    def _head(self, data: bytes | bytearray, start: int, end: int) -> None:
        """Read a complete head and learn how long its body is."""
        if end - start > self.limits.head:
            raise SipParseError("Message Too Large", 513, close=True)
        if data.count(b"\n", start, end) > self.limits.headers + 1:
            raise SipParseError("Too many header lines", 513, close=True)
        message = parse_head(bytes(data[start:end]))
        if message.defect is not None and message.defect.close:
            raise message.defect
        length = content_length(message)
        if length is None:
            raise SipParseError("Missing Content-Length", close=True, head=answerable(message))
        if length > self.limits.body:
            raise SipParseError("Message Too Large", 513, close=True, head=answerable(message))
        self._message = message
        self._body_length = length

    def _blank_lines(
        self, data: bytes | bytearray, position: int, out: list[SipMessage | Pong]
    ) -> int:
        """Skip CRLFs between messages; two in a row are a ping."""
        start = position
        while data.startswith(b"\r\n", position):
            position += 2
        self._crlfs += (position - start) // 2
        if self._crlfs >= 2:
            self._crlfs %= 2
            if PONG not in out:
                out.append(PONG)
        rest = data[position : position + 2]
        if rest[:1] == b"\n" or (rest[:1] == b"\r" and len(rest) == 2):
            raise SipParseError("Bare CR or LF between messages", close=True)
        return position

    def _check_unfinished(self, data: bytes | bytearray, start: int) -> None:
        """Fail early on a head without end: too long, or not SIP at all."""
        size = len(data) - start
        if size > self.limits.head:
            raise SipParseError("Message Too Large", 513, close=True)
        if self._start_line_seen:
            return
        line_end = data.find(b"\n", start + self._scanned)
        if line_end < 0:
            return
        self._start_line_seen = True
        if data[line_end - 1] != 13:
            raise SipParseError("Bare LF in start line", close=True)
        if b"SIP/" not in bytes(data[start:line_end]).upper():
            raise SipParseError("Not SIP", close=True)


def parse_datagram(data: bytes, limits: FramingLimits | None = None) -> SipRequest | SipResponse:
    """Read one datagram.

    :raises SipParseError: as :func:`~impfed.sip.message.parse_message`; 513 beyond the limits.
    """
    limits = limits or FramingLimits()
    if len(data) > limits.head + limits.body:
        raise SipParseError("Message Too Large", 513)
    message = parse_message(data)
    if message.head.count("\n") > limits.headers + 1:
        raise SipParseError("Too many header lines", 513)
    return message
