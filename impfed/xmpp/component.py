"""The component protocol of XEP-0114, our side, as a state machine without IO."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import sha1
from xml.etree.ElementTree import Element

from impfed.core.errors import LocalError
from impfed.xmpp.reader import (
    NS_COMPONENT,
    NS_STREAM_ERRORS,
    NS_STREAMS,
    BadStanza,
    ReaderLimits,
    StanzaReader,
    StreamEnd,
    StreamError,
    StreamHeader,
    StreamItem,
    XmppStreamError,
)
from impfed.xmpp.stanza import Stanza
from impfed.xmpp.xmltext import xml_attr, xml_text

#: Seconds from the connection to the end of the handshake.
HANDSHAKE_TIMEOUT = 30.0

_HANDSHAKE = f"{{{NS_COMPONENT}}}handshake"


class State(Enum):
    """Where the stream stands."""

    HEADER = "waiting for the stream header"
    HANDSHAKE = "waiting for the answer to the handshake"
    OPEN = "open"
    CLOSED = "closed"


class Input(Enum):
    """What can happen to it."""

    HEADER = "stream header"
    HANDSHAKE = "handshake"
    STANZA = "stanza"
    ELEMENT = "unknown element"
    ERROR = "stream error"
    END = "end of stream"
    BROKEN = "rules of the stream broken"
    TIMEOUT = "time-out"
    LOST = "connection lost"
    CLOSE = "closed by us"


class Action(Enum):
    """What is then done."""

    IGNORE = "ignore"
    AUTHENTICATE = "send the handshake"
    OPENED = "report the stream open"
    DELIVER = "hand the stanza over"
    PEER_ERROR = "report the peer's stream error"
    PEER_END = "answer the end of stream"
    BREAK = "send a stream error"
    GIVE_UP = "report the time-out"
    GONE = "report the connection lost"
    FINISH = "end the stream"


_CLOSED = State.CLOSED

_ENDINGS = {
    Input.ERROR: (_CLOSED, Action.PEER_ERROR),
    Input.END: (_CLOSED, Action.PEER_END),
    Input.BROKEN: (_CLOSED, Action.BREAK),
    Input.LOST: (_CLOSED, Action.GONE),
    Input.CLOSE: (_CLOSED, Action.FINISH),
}

#: The machine: state, then input, gives the next state and the action.
TABLE: dict[State, dict[Input, tuple[State, Action]]] = {
    State.HEADER: {
        **_ENDINGS,
        Input.HEADER: (State.HANDSHAKE, Action.AUTHENTICATE),
        # The reader gives nothing before a header, so these two would be faults of ours.
        Input.STANZA: (_CLOSED, Action.BREAK),
        Input.ELEMENT: (_CLOSED, Action.BREAK),
        Input.TIMEOUT: (_CLOSED, Action.GIVE_UP),
    },
    State.HANDSHAKE: {
        **_ENDINGS,
        Input.HANDSHAKE: (State.OPEN, Action.OPENED),
        Input.STANZA: (_CLOSED, Action.BREAK),  # nothing may come before the handshake
        Input.ELEMENT: (State.HANDSHAKE, Action.IGNORE),  # stream features, say
        Input.TIMEOUT: (_CLOSED, Action.GIVE_UP),
    },
    State.OPEN: {
        **_ENDINGS,
        Input.HANDSHAKE: (State.OPEN, Action.IGNORE),
        Input.STANZA: (State.OPEN, Action.DELIVER),
        Input.ELEMENT: (_CLOSED, Action.BREAK),
        Input.TIMEOUT: (State.OPEN, Action.IGNORE),
    },
    State.CLOSED: dict.fromkeys(Input, (_CLOSED, Action.IGNORE)),
}


@dataclass(frozen=True, slots=True)
class Opened:
    """The handshake is done: stanzas may pass."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The stream is over; the connection is to be closed once the output is written.

    :ivar condition: stream error condition, "" if there was none.
    :ivar text: words that came with it.
    :ivar by_us: whether it was we who found fault, or closed it.
    """

    condition: str
    text: str
    by_us: bool


Event = Stanza | BadStanza | Opened | Closed


class ComponentStream:
    """One XEP-0114 stream to a home server, from connection to end.

    After every call, :meth:`output` is what is to be written.

    :param domain: domain that the component answers for.
    :param secret: secret shared with the home server.
    """

    def __init__(self, domain: str, secret: str, limits: ReaderLimits | None = None) -> None:
        self.domain = domain
        self.state = State.HEADER
        self._secret = secret
        self._reader = StanzaReader(NS_COMPONENT, limits)
        self._output: list[str] = []
        self._events: list[Event] = []
        self._deadline: float | None = None

    def output(self) -> bytes:
        """Take what is to be written."""
        data = "".join(self._output).encode()
        self._output.clear()
        return data

    @property
    def next_timer(self) -> float | None:
        """When :meth:`handle_timers` wants to be called."""
        return self._deadline

    def connected(self, now: float) -> None:
        """Begin: the connection stands."""
        self._deadline = now + HANDSHAKE_TIMEOUT
        self._output.append(
            f"<?xml version='1.0'?><stream:stream xmlns='{NS_COMPONENT}'"
            f" xmlns:stream='{NS_STREAMS}' to='{xml_attr(self.domain)}'>"
        )

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take octets; return what has come of them, in order."""
        events: list[Event] = []
        self._events = events
        try:
            items = self._reader.feed(data)
        except XmppStreamError as error:
            self._take(error.items)
            self._step(Input.BROKEN, (error.condition, error.text))
            return events
        self._take(items)
        return events

    def handle_timers(self, now: float) -> list[Event]:
        """Let time pass."""
        self._events = []
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._step(Input.TIMEOUT, None)
        return self._events

    def connection_lost(self, reason: str) -> list[Event]:
        """Take note that the connection is gone."""
        self._events = []
        self._step(Input.LOST, reason)
        return self._events

    def close(self) -> list[Event]:
        """End the stream in good order."""
        self._events = []
        self._step(Input.CLOSE, None)
        return self._events

    def _take(self, items: list[StreamItem]) -> None:
        for item in items:
            if isinstance(item, Stanza) and self.state is State.OPEN:
                self._events.append(item)
            else:
                self._step(_input_of(item), item)

    def _step(self, given: Input, item: object) -> None:
        try:
            state, action = TABLE[self.state][given]
        except KeyError:
            raise LocalError(f"{given.value} not foreseen while {self.state.value}") from None
        before, self.state = self.state, state
        if state is State.CLOSED or state is State.OPEN:
            self._deadline = None
        _ACTIONS[action](self, given, item, before)

    def _ignore(self, given: Input, item: object, before: State) -> None:
        pass

    def _authenticate(self, given: Input, item: object, before: State) -> None:
        assert isinstance(item, StreamHeader)
        digest = sha1((item.id + self._secret).encode()).hexdigest()
        self._output.append(f"<handshake>{digest}</handshake>")

    def _opened(self, given: Input, item: object, before: State) -> None:
        self._events.append(Opened())

    def _deliver(self, given: Input, item: object, before: State) -> None:
        assert isinstance(item, Stanza | BadStanza)
        self._events.append(item)

    def _peer_error(self, given: Input, item: object, before: State) -> None:
        assert isinstance(item, StreamError)
        self._output.append("</stream:stream>")
        self._events.append(Closed(item.condition, item.text, False))

    def _peer_end(self, given: Input, item: object, before: State) -> None:
        self._output.append("</stream:stream>")
        self._events.append(Closed("", "the home server ended the stream", False))

    def _break(self, given: Input, item: object, before: State) -> None:
        if isinstance(item, tuple):
            condition, text = item
        elif before is State.OPEN:
            condition, text = "unsupported-stanza-type", "no message, presence or iq"
        else:
            condition, text = "not-authorized", "stanza before the handshake"
        self._output.append(
            f"<stream:error><{condition} xmlns='{NS_STREAM_ERRORS}'/>"
            f"<text xmlns='{NS_STREAM_ERRORS}'>{xml_text(text)}</text></stream:error>"
            "</stream:stream>"
        )
        self._events.append(Closed(condition, text, True))

    def _give_up(self, given: Input, item: object, before: State) -> None:
        self._output.append(
            f"<stream:error><connection-timeout xmlns='{NS_STREAM_ERRORS}'/></stream:error>"
            "</stream:stream>"
        )
        self._events.append(Closed("connection-timeout", "no answer to the handshake", True))

    def _gone(self, given: Input, item: object, before: State) -> None:
        self._events.append(Closed("", str(item), False))

    def _finish(self, given: Input, item: object, before: State) -> None:
        self._output.append("</stream:stream>")
        self._events.append(Closed("", "closed by this node", True))


