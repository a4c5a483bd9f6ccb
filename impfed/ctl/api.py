"""What the control room shows of a node, and the words spoken over its socket.

Each side sends JSON objects, one a line.  The client asks ``{"command": "sessions", "arguments": []}``;
the node answers with any number of ``{"item": ...}`` and then ``{"end": true}``, or with
``{"error": "..."}``.  ``trace`` has no end: its items come until the client hangs up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from impfed.core.errors import ImpfedError
from impfed.core.trace import Tracer
from impfed.store.records import LedgerEntry

#: Longest request, in octets.
REQUEST_LIMIT = 8192

#: Where the socket is when nobody says otherwise; the default of ``[node] control_socket``.
DEFAULT_SOCKET = "/run/impfed/control.sock"

#: Commands that the node answers: what follows the name, and what it does.
COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("", "the node, its links, connections and certificates"),
    "sessions": ("", "the IM sessions"),
    "subscriptions": ("", "the presence subscriptions, both directions"),
    "where": ("MESSAGE-ID|USER", "what became of messages: both legs, codes, node, times"),
    "route": ("USER@DOMAIN", "where a message there would go now: each route's answer, hops, why"),
    "learned": ("", "the domains that open federation has learned"),
    "forget": ("DOMAIN", "forget what open federation has learned of a domain"),
    "explain": (
        "FROM TO",
        "what would happen to a message and a subscription, and why; sends nothing",
    ),
    "policy": (
        "LOCAL-USER [list | allow SUBJECT | block SUBJECT | delete SUBJECT | clear USER"
        " | default ask|block]",
        "a user's list: whom outside may see and reach him; SUBJECT is user@domain or a domain",
    ),
    "user": (
        "remove LOCAL-USER | rename LOCAL-USER NEW-ADDRESS",
        "end or move the subscriptions, list and ledger entries of a user who left or was renamed",
    ),
    "budget": (
        "[DOMAIN [unknown | forget [USER] | resume]]",
        "what may be sent to partners, and what waits; their unknown users, asked for again by"
        " forget; resume ends the pauses that its next hops asked for",
    ),
    "limits": ("", "local users at a limit, and foreign domains that were refused by one"),
    "pat-check": (
        "",
        "call every advertised address, this node's and its neighbours': which mapping is missing,"
        " crossed, or right",
    ),
    "drain": (
        "[state | stop]",
        "have this node of a cluster give everything away, so that it can be stopped unnoticed; state"
        " says how far it is, stop has it take work again",
    ),
    "trace": ("USER", "the SIP and XMPP lines of one conversation, as they pass"),
}

#: Commands that :meth:`NodeView.perform` answers, with any number of arguments.
OPERATIONS = frozenset({"explain", "policy", "user", "budget", "limits", "pat-check", "drain"})


class ControlError(ImpfedError):
    """The control socket cannot be opened, or a request cannot be answered; in words."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What was found of messages.

    :ivar found: those on their way first, then newest first; of one message there may be several.
    :ivar silent: nodes of the cluster that did not answer: what they have handled is not here.
    """

    found: list[LedgerEntry]
    silent: tuple[str, ...] = ()


class NodeView(Protocol):
    """What a node shows; ``impfed.service`` provides it."""

    @property
    def tracer(self) -> Tracer:
        """The tracer that every message passes."""
        ...

    def status(self) -> dict[str, Any]:
        """Return what ``status`` shows: plain values, times in seconds since the epoch."""
        ...

    def sessions(self) -> list[dict[str, Any]]:
        """Return a dict for each IM session."""
        ...

    def subscriptions(self) -> list[dict[str, Any]]:
        """Return a dict for each presence subscription, both directions."""
        ...

    def where(self, text: str) -> Deferred[Whereabouts]:
        """Find messages by any id of theirs or by an address on either side."""
        ...

    def route(self, address: str, sender: str = "") -> Deferred[dict[str, Any]]:
        """Return where a message to an address would go now, and why.

        :param sender: the local user who sends it, "" for any.
        """
        ...

    def learned(self) -> list[dict[str, Any]]:
        """Return a dict for each domain that open federation has learned."""
        ...

    def forget_domain(self, domain: str) -> bool:
        """Forget a learned domain; says whether it was known."""
        ...

    def perform(
        self, command: str, arguments: Sequence[str]
    ) -> list[dict[str, Any]] | Deferred[list[dict[str, Any]]]:
        """Return the items of one of :data:`OPERATIONS`; raises ControlError in words."""
        ...


class INodeView(Interface):
    """The same as :class:`NodeView`, for :mod:`zope.interface`."""

    tracer = Attribute("The tracer that every message passes (impfed.core.trace.Tracer).")

    def status() -> dict[str, Any]:
        """Return what ``status`` shows."""

    def sessions() -> list[dict[str, Any]]:
        """Return a dict for each IM session."""

    def subscriptions() -> list[dict[str, Any]]:
        """Return a dict for each presence subscription."""

    def where(text: str) -> Deferred[Whereabouts]:
        """Find messages by any id of theirs or by an address."""

    def route(address: str, sender: str = "") -> Deferred[dict[str, Any]]:
        """Return where a message to an address would go now, and why."""

    def learned() -> list[dict[str, Any]]:
        """Return a dict for each domain that open federation has learned."""

    def forget_domain(domain: str) -> bool:
        """Forget a learned domain; says whether it was known."""

    def perform(
        command: str, arguments: Sequence[str]
    ) -> list[dict[str, Any]] | Deferred[list[dict[str, Any]]]:
        """Return the items of one of OPERATIONS; raises ControlError in words."""
