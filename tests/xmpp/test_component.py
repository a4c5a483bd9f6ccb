"""The component handshake of XEP-0114 as a state machine."""

from __future__ import annotations

from hashlib import sha1
from typing import Any

from twisted.trial import unittest

from impfed.core.errors import LocalError
from impfed.xmpp.component import (
    HANDSHAKE_TIMEOUT,
    TABLE,
    Action,
    Closed,
    ComponentStream,
    Input,
    Opened,
    State,
    explain,
)
from impfed.xmpp.stanza import Stanza
from tests.xmpp.test_reader import HEADER

MESSAGE = b"<message from='a@b' to='c@d' id='1'><body>hi</body></message>"
NS = "urn:ietf:params:xml:ns:xmpp-streams"


def stream_error(condition: str, text: str = "") -> bytes:
    words = f"<text xmlns='{NS}'>{text}</text>" if text else ""
    return f"<stream:error><{condition} xmlns='{NS}'/>{words}</stream:error>".encode()


# What arrives in each state, and then: the state, the actions' traces in the output, the events.
CASES: list[tuple[str, State, bytes, State, str, list[str]]] = [
    ("header", State.HEADER, HEADER, State.HANDSHAKE, "<handshake>", []),
    ("no xml", State.HEADER, b"HTTP/1.1 400\r\n", State.CLOSED, "<not-well-formed", ["Closed"]),
    (
        "header and end",
        State.HEADER,
        HEADER + b"</stream:stream>",
        State.CLOSED,
        "</stream:stream>",
        ["Closed"],
    ),
    ("accepted", State.HANDSHAKE, b"<handshake/>", State.OPEN, "", ["Opened"]),
    (
        "accepted, and more",
        State.HANDSHAKE,
        b"<handshake/>" + MESSAGE,
        State.OPEN,
        "",
        ["Opened", "Stanza"],
    ),
    (
        "features before it",
        State.HANDSHAKE,
        b"<stream:features/>",
        State.HANDSHAKE,
        "",
        [],
    ),
    (
        "stanza before it",
        State.HANDSHAKE,
        MESSAGE,
        State.CLOSED,
        "<not-authorized",
        ["Closed"],
    ),
    (
        "refused",
        State.HANDSHAKE,
        stream_error("not-authorized"),
        State.CLOSED,
        "</stream:stream>",
        ["Closed"],
    ),
    ("stanza", State.OPEN, MESSAGE * 2, State.OPEN, "", ["Stanza", "Stanza"]),
    ("bad stanza", State.OPEN, b"<message to='c@d'/>", State.OPEN, "", ["BadStanza"]),
    ("second handshake", State.OPEN, b"<handshake/>", State.OPEN, "", []),
    (
        "unknown element",
        State.OPEN,
        b"<pubsub/>",
        State.CLOSED,
        "<unsupported-stanza-type",
        ["Closed"],
    ),
    (
        "stanza of another kind of stream",
        State.OPEN,
        MESSAGE.replace(b"<message", b"<message xmlns='jabber:client'"),
        State.CLOSED,
        "<unsupported-stanza-type",
        ["Closed"],
    ),
    (
        "broken, after a good one",
        State.OPEN,
        MESSAGE + b"<message></x>",
        State.CLOSED,
        "<not-well-formed",
        ["Stanza", "Closed"],
    ),
    (
        "conflict",
        State.OPEN,
        stream_error("conflict", "twice"),
        State.CLOSED,
        "</stream:stream>",
        ["Closed"],
    ),
    ("end", State.OPEN, b"</stream:stream>", State.CLOSED, "</stream:stream>", ["Closed"]),
    ("anything after the end", State.CLOSED, b"<x/>", State.CLOSED, "", []),
]


