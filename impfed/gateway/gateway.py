"""The crossing: sends every SIP request and every stanza to whom it concerns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from zope.interface import implementer

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.gateway.admission import Admission, Sender
from impfed.gateway.im import ImGateway
from impfed.gateway.im_dialog import ImDialog
from impfed.gateway.im_invite import ALLOW
from impfed.gateway.surroundings import Surroundings
from impfed.sip.message import REASONS, SipRequest, SipResponse
from impfed.sip.transaction import ServerTransaction
from impfed.sip.uas import screen
from impfed.transport.flow import Flow
from impfed.transport.home import IHomeUser
from impfed.transport.sip import ISipUser
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, error_reply

log = EventLog("impfed.gateway")

#: Seconds after which a peer may ask again for what this node cannot find now.
_LATER = "2"
METHODS = frozenset(method.strip() for method in ALLOW.split(","))
_ACCEPT = "text/plain, text/html, multipart/alternative, application/sdp, application/pidf+xml"


class PresenceSide(Protocol):
    """What the dispatcher asks of the presence half."""

    def subscribe_arrived(
        self,
        transaction: ServerTransaction,
        request: SipRequest,
        flow: Flow,
        local: JID,
        foreign: JID,
    ) -> None:
        """Take a SUBSCRIBE outside any dialog."""
        ...

    def stanza_arrived(self, stanza: Stanza) -> None:
        """Take a presence stanza of a local user."""
        ...

    def sign(self, local: JID) -> None:
        """Note that a local user has shown himself."""
        ...

    def link_up(self, domains: frozenset[str]) -> None:
        """A home server is reachable again."""
        ...


@implementer(ISipUser, IHomeUser)
class Gateway:
    """Transaction user of the SIP stack and user of the home links."""

    def __init__(
        self, around: Surroundings, admission: Admission, im: ImGateway, presence: PresenceSide
    ) -> None:
        self._around = around
        self._admission = admission
        self._im = im
        self._presence = presence
        #: Says whether this node may act on what it owns.
        self.may_act: Callable[[], bool] = lambda: True
        #: Returns what is added to the answer to an OPTIONS.
        self.tells: Callable[[Flow], tuple[tuple[str, str], ...]] = lambda flow: ()
        #: Looks for a dialog that nobody here knows among those of other nodes, and takes it over.
        self.search: Callable[[SipRequest, Sender, Callable[[int, str], None]], None] | None = None
        #: Has a live node answer a request: its owner, as a search has found.
        self.pass_on: Callable[[ServerTransaction, SipRequest, Flow, str], bool] | None = None

    @property
    def dialogs(self) -> int:
        """How many dialogs there are."""
        return len(self._around.dialogs)

    # -- SIP ---------------------------------------------------------------------------------------

    def request_arrived(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow
    ) -> None:
        """Answer a new request, or hand it to whoever will."""
        try:
            self._request(transaction, request, flow)
        except RemoteError as error:
            self._refuse(transaction, request, error)

    def _refuse(
        self, transaction: ServerTransaction, request: SipRequest, error: RemoteError
    ) -> None:
        self._around.metrics.count(f"sip.answered.{error.status}")
        if request.method != "BENOTIFY":  # never answered, whatever is wrong with it
            self._around.stack.respond(
                transaction, error.status, error.reason, headers=error.headers
            )

    def _request(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> None:
        if transaction.merged:
            raise RemoteError(482, REASONS[482])
        refusal = screen(request, METHODS)
        if refusal is not None:
            raise refusal
        if request.method == "OPTIONS" and not request.to_tag:
            headers = (("Allow", ALLOW), ("Accept", _ACCEPT), *self.tells(flow))
            self._around.stack.respond(transaction, 200, headers=headers)
            return
        sender = self._admission.sender(request, flow)
        if not self.may_act():
            status = 500 if request.to_tag else 480
            raise RemoteError(status, REASONS[status], (("Retry-After", _LATER),))
        if request.to_tag:
            self._in_dialog(transaction, request, flow, sender)
            return
        local = self._admission.recipient(request)
        if request.method == "INVITE":
            self._im.invite_arrived(transaction, request, flow, local, sender)
        elif request.method == "MESSAGE":
            self._im.page_arrived(transaction, request, local, sender)
        elif request.method == "SUBSCRIBE":
            self._presence.subscribe_arrived(transaction, request, flow, local, sender.jid.bare)
        else:
            raise RemoteError(481, "Call/Transaction Does Not Exist")

    def _in_dialog(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow, sender: Sender
    ) -> None:
        owner = self._around.dialogs.owner(request.call_id, request.to_tag)
        if owner is None and self.search is not None:
            self.search(request, sender, partial(self._found, transaction, request, flow, sender))
            return
        if owner is None or owner.foreign != sender.jid.bare:
            raise RemoteError(481, "Call/Transaction Does Not Exist")
        owner.in_dialog(transaction, request, flow)

    def _found(
        self,
        transaction: ServerTransaction,
        request: SipRequest,
        flow: Flow,
        sender: Sender,
        status: int,
        node: str,
    ) -> None:
        """The other nodes have been asked for a dialog.

        :param status: what to answer; 200 when it has been taken over.
        :param node: the live node that has it; "" for none.
        """
        owner = self._around.dialogs.owner(request.call_id, request.to_tag)
        try:
            if node and self.pass_on is not None and self.pass_on(transaction, request, flow, node):
                return
            if status != 200:
                later = (("Retry-After", _LATER),) if status in (480, 500) else ()
                raise RemoteError(status, REASONS[status], later)
            if owner is None or owner.foreign != sender.jid.bare:
                raise RemoteError(481, REASONS[481])
            owner.in_dialog(transaction, request, flow)
        except RemoteError as error:
            self._refuse(transaction, request, error)

    def ack_arrived(
        self, request: SipRequest, transaction: ServerTransaction | None, flow: Flow
    ) -> None:
        """The peer's ACK to a 2xx of ours: its session stands."""
        owner = self._around.dialogs.owner(request.call_id, request.to_tag)
        if isinstance(owner, ImDialog):
            owner.acknowledged()

    def cancel_arrived(self, transaction: ServerTransaction, request: SipRequest) -> None:
        """The peer withdrew an INVITE; the CANCEL itself is answered already."""
        self._im.cancelled(transaction)

    def no_ack(self, transaction: ServerTransaction) -> None:
        """A 2xx of ours to an INVITE was never acknowledged."""
        if isinstance(transaction.user, ImDialog):
            self._im.no_ack(transaction.user)

    def stray_response(self, response: SipResponse, flow: Flow) -> None:
        """A response that belongs to no transaction of this node: counted, then dropped."""
        self._around.metrics.count("sip.stray_response")

    # -- XMPP --------------------------------------------------------------------------------------

    def stanza_arrived(self, stanza: Stanza, link: object) -> None:
        """Take a stanza that a home server sent us for a foreign user."""
        if stanza.kind == "message":
            self._presence.sign(stanza.from_.bare)
            self._im.message_arrived(stanza)
        elif stanza.kind == "presence":
            self._presence_stanza(stanza)
        elif stanza.type in ("get", "set"):
            self._around.home.send(error_reply(stanza, "service-unavailable", "cancel"))

    def _presence_stanza(self, stanza: Stanza) -> None:
        if self._around.domain(stanza.to.domain) is not None:
            self._presence.stanza_arrived(stanza)
        elif stanza.type == "subscribe":
            self._around.home.send(
                error_reply(
                    stanza,
                    "remote-server-not-found",
                    "cancel",
                    f"{stanza.to.domain} is not a domain that this gateway federates with",
                )
            )

    def link_up(self, link: object) -> None:
        """A home server is reachable: what waited for it goes on."""
        self._presence.link_up(frozenset(getattr(link, "domains", ())))

    def link_down(self, link: object, reason: str) -> None:
        """A home server is out of reach; the link says so in the log and tries again."""
        self._around.metrics.count("home.link_down")
