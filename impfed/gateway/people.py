"""Local users who leave or get another address (SPEC section 5, last line)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
from twisted.internet.defer import Deferred, succeed

from impfed.core.errors import ImpfedError
from impfed.core.log import EventLog
from impfed.gateway.im import ImGateway
from impfed.gateway.presence import PresenceGateway
from impfed.store.api import IStore
from impfed.xmpp.jid import JID

log = EventLog("impfed.gateway")


class PeopleError(ImpfedError):
    """A user cannot be removed or renamed so; why, in words."""


class Ended(msgspec.Struct, frozen=True):
    """What one node has ended of a user.

    :ivar contacts: whom he watched.
    """

    watchers: int = 0
    contacts: tuple[str, ...] = ()
    sessions: int = 0
    ledger: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What was ended or moved, as numbers.

    :ivar silent: nodes of the cluster that did not answer, and have still what they had of him.
    """

    user: str
    now: str
    watchers: int
    contacts: int
    sessions: int
    authorizations: int
    policies: int
    ledger: int
    silent: tuple[str, ...] = ()


Elsewhere = Callable[[JID, JID | None], "Deferred[tuple[list[Ended], tuple[str, ...]]]"]
"""Has the other nodes end what they have of a user; also tells which did not answer."""


class People:
    """Ends or moves everything that the node, or its whole cluster, keeps of a local user.

    :param local_domains: exact names, lower case.
    :ivar elsewhere: reaches the other nodes of a cluster.
    :ivar subscribe: subscribes a local user to a foreign one, wherever their pair belongs.
    """

    def __init__(
        self,
        im: ImGateway,
        presence: PresenceGateway,
        store: IStore,
        local_domains: frozenset[str],
    ) -> None:
        self._im = im
        self._presence = presence
        self._store = store
        self._local_domains = local_domains
        self.elsewhere: Elsewhere = lambda local, new: succeed(([], ()))
        self.subscribe: Callable[[JID, list[JID]], None] = presence.watching.begin_all

    def remove(self, local: JID) -> Deferred[Done]:
        """End a user's subscriptions and sessions; forget his list, answers and ledger entries.

        :raises PeopleError: when he is not local.
        """
        return self._go(local, None)

    def rename(self, old: JID, new: JID) -> Deferred[Done]:
        """Give everything of a user to another address.

        A SIP dialog belongs to the address that it was made with.  So foreign users who watch the
        old one hear that it is gone; they are not asked about when they subscribe to the new one.
        Contacts are subscribed to anew, and the foreign users may be asked.

        :raises PeopleError: when one of them is not local.
        """
        if old == new:
            raise PeopleError(f"{old} has that address already")
        return self._go(old, new)

    def _go(self, local: JID, new: JID | None) -> Deferred[Done]:
        for each in filter(None, (local, new)):
            if not each.local or each.domain not in self._local_domains:
                known = ", ".join(sorted(self._local_domains))
                raise PeopleError(f"{each} is no user of a local domain ({known})")
        # What all nodes share goes last: none may take it for a change of the user's mind before.
        return self.elsewhere(local, new).addCallback(lambda said: self._here(local, new, *said))

    def end(self, local: JID, new: JID | None) -> Deferred[Ended]:
        """End what this node has of a user, and give its ledger's entries to his new address."""
        watchers = self._presence.watched.end_all(local)
        contacts = tuple(each.text for each in self._presence.watching.end_all(local))
        sessions = self._im.end_all(local)
        moved = self._store.move_ledger(local.text, new.text if new else "")
        return moved.addCallback(partial(Ended, watchers, contacts, sessions))

    def _here(
        self, local: JID, new: JID | None, others: list[Ended], silent: tuple[str, ...]
    ) -> Deferred[Done]:
        ended = self.end(local, new)
        return ended.addCallback(lambda own: self._common(local, new, [own, *others], silent))

    def _common(
        self, local: JID, new: JID | None, ended: list[Ended], silent: tuple[str, ...]
    ) -> Done:
        policies, authorizations = self._presence.policies, self._presence.authorizations
        contacts = [JID.parse(each) for one in ended for each in one.contacts]
        if new is None:
            entries, answers = policies.remove_user(local), authorizations.forget(local)
        else:
            entries = policies.rename_user(local, new)
            answers = authorizations.rename(local, new)
            self.subscribe(new, contacts)
        done = Done(
            local.text,
            new.text if new else "",
            sum(each.watchers for each in ended),
            len(contacts),
            sum(each.sessions for each in ended),
            answers,
            entries,
            sum(each.ledger for each in ended),
            silent,
        )
        log.info(
            "user_gone" if new is None else "user_renamed",
            "{local} is {what}: {watchers} watchers, {contacts} contacts, {sessions} sessions",
            local=local.text,
            what="removed" if new is None else f"{new} now",
            watchers=done.watchers,
            contacts=done.contacts,
            sessions=done.sessions,
        )
        return done
