"""What both directions of presence share: how requests find their way, and states as text."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache, partial
from sys import intern
from typing import Protocol, TypeVar

import msgspec

from impfed.core.errors import LocalError
from impfed.core.log import EventLog
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.address import uri_of
from impfed.interwork.availability import Availability
from impfed.routing.api import Reject, RouteQuery
from impfed.routing.router import Resolution
from impfed.sip.dialog import Dialog
from impfed.sip.message import OutgoingRequest, SipResponse
from impfed.sip.target import Hop
from impfed.sip.transaction import ClientTransaction, FailureCause
from impfed.transport.flow import Flow
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, presence
from impfed.xmpp.xmltext import xml_text

log = EventLog("impfed.gateway")

Value = TypeVar("Value", bound=Hashable)

_NICK = "http://jabber.org/protocol/nick"
#: Resource of the foreign users' presence: an available entity has one (RFC 6121 section 4.2.1).
RESOURCE = "sip"
#: Answers after which the next hop in order is tried.
_NEXT_HOP = frozenset({500, 503, 504})


class RequestUser(Protocol):
    """Whoever wants to know what became of a request."""

    @property
    def elsewhere(self) -> bool:
        """Whether what it is about goes on at another node: then it is not sent here any more."""
        ...

    def response_arrived(self, transaction: object, response: SipResponse) -> None:
        """An answer came; called once more for each provisional one."""
        ...

    def request_failed(self, transaction: object, cause: FailureCause, text: str) -> None:
        """No answer came."""
        ...


class Errand:
    """One request on its way over the hops of a domain, one after the other.

    A request that could not be sent, or that a hop answered with 500, 503 or 504, goes to the next
    hop (RFC 3263 section 4.3).  Its user hears of the last outcome only.

    :param path: the flow of the dialog; used while it lives.
    :ivar flow: where the request went that the partner has answered; None for nowhere.
    """

    __slots__ = ("_around", "_hops", "_user", "flow", "request")

    def __init__(self, around: Surroundings, request: OutgoingRequest, user: RequestUser) -> None:
        self._around = around
        self.request = request
        self._user = user
        self._hops: list[Hop] = []
        self.flow: Flow | None = None

    def start(self, path: Flow | None, local: JID, foreign: JID) -> None:
        """Send the request over a flow that lives, else to where the routes say."""
        routes = [value for name, value in self.request.headers if name == "Route"]
        through = self._around.through(routes, path)
        if through is not None:
            self._send(through)
            return
        if path is not None and path.alive:
            self._send(path)
            return
        query = RouteQuery(self.request.method, str(local), str(foreign))
        self._around.resolve(query, self._resolved)

    def _resolved(self, resolution: Resolution) -> None:
        if isinstance(resolution, Reject):
            self._fail_later(resolution.reason)
            return
        self._hops = list(resolution)
        if not self._hops:
            self._fail_later("no route")
        else:
            self._send(self._hops.pop(0))

    def _send(self, destination: Flow | Hop) -> None:
        if self._user.elsewhere:
            return
        try:
            self._around.stack.request(self.request, destination, self)
        except LocalError as error:
            log.error("unsendable", "a request cannot be sent: {why}", why=str(error))
            self._fail_later(str(error))

    def _fail_later(self, text: str) -> None:
        fail = partial(self._user.request_failed, self, FailureCause.TRANSPORT, text)
        self._around.timers.after(0.0, fail)

    def response_arrived(self, transaction: object, response: SipResponse) -> None:
        """Hand the answer on, or try the next hop."""
        if response.status in _NEXT_HOP and self._hops:
            self._send(self._hops.pop(0))
        else:
            flow = transaction.destination if isinstance(transaction, ClientTransaction) else None
            self.flow = flow if isinstance(flow, Flow) else None
            self._user.response_arrived(self, response)

    def request_failed(self, transaction: object, cause: FailureCause, text: str) -> None:
        """Try the next hop, or hand the failure on."""
        if self._hops:
            self._send(self._hops.pop(0))
        else:
            self._user.request_failed(self, cause, text)


def in_dialog(request: OutgoingRequest) -> bool:
    """Whether a request of ours belongs to a dialog that stood already (RFC 3261 section 12.2.1.1)."""
    return any(name == "To" and ";tag=" in value for name, value in request.headers)


@lru_cache(4096)
def _shared(value: Hashable) -> Hashable:
    return value


def shared(value: Value) -> Value:
    """Return the same object for equal values, such as the routes of a thousand dialogs."""
    return _shared(value)  # type: ignore[return-value]  # lru_cache forgets what type came


def share(dialog: Dialog) -> None:
    """Let a dialog share what it has in common with others: our user, and the way."""
    dialog.local = shared(dialog.local)
    dialog.route_set = shared(dialog.route_set)


def sip_user(uri: str) -> str:
    """Return the user part of a ``sip:`` URI as written, for a Contact."""
    return uri.partition(":")[2].rpartition("@")[0]


def contact_for(around: Surroundings, local: JID, foreign: JID, transport: str) -> str:
    """Return our Contact value for a local user.

    :param transport: "" for the one that the foreign domain's next hop wants.
    :raises LocalError: when there is no listener at all.
    """
    if not transport:
        domain = around.domain(foreign.domain)
        hop = domain.next_hop if domain is not None else None
        transport = hop.transport if hop is not None else "tls"
    outside = around.aliases.to_outside(local)
    user = sip_user(uri_of(outside))
    for choice in (transport, "tls", "tcp"):
        try:
            return intern(around.stack.contact(user, choice, domain=outside.domain))
        except LocalError:  # no listener for it
            continue
    return around.stack.contact(user, "udp", domain=outside.domain)


@lru_cache(4096)
def encode_state(availability: Availability) -> str:
    """Return an availability as text for the store."""
    values = (
        availability.available,
        availability.show,
        availability.status,
        availability.priority,
        availability.display_name,
    )
    return msgspec.json.encode(values).decode("utf-8")


@lru_cache(4096)
def decode_state(text: str) -> Availability | None:
    """Return the availability that :func:`encode_state` wrote, None for "" or anything else."""
    try:
        values = msgspec.json.decode(text.encode(), type=tuple[bool, str, str, int, str])
    except msgspec.MsgspecError:
        return None
    return Availability(*values)


def in_words(availability: Availability | None) -> str:
    """Return an availability in words for an operator."""
    if availability is None:
        return "unknown"
    show = availability.show or "available"
    words = (show if availability.available else "offline", availability.status)
    return " ".join(word for word in words if word)


def presence_of(local: JID, foreign: JID, availability: Availability) -> OutStanza:
    """Return the stanza that shows a foreign user's presence to a local one."""
    return presence(
        local,
        JID(foreign.local, foreign.domain, RESOURCE),
        type="" if availability.available else "unavailable",
        show=availability.show,
        status=availability.status,
        payload=nick(availability.display_name),
    )


def nick(display_name: str) -> str:
    """Return an XEP-0172 nickname element, serialised; "" for no name."""
    return f'<nick xmlns="{_NICK}">{xml_text(display_name)}</nick>' if display_name else ""