_ACTIONS = {
    Action.IGNORE: ComponentStream._ignore,
    Action.AUTHENTICATE: ComponentStream._authenticate,
    Action.OPENED: ComponentStream._opened,
    Action.DELIVER: ComponentStream._deliver,
    Action.PEER_ERROR: ComponentStream._peer_error,
    Action.PEER_END: ComponentStream._peer_end,
    Action.BREAK: ComponentStream._break,
    Action.GIVE_UP: ComponentStream._give_up,
    Action.GONE: ComponentStream._gone,
    Action.FINISH: ComponentStream._finish,
}


def _input_of(item: StreamItem) -> Input:
    if isinstance(item, Stanza | BadStanza):
        return Input.STANZA
    if isinstance(item, StreamHeader):
        return Input.HEADER
    if isinstance(item, StreamError):
        return Input.ERROR
    if isinstance(item, StreamEnd):
        return Input.END
    if isinstance(item, Element) and item.tag == _HANDSHAKE:
        return Input.HANDSHAKE
    return Input.ELEMENT


_WORDS = {
    "not-authorized": (
        'the secret is wrong: the home server\'s component_secret for "{domain}" and the secret'
        " in our configuration differ (ejabberd says the same of a component that it does not have)"
    ),
    "conflict": (
        'another connection holds the component "{domain}": a second node with the same'
        " configuration, or an old connection that the home server has not noticed gone"
    ),
    "host-unknown": (
        'the home server has no component "{domain}": its configuration needs Component "{domain}"'
    ),
    "invalid-from": (
        "the home server lets the component speak for its own domain only: set"
        ' validate_from_addresses = false for Component "{domain}"'
    ),
    "invalid-namespace": "this port of the home server is not for components",
    "system-shutdown": "the home server is shutting down",
    "connection-timeout": "the home server did not answer in time",
    "policy-violation": "a limit was exceeded",
}


def explain(closed: Closed, domain: str) -> str:
    """Say in words for the operator why a stream is over, and what to do about it."""
    words = _WORDS.get(closed.condition, "").format(domain=domain)
    if not closed.condition:
        return closed.text
    detail = f"{closed.condition}: {closed.text}" if closed.text else closed.condition
    if closed.by_us and closed.condition != "connection-timeout":
        return f"the home server broke the rules of the stream ({detail})"
    return f"{words} ({detail})" if words else f"stream error {detail}"
