"""The values of the proxy: where a request goes, what the proxy wants done, and its branches' states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from impfed.core.errors import LocalError, RemoteError
from impfed.core.timers import Timer
from impfed.proxy.way import Way
from impfed.sip.message import SipRequest, SipResponse
from impfed.sip.uri import SipUri


class _Fast(Enum):
    """Members are their own keys: Python's Enum would hash the name, in Python, each time."""

    __hash__ = object.__hash__


class ProxyStateError(LocalError):
    """A branch was told something that cannot happen in its state."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One next hop of a target, and what is written for it.

    :ivar hop: opaque: a Hop or a flow.
    :ivar via: transport and sent-by of the Via, for example "TLS 203.0.113.10:45062".
    :ivar record_route: Record-Route values of ours, the topmost first; empty for none.
    """

    hop: Any
    via: str
    record_route: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One place that a request may be answered at.

    :ivar legs: ways there, in order; the next is tried when one cannot be reached (RFC 3263 4.3).
    :ivar uri: Request-URI to send; "" to leave it as it is.
    :ivar group: targets of one group are tried at the same time, groups one after the other.
    :ivar unreached: status to answer with when no leg can be reached.
    :ivar partner: whether it leads to a partner who is sent so much and no more.
    :ivar lasting: whether the next request of the dialog may go there without being looked at.
    :ivar inherited: whether somebody else serves it soon if it cannot be reached.
    """

    legs: tuple[Leg, ...]
    uri: str = ""
    group: int = 0
    unreached: int = 500
    lasting: bool = True
    partner: bool = False
    inherited: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of whoever knows where requests go.

    :ivar uri: what the next hop is found from: a Route beyond us, or the Request-URI.
    :ivar by_route: whether it is a Route.
    :ivar way: the whole way, with the URIs of ours that were in it.
    :ivar source: opaque: what the request came by.
    """

    request: SipRequest
    uri: SipUri
    by_route: bool
    way: Way
    source: Any = None


#: "Only permitted pairs pass": returns None, or raises the answer.  Gets the request, where it came
#: from, and the question.
Permit = Callable[[SipRequest, Any, Question], RemoteError | None]


class State(_Fast):
    """Life of one branch."""

    WAITING = "waiting"
    CALLING = "calling"
    PROCEEDING = "proceeding"
    CANCELLING = "cancelling"
    DONE = "done"


class Input(_Fast):
    """What happens to a branch."""

    START = "start"
    PROVISIONAL = "provisional"
    FINAL = "final"
    CANCEL = "cancel"
    TIMER_C = "timer C"
    FAIL = "fail"


class Do(_Fast):
    """What a branch does."""

    SEND = "send"
    ARM = "arm timer C"
    CANCEL = "send CANCEL"
    TIMED_OUT = "count as 408"
    DISARM = "stop timer C"


