"""We watch them: a local user's contacts at foreign domains, one SUBSCRIBE for each pair (SPEC 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from impfed.core.log import EventLog
from impfed.gateway.authorization import Authorizations, Pair
from impfed.gateway.contact import Contact
from impfed.gateway.partner import Partner
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.availability import Kind
from impfed.interwork.errors import Condition
from impfed.sip.subscription import Phase, RetryPolicy, Subscriber, Watching
from impfed.store.api import Delete
from impfed.store.records import Memo, OutboundSubscriptionRecord
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, error_reply, presence, presence_error

log = EventLog("impfed.gateway")

#: Subscriptions of one domain that are refreshed in a second after a restart.  A Microsoft partner
#: that has not listed us by name bears 20 messages a second, and texts need their share.
PACE_DISCOVERED, PACE = 10.0, 100.0

#: Answers to SUBSCRIBE that a presentity gives for good (RFC 8048 section 5.2.2).
_FINAL = frozenset({403, 489, 603})


class WatchingSide:
    """Every contact of every local user."""

    def __init__(self, around: Surroundings, authorizations: Authorizations) -> None:
        self.around = around
        self.authorizations = authorizations
        self._contacts: dict[JID, dict[JID, Contact]] = {}  # by local, then by foreign
        #: Whether a pair stays with this node of a cluster.
        self.mine: Callable[[JID, JID], bool] = lambda local, foreign: True
        self._online: dict[JID, set[str]] = {}
        self._last_used: dict[JID, float] = {}
        self._watching: dict[str, Watching] = {}
        self._partners: dict[str, Partner] = {}
        #: Called with a pair that the local user has begun or ceased to watch.
        self.contact_list_changed: Callable[[Pair], object] = lambda pair: None
        #: How many people a local user watches by other ways than SIP.
        self.elsewhere: Callable[[JID], int] = lambda local: 0

    def watching(self, kind: Kind) -> Watching:
        """Return what all subscriptions at domains of a kind share."""
        watching = self._watching.get(kind.name)
        if watching is None:
            final = _FINAL - {403} if kind.refuses_by_403 else _FINAL
            watching = self._watching[kind.name] = Watching(
                self.around.ids,
                retry=RetryPolicy(final_statuses=final),
                expires=self.around.config.presence.expires,
            )
        return watching

    def partner(self, domain: str) -> Partner:
        """Return what is known of a foreign domain."""
        partner = self._partners.get(domain)
        if partner is None:
            interval = self._interval(domain)
            partner = self._partners[domain] = Partner(self.around, domain, interval)
        return partner

    def flow_closed(self, flow: Flow) -> None:
        """A connection that was open is gone."""
        for partner in list(self._partners.values()):
            partner.flow_closed(flow)

    def contact(self, key: Pair) -> Contact | None:
        """Return a pair's contact."""
        contacts = self._contacts.get(key[0])
        return None if contacts is None else contacts.get(key[1])

    # -- from the local user -----------------------------------------------------------------------

    def subscribe(self, stanza: Stanza) -> None:
        """The local user wants to see the foreign one."""
        key = (stanza.from_.bare, stanza.to.bare)
        contact = self.contact(key)
        if contact is None:
            if self._full(key[0]):
                count = self.contacts(key[0])
                text = f"you have {count} contacts at other organisations already"
                self.around.home.send(error_reply(stanza, "resource-constraint", "wait", text))
                return
            contact = self._make(key)
            self.contact_list_changed(key)
        self._last_used[key[0]] = self.around.timers.seconds()
        if contact.live and self.authorizations.outbound(key) == "approved":
            self._say(key, "subscribed")
            contact.show_again()
            return
        self.authorizations.decide_outbound(key, "pending")
        contact.ask(stanza.id)

    def unsubscribe(self, key: Pair) -> None:
        """The local user does not want to see the foreign one any more."""
        self.authorizations.decide_outbound(key, "none")
        contact = self.contact(key)
        if contact is not None:
            contact.unsubscribe()

    def probe(self, key: Pair) -> None:
        """The local user logged in, and his server asks how the contact is."""
        contact = self.contact(key)
        if contact is None:
            if self.authorizations.outbound(key) == "declined":
                self._say(key, "unsubscribed")
                return
            if self._full(key[0]):
                return
            # His roster says that he may see the contact; we have lost that, or never knew.
            contact = self._make(key)
            self.contact_list_changed(key)
        self._last_used[key[0]] = self.around.timers.seconds()
        contact.prepare()
        contact.come_back()

    def local_presence(self, local: JID, resource: str, available: bool) -> None:
        """A sign of the local user, or that one of his clients has gone."""
        if local not in self._contacts:
            return
        self.sign(local)
        online = self._online.setdefault(local, set())
        if available:
            online.add(resource)
            return
        known = bool(online)
        online.discard(resource)
        if not resource:
            online.clear()
        if known and not online:
            for contact in self._contacts[local].values():
                contact.rest()

    def sign(self, local: JID) -> None:
        """A local user has done something: he is there."""
        if local in self._contacts:
            self._last_used[local] = self.around.timers.seconds()

    def last_used(self, local: JID) -> float:
        """When a local user last gave a sign of being there."""
        return self._last_used.get(local, 0.0)

    def logged_out(self, local: JID, now: float) -> bool:
        """Whether the local user counts as gone: no client known, and no sign for long."""
        if self._online.get(local):
            return False
        return now - self.last_used(local) > self.around.config.presence.logout_after

    # -- from the far side -------------------------------------------------------------------------

    def allowed(self, contact: Contact) -> None:
        """The foreign user lets the local one see him; told once, if the home server takes it."""
        key = (contact.local, contact.foreign)
        if self._say(key, "subscribed"):
            self.authorizations.decide_outbound(key, "approved")
            contact.show_again()

    def may_show(self, contact: Contact) -> bool:
        """Whether the foreign user has allowed the local one to see him."""
        return self.authorizations.outbound((contact.local, contact.foreign)) == "approved"

    def refused(self, contact: Contact, words: str) -> None:
        """The foreign user does not, for good."""
        key = (contact.local, contact.foreign)
        self.authorizations.decide_outbound(key, "declined")
        self._say(key, "unsubscribed", words)

    def unsubscribed(self, contact: Contact, words: str = "") -> None:
        """There is nothing to wait for any more, nor anything that stands for later.

        :param words: why, where it was not the local user's own wish.
        """
        key = (contact.local, contact.foreign)
        self.authorizations.decide_outbound(key, "none")
        self._say(key, "unsubscribed", words)

    def delayed(self, contact: Contact, stanza_id: str, why: Condition, words: str) -> None:
        """A first request has not got through yet: the local user is told what hinders it."""
        self.around.metrics.count("presence.out.delayed")
        error = presence_error(
            contact.local, contact.foreign, stanza_id, why.condition, why.type, words
        )
        self.around.home.send(error)

    def _say(self, key: Pair, type: str, words: str = "") -> bool:
        local, foreign = key
        return self.around.home.send(presence(local, foreign, type=type, status=words))

    def end_all(self, local: JID) -> list[JID]:
        """End every subscription of a local user who is no more; returns whom he watched."""
        contacts = list(self._contacts.get(local, {}).values())
        for contact in contacts:
            contact.unsubscribe()
        return [contact.foreign for contact in contacts]

    def begin_all(self, local: JID, foreign: Iterable[JID]) -> None:
        """Subscribe a local user, under his new address, to those whom he watched."""
        self._last_used[local] = self.around.timers.seconds()
        for each in foreign:
            key = (local, each)
            if self.contact(key) is None:
                contact = self._make(key)
                self.authorizations.decide_outbound(key, "pending")
                contact.prepare()
                contact.subscribe()

    def contacts(self, local: JID) -> int:
        """Return how many foreign contacts a local user watches."""
        return self.here(local) + self.elsewhere(local)

    def here(self, local: JID) -> int:
        """Return how many of them this node watches for him over SIP."""
        return len(self._contacts.get(local, ()))

    def at_limit(self) -> dict[JID, int]:
        """Return the local users who may not watch one contact more, with their contacts."""
        limit = self.around.config.presence.contacts_per_user
        if limit is None:
            return {}
        known = {*self._contacts, *self.authorizations.locals()}
        return {who: count for who in known if (count := self.contacts(who)) >= limit}

    def _full(self, local: JID) -> bool:
        limit = self.around.config.presence.contacts_per_user
        if limit is None or self.contacts(local) < limit:
            return False
        self.around.metrics.count("presence.out.contacts_limit")
        log.warn("contacts_limit", "{local} has {limit} contacts", local=str(local), limit=limit)
        return True

    def on_contact_list(self, key: Pair) -> bool:
        """Whether the local user of a pair watches the foreign one, or wants to."""
        contact = self.contact(key)
        return contact is not None and contact.subscriber.phase is not Phase.ENDING

    # -- life --------------------------------------------------------------------------------------

    def _make(self, key: Pair) -> Contact:
        contact = self._contact(*key)
        contact.address()
        self._enter(contact)
        return contact

    def _contact(self, local: JID, foreign: JID) -> Contact:
        subscriber = Subscriber(self.watching(self.around.kind_of(foreign.domain)))
        return Contact(self, local, foreign, self.partner(foreign.domain), subscriber)

    def _enter(self, contact: Contact) -> None:
        contact.partner.add(contact)
        self._contacts.setdefault(contact.local, {})[contact.foreign] = contact

    def forget(self, contact: Contact) -> None:
        """A contact is done with."""
        if not contact.partner.forget(contact):
            self._partners.pop(contact.foreign.domain, None)
        contacts = self._contacts.get(contact.local, {})
        contacts.pop(contact.foreign, None)
        if not contacts:
            self._contacts.pop(contact.local, None)
            self._online.pop(contact.local, None)
            self._last_used.pop(contact.local, None)
        self.contact_list_changed((contact.local, contact.foreign))

    def load(self, records: Iterable[OutboundSubscriptionRecord], memo: Memo) -> None:
        """Take in the subscriptions that stood, sharing by ``memo``; their dialogs are known at once."""
        now, ending = self.around.timers.seconds(), Phase.ENDING.name
        for record in records:
            key = (JID.parse(record.local), JID.parse(record.foreign))
            if record.state == ending or self.around.domain(key[1].domain) is None:
                change = Delete(OutboundSubscriptionRecord, record.key)
                self.around.store.write([change])
                continue
            record.share(memo)
            if record.last_used > self.last_used(key[0]):
                self._last_used[key[0]] = record.last_used
            contact = self._contact(*key)
            contact.restore(record, now)
            self._enter(contact)

    def take_in(self, records: Sequence[OutboundSubscriptionRecord]) -> None:
        """Serve subscriptions of another node from now on; their refreshes move them here."""
        self.load(records, {})
        now = self.around.timers.seconds()
        for record in sorted(records, key=lambda record: -record.last_used):
            contact = self.contact((JID.parse(record.local), JID.parse(record.foreign)))
            if contact is None:
                continue
            if contact.wanted and not self.logged_out(contact.local, now):
                self.partner(contact.foreign.domain).refresh_also(contact)
            else:
                contact.rest()

    def contacts_now(self) -> list[Contact]:
        """Return every subscription."""
        return [each for contacts in self._contacts.values() for each in contacts.values()]

    def resume(self) -> None:
        """Refresh what stood, inside the dialogs: who was there most recently comes first."""
        now = self.around.timers.seconds()
        there: dict[str, list[Contact]] = {}
        for local in sorted(self._contacts, key=self.last_used, reverse=True):
            gone = self.logged_out(local, now)
            for contact in self._contacts[local].values():
                if not self.mine(local, contact.foreign):
                    continue  # the node that it goes to sees to it
                if gone or not contact.wanted:
                    contact.rest()
                else:
                    there.setdefault(contact.foreign.domain, []).append(contact)
        for domain, contacts in there.items():
            self.partner(domain).refresh(contacts)

    def _interval(self, name: str) -> float:
        """Return the seconds between two refreshes at a domain."""
        domain = self.around.domain(name)
        pace = 0 if domain is None else domain.presence_pace
        if pace is None:
            return 0.0
        discovered = self.around.kind_of(name).refuses_by_403
        return 1.0 / (pace or (PACE_DISCOVERED if discovered else PACE))

    def link_up(self, domains: frozenset[str]) -> None:
        """A home server is reachable again: its users are shown what they may have missed."""
        for contact in self.contacts_now():
            if contact.local.domain in domains and contact.wanted:
                contact.settle()
                contact.show_again()

    def view(self) -> list[dict[str, object]]:
        """Return all subscriptions, for ``impfedctl subscriptions``."""
        return [contact.view() for contact in self.contacts_now()]
