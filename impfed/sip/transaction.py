"""The transaction layer (RFC 3261 section 17, RFC 6026), without IO: messages in, actions out.

Matching, limits and the layer's own answers are here; the machines are tables in
:mod:`impfed.sip.transaction_tables`, run by :mod:`impfed.sip.transaction_engine`.

The layer answers by itself: 100 to an INVITE that our core has not answered within 200 ms, 200 or
481 to CANCEL, and 500 with Retry-After when too many transactions are pending (never 503, which
would take the whole node out of the peer's routing).  A CANCEL without its INVITE is never passed on,
not even by a proxy: it forwards nothing without a transaction (section 16.10), so there is none.
"""

from __future__ import annotations

from typing import Any

from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse, response_bytes
from impfed.sip.transaction_engine import Engine
from impfed.sip.transaction_parts import (
    RFC3261_TIMERS,
    AckArrived,
    Action,
    CancelArrived,
    ClientTransaction,
    Ended,
    Failed,
    FailureCause,
    HasReliable,
    IsParked,
    RequestArrived,
    ResponseArrived,
    Send,
    ServerKey,
    ServerTransaction,
    Stray,
    TimerValues,
    fallback_tag,
    server_key,
)
from impfed.sip.transaction_tables import Input, Machine, State, StateError

__all__ = [
    "RFC3261_TIMERS",
    "AckArrived",
    "Action",
    "CancelArrived",
    "ClientTransaction",
    "Ended",
    "Failed",
    "FailureCause",
    "HasReliable",
    "IsParked",
    "RequestArrived",
    "ResponseArrived",
    "Send",
    "ServerKey",
    "ServerTransaction",
    "State",
    "StateError",
    "Stray",
    "TimerValues",
    "Transactions",
]

OVERLOAD_RETRY_AFTER = 10
"""Seconds in the Retry-After of a 500 for want of room."""


