"""The stream reader: bad streams, limits, and independence of where octets are cut."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from impfed.xmpp.reader import (
    BadStanza,
    ReaderLimits,
    StanzaReader,
    StreamEnd,
    StreamError,
    StreamHeader,
    XmppStreamError,
)
from impfed.xmpp.stanza import Stanza

VECTORS = json.loads(
    (Path(__file__).parents[1] / "data" / "vectors" / "xmpp-bad-streams.json").read_text()
)
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams'"
    b" xmlns='jabber:component:accept' from='lync.example' id='s1'>"
)

# Cases that the reader cannot judge, because they are about what the elements mean: addresses of the
# header, authentication, time.  Whoever negotiates a stream judges them.
NEGOTIATION = {
    "no-to",
    "unknown-to",
    "bad-from",
    "full-jid-from",
    "slow-loris",
    "silent",
    "stanza-before-auth",
    "spoofed-from",
    "no-from",
    "foreign-to",
    "unknown-stanza",
    "client-ns-stanza",
    "compress",
    "external-wrong-id",
    "external-empty",
    "external-bad-b64",
    "sasl-unknown",
    "sasl-flood",
    "starttls-injection",
    "starttls-twice",
    "db-result-no-from",
    "db-result-unknown-host",
    "db-verify-unknown-id",
    "db-unsolicited-valid",
    "db-flood",
    "comp-wrong-secret",
    "comp-stanza-first",
    "comp-foreign-from",
    "comp-conflict",
}

# Cases about the stream's version whose XML declaration carries that version too, by mistake.
DECLARATION_TO_REPAIR = {"version-2", "version-garbage", "no-version"}


def octets(case: dict[str, Any]) -> list[bytes]:
    """Return the segments of a vector."""
    segments = []
    if "hex" in case:
        segments.append(bytes.fromhex(case["hex"]))
    if "data" in case:
        data = case["data"]
        if case["id"] in DECLARATION_TO_REPAIR:
            data = "<?xml version='1.0'?>" + data.partition("?>")[2]
        segments.append(data.encode())
    if "gen" in case:
        gen = case["gen"]
        repeat, count = gen["repeat"], gen["count"]
        if "%d" in repeat:
            body = "".join(repeat.replace("%d", str(number)) for number in range(count))
        else:
            body = repeat * count
        segments.append((gen["prefix"] + body + gen["suffix"]).encode())
    if "then" in case:
        segments.append(case["then"].encode())
    if "then_hex" in case:
        segments.append(bytes.fromhex(case["then_hex"]))
    return segments


def opened(**limits: int) -> StanzaReader:
    reader = StanzaReader(limits=ReaderLimits(**limits))
    reader.feed(HEADER)
    return reader


def shape(item: object) -> object:
    """Reduce an item to what can be compared."""
    if isinstance(item, Stanza):
        return (item.kind, item.id, item.to, item.from_, item.to_xml())
    if isinstance(item, BadStanza):
        return (item.kind, item.problem)
    if isinstance(item, Element):
        return item.tag
    return item


class BadStreamTests(unittest.SynchronousTestCase):
    """The vectors for bad streams."""

    def outcome(self, case: dict[str, Any]) -> str:
        reader = StanzaReader("jabber:server")
        if case["phase"] != "open":
            reader.feed(VECTORS["S2S_header"].encode())
        ended = False
        try:
            for segment in octets(case):
                items = reader.feed(segment)
                ended = ended or any(isinstance(item, StreamEnd) for item in items)
        except XmppStreamError as error:
            return error.condition
        return "close" if ended else "continue"

    def test_vectors(self) -> None:
        """Each stream that a reader can judge ends as the vector says."""
        judged = 0
        for case in VECTORS["cases"]:
            if case["id"] not in NEGOTIATION:
                judged += 1
                self.assertIn(self.outcome(case), case["expect"].split("|"), case["id"])
        self.assertEqual(judged, len(VECTORS["cases"]) - len(NEGOTIATION))

    def test_bombs_cost_little(self) -> None:
        """No bomb makes the reader keep more than a few stanzas' worth of memory."""
        for case in VECTORS["cases"]:
            if "gen" not in case or case["id"] in NEGOTIATION:
                continue
            segments = octets(case)
            tracemalloc.start()
            try:
                reader = StanzaReader("jabber:server")
                if case["phase"] != "open":
                    reader.feed(VECTORS["S2S_header"].encode())
                try:
                    for segment in segments:
                        for start in range(0, len(segment), 65536):
                            reader.feed(segment[start : start + 65536])
                except XmppStreamError:
                    pass  # most end so
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            self.assertLess(peak, 8 * 1024 * 1024, case["id"])


