"""Patterns of static routes: reversed domains, plain domains, and users at either.

``.com.domaina.*`` is a domain written backwards: it covers ``domaina.com`` and what lies under it,
and ``.*`` covers everything.  ``domaina.com`` covers exactly that domain.  ``sales-*@domaina.com``
covers some users of a domain (``*`` stands for any characters); the part behind ``@`` may be either
form.  The most common mistake is not to reverse the domain, so that is recognised and corrected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from impfed.config.problems import Unsuitable

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")

#: Names that stand at the end of a domain and never at its beginning; two letters are a country.
_TOP_LABELS = frozenset(
    (
        *("com", "net", "org", "edu", "gov", "int", "mil", "arpa", "info", "biz", "name", "pro"),
        *("io", "app", "dev", "cloud", "online", "site", "tech", "example", "test", "invalid"),
        *("localhost", "local", "internal", "intranet", "corp", "lan", "home", "onion"),
    )
)


class Breadth(IntEnum):
    """How much a pattern covers; the narrowest that matches decides."""

    EXACT = 0
    REVERSED = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern.

    :ivar text: as the file spells it, lower case.
    :ivar breadth: what its domain part covers.
    :ivar domain: the domain in its usual order; "" for everything.
    :ivar user: pattern of the user part, "" for every user.
    """

    text: str
    breadth: Breadth
    domain: str
    user: str = ""

    def covers(self, user: str, domain: str) -> bool:
        """Say whether it covers a user of a domain, both lower case."""
        if self.breadth is Breadth.EXACT:
            if domain != self.domain:
                return False
        elif self.breadth is Breadth.REVERSED and not (
            domain == self.domain or domain.endswith("." + self.domain)
        ):
            return False
        return not self.user or _user_matcher(self.user).fullmatch(user) is not None

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Sort key: narrower patterns first (users, exact domains, longer reversed ones)."""
        labels = self.domain.count(".") + 1 if self.domain else 0
        literal = len(self.user.replace("*", ""))
        return (0 if self.user else 1, int(self.breadth), -labels, -literal)

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def _user_matcher(pattern: str) -> re.Pattern[str]:
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.compile(".*".join(parts), re.DOTALL)


def parse_pattern(text: str) -> Pattern:
    """Return the pattern that a text stands for.

    :raises Unsuitable: when it is none, with the right spelling of what was probably meant.
    """
    spelt = text.strip().lower()
    user, at, place = spelt.rpartition("@")
    if at and (not user or "@" in user or any(mark.isspace() for mark in user)):
        raise Unsuitable("the part before @ is a user, with * for any characters")
    if user.strip("*") == "":
        user = ""  # "*@domain" is every user
    try:
        breadth, domain = _place(place)
    except Unsuitable as problem:
        hint = problem.suggestion.replace('write "', f'write "{user}@') if user else ""
        raise Unsuitable(problem.reason, hint or problem.suggestion) from None
    return Pattern(spelt, breadth, domain, user)


def reversed_pattern(domain: str) -> str:
    """Return the reversed pattern that covers a domain and what lies under it."""
    return "." + ".".join(reversed(domain.split("."))) + ".*"


def _place(text: str) -> tuple[Breadth, str]:
    if text in (".*", "*"):
        if text == "*":
            raise Unsuitable("a pattern begins with a dot", 'write ".*"')
        return Breadth.ALL, ""
    if not text.isascii():
        raise Unsuitable("on the wire a domain is written in ASCII")
    labels = [label for label in text.strip(".").split(".") if label != "*"]
    if not labels or not all(_LABEL.match(label) for label in labels):
        raise Unsuitable
    if "*" not in text and not text.startswith("."):
        return Breadth.EXACT, text.rstrip(".")
    wild = "*" in text
    if text.startswith(("*.", ".*.")):
        raise Unsuitable("the domain is not reversed", _write(labels))
    if text != "." + ".".join(labels) + ".*":
        reason = "a reversed domain begins with a dot" if wild else "a reversed domain ends in .*"
        raise Unsuitable(reason, _write(labels if _unreversed(labels) else labels[::-1]))
    if _unreversed(labels):
        raise Unsuitable("the domain is not reversed", _write(labels))
    return Breadth.REVERSED, ".".join(reversed(labels))


def _write(labels: list[str]) -> str:
    return f'write "{reversed_pattern(".".join(labels))}"'


def _unreversed(labels: list[str]) -> bool:
    """Whether labels stand in their usual order: the last may end a domain, the first may not."""
    return len(labels) > 1 and _ends(labels[-1]) and not _ends(labels[0])


def _ends(label: str) -> bool:
    return label in _TOP_LABELS or (len(label) == 2 and label.isalpha())
