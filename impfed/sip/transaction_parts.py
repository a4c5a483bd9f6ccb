"""The values of the transaction layer: timer lengths, transactions, and what the layer asks for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol
from zlib import crc32

from impfed.core.timers import Timer
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse
from impfed.sip.transaction_tables import Input, Machine, State


@dataclass(frozen=True, slots=True)
class TimerValues:
    """Lengths in seconds (RFC 3261 table 4).  All other timers follow from these.

    :ivar t1: estimate of the round trip time.
    :ivar t2: longest interval between repetitions.
    :ivar t4: how long a message may stay in the network.
    :ivar d: how long an INVITE client over UDP answers repeated refusals (timer D).
    :ivar trying: how long our core may take before an INVITE gets a 100 (section 17.2.1).
    """

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0
    d: float = 32.0
    trying: float = 0.2

    @property
    def limit(self) -> float:
        """64*T1: timers B, F, H, L, M and N."""
        return 64 * self.t1


RFC3261_TIMERS = TimerValues()
"""The values of RFC 3261."""


class FailureCause(Enum):
    """Why a transaction failed without an answer from the far side."""

    TIMEOUT = "timeout"
    """Timer B, F or H, or no final answer 64*T1 after a CANCEL, or our core never answered."""
    TRANSPORT = "transport"
    """The transport could not send it."""
    NO_ACK = "no ACK"
    """Our 2xx to an INVITE was never acknowledged: the session should get a BYE."""
    OVERLOAD = "overload"
    """Too many requests are pending, or the partner's budget is used up; it was not sent."""
    PAUSED = "paused"
    """The next hop has asked for a pause that is not over; it was not sent."""
    ASIDE = "aside"
    """This node may act on nothing now, for it does not see its cluster; it was not sent."""
    NOBODY = "nobody"
    """The partner has said lately that it does not know the user; it was not sent."""


class HasReliable(Protocol):
    """All that this layer knows of a destination or source."""

    @property
    def reliable(self) -> bool:
        """Whether the transport repeats what is lost: TCP and TLS."""
        ...


class IsParked(Protocol):
    """What stands for a server and a client transaction as long as all goes as expected.

    :ivar parked: True; tells it from a transaction.
    """

    parked: bool

    def whole(self) -> None:
        """Put both transactions in its place."""


class Transaction:
    """What client and server transactions share.

    :ivar state: where it stands.
    :ivar machine: which of the four it is.
    :ivar reliable: whether its transport is.
    :ivar user: the transaction user's own; the layer never looks at it.
    :ivar proxied: whether a proxy uses it: then it is the user agents who repeat a 2xx and acknowledge
        it, so every 2xx and every ACK of one passes, and the layer adds none (RFC 3261 section 16.7).
    :cvar parked: whether it only stands for a transaction (:class:`IsParked`).
    """

    __slots__ = (
        "interval",
        "interval_cap",
        "limit_timer",
        "machine",
        "proxied",
        "quiet",
        "reliable",
        "repeat_input",
        "repeat_timer",
        "state",
        "user",
    )
    parked = False

    def __init__(self, machine: Machine, reliable: bool, user: Any) -> None:
        self.machine = machine
        self.state = State.NEW
        self.reliable = reliable
        self.user = user
        self.proxied = False
        self.quiet = False  # the layer's own (CANCEL): the transaction user hears nothing
        self.repeat_timer: Timer | None = None
        self.limit_timer: Timer | None = None
        self.repeat_input = Input.GIVE_UP
        self.interval = 0.0
        self.interval_cap = 0.0


ServerKey = tuple[str, ...]


class ServerTransaction(Transaction):
    """A request from the far side and the answers to it (RFC 3261 section 17.2).

    :ivar request: the request.
    :ivar source: where it came from and the answers go; opaque but for ``reliable``.
    :ivar response: the octets last sent; b"" before the first answer.
    :ivar merged: whether our core is at another copy of the request, which came another way: a user
        agent answers 482 (section 8.2.2.2), a proxy passes it on.
    """

    __slots__ = ("ack_key", "key", "merge_key", "merged", "request", "response", "source")

    def __init__(
        self, machine: Machine, request: SipRequest, source: Any, reliable: bool, key: ServerKey
    ) -> None:
        super().__init__(machine, reliable, None)
        self.request = request
        self.source = source
        self.response = b""
        self.key = key
        self.merge_key: tuple[str, str, int, str] | None = None
        self.merged = False
        self.ack_key: tuple[str, str, int] | None = None

    @property
    def destination(self) -> Any:
        """Where answers go: the source."""
        return self.source

    @property
    def fallback_tag(self) -> str:
        """A To tag for answers that the layer itself makes, the same for each copy."""
        return fallback_tag(self.request)

    def __repr__(self) -> str:
        return f"<ServerTransaction {self.request.method} {self.state.name}>"


