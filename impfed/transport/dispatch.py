"""How the SIP transport acts: sends, keeps the timers of transactions, tells their users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort

from impfed.config.model import ListenerConfig
from impfed.core.errors import LocalError, RemoteError
from impfed.core.hosts import bracketed
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.sip.dialog import TARGET_REFRESH
from impfed.sip.errors import SipParseError
from impfed.sip.headers import parse_name_addr
from impfed.sip.message import OutgoingRequest, SipRequest, response_bytes
from impfed.sip.relay_token import RelayTokens
from impfed.sip.target import Hop
from impfed.sip.transaction import (
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
    State,
    Stray,
    Transactions,
)
from impfed.sip.uri import SipUri
from impfed.transport.datagram import DatagramListener
from impfed.transport.flow import Flow, FlowOwner, NoFlow, SipLimits
from impfed.transport.listen import Incoming
from impfed.transport.pool import Pool, Target
from impfed.transport.stream import StreamFlow
from impfed.transport.timers import ReactorTimers
from impfed.transport.tls import TlsStore

log = EventLog("impfed.sip")

#: Methods that a gateway serves, for Allow.
ALLOW = "INVITE, ACK, CANCEL, BYE, MESSAGE, INFO, SUBSCRIBE, NOTIFY, OPTIONS"

#: States of a client transaction in which no final answer has come.
WAITING = frozenset(
    (State.CALLING, State.TRYING, State.PROCEEDING, State.CANCEL_WAITING, State.CANCELLING)
)

#: States in which nothing has come back yet.
_UNANSWERED = frozenset((State.NEW, State.CALLING, State.TRYING))

_PORTS = {"tls": 5061, "tcp": 5060, "udp": 5060}

Headers = Sequence[tuple[str, str]]


class Dispatch(Service, FlowOwner):
    """The half of a :class:`~impfed.transport.sip.SipStack` that acts.

    It carries out what the transaction layer asks for.  Malformed requests and ``NEGOTIATE`` are
    answered here.

    :ivar tokens: writes into our Contacts and branches which node they are of; None for nobody.
    :ivar hosts: hosts that peers are told for local domains that have one of their own.
    :ivar certificates: certificates of local domains that have one of their own.
    :ivar named: what the trace calls a connection.
    :ivar probed: sees every OPTIONS first, and says whether it has answered it.
    :ivar inside: the way to the machine of ours that a connection was from; None for everybody else.
    """

    tokens: RelayTokens | None = None
    hosts: Mapping[str, str] = MappingProxyType({})
    certificates: Mapping[str, str] = MappingProxyType({})
    probed: Callable[[ServerTransaction, SipRequest, Flow], bool] | None = None
    named: Callable[[Flow], str] = str
    inside: Callable[[Flow], Hop | None] | None = None

    def __init__(
        self,
        reactor: Any,
        listeners: Sequence[ListenerConfig],
        tls: TlsStore,
        ids: IdSource,
        metrics: Metrics,
        tracer: Tracer,
        user: Any = None,
        limits: SipLimits | None = None,
        transactions: Transactions | None = None,
        allow: str = ALLOW,
        upstreams: Iterable[str] = (),
    ) -> None:
        self.user = user
        self.limits = limits or SipLimits()
        self.timers = ReactorTimers(reactor)
        self.upstreams = frozenset(upstreams)
        self.ports: dict[str, int] = {}
        self.transactions = Transactions() if transactions is None else transactions
        self.incoming = Incoming(self)
        self.pool = Pool(self, reactor, tls, ids)
        self._reactor = reactor
        self._listeners = {listener.name: listener for listener in listeners}
        self._tls = tls
        self._ids = ids
        self._metrics = metrics
        self._tracer = tracer
        self._allow = allow
        self._open_ports: list[IListeningPort] = []
        self._datagrams: dict[str, DatagramListener] = {}
        self._dirty: list[StreamFlow] = []
        self._failing: list[tuple[ServerTransaction | ClientTransaction, str]] = []
        self._late: list[Failed] = []
        self._turn: IDelayedCall | None = None
        self._wake: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._over = False
        self._arriving: Flow | None = None
        self._perform_one: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            RequestArrived: self._request_arrived,
            AckArrived: self._ack_arrived,
            CancelArrived: self._cancel_arrived,
            ResponseArrived: self._response_arrived,
            Failed: self._failed,
            Stray: self._stray,
            Ended: self._ended,
        }

    def respond(
        self,
        transaction: ServerTransaction,
        status: int,
        reason: str = "",
        to_tag: str = "",
        headers: Headers = (),
        body: bytes = b"",
    ) -> None:
        """Answer a request.

        :param to_tag: our tag, for answers that make a dialog; a stable one is used if empty.
        :raises LocalError: on line breaks in anything given.
        """
        request, tag = transaction.request, to_tag
        if not tag and status > 100 and not request.to_tag:
            tag = transaction.fallback_tag
        if headers and self.tokens is not None:
            headers = self._told(headers, request.call_id, request.to_tag or to_tag)
        data = response_bytes(request, status, reason, tag, headers, body)
        self._perform(self.transactions.respond(transaction, status, data, self._reactor.seconds()))

    def advertised(self, transport: str, listener: str = "", domain: str = "") -> tuple[str, int]:
        """Return host and port that peers are told for a transport.

        :param listener: name of the listener to tell of; the transport's first one if empty.
        :param domain: the local domain that it is told for.
        :raises LocalError: when there is no listener for it.
        """
        host, port = self._advertised(self._listener(transport, listener))
        return self.hosts.get(domain, host), port

    def _listener(self, transport: str, listener: str) -> ListenerConfig:
        if listener in self._listeners:
            return self._listeners[listener]
        for config in self._listeners.values():
            if config.transport == transport:
                return config
        raise LocalError(f"there is no {transport} listener whose address could be advertised")

    # Relay tokens

    def _marked(self, request: OutgoingRequest) -> OutgoingRequest:
        """Return a request of ours whose Contact says which node it belongs to."""
        if request.method not in TARGET_REFRESH:  # no other of our requests has a Contact
            return request
        sender = next((value for name, value in request.headers if name == "From"), "")
        headers = self._told(request.headers, request.call_id, sender.rpartition(";tag=")[2])
        return OutgoingRequest(
            request.method, request.uri, headers, request.body, request.cseq, request.call_id
        )

    def _told(self, headers: Headers, call_id: str, tag: str) -> Headers:
        """Return headers whose Contact, if there is one, holds the dialog's relay token."""
        if self.tokens is None or all(name != "Contact" for name, _ in headers):
            return headers
        now, contact = self._reactor.seconds(), self.tokens.contact
        return [
            (name, contact(value, call_id, tag, now) if name == "Contact" else value)
            for name, value in headers
        ]

    # Sending

    def _flow_to(self, destination: Hop | Flow) -> Flow:
        if isinstance(destination, Flow):
            if not destination.alive and isinstance(destination, StreamFlow):
                target = destination.target
                if target is not None:
                    return self.pool.flow(target)
            return destination
        if destination.transport == "udp":
            for datagrams in self._datagrams.values():
                return datagrams.flow((destination.host, destination.port))
            return NoFlow("udp", (destination.host, destination.port), "there is no UDP listener")
        return self.pool.flow(Target.of_hop(destination), destination.others)

    def _via(self, flow: Flow, branch: str, request: OutgoingRequest) -> str:
        domain = _sender_domain(request) if self.hosts else ""
        host, port = self.advertised(flow.transport, flow.listener, domain)
        more = "" if flow.reliable else ";rport"
        if flow.transport == "tls" and self.offers(flow):
            more = ";alias"
        sent_by = f"{bracketed(host)}:{port}"
        return f"SIP/2.0/{flow.transport.upper()} {sent_by};branch={branch}{more}"

    def offers(self, way: Hop | Flow) -> bool:
        """Say whether the peer may send over a connection of ours, too: one that shows a certificate."""
        target = way.target if isinstance(way, StreamFlow) else None
        hop = way if isinstance(way, Hop) else target
        certain = hop is not None and hop.transport == "tls" and hop.certificate != "none"
        return certain and self.limits.reuse and bool(self._tls.default)

    def _advertised(self, listener: ListenerConfig) -> tuple[str, int]:
        port = listener.advertised_port or self.ports.get(listener.name, listener.port)
        return listener.advertised_host, port

    def _send(self, action: Send) -> None:
        flow: Flow = action.to
        transaction = action.transaction
        if not flow.alive:
            flow = self._instead_of(flow, transaction)
        if self._tracer.watching:
            now = self._reactor.seconds()
            self._tracer.record(now, "sip", False, self.named(flow), action.data)
        if flow.write(action.data) or transaction is None:
            return
        self._metrics.count("sip.send_failures")
        reason = flow.down or "too much waits for the peer already"
        self._fail_later([transaction], f"{flow}: {reason}")

    def _instead_of(
        self, flow: Flow, transaction: ServerTransaction | ClientTransaction | None
    ) -> Flow:
        """Return the flow to use in place of one that is gone.

        A response goes over a new connection to the address that the request came from, port
        of its Via's sent-by (RFC 3261 section 18.2.2); an ACK or a CANCEL to where the INVITE went.
        What a node of ours tells peers in its Via is a public address, which is of no use inside.
        """
        if not isinstance(flow, StreamFlow):
            return flow
        if isinstance(transaction, ServerTransaction):
            self._metrics.count("sip.responses_on_new_connection")
            hop = None if self.inside is None else self.inside(flow)
            if hop is not None:
                return self._flow_to(hop)
            via = transaction.request.via
            port = via.port or _PORTS[flow.transport]
            names: tuple[str, ...] = ()
            if flow.transport == "tls":
                names = tuple(sorted(flow.peer.names)) if flow.peer.proven else (via.host,)
            to = transaction.request.to.uri if self.certificates else None
            certificate = self.certificates.get(to.host, "") if isinstance(to, SipUri) else ""
            place = (flow.transport, flow.remote[0], port)
            return self.pool.flow(Target(*place, names, certificate))
        if transaction is not None and transaction.state not in _UNANSWERED and flow.target:
            return self.pool.flow(flow.target)
        return flow

    def count(self, name: str) -> None:
        """Count an event."""
        self._metrics.count(name)

    def flush_later(self, flow: StreamFlow) -> None:
        """Flush a flow at the end of this reactor turn."""
        self._dirty.append(flow)
        self._want_turn()

    @property
    def tracing(self) -> bool:
        """Whether somebody wants to see every message."""
        return self._tracer.watching

    def rearm(self) -> None:
        """See to the timers of transactions that were not begun through this object."""
        self._arm()

    def _want_turn(self) -> None:
        if self._turn is None and not self._over:
            self._turn = self._reactor.callLater(0, self._end_turn)

    def _end_turn(self) -> None:
        self._turn = None
        dirty, self._dirty = self._dirty, []
        for flow in dirty:
            flow.flush()
        late, self._late = self._late, []
        for action in late:
            self._failed(action)
        if self._failing:
            failing, self._failing = self._failing, []
            now = self._reactor.seconds()
            for transaction, reason in failing:
                self._perform(self.transactions.transport_failed(transaction, now, reason))

    def _fail_later(self, transactions: Sequence[Any], reason: str) -> None:
        """Report transport failures at the end of the turn, when senders know their transactions."""
        self._failing += [(transaction, reason) for transaction in transactions]
        self._want_turn()

    # What the transaction layer asks for

    def _perform(self, actions: Sequence[Action], late: bool = False) -> None:
        for action in actions:
            if late and type(action) is Failed:
                self._late.append(action)
                self._want_turn()
            else:
                self._perform_one[type(action)](action)
        self._arm()

    def _arm(self) -> None:
        """Have one delayed call for all timers of the transaction layer."""
        due = self.transactions.next_timer
        if due is None or self._over:
            return
        wake = self._wake
        if wake is not None:
            if wake.getTime() <= due:
                return
            wake.cancel()
        delay = max(0.0, due - self._reactor.seconds())
        self._wake = self._reactor.callLater(delay, self._timers_due)

    def _timers_due(self) -> None:
        self._wake = None
        self._perform(self.transactions.handle_timers(self._reactor.seconds()))

    def _request_arrived(self, action: RequestArrived) -> None:
        transaction, request = action.transaction, action.request
        self._metrics.count("sip.requests_in")
        if request.method == "NEGOTIATE":
            self._metrics.count("sip.negotiate_refused")
            log.info(
                "negotiate_refused",
                "NEGOTIATE (Microsoft compression) from {peer} answered with 405",
                peer=str(transaction.source),
            )
            self.respond(transaction, 405, headers=(("Allow", self._allow),))
            return
        flow = transaction.source
        if not flow.looked_at and self.limits.reuse:
            self.pool.reuse.offered(flow, request)
        try:
            probed = self.probed if request.method == "OPTIONS" else None
            if probed is not None and probed(transaction, request, transaction.source):
                return
            self.user.request_arrived(transaction, request, transaction.source)
        except RemoteError as error:
            self.respond(transaction, error.status, error.reason, headers=error.headers)
        except Exception:  # a fault of ours gets 500 (below)
            log.failure(
                "request_failed",
                "{method} could not be handled",
                method=request.method,
                conversation=request.call_id,
            )
            self._metrics.count("sip.internal_errors")
            self.respond(transaction, 500)

    def _ack_arrived(self, action: AckArrived) -> None:
        flow = self._arriving
        if flow is None and action.transaction is not None:
            flow = action.transaction.source
        self._tell("ack_arrived", action.request, action.transaction, flow)

    def _cancel_arrived(self, action: CancelArrived) -> None:
        self._tell("cancel_arrived", action.transaction, action.request)

    def _stray(self, action: Stray) -> None:
        self._metrics.count("sip.stray_responses")
        self._tell("stray_response", action.response, self._arriving)

    def _response_arrived(self, action: ResponseArrived) -> None:
        self._metrics.count("sip.responses_in")
        transaction = action.transaction
        self._guard(transaction.user.response_arrived, transaction, action.response)

    def _failed(self, action: Failed) -> None:
        transaction = action.transaction
        self._metrics.count("sip.transactions_failed")
        if isinstance(transaction, ClientTransaction):
            self._guard(transaction.user.request_failed, transaction, action.cause, action.text)
            if action.cause is FailureCause.TIMEOUT:
                transaction.destination.unanswered()
        elif action.cause is FailureCause.NO_ACK:
            self._tell("no_ack", transaction)
        else:
            log.warn(
                "answer_not_sent",
                "an answer to {method} could not be sent: {reason}",
                method=transaction.request.method,
                reason=action.text,
                conversation=transaction.request.call_id,
            )

    def _ended(self, action: Ended) -> None:
        transaction = action.transaction
        if isinstance(transaction, ClientTransaction):
            transaction.destination.transactions.pop(transaction, None)

    def _tell(self, method: str, *arguments: object) -> None:
        self._guard(getattr(self.user, method), *arguments)

    def _guard(self, call: Callable[..., None], *arguments: object) -> None:
        """Call the transaction user; its faults are logged and go no further."""
        try:
            call(*arguments)
        except Exception:  # it must not cost the connection
            self._metrics.count("sip.internal_errors")
            log.failure("user_failed", "what arrived could not be handled")

    # What is wrong

    def _malformed(self, flow: Flow, error: SipParseError) -> None:
        """Answer a malformed request if that can be done; close the connection if it must be."""
        self._metrics.count("sip.malformed")
        answered = isinstance(error.head, SipRequest) and error.head.method != "ACK"
        log.warn(
            "malformed",
            "malformed SIP from {peer}: {reason} ({outcome})",
            peer=str(flow),
            reason=str(error),
            outcome=("answered" if answered else "not answered")
            + (", connection closed" if error.close and flow.reliable else ""),
        )
        if answered and isinstance(error.head, SipRequest):
            data = response_bytes(
                error.head, error.status, error.reason, self._ids.tag(), error.headers
            )
            self._send(Send(data, flow, None))
        if error.close and isinstance(flow, StreamFlow):
            flow.close(f"malformed SIP: {error}")


def _sender_domain(request: OutgoingRequest) -> str:
    uri = parse_name_addr(request.get("From") or "").uri
    return uri.host if isinstance(uri, SipUri) else ""
