"""They watch us: SUBSCRIBE in, presence of a local user out as NOTIFY (SPEC section 5).

A *pair* is what one foreign user may know of one local user; it has a watcher for each of the foreign
user's devices, that is, for each subscription dialog.  What a local user's server sends to one
foreign user is shown to that user and to nobody else (RFC 8048 section 8.2).

A watcher who was declined takes the same path as one who watches somebody offline: the probe, the
time, and every octet but the address are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.gateway.authorization import Authorizations, Pair
from impfed.gateway.presence_common import (
    CSEQ_GAP,
    PER_USER,
    contact_for,
    decode_state,
    dialog_values,
    encode_state,
    nick,
)
from impfed.gateway.surroundings import Surroundings
from impfed.gateway.watcher import Watcher
from impfed.interwork.address import uri_of
from impfed.interwork.availability import OFFLINE, Availability, Kind, combine
from impfed.interwork.pidf import PIDF_TYPE, closed_pidf, write_pidf
from impfed.routing.api import Existence
from impfed.sip.headers import parse_number, readable
from impfed.sip.message import SipRequest
from impfed.sip.subscription import ExpiresLimits, Notifier, StateDocument
from impfed.sip.transaction import ServerTransaction
from impfed.store.records import InboundSubscriptionRecord
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import presence

log = EventLog("impfed.gateway")

#: How long an answer to a probe is waited for before the user counts as offline, in seconds.
PROBE_PATIENCE = 2.0
#: How long the presences of several resources, sent in answer to one probe, are gathered.
SETTLE = 0.05


class WatchedPair:
    """One local user as one foreign user sees him.

    :ivar resources: presence by resource, as the home server sent it to this foreign user.
    :ivar known: whether the home server has told the state since it was last asked.
    :ivar last: the state last shown; stands in while the present one is not known.
    :ivar asked: whether the local user has been asked, as far as his server took the question.
    """

    __slots__ = (
        "asked",
        "fresh",
        "key",
        "kind",
        "known",
        "last",
        "name",
        "patience",
        "probed",
        "resources",
        "settling",
        "side",
        "waiting",
        "watchers",
    )

    def __init__(self, side: WatchedSide, key: Pair, kind: Kind) -> None:
        self.side = side
        self.key = key
        self.kind = kind
        self.resources: dict[str, Availability] = {}
        self.watchers: list[Watcher] = []
        self.known = False
        self.fresh = True
        self.last: Availability | None = None
        self.asked = False
        self.probed = False
        self.name = ""
        self.waiting: list[Callable[[], None]] = []
        self.patience: Timer | None = None
        self.settling: Timer | None = None

    @property
    def entity(self) -> str:
        """The local user's address of record, as the foreign user knows it."""
        return uri_of(self.side.around.aliases.to_outside(self.key[0]))

    def visible(self) -> Availability | None:
        """What the foreign user may see now; None while that is not known."""
        if not self.known:
            return self.last
        if self.side.authorizations.inbound(self.key) != "approved":
            return OFFLINE
        return combine(self.resources.values())

    def document(self) -> StateDocument | None:
        """The body of a NOTIFY that says so; a neutral one, or none, while it is not known."""
        visible = self.visible()
        if visible is not None:
            return StateDocument(PIDF_TYPE, write_pidf(self.kind, visible, self.entity))
        return self.neutral() if self.kind.pending_document else None

    def neutral(self) -> StateDocument:
        """A closed document that says nothing."""
        return StateDocument(PIDF_TYPE, closed_pidf(self.kind, self.entity))

    def update(self, resource: str, availability: Availability) -> None:
        """Take the presence of one resource; of all of them if it is "" and unavailable."""
        if not self.fresh:
            self.fresh = True
            self.resources.clear()
        if availability.available:
            self.resources[resource] = availability
        elif resource:
            self.resources.pop(resource, None)
        else:
            self.resources.clear()
        self.learned()

    def learned(self) -> None:
        """The home server has spoken: show it, together with what it is still saying."""
        if self.known:
            self.show()
        elif self.settling is None:
            self.settling = self.side.around.timers.after(SETTLE, self._settled)

    def _settled(self) -> None:
        if self.settling is not None:
            self.settling.cancel()
        if self.patience is not None:
            self.patience.cancel()
        self.settling = self.patience = None
        self.known = True
        self._release()
        self.show()

    def _release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()

    def show(self) -> None:
        """Tell every watcher whose last NOTIFY said something else."""
        visible = self.visible()
        self.last = visible
        if visible is None:
            return
        state = encode_state(visible)
        for watcher in list(self.watchers):
            watcher.show(state)

    def ask_state(self) -> None:
        """Ask the home server for the state; without an answer the user counts as offline."""
        local, foreign = self.key
        self.known = self.fresh = False
        self.probed = self.side.around.home.send(presence(local, foreign, type="probe"))
        if self.patience is None:
            self.patience = self.side.around.timers.after(PROBE_PATIENCE, self._no_answer)

    def _no_answer(self) -> None:
        self.patience = None
        if not self.probed and self.last is not None:
            self._release()  # the home server is out of reach: what was true last has to do
            return
        self.fresh = True
        self.resources.clear()
        self._settled()

    def when_known(self, call: Callable[[], None]) -> None:
        """Call when the state is known: now, or after asking for it."""
        if self.known:
            call()
            return
        self.waiting.append(call)
        if self.patience is None:
            self.ask_state()

    def ask_user(self) -> None:
        """Ask the local user whether the foreign one may see him; once, if the question goes out."""
        local, foreign = self.key
        question = presence(local, foreign, type="subscribe", payload=nick(self.name))
        self.asked = self.side.around.home.send(question)
        if self.asked:
            self.side.authorizations.decide_inbound(self.key, "pending")


