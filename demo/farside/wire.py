"""SIP messages as lists of header lines, and their framing on a stream."""

from __future__ import annotations

from dataclasses import dataclass, field

COMPACT = {
    "v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length",
    "c": "content-type", "e": "content-encoding", "s": "subject", "k": "supported", "o": "event",
    "u": "allow-events", "r": "refer-to", "b": "referred-by",
}  # fmt: skip


def split_values(text: str) -> list[str]:
    """Split a header value at its top-level commas."""
    values, start, depth, quoted, escaped = [], 0, 0, False, False
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char == "<":
            depth += 1
        elif char == ">":
            depth -= 1
        elif char == "," and depth == 0:
            values.append(text[start:position].strip())
            start = position + 1
    return [*values, text[start:].strip()]


def uri_of(value: str) -> str:
    """Return the URI of a From, To, Contact, Route or Record-Route value."""
    if "<" in value:
        return value.partition("<")[2].partition(">")[0]
    return value.partition(";")[0].strip()


def parameters(value: str) -> dict[str, str]:
    """Return the parameters after the address (or after the first word, as in Via)."""
    rest = value.rpartition(">")[2] if "<" in value else value.partition(";")[2]
    found = {}
    for piece in rest.split(";"):
        name, _, content = piece.strip().partition("=")
        if name:
            found[name.lower()] = content
    return found


def address_of(uri: str) -> str:
    """Return ``user@host``, host in lower case, without scheme, port and parameters."""
    text = uri.partition(":")[2].partition(";")[0].partition("?")[0]
    user, at, host = text.rpartition("@")
    if not host.startswith("["):
        host = host.partition(":")[0]
    return user + at + host.lower()


@dataclass
class Message:
    """One SIP message: start line, header lines in their order, body."""

    start: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    @property
    def is_request(self) -> bool:
        return not self.start.startswith("SIP/")

    @property
    def method(self) -> str:
        return self.start.split(" ")[0] if self.is_request else self.get("cseq").split()[-1]

    @property
    def uri(self) -> str:
        return self.start.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def reason(self) -> str:
        return self.start.split(" ", 2)[2]

    def all(self, name: str) -> list[str]:
        """Return the value of each line with that name, in order."""
        return [v for n, v in self.headers if COMPACT.get(n.lower(), n.lower()) == name]

    def get(self, name: str) -> str:
        """Return the first value, or nothing."""
        return next(iter(self.all(name)), "")

    def values(self, name: str) -> list[str]:
        """Return the values of all lines with that name, split at commas."""
        return [value for line in self.all(name) for value in split_values(line)]

    def tag(self, name: str) -> str:
        """Return the tag of From or To."""
        return parameters(self.get(name)).get("tag", "")

    @property
    def branch(self) -> str:
        via = self.values("via")
        return parameters(via[0]).get("branch", "") if via else ""

    @property
    def cseq(self) -> int:
        return int(self.get("cseq").split()[0])

    def encode(self) -> bytes:
        """Return the bytes; Content-Length is filled in where it stands, or put last."""
        headers = list(self.headers)
        names = [name.lower() for name, _ in headers]
        length = ("Content-Length", str(len(self.body)))
        if "content-length" in names:
            headers[names.index("content-length")] = length
        else:
            headers.append(length)
        lines = [self.start, *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


class BrokenStream(Exception):
    """The bytes cannot be SIP; the connection has to be closed."""


class Framer:
    """Cuts a stream into messages. ``without_length`` counts those that named no length."""

    def __init__(self) -> None:
        self._buffer = b""
        self.without_length = 0

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes, return the messages that are complete now."""
        self._buffer += data
        messages: list[Message] = []
        while True:
            self._buffer = self._buffer.lstrip(b"\r\n")
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                if len(head) > 65536:
                    raise BrokenStream("a head without an end")
                return messages
            message = self._head(head)
            length = message.get("content-length")
            if not length:
                self.without_length += 1
            if len(rest) < int(length or 0):
                return messages
            message.body = rest[: int(length or 0)]
            self._buffer = rest[int(length or 0) :]
            messages.append(message)

    @staticmethod
    def _head(head: bytes) -> Message:
        try:
            first, *lines = head.decode("utf-8").split("\r\n")
        except UnicodeDecodeError as error:
            raise BrokenStream(f"a head that is not UTF-8: {error}") from error
        if "SIP/2.0" not in first or len(first.split(" ")) < 3:
            raise BrokenStream(f"no start line: {first[:80]!r}")
        headers: list[tuple[str, str]] = []
        for line in lines:
            if line[:1] in " \t" and headers:
                headers[-1] = (headers[-1][0], headers[-1][1] + " " + line.strip())
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise BrokenStream(f"no header line: {line[:80]!r}")
            headers.append((name.strip(), value.strip()))
        return Message(first, headers)
