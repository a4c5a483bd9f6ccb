"""Our INVITE for a session: hop after hop until one answers, or nobody does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.gateway.im_dialog import ImDialog
from impfed.gateway.paced import NOT_SENT, Outgoing
from impfed.interwork.address import uri_of
from impfed.routing.api import Reject, RouteQuery
from impfed.routing.router import Resolution
from impfed.sip.dialog import Dialog
from impfed.sip.headers import quote
from impfed.sip.message import OutgoingRequest, SipResponse
from impfed.sip.sdp import im_offer
from impfed.sip.target import Hop
from impfed.sip.transaction import ClientTransaction, FailureCause
from impfed.store.records import OutboxRecord

if TYPE_CHECKING:
    from impfed.gateway.im_session import ImSession

log = EventLog("impfed.gateway")

ALLOW = "INVITE, ACK, CANCEL, BYE, MESSAGE, INFO, OPTIONS, SUBSCRIBE, NOTIFY"
#: Answers after which the next hop in order is tried (SPEC section 3).
_NEXT_HOP = frozenset({500, 503, 504})


class InviteAttempt:
    """Lives from the first text without a dialog until a dialog stands or every hop has failed.

    The answer may take long, a person clicks a notice: provisional answers
    change nothing; after ``[im] answer_timeout`` we cancel.
    """

    __slots__ = (
        "_held_back",
        "_hops",
        "_session",
        "_tag",
        "_timer",
        "_transaction",
        "nick",
        "over",
    )

    def __init__(self, session: ImSession, record: OutboxRecord | None) -> None:
        self._session = session
        self._hops: list[Hop] = []
        self._tag = session.around.ids.tag()
        self._transaction: Outgoing | None = None
        self._held_back = False  # whether the last hop's INVITE was kept from being sent
        self._timer: Timer | None = None
        self.nick = record.nick if record is not None else ""
        self.over = False

    def start(self) -> None:
        """Find the next hops and send the first INVITE."""
        session = self._session
        around = session.around
        self._timer = around.timers.after(around.config.im.answer_timeout, self._nobody_answered)
        query = RouteQuery("INVITE", str(session.outside), str(session.foreign))
        around.resolve(query, self._routed)

    def _routed(self, resolution: Resolution) -> None:
        if self.over:
            return
        if isinstance(resolution, Reject):
            self._failed(None, resolution.reason, resolution.status)
            return
        self._session.gateway.remember_hops(self._session, resolution)
        self._hops = list(resolution)
        self._next(None, "no next hop is known")

    def _next(self, response: SipResponse | None, words: str) -> None:
        if not self._hops:
            self._failed(response, words)
            return
        session = self._session
        around = session.around
        hop = self._hops.pop(0)
        display = f"{quote(self.nick)} " if self.nick else ""
        domain = session.outside.domain
        host, _ = around.stack.advertised(hop.transport, domain=domain)
        call_id = around.ids.call_id()
        request = OutgoingRequest(
            "INVITE",
            session.target,
            [
                ("Max-Forwards", "70"),
                ("From", f"{display}<{uri_of(session.outside)}>;tag={self._tag}"),
                ("To", f"<{session.target}>"),
                ("Call-ID", call_id),
                ("CSeq", "1 INVITE"),
                (
                    "Contact",
                    around.stack.contact(session.contact_user, hop.transport, domain=domain),
                ),
                ("Allow", ALLOW),
                ("Content-Type", "application/sdp"),
            ],
            im_offer(host),
            cseq=1,
            call_id=call_id,
        )
        self._transaction = around.stack.request(request, hop, self)

    def response_arrived(self, transaction: ClientTransaction, response: SipResponse) -> None:
        """An answer: the first 2xx makes the dialog, a further one is acknowledged and ended."""
        self._held_back = False
        if response.status < 200:
            return
        if response.status < 300:
            self._accepted(transaction, response)
        elif self.over:
            return
        elif response.status in _NEXT_HOP:
            self._next(response, response.reason)
        else:
            self._failed(response, response.reason)

    def request_failed(
        self, transaction: ClientTransaction, cause: FailureCause, words: str
    ) -> None:
        """No answer, or no connection: the next hop."""
        self._held_back = cause in NOT_SENT
        if not self.over:
            self._next(None, words)

    def _accepted(self, transaction: ClientTransaction, response: SipResponse) -> None:
        session, hop = self._session, transaction.destination
        dialog = Dialog.uac(transaction.request, response, self._tag)
        session.around.stack.acknowledge(transaction, response.to_tag, dialog.ack(1), hop)
        im_dialog = ImDialog(session, dialog, hop, session.around.timers.seconds())
        if self.over:
            # A second fork, or a yes that crossed our CANCEL: nobody waits for this one.
            im_dialog.bye()
            return
        self.forget()
        session.invited(im_dialog)

    def call_off(self) -> None:
        """Nobody waits for the answer any more; a yes all the same is ended at once."""
        self.forget()
        if self._transaction is not None:
            self._session.around.stack.cancel(self._transaction)

    def _nobody_answered(self) -> None:
        self.call_off()
        self._failed(None, "nobody answered the invitation")

    def _failed(self, response: SipResponse | None, words: str, status: int = 408) -> None:
        self.forget()
        log.info(
            "invitation_failed",
            "no session between {local} and {foreign}: {words}",
            local=str(self._session.local),
            foreign=str(self._session.foreign),
            words=words if response is None else f"{response.status} {response.reason}",
            conversation=self._session.conversation,
        )
        self._session.not_invited(response, words, self._held_back, status)

    def forget(self) -> None:
        """Wait no longer, and tell nobody."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
