"""What the incoming and the outgoing S2S stream have in common: reading, timers, acknowledgements.

A stream is a state machine without IO.  Octets and the time go in, events come out, and after every
call :meth:`S2SStream.output` is what is to be written.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar
from xml.etree.ElementTree import Element

from impfed.core.errors import LocalError
from impfed.xmpp import dialback
from impfed.xmpp.jid import JID, JidError
from impfed.xmpp.reader import (
    NS_STREAMS,
    BadStanza,
    StanzaReader,
    StreamEnd,
    StreamError,
    StreamHeader,
    StreamItem,
    XmppStreamError,
)
from impfed.xmpp.s2s_acks import Acks
from impfed.xmpp.s2s_parts import (
    CLOSE,
    NS_BIDI,
    NS_BIDI_FEATURE,
    NS_SASL,
    NS_SERVER,
    NS_SM,
    NS_TLS,
    Acknowledged,
    CountWanted,
    NoCertificate,
    PeerCertificate,
    Retry,
    S2SEvent,
    S2SWorld,
    StreamClosed,
    opening,
    stream_error,
)
from impfed.xmpp.stanza import OutStanza, Stanza


class Input(Enum):
    """What can happen to a stream."""

    CONNECTED = "connection made"
    CONNECTED_DIRECT = "connection made, TLS first"
    SECURED = "TLS begun"
    HEADER = "stream header"
    FEATURES = "stream features"
    STARTTLS = "request for TLS"
    PROCEED = "TLS agreed to by the peer"
    TLS_FAILURE = "TLS refused by the peer"
    AUTH = "SASL request"
    SASL_SUCCESS = "SASL success"
    SASL_FAILURE = "SASL failure"
    SASL_OTHER = "other SASL element"
    RESULT = "dialback request"
    RESULT_ANSWER = "answer to a dialback request"
    VERIFY = "question for a dialback key"
    VERIFY_ANSWER = "answer about a dialback key"
    BIDI = "request for both directions"
    ENABLE = "acknowledgements wanted"
    ENABLED = "acknowledgements agreed to"
    SM_FAILED = "acknowledgements refused"
    RESUME = "resumption wanted"
    ACK_REQUEST = "count wanted"
    ACK = "count"
    STANZA = "stanza"
    BAD_STANZA = "stanza with bad addresses"
    ELEMENT = "unknown element"
    ERROR = "stream error"
    END = "end of stream"
    BROKEN = "rules of the stream broken"
    TIMEOUT = "negotiation took too long"
    SILENT = "no acknowledgement came"
    LOST = "connection lost"
    CLOSE = "closed by us"
    # What an action decides.
    DENIED = "request for TLS denied"
    REFUSED = "refused by us"
    PROVEN = "pair proven"
    VERDICT = "answer of the authoritative server"
    GO_TLS = "TLS chosen"
    GO_SASL = "SASL EXTERNAL chosen"
    GO_DIALBACK = "dialback chosen"
    GO_OPEN = "nothing left to negotiate"


_TAGS = {
    f"{{{NS_STREAMS}}}features": Input.FEATURES,
    f"{{{NS_TLS}}}starttls": Input.STARTTLS,
    f"{{{NS_TLS}}}proceed": Input.PROCEED,
    f"{{{NS_TLS}}}failure": Input.TLS_FAILURE,
    f"{{{NS_SASL}}}auth": Input.AUTH,
    f"{{{NS_SASL}}}success": Input.SASL_SUCCESS,
    f"{{{NS_SASL}}}failure": Input.SASL_FAILURE,
    f"{{{NS_SASL}}}challenge": Input.SASL_OTHER,
    f"{{{NS_SASL}}}response": Input.SASL_OTHER,
    f"{{{NS_SASL}}}abort": Input.SASL_OTHER,
    f"{{{NS_BIDI}}}bidi": Input.BIDI,
    f"{{{NS_BIDI_FEATURE}}}bidi": Input.BIDI,  # the wrong namespace, sent all the same
    f"{{{NS_SM}}}enable": Input.ENABLE,
    f"{{{NS_SM}}}enabled": Input.ENABLED,
    f"{{{NS_SM}}}failed": Input.SM_FAILED,
    f"{{{NS_SM}}}resume": Input.RESUME,
    f"{{{NS_SM}}}r": Input.ACK_REQUEST,
    f"{{{NS_SM}}}a": Input.ACK,
}


def input_of(item: StreamItem) -> Input:
    """Return what an item of the reader is to a stream."""
    if isinstance(item, Stanza):
        return Input.STANZA
    if isinstance(item, BadStanza):
        return Input.BAD_STANZA
    if isinstance(item, StreamHeader):
        return Input.HEADER
    if isinstance(item, StreamError):
        return Input.ERROR
    if isinstance(item, StreamEnd):
        return Input.END
    if item.tag == dialback.RESULT:
        return Input.RESULT_ANSWER if item.get("type") else Input.RESULT
    if item.tag == dialback.VERIFY:
        return Input.VERIFY_ANSWER if item.get("type") else Input.VERIFY
    return _TAGS.get(item.tag, Input.ELEMENT)


class S2SStream:
    """One stream, incoming or outgoing.

    :ivar state: where it stands.
    :ivar id: the stream id, made by the side that accepted the connection.
    :ivar local: our domain that the stream header names; "" while not known.
    :ivar remote: the peer's domain that it names; not proven by that.
    :ivar secured: whether TLS is on.
    :ivar bidi: whether stanzas may pass both ways.
    :ivar certificate: what the peer has shown.
    :ivar acks: the counting of stanzas.
    :ivar settles: whether the peer's question for our count is handed up, and answered by
        :meth:`tell_count`; else it is answered at once.
    """

    TABLE: ClassVar[dict[Any, dict[Input, tuple[Any, Any]]]]
    CLOSED: ClassVar[Any]
    SECURING: ClassVar[Any]

    def __init__(self, world: S2SWorld, state: Enum) -> None:
        self.state = state
        self.id = ""
        self.local = ""
        self.remote = ""
        self.secured = False
        self.bidi = False
        self.certificate: PeerCertificate = NoCertificate()
        self.acks = Acks()
        self.settles = False
        self._world = world
        self._limits = world.limits
        self._reader = StanzaReader(NS_SERVER, world.limits.unproven)
        self._output: list[str] = []
        self._unwritten: list[OutStanza] = []
        self._events: list[S2SEvent] = []
        self._now = 0.0
        self._heard = 0.0
        self._deadline: float | None = None
        self._receiving: set[tuple[str, str]] = set()  # (remote, local)
        self._header_sent = False
        self._extended = False

    # -- called by the transport ---------------------------------------------------------------

    def connected(self, now: float, direct_tls: bool = False) -> list[S2SEvent]:
        """Begin: the connection stands.

        :param direct_tls: whether TLS is begun at once, before the stream.
        """
        self._begin(now)
        self._deadline = now + self._limits.negotiation
        self._step(Input.CONNECTED_DIRECT if direct_tls else Input.CONNECTED, None)
        return self._events

    def tls_done(self, certificate: PeerCertificate, now: float) -> list[S2SEvent]:
        """Go on: TLS is on, and this is what the peer has shown."""
        self._begin(now)
        self.certificate = certificate
        self._step(Input.SECURED, None)
        return self._events

    def receive(self, data: bytes, now: float) -> list[S2SEvent]:
        """Take octets; return what has come of them, in order."""
        self._begin(now)
        self._heard = now
        events = self._events
        if self.state is self.SECURING:
            return events  # octets in clear where only TLS may come
        reader = self._reader
        try:
            items = reader.feed(data)
        except XmppStreamError as error:
            self._take(error.items)
            # What came in clear after a request for TLS is not read, so it cannot be wrong.
            if self._reader is reader:
                self._step(Input.BROKEN, (error.condition, error.text))
            return events
        self._take(items)
        return events

    def connection_lost(self, words: str, now: float) -> list[S2SEvent]:
        """Take note that the connection is gone."""
        self._begin(now)
        self._step(Input.LOST, words)
        return self._events

    def close(self, now: float, words: str = "closed by this node", condition: str = "") -> Any:
        """End the stream in good order, or with a stream error; returns the events."""
        self._begin(now)
        self._step(Input.CLOSE, (condition, words))
        return self._events

    def handle_timers(self, now: float) -> list[S2SEvent]:
        """Let time pass."""
        self._begin(now)
        if self._deadline is not None and now >= self._deadline:
            if self._still_asking() and not self._extended:
                self._extended = True
                self._deadline = now + self._limits.verification
            else:
                self._step(Input.TIMEOUT, None)
        self._expire(now)
        asked = self.acks.asked_at
        if asked is not None and now >= asked + self._limits.acknowledgement:
            self._step(Input.SILENT, None)
        elif self.acks.sending and now >= self._heard + self._limits.silence:
            self._output.append(self.acks.request(now))
        return self._events

    @property
    def next_timer(self) -> float | None:
        """When :meth:`handle_timers` wants to be called; None for never."""
        due = self._due_times()
        if self._deadline is not None:
            due.append(self._deadline)
        if self.acks.asked_at is not None:
            due.append(self.acks.asked_at + self._limits.acknowledgement)
        elif self.acks.sending:
            due.append(self._heard + self._limits.silence)
        return min(due) if due and self.state is not self.CLOSED else None

    def send(self, stanza: OutStanza) -> None:
        """Put a stanza into the output; its pair must be proven for sending."""
        self._output.append(stanza.xml)
        if self.acks.sending:
            self.acks.waiting.append(stanza)
        else:
            self._unwritten.append(stanza)

    def tell_count(self, count: int, now: float) -> list[S2SEvent]:
        """Answer a :class:`CountWanted`: what was counted then would survive us."""
        self._begin(now)
        if self.state is not self.CLOSED:
            self._output.append(self.acks.answer(count))
        return self._events

    def left(self) -> list[OutStanza]:
        """Take what was sent and surely or possibly has not arrived, oldest first."""
        left, self._unwritten = [*self.acks.left(), *self._unwritten], []
        return left

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """The pairs (remote, local) whose stanzas may come."""
        return frozenset(self._receiving)

    @property
    def room(self) -> bool:
        """Whether more may be sent before the peer acknowledges."""
        return len(self.acks.waiting) < self._limits.unacknowledged

    def output(self, now: float = 0.0) -> bytes:
        """Take what is to be written; after stanzas with a request to acknowledge them."""
        acks = self.acks
        if acks.waiting and acks.asked_at is None and self.state is not self.CLOSED:
            self._output.append(acks.request(now or self._now))
        if not self._output:
            return b""
        self._unwritten.clear()
        data = "".join(self._output).encode("utf-8", "replace")
        self._output.clear()
        return data

    # -- for the two kinds ---------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._now = now
        self._events = []

    def _still_asking(self) -> bool:
        """Whether somebody else's answer is being waited for."""
        return False

    def _due_times(self) -> list[float]:
        """Return the times at which :meth:`_expire` has something to do."""
        return []

    def _expire(self, now: float) -> None:
        """Let go of what has waited too long."""

    def _take(self, items: list[StreamItem]) -> None:
        reader = self._reader
        receiving = self._receiving
        for item in items:
            if (
                type(item) is Stanza
                and (item.from_.domain, item.to.domain) in receiving
                and self.state is not self.CLOSED
            ):
                if self.acks.receiving:
                    self.acks.received()
                self._events.append(item)
                continue
            self._step(input_of(item), item)
            if self._reader is not reader:
                return  # begun anew: what followed in the old stream does not count

    def _step(self, given: Input, item: Any) -> None:
        following: tuple[Input, Any] | None = (given, item)
        while following is not None:
            given, item = following
            try:
                state, action = self.TABLE[self.state][given]
            except KeyError:
                raise LocalError(f"{given.value}: not foreseen while {self.state.value}") from None
            self.state = state
            if state is self.CLOSED:
                self._deadline = None
            following = action(self, item)

    def _restart(self, proven: bool) -> None:
        """Read a new stream on the same connection."""
        limits = self._limits
        self._reader = StanzaReader(NS_SERVER, limits.proven if proven else limits.unproven)
        self._header_sent = False

    def _prove(self, local: str, remote: str) -> None:
        self._deadline = None
        self._receiving.add((remote, local))
        self._reader.relax(self._limits.proven)

    # Actions of both kinds; each returns what follows at once, or None.

    def _ignore(self, item: Any) -> tuple[Input, Any] | None:
        return None

    def _answer_count(self, item: Any) -> tuple[Input, Any] | None:
        if self.settles:
            self._events.append(CountWanted(self.acks.handled))
        else:
            self._output.append(self.acks.answer())
        return None

    def _counted(self, item: Element) -> tuple[Input, Any] | None:
        try:
            taken = self.acks.acknowledged(item.get("h", ""))
        except XmppStreamError as error:
            return Input.BROKEN, (error.condition, error.text)
        if taken:
            self._events.append(Acknowledged(taken))
        return None

    def _no_resumption(self, item: Element) -> tuple[Input, Any] | None:
        self._output.append(f"<failed xmlns='{NS_SM}'/>")
        return None

    def _bad_stanza(self, item: BadStanza) -> tuple[Input, Any] | None:
        """Hand a stanza on that its sender can be told of; else the stream is broken."""
        self.acks.received()
        try:
            pair = (
                JID.parse(_domain_part(item.element.get("from", ""))).domain,
                JID.parse(_domain_part(item.element.get("to", ""))).domain,
            )
        except JidError as error:
            return Input.BROKEN, ("improper-addressing", str(error))
        if pair not in self._receiving:
            return Input.BROKEN, ("invalid-from", f"{pair[0]} is not proven on this stream")
        self._events.append(item)
        return None

    def _unknown(self, item: Element) -> tuple[Input, Any] | None:
        name = item.tag.rpartition("}")[2]
        if name == "compress":
            return Input.BROKEN, ("unsupported-feature", "compression is not offered")
        return Input.BROKEN, ("unsupported-stanza-type", f"{name[:40]} is no stanza")

    def _early(self, item: Any) -> tuple[Input, Any] | None:
        return Input.BROKEN, ("not-authorized", "a stanza before the domain was proven")

    def _break(self, item: tuple[str, str]) -> tuple[Input, Any] | None:
        """End the stream with an error: the peer broke a rule, or we refuse it."""
        condition, words = item
        self._send_header()
        self._output.append(stream_error(condition, words))
        self._finish(condition, words, True)
        return None

    def _time_out(self, item: Any) -> tuple[Input, Any] | None:
        return self._break(("connection-timeout", "the negotiation took too long"))

    def _silent(self, item: Any) -> tuple[Input, Any] | None:
        return self._break(("connection-timeout", "the peer acknowledges nothing any more"))

    def _peer_error(self, item: StreamError) -> tuple[Input, Any] | None:
        self._output.append(CLOSE)
        words = f"{item.condition}: {item.text}" if item.text else item.condition
        self._finish(item.condition, f"the peer ended the stream: {words}", False)
        return None

    def _peer_end(self, item: Any) -> tuple[Input, Any] | None:
        self._send_header()
        self._output.append(CLOSE)
        self._finish("", "the peer ended the stream", False)
        return None

    def _lost(self, item: str) -> tuple[Input, Any] | None:
        self._finish("", item, False)
        return None

    def _close(self, item: tuple[str, str]) -> tuple[Input, Any] | None:
        condition, words = item
        self._send_header()
        self._output.append(stream_error(condition, words) if condition else CLOSE)
        self._finish(condition, words, True)
        return None

    def _close_unopened(self, item: tuple[str, str]) -> tuple[Input, Any] | None:
        self._finish(item[0], item[1], True)
        return None

    def _send_header(self) -> None:
        """An error is sent inside a stream, so that has to be opened (RFC 6120 section 4.9.1.1)."""
        if not self._header_sent:
            self._header_sent = True
            self._output.append(opening(self.local, self.remote, self.id))

    def _finish(self, condition: str, words: str, by_us: bool, retry: Retry = Retry.LATER) -> None:
        self._events.append(StreamClosed(condition, words, by_us, retry))


def _domain_part(text: str) -> str:
    return text.partition("/")[0].rpartition("@")[2]
