"""The short way through the proxy does octet for octet what the long way does, only sooner."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import RemoteError
from impfed.proxy import express
from impfed.proxy.agent import ProxyAgent
from impfed.proxy.core import Proxy
from impfed.proxy.express import LIFETIME
from impfed.proxy.values import Leg, Target
from impfed.sip.target import Hop
from impfed.testing.fakes import counting_ids
from impfed.transport.timers import ReactorTimers
from tests.transport.sip_kit import MemoryStack, MemoryTransport, answer_to

ROUTE = b"Route: <sip:192.0.2.1;transport=tcp;lr>\r\n"
VIAS = (
    b"Via: SIP/2.0/TCP pool.example;branch=z9hG4bKpool;branched=FALSE\r\n"
    b"Via: SIP/2.0/TCP 10.0.0.9:4000;ms-received-cid=1F\r\n"
)


def message(
    cseq: Any = 1, body: bytes = b"hello", method: bytes = b"MESSAGE", **places: bytes
) -> bytes:
    """Return a request within a dialog.

    :param places: octets to put in: ``vias`` below the topmost, ``top`` after its branch, others.
    """
    number = str(cseq).encode()
    get = places.get
    return (
        get("start", method + b" sip:alice@192.0.2.50;transport=tcp SIP/2.0") + b"\r\n"
        b"Via: SIP/2.0/TCP peer.example:5061;branch=z9hG4bK" + get("branch", number)
        + get("top", b"") + b"\r\n" + get("vias", b"") + get("route", ROUTE)
        + b"Max-Forwards: " + get("hops", b"70") + b"\r\n"
        b"From: \"Bob\" <sip:bob@peer.example>;tag=" + get("from_tag", b"b1") + b"\r\n"
        b"To: <sip:alice@home.example>" + get("to_tag", b";tag=a1") + b"\r\n"
        b"Call-ID: " + get("call_id", b"call-1") + b"\r\n"
        b"CSeq: " + number + b" " + get("cseq_method", method) + b"\r\n"
        + get("more", b"User-Agent: \xc3\xa9\r\n")
        + b"Content-Length: " + get("length", str(len(body)).encode()) + b"\r\n"
        + get("last", b"") + b"\r\n" + body
    )  # fmt: skip


class World:
    """A caller, a proxy, and its next hops; everything that happens is the same in each run."""

    def __init__(self, express: bool) -> None:
        self.memory = MemoryStack()
        self.memory.stack._ids = self.memory.stack.pool._ids = counting_ids()
        self.hops = [Hop("tcp", "192.0.2.50", 5060)]
        self.asked = 0
        self.refusal: RemoteError | None = None
        proxy = Proxy(
            lambda uri: uri.host == "192.0.2.1", lambda host, port: host == "192.0.2.1",
            self.permit, counting_ids(),
        )  # fmt: skip
        self.agent = ProxyAgent(
            self.memory.stack, proxy, self.locate, lambda question: None,
            ReactorTimers(self.memory.reactor), self.memory.metrics, express=express,
        )  # fmt: skip
        self.memory.stack.user = self.agent
        self.callers = [self.accept()]
        self.next: list[MemoryTransport] = []
        self.requests: list[bytes] = []

    def accept(self) -> MemoryTransport:
        caller = self.memory.accept()
        assert caller is not None
        return caller

    def permit(self, *_: Any) -> RemoteError | None:
        self.asked += 1
        return self.refusal

    def locate(self, question: Any, done: Any) -> None:
        legs = tuple(Leg(hop, "TCP 192.0.2.1:5060", ()) for hop in self.hops)
        done([Target(legs, uri="sip:alice@192.0.2.50;transport=tcp")])

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass; whatever is due happens at its own time."""
        reactor = self.memory.reactor
        end = reactor.seconds() + seconds
        while (
            due := min((call.getTime() for call in reactor.getDelayedCalls()), default=end)
        ) < end:
            reactor.advance(max(0.0, due - reactor.seconds()))
        reactor.advance(max(0.0, end - reactor.seconds()))
        while len(self.memory.reactor.tcpClients) > len(self.next):
            self.next.append(self.memory.connected(len(self.next)))
            self.memory.turn()

    def send(self, data: bytes, cut: int = 0) -> None:
        """Let the caller send."""
        self.into(self.callers[-1], data, cut)

    def into(self, transport: MemoryTransport, data: bytes, cut: int = 0) -> None:
        for part in (data[:cut], data[cut:]):
            if part and not transport.disconnecting:
                transport.protocol.dataReceived(part)
        self.turn()

    def heard(self) -> tuple[list[bytes], list[bytes]]:
        """Take what came out at either end."""
        above = [each.take() for each in self.callers]
        below = [each.take() for each in self.next]
        for data in below:
            self.requests += re.findall(rb"(?s)MESSAGE .*?\r\n\r\n|INFO .*?\r\n\r\n", data)
        return above, below

    def forwarded(self, data: bytes) -> bytes:
        """Let the caller send; return what the next hop gets."""
        self.send(data)
        return self.heard()[1][-1]

    def answered(self, data: bytes) -> bytes:
        """Let the next hop answer; return what the caller gets."""
        self.into(self.next[-1], data)
        return self.heard()[0][-1]

    def talk(self, *numbers: int) -> None:
        """Send and answer some messages."""
        for number in numbers:
            sent = self.forwarded(message(number))
            self.answered(answer_to(sent))


