"""The User Options on the real node: lists, subscriptions, and the home server's rosters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from twisted.internet.defer import Deferred, fail

from impfed.admin.options_api import (
    Added,
    Contact,
    Decision,
    Default,
    Entry,
    ForeignDomain,
    OptionsError,
    Overview,
    Request,
    Watcher,
)
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.gateway.presence import PresenceGateway
from impfed.gateway.watched_pair import WatchedPair
from impfed.policy.users import PolicyError
from impfed.transport.home import HomeLinks, RosterAnswer, RosterOutcome
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import message, xml_attr

log = EventLog("impfed.admin")

NS_EXCHANGE = "http://jabber.org/protocol/rosterx"

_NOT_FOR_YOU = (
    "Your server does not let us answer for you: accept the request in your chat program."
)


class NodeOptions:
    """Fulfils :class:`impfed.admin.options_api.UserOptions`.

    :param links: knows our own addresses, and what the relay reaches.
    :param home: writes to the home servers and changes rosters there.
    :param domains: the foreign domains, as configured now.
    :param hosted: the local domains.
    :param own: the node's own address for the users of a local domain, None without any.
    """

    def __init__(
        self,
        presence: PresenceGateway,
        links: HomeLinks,
        home: HomeLinks,
        ids: IdSource,
        domains: Callable[[], Sequence[ForeignDomain]],
        hosted: frozenset[str],
        own: Callable[[str], JID | None],
    ) -> None:
        self._presence = presence
        self._policies = presence.policies
        self._links = links
        self._home = home
        self._ids = ids
        self._domains = domains
        self._hosted = hosted
        self._own = own

    # -- reading -----------------------------------------------------------------------------------

    def overview(self, user: JID) -> Overview:
        """Return what the user's page shows."""
        records = self._presence.authorizations.of(user)
        pairs = {pair.foreign: pair for pair in self._presence.watched.pairs(user)}
        waiting, declined, contacts, watchers = [], [], [], []
        for record in records:
            foreign = JID.parse(record.foreign)
            name = pairs[foreign].name if foreign in pairs else ""
            if record.inbound == "pending":
                waiting.append(Request(foreign, name, record.changed_at))
            elif record.inbound == "declined":
                declined.append(Request(foreign, name, record.changed_at))
            elif record.inbound == "approved" and foreign not in pairs:
                may = self._presence.watched.gates.shows((user, foreign))
                watchers.append(Watcher(foreign, "sees" if may else "hidden", devices=0))
            if record.outbound != "none":
                contacts.append(Contact(foreign, record.outbound))
        watchers += [
            Watcher(foreign, self._sees(pair), pair.name, len(pair.watchers))
            for foreign, pair in pairs.items()
            if pair.watchers
        ]
        return Overview(
            default=self._policies.default(user),
            entries=[Entry(each.subject, each.decision) for each in self._policies.entries(user)],
            waiting=waiting,
            declined=declined,
            watchers=sorted(watchers, key=lambda each: each.foreign.text),
            contacts=contacts,
            domains=self._domains(),
            approves=self._home.can_write_rosters(user.domain),
        )

    def _sees(self, pair: WatchedPair) -> Literal["sees", "waits", "hidden"]:
        if self._presence.watched.gates.shows(pair.key):
            return "sees"
        return "waits" if any(watcher.pending for watcher in pair.watchers) else "hidden"

    def federated(self, domain: str) -> bool:
        """Say whether people of a domain can be reached."""
        relay = self._links.relay
        if relay is not None and relay.reaches(domain):
            return True
        return any(each.name == domain for each in self._domains())

    def hosted(self, domain: str) -> bool:
        """Say whether a domain is one of our own."""
        return domain in self._hosted or domain in self._links.own_domains

    # -- the list ----------------------------------------------------------------------------------

    def decide(self, user: JID, subject: JID, decision: Decision) -> None:
        """Put a foreign user or domain on the list.

        :raises OptionsError: when the list is full.
        """
        try:
            self._policies.set(user, str(subject), decision)
        except PolicyError as error:
            raise OptionsError(_sentence(str(error))) from None

    def delete(self, user: JID, subject: str) -> bool:
        """Take an entry off the list; returns whether it was there."""
        try:
            return self._policies.delete(user, subject)
        except PolicyError:
            return False

    def set_default(self, user: JID, default: Default) -> None:
        """Set what becomes of everybody else."""
        self._policies.set_default(user, default)

    # -- requests ----------------------------------------------------------------------------------

    def accept(self, user: JID, foreign: JID) -> Deferred[None]:
        """Let somebody see the user: his roster has to say so, too, or nothing is shown."""
        if not self._home.can_write_rosters(user.domain):
            return fail(OptionsError(_NOT_FOR_YOU))
        accepting: Deferred[None] = Deferred()

        def done(answer: RosterAnswer) -> None:
            if answer.done:
                self._presence.watched.approved((user, foreign))
                accepting.callback(None)
            elif answer.outcome is RosterOutcome.UNAVAILABLE:
                accepting.errback(OptionsError(_NOT_FOR_YOU))
            else:
                self._warn(user, answer)
                accepting.errback(OptionsError(_failed(answer)))

        self._home.approve(user, foreign, done)
        return accepting

    def decline(self, user: JID, foreign: JID) -> None:
        """Do not let somebody see the user; that his client still asks is no harm."""
        self._presence.watched.declined((user, foreign))
        if self._home.can_write_rosters(user.domain):
            self._home.cancel_approval(user, foreign, lambda answer: self._warn(user, answer))

    def clear(self, user: JID, foreign: JID) -> None:
        """Forget a decision."""
        self._presence.watched.clear((user, foreign))

    def _warn(self, user: JID, answer: RosterAnswer) -> None:
        if not answer.done:
            log.warn(
                "roster_refused",
                "the roster of {user} was not changed: {why}",
                user=str(user),
                why=answer.text,
            )

    # -- contacts ----------------------------------------------------------------------------------

    def add_contact(self, user: JID, foreign: JID, name: str) -> Deferred[Added]:
        """Put somebody on the contact list; where that is not possible ask the user's client."""
        adding: Deferred[Added] = Deferred()

        def done(answer: RosterAnswer) -> None:
            if answer.done:
                adding.callback(Added.ROSTER)
            elif answer.outcome is RosterOutcome.UNAVAILABLE:
                adding.callback(self._suggest(user, foreign, name))
            else:
                self._warn(user, answer)
                adding.errback(OptionsError(_failed(answer)))

        self._home.add_contact(user, foreign, name, done)
        return adding

    def _suggest(self, user: JID, foreign: JID, name: str) -> Added:
        """Ask the user's client to add a contact (XEP-0144), in words for those that cannot."""
        own = self._own(user.domain)
        if own is None:
            return Added.BY_HAND
        named = f" name='{xml_attr(name)}'" if name else ""
        item = f"<item action='add' jid='{foreign.attribute}'{named}/>"
        suggestion = message(
            user,
            own,
            id=self._ids.token(),
            type="normal",
            body=f"You wanted to add {name or foreign} to your contacts: xmpp:{foreign}?roster",
            payload=f"<x xmlns='{NS_EXCHANGE}'>{item}</x>",
        )
        return Added.SUGGESTED if self._home.send(suggestion) else Added.BY_HAND


def _failed(answer: RosterAnswer) -> str:
    if answer.outcome is RosterOutcome.UNSURE:
        return "Your server has not answered. Try again in a minute."
    return f"Your server has refused it: {answer.text}."


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
