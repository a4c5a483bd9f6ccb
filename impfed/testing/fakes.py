"""Doubles of the SIP stack, the home links and flows, for tests of what sits above them.

They record what they are asked, and the test plays the far side: it answers requests, confirms
deliveries and lets things fail, in the order that its story needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from impfed.core.ids import IdSource
from impfed.sip.message import (
    OutgoingRequest,
    SipRequest,
    SipResponse,
    parse_message,
    response_bytes,
)
from impfed.sip.target import Hop
from impfed.sip.transaction import (
    ClientTransaction,
    FailureCause,
    ServerTransaction,
)
from impfed.sip.transaction_parts import server_key
from impfed.sip.transaction_tables import Machine
from impfed.transport.flow import Flow
from impfed.transport.identity import PeerIdentity
from impfed.xmpp.barrier import ACCEPTED, Delivery, not_sent, refused, unsure
from impfed.xmpp.jid import JID
from impfed.xmpp.reader import StanzaReader
from impfed.xmpp.stanza import OutStanza, Stanza

_STREAM = (
    b"<stream:stream xmlns='jabber:component:accept'"
    b" xmlns:stream='http://etherx.jabber.org/streams' id='1'>"
)


def counting_ids() -> IdSource:
    """Return ids that count up from one: unique, and the same in every run."""
    state = [0]

    def octets(count: int) -> bytes:
        state[0] += 1
        return state[0].to_bytes(count, "big") if count >= 4 else bytes(count)

    return IdSource(octets)


def stanza(xml: str) -> Stanza:
    """Return a stanza as a component link would read it."""
    reader = StanzaReader()
    reader.feed(_STREAM)
    (found,) = [each for each in reader.feed(xml.encode()) if isinstance(each, Stanza)]
    return found


class FakeFlow(Flow):
    """A connection that only says what its peer has proven.

    :ivar alive: set it to False to let the connection be gone.
    """

    alive = True

    def __init__(
        self,
        names: Iterable[str] = ("sip.lync.example", "lync.example"),
        transport: str = "tls",
        remote: tuple[str, int] = ("192.0.2.10", 50000),
    ) -> None:
        super().__init__(transport, "test", remote)
        self.peer = PeerIdentity(frozenset(names), True, "CN=test")


class SentRequest:
    """A request that the code under test has sent, waiting for the test's answer."""

    def __init__(self, transaction: ClientTransaction, user: Any, data: bytes) -> None:
        self.transaction = transaction
        self.user = user
        parsed = parse_message(data)
        assert isinstance(parsed, SipRequest)
        self.message = parsed
        self.cancelled = False
        self.maybe_delivered = True

    @property
    def method(self) -> str:
        """The method."""
        return self.message.method

    @property
    def body(self) -> str:
        """The body as text."""
        return self.message.body.decode()

    def answer(
        self,
        status: int,
        reason: str = "",
        *,
        to_tag: str = "far",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        """Let the far side answer."""
        data = response_bytes(self.message, status, reason, to_tag, list(headers), body)
        response = parse_message(data)
        assert isinstance(response, SipResponse)
        self.user.response_arrived(self.transaction, response)

    def accept(self, contact: str = "<sip:romeo@lync.example;opaque=user:epid:x;gruu>") -> None:
        """Let the far side accept: a 200 with a Contact."""
        self.answer(200, headers=[("Contact", contact)])

    def fail(
        self,
        words: str = "connection lost",
        *,
        maybe_delivered: bool = True,
        cause: FailureCause = FailureCause.TRANSPORT,
    ) -> None:
        """Let the request fail without an answer."""
        self.maybe_delivered = maybe_delivered
        self.user.request_failed(self.transaction, cause, words)


class Answer:
    """An answer that the code under test gave."""

    def __init__(self, transaction: ServerTransaction, data: bytes) -> None:
        parsed = parse_message(data)
        assert isinstance(parsed, SipResponse)
        self.transaction = transaction
        self.message = parsed
        self.status = parsed.status


class FakeStack:
    """Stands in for :class:`impfed.transport.sip.SipStack`.

    :ivar sent: requests, oldest first; :meth:`take` removes the oldest.
    :ivar acks: ACKs, parsed.
    :ivar answers: answers, oldest first.
    """

    def __init__(self, host: str = "fed.home.example", port: int = 5061) -> None:
        self.user: Any = None
        self.sent: list[SentRequest] = []
        self.acks: list[SipRequest] = []
        self.answers: list[Answer] = []
        self._all: dict[int, SentRequest] = {}
        self._address = (host, port)
        self._branches = 0

    # what the code under test calls

    def request(
        self, request: OutgoingRequest, destination: Hop | Flow, user: Any
    ) -> ClientTransaction:
        """Record a request."""
        self._branches += 1
        branch = f"z9hG4bKfake{self._branches}"
        data = request.render(f"SIP/2.0/TLS {self._address[0]};branch={branch}")
        transaction = ClientTransaction(request, data, branch, destination, True, user)
        sent = SentRequest(transaction, user, data)
        self.sent.append(sent)
        self._all[id(transaction)] = sent
        return transaction

    def acknowledge(
        self,
        transaction: ClientTransaction,
        response_to_tag: str,
        ack: OutgoingRequest,
        destination: Hop | Flow,
    ) -> None:
        """Record an ACK."""
        parsed = parse_message(ack.render("SIP/2.0/TLS fed;branch=z9hG4bKack"))
        assert isinstance(parsed, SipRequest)
        self.acks.append(parsed)

    def cancel(self, transaction: ClientTransaction) -> None:
        """Record a CANCEL."""
        self._all[id(transaction)].cancelled = True

    def withdraw(self, domain: str, call_id: str) -> int:
        """Say that nothing waits: everything was sent at once."""
        return 0

    def respond(
        self,
        transaction: ServerTransaction,
        status: int,
        reason: str = "",
        to_tag: str = "",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        """Record an answer."""
        tag = to_tag or transaction.fallback_tag
        data = response_bytes(transaction.request, status, reason, tag, list(headers), body)
        self.answers.append(Answer(transaction, data))

    def advertised(self, transport: str, listener: str = "", domain: str = "") -> tuple[str, int]:
        """Return the address that peers are told."""
        return self._address

    def contact(self, user: str, transport: str, listener: str = "", domain: str = "") -> str:
        """Return a Contact value."""
        return f"<sip:{user}@{self._address[0]}:{self._address[1]};transport={transport}>"

    def maybe_delivered(self, transaction: ClientTransaction) -> bool:
        """Say what the test said in :meth:`SentRequest.fail`."""
        return self._all[id(transaction)].maybe_delivered

    # what the test calls

    def take(self, method: str) -> SentRequest:
        """Return the oldest request, which must be of a method, and forget it."""
        assert self.sent, f"no {method} was sent"
        sent = self.sent.pop(0)
        assert sent.method == method, f"{sent.method} was sent where {method} was expected"
        return sent

    def last_answer(self) -> Answer:
        """Return the newest answer."""
        assert self.answers, "nothing was answered"
        return self.answers[-1]

    def receive(self, data: bytes, flow: Flow) -> ServerTransaction:
        """Let a request arrive; an ACK goes to ``ack_arrived``."""
        request = parse_message(data)
        assert isinstance(request, SipRequest)
        machine = Machine.INVITE_SERVER if request.method == "INVITE" else Machine.SERVER
        key = server_key(request, request.method)
        transaction = ServerTransaction(machine, request, flow, True, key)
        if request.method == "ACK":
            self.user.ack_arrived(request, None, flow)
        else:
            self.user.request_arrived(transaction, request, flow)
        return transaction


class FakeHome:
    """Stands in for :class:`impfed.transport.home.HomeLinks`.

    :ivar sent: stanzas sent without confirmation.
    :ivar deliveries: stanzas waiting for the home server's decision, with whom to tell it.
    """

    def __init__(self) -> None:
        self.user: Any = None
        self.relay: Any = None
        self.sent: list[OutStanza] = []
        self.deliveries: list[tuple[OutStanza, Callable[[Delivery], None]]] = []
        self.busy = False
        self.up = True
        self.paused = False

    def send(self, stanza: OutStanza) -> bool:
        """Record a stanza."""
        if self.up:
            self.sent.append(stanza)
        return self.up

    def deliver(self, stanza: OutStanza, done: Callable[[Delivery], None]) -> None:
        """Record a message that waits for a decision."""
        if self.up:
            self.deliveries.append((stanza, done))
        else:
            done(not_sent("recipient-unavailable", "no home link"))

    def congested(self, domain: str, foreign: str = "") -> bool:
        """Say what the test has set."""
        return self.busy

    def can_write_rosters(self, domain: str) -> bool:
        """Say that rosters are the users' own affair."""
        return False

    def pause(self) -> None:
        """Stop reading."""
        self.paused = True

    def resume(self) -> None:
        """Read on."""
        self.paused = False

    def exists(self, user: JID, done: Callable[[Any], None]) -> None:
        """Not used: tests give a directory of their own."""
        raise AssertionError("ask the directory")

    # what the test calls

    def accept(self) -> OutStanza:
        """Let the home server accept the oldest message."""
        stanza, done = self.deliveries.pop(0)
        done(ACCEPTED)
        return stanza

    def refuse(self, condition: str, text: str = "") -> OutStanza:
        """Let the home server refuse the oldest message."""
        stanza, done = self.deliveries.pop(0)
        done(refused(condition, "cancel", text))
        return stanza

    def lose(self) -> OutStanza:
        """Let the link go down before the home server has decided."""
        stanza, done = self.deliveries.pop(0)
        done(unsure("the home link went down"))
        return stanza
