"""They watch us: SUBSCRIBE in, presence of a local user out as NOTIFY (SPEC section 5).

A *pair* is what one foreign user may know of one local user; it has a watcher for each of the foreign
user's devices, that is, for each subscription dialog.  What a local user's server sends to one
foreign user is shown to that user and to nobody else (RFC 8048 section 8.2).

A watcher who was declined takes the same path as one who watches somebody offline: the probe, the
time, and every octet but the address are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.gateway.authorization import Authorizations, Pair
from impfed.gateway.gates import Gates, Holdings, Ruling
from impfed.gateway.presence_common import contact_for, decode_state, encode_state, share, shared
from impfed.gateway.roster import IRosterWriter, NoRosterWriter
from impfed.gateway.surroundings import Surroundings
from impfed.gateway.watched_pair import WatchedPair
from impfed.gateway.watcher import Watcher
from impfed.interwork.availability import OFFLINE, Availability
from impfed.interwork.pidf import PIDF_TYPE
from impfed.policy.users import PolicyChange, UserPolicies
from impfed.routing.api import Existence
from impfed.sip.headers import parse_number, readable
from impfed.sip.message import SipRequest
from impfed.sip.subscription import ExpiresLimits, Notifier, StateDocument, Watch
from impfed.sip.transaction import ServerTransaction
from impfed.store.records import InboundSubscriptionRecord, Memo
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID

log = EventLog("impfed.gateway")

#: States that a home server that came back is asked for at once, and the pause in seconds after that.
ASKED_AT_ONCE, ASK_PAUSE = 200, 0.05
#: Stanza errors by which a home server says that it does not answer a stranger's probe.
_NOT_FOR_YOU = frozenset(
    {"forbidden", "not-allowed", "not-authorized", "subscription-required", "registration-required"}
)


class WatchedSide:
    """Every pair, and the first answer to every SUBSCRIBE.

    :param on_contact_list: whether the local user of a pair watches the foreign one.
    :ivar gates: what a subscription passes.
    :ivar roster: approves foreign users where the home server lets us.
    :ivar elsewhere: how many watch a local user by other ways than SIP.
    """

    def __init__(
        self,
        around: Surroundings,
        authorizations: Authorizations,
        policies: UserPolicies,
        on_contact_list: Callable[[Pair], bool],
    ) -> None:
        self.around = around
        self.authorizations = authorizations
        self.policies = policies
        holdings = Holdings(on_contact_list, self._watched, self.watchers)
        self.gates = Gates(around, policies, authorizations, holdings)
        self.roster: IRosterWriter = NoRosterWriter()
        self.elsewhere: Callable[[JID], int] = lambda local: 0
        policies.listen(self._policy_changed)
        config = around.config.presence
        self.limits = ExpiresLimits(minimum=config.minimum_expires, maximum=config.expires)
        self._pairs: dict[JID, dict[JID, WatchedPair]] = {}  # by local, then by foreign
        self._to_ask: deque[Pair] = deque()
        self._asking: Timer | None = None

    def _known(self, key: Pair) -> WatchedPair | None:
        pairs = self._pairs.get(key[0])
        return None if pairs is None else pairs.get(key[1])

    def _watched(self, key: Pair) -> bool:
        pair = self._known(key)
        return pair is not None and bool(pair.watchers)

    def at_limit(self) -> dict[JID, int]:
        """Return the local users who may not be watched by one more, with their watchers."""
        limit = self.around.config.presence.watchers_per_user
        if limit is None:
            return {}
        known = {*self._pairs, *self.authorizations.locals()}
        return {who: count for who in known if (count := self.watchers(who)) >= limit}

    def end_all(self, local: JID) -> int:
        """End every subscription to a local user who is no more; returns how many."""
        watchers = [watcher for pair in self.pairs(local) for watcher in pair.watchers]
        for watcher in watchers:
            watcher.end("noresource")
        return len(watchers)

    def watchers(self, local: JID) -> int:
        """Return how many foreign users watch a local one."""
        return len(self._pairs.get(local, ())) + self.elsewhere(local)

    def pairs(self, local: JID) -> list[WatchedPair]:
        """Return a local user as each foreign user sees him who asks for it at present."""
        return list(self._pairs.get(local, {}).values())

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
        self.gates.node.examine((local, foreign)).refuse()
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
        if parse_number(request.get("expires") or "3600") == 0:
            self._poll(transaction, request, flow, key)
            return
        ruling = self.gates.admit(key).ruling
        pair = self._pair(key)
        pair.name = readable(request.from_.display)[:100]
        if ruling is Ruling.APPROVE:
            ruling = self._approve_unasked(pair)
            if ruling is Ruling.REFUSE:
                if not pair.watchers:
                    self.forget(pair)
                raise RemoteError(403, "Too Many Pending Requests")
        decided = ruling in (Ruling.SHOW, Ruling.HIDE)
        self._start(transaction, request, flow, pair, decided, pair.document)
        if not pair.watchers:
            return  # it was refused
        if decided:
            pair.when_known(pair.show)
        elif ruling is Ruling.ASK and not pair.asked:
            pair.ask_user()

    def _poll(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow, key: Pair
    ) -> None:
        """Answer with the state, or with a neutral one; nobody is asked for a poll."""
        pair = self._pair(key)
        start = partial(self._start, transaction, request, flow, pair, True)
        if self.gates.standing(key).ruling in (Ruling.SHOW, Ruling.HIDE):
            pair.when_known(partial(start, pair.document))
        else:
            start(pair.neutral)

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
        share(notifier.dialog)
        # What another node of the cluster has only handed over is answered straight from here.
        path = self.around.way_back(notifier.dialog.route_set, flow, None)
        watcher = Watcher(pair, notifier, path, shared(request.get("accept") or ""))
        watcher.enter()
        visible = pair.visible() or (OFFLINE if pair.kind.pending_document else None)
        watcher.shown = encode_state(visible) if approved and visible is not None else ""
        watcher.begin(effects, transaction)
        log.info(
            "watched",
            "{foreign} watches {local}: {state}",
            foreign=str(foreign),
            local=str(local),
            state=notifier.state.value,
            conversation=request.call_id,
        )

    def _pair(self, key: Pair) -> WatchedPair:
        local, foreign = key
        pairs = self._pairs.setdefault(local, {})
        pair = pairs.get(foreign)
        if pair is None:
            kind = self.around.kind_of(foreign.domain)
            pair = pairs[foreign] = WatchedPair(self, local, foreign, kind)
        return pair

    def forget(self, pair: WatchedPair) -> None:
        """A pair has no watcher any more."""
        pairs = self._pairs.get(pair.local, {})
        if pairs.get(pair.foreign) is pair:
            del pairs[pair.foreign]
            if not pairs:
                del self._pairs[pair.local]
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
        pair = self._known(key)
        if self._meant_as_answer(key, pair):
            self.authorizations.decide_inbound(key, "declined")
        if pair is not None:
            pair.last = OFFLINE
            pair.refused()
        self._decided(key)

    def _meant_as_answer(self, key: Pair, pair: WatchedPair | None) -> bool:
        """Whether ``unsubscribed`` is the user's word.

        A home server says the same when it is asked for the state of a stranger, and we ask it so
        for those who are blocked without the user ever having been asked about them.
        """
        answered = self.authorizations.inbound(key)
        if pair is None:
            return answered != "none"
        if answered not in ("none", "pending"):
            return True
        blocked = self.gates.standing(key).ruling is Ruling.HIDE
        return not blocked or (answered == "pending" and pair.patience is None)

    def _decided(self, key: Pair) -> None:
        pair = self._known(key)
        if pair is None:
            return
        if any(watcher.pending for watcher in pair.watchers):
            if not pair.resources:
                pair.known = False  # what a stranger was told, such as Prosody's "unavailable"
            pair.when_known(partial(self._approve, pair))
        elif pair.known:
            pair.show()

    @staticmethod
    def _approve(pair: WatchedPair) -> None:
        for watcher in pair.watchers:
            watcher.approve()

    def presence_arrived(self, key: Pair, resource: str, availability: Availability) -> None:
        """A presence of the local user, for this foreign user."""
        pair = self._known(key)
        if pair is not None:
            pair.update(resource, availability)

    def error_arrived(self, key: Pair, condition: str) -> None:
        """The home server refused the question or the probe: there is nobody to ask."""
        pair = self._known(key)
        if pair is None:
            return
        if condition in _NOT_FOR_YOU and pair.patience is not None:
            pair.refused()
        if condition not in ("item-not-found", "gone"):
            return
        if self.authorizations.inbound(key) == "pending":
            self.authorizations.decide_inbound(key, "none")
        for watcher in pair.watchers:
            watcher.end("noresource")

    def link_up(self, domains: frozenset[str]) -> None:
        """A home server is reachable again: what was missed meanwhile is asked for."""
        self._to_ask += [pair.key for pair in self.all_pairs() if pair.local.domain in domains]
        self._ask_some()

    def _ask_some(self) -> None:
        """Ask for some of the states; all at once would take the home server too long to answer."""
        if self._asking is not None and self._asking.active:
            return
        for _ in range(min(ASKED_AT_ONCE, len(self._to_ask))):
            pair = self._known(self._to_ask.popleft())
            if pair is not None:
                self._catch_up(pair)
        if self._to_ask:
            self._asking = self.around.timers.after(ASK_PAUSE, self._ask_some)

    def _catch_up(self, pair: WatchedPair) -> None:
        ruling = self.gates.standing(pair.key).ruling
        if ruling is Ruling.APPROVE:
            ruling = self._approve_unasked(pair)
        if ruling in (Ruling.SHOW, Ruling.HIDE):
            if pair.patience is None or not pair.probed:
                pair.ask_state()
            if any(watcher.pending for watcher in pair.watchers):
                self._decided(pair.key)  # before the last end of this process, and not told
        elif not pair.approving:
            # Perhaps he has answered meanwhile, and his server says so once more; if he has not,
            # it knows that he was asked, and asks nothing.
            pair.ask_user()

    # -- policy ------------------------------------------------------------------------------------

    def _policy_changed(self, change: PolicyChange) -> None:
        """A list has changed: what it means for those who watch now is done at once."""
        local = change.local
        if change.decision == "allow":  # the later decision counts: an earlier no is cleared
            for record in self.authorizations.of(local):
                foreign = JID.parse(record.foreign)
                if record.inbound == "declined" and change.concerns(foreign):
                    self.authorizations.decide_inbound((local, foreign), "none")
        for foreign in list(self._pairs.get(local, ())):
            if change.concerns(foreign):
                self.reconsider((local, foreign))

    def reconsider(self, key: Pair) -> None:
        """What decides about a pair has changed: tell its watchers now, or ask the user."""
        pair = self._known(key)
        if pair is None:
            return
        ruling = self.gates.standing(key).ruling
        if ruling is Ruling.APPROVE:
            ruling = self._approve_unasked(pair)
        if ruling is not Ruling.SHOW:
            pair.hide()
        if ruling in (Ruling.SHOW, Ruling.HIDE):
            self._decided(key)
        if ruling is Ruling.SHOW and not pair.known:
            pair.when_known(pair.show)
        elif ruling is Ruling.ASK and any(each.stands for each in pair.watchers):
            self.gates.ask.examine(key)
            pair.ask_user()

    def clear(self, key: Pair) -> bool:
        """Forget what the local user once answered; returns whether there was something.

        The next subscription asks him again, and so does one that stands.
        """
        answered = self.authorizations.inbound(key)
        self.authorizations.decide_inbound(key, "none")
        pair = self._known(key)
        if pair is not None:
            pair.asked = False
        self.reconsider(key)
        return answered != "none"

    def _approve_unasked(self, pair: WatchedPair) -> Ruling:
        """The list allows without asking: have the roster approve it.

        :return: how the pair stands until the home server has answered; where it lets us approve
            nobody, what the last gate says: ASK, or REFUSE over a limit.
        """
        local, foreign = key = pair.key
        if pair.approving:
            return Ruling.WAIT
        if not self.roster.available(local):
            return self._ask_instead(key, "its home server lets us approve nobody")
        pair.approving = True
        answer = maybeDeferred(self.roster.approve, local, foreign)
        answer.addErrback(self._not_approved, key)
        answer.addCallback(self._approval_answered, pair)
        if not pair.approving:  # answered at once
            return self.gates.standing(key).ruling
        return Ruling.WAIT

    def _ask_instead(self, key: Pair, why: str) -> Ruling:
        self.around.metrics.count("gate.user.degraded")
        log.info(
            "allow_degraded",
            "{local} allows {foreign} without asking, but has to be asked: {why}",
            local=key[0].text,
            foreign=key[1].text,
            why=why,
        )
        return self.gates.ask.examine(key).ruling

    @staticmethod
    def _not_approved(failure: Failure, key: Pair) -> bool:
        log.failure(
            "approve_failed",
            "the roster of {local} could not be changed",
            failure,
            local=key[0].text,
        )
        return False

    def _approval_answered(self, approved: bool, pair: WatchedPair) -> None:
        key = pair.key
        pair.approving = False
        if approved:
            self.around.metrics.count("gate.user.approved")
            if self.authorizations.inbound(key) != "declined":  # in a client, meanwhile
                self.authorizations.decide_inbound(key, "approved")
            if self._known(key) is pair and pair.watchers:
                pair.ask_state()  # what a stranger was told counts no longer
                self._decided(key)
                pair.when_known(pair.show)
            return
        ruling = self._ask_instead(key, "the home server has refused it")
        if ruling is Ruling.ASK and self._known(key) is pair:
            pair.ask_user()

    # -- the store ---------------------------------------------------------------------------------

    def load(self, records: Iterable[InboundSubscriptionRecord], memo: Memo) -> None:
        """Take in the subscriptions that stood, sharing by ``memo``; their dialogs are known at once."""
        now = self.around.timers.seconds()
        for record in records:
            key = (JID.parse(record.local), JID.parse(record.foreign))
            if record.expires_at <= now or self.around.domain(key[1].domain) is None:
                Watcher.forget_record(self.around, record)
                continue
            record.share(memo)
            pair = self._pair(key)
            pair.last = pair.last or decode_state(record.last_state)
            pair.asked = self.authorizations.inbound(key) != "none"
            notifier = Notifier(
                record.dialog,
                contact="",
                event=f"presence;id={record.event_id}" if record.event_id else "presence",
                expires_at=record.expires_at,
                limits=self.limits,
                state=Watch.PENDING if record.state == "pending" else Watch.ACTIVE,
            )
            notifier.dialog.skip_numbers(now)
            watcher = Watcher(pair, notifier, None, record.accept, record.last_state)
            watcher.enter()
            watcher.arm()

    def take_in(self, records: Sequence[InboundSubscriptionRecord]) -> None:
        """Serve subscriptions of another node from now on, and ask for the states that they show."""
        self.load(records, {})
        self._to_ask += {(JID.parse(each.local), JID.parse(each.foreign)): None for each in records}
        self._ask_some()

    def all_pairs(self) -> list[WatchedPair]:
        """Return every pair that somebody watches."""
        return [pair for pairs in self._pairs.values() for pair in pairs.values()]

    def resume(self) -> None:
        """The listeners stand: what was decided but perhaps not told is told now."""
        for pair in self.all_pairs():
            if pair.last not in (None, OFFLINE) and not self.gates.shows(pair.key):
                pair.hide()

    def view(self) -> list[dict[str, object]]:
        """Return all subscriptions, for ``impfedctl subscriptions``."""
        return [watcher.view() for pair in self.all_pairs() for watcher in pair.watchers]
