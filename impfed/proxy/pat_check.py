"""Whether each advertised address leads to the node that advertises it: the node calls itself.

Each call is a connection of its own to an advertised address, with an OPTIONS that carries a number
that only this node knows and a signature that only a node with the same relay secret can make.  If
the number comes in at this node, the address leads here, to the listener where it came in.  A node of ours
that gets the call in its place says who it is, signed.  Nobody else is told anything.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from impfed.config.model import Config, ListenerConfig
from impfed.core.errors import LocalError
from impfed.core.hosts import bracketed
from impfed.core.ids import IdSource
from impfed.core.timers import Timer
from impfed.routing.neighbours import Neighbours
from impfed.sip.message import OutgoingRequest, SipRequest, SipResponse
from impfed.sip.relay_token import RelayTokens
from impfed.sip.transaction import FailureCause, ServerTransaction
from impfed.transport.dispatch import ALLOW
from impfed.transport.flow import Flow
from impfed.transport.identity import NOBODY
from impfed.transport.pool import Target
from impfed.transport.sip import SipStack
from impfed.transport.stream import StreamFlow

#: Header of the call: the number and its signature.
CALL = "Impfed-Check"

#: Header of a node's answer: its name, the listener where the call came in, and the signature.
ANSWER = "Impfed-Node"

#: Seconds that an answer may take.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """An address that peers are told.

    :ivar node: name of the node that it has to lead to; "" for any node of ours.
    :ivar listener: name of this node's listener that it has to lead to; "" for a neighbour's.
    :ivar target: where it has to be mapped to, as host:port; "" when it is not known.
    :ivar transports: what may be spoken there, the likeliest first.
    """

    host: str
    port: int
    node: str
    listener: str
    target: str
    transports: tuple[str, ...]

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(slots=True, eq=False)
class _Call:
    """One address being called.

    :ivar arrived: the listener of this node where the call came in.
    """

    address: Address
    done: Callable[[dict[str, Any]], None]
    transport: str
    left: list[str]
    nonce: str = ""
    arrived: str | None = None
    flow: Flow | None = None
    timer: Timer | None = None
    failure: str = ""


@dataclass(slots=True)
class _Round:
    """One run over all addresses."""

    missing: int
    done: Callable[[list[dict[str, Any]]], None]
    found: dict[int, dict[str, Any]] = field(default_factory=dict)


class PatCheck:
    """Calls the advertised addresses, and answers the calls of other nodes."""

    def __init__(
        self,
        config: Config,
        stack: SipStack,
        neighbours: Neighbours,
        tokens: RelayTokens | None,
        ids: IdSource,
    ) -> None:
        self._node = config.node.name
        self._config = config
        self._stack = stack
        self._neighbours = neighbours
        self._shared = tokens is not None
        # Who ends TLS before this node, and shows partners a certificate for our domains.
        self._upstreams = {*config.node.trusted_upstreams, *config.own_domains}
        self._tokens = tokens or RelayTokens(self._node, ids.token(32).encode("ascii"))
        self._ids = ids
        self._calls: dict[str, _Call] = {}
        self._lane = 0
        stack.probed = self.probed

    def check(self, done: Callable[[list[dict[str, Any]]], None]) -> None:
        """Call every address.

        :param done: called within a few seconds with a dict for each address: ``passes`` says whether
            it is as it should be, ``words`` what to do about it.
        """
        addresses = list(self._addresses())
        if not addresses:
            done([])
        round_ = _Round(len(addresses), done)
        for number, address in enumerate(addresses):
            self._begin(address, number, round_)

    def probed(self, transaction: ServerTransaction, request: SipRequest, flow: Flow) -> bool:
        """Answer a call of a node of ours, this one or another; says whether it was one."""
        nonce, _, signature = (request.get(CALL.lower()) or "").partition("-")
        if not nonce or not hmac.compare_digest(
            signature.encode("utf-8", "replace"), self._tokens.sign("call", nonce).encode("ascii")
        ):
            return False
        call = self._calls.get(nonce)
        if call is not None:
            call.arrived = flow.listener
        words = (self._node, flow.listener)
        signed = self._tokens.sign("answer", nonce, *words)
        value = " ".join((*(quote(word, safe="") or "-" for word in words), signed))
        self._stack.respond(transaction, 200, headers=((ANSWER, value), ("Allow", ALLOW)))
        return True

    # -- what is called ----------------------------------------------------------------------------

    def _addresses(self) -> Iterator[Address]:
        seen: set[tuple[str, int]] = set()
        for listener in self._config.listeners:
            host, port = self._stack.advertised(listener.transport, listener.name)
            bound = self._stack.ports.get(listener.name, listener.port)
            target = f"{bracketed(listener.host)}:{bound}"
            seen.add((host, port))
            yield Address(host, port, self._node, listener.name, target, (listener.transport,))
        for listener in self._config.listeners:
            shared = (listener.contact_host, listener.contact_port)
            if listener.contact_host and shared not in seen:
                seen.add(shared)
                yield Address(*shared, "", "", "", (listener.transport,))
        spoken = {listener.transport for listener in self._config.listeners}
        for neighbour in self._config.neighbours:
            for host, port in neighbour.advertised:
                if (host, port) not in seen:
                    seen.add((host, port))
                    target = f"{bracketed(neighbour.host)}:{neighbour.port}"
                    # What it speaks there is not configured here, but 5060 is SIP in clear for most.
                    likely = ("tcp", "tls") if port % 100 == 60 else ("tls", "tcp")
                    transports = tuple(each for each in likely if each in spoken) or ("udp",)
                    yield Address(host, port, neighbour.name, "", target, transports)

    # -- one call ----------------------------------------------------------------------------------

    def _begin(self, address: Address, number: int, round_: _Round) -> None:
        def done(found: dict[str, Any]) -> None:
            round_.found[number] = found
            round_.missing -= 1
            if not round_.missing:
                round_.done([round_.found[key] for key in sorted(round_.found)])

        call = _Call(address, done, "", list(address.transports))
        if address.transports == ("udp",):
            call.transport = "udp"
            self._end(call, "not checked", "", "only TLS and TCP are called")
            return
        call.timer = self._stack.timers.after(PATIENCE, self._silence, call)
        self._next(call)

    def _next(self, call: _Call) -> None:
        """Call over the next transport that may be spoken there."""
        call.transport = call.left.pop(0)
        self._calls.pop(call.nonce, None)
        call.nonce = self._ids.token()
        self._calls[call.nonce] = call
        address = call.address
        # A lane of its own keeps the call off every connection that stands, and its failure to itself.
        self._lane -= 1
        target = Target(call.transport, address.host, address.port, lane=self._lane)
        call.flow = self._stack.pool.once(target)
        if isinstance(call.flow, StreamFlow):
            call.flow.own_check = True  # nothing that the log need tell
        uri = f"sip:{address};transport={call.transport}"
        call_id, tag = self._ids.call_id(), self._ids.tag()
        headers = (
            ("Max-Forwards", "1"),
            ("From", f"<sip:{address}>;tag={tag}"),
            ("To", f"<sip:{address}>"),
            ("Call-ID", call_id),
            ("CSeq", "1 OPTIONS"),
            (CALL, f"{call.nonce}-{self._tokens.sign('call', call.nonce)}"),
        )
        request = OutgoingRequest("OPTIONS", uri, headers, b"", 1, call_id)
        try:
            self._stack.request(request, call.flow, _Listener(self, call))
        except LocalError as error:
            self._missing(call, str(error))

    def answered(self, call: _Call, response: SipResponse) -> None:
        """Take an answer: see who gave it."""
        if response.status < 200 or call.nonce not in self._calls:
            return
        node, listener = self._who(call, response)
        address = call.address
        where = f"{node}, listener {listener}" if listener else node
        if node == self._node:
            where = f"this node, listener {listener}"
        if not node:
            self._stranger(call, response.status)
        elif not address.node:
            self._end(call, "right", where, "a node of ours, as it should be")
        elif node != address.node or (address.listener and not self._same(address, listener)):
            wanted = f"{self._title(address)} ({address.target})"
            self._end(call, "crossed", where, f"it leads to {where}; map it to {wanted}")
        else:
            self._end(call, "right", where, f"it leads to {self._title(address)}")

    def _stranger(self, call: _Call, status: int) -> None:
        """Somebody answers who does not prove that he knows the relay secret."""
        peer = call.flow.peer if call.flow is not None else NOBODY
        names = peer.names if peer.proven else frozenset()
        subject = peer.subject if names else "without a certificate"
        neighbour = self._neighbours.who(names)
        if not neighbour and not names.isdisjoint(self._upstreams):
            words = f"{subject} answers, which is ours, but tells nothing of what lies behind it"
            self._end(call, "not checked", "an edge or balancer", words)
            return
        who = neighbour or "a stranger"
        proof = "our relay secret" if self._shared else "a relay secret, which is not configured"
        words = f"{who} answers there ({subject}; {status}), but not with {proof}"
        self._end(call, "crossed", who, words)

    def failed(self, call: _Call, text: str) -> None:
        """Take it that no answer will come."""
        if call.nonce not in self._calls:
            return
        flow = call.flow
        call.failure = call.failure or text
        reached = isinstance(flow, StreamFlow) and flow.wire.transport is not None
        if reached and call.left:
            self._next(call)
        else:
            self._missing(call, call.failure, reached)

    def _silence(self, call: _Call) -> None:
        flow = call.flow
        connected = isinstance(flow, StreamFlow) and flow.wire.transport is not None
        what = "connects, but never answers" if connected else "nobody answers"
        self._missing(call, f"{what} within {PATIENCE:g} s", connected)

    def _missing(self, call: _Call, reason: str, reached: bool = False) -> None:
        address = call.address
        if "refused" in reason.lower() and not reached:
            reason = "connection refused"
        target = f" ({address.target})" if address.target else ""
        words = f"{reason}: is it mapped to {self._title(address)}{target}"
        if reached:
            words += ", and does that speak the same transport"
        elif "refused" not in reason:
            words += ", and does the firewall lead connections from inside back in"
        self._end(call, "missing", "nobody", f"{words}?")

    def _end(self, call: _Call, verdict: str, leads_to: str, words: str) -> None:
        self._calls.pop(call.nonce, None)
        if call.timer is not None:
            call.timer.cancel()
        if call.flow is not None:
            call.flow.abort("the mapping has been checked")
        call.done(
            {
                "verdict": verdict,
                "address": str(call.address),
                "transport": call.transport,
                "of": self._title(call.address),
                "leads_to": leads_to,
                "words": words,
                "passes": verdict in ("right", "not checked"),
            }
        )

    # -- who it was --------------------------------------------------------------------------------

    def _who(self, call: _Call, response: SipResponse) -> tuple[str, str]:
        """Return the node of ours that answered and its listener; "" for none that can prove it."""
        if call.arrived is not None:
            return self._node, call.arrived
        words = (response.get(ANSWER.lower()) or "").split(" ")
        if len(words) != 3:
            return "", ""
        node, listener = (unquote(word) for word in words[:2])
        listener = "" if words[1] == "-" else listener
        signed = self._tokens.sign("answer", call.nonce, node, listener)
        if not hmac.compare_digest(words[2].encode("utf-8", "replace"), signed.encode("ascii")):
            return "", ""
        return node, listener

    def _same(self, address: Address, listener: str) -> bool:
        """Whether a listener of this node tells peers this very address."""
        told = {each.name: each for each in self._config.listeners}
        found: ListenerConfig | None = told.get(listener)
        if found is None:
            return False
        return self._stack.advertised(found.transport, found.name) == (address.host, address.port)

    def _title(self, address: Address) -> str:
        if not address.node:
            return "any node"
        return f"this node, listener {address.listener}" if address.listener else address.node


class _Listener:
    """Hears what becomes of one call's request."""

    __slots__ = ("_call", "_check", "_nonce")

    def __init__(self, check: PatCheck, call: _Call) -> None:
        self._check = check
        self._call = call
        self._nonce = call.nonce

    def response_arrived(self, transaction: object, response: SipResponse) -> None:
        """Hand an answer on."""
        if self._call.nonce == self._nonce:
            self._check.answered(self._call, response)

    def request_failed(self, transaction: object, cause: FailureCause, text: str) -> None:
        """Hand a failure on."""
        if self._call.nonce == self._nonce:
            self._check.failed(self._call, text)
