"""Local users who leave or get another address (SPEC section 5, last line)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from twisted.internet.defer import Deferred

from impfed.core.errors import ImpfedError
from impfed.core.log import EventLog
from impfed.gateway.im import ImGateway
from impfed.gateway.presence import PresenceGateway
from impfed.store.api import IStore
from impfed.xmpp.jid import JID

log = EventLog("impfed.gateway")


class PeopleError(ImpfedError):
    """A user cannot be removed or renamed so; why, in words."""


@dataclass(frozen=True, slots=True)
class Done:
    """What was ended or moved, as numbers."""

    user: str
    now: str
    watchers: int
    contacts: int
    sessions: int
    authorizations: int
    policies: int
    ledger: int


class People:
    """Ends or moves everything that the node keeps of a local user.

    :param local_domains: exact names, lower case.
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
        presence = self._presence
        policies, authorizations = presence.policies, presence.authorizations
        watchers = presence.watched.end_all(local)
        contacts = presence.watching.end_all(local)
        sessions = self._im.end_all(local)
        if new is None:
            entries, answers = policies.remove_user(local), authorizations.forget(local)
        else:
            entries = policies.rename_user(local, new)
            answers = authorizations.rename(local, new)
            presence.watching.begin_all(new, contacts)
        done = partial(
            Done, local.text, new.text if new else "", watchers, len(contacts), sessions, answers
        )
        log.info(
            "user_gone" if new is None else "user_renamed",
            "{local} is {what}: {watchers} watchers, {contacts} contacts, {sessions} sessions",
            local=local.text,
            what="removed" if new is None else f"{new} now",
            watchers=watchers,
            contacts=len(contacts),
            sessions=sessions,
        )
        moved = self._store.move_ledger(local.text, new.text if new else "")
        return moved.addCallback(lambda count: done(entries, count))
