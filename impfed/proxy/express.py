"""The short way through the proxy, for requests that follow another of their dialog.

The long way, once gone, leaves a :mod:`template <impfed.proxy.template>` of the request and of its
answer with the connection.  What matches is forwarded from here: no message is read into objects and
no transaction is made.  A :class:`Parked` entry stands for both transactions; as soon as anything
happens to them but the answer that is expected (a repetition, another status, silence, a lost
connection) it becomes what the long way would have made, and takes the long way from there.

What was decided for a template, whether it may pass and where it goes, holds for :data:`LIFETIME`
and for that pair of connections only; then the next request goes the long way again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from impfed.core.metrics import Metrics
from impfed.core.timers import Timer
from impfed.proxy.template import (
    AnswerTemplate,
    Found,
    RequestTemplate,
    learn_answer,
    learn_request,
)
from impfed.proxy.values import Branch, Context, Question, State
from impfed.sip.message import SipRequest, parse_message
from impfed.sip.transaction import ServerKey
from impfed.transport.stream import StreamFlow

if TYPE_CHECKING:
    from impfed.proxy.agent import ProxyAgent
    from impfed.transport.sip import SipStack

#: Seconds for which a decision is used again before it is asked for anew.
LIFETIME = 30.0

#: Templates kept at a time; each takes about 3 KiB.
LIMIT = 20000

#: Methods worth a template: they come often, make no dialog, and are always answered.
METHODS = frozenset(("MESSAGE", "INFO", "NOTIFY"))

_ANSWER = b"SIP/2.0 "
_OK = b"SIP/2.0 2"
_CALL_ID = b"\r\nCall-ID: "
_BRANCH = b";branch="

#: Octets of a message of which a part has come, for which the rest is waited for.
_WAIT = 4096


class Way:
    """What is kept of a request that went the long way.

    :ivar until: when it has to be decided anew.
    :ivar out: the connection that it went over.
    :ivar branch: the branch of the proxy that it was: question, target, leg.
    :ivar answer: the template of the answers; None before one has come.
    """

    __slots__ = ("answer", "branch", "host", "out", "port", "template", "until")

    def __init__(
        self, template: RequestTemplate, out: StreamFlow, branch: Branch, until: float
    ) -> None:
        self.template = template
        self.out = out
        self.branch = branch
        self.until = until
        via = branch.context.request.via
        self.host, self.port = via.host, str(via.port)
        self.answer: AnswerTemplate | None = None


class Parked:
    """A request that was forwarded and whose answer is awaited, in place of its two transactions.

    :ivar parked: tells it from a transaction.
    """

    __slots__ = (
        "began", "branch", "data", "key", "lane", "number", "print", "sent_key", "source", "vias",
        "way",
    )  # fmt: skip
    parked = True

    def __init__(
        self,
        lane: Lane,
        way: Way,
        source: StreamFlow,
        data: bytes,
        branch: bytes,
        vias: bytes,
        found: Found,
        key: ServerKey,
        began: float,
    ) -> None:
        self.lane = lane
        self.way = way
        self.source = source
        self.data = data
        self.branch = branch
        self.vias = vias
        self.number = found.number
        self.print = found.print
        self.key = key
        self.sent_key = (branch.decode("ascii"), way.template.method)
        self.began = began

    def whole(self) -> None:
        """Become the transactions that the long way would have made."""
        self.lane.restore(self)


class Lane:
    """The short way of one proxy.

    :param unique: gives the part of our branches between the cookie and the fingerprint.
    """

    def __init__(
        self, stack: SipStack, agent: ProxyAgent, unique: Callable[[], str], metrics: Metrics
    ) -> None:
        self.stack = stack
        self.agent = agent
        self.unique = unique
        self.metrics = metrics
        self.parked: dict[bytes, Parked] = {}  # by our branch, the oldest first
        self._learned: deque[tuple[float, dict[bytes, Way], bytes, Way]] = deque()
        self._timer: Timer | None = None

    def __len__(self) -> int:
        """Return how many requests are under way."""
        return len(self.parked)

    def learn(self, branch: Branch, sent: bytes) -> None:
        """Keep a template of a request that has just been forwarded the long way, if it fits one."""
        context = branch.context
        request, source, target = context.request, context.source, branch.target
        if (
            request.method not in METHODS
            or not isinstance(source, StreamFlow)
            or not request.to_tag
            or not context.question.way.ours  # who comes without our Route is counted as misrouted
            or context.groups
            or branch.leg is not target.legs[0]
            or not target.lasting
            or len(self._learned) >= LIMIT
        ):
            return
        out = branch.user.destination
        if not isinstance(out, StreamFlow) or not (source.ready and out.ready):
            return
        print_ = int(context.fingerprint, 16) - request.cseq.number & (2**64 - 1)
        template = learn_request(request, sent, branch.branch, context.received, print_)
        if template is None:
            return
        now = self.stack.timers.seconds()
        self._forget(now)
        self._shortcut(out)
        ways = self._shortcut(source).ways
        name = request.method[:4].encode() + request.call_id.encode("utf-8", "surrogateescape")
        way = Way(template, out, branch, now + LIFETIME)
        earlier = ways.get(name)
        if earlier is not None:
            way.answer = earlier.answer
        ways[name] = way
        self._learned.append((way.until, ways, name, way))

    def park(self, entry: Parked) -> None:
        """Expect the answer to a request."""
        self.parked[entry.branch] = entry
        self.stack.transactions.park(entry.key, entry.sent_key, entry)
        entry.way.out.transactions[entry] = None
        if self._timer is None:
            self._timer = self.stack.timers.after(self.stack.transactions.timers.limit, self._due)

    def settle(self, entry: Parked) -> None:
        """The answer has come."""
        del self.parked[entry.branch]
        self.stack.transactions.unpark(entry.key, entry.sent_key)
        entry.way.out.transactions.pop(entry, None)

    def restore(self, entry: Parked) -> None:
        """Make of an entry the transactions and the state that the long way would have made."""
        self.settle(entry)
        way, source = entry.way, entry.source
        request = parse_message(entry.data)
        assert isinstance(request, SipRequest)  # it was found equal to one
        server = self.stack.transactions.adopt_request(request, source, entry.key, entry.began)
        old = way.branch
        asked = old.context.question
        question = Question(request, asked.uri, asked.by_route, asked.way, source)
        context = Context(
            request, server, source, question, entry.print[1:].decode("ascii"),
            old.context.breadth, old.context.received,
        )  # fmt: skip
        branch = Branch(
            context, old.target, old.leg, old.target.legs[1:], old.breadth, entry.sent_key[0],
            State.CALLING,
        )  # fmt: skip
        context.branches.append(branch)
        self.agent.adopt(context, branch, way.out, entry.began)

    def _shortcut(self, flow: StreamFlow) -> Shortcut:
        shortcut = flow.shortcut
        if not isinstance(shortcut, Shortcut):
            shortcut = flow.shortcut = Shortcut(self, flow)
        return shortcut

    def _forget(self, now: float) -> None:
        """Forget what is too old to be used."""
        learned = self._learned
        while learned and learned[0][0] <= now:
            _, ways, name, way = learned.popleft()
            if ways.get(name) is way:
                del ways[name]

    def _due(self) -> None:
        """The time of the oldest request under way is over, or will be."""
        self._timer = None
        now = self.stack.timers.seconds()
        limit = self.stack.transactions.timers.limit
        while self.parked:
            entry = next(iter(self.parked.values()))
            if entry.began + limit > now:
                self._timer = self.stack.timers.after(entry.began + limit - now, self._due)
                break
            entry.whole()
        self.stack.rearm()
        self._forget(now)


class Shortcut:
    """What one connection's framer asks first; see :class:`~impfed.sip.framing.StreamFramer`.

    :ivar ways: by the begin of the method and the Call-ID.
    """

    __slots__ = ("_body_limit", "_flow", "_lane", "ways")

    def __init__(self, lane: Lane, flow: StreamFlow) -> None:
        self._lane = lane
        self._flow = flow
        self._body_limit = lane.stack.limits.framing.body
        self.ways: dict[bytes, Way] = {}

    def __call__(self, data: bytes, start: int, end: int) -> int:
        """Forward a message.

        :param start: where it begins.
        :param end: of its head, after the empty line.
        :return: its end; 0 for a message that goes the long way, -1 when more of it must come.
        """
        if data.startswith(_ANSWER, start):
            return self._answer(data, start, end)
        at = data.find(_CALL_ID, start, end) + 11
        if at < 11:
            return 0
        way = self.ways.get(data[start : start + 4] + data[at : data.find(b"\r", at, end)])
        return 0 if way is None else self._request(way, data, start, end)

    def _request(self, way: Way, data: bytes, start: int, end: int) -> int:
        template, out, lane, flow = way.template, way.out, self._lane, self._flow
        now = flow.last_heard
        found = template.match(data, start, end)
        if found is None or now >= way.until or not out.ready or lane.stack.tracing:
            return 0
        stop = end + found.length
        if found.length > self._body_limit:
            return 0
        if stop > len(data):
            return -1 if stop - start <= _WAIT else 0
        key = (found.branch.decode("ascii"), way.host, way.port, template.method)
        if not lane.stack.transactions.vacant(key):
            return 0
        branch = f"z9hG4bK{lane.unique()}".encode() + found.print
        vias = template.vias(data, start, found)
        sent = template.forwarded(found, branch, vias, data[end:stop])
        if not out.write(sent):
            return 0
        lane.park(Parked(lane, way, flow, data[start:stop], branch, vias, found, key, now))
        count = lane.metrics.count
        count("sip.requests_in")
        count("proxy.forwarded")
        return stop

    def _answer(self, data: bytes, start: int, end: int) -> int:
        lane = self._lane
        at = data.find(_BRANCH, start, end) + 8
        stop = data.find(b"\r", at, end)
        semicolon = data.find(b";", at, stop)
        entry = lane.parked.get(data[at : stop if semicolon < 0 else semicolon])
        if entry is None or not data.startswith(_OK, start) or lane.stack.tracing:
            return 0
        answer = entry.way.answer
        below = 0
        if answer is not None:
            below = answer.match(data, start, end, entry.branch, entry.vias, entry.number)
        if not below:
            answer, below = self._learn_answer(entry, data, start, end)
            if answer is None:
                return 0
        assert answer is not None
        stop = end + answer.length
        if answer.length > self._body_limit:
            return 0
        if stop > len(data):
            return -1 if stop - start <= _WAIT else 0
        source = entry.source
        if not source.ready or not source.write(answer.forwarded(data, start, below, stop)):
            return 0
        lane.settle(entry)
        lane.metrics.count("sip.responses_in")
        return stop

    @staticmethod
    def _learn_answer(
        entry: Parked, data: bytes, start: int, end: int
    ) -> tuple[AnswerTemplate | None, int]:
        head = bytes(data[start:end])
        answer = learn_answer(head, entry.branch, entry.vias, entry.number)
        if answer is None:
            return None, 0
        entry.way.answer = answer
        return answer, answer.match(data, start, end, entry.branch, entry.vias, entry.number)
