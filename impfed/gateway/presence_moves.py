"""Subscriptions that come from other nodes of a cluster, and go to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from impfed.cluster.ownership import Leaves
from impfed.gateway.watched_pair import WatchedPair
from impfed.gateway.watcher import Watcher
from impfed.store.api import Change, Put
from impfed.store.records import (
    AuthorizationRecord,
    Decision,
    InboundSubscriptionRecord,
    OutboundSubscriptionRecord,
    PolicyDefaultRecord,
    PolicyEntryRecord,
    Record,
)
from impfed.xmpp.jid import JID

if TYPE_CHECKING:
    from impfed.gateway.contact import Contact
    from impfed.gateway.presence import PresenceGateway

#: Answers with which a pair counts towards a user's limits.
_COUNTED: tuple[Decision, ...] = ("pending", "approved")

#: By node the keys of the records that go there, each with what makes this node forget it.
Leaving = dict[str, dict[str, Callable[[], None]]]


class PresenceMoves:
    """Takes subscriptions in and gives them away; nothing here is sent or written by itself."""

    def __init__(self, presence: PresenceGateway) -> None:
        self._presence = presence
        self._watched = presence.watched
        self._watching = presence.watching

    def link_up(self, domains: frozenset[str]) -> None:
        """A home server with these local domains is reachable, from whichever node."""
        self._presence.link_up(domains)

    def resume(self) -> None:
        """Go on after a time in which requests of the far side were refused."""
        self._presence.resume()

    # -- coming ------------------------------------------------------------------------------------

    def adopt(
        self,
        inbound: Sequence[InboundSubscriptionRecord],
        outbound: Sequence[OutboundSubscriptionRecord],
    ) -> None:
        """Serve these from now on, and have what was missed asked for, at the partners' pace."""
        self._watched.take_in([record for record in inbound if self._watcher(record.key) is None])
        self._watching.take_in([record for record in outbound if not self._stays(record)])

    def _stays(self, record: OutboundSubscriptionRecord) -> bool:
        """Say whether a pair is served here already, and have the store know by which dialog.

        Who has lost a record may have subscribed anew before it comes back, which another node's
        record has kept out of the store.
        """
        contact = self._watching.contact(_pair(record))
        if contact is not None and _call_id(contact.record()) != _call_id(record):
            contact.keep()
        return contact is not None

    # -- going -------------------------------------------------------------------------------------

    def watchers_leaving(self, leaves: Leaves) -> Leaving:
        """Return the subscriptions of foreign users that go to other nodes."""
        leaving: Leaving = {}
        for pair in self._watched.all_pairs():
            owner = leaves((pair.local.text, pair.foreign.text))
            if owner:
                found = leaving.setdefault(owner, {})
                for watcher in pair.watchers:
                    found[watcher.record().key] = partial(self._drop_pair, pair)
        return leaving

    def contacts_leaving(self, leaves: Leaves) -> Leaving:
        """Return the subscriptions of local users that go to other nodes."""
        leaving: Leaving = {}
        for contact in self._watching.contacts_now():
            pair = (contact.local.text, contact.foreign.text)
            if owner := leaves(pair):
                leaving.setdefault(owner, {})["|".join(pair)] = partial(self._drop, contact)
        return leaving

    def count(self) -> int:
        """Return how many subscriptions there are, both ways."""
        return len(self._watchers()) + len(self._watching.contacts_now())

    def lost(self, kind: str, key: str) -> None:
        """Forget one record that another node has taken over."""
        if kind == InboundSubscriptionRecord.kind:
            watcher = self._watcher(key)
            if watcher is not None:
                self._drop_pair(watcher.pair)
        elif kind == OutboundSubscriptionRecord.kind:
            local, _, foreign = key.partition("|")
            contact = self._watching.contact((JID.parse(local), JID.parse(foreign)))
            if contact is not None:
                self._drop(contact)

    def drop(self) -> None:
        """Forget everything."""
        for pair in self._watched.all_pairs():
            self._drop_pair(pair)
        for contact in self._watching.contacts_now():
            self._drop(contact)

    def _watcher(self, key: str) -> Watcher | None:
        """Return the subscription whose record has a key, if it is served here."""
        call_id, tag = key.split("|")[:2]
        found = self._watched.around.dialogs.owner(call_id, tag)
        return found if isinstance(found, Watcher) else None

    def _drop_pair(self, pair: WatchedPair) -> None:
        for watcher in pair.watchers:
            self._withdraw(watcher)
            watcher.let_go()
        pair.watchers = ()
        self._watched.forget(pair)

    def _drop(self, contact: Contact) -> None:
        self._withdraw(contact)
        contact.let_go()

    def _withdraw(self, owner: Watcher | Contact) -> None:
        """What waits for the partner's budget is not sent by this node any more."""
        self._watched.around.stack.withdraw(owner.foreign.domain, owner.dialog_key[0])

    def kept(self) -> Iterator[Change]:
        """Yield what has to be in the store, as it is when it is asked for."""
        yield from (Put(each.record()) for each in self._watchers() if each.stands)
        for contact in self._watching.contacts_now():
            if self._watching.contact((contact.local, contact.foreign)) is contact:
                yield Put(contact.record())

    def _watchers(self) -> list[Watcher]:
        return [watcher for pair in self._watched.all_pairs() for watcher in pair.watchers]