class ReaderTests(unittest.SynchronousTestCase):
    """What a good stream gives."""

    def test_stream(self) -> None:
        """Header, stanzas, other elements, an error and the end come out in order."""
        items = StanzaReader().feed(
            HEADER + b"<message from='a@b' to='c@d' id='1'><body>x</body></message> \n"
            b"<handshake/><iq from='a@b' to='c@d' id='2' type='get'/>"
            b"<message to='c@d'/><presence from='@' to='c@d'/>"
            b"<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
            b"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>twice</text></stream:error>"
            b"</stream:stream>"
        )
        self.assertEqual(
            items[0], StreamHeader("jabber:component:accept", "lync.example", "", "s1", None, "")
        )
        self.assertEqual(
            [type(item).__name__ for item in items[1:]],
            [
                "Stanza",
                "Element",
                "Stanza",
                "BadStanza",
                "BadStanza",
                "StreamError",
                "StreamEnd",
            ],
        )
        self.assertEqual(items[-2], StreamError("conflict", "twice"))

    def test_what_was_complete_is_not_lost(self) -> None:
        """A fault comes with everything that was complete before it."""
        error = self.assertRaises(
            XmppStreamError,
            opened().feed,
            b"<message from='a@b' to='c@d' id='1'/><message from='a@b' to='c@d' id='2'/></x>",
        )
        self.assertEqual([item.id for item in error.items], ["1", "2"])
        self.assertEqual(error.condition, "not-well-formed")

    def test_after_the_end(self) -> None:
        """Nothing is read after the end of the stream, nor after a fault."""
        reader = opened()
        self.assertEqual(reader.feed(b"</stream:stream><message/>"), [StreamEnd()])
        self.assertEqual(reader.feed(b"<message from='a@b' to='c@d'/>"), [])

    def test_size(self) -> None:
        """A stanza of the limit passes in whatever pieces; one 8 KiB longer never does."""
        for extra, passes in ((0, True), (8193, False)):
            head, tail = b"<message from='a@b' to='c@d'><body>", b"</body></message>"
            filling = b"x" * (65536 + extra - len(head) - len(tail))
            for piece in (100000, 4096, 777):
                reader = opened(stanza=65536)
                reader.feed(b"<message from='a@b' to='c@d'/>" * 20)
                data = head + filling + tail
                got: list[Any] = []
                try:
                    for start in range(0, len(data), piece):
                        got += reader.feed(data[start : start + piece])
                except XmppStreamError as error:
                    self.assertEqual(error.condition, "policy-violation")
                self.assertEqual(len(got), 1 if passes else 0, (extra, piece))

    def test_depth(self) -> None:
        """A stanza may have 64 levels and no more."""
        for levels, passes in ((64, True), (65, False)):
            data = (
                b"<message from='a@b' to='c@d'>"
                + b"<a>" * (levels - 1)
                + b"</a>" * (levels - 1)
                + b"</message>"
            )
            if passes:
                self.assertEqual(len(opened().feed(data)), 1)
            else:
                error = self.assertRaises(XmppStreamError, opened().feed, data)
                self.assertEqual(error.condition, "policy-violation")

    def test_attributes(self) -> None:
        """An element may have 128 attributes, wherever it stands, and no more."""
        for count, passes in ((128, True), (129, False)):
            attributes = b" ".join(b"a%d='>'" % number for number in range(count))
            data = b"<message from='a@b' to='c@d'><x " + attributes + b"/></message>"
            reader = opened()
            if passes:
                self.assertEqual(len(reader.feed(data)), 1)
            else:
                self.assertRaises(XmppStreamError, reader.feed, data)

    def test_header_size(self) -> None:
        """A stream header that does not end is given up."""
        reader = StanzaReader()
        error = self.assertRaises(
            XmppStreamError, reader.feed, b"<stream:stream a='" + b"x" * 20000
        )
        self.assertEqual(error.condition, "policy-violation")

    def test_silence(self) -> None:
        """White space between stanzas is no stanza, however much of it comes, and costs nothing."""
        reader = opened(stanza=1000)
        reader.feed(b"<message from='a@b' to='c@d'/>")
        for _ in range(100):
            self.assertEqual(reader.feed(b" " * 100), [])
        self.assertEqual(len(reader.feed(b"<message from='a@b' to='c@d'/>")), 1)

    def test_text_between_stanzas(self) -> None:
        """Text at stream level is a fault, before, between and after stanzas."""
        stanza = b"<message from='a@b' to='c@d'/>"
        for data in (b"x" + stanza, stanza + b"x" + stanza, stanza + b"x</stream:stream>"):
            error = self.assertRaises(XmppStreamError, opened().feed, data)
            self.assertEqual(error.condition, "bad-format")
            reader = opened()

            def one_by_one(reader: StanzaReader = reader, data: bytes = data) -> None:
                for octet in data:
                    reader.feed(bytes([octet]))

            self.assertRaises(XmppStreamError, one_by_one)

    def test_memory_does_not_grow(self) -> None:
        """A long stream leaves nothing behind."""
        reader = opened()
        data = b"<message from='a@b' to='c@d' id='1'><body>hello</body></message>" * 50
        for _ in range(10):
            reader.feed(data)
        tracemalloc.start()
        try:
            for _ in range(100):
                reader.feed(data)
            current, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(current, 50000)


