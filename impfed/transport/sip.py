"""The SIP transport of a node: listeners, connections and transactions behind one service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred

from impfed.core.hosts import bracketed
from impfed.core.log import EventLog
from impfed.sip.errors import SipParseError
from impfed.sip.message import (
    OutgoingRequest,
    SipMessage,
    SipRequest,
    SipResponse,
    check_request,
    check_response,
)
from impfed.sip.target import Hop
from impfed.sip.transaction import ClientTransaction, Send, ServerTransaction, State
from impfed.transport.dispatch import ALLOW, WAITING, Dispatch
from impfed.transport.flow import Flow, NoFlow, SipLimits
from impfed.transport.listen import listen
from impfed.transport.sip_user import ISipUser
from impfed.transport.stream import StreamFlow

__all__ = ["ALLOW", "ISipUser", "SipLimits", "SipStack"]

log = EventLog("impfed.sip")


class SipStack(Dispatch):
    """SIP over TLS, TCP and UDP.

    The user of a client transaction (``request``) has two methods: ``response_arrived(transaction,
    response)`` for each answer and ``request_failed(transaction, cause, text)``; one of them is the
    last.  Neither is ever called before :meth:`request` has returned.

    :param listeners: what to listen on; the first of each transport gives the advertised address.
    :param user: provider of :class:`ISipUser`; may be put in its place until the service starts.
    :param limits: time-outs and bounds.
    :param upstreams: certificate names of load balancers that are believed about who is behind them.
    :ivar ports: bound port of each listener by its name, once started.
    :ivar closed: called with each connection that was open and is gone; None for nobody.
    """

    name = "sip"
    closed: Callable[[Flow], None] | None = None

    # For the transaction user

    def request(
        self, request: OutgoingRequest, destination: Hop | Flow, user: object
    ) -> ClientTransaction:
        """Send a request (not ACK, not CANCEL) and tell its user what comes of it.

        :param destination: a next hop, or the flow of a dialog.
        :raises LocalError: when the request cannot be written, or no listener is named in its Via.
        """
        flow = self._flow_to(destination)
        branch = self._ids.branch()
        if self.tokens is not None:
            branch = branch + self.tokens.mark
            data = self._marked(request).render(self._via(flow, branch, request))
        else:
            data = request.render(self._via(flow, branch, request))
        transaction, actions = self.transactions.send_request(
            data, request, branch, flow, flow.reliable, self._reactor.seconds(), user
        )
        if transaction.state in WAITING:
            flow.transactions[transaction] = None
        self._perform(actions, late=True)
        return transaction

    def forward(
        self,
        request: OutgoingRequest,
        data: bytes,
        branch: str,
        destination: Hop | Flow,
        user: object,
    ) -> ClientTransaction:
        """Send a forwarded request; its user is told of every answer as that of :meth:`request` is.

        :param request: method, URI and the headers that its ACK and CANCEL repeat.
        :param data: the octets, with our Via on top.
        :param branch: the branch of that Via.
        """
        flow = self._flow_to(destination)
        transaction, actions = self.transactions.send_request(
            data, request, branch, flow, flow.reliable, self._reactor.seconds(), user, True
        )
        if transaction.state in WAITING:
            flow.transactions[transaction] = None
        self._perform(actions, late=True)
        return transaction

    def relay(self, transaction: ServerTransaction, status: int, data: bytes) -> None:
        """Send a forwarded response.

        :param data: the octets, without our Via.
        """
        if transaction.state is State.ACCEPTED:
            # The first 2xx has ended the transaction's part; others just pass (RFC 6026 section 7.1).
            self._perform([Send(data, transaction.source, transaction)])
            return
        now = self._reactor.seconds()
        self._perform(self.transactions.respond(transaction, status, data, now))

    def send(self, data: bytes, destination: Hop | Flow) -> None:
        """Send octets without any transaction: a forwarded ACK."""
        self._perform([Send(data, self._flow_to(destination), None)])

    def acknowledge(
        self,
        transaction: ClientTransaction,
        response_to_tag: str,
        ack: OutgoingRequest,
        destination: Hop | Flow,
    ) -> None:
        """Send the ACK of a 2xx, now and for each repetition of that 2xx.

        :param response_to_tag: To tag of the 2xx.
        """
        flow = self._flow_to(destination)
        data = ack.render(self._via(flow, self._ids.branch(), ack))
        self._perform(
            self.transactions.acknowledge(
                transaction, response_to_tag, data, flow, self._reactor.seconds()
            )
        )

    def cancel(self, transaction: ClientTransaction) -> None:
        """Cancel an INVITE of ours; its final answer, mostly 487, still comes."""
        self._perform(self.transactions.cancel(transaction, self._reactor.seconds()), late=True)

    def contact(self, user: str, transport: str, listener: str = "", domain: str = "") -> str:
        """Return our Contact value for a user (escaped as on the wire; "" for none).

        :param listener: name of the listener to tell of; the transport's first one if empty.
        :param domain: the user's domain.
        """
        chosen = self._listener(transport, listener)
        host, port = self._advertised(chosen)
        if chosen.contact_host:
            host, port = chosen.contact_host, chosen.contact_port
        host = self.hosts.get(domain, host)
        at = f"{user}@" if user else ""
        return f"<sip:{at}{bracketed(host)}:{port};transport={transport}>"

    @staticmethod
    def maybe_delivered(transaction: ClientTransaction) -> bool:
        """Whether a failed request may have reached the peer all the same."""
        flow = transaction.destination
        if isinstance(flow, StreamFlow):
            return flow.opened is not None and not flow.refused
        return not isinstance(flow, NoFlow)

    def status(self) -> list[dict[str, object]]:
        """Return a line about each connection."""
        return [
            {
                "peer": str(flow),
                "direction": "out" if flow.target is not None else "in",
                "state": flow.state.value,
                "listener": flow.listener,
                "names": sorted(flow.peer.names),
                "proven": flow.peer.proven,
                "certificate": flow.peer.subject,
                "pending": len(flow.transactions),
            }
            for flow in (*self.incoming.flows, *self.pool.flows)
        ]

    # Service

    def startService(self) -> None:
        """Open the listeners.

        :raises twisted.internet.error.CannotListenError: when an address is not to be had.
        """
        self._over = False
        self.pool.start()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        self._tls.start()
        for listener in self._listeners.values():
            port, datagrams = listen(self._reactor, self, self.incoming, self._tls, listener)
            self._open_ports.append(port)
            self.ports[listener.name] = port.getHost().port  # type: ignore[attr-defined]  # an IP address, never a path
            if datagrams is not None:
                self._datagrams[listener.name] = datagrams

    def stopService(self) -> Deferred[Any]:
        """Close listeners and connections; fires when all are gone."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        self._tls.stop()
        self.pool.stop()
        waiting: list[Deferred[Any]] = [
            maybeDeferred(port.stopListening) for port in self._open_ports
        ]
        self._open_ports.clear()
        self._datagrams.clear()
        for flow in (*self.incoming.flows, *self.pool.flows):
            flow.close("this node stops")
        self._stopped = Deferred()
        waiting.append(self._stopped)
        self._end_if_quiet()
        return DeferredList(waiting)

    def _end_if_quiet(self) -> None:
        if self._stopped is None or len(self.incoming) or len(self.pool):
            return
        done, self._stopped = self._stopped, None
        if self._turn is not None:
            self._turn.cancel()
            self._end_turn()  # whose connection is gone learns of it
        self._over = True
        self.timers.stop()
        for call in (self._turn, self._wake):
            if call is not None and call.active():
                call.cancel()
        self._turn = self._wake = None
        done.callback(None)

    # What flows tell

    def flow_secured(self, flow: StreamFlow) -> None:
        """A connection is open."""
        self.count("sip.connections_opened")
        self.incoming.secured(flow)
        self._gauge()
        tell = log.debug if flow.own_check else log.info
        tell(
            "connected",
            "connection {direction} {peer} is open: {subject}",
            direction="from" if flow.target is None else "to",
            peer=str(flow),
            subject=flow.peer.subject,
        )

    def flow_lost(self, flow: StreamFlow, reason: str) -> None:
        """A connection is gone: what waits for an answer over it learns of it."""
        if flow.target is None:
            self.incoming.lost(flow)
            self.pool.reuse.lost(flow)
        else:
            self.pool.lost(flow, reason)
        if flow.silent:
            self._peer_silent(flow, reason)
        self._gauge()
        self._log_loss(flow, reason)
        if flow.opened is not None and self.running and self.closed is not None:
            self.closed(flow)
        hopeless = flow.opened is None or flow.refused or flow.unsent or flow.silent
        hopeless = hopeless or not self.running
        for each in [each for each in flow.transactions if each.parked]:
            each.whole()
        waiting = [each for each in flow.transactions if each.state in WAITING]
        if waiting and hopeless:
            self._fail_later(waiting, f"{flow}: {reason}")
        elif waiting:
            self.timers.after(self.limits.lost_grace, self._fail_unanswered, waiting, reason)
        self._end_if_quiet()

    def _peer_silent(self, flow: StreamFlow, reason: str) -> None:
        """A peer has fallen silent: neither wait for its other connections nor for new ones."""
        self.pool.avoid(flow, reason)
        now = self._reactor.seconds()
        for other in (*self.incoming.flows, *self.pool.flows):
            same = other.remote[0] == flow.remote[0] and other.peer.names == flow.peer.names
            if same and other.alive and 0 < other.patience <= now - other.last_heard:
                other.silent = True
                other.abort(reason)

    def message_arrived(self, message: SipMessage, flow: Flow) -> None:
        """A message came: give it to its transaction, and its user what follows."""
        now = self._reactor.seconds()
        if self._tracer.watching:
            self._tracer.record(now, "sip", True, self.named(flow), message.to_bytes())
        self._arriving = flow
        try:
            if isinstance(message, SipRequest):
                check_request(message)
                actions = self.transactions.receive_request(message, flow, now)
            else:
                assert isinstance(message, SipResponse)
                check_response(message)
                actions = self.transactions.receive_response(message, flow, now)
            self._perform(actions)
        except SipParseError as error:
            self._malformed(flow, error)
        except Exception:
            # A fault of ours must not end a connection that carries a whole partner.
            self.count("sip.internal_errors")
            log.failure("message_failed", "a message from {peer} met a fault", peer=str(flow))
        finally:
            self._arriving = None

    def stream_failed(self, flow: StreamFlow, error: SipParseError) -> None:
        """What comes over a connection is not SIP any more."""
        self._malformed(flow, error)

    def path_lost(self, flow: Flow, reason: str) -> None:
        """Nothing can be sent over a flow that is no connection."""
        self._fail_later(list(flow.transactions), f"{flow}: {reason}")

    def datagram_failed(self, flow: Flow, error: SipParseError) -> None:
        """A datagram was not SIP."""
        self._malformed(flow, error)

    def _fail_unanswered(self, transactions: Sequence[ClientTransaction], reason: str) -> None:
        """Some time after a connection was lost: no answer came over another one either."""
        text = f"the connection was lost before an answer came: {reason}"
        waiting = [
            each
            for each in transactions
            if each.state in WAITING
            and not (each.state is State.PROCEEDING and each.request.method == "INVITE")
        ]
        self._fail_later(waiting, text)

    def _gauge(self) -> None:
        self._metrics.gauge("sip.connections_in", len(self.incoming))
        self._metrics.gauge("sip.connections_out", len(self.pool))

    def _log_loss(self, flow: StreamFlow, reason: str) -> None:
        if flow.target is None and flow.opened is None and flow.probe:
            self.count("sip.probes")
            log.debug("probe", "{peer} came and went without TLS", peer=str(flow))
        elif flow.target is None and flow.opened is None:
            self._metrics.count("sip.connections_not_secured")
            log.warn(
                "not_secured",
                "connection from {peer} refused: {reason}",
                peer=str(flow),
                reason=reason,
            )
        elif flow.opened is not None:
            tell = log.debug if flow.own_check else log.warn if flow.refused else log.info
            tell("lost", "connection with {peer} is over: {reason}", peer=str(flow), reason=reason)
