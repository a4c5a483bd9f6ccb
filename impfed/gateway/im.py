"""Instant messages: every session of the node, and how one begins (SPEC section 3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.gateway.admission import Sender
from impfed.gateway.im_dialog import ImDialog
from impfed.gateway.im_inbox import BUSY, CHAT_STATES, Inbox
from impfed.gateway.im_invite import ALLOW
from impfed.gateway.im_outbox import Outbox
from impfed.gateway.im_session import ImSession
from impfed.gateway.im_text import OutText
from impfed.gateway.invitation import read_invitation
from impfed.gateway.surroundings import Surroundings, message_id
from impfed.interwork.availability import Kind
from impfed.interwork.errors import Condition
from impfed.interwork.text import EncryptedOnly, embedded_text, outgoing_text, read_text
from impfed.policy.users import Judgement, Rule
from impfed.routing.api import Existence, Reject, RouteQuery
from impfed.routing.router import Resolution
from impfed.sip.dialog import Dialog
from impfed.sip.message import SipRequest
from impfed.sip.sdp import ImOffer, im_answer
from impfed.sip.target import Hop
from impfed.sip.transaction import ServerTransaction
from impfed.store.api import Delete, Put
from impfed.store.records import HeldTextRecord, LedgerEntry, OutboxRecord, SessionRecord
from impfed.transport.flow import Flow
from impfed.transport.stream import StreamFlow
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, message

log = EventLog("impfed.gateway")

_STATES = ("active", "composing", "paused", "inactive", "gone")
#: Texts that one session may have waiting before the sender is told to try later.
_SESSION_QUEUE = 500


class ImGateway:
    """Sessions by pair of bare addresses, with the texts of both directions.

    :ivar inbox: texts to local users.
    :ivar outbox: texts to foreign users.
    """

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.inbox = Inbox(around, self._tell_foreign)
        self.outbox = Outbox(around, self._send)
        self._sessions: dict[tuple[JID, JID], ImSession] = {}
        self._hops: dict[tuple[str, str], list[Hop]] = {}

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

    def remember_hops(self, session: ImSession, resolution: Resolution) -> None:
        """Keep the next hops between two domains for in-dialog requests whose connection is gone."""
        if not isinstance(resolution, Reject) and resolution:
            self._hops[session.outside.domain, session.foreign.domain] = list(resolution)

    def next_hops(self, session: ImSession) -> list[Hop]:
        """Return the next hops last found between the session's domains."""
        return self._hops.get((session.outside.domain, session.foreign.domain), [])

    def view(self) -> list[dict[str, object]]:
        """Return all sessions, for ``impfedctl sessions``."""
        return [session.view() for session in self._sessions.values()]

    def on_their_way(self, text: str) -> list[LedgerEntry]:
        """Return texts without an end yet, by an id or an address, for ``impfedctl where``."""
        return self.outbox.find(text)

    def sessions(self) -> list[ImSession]:
        """Return every session."""
        return list(self._sessions.values())

    def known_session(self, local: JID, foreign: JID) -> ImSession | None:
        """Return the session of a pair, None where there is none."""
        return self._sessions.get((local, foreign))

    def session_lost(self, key: str) -> None:
        """Another node has taken over the dialog of a session.

        :param key: of its record.
        """
        call_id, _, tag = key.rpartition("|")
        dialog = self.around.dialogs.owner(call_id, tag)
        if isinstance(dialog, ImDialog):
            dialog.session.lose(dialog)

    def end_all(self, local: JID) -> int:
        """End the sessions of a local user who is no more; returns how many.

        One in which a text is on its way ends by itself.
        """
        sessions = [each for each in self._sessions.values() if each.local == local]
        for session in sessions:
            if not session.queue:
                session.close()
                self.closed(session)
        return len(sessions)

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
        self.around.lookup(local.text, answer)

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
        blocked = self.inbox.stopped(local, sender.jid.bare)
        if blocked and self.inbox.refuses:
            self._stop_session(request, local, sender, blocked)
            respond(transaction, 480)
            return
        if self.around.home.congested(local.domain, sender.jid.domain):
            respond(transaction, 480, headers=BUSY)
            return
        session = self.session(local, sender.jid.bare)
        if session is None:
            respond(transaction, 403)
            return
        now = self.around.timers.seconds()
        begun = Dialog.uas(request, self.around.ids.tag())
        # What another node of the cluster has only handed over is answered straight from here.
        path = self.around.way_back(begun.route_set, flow, None)
        dialog = ImDialog(session, begun, path, now)
        transaction.user = dialog
        accept = partial(self._accept, dialog, transaction, flow, offer)
        embedded = embedded_text(request)
        if embedded is None or blocked:
            accept()
        else:
            self._hold(dialog, transaction, embedded.plain, accept)

    def _stop_session(self, request: SipRequest, local: JID, sender: Sender, why: str) -> None:
        self.around.metrics.count("gate.texts.refused")
        log.info(
            "session_stopped",
            "a session of {foreign} with {local} is refused: {why}",
            foreign=sender.jid.bare.text,
            local=local.text,
            why=why,
            conversation=request.call_id,
        )

    def _hold(
        self,
        dialog: ImDialog,
        transaction: ServerTransaction,
        text: str,
        accept: Callable[[], None],
    ) -> None:
        """Accept an INVITE once the text that it brings is held durably."""
        session = dialog.session
        held = HeldTextRecord(
            id=message_id(self.around),
            local=session.local.text,
            foreign=session.foreign.text,
            call_id=dialog.dialog.call_id,
            text=text,
            due=self.around.timers.seconds() + self.around.config.im.embedded_text_hold,
        )
        dialog.hold(held)

        def written(error: BaseException | None) -> None:
            if error is None:
                accept()
            else:
                dialog.held = None
                dialog.drop()
                self.around.stack.respond(transaction, 480, headers=BUSY)

        self.around.store.write([Put(held)], written)

    def _accept(
        self, dialog: ImDialog, transaction: ServerTransaction, flow: Flow, offer: ImOffer
    ) -> None:
        if dialog.ended:  # cancelled while the embedded text was written
            return
        session, stack = dialog.session, self.around.stack
        session.add(dialog)
        self._look_out(dialog, flow)
        domain, user = session.outside.domain, session.contact_user
        host, _ = stack.advertised(flow.transport, domain=domain)
        stack.respond(
            transaction,
            200,
            to_tag=dialog.dialog.local_tag,
            headers=(
                ("Contact", stack.contact(user, flow.transport, domain=domain)),
                ("Allow", ALLOW),
                ("Content-Type", "application/sdp"),
            ),
            body=im_answer(offer, host, session.outside_address),
        )

    def _look_out(self, dialog: ImDialog, flow: Flow) -> None:
        """Find the next hops of the peer's domain.

        They are the way of a dialog that another node has handed over.  Where there are others the peer's
        own connection is not waited for long.
        """
        session = dialog.session
        patient = isinstance(flow, StreamFlow) and not flow.patience
        if dialog.path is not None and not patient:
            return

        def resolved(resolution: Resolution) -> None:
            self.remember_hops(session, resolution)
            hops = [] if isinstance(resolution, Reject) else list(resolution)
            if dialog.path is None:
                dialog.path = hops[0] if hops else flow
                session.pump()
            elif isinstance(flow, StreamFlow) and any(hop.others for hop in hops):
                flow.hurry(self.around.config.sip.failover_after)

        query = RouteQuery("MESSAGE", str(session.outside), str(session.foreign))
        self.around.resolve(query, resolved)

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
        text = read_text(request.content_type, request.body)

        def known(existence: Existence) -> None:
            if existence is Existence.ABSENT:
                self.around.stack.respond(transaction, 404)
                return
            try:
                self.inbox.deliver(local, sender.jid.bare, transaction, request, text)
            except RemoteError as error:
                self.around.stack.respond(
                    transaction, error.status, error.reason, headers=error.headers
                )

        self.around.lookup(local.text, known)

    def screen(self, judge: Callable[[JID, JID], Judgement | None]) -> None:
        """Have texts of foreign users judged before they go to local ones.

        A user's default stops strangers, but not the answer of somebody whom he has written to
        himself while that conversation lasts.
        """

        def stopped(local: JID, foreign: JID) -> str:
            judgement = judge(local, foreign)
            if judgement is None:
                return ""
            session = self._sessions.get((local, foreign))
            if judgement.rule is Rule.DEFAULT and session is not None and session.local_wrote:
                return ""
            return judgement.words

        self.inbox.stopped = stopped

    def chat_state(self, session: ImSession, state: str) -> None:
        """Show the foreign user's typing to the local user (XEP-0085)."""
        payload = f'<{state} xmlns="{CHAT_STATES}"/>'
        self.around.home.send(message(session.local, session.foreign, payload=payload))

    # -- from the home side ------------------------------------------------------------------------

    def message_arrived(self, stanza: Stanza) -> None:
        """Take a message stanza of a local user, or of his home server, towards a foreign user."""
        if stanza.type == "error":
            self.inbox.error_arrived(stanza)
            return
        if self.outbox.has(stanza):
            return
        refuse = self.outbox.refuse
        if stanza.type == "groupchat":
            refuse(stanza, "not-acceptable", "modify", "group chat is not supported here")
            return
        domain = stanza.to.domain
        if self.around.domain(domain) is None:
            words = f"{domain} is not a domain that this gateway federates with"
            refuse(stanza, "remote-server-not-found", "cancel", words)
            return
        try:
            body = outgoing_text(stanza)
        except EncryptedOnly as error:
            refuse(stanza, error.condition, "modify", error.text)
            return
        session = self._sessions.get((stanza.from_.bare, stanza.to.bare))
        if body is None:
            if session is not None:
                self._chat_state_arrived(session, stanza)
        elif self.outbox.full or (session is not None and len(session.queue) >= _SESSION_QUEUE):
            refuse(stanza, "resource-constraint", "wait", "too many messages are waiting")
        else:
            self.outbox.take_over(stanza, body)

    def _send(self, record: OutboxRecord, chat_states: bool) -> None:
        session = self.session(JID.parse(record.local), JID.parse(record.foreign))
        if session is None:  # of an earlier configuration
            text = OutText(record, record.body, 8000)
            gone = Condition("remote-server-not-found", "cancel")
            self.outbox.give_back(text, gone, 0, "its domain is served no longer")
            return
        session.chat_states = session.chat_states or chat_states
        session.send(OutText(record, record.body, session.domain.text_limit))

    @staticmethod
    def _chat_state_arrived(session: ImSession, stanza: Stanza) -> None:
        for state in _STATES:
            if stanza.child(state, CHAT_STATES) is not None:
                session.typing.local(state)
                break

    def _tell_foreign(self, local: JID, foreign: JID, words: str) -> None:
        session = self._sessions.get((local, foreign))
        if session is not None and session.current is not None:
            session.send(OutText(None, words, session.domain.text_limit))

    # -- beginnings --------------------------------------------------------------------------------

    def resume(self, records: list[SessionRecord]) -> None:
        """Go on with sessions that another node has begun, or this one before it was restarted."""
        for record in records:
            if self.around.dialogs.owner(*record.dialog.key) is not None:
                continue
            session = self.session(JID.parse(record.local), JID.parse(record.foreign))
            if session is not None:
                session.resume(record)
            else:  # of an earlier configuration
                self.around.store.write([Delete(SessionRecord, record.key)])

    def restore(self, outbox: list[OutboxRecord], held: list[HeldTextRecord]) -> None:
        """Go on where the last process stopped."""
        self.outbox.restore(outbox)
        for text in held:
            delay = max(0.0, text.due - self.around.timers.seconds())
            self.around.timers.after(delay, self.inbox.deliver_held, text)
