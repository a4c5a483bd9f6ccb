"""Bad streams, forged addresses and stolen keys against a listening S2S service."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread

from impfed.transport.s2s import S2SLimits, Security, Tls
from impfed.xmpp.dialback import DialbackKeys
from impfed.xmpp.s2s_parts import StreamLimits
from tests.transport.s2s_kit import Node, S2SCase
from tests.transport.s2s_raw import HEADER, STARTTLS, RawPeer, generated

DATA = Path(__file__).parents[1] / "data" / "vectors" / "xmpp-bad-streams.json"
VECTORS = json.loads(DATA.read_text())
CASES = [case for case in VECTORS["cases"] if case["phase"] != "component"]
STREAMS = "urn:ietf:params:xml:ns:xmpp-streams"
SECURITY = Security(Tls.OPTIONAL, certificates=False)
A_SECRET = "secret of a.example"
Steps = Generator[Deferred[Any], Any, None]

# What we answer where the vector leaves a choice, or where its octets say something else than it means.
PINNED = {
    # These two spoil the XML declaration as well, which is judged first.
    "version-2": "not-well-formed",
    "no-version": "not-well-formed",
    "version-garbage": "not-well-formed",
    "utf8-bom": "continue",
    # The character is read; but nobody has proven a domain yet.
    "cut-utf8": "not-authorized",
    "whitespace-flood": "continue",
}
#: Seconds and octets that a case may take.
LONGEST = 1.0
MOST = 8 * 1024 * 1024
# Octets after which a result is only to be expected when time has passed.
PACED = {"slow-loris", "silent"}


def chunks(case: dict[str, Any]) -> Any:
    if "gen" in case:
        return generated(case["gen"])
    if "hex" in case:
        first = bytes.fromhex(case["hex"])
    else:
        first = case["data"].encode()
    pieces = [first]
    if "then" in case:
        pieces.append(case["then"].encode())
    if "then_hex" in case:
        pieces.append(bytes.fromhex(case["then_hex"]))
    return pieces


class BadStreamTests(S2SCase):
    """Every case of the vectors ends as it should, at once, and costs little."""

    timeout = 120

    def setUp(self) -> None:
        super().setUp()
        self.peer = self.node("a.example", security=SECURITY, secret=A_SECRET)
        self.target = self.node("impfed.example", security=SECURITY)
        self.certificate = self.world.issue("a.example")

    def prepare(self, case: dict[str, Any]) -> RawPeer:
        """Bring a connection to where the case begins."""
        peer = RawPeer(self.target.s2s.ports[0])
        phase, state = case["phase"], case.get("state", "")
        if phase == "sasl" or state == "tls":
            peer.secure(self.certificate)
        elif phase != "open":
            stream_id = peer.open()
            if state.startswith("authenticated"):
                answer = peer.prove(A_SECRET, stream_id)
                self.assertIn(b"valid", answer)
        return peer

    def run_case(self, case: dict[str, Any]) -> tuple[RawPeer, float]:
        """Play a case in a thread; return the peer, and how long it took."""
        peer = self.prepare(case)
        expected = PINNED.get(case["id"], case["expect"])
        begin = time.monotonic()
        peer.send_all(chunks(case))
        lasting = expected in ("continue", "ignore", "drop-plaintext", "success")
        lasting = lasting or expected.startswith(("sasl", "db"))
        peer.read(0.3 if lasting else 3)
        took = time.monotonic() - begin
        peer.close()
        return peer, took

    def weigh_case(self, case: dict[str, Any]) -> int:
        """Play it again; return the most memory that it took, which takes time to find out."""
        tracemalloc.start()
        try:
            self.run_case(case)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def judge(self, case: dict[str, Any], peer: RawPeer) -> str:
        """Return what was expected and did not come; "" when all is well."""
        got = peer.got.decode("utf-8", "replace")
        expected = PINNED.get(case["id"], case["expect"])
        for choice in expected.split("|"):
            if self.fits(choice, got, peer.closed):
                return ""
        return f"{case['id']}: expected {expected}, got {got[-300:]!r} closed={peer.closed}"

    def fits(self, choice: str, got: str, closed: bool) -> bool:
        words = choice.split()
        if choice in ("continue", "ignore"):
            return "<stream:error" not in got and not closed
        if choice == "success":
            return "<success" in got
        if choice == "drop-plaintext":
            return got.endswith("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        if choice == "close":
            return got.endswith("</stream:stream>") and "<stream:error" not in got and closed
        if choice == "failure+close":
            return "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>" in got
        if words[0] == "sasl":
            return re.search(rf"<failure [^>]*><{words[1]}/>", got) is not None
        if words[:2] == ["db", "error"]:
            return "type='error'" in got and f"<{words[2]} " in got and not closed
        if words[:2] == ["db", "verify"]:
            return f"type='{words[2]}'" in got and not closed
        whole = got.endswith("</stream:error></stream:stream>") and "<stream:stream" in got
        return (
            f"<{choice} xmlns='{STREAMS}'/>" in got and closed and (whole or "features" not in got)
        )

    @inlineCallbacks
    def check(self, wanted: Callable[[dict[str, Any]], bool]) -> Steps:
        problems = []
        for case in CASES:
            if not wanted(case) or case["id"] in PACED:
                continue
            peer, took = yield deferToThread(self.run_case, case)
            problem = self.judge(case, peer)
            for _ in range(3):  # on a busy machine the fault may not be ours
                if took > LONGEST:
                    _, took = yield deferToThread(self.run_case, case)
            if not problem and took > LONGEST:
                problem = f"{case['id']}: took {took:.2f} s"
            most = yield deferToThread(self.weigh_case, case)
            if not problem and most > MOST:
                problem = f"{case['id']}: took {most} octets"
            if problem:
                problems.append(problem)
        self.assertEqual(problems, [])
        self.assertEqual(self.target.user.stanzas, [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_openings(self) -> Deferred[None]:
        """Whatever is wrong with the first octets gets its stream error."""
        return self.check(lambda case: case["phase"] == "open")

    def test_streams(self) -> Deferred[None]:
        """Whatever is wrong inside a stream gets its stream error, proven domain or not."""
        return self.check(lambda case: case["phase"] == "stream" and "gen" not in case)

    def test_bombs(self) -> Deferred[None]:
        """What grows without bound is cut off."""
        return self.check(lambda case: case["phase"] == "stream" and "gen" in case)

    def test_negotiation(self) -> Deferred[None]:
        """STARTTLS, SASL and dialback said wrongly."""
        return self.check(lambda case: case["phase"] in ("starttls", "sasl", "dialback"))

    def test_every_case_is_played(self) -> None:
        """No case of the vectors is left out."""
        phases = {case["phase"] for case in CASES}
        self.assertEqual(phases, {"open", "stream", "starttls", "sasl", "dialback"})
        self.assertEqual(len(VECTORS["cases"]), 73)
        played = [case["id"] for case in CASES if case["id"] not in PACED]
        self.assertEqual(len(set(played)), 67)  # and the two that dawdle, below
        # Nobody connects to us as a component: we are one ourselves.
        elsewhere = [case["id"] for case in VECTORS["cases"] if case not in CASES]
        self.assertEqual(len(elsewhere), 4)
        self.assertTrue(all(id.startswith("comp-") for id in elsewhere))

    def test_well_formed_versions(self) -> Deferred[None]:
        """A higher version is answered with 1.0; none, with a header without features."""

        def play() -> None:
            for version, features in (("version='2.0'", True), ("", False)):
                peer = RawPeer(self.target.s2s.ports[0])
                header = HEADER.format(from_="a.example", to="impfed.example")
                peer.send(header.replace("version='1.0'>", version + ">").encode())
                got = peer.read(0.3).decode()
                self.assertIn("version='1.0' xml:lang", got)
                self.assertEqual("<stream:features" in got, features)
                self.assertFalse(peer.closed)
                peer.close()

        return deferToThread(play)


class SlowTests(S2SCase):
    """Connections that only cost."""

    def slow_node(self, **options: Any) -> Node:
        limits = S2SLimits(stream=StreamLimits(negotiation=0.4, verification=0.4), **options)
        return self.node("impfed.example", security=SECURITY, limits=limits)

    @inlineCallbacks
    def test_slow_and_silent(self) -> Steps:
        """Who does not come to the point in time gets connection-timeout, however he dawdles."""
        node = self.slow_node()

        def dawdle(first: bytes, every: bytes) -> bytes:
            peer = RawPeer(node.s2s.ports[0])
            peer.send(first)
            for _ in range(60):
                peer.send(every)
                peer.read(0.02)
            peer.close()
            return peer.got

        header = HEADER.format(from_="a.example", to="impfed.example").encode()
        for first, every in ((b"", b""), (b"<?xml version='1.0'?>", b" "), (header, b" ")):
            got = yield deferToThread(dawdle, first, every)
            self.assertIn(b"<connection-timeout", got)
        tls = header + STARTTLS
        got = yield deferToThread(dawdle, tls, b"")
        self.assertTrue(got.endswith(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"), got)
        yield self.until(lambda: not node.s2s.status())

    @inlineCallbacks
    def test_endless_connections(self) -> Steps:
        """One address may have only so many connections that prove nothing; others still get in."""
        node = self.slow_node(unproven_per_address=5)

        def crowd() -> int:
            peers = [RawPeer(node.s2s.ports[0]) for _ in range(20)]
            for peer in peers:
                peer.read(0.05)
            still_open = sum(not peer.closed for peer in peers)
            for peer in peers:
                peer.close()
            return still_open

        self.assertEqual((yield deferToThread(crowd)), 5)
        self.assertEqual(node.metrics.value("s2s.connections_refused"), 15)
        yield self.until(lambda: not node.s2s.status())


class KeyTests(S2SCase):
    """Dialback keys in the wrong hands."""

    def setUp(self) -> None:
        super().setUp()
        self.victim = self.node("a.example", security=SECURITY, secret=A_SECRET)
        self.target = self.node("impfed.example", "two.example", security=SECURITY)

    def offer(self, make_key: Callable[[str], str], from_: str = "a.example") -> RawPeer:
        peer = RawPeer(self.target.s2s.ports[0], from_=from_)
        stream_id = peer.open()
        key = make_key(stream_id)
        peer.send(f"<db:result from='{from_}' to='impfed.example'>{key}</db:result>".encode())
        peer.read(3, b"<db:result")
        peer.read(0.3)
        peer.close()
        return peer

    @inlineCallbacks
    def test_wrong_keys(self) -> Steps:
        """A key of another stream, of another secret, with the domains swapped: all invalid."""
        keys = DialbackKeys(A_SECRET)
        for make in (
            lambda stream_id: keys.key("impfed.example", "a.example", "another stream"),
            lambda stream_id: keys.key("a.example", "impfed.example", stream_id),
            lambda stream_id: keys.key("two.example", "a.example", stream_id),
            lambda stream_id: DialbackKeys("guess").key("impfed.example", "a.example", stream_id),
            lambda stream_id: "",
        ):
            peer = yield deferToThread(self.offer, make)
            self.assertIn(b"type='invalid'", peer.got)
            self.assertIn(b"<not-authorized", peer.got)
            self.assertTrue(peer.closed)
        self.assertEqual(self.target.user.stanzas, [])

    @inlineCallbacks
    def test_replayed_key(self) -> Steps:
        """A key that was right once proves nothing on the next stream."""
        keys = DialbackKeys(A_SECRET)
        used: list[str] = []

        def first(stream_id: str) -> str:
            used.append(keys.key("impfed.example", "a.example", stream_id))
            return used[0]

        peer = yield deferToThread(self.offer, first)
        self.assertIn(b"type='valid'", peer.got)
        peer = yield deferToThread(self.offer, lambda _: used[0])
        self.assertIn(b"type='invalid'", peer.got)

    @inlineCallbacks
    def test_unreachable_authority(self) -> Steps:
        """A domain without a server of its own gets an error, and the stream goes on."""
        peer = yield deferToThread(self.offer, lambda _: "k", "nowhere.example")
        self.assertIn(b"<remote-server-not-found", peer.got)
        self.assertFalse(peer.closed)

    @inlineCallbacks
    def test_forged_from(self) -> Steps:
        """Who has proven one domain speaks for no other, nor for one of ours, nor to one unproven."""

        def forge(stanza: str) -> RawPeer:
            peer = RawPeer(self.target.s2s.ports[0])
            self.assertIn(b"'valid'", peer.prove(A_SECRET, peer.open()))
            peer.send(stanza.encode())
            peer.read(3)
            peer.close()
            return peer

        for from_, to, condition in (
            ("x@evil.example", "u@impfed.example", b"<invalid-from"),
            ("x@sub.a.example", "u@impfed.example", b"<invalid-from"),
            ("x@impfed.example", "u@impfed.example", b"<invalid-from"),
            ("x@a.example", "u@two.example", b"<invalid-from"),
            ("x@a.example", "u@other.example", b"<host-unknown"),
            ("", "u@impfed.example", b"<improper-addressing"),
        ):
            head = f"from='{from_}' " if from_ else ""
            peer = yield deferToThread(forge, f"<message {head}to='{to}'><body>x</body></message>")
            self.assertIn(condition, peer.got)
            self.assertTrue(peer.closed)
        self.assertEqual(self.target.user.stanzas, [])
        peer = yield deferToThread(
            forge, "<message from='x@A.example/r' to='U@impfed.example'><body>x</body></message>"
        )
        self.assertEqual(self.target.user.bodies, ["x"])

    @inlineCallbacks
    def test_verify_needs_no_state(self) -> Steps:
        """Asked about keys, a node answers from the secret alone, and never about strange domains."""

        def ask(to: str, key: str) -> bytes:
            peer = RawPeer(self.target.s2s.ports[0])
            peer.open()
            peer.send(
                f"<db:verify from='a.example' to='{to}' id='s1'>\n {key} \n</db:verify>".encode()
            )
            got = peer.read(2, b"<db:verify")
            peer.close()
            return got

        right = DialbackKeys("secret of impfed.example").key("a.example", "impfed.example", "s1")
        self.assertIn(b"'valid'", (yield deferToThread(ask, "impfed.example", right)))
        self.assertIn(b"'invalid'", (yield deferToThread(ask, "impfed.example", right[::-1])))
        self.assertIn(b"item-not-found", (yield deferToThread(ask, "other.example", right)))
