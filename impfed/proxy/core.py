"""The stateful proxy itself (RFC 3261 section 16, RFC 5393), without IO: events in, effects out.

Where a request goes is not decided here: the proxy asks with :class:`~impfed.proxy.values.Locate`
and is told by :meth:`Proxy.decided`.  Who may send what to whom is an injected decision, asked before
anything is looked up; nothing passes that it does not permit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from impfed.core.errors import RemoteError
from impfed.core.ids import IdSource
from impfed.core.timers import TimerHeap
from impfed.proxy import checks
from impfed.proxy.best import best_of, challenges
from impfed.proxy.splice import RequestChanges, forwarded_request, forwarded_response
from impfed.proxy.values import (
    TABLE,
    Branch,
    Cancel,
    Context,
    Do,
    Drop,
    Effect,
    GiveBack,
    Input,
    Leg,
    Locate,
    Permit,
    ProxyStateError,
    Question,
    Relay,
    Reply,
    SendAck,
    Start,
    State,
    Target,
)
from impfed.proxy.way import Way, way_of
from impfed.sip.message import REASONS, SipRequest, SipResponse
from impfed.sip.uri import OtherUri, SipUri, parse_uri

#: Seconds without an answer after which an INVITE is given up; more than 3 minutes (section 16.6).
TIMER_C = 185.0

#: Answers of a next hop that say that it, not the user, is the trouble (RFC 3263 section 4.3).
_NEXT_LEG = frozenset((503,))


class Proxy:
    """Proxies requests; one for a node.

    :param ours: says whether a SIP URI in a Route, or a strict router's Request-URI, is one of ours.
    :param own_sent_by: says whether a Via's sent-by (host in lower case, port) is ours.
    :param permit: raises or returns the refusal of a request that may not pass.
    :param known: option tags of Proxy-Require that we understand, lower case.
    :param mark: what follows the unique part of each branch of ours, to tell whose it is.
    """

    def __init__(
        self,
        ours: Callable[[SipUri], bool],
        own_sent_by: Callable[[str, int | None], bool],
        permit: Permit,
        ids: IdSource,
        known: Sequence[str] = (),
        timer_c: float = TIMER_C,
        mark: str = "",
    ) -> None:
        self._ours = ours
        self._own_sent_by = own_sent_by
        self._permit = permit
        self._known = frozenset(known)
        self._timer_c = timer_c
        self._mark = mark
        self._heap = TimerHeap()
        self._now = 0.0
        self._out: list[Effect] = []
        self._open: set[Context] = set()
        # With the fingerprint after it a number is enough to be unique, and nobody can foresee it.
        self._life = ids.token(4)
        self._numbers = count()
        self._asked: tuple[SipRequest | None, Way | None] = (None, None)  # the last, and its way

    def __len__(self) -> int:
        """Return how many requests are under way."""
        return len(self._open)

    def adopt(self, context: Context) -> None:
        """Take over a request whose copy is on its way already."""
        self._open.add(context)

    def unique(self) -> str:
        """Return what is between the cookie and the fingerprint in a branch of ours."""
        return f"{self._life}{next(self._numbers):x}{self._mark}"

    # Requests

    def way(self, request: SipRequest) -> Way:
        """Return a request's way; asked for twice in a row it is found once.

        :raises SipParseError: 400 when a Route value or the Request-URI cannot be read.
        """
        asked, way = self._asked
        if way is None or asked is not request:
            way = way_of(request, self._ours)
            self._asked = (request, way)
        return way

    def request(
        self, request: SipRequest, server: Any, source: Any, now: float, received: str = ""
    ) -> list[Effect]:
        """Take a request other than ACK and CANCEL.

        :param server: opaque: answers go there.
        :param source: opaque, for the permission: the flow that it came over.
        :param received: address for a ``received`` of its topmost Via; "" for none (18.2.1).
        """
        try:
            context = self._accepted(request, server, source, received)
        except RemoteError as error:
            return [Reply(server, error)]
        self._open.add(context)
        return [Locate(context, context.question)]

    def ack(
        self, request: SipRequest, source: Any, legs: Callable[[Question], Leg | None]
    ) -> list[Effect]:
        """Send the ACK of a 2xx on; it has no transaction, and is never answered.

        :param legs: finds the next hop at once; None when there is none.
        """
        try:
            question, print_ = self._question(request, source)
        except RemoteError as error:
            return [Drop(f"ACK not forwarded: {error.reason}")]
        leg = legs(question)
        if leg is None:
            return [Drop("ACK not forwarded: no next hop")]
        branch = checks.branch(self.unique(), print_)
        data = forwarded_request(request, _changes(question.way, leg, branch, "", "", None))
        return [SendAck(data, leg.hop)]

    def decided(
        self, context: Context, decision: Sequence[Target] | RemoteError, now: float
    ) -> list[Effect]:
        """Take the answer to a :class:`Locate`: targets, or the refusal."""
        if context.final or context.closed:
            return []
        self._out = []
        if isinstance(decision, RemoteError):
            self._reply(context, decision)
        elif context.cancelled:
            self._reply(context, _refusal(487))
        else:
            groups: dict[int, list[Target]] = {}
            for target in decision:
                if target.legs:
                    groups.setdefault(target.group, []).append(target)
            context.groups = [groups[number] for number in sorted(groups)]
            if context.groups:
                self._next_group(context, now)
            else:
                self._reply(context, _refusal(480))
        return self._taken()

    def cancelled(self, context: Context, now: float) -> list[Effect]:
        """Take the CANCEL of a request under way; the CANCEL itself has been answered (16.10)."""
        if context.final or context.closed:
            return []
        self._out = []
        context.cancelled = True
        context.groups = []
        if not context.branches:
            self._reply(context, _refusal(487))
        for branch in list(context.branches):
            self._step(branch, Input.CANCEL, now)
        return self._taken()

    # Responses

    def response(self, branch: Branch, response: SipResponse, now: float) -> list[Effect]:
        """Take an answer to a branch."""
        self._out = []
        context = branch.context
        status = response.status
        if len(response.values("via")) < 2:
            # Without a second Via nobody stands behind us: it is not for forwarding (16.7 step 3).
            if status >= 200:
                self._step(branch, Input.FAIL, now)
                self._ended(branch, 502, None, now)
            return [*self._taken(), Drop("a response without a Via of the one before us")]
        if status < 200:
            if status > 100:
                self._step(branch, Input.PROVISIONAL, now)
                if not context.final:
                    self._out.append(Relay(context.server, status, forwarded_response(response)))
        elif status < 300:
            self._succeeded(branch, response, now)
        else:
            fresh = branch.state is not State.DONE
            self._step(branch, Input.FINAL, now)
            if fresh:
                self._ended(branch, status, response, now)
        return self._taken()

    def failed(self, branch: Branch, status: int, now: float, unsent: bool = False) -> list[Effect]:
        """A branch got no answer.

        :param status: 408 for a timeout, 503 when it could not be sent (16.9).
        :param unsent: whether it has surely not reached anybody.
        """
        self._out = []
        branch.unsent = unsent
        fresh = branch.state is not State.DONE
        self._step(branch, Input.FAIL, now)
        if fresh:
            self._ended(branch, status, None, now)
        return self._taken()

    def stray(self, response: SipResponse) -> list[Effect]:
        """Take a response that fits no branch: it is dropped (RFC 6026 section 8.9).

        Its next Via is never followed, so nobody can aim our packets at others.
        """
        return [Drop(f"a {response.status} that belongs to no request of ours")]

    # Timers

    @property
    def next_timer(self) -> float | None:
        """When :meth:`handle_timers` wants to be called; None if nothing is under way."""
        return self._heap.next

    def handle_timers(self, now: float) -> list[Effect]:
        """Do what has become due: timer C."""
        self._out = []
        self._now = now
        self._heap.run(now)
        return self._taken()

    # Inside

    def _question(self, request: SipRequest, source: Any) -> tuple[Question, str]:
        """Check a request and find out what to ask. :raises RemoteError: the refusal."""
        checks.syntax(request)
        way = self.way(request)
        print_ = checks.fingerprint(request, way)
        checks.loops(request, print_, self._own_sent_by)
        checks.extensions(request, self._known)
        uri = parse_uri(way.next)
        if isinstance(uri, OtherUri):
            raise _refusal(416)
        question = Question(request, uri, bool(way.routes), way, source)
        refusal = self._permit(request, source, question)
        if refusal is not None:
            raise refusal
        return question, print_

    def _accepted(self, request: SipRequest, server: Any, source: Any, received: str) -> Context:
        question, print_ = self._question(request, source)
        return Context(request, server, source, question, print_, checks.breadth(request), received)

    def _next_group(self, context: Context, now: float) -> None:
        """Begin the next targets, as many at a time as the breadth allows (RFC 5393 section 5.3.3)."""
        group = context.groups.pop(0)
        if len(group) > context.breadth:
            context.groups.insert(0, group[context.breadth :])
            group = group[: context.breadth]
        share, extra = divmod(context.breadth, len(group))
        for position, target in enumerate(group):
            breadth = share + (1 if position < extra else 0)
            self._begin(Branch(context, target, target.legs[0], target.legs[1:], breadth), now)

    def _begin(self, branch: Branch, now: float) -> None:
        branch.context.branches.append(branch)
        self._step(branch, Input.START, now)

    def _succeeded(self, branch: Branch, response: SipResponse, now: float) -> None:
        context = branch.context
        invite = context.request.method == "INVITE"
        self._step(branch, Input.FINAL, now)
        # Each 2xx to an INVITE goes up, for each makes a dialog; of other answers one (16.7 step 5).
        if invite or not context.final:
            self._out.append(Relay(context.server, response.status, forwarded_response(response)))
        if not context.final:
            context.final = response.status
            self._cancel_others(branch, now)
        self._close_if_over(context)

    def _ended(self, branch: Branch, status: int, response: SipResponse | None, now: float) -> None:
        """A branch has ended without success: its next leg, the next targets, or the best answer."""
        context = branch.context
        unreached = status in _NEXT_LEG or (response is None and status != 502)
        if unreached and branch.later and not context.cancelled and not context.final:
            leg, later = branch.later[0], branch.later[1:]
            self._begin(Branch(context, branch.target, leg, later, branch.breadth), now)
            return
        context.best.append((status, response))
        if status >= 600:
            context.groups = []
            self._cancel_others(branch, now)
        if any(each.state is not State.DONE for each in context.branches):
            return
        if context.groups and not context.final:
            self._next_group(context, now)
            return
        if not context.final:
            self._best(context)
        self._close_if_over(context)

    def _best(self, context: Context) -> None:
        status, response = best_of(context.best)
        if context.cancelled and response is None:
            self._reply(context, _refusal(487))
        elif status == 503:
            # Passed on, it would take us out of the caller's routing (section 16.7 step 6).
            target = context.branches[-1].target
            if target.inherited and all(each.unsent for each in context.branches):
                context.final = target.unreached
                server, request, source = context.server, context.request, context.source
                self._out.append(GiveBack(server, request, source, target.unreached))
            else:
                self._reply(context, _refusal(target.unreached))
        elif response is None:
            self._reply(context, _refusal(status))
        else:
            more = challenges(status, response, context.best)
            context.final = status
            self._out.append(Relay(context.server, status, forwarded_response(response, more)))

    def _cancel_others(self, branch: Branch, now: float) -> None:
        context = branch.context
        context.groups = []
        if context.request.method != "INVITE":
            return  # only an INVITE can be cancelled (section 9.1)
        for other in context.branches:
            if other is not branch:
                self._step(other, Input.CANCEL, now)

    def _reply(self, context: Context, error: RemoteError) -> None:
        context.final = error.status
        self._out.append(Reply(context.server, error))
        self._close_if_over(context)

    def _close_if_over(self, context: Context) -> None:
        if context.final and all(each.state is State.DONE for each in context.branches):
            context.closed = True
            self._open.discard(context)

    def _step(self, branch: Branch, input_: Input, now: float) -> None:
        try:
            state, works = TABLE[(branch.state, input_)]
        except KeyError:
            raise ProxyStateError(f"{input_.name} in state {branch.state.name}") from None
        branch.state = state
        for work in works:
            self._do(branch, work, now)

    def _do(self, branch: Branch, work: Do, now: float) -> None:
        context = branch.context
        if work is Do.SEND:
            branch.branch = checks.branch(self.unique(), context.fingerprint)
            changes = _changes(
                context.question.way,
                branch.leg,
                branch.branch,
                branch.target.uri,
                context.received,
                branch.breadth,
            )
            data = forwarded_request(context.request, changes)
            self._out.append(Start(branch, data, branch.leg.hop))
        elif work is Do.CANCEL:
            if context.request.method == "INVITE":
                self._out.append(Cancel(branch))
        elif work is Do.ARM:
            if context.request.method == "INVITE":
                self._disarm(branch)
                branch.timer = self._heap.at(now + self._timer_c, self._timer_fired, branch)
        elif work is Do.DISARM:
            self._disarm(branch)
        elif work is Do.TIMED_OUT:
            self._disarm(branch)
            self._ended(branch, 408, None, now)

    def _timer_fired(self, branch: Branch) -> None:
        self._step(branch, Input.TIMER_C, self._now)

    @staticmethod
    def _disarm(branch: Branch) -> None:
        timer, branch.timer = branch.timer, None
        if timer is not None:
            timer.cancel()

    def _taken(self) -> list[Effect]:
        out, self._out = self._out, []
        return out


def _changes(
    way: Way, leg: Leg, branch: str, uri: str, received: str, breadth: int | None
) -> RequestChanges:
    return RequestChanges(
        f"SIP/2.0/{leg.via};branch={branch}",
        leg.record_route,
        # Behind a Route the Request-URI belongs to whoever is at the end of it.
        uri if uri and not way.routes else way.uri,
        way.routes if way.rebuilt else None,
        way.popped,
        received,
        breadth,
    )


def _refusal(status: int) -> RemoteError:
    return RemoteError(status, REASONS[status])
