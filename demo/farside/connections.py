"""TLS connections, those we open and those we accept; both carry requests both ways."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .wire import BrokenStream, Framer, Message

_ids = itertools.count(1)


def context(server: bool, certificate: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """Return mutual TLS as a Skype for Business edge does it: 1.2, no more."""
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    result = ssl.create_default_context(purpose, cafile=str(ca))
    result.load_cert_chain(certificate, key)
    result.verify_mode = ssl.CERT_REQUIRED
    result.maximum_version = ssl.TLSVersion.TLSv1_2
    return result


@dataclass(eq=False)
class Connection:
    """One TLS connection.

    :ivar ours: we opened it.
    :ivar names: dNSNames of the peer's certificate.
    :ivar pending: what waits for a response, by (branch, method).
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ours: bool
    on_message: Callable[[Connection, Message], None]
    on_wire: Callable[[Connection, str, Message], None]
    on_trouble: Callable[[str, str], None]
    number: int = field(default_factory=lambda: next(_ids))
    pending: dict[tuple[str, str], Callable[[Message | None], None]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        certificate = self.writer.get_extra_info("peercert") or {}
        return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]

    @property
    def peer(self) -> tuple[str, int]:
        host, port = self.writer.get_extra_info("peername")[:2]
        return (host, port)

    @property
    def alive(self) -> bool:
        return not self.writer.is_closing()

    def send(self, message: Message) -> None:
        """Write a message."""
        self.on_wire(self, "sent", message)
        self.writer.write(message.encode())

    def ping(self) -> None:
        """Write a keep-alive between messages."""
        self.writer.write(b"\r\n\r\n")

    def close(self) -> None:
        self.writer.close()

    async def run(self) -> None:
        """Read until the end; then tell everybody who waits."""
        framer = Framer()
        try:
            while data := await self.reader.read(65536):
                lengthless = framer.without_length
                for message in framer.feed(data):
                    self.on_wire(self, "received", message)
                    self.on_message(self, message)
                if framer.without_length > lengthless:
                    self.on_trouble("content-length", "a message on a stream names no length")
        except BrokenStream as error:
            self.on_trouble("framing", str(error))
        except (ConnectionError, ssl.SSLError):
            pass  # an abrupt end is an end
        finally:
            self.writer.close()
            waiting, self.pending = list(self.pending.values()), {}
            for waiter in waiting:
                waiter(None)
