"""One subscription dialog of somebody outside who watches a local user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.core.timers import Page, Timer
from impfed.gateway.presence_common import (
    Errand,
    contact_for,
    decode_state,
    encode_state,
    in_words,
)
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.availability import OFFLINE
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse
from impfed.sip.subscription import (
    AnswerSubscribe,
    Notifier,
    NotifierEffect,
    NotifyFailed,
    SendNotify,
    Watch,
    WatchEnded,
)
from impfed.sip.transaction import FailureCause, ServerTransaction
from impfed.store.api import Delete, Put
from impfed.store.records import InboundSubscriptionRecord
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID

if TYPE_CHECKING:
    from impfed.gateway.watched_pair import WatchedPair

log = EventLog("impfed.gateway")

#: Pauses in seconds before a NOTIFY that could not be sent is tried again; doubled each time.
_FIRST_RETRY, _LAST_RETRY = 15.0, 240.0


class _Trouble(msgspec.Struct):
    """NOTIFYs that the watcher did not get.

    :ivar words: what happened to the last one.
    :ivar failures: how many in a row.
    :ivar retry: has it tried again.
    """

    words: str = ""
    failures: int = 0
    retry: Timer | None = None


class Watcher(msgspec.Struct, eq=False):
    """Owner of one notifier; several of one foreign user share a :class:`WatchedPair`.

    :ivar path: the flow that its last SUBSCRIBE came by; None after a restart.
    :ivar accept: the watcher's Accept header.
    :ivar shown: the state last sent, as text; "" when nothing was.
    :ivar alarm: for its expiry.
    """

    pair: WatchedPair
    notifier: Notifier
    path: Flow | None
    accept: str
    shown: str = ""
    alarm: Page | Timer | None = None
    _held: list[tuple[list[NotifierEffect], ServerTransaction | None]] | None = None
    _trouble: _Trouble | None = None

    @property
    def _around(self) -> Surroundings:
        return self.pair.side.around

    @property
    def foreign(self) -> JID:
        """Who watches."""
        return self.pair.foreign

    @property
    def dialog_key(self) -> tuple[str, str]:
        """What the watcher's requests find it by."""
        return self.notifier.key

    @property
    def elsewhere(self) -> bool:
        """Whether the subscription goes on at another node."""
        return self not in self.pair.watchers and self.notifier.state in (
            Watch.PENDING,
            Watch.ACTIVE,
        )

    @property
    def pending(self) -> bool:
        """Whether the local user has not decided yet."""
        return self.notifier.state is Watch.PENDING

    def enter(self) -> None:
        """Make the dialog known."""
        self.pair.watchers += (self,)
        self._around.dialogs.add(self)

    def begin(self, effects: list[NotifierEffect], transaction: ServerTransaction) -> None:
        """Answer the first SUBSCRIBE, once the subscription would outlive the process.

        Whoever is told that he watches does not ask again for hours.
        """
        if self.notifier.state not in (Watch.PENDING, Watch.ACTIVE):
            self.perform(effects, transaction)
            return
        self._held = [(effects, transaction)]
        self._around.store.write([Put(self.record())], self._kept)

    def _kept(self, error: BaseException | None) -> None:
        """The subscription is written down, or cannot be: then it stands without."""
        held, self._held = self._held or [], None
        ended = False
        for effects, transaction in held:
            ended = self._carry_out(effects, transaction) or ended
        if not ended:
            self.arm()
            if len(held) > 1:
                self.keep()

    def in_dialog(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> None:
        """Take a refresh, or the end.

        :raises RemoteError: with what to answer instead.
        """
        if request.method != "SUBSCRIBE":
            raise RemoteError(405, "Method Not Allowed", (("Allow", "SUBSCRIBE"),))
        self._prepare()
        pair = self.pair
        effects = self.notifier.resubscribe(request, self._around.timers.seconds(), pair.document())
        self.path = self._around.way_back(self.notifier.dialog.route_set, flow, self.path)
        if not self.pending:
            visible = pair.visible() or (OFFLINE if pair.kind.pending_document else None)
            self.shown = encode_state(visible) if visible is not None else ""
        self.perform(effects, transaction)
        # Nobody asks for the state while the user has not decided, not even when the watcher goes:
        # a home server would answer such a probe as if the user had declined.
        if not pair.known and self.notifier.state is Watch.ACTIVE and self in pair.watchers:
            pair.when_known(pair.show)

    def _prepare(self) -> None:
        """Give the notifier our Contact value, which is not known before the listeners stand."""
        if not self.notifier.contact:
            self.notifier.contact = contact_for(self._around, *self.pair.key, "")

    def show(self, state: str) -> None:
        """Send the pair's state unless it is what was sent last."""
        if self.notifier.state is not Watch.ACTIVE or state == self.shown:
            return
        self.shown = state
        self._prepare()
        document = self.pair.document()
        self.perform(self.notifier.publish(document, self._around.timers.seconds()))

    def approve(self) -> None:
        """The local user has decided: the subscription is active, whatever the decision shows."""
        if not self.pending:
            return
        self._prepare()
        visible = self.pair.visible()
        self.shown = encode_state(visible) if visible is not None else ""
        document = self.pair.document()
        self.perform(self.notifier.approve(self._around.timers.seconds(), document))

    def end(self, reason: str) -> None:
        """End the subscription from our side."""
        self._prepare()
        self.perform(self.notifier.end(reason, self._around.timers.seconds()))

    # -- effects -----------------------------------------------------------------------------------

    def perform(
        self, effects: list[NotifierEffect], transaction: ServerTransaction | None = None
    ) -> None:
        """Carry out what the notifier wants, then write down how it stands."""
        if self._held is not None:
            self._held.append((effects, transaction))
        elif effects and not self._carry_out(effects, transaction):
            self.arm()
            self.keep()

    def _carry_out(
        self, effects: list[NotifierEffect], transaction: ServerTransaction | None
    ) -> bool:
        """Carry out; returns whether that was the end."""
        ended = False
        for effect in effects:
            if isinstance(effect, SendNotify):
                self._send(effect.request)
            elif isinstance(effect, AnswerSubscribe):
                if transaction is not None:
                    self._around.stack.respond(
                        transaction,
                        effect.status,
                        effect.reason,
                        to_tag=effect.to_tag,
                        headers=effect.headers,
                    )
            elif isinstance(effect, NotifyFailed):
                self._failed(effect)
            elif isinstance(effect, WatchEnded):
                ended = True
                self._leave(effect.reason)
        return ended

    def _send(self, request: OutgoingRequest) -> None:
        if self.pending and self.pair.kind.pending_document:
            # Microsoft's clients want a document even where there is nothing to tell.
            document = self.pair.neutral()
            request.headers = (*request.headers, ("Content-Type", document.content_type))
            request.body = document.body
        Errand(self._around, request, self).start(self.path, *self.pair.key)

    def response_arrived(self, transaction: object, response: SipResponse) -> None:
        """An answer to a NOTIFY."""
        if self not in self.pair.watchers:
            return  # it is over, or goes on elsewhere
        if 200 <= response.status < 300:
            self._got_through()
        self.perform(self.notifier.answered(response, self._around.timers.seconds()))

    def _got_through(self) -> None:
        trouble = self._trouble
        if trouble is not None:
            waits = trouble.retry is not None and trouble.retry.active
            self._trouble = _Trouble(retry=trouble.retry) if waits else None

    def request_failed(self, transaction: object, cause: FailureCause, text: str) -> None:
        """A NOTIFY went unanswered."""
        if self not in self.pair.watchers:
            return
        assert isinstance(transaction, Errand)
        timeout = cause is FailureCause.TIMEOUT
        now = self._around.timers.seconds()
        self.perform(self.notifier.failed(transaction.request, timeout, text, now))

    def _failed(self, failure: NotifyFailed) -> None:
        """The watcher has not seen the last state: once more, after a while."""
        trouble = self._trouble = self._trouble or _Trouble()
        trouble.words = f"{failure.status or ''} {failure.reason}".strip()
        log.info(
            "notify_failed",
            "{foreign} was not told of {local}: {status} {why}",
            foreign=str(self.foreign),
            local=str(self.pair.local),
            status=failure.status,
            why=failure.reason,
            conversation=self.notifier.dialog.call_id,
        )
        pause = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(trouble.failures, 8))
        trouble.failures += 1
        if trouble.retry is None or not trouble.retry.active:
            trouble.retry = self._around.timers.after(pause, self._again)

    def _again(self) -> None:
        if self.notifier.state is not Watch.ACTIVE or self.notifier.busy:
            return
        self._prepare()
        visible = self.pair.visible()
        self.shown = encode_state(visible) if visible is not None else ""
        document = self.pair.document()
        self.perform(self.notifier.publish(document, self._around.timers.seconds()))

    def arm(self) -> None:
        """Have the expiry noticed."""
        self._around.timers.note(self)

    @property
    def due(self) -> float | None:
        """When it expires."""
        return self.notifier.due

    def wake(self) -> None:
        """It may have expired."""
        self._prepare()
        self.perform(self.notifier.handle_timer(self._around.timers.seconds()))
        self.arm()

    def let_go(self) -> None:
        """Serve it no longer; it goes on elsewhere."""
        self._around.timers.dismiss(self)
        if self._trouble is not None and self._trouble.retry is not None:
            self._trouble.retry.cancel()
        self._around.dialogs.remove(self)

    def _leave(self, reason: str) -> None:
        """The subscription is over: the dialog is forgotten, the authorization stays."""
        self.let_go()
        record = self.record()
        self.forget_record(self._around, record)
        pair = self.pair
        pair.watchers = tuple(watcher for watcher in pair.watchers if watcher is not self)
        if not pair.watchers:
            pair.side.forget(pair)
        log.info(
            "unwatched",
            "{foreign} watches {local} no more: {reason}",
            foreign=str(self.foreign),
            local=str(pair.local),
            reason=reason,
            conversation=self.notifier.dialog.call_id,
        )

    # -- the store ---------------------------------------------------------------------------------

    def record(self) -> InboundSubscriptionRecord:
        """Return the subscription as the store keeps it."""
        notifier = self.notifier
        local, foreign = self.pair.key
        return InboundSubscriptionRecord(
            local=str(local),
            foreign=str(foreign),
            dialog=notifier.dialog,
            state="pending" if self.pending else "active",
            event_id=notifier.event.partition(";id=")[2],
            expires_at=notifier.expires_at,
            accept=self.accept,
            # What he may not have seen is told him by whoever goes on with the subscription.
            last_state="" if self._trouble is not None and self._trouble.words else self.shown,
        )

    @property
    def stands(self) -> bool:
        """Whether the watcher is told of changes, or will be."""
        return self.notifier.state in (Watch.PENDING, Watch.ACTIVE)

    def keep(self) -> None:
        """Write down how the subscription stands."""
        if self.stands:
            self._around.store.write([Put(self.record())])
        elif self.notifier.state is Watch.ENDING:
            self.forget_record(self._around, self.record())

    @staticmethod
    def forget_record(around: Surroundings, record: InboundSubscriptionRecord) -> None:
        """Take a subscription out of the store."""
        around.store.write([Delete(InboundSubscriptionRecord, record.key)])

    def view(self) -> dict[str, object]:
        """Return the subscription for ``impfedctl subscriptions``."""
        return {
            "direction": "in",
            "local": str(self.pair.local),
            "foreign": str(self.foreign),
            "state": self.notifier.state.value.lower(),
            "decision": self.pair.side.authorizations.inbound(self.pair.key),
            "shown": in_words(decode_state(self.shown)),
            "expires_in": round(self.notifier.expires_at - self._around.timers.seconds()),
            "call_id": self.notifier.dialog.call_id,
            "trouble": self._trouble.words if self._trouble is not None else "",
        }