class ClientTransaction(Transaction):
    """A request of ours and the answers to it (RFC 3261 section 17.1).

    :ivar request: the request as our core made it.
    :ivar data: its octets.
    :ivar branch: branch of its Via; with the method it finds the transaction for a response.
    :ivar destination: where it goes; opaque.
    :ivar acks: To tag of each 2xx seen -> its ACK and where that goes; None until there is one.
    """

    __slots__ = ("acks", "branch", "data", "destination", "request")

    def __init__(
        self,
        request: OutgoingRequest,
        data: bytes,
        branch: str,
        destination: Any,
        reliable: bool,
        user: Any,
    ) -> None:
        machine = Machine.INVITE_CLIENT if request.method == "INVITE" else Machine.CLIENT
        super().__init__(machine, reliable, user)
        self.request = request
        self.data = data
        self.branch = branch
        self.destination = destination
        self.acks: dict[str, tuple[bytes, Any] | None] | None = None

    def __repr__(self) -> str:
        return f"<ClientTransaction {self.request.method} {self.state.name}>"


# Not frozen: they are made for every message, and a frozen class pays for each attribute.
@dataclass(slots=True, eq=False)
class Send:
    """Send these octets there; on failure ``transport_failed`` wants the transaction, if any."""

    data: bytes
    to: Any
    transaction: ServerTransaction | ClientTransaction | None


@dataclass(slots=True, eq=False)
class RequestArrived:
    """A new request for the transaction user."""

    transaction: ServerTransaction
    request: SipRequest


@dataclass(slots=True, eq=False)
class AckArrived:
    """The ACK of a 2xx: the first one for its transaction, or (None) one that fits none."""

    request: SipRequest
    transaction: ServerTransaction | None


@dataclass(slots=True, eq=False)
class CancelArrived:
    """The far side cancels an INVITE not yet answered; the user should answer that with 487."""

    transaction: ServerTransaction
    request: SipRequest


@dataclass(slots=True, eq=False)
class ResponseArrived:
    """An answer to a request of ours; of each 2xx to an INVITE one per To tag."""

    transaction: ClientTransaction
    response: SipResponse


@dataclass(slots=True, eq=False)
class Failed:
    """No answer will come, or (server) an answer of ours did not get through."""

    transaction: ServerTransaction | ClientTransaction
    cause: FailureCause
    text: str


@dataclass(slots=True, eq=False)
class Stray:
    """A response that belongs to no transaction of ours."""

    response: SipResponse


@dataclass(slots=True, eq=False)
class Ended:
    """The transaction is forgotten."""

    transaction: ServerTransaction | ClientTransaction


Action = (
    Send | RequestArrived | AckArrived | CancelArrived | ResponseArrived | Failed | Stray | Ended
)


def server_key(request: SipRequest, method: str) -> ServerKey:
    """Return what a server transaction is found by (RFC 3261 section 17.2.3).

    :param method: the method to look for: INVITE for an ACK or a CANCEL.
    :raises SipParseError: if Via, From, Call-ID or CSeq cannot be read.
    """
    via = request.via
    branch = via.branch
    if branch.startswith("z9hG4bK"):
        return (branch, via.host, str(via.port), method)
    # RFC 2543: no unique branch.  Without the To tag, for the ACK has one that the INVITE lacks.
    return (
        via.text,
        request.call_id,
        request.from_tag,
        str(request.cseq.number),
        request.uri_text,
        method,
    )


def fallback_tag(request: SipRequest) -> str:
    """Return a To tag that depends on the request alone (RFC 3261 section 8.2.7)."""
    seed = f"{request.call_id}\0{request.from_tag}\0{request.cseq.number}"
    return f"{crc32(seed.encode('utf-8', 'surrogateescape')):08x}"
