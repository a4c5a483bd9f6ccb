"""A session that another node has begun goes on here: a re-INVITE tells the peer (RFC 3261 section 14)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.gateway.im_dialog import ImDialog
from impfed.gateway.im_invite import ALLOW
from impfed.gateway.paced import Outgoing
from impfed.routing.api import Reject, RouteQuery
from impfed.routing.router import Resolution
from impfed.sip.message import SipResponse
from impfed.sip.sdp import im_offer
from impfed.sip.transaction import ClientTransaction, FailureCause

if TYPE_CHECKING:
    from impfed.gateway.im_session import ImSession

log = EventLog("impfed.gateway")

#: Seconds that the peer may take to answer; nobody has to be asked, so it needs no longer.
PATIENCE = 10.0
#: Seconds after which it is asked again that has asked us at the same time (section 14.1).
_GLARE = (2.1, 4.0)


class Resumption:
    """Lives until the peer knows where the session is now; texts to it wait meanwhile.

    Stands in the session where an :class:`~impfed.gateway.im_invite.InviteAttempt` would.  A peer that
    does not accept has no session with us any more, and the next text begins a new one.
    """

    __slots__ = ("_dialog", "_session", "_timer", "_transaction", "over")

    def __init__(self, session: ImSession, dialog: ImDialog) -> None:
        self._session = session
        self._dialog = dialog
        self._timer: Timer | None = None
        self._transaction: Outgoing | None = None
        self.over = False

    def start(self) -> None:
        """Find the way to the peer and ask it."""
        session = self._session
        self._timer = session.around.timers.after(PATIENCE, self._too_late)
        query = RouteQuery("INVITE", str(session.outside), str(session.foreign))
        session.around.resolve(query, self._routed)

    def _routed(self, resolution: Resolution) -> None:
        if self.over:
            return
        if isinstance(resolution, Reject) or not resolution:
            self._failed("there is no way to it", known=True)
            return
        self._session.gateway.remember_hops(self._session, resolution)
        if self._dialog.path is None:
            self._dialog.path = resolution[0]
        self._ask()

    def _ask(self) -> None:
        session, dialog = self._session, self._dialog
        if self.over:
            return
        destination = session.destination(dialog)
        assert destination is not None  # a way has been found
        stack, domain = session.around.stack, session.outside.domain
        transport = destination.transport
        host, _ = stack.advertised(transport, domain=domain)
        request = dialog.dialog.request(
            "INVITE",
            (("Allow", ALLOW), ("Content-Type", "application/sdp")),
            im_offer(host),
            stack.contact(session.contact_user, transport, domain=domain),
        )
        dialog.asking = True
        self._transaction = stack.request(request, destination, self)

    def response_arrived(self, transaction: ClientTransaction, response: SipResponse) -> None:
        """An answer: what is not accepted is over, but for two that ask at once."""
        if response.status < 200:
            return
        self._transaction = None
        self._dialog.asking = False
        if response.status < 300:
            dialog, cseq = self._dialog.dialog, transaction.request.cseq
            dialog.refresh_target(response)
            ack, way = dialog.ack(cseq), transaction.destination
            self._session.around.stack.acknowledge(transaction, response.to_tag, ack, way)
            if not self.over:
                self.forget()
                self._session.resumed(self._dialog)
        elif self.over:
            return
        elif response.status == 491:
            timers, ids = self._session.around.timers, self._session.around.ids
            timers.after(ids.uniform(*_GLARE), self._ask)
        else:
            self._failed(f"{response.status} {response.reason}", known=response.status != 481)

    def request_failed(
        self, transaction: ClientTransaction, cause: FailureCause, words: str
    ) -> None:
        """No answer, or it was not sent."""
        self._transaction = None
        self._dialog.asking = False
        if not self.over:
            self._failed(words, known=True)

    def _too_late(self) -> None:
        self._failed("no answer", known=True)

    def _failed(self, words: str, known: bool) -> None:
        """Go on without it.

        :param known: whether the peer may know the dialog still.
        """
        self.call_off()
        log.info(
            "session_not_moved",
            "the session of {local} and {foreign} cannot go on here: {words}",
            local=str(self._session.local),
            foreign=str(self._session.foreign),
            words=words,
            conversation=self._session.conversation,
        )
        self._session.not_resumed(self._dialog, known)

    def call_off(self) -> None:
        """Nobody waits for the answer any more."""
        self.forget()
        if self._transaction is not None:
            self._session.around.stack.cancel(self._transaction)

    def forget(self) -> None:
        """Wait no longer, and tell nobody."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
