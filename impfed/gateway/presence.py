"""Presence between local users and foreign SIP domains, both directions (SPEC section 5)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.core.errors import RemoteError
from impfed.gateway.authorization import Authorizations
from impfed.gateway.presence_in import WatchedSide
from impfed.gateway.presence_out import WatchingSide
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.availability import Availability
from impfed.policy.limits import PENDING_COUNTS_FOR
from impfed.policy.users import UserPolicies
from impfed.sip.message import SipRequest
from impfed.sip.transaction import ServerTransaction
from impfed.store.api import IStore
from impfed.store.records import (
    AuthorizationRecord,
    InboundSubscriptionRecord,
    Memo,
    OutboundSubscriptionRecord,
    PolicyDefaultRecord,
    PolicyEntryRecord,
)
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, error_of, error_reply

_NICK = "http://jabber.org/protocol/nick"


class PresenceGateway:
    """Sends every SUBSCRIBE and every presence stanza to the direction that it belongs to.

    :param around: the node's collaborators.
    :ivar authorizations: what the two people of a pair have allowed each other.
    :ivar policies: the local users' own lists.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        seconds = around.timers.seconds
        self.authorizations = Authorizations(around.store, seconds)
        self.policies = UserPolicies(around.store, seconds)
        self.watching = WatchingSide(around, self.authorizations)
        on_contact_list = self.watching.on_contact_list
        self.watched = WatchedSide(around, self.authorizations, self.policies, on_contact_list)
        self.watching.contact_list_changed = self.watched.reconsider
        self._stanzas: dict[str, Callable[[Stanza], None]] = {
            "": partial(self._presence, True),
            "unavailable": partial(self._presence, False),
            "subscribe": self.watching.subscribe,
            "unsubscribe": lambda stanza: self.watching.unsubscribe(_pair(stanza)),
            "probe": lambda stanza: self.watching.probe(_pair(stanza)),
            "subscribed": lambda stanza: self.watched.approved(_pair(stanza)),
            "unsubscribed": lambda stanza: self.watched.declined(_pair(stanza)),
            "error": self._error,
        }

    def subscribe_arrived(
        self,
        transaction: ServerTransaction,
        request: SipRequest,
        flow: Flow,
        local: JID,
        foreign: JID,
    ) -> None:
        """Take a SUBSCRIBE outside any dialog.

        :raises RemoteError: when it is refused at once.
        """
        self.watched.subscribe_arrived(transaction, request, flow, local, foreign)

    def stanza_arrived(self, stanza: Stanza) -> None:
        """Take a presence stanza of a local user to a foreign one; unknown types are dropped."""
        handle = self._stanzas.get(stanza.type)
        if handle is None or not stanza.from_.local or not stanza.to.local:
            return
        try:
            handle(stanza)
        except RemoteError as error:
            # An address without a SIP form: only who asks for something is told.
            if stanza.type == "subscribe":
                reply = error_reply(stanza, "jid-malformed", text=error.reason)
                self._around.home.send(reply)

    def _presence(self, available: bool, stanza: Stanza) -> None:
        local, resource = stanza.from_.bare, stanza.from_.resource
        availability = Availability(False)
        if available:
            availability = Availability(
                True,
                (stanza.text("show") or "").strip(),
                (stanza.text("status") or "").strip(),
                _priority(stanza),
                (stanza.text("nick", _NICK) or "").strip(),
            )
        self.watched.presence_arrived((local, stanza.to.bare), resource, availability)
        self.watching.local_presence(local, resource, available)

    def _error(self, stanza: Stanza) -> None:
        self.watched.error_arrived(_pair(stanza), error_of(stanza).condition)

    def sign(self, local: JID) -> None:
        """A local user (bare JID) has done something, such as write a message: he is there."""
        self.watching.sign(local)

    # -- life --------------------------------------------------------------------------------------

    @inlineCallbacks
    def load(self, store: IStore) -> Generator[Deferred[Any], Any, None]:
        """Take in what the store kept; before the first request or stanza arrives."""
        # What is made here stays: looking for garbage among it would take longer than making it.
        collecting = gc.isenabled()
        gc.disable()
        JID.remember(everything=True)
        try:
            yield from self._load(store)
        finally:
            JID.remember(everything=False)
            gc.freeze()
            if collecting:
                gc.enable()

    def _load(self, store: IStore) -> Generator[Deferred[Any], Any, None]:
        yield store.each(AuthorizationRecord, partial(self.authorizations.load, memo={}))
        entries = yield store.load(PolicyEntryRecord)
        self.policies.load(entries, (yield store.load(PolicyDefaultRecord)))
        memo: Memo = {}  # two people who watch each other have much in common
        yield store.each(InboundSubscriptionRecord, partial(self.watched.load, memo=memo))
        yield store.each(OutboundSubscriptionRecord, partial(self.watching.load, memo=memo))

    def resume(self) -> None:
        """Go on where the last run stopped; the listeners stand."""
        self.watched.resume()
        self.watching.resume()

    def stop(self) -> None:
        """Nothing more is done; every change is with the store already."""

    def link_up(self, domains: frozenset[str]) -> None:
        """A home server with these local domains is reachable."""
        self.watched.link_up(domains)
        self.watching.link_up(domains)

    def limits(self) -> list[dict[str, object]]:
        """Return who is at a limit, or was refused by one, for ``impfedctl limits``."""
        config, pace = self._around.config.presence, self.watched.gates.pace
        lines: list[dict[str, object]] = []

        def line(limit: str, who: object, count: int, bound: int | None) -> dict[str, object]:
            one = {"limit": limit, "who": str(who), "count": count, "bound": bound}
            lines.append({**one, "refused": 0, "last_at": 0.0, "reason": ""})
            return lines[-1]

        for local, count in self.watched.at_limit().items():
            line("watchers_per_user", local, count, config.watchers_per_user)
        for local, count in self.watching.at_limit().items():
            line("contacts_per_user", local, count, config.contacts_per_user)
        bound = config.pending_per_domain
        since = self._around.timers.seconds() - PENDING_COUNTS_FOR
        for domain in self.authorizations.domains_pending():
            count = self.authorizations.pending(domain, since)
            if bound is not None and count >= bound:
                line("pending_per_domain", domain, count, bound)
        for domain, flood in pace.floods().items():
            found = line("domain", domain, self.authorizations.pending(domain, since), bound)
            found.update(refused=flood.refused, last_at=flood.last_at, reason=flood.reason)
        return lines

    def view(self) -> list[dict[str, object]]:
        """Return all subscriptions of both directions, for ``impfedctl subscriptions``."""
        return [*self.watched.view(), *self.watching.view()]


def _pair(stanza: Stanza) -> tuple[JID, JID]:
    return (stanza.from_.bare, stanza.to.bare)


def _priority(stanza: Stanza) -> int:
    try:
        return max(-128, min(127, int(stanza.text("priority") or "0")))
    except ValueError:
        return 0