class HandshakeTests(unittest.SynchronousTestCase):
    """Bytes in, bytes and events out."""

    def make(self, state: State = State.HEADER) -> ComponentStream:
        stream = ComponentStream("lync.example", "s3cret")
        stream.connected(100.0)
        if state is not State.HEADER:
            stream.receive(HEADER, 100.0)
        if state is State.OPEN:
            stream.receive(b"<handshake/>", 100.0)
        if state is State.CLOSED:
            stream.receive(b"</stream:stream>", 100.0)
        stream.output()
        self.assertIs(stream.state, state)
        return stream

    def names(self, events: list[Any]) -> list[str]:
        return [type(event).__name__ for event in events]

    def test_cases(self) -> None:
        """Whatever arrives in whatever state has the stated outcome."""
        for name, before, data, after, output, events in CASES:
            stream = self.make(before)
            got = stream.receive(data, 101.0)
            self.assertEqual(self.names(got), events, name)
            self.assertIs(stream.state, after, name)
            self.assertIn(output, stream.output().decode(), name)

    def test_digest(self) -> None:
        """The handshake is the hexadecimal SHA-1 of stream id and secret."""
        stream = self.make()
        stream.receive(HEADER, 100.0)
        digest = sha1(b"s1s3cret").hexdigest()
        self.assertEqual(stream.output(), f"<handshake>{digest}</handshake>".encode())

    def test_header_is_escaped(self) -> None:
        """A domain from the configuration cannot inject anything into the header."""
        stream = ComponentStream("a'><x", "s")
        stream.connected(0.0)
        self.assertIn(b"to='a&apos;&gt;&lt;x'", stream.output())

    def test_timeout(self) -> None:
        """Without an answer the attempt is given up; once open no time-out is left."""
        stream = self.make()
        self.assertEqual(stream.next_timer, 100.0 + HANDSHAKE_TIMEOUT)
        self.assertEqual(stream.handle_timers(110.0), [])
        (closed,) = stream.handle_timers(100.0 + HANDSHAKE_TIMEOUT)
        self.assertEqual(closed, Closed("connection-timeout", "no answer to the handshake", True))
        self.assertIn(b"<connection-timeout", stream.output())
        self.assertIsNone(self.make(State.OPEN).next_timer)

    def test_losses(self) -> None:
        """A lost connection and our own closing are reported once, from every state."""
        for state in (State.HEADER, State.HANDSHAKE, State.OPEN):
            stream = self.make(state)
            self.assertEqual(stream.connection_lost("gone"), [Closed("", "gone", False)])
            self.assertEqual(stream.connection_lost("gone"), [])
            stream = self.make(state)
            self.assertEqual(self.names(stream.close()), ["Closed"])
            self.assertEqual(stream.output(), b"</stream:stream>")
            self.assertEqual(stream.close(), [])

    def test_table_is_whole(self) -> None:
        """Every state knows every input, or the pair is a fault of ours that says so."""
        missing = {
            (state, given) for state in State for given in Input if given not in TABLE[state]
        }
        self.assertEqual(
            missing,
            {
                (State.HEADER, Input.HANDSHAKE),  # the reader gives no element before a header
                (State.HANDSHAKE, Input.HEADER),  # and one header only
                (State.OPEN, Input.HEADER),
            },
        )
        stream = self.make(State.OPEN)
        self.assertRaises(LocalError, stream._step, Input.HEADER, None)
        used = {action for row in TABLE.values() for _, action in row.values()}
        self.assertEqual(used, set(Action))

    def test_stanzas_pass_whole(self) -> None:
        """A stanza arrives as the reader made it."""
        (stanza,) = self.make(State.OPEN).receive(MESSAGE, 1.0)
        self.assertIsInstance(stanza, Stanza)
        (opened,) = self.make(State.HANDSHAKE).receive(b"<handshake/>", 1.0)
        self.assertEqual(opened, Opened())


class WordsTests(unittest.SynchronousTestCase):
    """What an operator is told."""

    def test_words(self) -> None:
        """Each usual stream error says what is wrong and what to do."""
        for condition, words in (
            ("not-authorized", "the secret is wrong"),
            ("conflict", "another connection holds"),
            ("host-unknown", 'Component "lync.example"'),
            ("invalid-from", "validate_from_addresses"),
            ("system-shutdown", "shutting down"),
        ):
            said = explain(Closed(condition, "why", False), "lync.example")
            self.assertIn(words, said)
            self.assertIn(f"{condition}: why", said)

    def test_others(self) -> None:
        """Unknown conditions are named; faults found by us blame the home server."""
        self.assertIn("reset", explain(Closed("reset", "", False), "x"))
        self.assertIn("broke the rules", explain(Closed("not-well-formed", "x", True), "x"))
        self.assertEqual(explain(Closed("", "gone", False), "x"), "gone")
