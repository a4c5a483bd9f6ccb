"""DNS questions and answers as plain values, so that what is decided from them can be tested alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class RecordType(Enum):
    """The record types that federation looks at."""

    A = "A"
    AAAA = "AAAA"
    SRV = "SRV"
    NAPTR = "NAPTR"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a name (lower case, without a dot at the end) and a type."""

    name: str
    type: RecordType

    def __str__(self) -> str:
        return f"{self.name} {self.type.value}"


@dataclass(frozen=True, slots=True)
class Srv:
    """An SRV record (RFC 2782); the target "" stands for "." (the service is not offered)."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Naptr:
    """A NAPTR record as RFC 3263 uses it: no regular expression, the replacement is a name.

    :ivar flags: lower case; "s" leads to SRV records.
    :ivar service: upper case, for example "SIPS+D2T".
    """

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


class Outcome(Enum):
    """How a question ended."""

    FOUND = "found"
    NO_DATA = "no such record"
    NO_NAME = "no such name"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question brought.

    :ivar records: addresses as texts, :class:`Srv` or :class:`Naptr`; empty unless FOUND.
    :ivar ttl: seconds for which it may be kept.
    :ivar reason: why it failed, in words.
    """

    outcome: Outcome
    records: tuple[str | Srv | Naptr, ...] = ()
    ttl: float = 0.0
    reason: str = ""


#: Asks one question; the function is called once with the answer, perhaps before it returns.
Lookup = Callable[[Question, Callable[[Answer], None]], None]
