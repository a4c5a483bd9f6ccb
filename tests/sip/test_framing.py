"""Cutting streams and datagrams into messages."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.errors import SipParseError
from impfed.sip.framing import (
    PONG,
    FramingLimits,
    Pong,
    StreamFramer,
    parse_datagram,
)
from impfed.sip.message import (
    SipMessage,
    SipRequest,
    SipResponse,
    check_request,
    check_response,
)
from tests.sip.material import each, lync, request_lines, table

CASES = table("vectors", "sip-stream-cases.json")["cases"]

# What our framer does with each case: messages delivered good and bad, and the failure's status
# ("silent": close without an answer), or "" where the stream goes on.
OUTCOMES: dict[str, tuple[int, int, str]] = {
    "one": (1, 0, ""),
    "two-in-one-segment": (2, 0, ""),
    "split-every-byte": (1, 0, ""),
    "keepalive-ping": (0, 0, ""),
    "keepalive-between": (2, 0, ""),
    "leading-crlf": (1, 0, ""),
    "leading-crlf-flood": (0, 0, ""),
    "no-content-length": (0, 0, "400"),
    "two-content-lengths-equal": (0, 0, "400"),
    "two-content-lengths-differ": (0, 0, "400"),
    "cl-plus": (0, 0, "400"),
    "cl-negative": (0, 0, "400"),
    "cl-list": (0, 0, "400"),
    "cl-space": (1, 0, ""),
    "cl-unicode-digit": (0, 0, "400"),
    "cl-underscore": (0, 0, "400"),
    "cl-huge": (0, 0, "513"),
    "bare-lf": (0, 0, "silent"),
    "bare-cr": (0, 0, "400"),
    "folded-header": (1, 0, ""),
    "fold-first-header": (0, 1, ""),
    "nul-in-header": (1, 0, ""),
    "header-no-colon": (0, 1, ""),
    "empty-header-name": (0, 1, ""),
    "start-line-endless": (0, 0, "silent"),
    "headers-endless": (0, 0, "silent"),
    "fold-endless": (0, 0, "silent"),
    "body-late": (0, 0, ""),
    "http-on-sip": (0, 0, "silent"),
    "xmpp-on-sip": (0, 0, "silent"),
    "response-out-of-blue": (1, 0, ""),
}


def octets_of(case: dict[str, Any]) -> bytes:
    if "gen" not in case:
        return str(case["data"]).encode()
    gen = case["gen"]
    middle = [
        gen["repeat"].replace("%d", str(number)) if "%d" in gen["repeat"] else gen["repeat"]
        for number in range(gen["count"])
    ]
    return "".join([gen["prefix"], *middle, gen["suffix"]]).encode()


class Run:
    """What a framer made of some pieces of a stream."""

    def __init__(self, *pieces: bytes) -> None:
        self.framer = StreamFramer()
        self.messages: list[SipMessage] = []
        self.pongs = 0
        self.most_buffered = 0
        for piece in pieces:
            for item in self.framer.feed(piece):
                if isinstance(item, Pong):
                    self.pongs += 1
                else:
                    self.messages.append(item)
            self.most_buffered = max(self.most_buffered, self.framer.buffered)
            if self.framer.failure is not None:
                break

    @property
    def outcome(self) -> tuple[int, int, str]:
        bad = 0
        for message in self.messages:
            if isinstance(message, SipRequest):
                try:
                    check_request(message)
                except SipParseError:
                    bad += 1
        failure = self.framer.failure
        ending = ""
        if failure is not None:
            ending = "silent" if failure.head is None else str(failure.status)
        return len(self.messages) - bad, bad, ending


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def check_case(test: SynchronousTestCase, case: dict[str, Any]) -> None:
    data = octets_of(case)
    wanted = OUTCOMES[case["id"]]
    whole = Run(data)
    test.assertEqual(whole.outcome, wanted)
    if "messages" in case:
        test.assertEqual(sum(wanted[:2]), case["messages"])
    if "fatal" in case.get("expect", ""):
        test.assertNotEqual(wanted[2], "")
    if "reply" in case:
        test.assertEqual(whole.pongs, 1)
    for size in (1, 2, 3, 7, 1000) if len(data) < 2000 else (997,):
        pieces = Run(*cut(data, size))
        test.assertEqual(pieces.outcome, wanted, f"cut into pieces of {size}")
        test.assertLessEqual(pieces.most_buffered, 65536 + 1000)


@each([(case["id"], case) for case in CASES], "Stream case {} ends as it should, however cut.")(
    check_case
)
class StreamCaseTests(SynchronousTestCase):
    """The framing cases of the vectors."""

    def test_all(self) -> None:
        """Each of the 31 cases has an outcome."""
        self.assertEqual(set(OUTCOMES), {case["id"] for case in CASES})
        self.assertEqual(len(OUTCOMES), 31)


class StreamFramerTests(SynchronousTestCase):
    """What the cases do not say."""

    def test_every_split(self) -> None:
        """Two messages come out whole wherever the stream is cut in two."""
        data = request_lines(method="MESSAGE", body=b"a\r\n\r\nb") + request_lines()
        for position in range(len(data) + 1):
            run = Run(data[:position], data[position:])
            self.assertEqual(run.outcome, (2, 0, ""))
            self.assertEqual(b"".join(m.to_bytes() for m in run.messages), data)

    def test_keepalive_sample(self) -> None:
        """Blank lines between requests vanish; two in a row are a ping."""
        run = Run(lync("stream-keepalive-two-requests"))
        self.assertEqual(run.outcome, (2, 0, ""))
        self.assertEqual(run.pongs, 1)
        self.assertEqual(run.framer.buffered, 0)

    def test_pong_is_one_value(self) -> None:
        """The ping marker is a single value."""
        self.assertEqual(StreamFramer().feed(b"\r\n\r\n"), [PONG])

    def test_single_crlf_is_no_ping(self) -> None:
        """One CRLF, such as the answer to our own ping, asks for nothing."""
        self.assertEqual(StreamFramer().feed(b"\r\n"), [])

    def test_ping_in_pieces(self) -> None:
        """A ping that comes octet by octet is answered once."""
        self.assertEqual(Run(*cut(b"\r\n\r\n", 1)).pongs, 1)

    def test_bad_blank_lines(self) -> None:
        """A bare CR or LF between messages ends the stream."""
        for data in (b"\n", b"\r\r\n", b"\r\n\n", b"\rX"):
            self.assertEqual(Run(data).outcome, (0, 0, "silent"), data)
            self.assertEqual(Run(*cut(data, 1)).outcome, (0, 0, "silent"), data)

    def test_complete_before_failure(self) -> None:
        """What was complete before a failure is delivered; then nothing more is taken."""
        framer = StreamFramer()
        items = framer.feed(request_lines() + b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(items), 1)
        failure = framer.failure
        assert failure is not None
        self.assertTrue(failure.close)
        self.assertEqual(framer.buffered, 0)
        self.assertIs(self.assertRaises(SipParseError, framer.feed, b"x"), failure)

    def test_malformed_response(self) -> None:
        """A malformed response comes out, is refused by its check, and the stream goes on."""
        for status, cseq in (("200", "x"), ("4294967301", "1 INVITE"), ("99", "1 INVITE")):
            response = (
                f"SIP/2.0 {status} OK\r\nVia: SIP/2.0/TLS a\r\nFrom: <sip:a@b>\r\nTo: <sip:a@b>\r\n"
                f"Call-ID: 1\r\nCSeq: {cseq}\r\nContent-Length: 0\r\n\r\n"
            ).encode()
            run = Run(response + request_lines())
            self.assertEqual(run.outcome, (2, 0, ""))
            bad = run.messages[0]
            assert isinstance(bad, SipResponse)
            self.assertIsNone(self.assertRaises(SipParseError, check_response, bad).head)

    def test_body_limit(self) -> None:
        """A body beyond the limit is 513 before it is read, with an answer."""
        framer = StreamFramer(FramingLimits(body=10))
        framer.feed(request_lines(method="MESSAGE", body=b"x" * 11)[:-11])
        assert framer.failure is not None
        self.assertEqual(framer.failure.status, 513)
        self.assertIsInstance(framer.failure.head, SipRequest)

    def test_head_limits(self) -> None:
        """A head beyond the limits is 513, complete or not."""
        long = request_lines("X: " + "y" * 3000)
        many = request_lines(*["X: y"] * 100)
        for data, limits in ((long, FramingLimits(head=3000)), (many, FramingLimits())):
            for size in (len(data), 1):
                framer = StreamFramer(limits)
                for piece in cut(data, size):
                    if framer.failure is None:
                        framer.feed(piece)
                assert framer.failure is not None
                self.assertEqual(framer.failure.status, 513)

    def test_states(self) -> None:
        """The framer says whether it is inside a message or a body."""
        framer = StreamFramer()
        self.assertFalse(framer.mid_message)
        data = request_lines(method="MESSAGE", body=b"hello")
        framer.feed(data[:20])
        self.assertTrue(framer.mid_message)
        self.assertFalse(framer.in_body)
        framer.feed(data[20:-2])
        self.assertTrue(framer.in_body)
        framer.feed(data[-2:])
        self.assertFalse(framer.mid_message or framer.in_body)

    def test_linear(self) -> None:
        """Octet by octet, the work on a long message grows with its length and no faster."""
        touched = 0

        class Counting(StreamFramer):
            __slots__ = ()

            def _cut(self, data: bytes | bytearray, out: list[SipMessage | Pong]) -> int:
                nonlocal touched
                before = self._scanned
                used = super()._cut(data, out)
                touched += len(data) - before
                return used

        framer = Counting()
        data = request_lines(*["X: " + "y" * 900] * 50)
        for piece in cut(data, 1):
            framer.feed(piece)
        self.assertIsNone(framer.failure)
        self.assertLess(touched, 6 * len(data))


class DatagramTests(SynchronousTestCase):
    """Datagrams."""

    def test_no_content_length(self) -> None:
        """Without Content-Length the body ends with the datagram."""
        data = request_lines(method="MESSAGE", body=b"hello").replace(b"Content-Length: 5\r\n", b"")
        self.assertEqual(parse_datagram(data).body, b"hello")

    def test_trailing_octets(self) -> None:
        """Octets after the body are dropped."""
        data = request_lines(method="MESSAGE", body=b"hello") + b"more"
        self.assertEqual(parse_datagram(data).body, b"hello")

    def test_short_body(self) -> None:
        """A body shorter than its length is 400 with an answer."""
        data = request_lines(method="MESSAGE", body=b"hello")[:-1]
        error = self.assertRaises(SipParseError, parse_datagram, data)
        self.assertEqual(error.status, 400)
        self.assertIsNotNone(error.head)

    def test_limit(self) -> None:
        """A datagram beyond the limits is 513."""
        limits = FramingLimits(head=100, body=100)
        error = self.assertRaises(SipParseError, parse_datagram, b"x" * 201, limits)
        self.assertEqual(error.status, 513)
        error = self.assertRaises(SipParseError, parse_datagram, request_lines(*["X: y"] * 200))
        self.assertEqual(error.status, 513)

    def test_leading_crlf(self) -> None:
        """Blank lines in front are skipped."""
        self.assertEqual(parse_datagram(b"\r\n\r\n" + request_lines()).body, b"")

    def test_garbage(self) -> None:
        """What is no SIP is refused without an answer."""
        for data in (b"", b"\0", b"\r\n\r\n", b"hello\r\n\r\n", b"\x16\x03\x01" * 30, b"\xff" * 99):
            error = self.assertRaises(SipParseError, parse_datagram, data)
            self.assertIsNone(error.head)
