"""Which domains are federated with over XMPP, and in which direction (SPEC section 8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from impfed.config.s2s import covers
from impfed.xmpp.jid import JidError
from impfed.xmpp.s2s_names import ascii_domain

#: Answers that are remembered.
_REMEMBERED = 10000


@dataclass(frozen=True, slots=True)
class DomainException:
    """An exception that inverts what holds for everybody else.

    :ivar name: a domain, or ``*.domain`` for it and everything under it.
    :ivar direction: "in", "out" or "both".
    """

    name: str
    direction: str = "both"

    def covers(self, domain: str) -> bool:
        """Whether a domain (lower case, A-labels) is meant."""
        return covers(self.name, domain)


class XmppPolicy:
    """Says of a foreign domain why stanzas may not pass, in each direction.

    :param allow: what holds for domains without an exception.
    :param own: our own domains, exact names; they are never foreign.
    :param sip: domains that are federated with over SIP, and therefore not over XMPP.
    """

    def __init__(
        self,
        allow: bool,
        exceptions: Iterable[DomainException] = (),
        own: Iterable[str] = (),
        sip: Iterable[str] = (),
    ) -> None:
        self.allow = allow
        self.exceptions = tuple(exceptions)
        self._own = frozenset(map(_name, own))
        self._sip = frozenset(map(_name, sip))
        self._known: dict[tuple[str, bool], str] = {}

    def refusal(self, remote: str, incoming: bool) -> str:
        """Say why a domain is refused in a direction, in words; "" when it is not."""
        key = (remote, incoming)
        words = self._known.get(key)
        if words is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            words = self._known[key] = self._decide(_name(remote), incoming)
        return words

    def _decide(self, name: str, incoming: bool) -> str:
        if name in self._own:
            return f"{name} is a local domain"
        if name in self._sip:
            return f"{name} is federated with over SIP"
        direction = "in" if incoming else "out"
        for exception in self.exceptions:
            if exception.direction in (direction, "both") and exception.covers(name):
                if self.allow:
                    return f"policy: {name} is excepted from federation by {exception.name}"
                return ""
        return "" if self.allow else f"policy: {name} is not among the federated domains"


def _name(domain: str) -> str:
    try:
        return ascii_domain(domain)
    except JidError:
        return domain.lower()
