"""What the SIP transport expects of whoever uses it."""

from __future__ import annotations

from zope.interface import Interface

from impfed.sip.message import SipRequest, SipResponse
from impfed.sip.transaction import ServerTransaction
from impfed.transport.flow import Flow


class ISipUser(Interface):
    """Who is told of the requests that arrive at a :class:`SipStack`."""

    def request_arrived(transaction: ServerTransaction, request: SipRequest, flow: Flow) -> None:
        """Answer a new request, now or later, by ``SipStack.respond``.

        :raises RemoteError: to have the stack answer with it.
        """

    def ack_arrived(request: SipRequest, transaction: ServerTransaction | None, flow: Flow) -> None:
        """Take the ACK of a 2xx; None if it fits no transaction."""

    def cancel_arrived(transaction: ServerTransaction, request: SipRequest) -> None:
        """Answer the cancelled INVITE with 487; the CANCEL itself has been answered."""

    def no_ack(transaction: ServerTransaction) -> None:
        """End the session: our 2xx to its INVITE was never acknowledged."""

    def stray_response(response: SipResponse, flow: Flow) -> None:
        """Take a response that belongs to no request of ours."""
