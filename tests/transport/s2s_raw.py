"""A peer that says whatever a test wants, on a blocking socket in a thread of its own."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

from impfed.testing.pki import Issued
from impfed.xmpp.dialback import DialbackKeys

HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server'"
    " xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'"
    " from='{from_}' to='{to}' version='1.0'>"
)
STARTTLS = b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


class RawPeer:
    """One connection.

    :ivar got: everything that came since the last :meth:`forget`.
    :ivar closed: whether the other side has closed.
    """

    def __init__(self, port: int, from_: str = "a.example", to: str = "impfed.example") -> None:
        self.socket: Any = socket.create_connection(("127.0.0.1", port), 5)
        self.socket.settimeout(0.02)
        self.from_, self.to = from_, to
        self.got = b""
        self.closed = False

    def send(self, data: bytes) -> None:
        """Send, unless the other side has closed."""
        self.socket.settimeout(5)
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.closed = True
        finally:
            self.socket.settimeout(0.02)

    def send_all(self, chunks: Iterable[bytes]) -> None:
        """Send pieces, reading what comes meanwhile; stop when the other side has closed."""
        for chunk in chunks:
            if self.closed:
                return
            self.send(chunk)

    def read(self, seconds: float = 1.0, until: bytes = b"") -> bytes:
        """Read until something has come, or the connection is closed, or time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.closed:
            if until and until in self.got:
                break
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                continue
            except (ConnectionResetError, ssl.SSLError):
                data = b""
            self.closed = not data
            self.got += data
        return self.got

    def forget(self) -> None:
        """Start a new page."""
        self.got = b""

    def open(self) -> str:
        """Send a header, read header and features; return the stream id."""
        self.forget()
        self.send(HEADER.format(from_=self.from_, to=self.to).encode())
        got = self.read(2, b"</stream:features>").decode()
        self.forget()
        found = re.search(r" id='([^']+)'", got)
        return found[1] if found else ""

    def secure(self, certificate: Issued | None) -> str:
        """Begin TLS and open the stream anew."""
        self.open()
        self.send(STARTTLS)
        self.read(2, b"<proceed")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(certificate.certificate, certificate.key)
        self.socket.settimeout(5)
        self.socket = context.wrap_socket(self.socket, server_hostname=self.to)
        self.socket.settimeout(0.02)
        return self.open()

    def prove(self, secret: str, stream_id: str) -> bytes:
        """Prove the domain by dialback; the domain's own server must be there."""
        key = DialbackKeys(secret).key(self.to, self.from_, stream_id)
        self.send(f"<db:result from='{self.from_}' to='{self.to}'>{key}</db:result>".encode())
        answer = self.read(5, b"<db:result")
        self.forget()
        return answer

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def generated(spec: dict[str, Any]) -> Iterator[bytes]:
    """Yield what a generator of the vectors describes, in pieces."""
    yield spec["prefix"].encode()
    repeat, count = spec["repeat"], spec["count"]
    step = max(1, 65536 // max(1, len(repeat)))
    for start in range(0, count, step):
        numbers = range(start, min(count, start + step))
        if "%d" in repeat:
            yield "".join(repeat.replace("%d", str(number)) for number in numbers).encode()
        else:
            yield (repeat * len(numbers)).encode()
    yield spec["suffix"].encode()