class WatchedSide:
    """Every pair, and the first answer to every SUBSCRIBE."""

    def __init__(self, around: Surroundings, authorizations: Authorizations) -> None:
        self.around = around
        self.authorizations = authorizations
        config = around.config.presence
        self.limits = ExpiresLimits(minimum=config.minimum_expires, maximum=config.expires)
        self._pairs: dict[Pair, WatchedPair] = {}
        self._by_local: dict[JID, set[JID]] = {}

    # -- SUBSCRIBE outside a dialog ----------------------------------------------------------------

    def subscribe_arrived(
        self,
        transaction: ServerTransaction,
        request: SipRequest,
        flow: Flow,
        local: JID,
        foreign: JID,
    ) -> None:
        """Answer a SUBSCRIBE that begins a subscription, or polls.

        :raises RemoteError: 489, 406, 403, 423 or 400, when it is refused at once.
        """
        self._check(request)
        domain = self.around.domain(foreign.domain)
        if domain is None:
            raise RemoteError(403, "Domain Not Allowed")
        known = partial(self._user_known, transaction, request, flow, (local, foreign))
        self.around.lookup(str(local), known)

    @staticmethod
    def _check(request: SipRequest) -> None:
        event = request.get("event")
        if event is None or event.partition(";")[0].strip().lower() != "presence":
            raise RemoteError(489, "Bad Event", (("Allow-Events", "presence"),))
        accepted = [value.partition(";")[0].strip().lower() for value in request.values("accept")]
        if accepted and not {PIDF_TYPE, "application/*", "*/*"}.intersection(accepted):
            raise RemoteError(406, "Not Acceptable", (("Accept", PIDF_TYPE),))

    def _user_known(
        self,
        transaction: ServerTransaction,
        request: SipRequest,
        flow: Flow,
        key: Pair,
        existence: Existence,
    ) -> None:
        try:
            if existence is Existence.ABSENT:
                raise RemoteError(404, "Not Found")
            self._begin(transaction, request, flow, key)
        except RemoteError as error:
            self._refuse(transaction, error)

    def _refuse(self, transaction: ServerTransaction, error: RemoteError) -> None:
        self.around.metrics.count(f"presence.refused.{error.status}")
        self.around.stack.respond(transaction, error.status, error.reason, headers=error.headers)

    def _begin(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow, key: Pair
    ) -> None:
        decision = self.authorizations.inbound(key)
        poll = parse_number(request.get("expires") or "3600") == 0
        pair = self._pair(key, limited=not poll)
        start = partial(self._start, transaction, request, flow, pair)
        if poll:
            if decision in ("approved", "declined"):
                pair.when_known(partial(start, True, pair.document))
            else:
                start(True, pair.neutral)
            return
        pair.name = readable(request.from_.display)[:100]
        decided = decision in ("approved", "declined")
        start(decided, pair.document)
        if not pair.watchers:
            return  # it was refused
        if decided:
            pair.when_known(pair.show)
        elif not pair.asked and decision == "none":
            pair.ask_user()

    def _start(
        self,
        transaction: ServerTransaction,
        request: SipRequest,
        flow: Flow,
        pair: WatchedPair,
        approved: bool,
        document: Callable[[], StateDocument | None],
    ) -> None:
        local, foreign = pair.key
        try:
            notifier, effects = Notifier.begin(
                request,
                local_tag=self.around.ids.tag(),
                contact=contact_for(self.around, local, foreign, flow.transport),
                now=self.around.timers.seconds(),
                approved=approved,
                document=document(),
                limits=self.limits,
            )
        except RemoteError as error:
            self._refuse(transaction, error)
            if not pair.watchers:
                self.forget(pair)
            return
        watcher = Watcher(pair, notifier, flow, request.get("accept") or "")
        watcher.enter()
        visible = pair.visible() or (OFFLINE if pair.kind.pending_document else None)
        watcher.shown = encode_state(visible) if approved and visible is not None else ""
        watcher.perform(effects, transaction)
        log.info(
            "watched",
            "{foreign} watches {local}: {state}",
            foreign=str(foreign),
            local=str(local),
            state=notifier.state.value,
            conversation=request.call_id,
        )

    def _pair(self, key: Pair, *, limited: bool = True) -> WatchedPair:
        pair = self._pairs.get(key)
        if pair is None:
            local, foreign = key
            watchers = self._by_local.setdefault(local, set())
            if limited and len(watchers) >= PER_USER:
                log.warn("watchers_limit", "{local} is at the limit of watchers", local=str(local))
                raise RemoteError(403, "Too Many Watchers")
            watchers.add(foreign)
            domain = self.around.domain(foreign.domain)
            kind = Kind.load(domain.kind if domain is not None else "simple")
            pair = self._pairs[key] = WatchedPair(self, key, kind)
        return pair

    def forget(self, pair: WatchedPair) -> None:
        """A pair has no watcher any more."""
        local, foreign = pair.key
        if self._pairs.get(pair.key) is pair:
            del self._pairs[pair.key]
            watchers = self._by_local.get(local, set())
            watchers.discard(foreign)
            if not watchers:
                self._by_local.pop(local, None)
        for timer in (pair.patience, pair.settling):
            if timer is not None:
                timer.cancel()

    # -- from the local user -----------------------------------------------------------------------

    def approved(self, key: Pair) -> None:
        """The local user lets the foreign one see him."""
        self.authorizations.decide_inbound(key, "approved")
        self._decided(key)

    def declined(self, key: Pair) -> None:
        """The local user does not, or not any more: from now on he is offline for the other."""
        # A home server says the same when it is asked for the state of a stranger.
        if key in self._pairs or self.authorizations.inbound(key) != "none":
            self.authorizations.decide_inbound(key, "declined")
        pair = self._pairs.get(key)
        if pair is not None:
            pair.resources.clear()
            pair.fresh = True
            pair.last = OFFLINE
            pair.learned()
        self._decided(key)

    def _decided(self, key: Pair) -> None:
        pair = self._pairs.get(key)
        if pair is None:
            return
        if any(watcher.pending for watcher in pair.watchers):
            pair.when_known(partial(self._approve, pair))
        elif pair.known:
            pair.show()

    @staticmethod
    def _approve(pair: WatchedPair) -> None:
        for watcher in list(pair.watchers):
            watcher.approve()

    def presence_arrived(self, key: Pair, resource: str, availability: Availability) -> None:
        """A presence of the local user, for this foreign user."""
        pair = self._pairs.get(key)
        if pair is not None:
            pair.update(resource, availability)

    def error_arrived(self, key: Pair, condition: str) -> None:
        """The home server refused the question or the probe: there is nobody to ask."""
        pair = self._pairs.get(key)
        if pair is None or condition not in ("item-not-found", "gone"):
            return
        if self.authorizations.inbound(key) == "pending":
            self.authorizations.decide_inbound(key, "none")
        for watcher in list(pair.watchers):
            watcher.end("noresource")

    def link_up(self, domains: frozenset[str]) -> None:
        """A home server is reachable again: what was missed meanwhile is asked for."""
        for key, pair in list(self._pairs.items()):
            if key[0].domain not in domains:
                continue
            decision = self.authorizations.inbound(key)
            if decision in ("approved", "declined"):
                if pair.patience is None:
                    pair.ask_state()
            elif decision == "none":
                pair.ask_user()

    # -- the store ---------------------------------------------------------------------------------

    def load(self, records: Iterable[InboundSubscriptionRecord]) -> None:
        """Take in the subscriptions that stood, so that their dialogs are known at once."""
        now = self.around.timers.seconds()
        for record in records:
            key = (JID.parse(record.local), JID.parse(record.foreign))
            if record.expires_at <= now or self.around.domain(key[1].domain) is None:
                Watcher.forget_record(self.around, record)
                continue
            try:
                pair = self._pair(key)
            except RemoteError:
                continue
            pair.last = pair.last or decode_state(record.last_state)
            pair.asked = self.authorizations.inbound(key) != "none"
            event = f"presence;id={record.event_id}" if record.event_id else "presence"
            values = {
                "dialog": dialog_values(record.dialog),
                "contact": "",
                "event": event,
                "expires_at": record.expires_at,
                "state": record.state.upper(),
            }
            notifier = Notifier.restore(values, self.limits)
            notifier.dialog.skip_numbers(CSEQ_GAP)
            watcher = Watcher(pair, notifier, None, record.accept)
            watcher.shown = record.last_state
            watcher.enter()

    def resume(self) -> None:
        """The listeners stand: our Contact is known; states are asked for as the links come up."""
        for pair in self._pairs.values():
            for watcher in pair.watchers:
                watcher.notifier.contact = contact_for(self.around, *pair.key, "")
                watcher.arm()

    def view(self) -> list[dict[str, object]]:
        """Return all subscriptions, for ``impfedctl subscriptions``."""
        return [watcher.view() for pair in self._pairs.values() for watcher in pair.watchers]
