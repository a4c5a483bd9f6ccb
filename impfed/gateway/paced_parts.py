"""What passes a partner's budget: single requests, and the way to one domain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred

from impfed.core.timers import Timer
from impfed.interwork.typing import ISCOMPOSING_TYPE
from impfed.policy.budget import PartnerBudget, Person
from impfed.policy.pauses import Pause
from impfed.policy.waiting import Ticket, WaitingRoom
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse
from impfed.sip.target import Hop
from impfed.sip.transaction import ClientTransaction, FailureCause
from impfed.store.api import Change, Done
from impfed.store.records import PauseRecord, Record
from impfed.transport.flow import Flow
from impfed.transport.sip import SipStack
from impfed.transport.stream import StreamFlow

if TYPE_CHECKING:
    from impfed.gateway.paced import PacedStack

#: Seconds that a forwarded request may wait: whoever sent it gives it up after 32 (timer F).
FORWARDED_PATIENCE = 25.0


class Records(Protocol):
    """The part of the store that is used here."""

    def load(self, kind: type[PauseRecord]) -> Deferred[list[PauseRecord]]:
        """Return every record of a kind."""
        ...

    def write(
        self, changes: list[Change], done: Done | None = None, *, within: float = 0.0
    ) -> None:
        """Make changes."""
        ...


class SharedPauses:
    """Has the pauses that any node was asked for hold for all (a :class:`~impfed.gateway.commons.Keeper`)."""

    kinds: tuple[type[Record], ...] = (PauseRecord,)

    def __init__(self, paced: PacedStack) -> None:
        self._paced = paced

    def records(self, kind: type[Record]) -> Iterable[Record]:
        """Return the pauses in memory."""
        return [record_of(pause) for pause in self._paced.pauses.known.values()]

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        """Another node was asked for a pause, or one is over."""
        known = self._paced.pauses.known
        if isinstance(record, PauseRecord):
            known[key] = Pause(record.hop, record.domain, record.until, record.refusals)
        else:
            known.pop(key, None)


def record_of(pause: Pause) -> PauseRecord:
    """Return a pause as the store keeps it."""
    return PauseRecord(
        hop=pause.hop, domain=pause.domain, until=pause.until, refusals=pause.refusals
    )


class Outgoing:
    """One request, from the moment when the gateway wants it sent.

    :ivar transaction: what became of it in the SIP stack; None while it waits, or if it never went.
    :cvar forwarded: whether it is the proxy's, which passes on what another node sends.
    """

    forwarded = False

    __slots__ = ("_paced", "destination", "lane", "person", "request", "transaction", "user")

    def __init__(
        self,
        paced: PacedStack,
        lane: Lane,
        person: Person,
        request: OutgoingRequest,
        destination: Hop | Flow,
        user: Any,
    ) -> None:
        self._paced = paced
        self.lane = lane
        self.person = person
        self.request = request
        self.destination = destination
        self.user = user
        self.transaction: ClientTransaction | None = None

    def response_arrived(self, transaction: ClientTransaction, response: SipResponse) -> None:
        """Learn from an answer, and hand it on."""
        status = response.status
        if status >= 200:
            if status >= 300 or self.person.unknown_until or self._paced.pauses.known:
                self._paced.answered(self, response)
            else:
                self.lane.budget.answers += 1
            if status < 300 and self.lane.opened:
                self._paced.reached(self.lane.budget.domain)
        self.user.response_arrived(transaction, response)

    def request_failed(
        self, transaction: ClientTransaction, cause: FailureCause, text: str
    ) -> None:
        """Hand a failure on."""
        self.user.request_failed(transaction, cause, text)

    def begin(self, stack: SipStack) -> None:
        """Send it.

        :raises LocalError: when it cannot be sent.
        """
        self.transaction = stack.request(self.request, self.destination, self)

    def late(self, now: float) -> bool:
        """Say whether nobody waits for its answer any more."""
        return False


class Forwarded(Outgoing):
    """A request that the proxy passes on to a partner.

    :param copy: what a CANCEL and an ACK of it repeat.
    :param data: its octets, with our Via of this branch on top.
    """

    forwarded = True
    __slots__ = ("_branch", "_copy", "_data", "_until")

    def __init__(
        self,
        paced: PacedStack,
        lane: Lane,
        person: Person,
        request: SipRequest,
        destination: Hop | Flow,
        user: Any,
        sent: tuple[OutgoingRequest, bytes, str],
        now: float,
    ) -> None:
        kept = [(name, request.get(name.lower()) or "") for name in _KEPT]
        asked = OutgoingRequest(
            request.method, request.uri_text, kept, b"", request.cseq.number, request.call_id
        )
        super().__init__(paced, lane, person, asked, destination, user)
        self._copy, self._data, self._branch = sent
        self._until = now + FORWARDED_PATIENCE

    @property
    def branch(self) -> Any:
        """The branch of the proxy that it is, as its user knows it."""
        return self.user.branch

    def begin(self, stack: SipStack) -> None:
        """Send it."""
        self.transaction = stack.forward(
            self._copy, self._data, self._branch, self.destination, self
        )

    def late(self, now: float) -> bool:
        """Say whether nobody waits for its answer any more: only an INVITE has no end by itself."""
        return now >= self._until and self.request.method != "INVITE"


class Lane:
    """The way to one domain.

    :ivar failed: requests that were not sent, since the start.
    :ivar opened: whether nobody has configured the domain.
    """

    __slots__ = ("budget", "failed", "opened", "room", "said_at", "tickets", "timer")

    def __init__(self, budget: PartnerBudget) -> None:
        self.budget = budget
        self.room: WaitingRoom[Outgoing] = WaitingRoom()
        self.tickets: dict[Outgoing, Ticket[Outgoing]] = {}
        self.timer: Timer | None = None
        self.failed = 0
        self.opened = False
        self.said_at = float("-inf")


#: Headers that say whose request it is, and what.
_KEPT = ("From", "To", "Content-Type")


def hop_of(destination: Hop | Flow) -> str:
    """Return what a pause is kept under; a flow that we opened is the hop it leads to."""
    if isinstance(destination, Hop):
        return str(destination)
    target = destination.target if isinstance(destination, StreamFlow) else None
    if target is not None:
        return str(target)
    return f"{destination.transport}:{destination.remote[0]}"


def value_of(request: OutgoingRequest, name: str) -> str:
    """Return a header of a request; "" when it has none."""
    return request.get(name) or ""


def in_dialog(request: OutgoingRequest) -> bool:
    """Say whether a request is part of a dialog."""
    to = value_of(request, "To")
    return to.find(";tag=", to.rfind(">") + 1) >= 0


def is_typing(request: OutgoingRequest) -> bool:
    """Say whether a request only tells that somebody types."""
    if request.method == "INFO":
        return True
    kind = value_of(request, "Content-Type") if request.method == "MESSAGE" else ""
    return kind.startswith(ISCOMPOSING_TYPE)
