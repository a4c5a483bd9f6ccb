"""Runs the transaction tables: one function for each :class:`Do`, one heap for all timers."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from impfed.core.timers import TimerHeap
from impfed.sip.message import SipRequest, SipResponse, response_bytes
from impfed.sip.transaction_parts import (
    AckArrived,
    Action,
    CancelArrived,
    ClientTransaction,
    Ended,
    Failed,
    FailureCause,
    RequestArrived,
    ResponseArrived,
    Send,
    ServerTransaction,
    TimerValues,
)
from impfed.sip.transaction_requests import cancel_of, refusal_ack, top_via
from impfed.sip.transaction_tables import TABLES, Do, Input, Machine, State, StateError, Table

# ``message`` is what the input brought: a request, a response, or a sentence about a failure.
Work = Callable[["Engine", Any, float, list[Action], Any], None]


class Engine:
    """Transactions, their timers, and the meaning of every action in the tables.

    :ivar timers: lengths of the timers.
    """

    def __init__(self, timers: TimerValues) -> None:
        self.timers = timers
        self._heap = TimerHeap()
        self._fire_later = self._fire  # bound once, not for each timer
        self._now = 0.0
        self._out: list[Action] = []
        # What is parked stands in both for a while: see IsParked.
        self._clients: dict[tuple[str, str], Any] = {}
        self._servers: dict[tuple[str, ...], Any] = {}
        self._merging: dict[tuple[str, str, int, str], ServerTransaction] = {}
        self._accepted: dict[tuple[str, str, int], ServerTransaction] = {}

    @property
    def next_timer(self) -> float | None:
        """When :meth:`handle_timers` wants to be called; None if nothing is under way."""
        return self._heap.next

    def handle_timers(self, now: float) -> list[Action]:
        """Do what has become due."""
        self._now = now
        out = self._out = []
        self._heap.run(now)
        self._out = []
        return out

    def step(
        self,
        transaction: ServerTransaction | ClientTransaction,
        input_: Input,
        now: float,
        out: list[Action],
        message: Any = None,
    ) -> None:
        """Give one input to one transaction.

        :raises StateError: if its table has no such cell.
        """
        try:
            state, works = _PROGRAMS[transaction.machine][transaction.state][input_]
        except KeyError:
            raise StateError(f"{input_.name} in state {transaction.state.name}") from None
        transaction.state = state
        for work in works:
            work(self, transaction, now, out, message)

    # Timers

    def _fire(self, transaction: ServerTransaction | ClientTransaction, input_: Input) -> None:
        self.step(transaction, input_, self._now, self._out)

    def _repeat(
        self, transaction: Any, now: float, input_: Input, cap: float, always: bool = False
    ) -> None:
        if transaction.reliable and not always:
            return
        t1 = self.timers.t1
        transaction.interval = t1
        transaction.interval_cap = cap
        transaction.repeat_input = input_
        transaction.repeat_timer = self._heap.at(now + t1, self._fire_later, transaction, input_)

    def _limit(self, transaction: Any, now: float, input_: Input, delay: float) -> None:
        transaction.limit_timer = self._heap.at(now + delay, self._fire_later, transaction, input_)

    def _linger(
        self, transaction: Any, now: float, out: list[Action], input_: Input, delay: float
    ) -> None:
        # Timers D, I, J and K: nothing can come twice over a reliable transport.
        if transaction.reliable:
            self.step(transaction, input_, now, out)
        else:
            self._limit(transaction, now, input_, delay)

    def _start_a(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._repeat(tx, now, Input.TIMER_A, inf)

    def _start_b(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._limit(tx, now, Input.TIMER_B, self.timers.limit)

    def _start_d(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._linger(tx, now, out, Input.TIMER_D, self.timers.d)

    def _start_e(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._repeat(tx, now, Input.TIMER_E, self.timers.t2)

    def _start_f(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._limit(tx, now, Input.TIMER_F, self.timers.limit)

    def _start_g(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._repeat(tx, now, Input.TIMER_G, self.timers.t2)

    def _start_h(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._limit(tx, now, Input.TIMER_H, self.timers.limit)

    def _start_i(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._linger(tx, now, out, Input.TIMER_I, self.timers.t4)

    def _start_j(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._linger(tx, now, out, Input.TIMER_J, self.timers.limit)

    def _start_k(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._linger(tx, now, out, Input.TIMER_K, self.timers.t4)

    def _start_l(self, tx: ServerTransaction, now: float, out: list[Action], message: Any) -> None:
        request = tx.request
        if not tx.proxied:
            tx.ack_key = (request.call_id, request.from_tag, request.cseq.number)
            self._accepted[tx.ack_key] = tx
        self._limit(tx, now, Input.TIMER_L, self.timers.limit)

    def _start_m(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._limit(tx, now, Input.TIMER_M, self.timers.limit)

    def _start_100(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._limit(tx, now, Input.TIMER_100, self.timers.trying)

    def _start_repeat_2xx(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        if tx.proxied:
            return
        # Over TLS too: the reliable hop may be followed by one that is not (section 13.3.1.4).
        self._repeat(tx, now, Input.REPEAT_2XX, self.timers.t2, always=True)

    def _start_give_up(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._limit(tx, now, Input.GIVE_UP, self.timers.limit)

    def _back_off(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        interval = tx.interval = min(tx.interval * 2, tx.interval_cap)
        tx.repeat_timer = self._heap.at(now + interval, self._fire_later, tx, tx.repeat_input)

    def _slow_down(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        tx.interval = self.timers.t2  # from the next repetition on (section 17.1.2.2)

    def _stop_repeats(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        if tx.repeat_timer is not None:
            tx.repeat_timer.cancel()
            tx.repeat_timer = None

    def _stop_timers(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        if tx.repeat_timer is not None:
            tx.repeat_timer.cancel()
            tx.repeat_timer = None
        if tx.limit_timer is not None:
            tx.limit_timer.cancel()
            tx.limit_timer = None

    # Sending

    def _send_request(
        self, tx: ClientTransaction, now: float, out: list[Action], message: Any
    ) -> None:
        out.append(Send(tx.data, tx.destination, tx))

    def _send_response(
        self, tx: ServerTransaction, now: float, out: list[Action], message: bytes
    ) -> None:
        tx.response = message
        out.append(Send(message, tx.source, tx))

    def _repeat_response(
        self, tx: ServerTransaction, now: float, out: list[Action], message: Any
    ) -> None:
        if tx.response:
            out.append(Send(tx.response, tx.source, tx))

    def _send_trying(
        self, tx: ServerTransaction, now: float, out: list[Action], message: Any
    ) -> None:
        self._send_response(tx, now, out, response_bytes(tx.request, 100))

    def _send_ack(
        self, tx: ClientTransaction, now: float, out: list[Action], message: SipResponse
    ) -> None:
        data = refusal_ack(tx.request, tx.data, message.get("to") or "")
        out.append(Send(data, tx.destination, tx))

    def _send_cancel(
        self, tx: ClientTransaction, now: float, out: list[Action], message: Any
    ) -> None:
        request = cancel_of(tx.request)
        data = request.render(top_via(tx.data))
        cancel = ClientTransaction(request, data, tx.branch, tx.destination, tx.reliable, None)
        cancel.quiet = True
        self._clients[(tx.branch, "CANCEL")] = cancel
        self.step(cancel, Input.START, now, out)

    # Telling the transaction user

    def _pass_request(
        self, tx: ServerTransaction, now: float, out: list[Action], message: SipRequest
    ) -> None:
        if not tx.quiet:
            out.append(RequestArrived(tx, message))

    def _pass_ack(
        self, tx: ServerTransaction, now: float, out: list[Action], message: SipRequest
    ) -> None:
        out.append(AckArrived(message, tx))

    def _pass_cancel(
        self, tx: ServerTransaction, now: float, out: list[Action], message: SipRequest
    ) -> None:
        out.append(CancelArrived(tx, message))

    def _pass_response(
        self, tx: ClientTransaction, now: float, out: list[Action], message: SipResponse
    ) -> None:
        if not tx.quiet:
            out.append(ResponseArrived(tx, message))

    def _pass_2xx(
        self, tx: ClientTransaction, now: float, out: list[Action], message: SipResponse
    ) -> None:
        if tx.proxied:
            out.append(ResponseArrived(tx, message))
            return
        tag = message.to_tag
        if tx.acks is None:
            tx.acks = {}
        if tag not in tx.acks:
            tx.acks[tag] = None
            out.append(ResponseArrived(tx, message))
        elif (ack := tx.acks[tag]) is not None:
            out.append(Send(ack[0], ack[1], tx))

    def _failed(self, tx: Any, out: list[Action], cause: FailureCause, text: str) -> None:
        if not tx.quiet:
            out.append(Failed(tx, cause, text))

    def _fail_timeout(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._failed(tx, out, FailureCause.TIMEOUT, "no answer in time")

    def _fail_transport(self, tx: Any, now: float, out: list[Action], message: str) -> None:
        self._failed(tx, out, FailureCause.TRANSPORT, message or "transport failed")

    def _fail_no_ack(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        if not tx.proxied:
            self._failed(tx, out, FailureCause.NO_ACK, "our 2xx was never acknowledged")

    def _end(self, tx: Any, now: float, out: list[Action], message: Any) -> None:
        self._stop_timers(tx, now, out, None)
        if isinstance(tx, ClientTransaction):
            self._clients.pop((tx.branch, tx.request.method), None)
        else:
            self._servers.pop(tx.key, None)
            key = tx.merge_key
            if key is not None and self._merging.get(key) is tx:
                del self._merging[key]
            if tx.ack_key is not None:
                self._accepted.pop(tx.ack_key, None)
        if not tx.quiet:
            out.append(Ended(tx))


_WORKS: dict[Do, Work] = {do: getattr(Engine, "_" + do.name.lower()) for do in Do}

_Program = dict[State, dict[Input, tuple[State, tuple[Work, ...]]]]


def _compiled(table: Table) -> _Program:
    return {
        state: {
            input_: (cell.state or state, tuple(_WORKS[do] for do in cell.actions))
            for input_, cell in row.items()
        }
        for state, row in table.items()
    }


_PROGRAMS: dict[Machine, _Program] = {
    machine: _compiled(table) for machine, table in TABLES.items()
}
