"""TLS records in and out of memory with few calls: all that has come is read at once, and so written.

pyOpenSSL's own ``recv`` makes a buffer for every record and an exception at the end of each turn, and
Twisted asks it record by record.  These functions call the same OpenSSL through its bindings.  They
look at private attributes of :class:`OpenSSL.SSL.Connection`, hence this module, with tests for it,
and :data:`AVAILABLE` to say whether everything is as expected; where it is not, Twisted's way serves.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

try:
    from OpenSSL._util import ffi, lib
except ImportError:  # another pyOpenSSL
    ffi = lib = None

_NAMES = (
    "BIO_read", "BIO_write", "SSL_ERROR_WANT_READ", "SSL_get_error", "SSL_read", "SSL_write"
)  # fmt: skip

#: Octets of plain text that one record may hold.
RECORD = 2**14

_SIZE = 2**17


def _available() -> bool:
    if lib is None or not all(hasattr(lib, name) for name in _NAMES):
        return False
    connection: Any = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    return all(hasattr(connection, name) for name in ("_ssl", "_into_ssl", "_from_ssl"))


#: Whether the functions of this module can be used with the pyOpenSSL that is installed.
AVAILABLE = _available()

# One for all connections: it never holds anything from one call to the next.
_BUFFER: Any = ffi.new("char[]", _SIZE) if AVAILABLE else None


def decrypt(connection: Any, data: bytes) -> tuple[bytes, bool]:
    """Give a connection what came from its peer and return what that says.

    :param connection: an ``SSL.Connection`` on memory whose handshake is done.
    :return: plain text; and whether more may come, which is not so when the peer has ended TLS or
        broken it: ``connection.recv`` says which.
    """
    ssl = connection._ssl
    if lib.BIO_write(connection._into_ssl, data, len(data)) != len(data):
        return b"", False
    read = lib.SSL_read
    parts: list[bytes] = []
    filled = 0
    while (count := read(ssl, _BUFFER + filled, _SIZE - filled)) > 0:
        filled += count
        if filled > _SIZE - RECORD:
            parts.append(ffi.buffer(_BUFFER, filled)[:])
            filled = 0
    more = lib.SSL_get_error(ssl, count) == lib.SSL_ERROR_WANT_READ
    parts.append(ffi.buffer(_BUFFER, filled)[:])
    return (parts[0] if len(parts) == 1 else b"".join(parts)), more


def encrypt(connection: Any, data: bytes) -> int:
    """Give a connection plain text for its peer; return how many octets it has taken.

    That is less than all when TLS has to read first, or is broken: ``connection.send`` says which.
    """
    ssl = connection._ssl
    sent = 0
    while sent < len(data):
        part = data if len(data) <= RECORD else data[sent : sent + RECORD]
        count = lib.SSL_write(ssl, part, len(part))
        if count <= 0:
            break
        sent += count
    return sent


def outgoing(connection: Any) -> bytes:
    """Return what is to be sent to the peer; empty for nothing."""
    parts: list[bytes] = []
    while (count := lib.BIO_read(connection._from_ssl, _BUFFER, _SIZE)) > 0:
        parts.append(ffi.buffer(_BUFFER, count)[:])
        if count < _SIZE:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)
