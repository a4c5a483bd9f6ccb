"""Test data, and one test method for each of its cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "data"


def octets(*path: str) -> bytes:
    """Return the content of a data file."""
    return DATA.joinpath(*path).read_bytes()


def table(*path: str) -> Any:
    """Return a JSON data file."""
    return json.loads(octets(*path))


def lync(name: str) -> bytes:
    """Return a wire sample of a Microsoft edge."""
    return octets("wire", "lync", name + ".sip")


def each(
    cases: Iterable[tuple[str, Any]], sentence: str
) -> Callable[[Callable[[Any, Any], None]], Callable[[type], type]]:
    """Make a class decorator that adds one test for each (name, value).

    :param sentence: docstring of each test; ``{}`` becomes the case's name.
    """

    def with_check(check: Callable[[Any, Any], None]) -> Callable[[type], type]:
        def decorate(owner: type) -> type:
            for name, value in cases:

                def test(self: Any, value: Any = value) -> None:
                    check(self, value)

                word = "".join(ch if ch.isalnum() else "_" for ch in name)
                test.__name__ = f"test_{word}"
                test.__qualname__ = f"{owner.__qualname__}.{test.__name__}"
                test.__doc__ = sentence.format(name)
                if hasattr(owner, test.__name__):
                    raise ValueError(f"two cases named {name}")
                setattr(owner, test.__name__, test)
            return owner

        return decorate

    return with_check


def request_lines(*lines: str, method: str = "OPTIONS", body: bytes = b"") -> bytes:
    """Write a well-formed request with further header lines."""
    head = [
        f"{method} sip:u@impfed.example SIP/2.0",
        "Via: SIP/2.0/TLS a.example;branch=z9hG4bK1",
        "Max-Forwards: 70",
        "From: <sip:x@a.example>;tag=1",
        "To: <sip:u@impfed.example>",
        "Call-ID: 1@a.example",
        f"CSeq: 1 {method}",
        *lines,
        f"Content-Length: {len(body)}",
    ]
    return "".join(line + "\r\n" for line in head).encode() + b"\r\n" + body