STANZAS = [
    b"<message from='a@b' to='c@d' id='1'><body>gr\xc3\xbc\xc3\x9fe \xe2\x98\x83 &lt;</body></message>",
    b"<iq from='a@b' to='c@d' id='2' type='get'><q xmlns='u:q' a=\">\"/></iq>",
    b"<presence from='a@b/\xf0\x9f\x98\x80' to='c@d'/>",
    b" \n",
    b"<handshake/>",
    b"<message to='c@d'/>",
    b"<message from='a@b' to='c@d'><![CDATA[<body>]]></message>",
]


class CutTests(unittest.SynchronousTestCase):
    """Where the network cuts a stream makes no difference."""

    @given(
        st.lists(st.sampled_from(STANZAS), max_size=8),
        st.lists(st.integers(min_value=1, max_value=60)),
        st.sampled_from([b"", b"</stream:stream>", b"</message>", b"<!-- x -->", b"&x;<a>"]),
    )
    def test_cuts(self, stanzas: list[bytes], cuts: list[int], end: bytes) -> None:
        """Any stream in any pieces gives the same items and the same end."""
        data = HEADER + b"".join(stanzas) + end
        self.assertEqual(self.read([data]), self.read(self.cut(data, cuts)))

    def test_octet_by_octet(self) -> None:
        """Single octets give what the whole gives."""
        data = HEADER + b"".join(STANZAS)
        self.assertEqual(self.read([data]), self.read([bytes([octet]) for octet in data]))

    def cut(self, data: bytes, cuts: list[int]) -> list[bytes]:
        pieces = []
        for length in cuts:
            pieces.append(data[:length])
            data = data[length:]
        return [*pieces, data]

    def read(self, pieces: list[bytes]) -> list[object]:
        reader = StanzaReader()
        seen: list[object] = []
        for piece in pieces:
            try:
                seen += [shape(item) for item in reader.feed(piece)]
            except XmppStreamError as error:
                return [*seen, *map(shape, error.items), error.condition]
        return seen
