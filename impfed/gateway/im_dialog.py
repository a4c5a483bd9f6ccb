"""One SIP dialog of an instant message session: what comes in on it, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.gateway.invitation import read_invitation
from impfed.interwork.text import IncomingText, read_text
from impfed.interwork.typing import ISCOMPOSING_TYPE, read_typing
from impfed.sip.dialog import Dialog
from impfed.sip.message import SipRequest, SipResponse
from impfed.sip.sdp import im_answer
from impfed.sip.target import Hop
from impfed.sip.transaction import FailureCause, ServerTransaction
from impfed.store.api import Delete
from impfed.store.records import HeldTextRecord, SessionRecord, session_key
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID

if TYPE_CHECKING:
    from impfed.gateway.im_session import ImSession

log = EventLog("impfed.gateway")


class ImDialog:
    """A dialog between one local and one foreign user, either side's INVITE.

    :ivar path: the flow it came by or the hop it was sent to; in-dialog requests go the same way.  None
        when it has come from another node and the way is not known yet.
    :ivar asking: whether a re-INVITE of ours has no answer yet.
    :ivar recorded: whether the store has it, because it has come from another node.
    :ivar confirmed: whether both sides know that it stands (ACK seen, or sent).
    :ivar held: text embedded in the INVITE, kept in case that no MESSAGE repeats it.
    :ivar shown: normalised text that was already shown from ``held``; its repeat is not shown.
    """

    __slots__ = (
        "asking",
        "confirmed",
        "dialog",
        "ended",
        "held",
        "held_timer",
        "linger",
        "path",
        "recorded",
        "session",
        "shown",
        "since",
    )

    def __init__(
        self, session: ImSession, dialog: Dialog, path: Flow | Hop | None, now: float
    ) -> None:
        self.session = session
        self.dialog = dialog
        self.path = path
        self.since = now
        self.confirmed = False
        self.ended = False
        self.asking = False
        self.recorded = False
        self.held: HeldTextRecord | None = None
        self.held_timer: Timer | None = None
        self.shown = ""
        self.linger = 0.0
        session.around.dialogs.add(self)

    # -- requests from the peer --------------------------------------------------------------------

    @property
    def foreign(self) -> JID:
        """The peer; nobody else may speak in the dialog."""
        return self.session.foreign

    @property
    def dialog_key(self) -> tuple[str, str]:
        """What the peer's requests find it by."""
        return self.dialog.key

    def in_dialog(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> None:
        """Answer a request inside this dialog.

        :raises RemoteError: with what to answer instead.
        """
        self.dialog.accept(request)
        self.path = self.session.around.way_back(self.dialog.route_set, flow, self.path)
        if request.method == "MESSAGE":
            self._message(transaction, request)
        elif request.method == "INFO":
            self._info(transaction, request)
        elif request.method == "BYE":
            self._bye(transaction)
        elif request.method == "INVITE":
            self._reinvite(transaction, request, flow)
        elif request.method == "OPTIONS":
            self.session.around.stack.respond(transaction, 200)
        else:
            raise RemoteError(405, "Method Not Allowed")

    def _message(self, transaction: ServerTransaction, request: SipRequest) -> None:
        session = self.session
        if not self.confirmed:
            session.confirmed(self)  # the ACK is on another connection, or was overtaken
        session.touch()
        media = request.content_type
        if media is not None and media.essence == ISCOMPOSING_TYPE:
            self._typing(request)
            session.around.stack.respond(transaction, 200)
            return
        text = read_text(media, request.body)
        if self.shown and _normal(text.plain) == self.shown:
            self.shown = ""
            session.around.stack.respond(transaction, 200)
            return
        self._settle_held(text)
        session.deliver(transaction, request, text)

    def _info(self, transaction: ServerTransaction, request: SipRequest) -> None:
        self.session.touch()
        self._typing(request)
        self.session.around.stack.respond(transaction, 200)

    def _typing(self, request: SipRequest) -> None:
        typing = read_typing(request.content_type, request.body)
        if typing is not None:
            self.session.typing.foreign(typing)

    def _bye(self, transaction: ServerTransaction) -> None:
        self.session.around.stack.respond(transaction, 200)
        self.release_held()
        self.drop()
        self.session.ended_by_peer(self)

    def _reinvite(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> None:
        session, around = self.session, self.session.around
        if self.asking:
            raise RemoteError(491, "Request Pending")  # RFC 3261 section 14.2
        domain, user = session.outside.domain, session.contact_user
        host, _ = around.stack.advertised(flow.transport, domain=domain)
        around.stack.respond(
            transaction,
            200,
            headers=(
                ("Contact", around.stack.contact(user, flow.transport, domain=domain)),
                ("Content-Type", "application/sdp"),
            ),
            body=im_answer(read_invitation(request), host, session.outside_address),
        )

    # -- the text embedded in the INVITE -----------------------------------------------------------

    def hold(self, record: HeldTextRecord) -> None:
        """Keep an embedded text, which is in the store already."""
        self.held = record

    def acknowledged(self) -> None:
        """The peer's ACK came: from now on the embedded text waits for its repeat."""
        session = self.session
        session.confirmed(self)
        if self.held is not None and self.held_timer is None:
            self.held_timer = session.around.timers.after(
                session.around.config.im.embedded_text_hold, self.release_held
            )

    def _settle_held(self, arriving: IncomingText) -> None:
        """A MESSAGE came: it is the embedded text's repeat, or the embedded text goes first."""
        held = self.held
        if held is None:
            return
        embedded, text = _normal(held.text), _normal(arriving.plain)
        if text.startswith(embedded) or embedded.startswith(text):
            self._forget_held()
            self.session.around.store.write(self.session.held_settled(held))
        else:
            self.release_held()
            self.shown = embedded

    def release_held(self) -> None:
        """Deliver the embedded text, for nothing repeated it."""
        held = self.held
        if held is None:
            return
        self._forget_held()
        self.shown = _normal(held.text)
        self.session.gateway.inbox.deliver_held(held)

    def _forget_held(self) -> None:
        self.held = None
        if self.held_timer is not None:
            self.held_timer.cancel()
            self.held_timer = None

    # -- the end -----------------------------------------------------------------------------------

    def bye(self, linger: float = 0.0) -> None:
        """End the dialog from our side; requests that cross the BYE are still answered.

        :param linger: for so many seconds after the peer's answer, too, should they come another way.
        """
        if self.ended:
            return
        self.linger = linger
        self.release_held()
        self.ended = True
        self._forget_record()
        around, way = self.session.around, self.session.destination(self)
        if way is None:
            self.drop()
        else:
            around.stack.request(self.dialog.request("BYE"), way, self)

    def drop(self) -> None:
        """Forget the dialog: the peer has ended it, or does not know it any more."""
        self._forget_record()
        self.let_go()

    def let_go(self) -> None:
        """Serve it no longer; it may go on at another node."""
        self.ended = True
        self.session.around.dialogs.remove(self)

    # -- in a cluster ------------------------------------------------------------------------------

    def record(self) -> SessionRecord:
        """Return it as another node goes on with it."""
        self.release_held()
        session = self.session
        return SessionRecord(
            local=session.local.text,
            foreign=session.foreign.text,
            dialog=self.dialog,
            chat_states=session.chat_states,
            local_wrote=session.local_wrote,
            shown=self.shown,
            conversation=session.conversation,
        )

    def _forget_record(self) -> None:
        if self.recorded:
            self.recorded = False
            key = session_key(*self.dialog.key)
            self.session.around.store.write([Delete(SessionRecord, key)])

    def response_arrived(self, transaction: object, response: SipResponse) -> None:
        """An answer to our BYE or to a typing notice; a lost typing notice is no loss."""
        if response.status >= 200 and response.cseq.method == "BYE":
            if self.linger:
                self.session.around.timers.after(self.linger, self.drop)
            else:
                self.drop()

    def request_failed(self, transaction: object, cause: FailureCause, text: str) -> None:
        """Our BYE or typing notice was not answered: the peer will notice by itself."""
        if self.ended:
            self.drop()
        log.debug(
            "notice_unanswered",
            "a request without content to lose went unanswered: {text}",
            text=text,
            conversation=self.session.conversation,
        )


def _normal(text: str) -> str:
    return " ".join(text.split())
