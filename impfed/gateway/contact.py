"""One subscription of a local user to the presence of somebody outside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.core.timers import Page, Timer
from impfed.gateway.contact_ends import Verdict, condition_of, judge, not_allowed, words
from impfed.gateway.presence_common import (
    Errand,
    contact_for,
    decode_state,
    encode_state,
    in_dialog,
    in_words,
    presence_of,
    share,
    shared,
)
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.address import uri_of
from impfed.interwork.availability import Availability
from impfed.interwork.errors import explain
from impfed.interwork.pidf import PIDF_TYPE, read_pidf
from impfed.sip.message import SipMessage, SipRequest, SipResponse
from impfed.sip.subscription import (
    AnswerNotify,
    Document,
    Phase,
    SendSubscribe,
    Setback,
    Subscriber,
    SubscriberEffect,
    SubscriptionEnded,
)
from impfed.sip.transaction import FailureCause, ServerTransaction
from impfed.store.api import Delete, Put
from impfed.store.records import OutboundSubscriptionRecord, pair_key
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID

if TYPE_CHECKING:
    from impfed.gateway.partner import Partner
    from impfed.gateway.presence_out import WatchingSide

log = EventLog("impfed.gateway")

UNKNOWN_TEXT = "presence unknown"
#: Seconds after which a sign of the local user is written down again.
_SIGN_KEPT = 600.0
#: Pause in seconds before a presence that no home server took is sent again.
_SHOW_AGAIN = 15.0


class Contact(msgspec.Struct, eq=False):
    """Owner of one subscriber; answers are shown to its local user and to nobody else.

    :ivar partner: what is known of the foreign domain.
    :ivar alarm: for what the subscriber does next.
    :ivar missed: whether NOTIFYs may have been lost since the last one.
    :ivar shown: the presence last shown to the local user, None while there was none.
    """

    side: WatchingSide
    local: JID
    foreign: JID
    partner: Partner
    subscriber: Subscriber
    missed: bool = False
    shown: Availability | None = None
    alarm: Page | Timer | None = None
    _call_id: str = ""  # of the dialog that is entered, and its tag
    _tag: str = ""
    _sign_kept: float = 0.0
    _asked_at: float = 0.0  # when the local user last asked
    _cut: bool = False
    _question: str | None = None  # id of his request, until he was told of trouble with it
    _reach: str = ""  # why the far side could not be reached, in words; "" while it can
    _stale: Timer | None = None
    _unsent: Timer | None = None

    @property
    def _around(self) -> Surroundings:
        return self.side.around

    @property
    def dialog_key(self) -> tuple[str, str]:
        """What the far side's requests find it by."""
        return (self._call_id, self._tag)

    @property
    def live(self) -> bool:
        """Whether the far side knows the subscription."""
        return self.subscriber.phase in (Phase.PENDING, Phase.ACTIVE)

    @property
    def elsewhere(self) -> bool:
        """Whether the subscription goes on at another node."""
        served = self.side.contact((self.local, self.foreign)) is self
        return not served and self.subscriber.phase is not Phase.IDLE

    @property
    def cut(self) -> bool:
        """Whether a new attempt waits because the far side could not be reached."""
        return self._cut and self.subscriber.phase is Phase.RETRY_WAIT

    @property
    def stands(self) -> bool:
        """Whether the local user, who is there, saw the foreign one until the far side was lost."""
        return self.wanted and (self.live or (self.cut and self.side.may_show(self)))

    @property
    def last_used(self) -> float:
        """When the local user last gave a sign of being there."""
        return self.side.last_used(self.local)

    @property
    def wanted(self) -> bool:
        """Whether the local user is there to see it."""
        return self.subscriber.refreshing

    # -- what the local user wants -----------------------------------------------------------------

    def ask(self, stanza_id: str) -> None:
        """The local user asks to see the foreign one.

        :param stanza_id: id of his request, quoted should there be trouble with it.
        """
        self._asked_at = self._around.timers.seconds()
        self._question = stanza_id
        self.subscribe()

    def subscribe(self) -> bool:
        """Subscribe, or refresh now; returns whether a SUBSCRIBE was sent."""
        self.subscriber.refreshing = True
        self.prepare()
        effects = self.subscriber.subscribe(self._around.timers.seconds())
        self.perform(effects)
        return any(isinstance(effect, SendSubscribe) for effect in effects)

    def unsubscribe(self) -> None:
        """End the subscription; the local user hears when it is over."""
        self.prepare()
        self.perform(self.subscriber.unsubscribe(self._around.timers.seconds()))

    def come_back(self) -> None:
        """The local user logged in: a dialog that lives is used at once, a dead one made anew."""
        subscriber = self.subscriber
        waiting = subscriber.phase is Phase.RETRY_WAIT and subscriber.due is None
        was_there, subscriber.refreshing = subscriber.refreshing, True
        if subscriber.phase is Phase.IDLE or waiting:
            self.subscribe()
        else:
            self._around.timers.note(self)
            if self.missed and not was_there:
                self.partner.refresh_also(self)
            if self.last_used - self._sign_kept > _SIGN_KEPT:
                self.keep()
        self.show_again()

    def rest(self) -> None:
        """The local user has gone: nothing is refreshed, nothing is ended."""
        self.subscriber.refreshing = False
        self._around.timers.note(self)
        self.keep()

    def show_again(self) -> None:
        """Send the present state, once the foreign user has allowed it."""
        if self.shown is None or not self.side.may_show(self):
            return
        sent = self._around.home.send(presence_of(self.local, self.foreign, self.shown))
        if not sent and (self._unsent is None or not self._unsent.active):
            # The home server is away or reads too slowly: once more, with what is true then.
            self._unsent = self._around.timers.after(_SHOW_AGAIN, self.show_again)

    # -- what the far side says --------------------------------------------------------------------

    def in_dialog(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> None:
        """Take a NOTIFY, or a BENOTIFY, which is never answered.

        :raises RemoteError: for every other method.
        """
        if request.method not in ("NOTIFY", "BENOTIFY"):
            raise RemoteError(405, "Method Not Allowed", (("Allow", "NOTIFY"),))
        self._reached()
        self.partner.came_by(flow)
        effects = self.subscriber.notify(request, self._around.timers.seconds())
        self.perform(effects, transaction)

    def response_arrived(self, transaction: object, response: SipResponse) -> None:
        """An answer to a SUBSCRIBE."""
        if response.status < 200 or self.side.contact((self.local, self.foreign)) is not self:
            return  # nothing yet; or it is over, or goes on elsewhere
        self._cut = False
        assert isinstance(transaction, Errand)
        if response.status < 300:
            self._reached()
            if transaction.flow is not None:
                self.partner.came_by(transaction.flow)
        else:
            self._refused(response)
        try:
            effects = self.subscriber.response(response, self._around.timers.seconds())
        except RemoteError as error:
            log.warn(
                "bad_answer",
                "an answer to SUBSCRIBE for {foreign} cannot be read: {why}",
                foreign=str(self.foreign),
                why=str(error),
                conversation=response.call_id,
            )
        else:
            self.perform(effects)
        self.partner.answered(self, response.status, in_dialog(transaction.request))

    def request_failed(self, transaction: object, cause: FailureCause, text: str) -> None:
        """A SUBSCRIBE went unanswered."""
        if self.side.contact((self.local, self.foreign)) is not self:
            return
        assert isinstance(transaction, Errand)
        self._reach = text
        self._cut = True
        now = self._around.timers.seconds()
        self.perform(self.subscriber.failed(transaction.request, text, now))
        if cause in (FailureCause.OVERLOAD, FailureCause.ASIDE):
            self.partner.held_back(self)
        else:
            self.partner.unanswered(self, text)

    def _reached(self) -> None:
        self._reach = ""
        self.missed = False
        if self._stale is not None:
            self._stale.cancel()
            self._stale = None

    def _refused(self, response: SipResponse) -> None:
        self._reach = explain(response)
        self._around.metrics.count(f"presence.out.refused.{response.status}")
        if response.status == 403 and self._around.kind_of(self.foreign.domain).refuses_by_403:
            not_allowed(self.local.domain, self.foreign.domain, self._reach, response.call_id)

    # -- effects -----------------------------------------------------------------------------------

    def perform(
        self, effects: list[SubscriberEffect], transaction: ServerTransaction | None = None
    ) -> None:
        """Carry out what the subscriber wants, then write down how it stands."""
        over = False
        for effect in effects:
            if isinstance(effect, SendSubscribe):
                self._enter()
                Errand(self._around, effect.request, self).start(None, self.local, self.foreign)
            elif isinstance(effect, AnswerNotify):
                if transaction is not None:
                    self._around.stack.respond(
                        transaction, effect.status, effect.reason, headers=effect.headers
                    )
            elif isinstance(effect, Document):
                self._document(effect.message)
            elif isinstance(effect, Setback):
                self._unreachable()
            elif isinstance(effect, SubscriptionEnded):
                over = self._ended(effect)
        if over:
            self.leave()
        elif effects:
            self._enter()
            self._around.timers.note(self)
            self.keep()

    def settle(self) -> None:
        """Tell the local user of an active subscription that he may see the contact; once."""
        if self.subscriber.phase is Phase.ACTIVE and not self.side.may_show(self):
            self.side.allowed(self)

    def prepare(self) -> None:
        """Give the subscriber the addresses that it needs; the listeners must be there."""
        subscriber = self.subscriber
        if not subscriber.contact:
            subscriber.contact = contact_for(self._around, self.local, self.foreign, "")
        if not subscriber.target and not self.live:
            self.address()

    def address(self) -> None:
        """Tell the subscriber who subscribes to whom.

        :raises RemoteError: when one of them has no SIP address.
        """
        subscriber = self.subscriber
        subscriber.target = uri_of(self.foreign)
        subscriber.remote = f"<{subscriber.target}>"
        subscriber.local = f"<{uri_of(self._around.aliases.to_outside(self.local))}>"

    def _enter(self) -> None:
        """Have the requests of the present dialog find us."""
        subscriber = self.subscriber
        if subscriber.key != self.dialog_key:
            if self._call_id:
                self._around.dialogs.remove(self)
            self._call_id, self._tag = subscriber.key
            if self._call_id:
                self._around.dialogs.add(self)
        if self.live and subscriber.dialog is not None and subscriber.target:
            subscriber.local = subscriber.remote = subscriber.target = ""
            share(subscriber.dialog)

    def _document(self, message: SipMessage) -> None:
        media = message.content_type
        try:
            if media is None or media.essence != PIDF_TYPE:
                raise RemoteError(415, "not a presence document")
            document = read_pidf(message.body)
        except RemoteError as error:
            self._around.metrics.count("presence.bad_document")
            log.warn(
                "bad_document",
                "the presence of {foreign} cannot be read: {why}",
                foreign=str(self.foreign),
                why=str(error),
                conversation=message.call_id,
            )
            return
        kind = self._around.kind_of(self.foreign.domain)
        self._show(replace(document.availability(kind), priority=0))

    def _show(self, availability: Availability) -> None:
        if availability != self.shown:
            self.shown = shared(availability)
            self.show_again()

    def _ended(self, end: SubscriptionEnded) -> bool:
        """Say what the end means; returns whether the pair is done with."""
        log.info(
            "subscription_ended",
            "{local} watches {foreign} no more: {cause} {status} {reason}",
            local=str(self.local),
            foreign=str(self.foreign),
            cause=end.cause.value,
            status=end.status or "",
            reason=end.reason,
        )
        verdict = judge(
            end,
            over=self.subscriber.phase is Phase.IDLE,
            asking=not self.side.may_show(self),
            waited=self._around.timers.seconds() - self._asked_at,
        )
        text = words(verdict, str(self.foreign), self._reach)
        if verdict in (Verdict.FIXED, Verdict.AGAIN, Verdict.DELAYED):
            self._interrupted(verdict, end, text)
            return False
        self._hide()
        if verdict is Verdict.DENIED:
            self.side.refused(self, text)
        else:
            self.side.unsubscribed(self, text)
        return True

    def _interrupted(self, verdict: Verdict, end: SubscriptionEnded, text: str) -> None:
        """There is no subscription now, but there may be one again."""
        if verdict is Verdict.DELAYED and self._question is not None:
            condition = condition_of(end)
            stanza_id, self._question = self._question, None
            self.side.delayed(self, stanza_id, condition, text)
        if verdict is Verdict.FIXED:
            return
        if self.wanted:
            self._unreachable()
        else:
            self.shown = None  # it lapsed while nobody looked

    def _hide(self) -> None:
        """Nothing more is known of the contact: whatever was shown is taken back."""
        if self.shown is not None and self.shown.available:
            self.shown = Availability(False)
            self._around.home.send(presence_of(self.local, self.foreign, self.shown))

    def out_of_reach(self) -> None:
        """The far side cannot be reached, as another contact there has found."""
        if self.wanted:
            self._unreachable()

    def _unreachable(self) -> None:
        """What is shown stays for a while, then becomes unknown."""
        if self._stale is None and self.shown is not None:
            pause = self._around.config.presence.stale_after
            self._stale = self._around.timers.after(pause, self._gone_stale)

    def _gone_stale(self) -> None:
        self._stale = None
        self._show(Availability(False, status=UNKNOWN_TEXT))
        self.keep()

    @property
    def due(self) -> float | None:
        """When the subscriber wants to be called."""
        return self.subscriber.due

    def wake(self) -> None:
        """Do what is due, unless the local user has gone."""
        now = self._around.timers.seconds()
        if self.wanted and self.side.logged_out(self.local, now):
            self.subscriber.refreshing = False
        due = self.subscriber.due
        if not self.wanted and self.subscriber.phase is Phase.RETRY_WAIT:
            return
        if due is not None and due <= now:
            self.prepare()
            self.perform(self.subscriber.handle_timer(now))
        if self.alarm is None:
            self._around.timers.note(self)

    def leave(self) -> None:
        """Forget everything but the authorization."""
        self.let_go()
        key = pair_key(str(self.local), str(self.foreign))
        self._around.store.write([Delete(OutboundSubscriptionRecord, key)])

    def let_go(self) -> None:
        """Serve it no longer; it may go on elsewhere."""
        self._around.timers.dismiss(self)
        for timer in (self._stale, self._unsent):
            if timer is not None:
                timer.cancel()
        self._stale = self._unsent = None
        if self._call_id:
            self._around.dialogs.remove(self)
            self._call_id = self._tag = ""
        self.side.forget(self)

    # -- the store ---------------------------------------------------------------------------------

    def keep(self) -> None:
        """Write down how the subscription stands.

        The local user is told that he may see the contact when that is written: what he has been
        told stands on his home server's roster for good, and nobody would ask again after a kill.
        """
        self._sign_kept = self.last_used
        untold = self.subscriber.phase is Phase.ACTIVE and not self.side.may_show(self)
        self._around.store.write([Put(self.record())], self._kept if untold else None)

    def _kept(self, error: BaseException | None) -> None:
        """The record is written; a store that is away gets it when it is back."""
        if self.side.contact((self.local, self.foreign)) is self:
            self.settle()

    def record(self) -> OutboundSubscriptionRecord:
        """Return how the subscription stands, for the store."""
        subscriber = self.subscriber
        return OutboundSubscriptionRecord(
            local=str(self.local),
            foreign=str(self.foreign),
            dialog=subscriber.dialog,
            state=subscriber.phase.name,
            expires_at=subscriber.expires_at or 0.0,
            last_state=encode_state(self.shown) if self.shown is not None else "",
            wanted=self.wanted,
            last_used=self.last_used,
            asked_at=self._asked_at,
        )

    def restore(self, record: OutboundSubscriptionRecord, now: float) -> None:
        """Stand as the store remembers; nothing is sent yet."""
        self.subscriber.stand(Phase[record.state], record.dialog, record.expires_at, None, now)
        if record.dialog is not None:
            record.dialog.skip_numbers(now)
        self.subscriber.refreshing = record.wanted
        self.missed = True
        self._asked_at = record.asked_at or now
        self.shown = decode_state(record.last_state)
        self._enter()

    def view(self) -> dict[str, object]:
        """Return the subscription for ``impfedctl subscriptions``."""
        now = self._around.timers.seconds()
        expires_at = self.subscriber.expires_at
        state = self.subscriber.phase.value.lower()
        return {
            "direction": "out",
            "local": str(self.local),
            "foreign": str(self.foreign),
            "state": state if self.wanted else f"{state}, user away",
            "decision": self.side.authorizations.outbound((self.local, self.foreign)),
            "shown": in_words(self.shown),
            "expires_in": 0 if expires_at is None else round(expires_at - now),
            "call_id": self.subscriber.call_id,
            "trouble": self._reach,
        }
