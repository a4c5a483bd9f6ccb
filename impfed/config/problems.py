"""What is wrong with a configuration, in words: where, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from impfed.core.errors import ImpfedError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend.

    :ivar path: the configuration file.
    :ivar key: where in it, for example ``listener[1].transport`` (counted from 1); may be empty.
    :ivar message: what was found and why it will not do.
    :ivar allowed: what would do; empty when the message says it.
    :ivar suggestion: what was probably meant, or what to do; empty when nothing better is known.
    :ivar line: line number from 1; None when it is not known.
    """

    path: Path
    key: str
    message: str
    allowed: str = ""
    suggestion: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        text = f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.suggestion:
            text += f"; {self.suggestion}"
        return text

    def as_dict(self) -> dict[str, str | int | None]:
        """Return the problem as plain values, for JSON."""
        return {
            "file": str(self.path),
            "line": self.line,
            "key": self.key,
            "message": self.message,
            "allowed": self.allowed,
            "suggestion": self.suggestion,
        }


class ConfigErrors(ImpfedError):
    """A configuration cannot be used.

    :ivar problems: everything that is wrong with it, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Unsuitable(Exception):
    """A value will not do; raised by the readers of :mod:`impfed.config.values`.

    :ivar reason: why, when what is allowed does not say it; may be empty.
    :ivar suggestion: what was probably meant; may be empty.
    """

    def __init__(self, reason: str = "", suggestion: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.suggestion = suggestion


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a suggestion of the known word that comes closest, empty when none is close."""
    close = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""


def shown(value: object) -> str:
    """Return a TOML value as a problem quotes it: short, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an empty list" if not value else f"a list of {len(value)}"
    return f"a {type(value).__name__}"
