"""Records as octets, readable by the release before and the release after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from impfed.store.records import RecordType

_encode = msgspec.msgpack.Encoder().encode
_decoders: dict[type[Any], Any] = {}


#: First octet of records with escaped strings; no MessagePack value begins with it.
_ESCAPED = b"\xc1"


def encode(record: msgspec.Struct) -> bytes:
    """Return a record as octets: MessagePack, fields by name.

    Octets of a SIP head that are no UTF-8 stand in ``str`` as lone surrogates, which MessagePack
    refuses; such a record is written with each of them as NUL and the character of the octet's
    number, for NUL itself never stands in a SIP head.
    """
    try:
        return _encode(record)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(record)
        return _ESCAPED + _encode(_mapped(plain, _escape))


def readable(text: str) -> str:
    """Return a text with octets that were no UTF-8 replaced by U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _escape(text: str) -> str:
    return "".join(
        "\0" + chr(ord(mark) - 0xDC00) if "\udc80" <= mark <= "\udcff" else mark for mark in text
    )


def _unescape(text: str) -> str:
    first, *rest = text.split("\0")
    return first + "".join(chr(ord(part[0]) + 0xDC00) + part[1:] for part in rest)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    return value


def decode(kind: type[RecordType], data: bytes) -> RecordType:
    """Return the record that octets of :func:`encode` stand for.

    One of the next layout becomes one of ours, without what we do not know.

    :raises msgspec.DecodeError: when they do not stand for one of this kind, or for one of a
        layout that we cannot know.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    record: RecordType
    if data[:1] == _ESCAPED:
        record = msgspec.convert(_mapped(msgspec.msgpack.decode(data[1:]), _unescape), kind)
    else:
        record = decoder.decode(data)
    if record.v > kind.version:
        if record.v > kind.version + 1:
            raise msgspec.ValidationError(
                f"it has layout {record.v}, and this release knows {kind.version}"
            )
        record.v = kind.version
    return record
