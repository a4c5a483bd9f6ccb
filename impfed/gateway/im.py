"""Instant messages: every session of the node, and what becomes of every text (SPEC section 3)."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.gateway.admission import Sender
from impfed.gateway.im_dialog import ImDialog
from impfed.gateway.im_invite import ALLOW
from impfed.gateway.im_session import ImSession
from impfed.gateway.im_text import OutText, ledger_entry, receipt, returned
from impfed.gateway.invitation import read_invitation
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.availability import Kind
from impfed.interwork.errors import Condition, explain, sip_to_xmpp, xmpp_to_sip
from impfed.interwork.text import (
    EncryptedOnly,
    IncomingText,
    embedded_text,
    outgoing_text,
    read_text,
)
from impfed.routing.api import Existence
from impfed.routing.router import Resolution
from impfed.sip.dialog import Dialog
from impfed.sip.message import SipRequest, SipResponse
from impfed.sip.sdp import ImOffer, im_answer
from impfed.sip.target import Hop
from impfed.sip.transaction import ServerTransaction
from impfed.store.api import Change, Delete, Enter, Put
from impfed.store.records import HeldTextRecord, LedgerEntry, OutboxRecord
from impfed.transport.flow import Flow
from impfed.transport.home import Delivery, Outcome
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, error_of, error_reply, message
from impfed.xmpp.xmltext import xml_attr, xml_text

log = EventLog("impfed.gateway")

CHAT_STATES = "http://jabber.org/protocol/chatstates"
_STATES = ("active", "composing", "paused", "inactive", "gone")
_RECEIPTS = "urn:xmpp:receipts"
_NICK = "http://jabber.org/protocol/nick"
_DELAY = "urn:xmpp:delay"
_BUSY = (("Retry-After", "10"),)
#: Texts that one session, and the node, may have waiting before senders are told to try later.
_SESSION_QUEUE = 500
_NODE_QUEUE = 50_000
#: Writes waiting for the disk at which home servers are read no further, and read again.
_PAUSE_AT, _RESUME_AT = 4000, 1000
#: Delivered texts remembered, so that an error that comes late can be told to the sender.
_REMEMBERED = 20_000


class ImGateway:
    """Sessions by pair of bare addresses, and the ledger's bookkeeping around them."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self._sessions: dict[tuple[JID, JID], ImSession] = {}
        self._hops: dict[str, list[Hop]] = {}
        self._waiting: dict[str, OutboxRecord] = {}
        self._unreturned: dict[str, tuple[OutText, int, str, str]] = {}
        self._undelivered_held: dict[str, HeldTextRecord] = {}
        self._recent: OrderedDict[str, tuple[JID, JID]] = OrderedDict()
        self._paused = False

    # -- sessions ----------------------------------------------------------------------------------

    def session(self, local: JID, foreign: JID) -> ImSession | None:
        """Return the session of a pair, made if need be; None when the domain is not served."""
        key = (local, foreign)
        session = self._sessions.get(key)
        if session is None:
            domain = self.around.domain(foreign.domain)
            if domain is None:
                return None
            session = self._sessions[key] = ImSession(self, local, foreign, domain)
        return session

    def closed(self, session: ImSession) -> None:
        """A session has ended; the next text makes another."""
        self._sessions.pop((session.local, session.foreign), None)

    def remember_hops(self, session: ImSession, hops: Resolution) -> None:
        """Keep a domain's next hops for in-dialog requests whose connection is gone."""
        if not isinstance(hops, (str, bytes)) and hops:
            self._hops[session.foreign.domain] = list(hops)  # type: ignore[arg-type]

    def next_hops(self, session: ImSession) -> list[Hop]:
        """Return the next hops last found for the session's foreign domain."""
        return self._hops.get(session.foreign.domain, [])

    def view(self) -> list[dict[str, object]]:
        """Return all sessions, for ``impfedctl sessions``."""
        return [session.view() for session in self._sessions.values()]

    def queued(self, text: str) -> list[OutboxRecord]:
        """Return texts that are still on their way, by id or address, for ``impfedctl where``."""
        return [
            record
            for record in self._waiting.values()
            if text in (record.id, record.stanza_id, record.local, record.foreign)
        ]

    def stop(self) -> None:
        """End every session."""
        for session in list(self._sessions.values()):
            session.close()
        self._sessions.clear()

    # -- from the foreign side ---------------------------------------------------------------------

    def invite_arrived(
        self,
        transaction: ServerTransaction,
        request: SipRequest,
        flow: Flow,
        local: JID,
        sender: Sender,
    ) -> None:
        """Accept or refuse a session.

        :raises RemoteError: when it is refused at once.
        """
        offer = read_invitation(request)
        answer = partial(self._user_known, transaction, request, flow, local, sender, offer)
        self.around.lookup(str(local), answer)

    def _user_known(
        self,
        transaction: ServerTransaction,
        request: SipRequest,
        flow: Flow,
        local: JID,
        sender: Sender,
        offer: ImOffer,
        existence: Existence,
    ) -> None:
        respond = self.around.stack.respond
        if transaction.user is not None:  # cancelled while we asked
            return
        if existence is Existence.ABSENT:
            respond(transaction, 404)
            return
        if self.around.home.congested(local.domain):
            respond(transaction, 480, headers=_BUSY)
            return
        session = self.session(local, sender.jid.bare)
        if session is None:
            respond(transaction, 403)
            return
        now = self.around.timers.seconds()
        dialog = ImDialog(session, Dialog.uas(request, self.around.ids.tag()), flow, now)
        transaction.user = dialog
        embedded = embedded_text(request)
        if embedded is None:
            self._accept(dialog, transaction, flow, offer)
            return
        held = HeldTextRecord(
            id=self._new_id(),
            local=str(local),
            foreign=str(session.foreign),
            call_id=request.call_id,
            text=embedded.plain,
            due=now + self.around.config.im.embedded_text_hold,
        )
        dialog.hold(held)

        def written(error: BaseException | None) -> None:
            if error is not None:
                dialog.held = None
                dialog.drop()
                respond(transaction, 480, headers=_BUSY)
            else:
                self._accept(dialog, transaction, flow, offer)

        self.around.store.write([Put(held)], written)

    def _accept(
        self, dialog: ImDialog, transaction: ServerTransaction, flow: Flow, offer: ImOffer
    ) -> None:
        if dialog.ended:  # cancelled while the embedded text was written
            return
        session, stack = dialog.session, self.around.stack
        session.add(dialog)
        host, _ = stack.advertised(flow.transport)
        stack.respond(
            transaction,
            200,
            to_tag=dialog.dialog.local_tag,
            headers=(
                ("Contact", stack.contact(session.outside.local, flow.transport)),
                ("Allow", ALLOW),
                ("Content-Type", "application/sdp"),
            ),
            body=im_answer(offer, host, str(session.outside)),
        )

    def cancelled(self, transaction: ServerTransaction) -> None:
        """The peer withdrew an INVITE that we have not answered yet."""
        dialog = transaction.user
        transaction.user = dialog or "cancelled"
        if isinstance(dialog, ImDialog):
            if dialog in dialog.session.dialogs:
                return  # our 200 is on its way: the peer ends the session by BYE
            dialog.release_held()
            dialog.drop()
        self.around.stack.respond(transaction, 487)

    def no_ack(self, dialog: ImDialog) -> None:
        """Our 200 was never acknowledged: the session ends (RFC 3261 section 13.3.1.4)."""
        dialog.session.ended_by_peer(dialog)
        dialog.bye()

    def page_arrived(
        self, transaction: ServerTransaction, request: SipRequest, local: JID, sender: Sender
    ) -> None:
        """Deliver a MESSAGE outside any dialog (RFC 3428; page mode of a SIMPLE domain).

        :raises RemoteError: 405 from a domain that only knows session mode, 415 for its type.
        """
        if not Kind.load(sender.domain.kind).page_mode:
            raise RemoteError(405, "Method Not Allowed", (("Allow", ALLOW),))
        media = request.content_type
        if media is None:
            raise RemoteError(400, "Missing Content-Type")
        text = read_text(media, request.body)

        def known(existence: Existence) -> None:
            if existence is Existence.ABSENT:
                self.around.stack.respond(transaction, 404)
            else:
                self.deliver(local, sender.jid.bare, transaction, request, text)

        self.around.lookup(str(local), known)

    def deliver(
        self,
        local: JID,
        foreign: JID,
        transaction: ServerTransaction,
        request: SipRequest,
        text: IncomingText,
    ) -> None:
        """Hand a text to the home server; the MESSAGE is answered when the server has decided.

        200 means that it accepted the stanza; without a decision the answer is 480 and the ledger
        says *unsure* (SPEC section 3).
        """
        around = self.around
        if around.home.congested(local.domain):
            raise RemoteError(480, "Temporarily Unavailable", _BUSY)
        entry = LedgerEntry(
            id=self._new_id(),
            direction="in",
            local=str(local),
            foreign=str(foreign),
            call_id=request.call_id,
            cseq=request.cseq.number,
            node=around.config.node.name,
            received_at=around.timers.seconds(),
        )
        entry.stanza_id = entry.id
        stanza = _incoming(entry.id, local, foreign, text, request.from_.display)
        around.home.deliver(stanza, partial(self._decided, transaction, entry, (local, foreign)))

    def _decided(
        self,
        transaction: ServerTransaction,
        entry: LedgerEntry,
        pair: tuple[JID, JID],
        delivery: Delivery,
    ) -> None:
        around = self.around
        if delivery.outcome is Outcome.ACCEPTED:
            entry.outcome, entry.sip_status = "delivered", 200
            self._remember(entry.id, pair)
            around.stack.respond(transaction, 200)
        elif delivery.outcome is Outcome.REFUSED:
            error = xmpp_to_sip(delivery.condition)
            entry.outcome, entry.sip_status = "bounced", error.status
            entry.xmpp_condition, entry.detail = delivery.condition, delivery.text
            around.stack.respond(transaction, error.status, error.reason, headers=error.headers)
        else:
            entry.outcome, entry.sip_status, entry.detail = "unsure", 480, delivery.text
            around.stack.respond(transaction, 480, headers=_BUSY)
        around.metrics.count(f"im.in.{entry.outcome}")
        self._settle(entry, [])

    def deliver_held(self, held: HeldTextRecord) -> None:
        """Deliver a text that came only inside an INVITE; kept until a home server has decided."""
        self._undelivered_held[held.id] = held
        now = self.around.timers.seconds()
        local, foreign = JID.parse(held.local), JID.parse(held.foreign)
        entry = LedgerEntry(
            id=held.id,
            direction="in",
            local=held.local,
            foreign=held.foreign,
            stanza_id=held.id,
            call_id=held.call_id,
            node=self.around.config.node.name,
            received_at=held.due - self.around.config.im.embedded_text_hold,
            detail="embedded in the INVITE, never repeated as MESSAGE",
        )
        stanza = _incoming(held.id, local, foreign, IncomingText(held.text, ""), "", entry.received_at)

        def decided(delivery: Delivery) -> None:
            if delivery.outcome is Outcome.UNSURE:
                return  # the link is down; it goes again when one is up
            self._undelivered_held.pop(held.id, None)
            entry.finished_at = now
            if delivery.outcome is Outcome.ACCEPTED:
                entry.outcome = "delivered"
                self._remember(held.id, (local, foreign))
            else:
                entry.outcome, entry.xmpp_condition = "bounced", delivery.condition
                self._tell_foreign(local, foreign, delivery.condition, delivery.text)
            self._settle(entry, [Delete(HeldTextRecord, held.key)])

        self.around.home.deliver(stanza, decided)

    def chat_state(self, session: ImSession, state: str) -> None:
        """Show the foreign user's typing to the local user (XEP-0085)."""
        payload = f'<{state} xmlns="{CHAT_STATES}"/>'
        self.around.home.send(message(session.local, session.foreign, payload=payload))

    # -- from the home side ------------------------------------------------------------------------

    def message_arrived(self, stanza: Stanza) -> None:
        """Take a message stanza of a local user, or of his home server, towards a foreign user."""
        if stanza.type == "error":
            self._error_arrived(stanza)
            return
        if stanza.type == "groupchat":
            self._refuse(stanza, "not-acceptable", "modify", "group chat is not supported here")
            return
        local, foreign = stanza.from_.bare, stanza.to.bare
        if self.around.domain(foreign.domain) is None:
            self._refuse(
                stanza,
                "remote-server-not-found",
                "cancel",
                f"{stanza.to.domain} is not a domain that this gateway federates with",
            )
            return
        try:
            body = outgoing_text(stanza)
        except EncryptedOnly as error:
            self._refuse(stanza, error.condition, "modify", error.text)
            return
        session = self._sessions.get((local, foreign))
        if body is None:
            if session is not None:
                self._chat_state_arrived(session, stanza)
            return
        full = session is not None and len(session.queue) >= _SESSION_QUEUE
        if full or len(self._waiting) >= _NODE_QUEUE:
            self._refuse(stanza, "resource-constraint", "wait", "too many messages are waiting")
            return
        self._take_over(stanza, body)

    def _take_over(self, stanza: Stanza, body: str) -> None:
        """Write a text down; only then it is ours, and only then it goes on."""
        record = OutboxRecord(
            id=self._new_id(),
            local=str(stanza.from_.bare),
            foreign=str(stanza.to.bare),
            body=body,
            stanza_id=stanza.id,
            stanza_from=str(stanza.from_),
            nick=stanza.text("nick", _NICK) or "",
            lang=stanza.lang,
            receipt=bool(stanza.id) and stanza.child("request", _RECEIPTS) is not None,
            received_at=self.around.timers.seconds(),
        )
        self._waiting[record.id] = record

        def written(error: BaseException | None) -> None:
            self._ease()
            if error is not None:
                del self._waiting[record.id]
                self._refuse(
                    stanza, "resource-constraint", "wait", "the gateway cannot store it now"
                )
                return
            self._on_its_way(record, chat_states)

        chat_states = stanza.child("active", CHAT_STATES) is not None
        self.around.store.write([Put(record)], written)
        self._press()

    def _on_its_way(self, record: OutboxRecord, chat_states: bool = False) -> None:
        session = self.session(JID.parse(record.local), JID.parse(record.foreign))
        if session is None:
            text = OutText(record, record.body, 8000)
            self._return(text, "remote-server-not-found", 0, "the domain is served no longer")
            return
        session.chat_states = session.chat_states or chat_states
        session.send(OutText(record, record.body, session.domain.text_limit))

    @staticmethod
    def _chat_state_arrived(session: ImSession, stanza: Stanza) -> None:
        for state in _STATES:
            if stanza.child(state, CHAT_STATES) is not None:
                session.local_typing(state)
                break

    def _error_arrived(self, stanza: Stanza) -> None:
        """The home server changed its mind about a text that it had accepted."""
        pair = self._recent.pop(stanza.id, None)
        if pair is None:
            return
        error = error_of(stanza)
        self._tell_foreign(*pair, error.condition, error.text)

    def _tell_foreign(self, local: JID, foreign: JID, condition: str, words: str) -> None:
        session = self._sessions.get((local, foreign))
        self.around.metrics.count("im.in.late_error")
        log.warn(
            "late_error",
            "a text from {foreign} to {local} was accepted and then refused: {condition}",
            foreign=str(foreign),
            local=str(local),
            condition=condition,
        )
        if session is not None and session.current is not None:
            reason = words or condition.replace("-", " ")
            notice = f"Your last message to {local} could not be delivered: {reason}"
            session.send(OutText(None, notice, session.domain.text_limit))

    def _refuse(self, stanza: Stanza, condition: str, type: str, words: str) -> None:
        self.around.metrics.count("im.out.refused")
        if not self.around.home.send(error_reply(stanza, condition, type, words)):
            log.warn("refusal_lost", "the home link went down before a refusal could be told")

    # -- the end of a text on its way out ----------------------------------------------------------

    def keep(self, record: OutboxRecord) -> None:
        """Write down that a text is to be sent again."""
        self.around.store.write([Put(record)])

    def delivered(self, text: OutText, status: int) -> None:
        """The far side's server has taken all of a text."""
        record = text.record
        if record is None:
            return
        self._waiting.pop(record.id, None)
        if record.receipt:
            self.around.home.send(receipt(record))
        self.around.metrics.count("im.out.delivered")
        entry = self._entry(text, record, "delivered", status, "", _history(record))
        self.around.store.write([Delete(OutboxRecord, record.key), Enter(entry)])

    def refused(self, text: OutText, response: SipResponse) -> None:
        """The far side refused a text: its sender is told why."""
        condition = sip_to_xmpp(response.status)
        self._return(text, condition, response.status, explain(response))

    def unanswered(self, text: OutText, words: str) -> None:
        """The far side could not be reached, or never answered."""
        self._return(text, sip_to_xmpp(408), 0, words)

    def _return(
        self, text: OutText, condition: Condition | str, status: int, words: str
    ) -> None:
        record = text.record
        if record is None:
            return
        if isinstance(condition, str):
            condition = Condition(condition, "cancel")
        if text.sent:
            words = f"{words} (the first {text.sent} of {len(text.parts)} parts were delivered)"
        if record.unsure:
            words = f"{words} (an earlier attempt may have been delivered)"
        stanza = returned(record, condition, words)
        outcome = "unsure" if record.unsure else "bounced"

        def decided(delivery: Delivery) -> None:
            if delivery.outcome is Outcome.UNSURE:
                self._unreturned[record.id] = (text, status, condition.condition, words)
                return
            self._waiting.pop(record.id, None)
            self.around.metrics.count(f"im.out.{outcome}")
            entry = self._entry(text, record, outcome, status, condition.condition, words)
            self._settle(entry, [Delete(OutboxRecord, record.key)])

        self.around.home.deliver(stanza, decided)

    def _entry(
        self, text: OutText, record: OutboxRecord, outcome: str, status: int, condition: str, words: str
    ) -> LedgerEntry:
        return ledger_entry(
            text,
            record,
            outcome,  # type: ignore[arg-type]
            self.around.config.node.name,
            self.around.timers.seconds(),
            sip_status=status,
            condition=condition,
            detail=words,
        )

    def _settle(self, entry: LedgerEntry, changes: list[Change]) -> None:
        entry.finished_at = self.around.timers.seconds()
        self.around.store.write([*changes, Enter(entry)])

    # -- beginnings --------------------------------------------------------------------------------

    def restore(self, outbox: list[OutboxRecord], held: list[HeldTextRecord]) -> None:
        """Go on where the last process stopped: texts are sent again, in their order."""
        for record in sorted(outbox, key=lambda each: each.id):
            self._waiting[record.id] = record
            self._on_its_way(record)
        for text in held:
            delay = max(0.0, text.due - self.around.timers.seconds())
            self.around.timers.after(delay, self.deliver_held, text)

    def link_up(self) -> None:
        """A home link is there again: what could not be handed over goes now."""
        unreturned, self._unreturned = self._unreturned, {}
        for text, status, condition, words in unreturned.values():
            self._return(text, condition, status, words)
        held, self._undelivered_held = self._undelivered_held, {}
        for record in held.values():
            self.deliver_held(record)

    # -- small things ------------------------------------------------------------------------------

    def _new_id(self) -> str:
        """Return an id that sorts by time, so that records come back in the order of their arrival."""
        return f"{int(self.around.timers.seconds() * 1e6):014x}{self.around.ids.token(4)}"

    def _remember(self, message_id: str, pair: tuple[JID, JID]) -> None:
        self._recent[message_id] = pair
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    def _press(self) -> None:
        if not self._paused and self.around.store.backlog > _PAUSE_AT:
            self._paused = True
            self.around.home.pause()

    def _ease(self) -> None:
        if self._paused and self.around.store.backlog < _RESUME_AT:
            self._paused = False
            self.around.home.resume()


def _history(record: OutboxRecord) -> str:
    return "sent again; an earlier attempt may have been delivered too" if record.unsure else ""


def _incoming(
    message_id: str,
    local: JID,
    foreign: JID,
    text: IncomingText,
    display: str,
    delayed_since: float = 0.0,
) -> OutStanza:
    payload = f'<active xmlns="{CHAT_STATES}"/>'
    if text.xhtml:
        payload = text.xhtml + payload
    if display:
        payload += f'<nick xmlns="{_NICK}">{xml_text(display)}</nick>'
    if delayed_since:
        stamp = _stamp(delayed_since)
        payload += f'<delay xmlns="{_DELAY}" from="{xml_attr(foreign.domain)}" stamp="{stamp}"/>'
    return message(local, foreign, id=message_id, body=text.plain, payload=payload)


def _stamp(when: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
