"""What the User Options need of the node: each user's list, requests, watchers and contacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

from twisted.internet.defer import Deferred

from impfed.core.errors import ImpfedError
from impfed.xmpp.jid import JID

Decision = Literal["allow", "block"]
Default = Literal["ask", "block"]


class OptionsError(ImpfedError):
    """Something that cannot be done; says why, in words for the user."""


class Added(Enum):
    """What became of a contact that a user wanted."""

    ROSTER = "roster"  # it is on his contact list
    SUGGESTED = "suggested"  # his client was asked to put it there (XEP-0144)
    BY_HAND = "by hand"  # he has to do it himself


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a user's list.

    :ivar subject: foreign bare address, or domain without "@".
    """

    subject: str
    decision: Decision

    @property
    def is_domain(self) -> bool:
        """Whether it is for a whole domain."""
        return "@" not in self.subject


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody outside who wants to see the user, or wanted to.

    :ivar name: what he calls himself, "" if he did not say; not to be trusted.
    :ivar since: when it came or was decided, in seconds since the epoch; 0.0 if not known.
    """

    foreign: JID
    name: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Watcher:
    """Somebody outside with a subscription to the user's presence.

    :ivar sees: what he is shown: the real state ("sees"), nothing yet ("waits"), or always
        offline ("hidden").
    :ivar devices: how many of his devices watch; 0 for somebody who may see the user, and does
        not look at present.
    """

    foreign: JID
    sees: Literal["sees", "waits", "hidden"]
    name: str = ""
    devices: int = 1


@dataclass(frozen=True, slots=True)
class Contact:
    """Somebody outside whom the user watches.

    :ivar state: "approved", "pending" or "declined", as the other side decided.
    """

    foreign: JID
    state: str


@dataclass(frozen=True, slots=True)
class ForeignDomain:
    """A domain whose people can be reached.

    :ivar description: the operator's words for it, perhaps "".
    """

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that one user's page shows.

    :ivar approves: whether *allow* shows the user without a question: his home server lets us
        approve for him.  Where it does not, *allow* is the same as *ask*.
    """

    default: Default = "ask"
    entries: Sequence[Entry] = ()
    waiting: Sequence[Request] = ()
    declined: Sequence[Request] = ()
    watchers: Sequence[Watcher] = ()
    contacts: Sequence[Contact] = ()
    domains: Sequence[ForeignDomain] = ()
    approves: bool = True


class UserOptions(Protocol):
    """The node, as the page and the commands see it; ``user`` is always a local bare address."""

    def overview(self, user: JID) -> Overview:
        """Return what the user's page shows."""
        ...

    def decide(self, user: JID, subject: JID, decision: Decision) -> None:
        """Put a foreign user, or a domain (a JID without local part), on the user's list.

        :raises OptionsError: when the list is full.
        """
        ...

    def delete(self, user: JID, subject: str) -> bool:
        """Take an entry off the list; returns whether it was there."""
        ...

    def set_default(self, user: JID, default: Default) -> None:
        """Set what becomes of everybody who is not on the list."""
        ...

    def accept(self, user: JID, foreign: JID) -> Deferred[None]:
        """Let somebody see the user who asked, or was declined.

        The Deferred fails with OptionsError when the home server has to be told and cannot be.
        """
        ...

    def decline(self, user: JID, foreign: JID) -> None:
        """Do not let somebody see the user who asked."""
        ...

    def clear(self, user: JID, foreign: JID) -> None:
        """Forget a decision, so that the user is asked again."""
        ...

    def add_contact(self, user: JID, foreign: JID, name: str) -> Deferred[Added]:
        """Put somebody on the user's contact list, as far as the home server lets us.

        The Deferred fails with OptionsError when that is not possible at all.
        """
        ...

    def federated(self, domain: str) -> bool:
        """Say whether people of a domain can be reached."""
        ...

    def hosted(self, domain: str) -> bool:
        """Say whether a domain is one of our own."""
        ...