class ExpressTests(SynchronousTestCase):
    """What the short way does, and when it is not taken."""

    def setUp(self) -> None:
        self.world = World(True)
        self.agent = self.world.agent
        self.world.talk(100, 1)  # the first makes the connection
        self.asked = self.world.asked

    def express(self, data: bytes) -> bool:
        """Send a request; whether it went on the short way."""
        before = len(self.agent._lane)
        self.world.send(data)
        was = self.world.asked == self.asked
        self.asked = self.world.asked
        self.assertEqual(len(self.agent._lane) - before, 1 if was else 0)
        return was

    def test_second_message(self) -> None:
        """What follows in a dialog is sent on without being decided upon, and its answer comes back."""
        self.assertTrue(self.express(message(2, b"more", vias=VIAS)))
        sent = self.world.heard()[1][-1]
        self.assertIn(b";branch=z9hG4bK2;received=192.0.2.7\r\n" + VIAS, sent)
        self.assertTrue(sent.endswith(b"\r\nContent-Length: 4\r\n\r\nmore"))
        self.assertNotIn(b"Route:", sent)
        self.assertIn(b"\r\nMax-Forwards: 69\r\n", sent)
        back = self.world.answered(answer_to(sent))
        self.assertTrue(back.startswith(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP peer.example"))
        self.assertEqual((self.agent.under_way, len(self.world.memory.stack.transactions)), (0, 0))
        for name in ("proxy.forwarded", "sip.requests_in", "sip.responses_in"):
            self.assertEqual(self.world.memory.metrics.value(name), 3)

    def test_any_difference(self) -> None:
        """Whatever differs in more than branch, lower Vias, CSeq number and length is decided anew."""
        differing = [
            {"hops": b"69"}, {"from_tag": b"b2"}, {"to_tag": b";tag=a2"}, {"to_tag": b""},
            {"more": b""}, {"more": b"P-Asserted-Identity: <sip:x@y.example>\r\n"},
            {"route": b""}, {"route": ROUTE + b"Route: <sip:192.0.2.9;lr>\r\n"},
            {"start": b"MESSAGE sip:bob@192.0.2.50;transport=tcp SIP/2.0"},
            {"call_id": b"call-2"}, {"last": b"X: y\r\n"}, {"top": b";rport"},
            {"top": b";received=192.0.2.9"}, {"branch": b"a b"}, {"branch": b""},
            {"cseq_method": b"INFO"}, {"vias": b" ;folded\r\n"},
            {"vias": b"Via: \r\n"}, {"vias": b"Via: a\rb\r\n"}, {"vias": b"v: SIP/2.0/TCP x\r\n"},
            {"top": b",SIP/2.0/TCP x;branch=z9hG4bKy"},
        ]  # fmt: skip
        for number, places in enumerate(differing, 2):
            with self.subTest(places=places):
                world = World(True)
                world.talk(100, 1)
                world.send(message(number, **places))
                self.assertEqual(len(world.agent._lane), 0)

    def test_number_spelt_otherwise(self) -> None:
        """A number in CSeq with leading zeros, too long, or none, is read the long way."""
        for number in ("02", "12345678901", "x", ""):
            self.world.send(message(number, branch=b"n" + str(number).encode()))
            self.assertEqual(len(self.agent._lane), 0)

    def test_lifetime(self) -> None:
        """After some time the proxy is asked again; its answer may be another one."""
        self.world.turn(LIFETIME - 1.0)
        self.assertTrue(self.express(message(2)))
        self.world.heard()
        self.world.turn(1.0)
        self.world.refusal = RemoteError(403, "Forbidden")
        self.world.send(message(3))
        self.assertIn(b"SIP/2.0 403", self.world.heard()[0][-1])

    def test_next_hop_gone(self) -> None:
        """When the connection to the next hop is gone a new one is looked for."""
        self.world.next[-1].drop()
        self.world.turn()
        self.assertFalse(self.express(message(2)))
        self.assertEqual(len(self.world.next), 2)
        self.assertIn(b"CSeq: 2 MESSAGE", self.world.heard()[1][-1])

    def test_another_connection(self) -> None:
        """What one connection may do another may not: each has its own."""
        self.world.callers.append(self.world.accept())
        self.assertFalse(self.express(message(2)))

    def test_another_callers_message(self) -> None:
        """A connection that imitates another's dialog is decided upon by what it has proven."""
        self.world.callers.append(self.world.accept())
        self.world.refusal = RemoteError(403, "Forbidden")
        self.world.send(message(2))
        self.assertEqual(self.world.heard()[1][-1], b"")

    def test_repetition(self) -> None:
        """A request that comes twice is sent on once, and both are answered by one answer."""
        self.express(message(2))
        sent = self.world.heard()[1][-1]
        self.world.send(message(2))
        self.assertEqual(self.world.heard(), ([b""], [b""]))
        self.assertIn(b"SIP/2.0 200", self.world.answered(answer_to(sent)))

    def test_silence(self) -> None:
        """Without an answer it ends after 64*T1, each at its own time, as on the long way."""
        long = World(False)
        long.talk(100, 1)
        for number, pause in ((2, 10.0), (3, 12.0), (0, 9.9), (0, 0.2), (0, 9.7), (0, 0.3)):
            for world in (self.world, long):
                if number:
                    world.send(message(number))
                world.turn(pause)
                if world.agent.under_way:
                    world.into(world.next[-1], b"\r\n\r\n")  # it is there, it only says nothing
            self.assertEqual(self.world.heard(), long.heard())
            self.assertEqual(self.agent.under_way, long.agent.under_way)
        self.assertEqual(self.agent.under_way, 0)

    def test_caller_gone(self) -> None:
        """The answer to a caller whose connection is gone is sent where he can be reached (18.2.2)."""
        self.express(message(2))
        sent = self.world.heard()[1][-1]
        self.world.callers[-1].drop()
        self.world.into(self.world.next[0], answer_to(sent))
        self.assertEqual(self.world.memory.reactor.tcpClients[-1][:2], ("192.0.2.7", 5061))

    def test_order(self) -> None:
        """What comes in one piece is sent on in its order, whichever way it goes."""
        parts = [message(2), message(3, hops=b"50"), message(4), message(5, hops=b"50")]
        self.world.send(b"".join(parts))
        numbers = re.findall(rb"CSeq: (\d+)", self.world.heard()[1][-1])
        self.assertEqual(numbers, [b"2", b"3", b"4", b"5"])

    def test_watched(self) -> None:
        """Somebody who traces sees every message."""
        lines: list[Any] = []
        stop = self.world.memory.stack._tracer.watch(lines.append)
        self.world.talk(2)
        self.assertEqual(len(lines), 4)
        stop()
        self.asked = self.world.asked
        self.assertTrue(self.express(message(3)))

    def test_never_ending_connection(self) -> None:
        """Messages that are always cut somewhere in the middle are no message that takes too long."""
        rest = b""
        for number in range(2, 50):
            data = rest + message(number)
            self.world.send(data[:-9])
            rest = data[-9:]
            self.world.turn(1.0)
            for request in re.findall(rb"(?s)MESSAGE .*?\r\n\r\n", self.world.heard()[1][-1]):
                self.world.answered(answer_to(request))
        self.assertFalse(self.world.callers[-1].disconnecting)

    def test_without_our_route(self) -> None:
        """A request that names a Contact without our Route is looked at each time, for it is counted."""
        for number in (1, 2):
            request = message(number, call_id=b"lost", branch=b"l%d" % number, route=b"")
            self.assertFalse(self.express(request))

    def test_branch_of_another_node(self) -> None:
        """A branch may hold whatever a token may, such as the name of the node whose it is."""
        self.assertTrue(self.express(message(2, branch=b"1f-abc-node%20two~.0123")))

    def test_full_memory(self) -> None:
        """No more templates are kept than a node can hold; what does not fit goes the long way."""
        self.patch(express, "LIMIT", 3)
        for number in range(10):
            self.world.send(message(2, call_id=b"c%d" % number))
        self.assertLessEqual(len(self.agent._lane._learned), 3)

    def test_unlike_a_template(self) -> None:
        """Requests of spellings that no template is made of always go the long way."""
        for number, places in enumerate(
            (
                {"top": b";x=1;branch=z9hG4bKz"},
                {"more": b"Via: SIP/2.0/TCP late.example;branch=z9hG4bKl\r\n"},
                {"vias": b"v: SIP/2.0/TCP short.example\r\n"},
            )
        ):
            call_id = b"odd%d" % number
            self.world.send(message(1, call_id=call_id, branch=b"o%d" % number, **places))
            self.assertFalse(
                self.express(message(2, call_id=call_id, branch=b"p%d" % number, **places))
            )


ANSWERS = ("200 OK", "202 Accepted", "200 OK", "183 Progress", "404 Not Found", "503 Busy")
PLACES: tuple[dict[str, bytes], ...] = (
    {}, {}, {}, {"vias": VIAS}, {"hops": b"0"}, {"more": b""}, {"call_id": b"call-2"},
    {"top": b";rport"}, {"last": b"X: y\r\n"}, {"route": b""}, {"to_tag": b""},
    {"vias": b"v: SIP/2.0/TCP x\r\n"}, {"length": b"0"}, {"cseq_method": b"INFO"},
    {"method": b"INFO"},
)  # fmt: skip

STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(PLACES), st.integers(0, 500)),
    st.tuples(st.just("ask"), st.sampled_from(PLACES), st.integers(0, 500)),
    st.tuples(st.just("burst"), st.sampled_from(PLACES), st.integers(1, 900)),
    st.tuples(st.just("again"), st.integers(0, 3), st.integers(0, 400)),
    st.tuples(st.just("answer"), st.sampled_from(ANSWERS), st.integers(0, 400)),
    st.tuples(st.just("answer"), st.sampled_from(ANSWERS), st.integers(0, 400)),
    st.tuples(st.just("late"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("loop"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from((0.5, 3.0, 31.9, 33.0)), st.just(0)),
    st.tuples(st.just("lose"), st.booleans(), st.just(0)),
)


class _Story:
    """Plays the same steps in a world with the short way and in one without."""

    def __init__(self) -> None:
        self.worlds = (World(True), World(False))
        self.number = 0
        self.asked: list[bytes] = []
        self.answered = 0

    def play(self, step: Any) -> None:
        kind, one, other = step
        for data, world in zip(self.input(kind, one, other), self.worlds, strict=True):
            if kind == "wait":
                world.turn(one)
            elif kind == "lose":
                (world.callers if one else world.next or world.callers)[-1].drop()
                world.turn()
                if one:
                    world.callers.append(world.accept())
            elif kind in ("answer", "late", "loop"):
                if world.next:
                    world.into(world.next[-1], data, other if kind == "answer" else 0)
            else:
                world.send(data, other)

    def input(self, kind: str, one: Any, other: Any) -> list[bytes]:
        """Return what comes in, in either world."""
        if kind in ("ask", "burst"):
            count = 1 if kind == "ask" else 3
            sent = []
            for _ in range(count):
                self.number += 1
                sent.append(message(self.number, b"text %d" % self.number, **one))
            self.asked += sent
            return [b"".join(sent)] * 2
        if kind == "again":
            return [self.asked[-1 - one] if len(self.asked) > one else b""] * 2
        data = []
        for world in self.worlds:
            requests = world.requests
            if kind == "answer" and len(requests) > self.answered:
                data.append(answer_to(requests[self.answered], one, "a1"))
            elif kind == "late" and len(requests) > one:
                answer = answer_to(requests[-1 - one])
                if other:
                    answer = answer.replace(b"\r\nVia: ", b"\r\nServer: x\r\nVia: ", 1)
                data.append(answer)
            elif kind == "loop" and len(requests) > one:
                looped = requests[-1 - one].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                data.append(re.sub(rb"Content-Length: \d+", b"Content-Length: 0", looped))
            else:
                data.append(b"")
        if kind == "answer":
            self.answered += 1
        return data


class SameTests(SynchronousTestCase):
    """The two ways, side by side, on stories that nobody has thought of."""

    @settings(max_examples=150, deadline=None)
    @given(st.lists(STEPS, min_size=4, max_size=25))
    def test_same(self, steps: list[Any]) -> None:
        """Octets, counters and what is under way are the same after every step."""
        story = _Story()
        begin = [("ask", {}, 0), ("answer", "200 OK", 0)] * 2
        for step in [*begin, *steps]:
            story.play(step)
            short, long = story.worlds
            # What ends many transactions at once ends them in any order.
            order = _sorted if step[0] in ("wait", "lose") else list
            self.assertEqual(
                [order(each) for each in short.heard()],
                [order(each) for each in long.heard()],
                step,
            )
            self.assertEqual(short.agent.under_way, long.agent.under_way, step)
            self.assertEqual(
                len(short.memory.stack.transactions), len(long.memory.stack.transactions), step
            )
            self.assertEqual(short.memory.metrics.snapshot(), long.memory.metrics.snapshot(), step)


def _sorted(streams: list[bytes]) -> list[list[bytes]]:
    """Return the messages of each stream in one order, without keep-alives."""
    return [
        sorted(part.strip() for part in re.split(rb"(?=SIP/2\.0 \d|MESSAGE sip|INFO sip)", each))
        for each in streams
    ]