#: The branch as a table: RFC 3261 sections 16.6 to 16.10.
TABLE: dict[tuple[State, Input], tuple[State, tuple[Do, ...]]] = {
    (State.WAITING, Input.START): (State.CALLING, (Do.SEND, Do.ARM)),
    (State.WAITING, Input.CANCEL): (State.DONE, ()),
    (State.CALLING, Input.PROVISIONAL): (State.PROCEEDING, (Do.ARM,)),
    (State.CALLING, Input.FINAL): (State.DONE, (Do.DISARM,)),
    (State.CALLING, Input.FAIL): (State.DONE, (Do.DISARM,)),
    # The transaction layer keeps the CANCEL back until a provisional answer has come.
    (State.CALLING, Input.CANCEL): (State.CANCELLING, (Do.CANCEL,)),
    (State.CALLING, Input.TIMER_C): (State.DONE, (Do.CANCEL, Do.TIMED_OUT)),
    (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Do.ARM,)),
    (State.PROCEEDING, Input.FINAL): (State.DONE, (Do.DISARM,)),
    (State.PROCEEDING, Input.FAIL): (State.DONE, (Do.DISARM,)),
    (State.PROCEEDING, Input.CANCEL): (State.CANCELLING, (Do.CANCEL,)),
    (State.PROCEEDING, Input.TIMER_C): (State.CANCELLING, (Do.CANCEL, Do.ARM)),
    (State.CANCELLING, Input.FINAL): (State.DONE, (Do.DISARM,)),
    (State.CANCELLING, Input.FAIL): (State.DONE, (Do.DISARM,)),
    (State.CANCELLING, Input.TIMER_C): (State.DONE, (Do.TIMED_OUT,)),
    # Ignored: it is being cancelled already, and goes on ringing until that is answered.
    (State.CANCELLING, Input.PROVISIONAL): (State.CANCELLING, ()),
    (State.CANCELLING, Input.CANCEL): (State.CANCELLING, ()),
    # Ignored: 2xx after the first go to the caller without the branch, the rest is late.
    (State.DONE, Input.PROVISIONAL): (State.DONE, ()),
    (State.DONE, Input.FINAL): (State.DONE, ()),
    (State.DONE, Input.FAIL): (State.DONE, ()),
    (State.DONE, Input.CANCEL): (State.DONE, ()),
    (State.DONE, Input.TIMER_C): (State.DONE, ()),
}


@dataclass(slots=True, eq=False)
class Branch:
    """One forwarded copy of a request.

    :ivar context: what it is a copy of.
    :ivar branch: the branch of its Via.
    :ivar leg: where it went.
    :ivar unsent: whether it has surely not reached anybody.
    :ivar user: free for whoever carries it out: the client transaction.
    """

    context: Context
    target: Target
    leg: Leg
    later: tuple[Leg, ...]
    breadth: int
    branch: str = ""
    state: State = State.WAITING
    timer: Timer | None = None
    unsent: bool = False
    user: Any = None


@dataclass(slots=True, eq=False)
class Context:
    """One request being proxied, with all its branches: the response context of section 16.

    :ivar server: opaque: the server transaction that the answers go to.
    :ivar final: status of the final answer that went up, 0 before.
    """

    request: SipRequest
    server: Any
    source: Any
    question: Question
    fingerprint: str
    breadth: int
    received: str = ""
    branches: list[Branch] = field(default_factory=list)
    groups: list[list[Target]] = field(default_factory=list)
    best: list[tuple[int, SipResponse | None]] = field(default_factory=list)
    final: int = 0
    cancelled: bool = False
    closed: bool = False


# What the proxy wants done; carried out in order.


@dataclass(slots=True, eq=False)
class Locate:
    """Find out where a request goes, then call ``decided``."""

    context: Context
    question: Question


@dataclass(slots=True, eq=False)
class Start:
    """Send this copy in a client transaction of its own; its Via has the branch's ``branch``."""

    branch: Branch
    data: bytes
    hop: Any


@dataclass(slots=True, eq=False)
class Cancel:
    """Cancel the branch's client transaction."""

    branch: Branch


@dataclass(slots=True, eq=False)
class Relay:
    """Send these octets, a response without our Via, to the server transaction's source."""

    server: Any
    status: int
    data: bytes


@dataclass(slots=True, eq=False)
class Reply:
    """Answer the server transaction ourselves."""

    server: Any
    error: RemoteError


@dataclass(slots=True, eq=False)
class GiveBack:
    """Nobody has got the request, and somebody else serves it soon: have it arrive once more.

    :ivar status: to answer with if not.
    """

    server: Any
    request: SipRequest
    source: Any
    status: int


@dataclass(slots=True, eq=False)
class SendAck:
    """Send an ACK on, without any transaction."""

    data: bytes
    hop: Any


@dataclass(slots=True, eq=False)
class Drop:
    """Nothing is sent; count it, and say why."""

    reason: str


Effect = Locate | Start | Cancel | Relay | Reply | GiveBack | SendAck | Drop
Effects = Sequence[Effect]
