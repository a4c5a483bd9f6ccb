"""The proxy on a SIP stack: transactions to events, effects to transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from zope.interface import implementer

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.timers import Timer
from impfed.proxy.core import Proxy
from impfed.proxy.express import METHODS, Lane
from impfed.proxy.values import (
    Branch,
    Cancel,
    Context,
    Drop,
    Effect,
    GiveBack,
    Leg,
    Locate,
    Question,
    Relay,
    Reply,
    SendAck,
    Start,
    Target,
)
from impfed.sip.message import REASONS, OutgoingRequest, SipRequest, SipResponse, parse_head
from impfed.sip.transaction import ClientTransaction, FailureCause, ServerTransaction
from impfed.transport.flow import Flow
from impfed.transport.sip import ISipUser, SipStack
from impfed.transport.timers import ReactorTimers

log = EventLog("impfed.proxy")

#: The answer to "where does this go": targets, or a refusal.
Decision: TypeAlias = Sequence[Target] | RemoteError

#: Finds out where a request goes; the function is called once, perhaps at once.
Locator = Callable[[Question, Callable[[Decision], None]], None]

#: What stands for a branch that got no answer; 503 is never passed on (section 16.7).
_FAILED = {FailureCause.TIMEOUT: 408, FailureCause.NOBODY: 404}

#: INVITEs whose way is remembered for their ACKs.
_ACCEPTED = 2000

#: Our answers to what goes in a circle.
_IN_A_CIRCLE = frozenset((482, 483))

_REPEATED = ("From", "To", "Call-ID", "Route")


@implementer(ISipUser)
class ProxyAgent:
    """A user of a SIP stack that proxies what it is given.

    :param locate: finds targets.
    :param leg: finds the next hop of an ACK at once; None when there is none, or it takes time.
    :param express: whether a request that follows another of its dialog may be sent the same way
        without asking the proxy again (:mod:`impfed.proxy.express`).
    :ivar pacer: sends what goes to a partner with a budget, as the stack would: ``forward`` and
        ``cancel`` of :class:`impfed.gateway.paced.PacedStack`; None where there are no budgets.
    :ivar looped: told of requests that go in a circle, and the answer.
    :ivar given_back: told of requests that somebody else serves soon; returns whether it sees to one.
    """

    pacer: Any = None
    looped: Callable[[SipRequest, int], None] | None = None
    given_back: Callable[[ServerTransaction, SipRequest, Flow], bool] | None = None

    def __init__(
        self,
        stack: SipStack,
        proxy: Proxy,
        locate: Locator,
        leg: Callable[[Question], Leg | None],
        timers: ReactorTimers,
        metrics: Metrics,
        express: bool = False,
    ) -> None:
        self._stack = stack
        self._proxy = proxy
        self._locate = locate
        self._leg = leg
        self._timers = timers
        self._metrics = metrics
        self._timer: Timer | None = None
        self._contexts: dict[ServerTransaction, Context] = {}
        self._accepted: dict[str, Leg] = {}  # by Call-ID: the way of INVITEs that were answered 2xx
        self._lane = Lane(stack, self, proxy.unique, metrics) if express else None
        self._perform_one: dict[type, Callable[[Any], None]] = {
            Locate: self._located,
            Start: self._start,
            Cancel: self._cancel,
            Relay: self._relay,
            Reply: self._reply,
            GiveBack: self._give_back,
            SendAck: self._send_ack,
            Drop: self._drop,
        }

    @property
    def under_way(self) -> int:
        """How many requests wait for their answer."""
        return len(self._proxy) + (0 if self._lane is None else len(self._lane))

    def adopt(self, context: Context, branch: Branch, flow: Flow, began: float) -> None:
        """Take over a request that went the short way.

        :param flow: the connection that it went over.
        :param began: when.
        """
        user = _BranchUser(self, branch)
        branch.user = transaction = self._stack.transactions.adopt_forwarded(
            _bare(context.request), branch.branch, flow, began, user
        )
        flow.transactions[transaction] = None
        self._proxy.adopt(context)
        self._contexts[context.server] = context

    # The stack's user

    def request_arrived(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow
    ) -> None:
        """Proxy a request."""
        transaction.proxied = True
        received = self.received(request, flow)
        self._perform(
            self._proxy.request(request, transaction, flow, self._timers.seconds(), received)
        )

    def ack_arrived(
        self, request: SipRequest, transaction: ServerTransaction | None, flow: Flow
    ) -> None:
        """Forward the ACK of a 2xx."""
        self._perform(self._proxy.ack(request, flow, self._way_of_ack))

    def _way_of_ack(self, question: Question) -> Leg | None:
        """Return the next hop of an ACK; where the DNS would have to be asked, that of the INVITE."""
        leg = self._leg(question)
        if leg is None:
            known = self._accepted.get(question.request.call_id)
            leg = known if known is not None and known.hop.alive else None
        return leg

    def cancel_arrived(self, transaction: ServerTransaction, request: SipRequest) -> None:
        """Cancel what was forwarded."""
        context = self._contexts.get(transaction)
        if context is not None:
            self._perform(self._proxy.cancelled(context, self._timers.seconds()))

    def no_ack(self, transaction: ServerTransaction) -> None:
        """Never comes: the user agents see to the ACK of a 2xx."""

    def stray_response(self, response: SipResponse, flow: Flow) -> None:
        """Drop a response that belongs to nothing."""
        self._perform(self._proxy.stray(response))

    def received(self, request: SipRequest, flow: Flow) -> str:
        """Return what ``received`` has to say (section 18.2.1); over UDP the listener has said it."""
        host: str = flow.remote[0]
        if flow.transport == "udp" or request.via.host.strip("[]").lower() == host.lower():
            return ""
        return "" if request.via.param("received") is not None else host

    # The user of each forwarded request's transaction

    def response_arrived(self, transaction: ClientTransaction, response: SipResponse) -> None:
        """Take an answer."""
        branch: Branch = transaction.user.branch
        if 200 <= response.status < 300 and transaction.request.method == "INVITE":
            while len(self._accepted) >= _ACCEPTED:
                del self._accepted[next(iter(self._accepted))]
            leg = replace(branch.leg, hop=transaction.destination, record_route=())
            self._accepted[response.call_id] = leg
        self._perform(self._proxy.response(branch, response, self._timers.seconds()))
        self._forget(branch.context)

    def request_failed(
        self, transaction: ClientTransaction, cause: FailureCause, text: str
    ) -> None:
        """Take it that there will be no answer."""
        branch: Branch = transaction.user.branch
        status = _FAILED.get(cause, 503)
        self._metrics.count("proxy.legs_failed")
        log.info(
            "leg_failed",
            "{method} not forwarded to {hop}: {why}",
            method=branch.context.request.method,
            hop=str(branch.leg.hop),
            why=text,
            conversation=branch.context.request.call_id,
        )
        unsent = branch.target.inherited and not self._stack.maybe_delivered(transaction)
        self._perform(self._proxy.failed(branch, status, self._timers.seconds(), unsent))
        self._forget(branch.context)

    # Effects

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._perform_one[type(effect)](effect)
        self._arm()

    def _located(self, effect: Locate) -> None:
        context = effect.context
        self._contexts[context.server] = context

        def decided(decision: Decision) -> None:
            self._perform(self._proxy.decided(context, decision, self._timers.seconds()))
            self._forget(context)

        self._locate(effect.question, decided)

    def _start(self, effect: Start) -> None:
        self._metrics.count("proxy.forwarded")
        branch = effect.branch
        request = branch.context.request
        method = request.method
        copy = _repeatable(effect.data) if method == "INVITE" else _bare(request)
        user = _BranchUser(self, branch)
        sent = (copy, effect.data, branch.branch)
        if self.pacer is not None and branch.target.partner:
            branch.user = self.pacer.forward(request, sent, effect.hop, user)
        else:
            branch.user = self._stack.forward(*sent, effect.hop, user)
        if self._lane is not None and method in METHODS:
            self._lane.learn(branch, effect.data)

    def _cancel(self, effect: Cancel) -> None:
        branch = effect.branch
        if branch.user is not None:
            paced = self.pacer is not None and branch.target.partner
            (self.pacer if paced else self._stack).cancel(branch.user)

    def _relay(self, effect: Relay) -> None:
        if effect.server.request.method == "BENOTIFY":
            return  # never answered (MS-SIP)
        self._stack.relay(effect.server, effect.status, effect.data)

    def _reply(self, effect: Reply) -> None:
        self._metrics.count("proxy.refused")
        if effect.server.request.method == "BENOTIFY":
            return
        error = effect.error
        if error.status in _IN_A_CIRCLE and self.looped is not None:
            self.looped(effect.server.request, error.status)
        self._stack.respond(effect.server, error.status, error.reason, headers=error.headers)

    def _give_back(self, effect: GiveBack) -> None:
        if self.given_back is None or not self.given_back(
            effect.server, effect.request, effect.source
        ):
            error = RemoteError(effect.status, REASONS[effect.status])
            self._reply(Reply(effect.server, error))

    def _send_ack(self, effect: SendAck) -> None:
        self._stack.send(effect.data, effect.hop)

    def _drop(self, effect: Drop) -> None:
        self._metrics.count("proxy.dropped")
        log.debug("dropped", "{why}", why=effect.reason)

    def _forget(self, context: Context) -> None:
        if context.closed:
            self._contexts.pop(context.server, None)

    # Timers

    def _arm(self) -> None:
        due = self._proxy.next_timer
        if due is None or (self._timer is not None and self._timer.active):
            return
        self._timer = self._timers.after(max(0.0, due - self._timers.seconds()), self._due)

    def _due(self) -> None:
        self._timer = None
        self._perform(self._proxy.handle_timers(self._timers.seconds()))
        for context in [each for each in self._contexts.values() if each.closed]:
            self._forget(context)


class _BranchUser:
    """Finds the branch of a client transaction; the transaction may end before it is known."""

    __slots__ = ("_agent", "branch")

    def __init__(self, agent: ProxyAgent, branch: Branch) -> None:
        self._agent = agent
        self.branch = branch

    def response_arrived(self, transaction: ClientTransaction, response: SipResponse) -> None:
        """Hand an answer on."""
        self._agent.response_arrived(transaction, response)

    def request_failed(
        self, transaction: ClientTransaction, cause: FailureCause, text: str
    ) -> None:
        """Hand a failure on."""
        self._agent.request_failed(transaction, cause, text)


def _repeatable(data: bytes) -> OutgoingRequest:
    """Return of a forwarded INVITE what its ACK and CANCEL have to repeat."""
    sent = parse_head(data[: data.index(b"\r\n\r\n") + 2])
    assert isinstance(sent, SipRequest)  # it was one when it came
    headers = [(name, value) for name in _REPEATED for value in sent.get_all(name.lower())]
    return OutgoingRequest(sent.method, sent.uri_text, headers, b"", sent.cseq.number, sent.call_id)


def _bare(request: SipRequest) -> OutgoingRequest:
    return OutgoingRequest(request.method, request.uri_text, ())
