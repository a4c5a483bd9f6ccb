"""A partner's edge worked by hand: sockets in a namespace, one SIP message at a time.

It shares no code with impfed, and does what a library would not: it breaks connections off at the worst
moment, answers over new ones, and writes whatever a test wants into a message.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from demo.certificates import Certificate

_NETWORK = 0x40000000  # CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)
_PATIENCE = 60.0


@contextmanager
def entered(netns: str) -> Iterator[None]:
    """Be in a named network namespace meanwhile; sockets made there stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        yield
        _enter(home)
    finally:
        os.close(home)
        os.close(there)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _NETWORK):
        number = ctypes.get_errno()
        raise OSError(number, f"network namespace: {os.strerror(number)}")


class Received:
    """A SIP message as it came."""

    def __init__(self, head: str, body: str) -> None:
        self.start, *lines = head.split("\r\n")
        self.lines = [line.partition(":")[::2] for line in lines if line]
        self.body = body

    def all(self, name: str) -> list[str]:
        """Return a header's values in order."""
        return [value.strip() for key, value in self.lines if key.strip().lower() == name.lower()]

    def get(self, name: str) -> str:
        """Return a header's first value."""
        return self.all(name)[0]

    @property
    def contact(self) -> str:
        """The URI in its Contact."""
        found = re.search("<([^>]*)>", self.get("Contact"))
        assert found is not None
        return found[1]

    def tag(self, name: str) -> str:
        """Return the tag of From or To."""
        return self.get(name).partition(";tag=")[2].partition(";")[0]


class Wire:
    """One TLS connection."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._data = b""

    @property
    def names(self) -> list[str]:
        """DNS names in the certificate of the other side."""
        found = (self._tls.getpeercert() or {}).get("subjectAltName", ())
        return [str(pair[1]) for pair in found if pair[0] == "DNS"]

    def send(self, *lines: str, body: str = "") -> None:
        """Write a message: its start line and headers without Content-Length, and its body."""
        octets = body.encode()
        text = "\r\n".join([*lines, f"Content-Length: {len(octets)}", "", ""])
        self._tls.sendall(text.encode() + octets)

    def answer(
        self, request: Received, status: str, *more: str, tag: str = "", body: str = ""
    ) -> None:
        """Answer a request that came here, or anywhere."""
        to = request.get("To") + (f";tag={tag}" if tag and "tag=" not in request.get("To") else "")
        lines = [f"Via: {via}" for via in request.all("Via")]
        lines += [f"From: {request.get('From')}", f"To: {to}", f"Call-ID: {request.get('Call-ID')}"]
        self.send(f"SIP/2.0 {status}", *lines, f"CSeq: {request.get('CSeq')}", *more, body=body)

    def read(self) -> Received:
        """Return the next message; keep-alives are passed over."""
        while True:
            self._data = self._data.lstrip(b"\r\n")
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if end:
                length = int(re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)[1])  # type: ignore[index]
                if len(rest) >= length:
                    self._data = rest[length:]
                    return Received(head.decode(), rest[:length].decode())
            more = self._tls.recv(65536)
            if not more:
                raise ConnectionError("the other side closed the connection")
            self._data += more

    def break_off(self) -> None:
        """End the connection with a reset, as a machine does that knows nothing of it any more."""
        self._tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket(fileno=self._tls.detach()).close()

    def close(self) -> None:
        """End the connection."""
        self._tls.close()


class HandPeer:
    """The edge: listens in a namespace, and connects out of it."""

    def __init__(self, netns: str, address: str, port: int, certificate: Certificate) -> None:
        self._netns, self.address, self.port = netns, address, port
        self._certificate = certificate
        with entered(netns):
            self._socket = socket.create_server((address, port))

    def _context(self, server: bool) -> ssl.SSLContext:
        purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
        context = ssl.create_default_context(purpose, cafile=str(self._certificate.ca))
        context.load_cert_chain(self._certificate.certificate, self._certificate.key)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def accept(self) -> Wire:
        """Take the next connection."""
        waiting = select.poll()  # a number above 1,023 is nothing for select()
        waiting.register(self._socket, select.POLLIN)
        if not waiting.poll(_PATIENCE * 1000):
            raise TimeoutError("nobody connects")
        plain, _ = self._socket.accept()
        plain.settimeout(_PATIENCE)
        return Wire(self._context(True).wrap_socket(plain, server_side=True))

    def connect(self, host: str, port: int, name: str) -> Wire:
        """Connect to where something is told to be; the certificate there has to carry a name."""
        with entered(self._netns):
            plain = socket.create_connection((host, port), _PATIENCE)
        return Wire(self._context(False).wrap_socket(plain, server_hostname=name))

    def close(self) -> None:
        """Listen no more, whoever waits for a connection."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
