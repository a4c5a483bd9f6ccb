"""The conversation of one local and one foreign user, across the dialogs that come and go (SPEC section 3)."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

from impfed.config.model import SipDomainConfig
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.gateway.im_dialog import ImDialog
from impfed.gateway.im_invite import InviteAttempt
from impfed.gateway.im_resume import Resumption
from impfed.gateway.im_text import OutText
from impfed.gateway.im_typing import Typing
from impfed.gateway.paced import NOT_SENT
from impfed.interwork.address import uri_of
from impfed.interwork.text import IncomingText
from impfed.sip.message import SipRequest, SipResponse
from impfed.sip.target import Hop
from impfed.sip.transaction import ClientTransaction, FailureCause, ServerTransaction
from impfed.store.api import Change, Delete, Put
from impfed.store.records import HeldTextRecord, OutboxRecord, SessionRecord
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID

if TYPE_CHECKING:
    from impfed.gateway.im import ImGateway

log = EventLog("impfed.gateway")

#: Answers to a MESSAGE after which the same text goes once more, in a new dialog (SPEC section 3).
_SEND_AGAIN = frozenset({408, 480, 481})
#: Answers that end the dialog as well as the request (RFC 5057 section 5.1).
_ENDS_DIALOG = frozenset({404, 410, 416, 482, 483, 484, 485, 502, 604})
_TEXT = (("Content-Type", "text/plain; charset=UTF-8"),)
_LATE = 60.0  # seconds after which a text tells when it was written (RFC 3261 section 20.17)


class ImSession:
    """At most one per pair of bare addresses; one text is on its way at a time.

    :ivar current: the dialog confirmed last; it carries what we send.
    :ivar queue: texts to send, the first one possibly on its way.
    :ivar on_its_way: the dialog in which the first text is being sent.
    :ivar attempt: our INVITE, or the re-INVITE of a session of another node, while it is unanswered.
    :ivar local_wrote: whether the local user has written something in it.
    :ivar typing: who of the two types.
    :ivar leaving: whether its pair goes to another node: it finishes what is under way.
    """

    __slots__ = (
        "_idle",
        "around",
        "attempt",
        "chat_states",
        "contact_user",
        "conversation",
        "current",
        "dialogs",
        "domain",
        "foreign",
        "gateway",
        "last_activity",
        "leaving",
        "local",
        "local_wrote",
        "on_its_way",
        "outside",
        "outside_address",
        "queue",
        "since",
        "typing",
    )

    def __init__(
        self, gateway: ImGateway, local: JID, foreign: JID, domain: SipDomainConfig
    ) -> None:
        self.gateway = gateway
        self.around = gateway.around
        self.local = local
        self.outside = gateway.around.aliases.to_outside(local)
        self.foreign = foreign
        self.domain = domain
        self.outside_address = self.outside.text
        self.contact_user = uri_of(self.outside).partition(":")[2].rpartition("@")[0]
        self.conversation = gateway.around.ids.token(4)
        self.dialogs: list[ImDialog] = []
        self.current: ImDialog | None = None
        self.queue: deque[OutText] = deque()
        self.on_its_way: ImDialog | None = None
        self.attempt: InviteAttempt | Resumption | None = None
        self.chat_states = False
        self.local_wrote = False
        self.leaving = False
        self.typing = Typing(self)
        self.since = self.last_activity = self.around.timers.seconds()
        self._idle: Timer = self.around.timers.after(
            self.around.config.im.idle_timeout, self._idle_too_long
        )

    # -- dialogs -----------------------------------------------------------------------------------

    def add(self, dialog: ImDialog) -> None:
        """Take in a dialog that has just come to be."""
        self.dialogs.append(dialog)
        self.touch()

    def confirmed(self, dialog: ImDialog) -> None:
        """A dialog stands: what we send goes there now, and the others end once they are quiet."""
        if dialog.confirmed or dialog.ended:
            return
        dialog.confirmed = True
        self.current = dialog
        self._end_superseded()
        self.pump()

    def ended_by_peer(self, dialog: ImDialog) -> None:
        """The peer said BYE."""
        self._forget(dialog)
        if not self.dialogs:
            self.typing.stop_foreign()
            if self.chat_states:
                self.gateway.chat_state(self, "gone")
        self.pump()

    def _forget(self, dialog: ImDialog) -> None:
        if dialog in self.dialogs:
            self.dialogs.remove(dialog)
        if self.current is dialog:
            self.current = next((d for d in reversed(self.dialogs) if d.confirmed), None)

    def _end_superseded(self) -> None:
        for dialog in list(self.dialogs):
            if dialog.confirmed and dialog is not self.current and dialog is not self.on_its_way:
                self._forget(dialog)
                dialog.bye()

    def destination(self, dialog: ImDialog) -> Flow | Hop | None:
        """Return where an in-dialog request goes: the dialog's flow while it lives, else the next hop.

        The peer's Contact is never dialled (DESIGN section 9).  None when no way is known.
        """
        path = dialog.path
        through = self.around.through(dialog.dialog.route_set, path)
        if through is not None:
            return through
        if isinstance(path, Hop) or (path is not None and path.alive):
            return path
        hops = self.gateway.next_hops(self)
        return hops[0] if hops else path

    def close(self, linger: float = 0.0) -> None:
        """End every dialog and stop the timers; see :meth:`ImDialog.bye`."""
        if self.attempt is not None:
            self.attempt.call_off()
            self.attempt = None
        for dialog in self.dialogs:
            dialog.bye(linger)
        self.dialogs.clear()
        self.current = None
        self._idle.cancel()
        self.typing.stop()

    def touch(self) -> None:
        """Somebody said something: the idle time begins anew."""
        self.last_activity = self.around.timers.seconds()

    def _idle_too_long(self) -> None:
        limit = self.around.config.im.idle_timeout
        idle = self.around.timers.seconds() - self.last_activity
        if self.queue or self.attempt is not None or idle < limit:
            self._idle = self.around.timers.after(max(limit - idle, 1.0), self._idle_too_long)
            return
        self.close()
        self.gateway.closed(self)

    # -- texts to the foreign user -----------------------------------------------------------------

    def send(self, text: OutText) -> None:
        """Queue a text."""
        self.touch()
        self.local_wrote = self.local_wrote or text.record is not None
        self.queue.append(text)
        self.typing.stop_local()
        self.pump()

    def pump(self) -> None:
        """Send the next text if none is on its way: in the current dialog, or by a new INVITE."""
        if self.on_its_way is not None or not self.queue:
            return
        if self.leaving and not self.under_way:
            return
        dialog = self.current
        if dialog is None:
            if self.attempt is None:
                self.attempt = InviteAttempt(self, self.queue[0].record)
                self.attempt.start()
            return
        text = self.queue[0]
        way = self.destination(dialog)
        if way is None:
            return  # it is being looked for
        request = dialog.dialog.request("MESSAGE", self._headers(text), text.part.encode())
        text.call_id, text.cseq = request.call_id, request.cseq
        self.on_its_way = dialog
        self.around.stack.request(request, way, self)

    def _headers(self, text: OutText) -> tuple[tuple[str, str], ...]:
        record = text.record
        if record is None or self.around.timers.seconds() - record.received_at < _LATE:
            return _TEXT
        written = datetime.fromtimestamp(record.received_at, UTC)
        return (*_TEXT, ("Date", format_datetime(written, usegmt=True)))

    def response_arrived(self, transaction: object, response: SipResponse) -> None:
        """An answer to the MESSAGE on its way."""
        status = response.status
        if status < 200 or self.on_its_way is None:
            return
        dialog, self.on_its_way = self.on_its_way, None
        self.touch()
        text = self.queue[0]
        if status < 300:
            text.sent += 1
            if text.sent == len(text.parts):
                self.queue.popleft()
                self.gateway.outbox.delivered(text, status)
        elif status in _SEND_AGAIN:
            self._send_again(text, dialog, status == 408, response)
        else:
            self.queue.popleft()
            self.gateway.outbox.refused(text, response)
            if status in _ENDS_DIALOG:
                self._forget(dialog)
                dialog.drop()
        self._end_superseded()
        self.pump()

    def request_failed(
        self, transaction: ClientTransaction, cause: FailureCause, words: str
    ) -> None:
        """No answer to the MESSAGE on its way; it may have arrived if it was written."""
        if self.on_its_way is None:
            return
        dialog, self.on_its_way = self.on_its_way, None
        if cause in NOT_SENT:  # the dialog is as good as before
            self.gateway.outbox.held_back(self.queue.popleft(), words)
            self._end_superseded()
            self.pump()
            return
        unsure = self.around.stack.maybe_delivered(transaction)
        self._send_again(self.queue[0], dialog, unsure, None, words)
        self.pump()

    def _send_again(
        self,
        text: OutText,
        dialog: ImDialog,
        unsure: bool,
        response: SipResponse | None,
        words: str = "",
    ) -> None:
        """The dialog is dead: once more in a new one, and a second time the sender is told."""
        self._forget(dialog)
        if response is not None and response.status == 481:
            dialog.drop()
        else:
            dialog.bye()
        record = text.record
        if record is None:
            self.queue.popleft()  # a notice of ours is not worth a new session
            return
        record.unsure = record.unsure or unsure
        record.attempts += 1
        if record.attempts < 2:
            self.gateway.outbox.keep(record)
            return
        self.queue.popleft()
        if response is not None:
            self.gateway.outbox.refused(text, response)
        else:
            self.gateway.outbox.unanswered(text, words)

    def invited(self, dialog: ImDialog) -> None:
        """Our INVITE was accepted and acknowledged."""
        self.attempt = None
        self.add(dialog)
        self.confirmed(dialog)

    def not_invited(
        self,
        response: SipResponse | None,
        words: str,
        held_back: bool = False,
        status: int = 408,
    ) -> None:
        """Our INVITE failed at every next hop: unless the peer has opened a dialog, all are told.

        :param status: what says best why, without a response.

        A text that is on its way in a dialog of the peer's, ended since, has an answer to come first.
        """
        self.attempt = None
        if self.current is not None or self.on_its_way is not None:
            self.pump()
            return
        texts = list(self.queue)
        self.queue.clear()
        for text in texts:
            if text.record is None:
                continue
            if response is not None:
                self.gateway.outbox.refused(text, response)
            elif held_back:
                self.gateway.outbox.held_back(text, words)
            else:
                self.gateway.outbox.unanswered(text, words, status)
        if not self.dialogs and not self.queue:
            self.close()
            self.gateway.closed(self)

    # -- in a cluster ------------------------------------------------------------------------------

    @property
    def under_way(self) -> bool:
        """Whether the far side has some of the first text, or may have."""
        return self.on_its_way is not None or (bool(self.queue) and self.queue[0].sent > 0)

    def hold(self) -> None:
        """Begin nothing more, for the pair goes to another node: finish what is under way.

        What has not left yet, because the partner's budget did not allow it, is not under way.
        """
        self.leaving = True
        if self.attempt is not None:
            self.attempt.call_off()
            self.attempt = None
        dialog = self.on_its_way
        if dialog is not None and not self.queue[0].sent:
            stack = self.around.stack
            if stack.withdraw(self.foreign.domain, dialog.dialog.call_id):
                self.on_its_way = None

    def resume(self, record: SessionRecord) -> None:
        """Go on with a dialog of another node, unless there is a newer one."""
        now = self.around.timers.seconds()
        record.dialog.skip_numbers(now)
        dialog = ImDialog(self, record.dialog, None, now)
        dialog.confirmed = dialog.recorded = True
        dialog.shown = record.shown
        self.around.store.write([Put(record)])  # its numbers go on from here
        self.chat_states = self.chat_states or record.chat_states
        self.local_wrote = self.local_wrote or record.local_wrote
        self.conversation = record.conversation
        newer = self.attempt is not None or self.current is not None
        self.add(dialog)
        if newer:
            self._end_superseded()
        else:
            self.attempt = Resumption(self, dialog)
            self.attempt.start()

    def resumed(self, dialog: ImDialog) -> None:
        """The peer knows that the dialog goes on here."""
        self.attempt = None
        if self.current is None and not dialog.ended:
            self.current = dialog
        self._end_superseded()
        self.pump()

    def not_resumed(self, dialog: ImDialog, known: bool) -> None:
        """The peer does not go on with it: the next text begins anew.

        :param known: whether it may still know the dialog.
        """
        self.attempt = None
        self._forget(dialog)
        if known:
            dialog.bye()
        elif not dialog.ended:
            dialog.drop()
        if self.queue or self.dialogs:
            self.pump()
        else:
            self.close()
            self.gateway.closed(self)

    def surrender(self) -> list[OutboxRecord]:
        """Give up every text that is not under way; another node sends it."""
        self.leaving = False
        kept = [self.queue.popleft()] if self.under_way else []
        left, self.queue = list(self.queue), deque(kept)
        return [text.record for text in left if text.record is not None]

    def part(self) -> ImDialog | None:
        """Return the dialog that is in use, which goes on at another node; None when there is none."""
        dialog = self.current
        if dialog is not None:
            self.lose(dialog)
        return dialog

    def lose(self, dialog: ImDialog) -> None:
        """A dialog goes on at another node."""
        self._forget(dialog)
        dialog.let_go()

    def abandon(self) -> None:
        """Forget everything, telling nobody: another node has taken over."""
        self.queue.clear()
        self.on_its_way = None
        if self.attempt is not None:
            self.attempt.forget()
            self.attempt = None
        for dialog in self.dialogs:
            dialog.held = None
            dialog.let_go()
        self.dialogs.clear()
        self.close()

    # -- texts from the foreign user ---------------------------------------------------------------

    def deliver(
        self, transaction: ServerTransaction, request: SipRequest, text: IncomingText
    ) -> None:
        """Hand a text of a MESSAGE to the home server; the answer to the MESSAGE follows from it."""
        self.typing.stop_foreign()
        self.gateway.inbox.deliver(self.local, self.foreign, transaction, request, text)

    @staticmethod
    def held_settled(held: HeldTextRecord) -> list[Change]:
        """Return the change that forgets an embedded text whose repeat has come."""
        return [Delete(HeldTextRecord, held.key)]

    def view(self) -> dict[str, object]:
        """Return what ``impfedctl sessions`` shows of it."""
        return {
            "local": str(self.local),
            "foreign": str(self.foreign),
            "state": "active" if self.current else "inviting" if self.attempt else "waiting",
            "dialogs": [dialog.dialog.call_id for dialog in self.dialogs],
            "queued": len(self.queue),
            "since": self.since,
            "last_activity": self.last_activity,
            "conversation": self.conversation,
        }

    @property
    def target(self) -> str:
        """The Request-URI of a new dialog."""
        return uri_of(self.foreign)