class PairsElsewhere:
    """Counts the pairs of a local user that other nodes serve, by the answers that all nodes know.

    :param over_sip: whether a foreign domain is reached over SIP.
    """

    def __init__(self, presence: PresenceGateway, over_sip: Callable[[str], bool]) -> None:
        self._presence = presence
        self._over_sip = over_sip

    def watchers(self, local: JID) -> int:
        """Return how many foreign users watch him, or may, beside those who are served here."""
        known = sum(record.inbound in _COUNTED for record in self._of(local))
        return max(0, known - len(self._presence.watched.pairs(local)))

    def contacts(self, local: JID) -> int:
        """Return how many he watches, or has asked to, beside those who are watched from here."""
        known = sum(record.outbound in _COUNTED for record in self._of(local))
        return max(0, known - self._presence.watching.here(local))

    def _of(self, local: JID) -> Iterator[AuthorizationRecord]:
        records = self._presence.authorizations.of(local)
        return (each for each in records if self._over_sip(each.foreign.rpartition("@")[2]))


class PresenceCommons:
    """Keeps the authorizations and lists of all users (a :class:`~impfed.gateway.commons.Keeper`)."""

    kinds: tuple[type[Record], ...] = (AuthorizationRecord, PolicyEntryRecord, PolicyDefaultRecord)

    def __init__(self, presence: PresenceGateway) -> None:
        self._authorizations = presence.authorizations
        self._policies = presence.policies
        self._watched = presence.watched

    def records(self, kind: type[Record]) -> Iterable[Record]:
        """Return what is in memory."""
        if kind is AuthorizationRecord:
            return self._authorizations.all()
        return (record for record in self._policies.records() if type(record) is kind)

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        """Take in what another node has changed; who is concerned is shown what he may see now."""
        if kind is AuthorizationRecord:
            if isinstance(record, AuthorizationRecord):
                self._authorizations.merge(record)
            else:
                self._authorizations.gone(key)
            local, _, foreign = key.partition("|")
            self._watched.reconsider((JID.parse(local), JID.parse(foreign)))
        else:
            assert record is None or isinstance(record, PolicyEntryRecord | PolicyDefaultRecord)
            self._policies.changed(key, record)


def _pair(record: OutboundSubscriptionRecord) -> tuple[JID, JID]:
    return (JID.parse(record.local), JID.parse(record.foreign))


def _call_id(record: OutboundSubscriptionRecord) -> str:
    return "" if record.dialog is None else record.dialog.call_id