class Transactions(Engine):
    """All pending transactions of one node.

    Every method returns the actions that the caller has to carry out, in order.  The caller calls
    :meth:`handle_timers` when :attr:`next_timer` has come.

    :param timers: lengths of the timers.
    :param limit: how many server and how many client transactions may be pending at once.
    """

    def __init__(self, timers: TimerValues = RFC3261_TIMERS, limit: int = 20000) -> None:
        super().__init__(timers)
        self.limit = limit
        self.refused = 0
        """How many requests met the limit; for a counter."""

    def __len__(self) -> int:
        """Return how many transactions are remembered, either kind."""
        return len(self._clients) + len(self._servers)

    # From the far side

    def receive_request(self, request: SipRequest, source: HasReliable, now: float) -> list[Action]:
        """Take a request from the transport.

        :raises SipParseError: if a header that finds the transaction cannot be read.
        """
        method = request.method
        if method == "ACK":
            return self._receive_ack(request, now)
        out: list[Action] = []
        key = server_key(request, method)
        transaction = self._servers.get(key)
        if transaction is not None:
            if transaction.parked:
                transaction.whole()
                transaction = self._servers[key]
            self.step(transaction, Input.REQUEST, now, out, request)
            return out
        if len(self._servers) >= self.limit:
            self.refused += 1
            return [Send(_overload(request), source, None)]
        machine = Machine.INVITE_SERVER if method == "INVITE" else Machine.SERVER
        transaction = ServerTransaction(machine, request, source, source.reliable, key)
        if method == "CANCEL":
            self._cancelled(transaction, now, out)
        elif not request.to_tag:
            self._start(transaction, now, out)
        else:
            self._servers[key] = transaction
            self.step(transaction, Input.REQUEST, now, out, request)
        return out

    def _start(self, transaction: ServerTransaction, now: float, out: list[Action]) -> None:
        request = transaction.request
        merge_key = (request.call_id, request.from_tag, request.cseq.number, request.method)
        earlier = self._merging.get(merge_key)
        if earlier is not None and not earlier.proxied:
            transaction.merged = True
        else:  # the first, or one that a proxy has passed on and that has come back on a spiral
            transaction.merge_key = merge_key
            self._merging[merge_key] = transaction
        self._servers[transaction.key] = transaction
        self.step(transaction, Input.REQUEST, now, out, request)

    def _cancelled(self, transaction: ServerTransaction, now: float, out: list[Action]) -> None:
        request = transaction.request
        invite = self._servers.get(server_key(request, "INVITE"))
        tag = request.to_tag or transaction.fallback_tag
        if invite is None:
            self._answer(transaction, 481, now, out, tag)
        else:
            self._answer(transaction, 200, now, out, tag)
            self.step(invite, Input.CANCEL, now, out, request)

    def _answer(
        self, transaction: ServerTransaction, status: int, now: float, out: list[Action], tag: str
    ) -> None:
        """Answer a request that our core does not hear of."""
        transaction.quiet = True
        self._servers[transaction.key] = transaction
        self.step(transaction, Input.REQUEST, now, out, transaction.request)
        data = response_bytes(transaction.request, status, to_tag=tag)
        self.step(transaction, _tu_input(status), now, out, data)

    def _receive_ack(self, request: SipRequest, now: float) -> list[Action]:
        out: list[Action] = []
        transaction = self._servers.get(server_key(request, "INVITE"))
        if transaction is None:
            # The ACK of a 2xx has a branch of its own (section 13.2.2.4): match by dialog and CSeq.
            transaction = self._accepted.get(
                (request.call_id, request.from_tag, request.cseq.number)
            )
        if transaction is None:
            return [AckArrived(request, None)]
        self.step(transaction, Input.ACK, now, out, request)
        return out

    def receive_response(
        self, response: SipResponse, source: HasReliable, now: float
    ) -> list[Action]:
        """Take a response from the transport; branch and method find its transaction (17.1.3).

        :raises SipParseError: if Via, CSeq or the tag of a 2xx cannot be read.
        """
        key = (response.via.branch, response.cseq.method)
        transaction = self._clients.get(key)
        if transaction is None:
            return [Stray(response)]
        if transaction.parked:
            transaction.whole()
            transaction = self._clients[key]
        status = response.status
        if status < 200:
            input_ = Input.R1XX
        elif status < 300:
            input_ = Input.R2XX
        else:
            input_ = Input.R3XX_6XX
        out: list[Action] = []
        self.step(transaction, input_, now, out, response)
        return out

    # Requests and answers that need no transaction as long as all goes as expected

    def vacant(self, key: ServerKey) -> bool:
        """Whether there is room for a request, and it is no repetition."""
        return key not in self._servers and len(self._servers) < self.limit

    def park(self, server: ServerKey, client: tuple[str, str], parked: IsParked) -> None:
        """Let something stand for the two transactions of a forwarded request.

        :param server: see :func:`~impfed.sip.transaction_parts.server_key`.
        :param client: branch and method of the request as it was sent.
        """
        self._servers[server] = parked
        self._clients[client] = parked

    def unpark(self, server: ServerKey, client: tuple[str, str]) -> None:
        """Forget what stands for two transactions: it has ended, or is going to be replaced."""
        del self._servers[server]
        del self._clients[client]

    def adopt_request(
        self, request: SipRequest, source: HasReliable, key: ServerKey, began: float
    ) -> ServerTransaction:
        """Make the transaction of a request other than INVITE that its user knows already.

        :param began: when it came.
        """
        transaction = ServerTransaction(Machine.SERVER, request, source, source.reliable, key)
        self._servers[key] = transaction
        self.step(transaction, Input.REQUEST, began, [], request)
        transaction.proxied = True
        return transaction

    def adopt_forwarded(
        self, request: OutgoingRequest, branch: str, destination: Any, began: float, user: object
    ) -> ClientTransaction:
        """Make the transaction of a request other than INVITE that has been sent already.

        :param destination: where it went; reliable, so that it need not be sent again.
        :param began: when it was sent.
        """
        transaction = ClientTransaction(request, b"", branch, destination, True, user)
        transaction.proxied = True
        self._clients[(branch, request.method)] = transaction
        self.step(transaction, Input.START, began, [])
        return transaction

    # From our core

    def send_request(
        self,
        data: bytes,
        request: OutgoingRequest,
        branch: str,
        destination: Any,
        reliable: bool,
        now: float,
        user: object,
        proxied: bool = False,
    ) -> tuple[ClientTransaction, list[Action]]:
        """Begin a client transaction.  Not for ACK and CANCEL.

        :param data: the request rendered with a Via that has this branch.
        :param destination: where it goes; comes back in :class:`Send`.
        :param reliable: whether the transport to there is.
        :param user: kept with the transaction.
        :param proxied: whether it is a forwarded request.
        """
        transaction = ClientTransaction(request, data, branch, destination, reliable, user)
        transaction.proxied = proxied
        out: list[Action] = []
        if len(self._clients) >= self.limit:
            self.refused += 1
            transaction.state = State.TERMINATED
            out.append(Failed(transaction, FailureCause.OVERLOAD, "too many pending requests"))
            return transaction, out
        self._clients[(branch, request.method)] = transaction
        self.step(transaction, Input.START, now, out)
        return transaction, out

    def respond(
        self, transaction: ServerTransaction, status: int, data: bytes, now: float
    ) -> list[Action]:
        """Send an answer; a second final one is silently dropped (section 17.2.1, 17.2.2).

        :param data: the answer, rendered by :func:`~impfed.sip.message.response_bytes`.
        """
        out: list[Action] = []
        self.step(transaction, _tu_input(status), now, out, data)
        return out

    def acknowledge(
        self,
        transaction: ClientTransaction,
        to_tag: str,
        data: bytes,
        destination: Any,
        now: float,
    ) -> list[Action]:
        """Send the ACK of a 2xx, now and for each repetition of the 2xx with that To tag."""
        if transaction.acks is None:
            transaction.acks = {}
        transaction.acks[to_tag] = (data, destination)
        return [Send(data, destination, transaction)]

    def cancel(self, transaction: ClientTransaction, now: float) -> list[Action]:
        """Cancel an INVITE, as soon as a provisional answer has come (section 9.1).

        Does nothing for other methods or when there is a final answer.  The INVITE's own answer
        (487, or a 2xx that was faster) still comes; without any it fails 64*T1 after the CANCEL.
        """
        out: list[Action] = []
        self.step(transaction, Input.TU_CANCEL, now, out)
        return out

    def transport_failed(
        self, transaction: ServerTransaction | ClientTransaction, now: float, reason: str
    ) -> list[Action]:
        """Say that the last :class:`Send` of a transaction failed, or its connection is gone.

        Harmless in any state: a transaction that need not care ignores it.
        """
        out: list[Action] = []
        self.step(transaction, Input.TRANSPORT_ERROR, now, out, reason)
        return out


def _tu_input(status: int) -> Input:
    if status < 200:
        return Input.TU_1XX
    if status < 300:
        return Input.TU_2XX
    return Input.TU_3XX_6XX


def _overload(request: SipRequest) -> bytes:
    return response_bytes(
        request,
        500,
        to_tag=request.to_tag or fallback_tag(request),
        headers=(("Retry-After", str(OVERLOAD_RETRY_AFTER)),),
    )
