"""The S2S stream machines: every state, every input, and octets cut anywhere."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from impfed.core.errors import LocalError
from impfed.xmpp import dialback
from impfed.xmpp.jid import JID
from impfed.xmpp.reader import BadStanza
from impfed.xmpp.s2s_base import Input
from impfed.xmpp.s2s_in import IncomingStream
from impfed.xmpp.s2s_in import State as In
from impfed.xmpp.s2s_out import OutgoingStream
from impfed.xmpp.s2s_out import State as Out
from impfed.xmpp.s2s_parts import (
    BeginTls,
    PairProven,
    PairRefused,
    Retry,
    StreamClosed,
    StreamLimits,
    VerifyAnswered,
    VerifyWanted,
    opening,
)
from impfed.xmpp.s2s_security import Security, Tls
from impfed.xmpp.stanza import OutStanza, Stanza, message
from tests.xmpp.s2s_pipe import Pipe, Shown, World

J = JID.parse
STRICT = Security()
OPTIONAL = Security(Tls.OPTIONAL, certificates=False)
CLEAR = Security(Tls.NONE, certificates=False)
SM = "urn:xmpp:sm:3"


def text(from_: str, to: str, id: str = "1") -> OutStanza:
    return message(J(to), J(from_), id=id, body="hi")


def header(from_: str, to: str, id: str = "s1", version: str = "1.0") -> bytes:
    return opening(from_, to, id).replace("version='1.0' xml", f"version='{version}' xml").encode()


def names(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


class TableTests(unittest.SynchronousTestCase):
    """The tables themselves."""

    def test_unforeseen(self) -> None:
        """A pair that no row foresees is an error of ours, with both in words."""
        stream = IncomingStream(World("b.example"))
        with self.assertRaises(LocalError) as caught:
            stream._step(Input.STANZA, None)
        self.assertIn("stanza: not foreseen while not connected", str(caught.exception))

    def test_whatever_a_peer_sends_is_foreseen(self) -> None:
        """In every state in which octets are read, everything that they can be has a row."""
        sent = {
            Input.STARTTLS, Input.AUTH, Input.SASL_OTHER, Input.RESULT, Input.RESULT_ANSWER,
            Input.VERIFY, Input.VERIFY_ANSWER, Input.BIDI, Input.ENABLE, Input.ENABLED,
            Input.SM_FAILED, Input.RESUME, Input.ACK_REQUEST, Input.ACK, Input.STANZA,
            Input.BAD_STANZA, Input.ELEMENT, Input.ERROR, Input.END, Input.BROKEN,
            Input.FEATURES, Input.PROCEED, Input.TLS_FAILURE, Input.SASL_SUCCESS,
            Input.SASL_FAILURE, Input.LOST, Input.CLOSE, Input.TIMEOUT, Input.SILENT,
        }  # fmt: skip
        for state in (In.UNPROVEN, In.PROVEN, In.CLOSED):
            self.assertEqual(sent - IncomingStream.TABLE[state].keys(), set(), state)
        for reading in (Out.FEATURES, Out.PROCEED, Out.SASL, Out.DIALBACK, Out.OPEN, Out.CLOSED):
            self.assertEqual(sent - OutgoingStream.TABLE[reading].keys(), set(), reading)
        for before in (In.HEADER, In.RESTARTED):
            self.assertIn(Input.HEADER, IncomingStream.TABLE[before])

    def test_every_state_ends(self) -> None:
        """From every state a lost connection and our own closing lead to the end."""
        for table in (IncomingStream.TABLE, OutgoingStream.TABLE):
            for state, rows in table.items():
                if state is Out.CHOOSING:
                    continue  # nobody can come between
                for given_ in (Input.LOST, Input.CLOSE):
                    self.assertEqual(rows[given_][0].value, "closed", (state, given_))


class NegotiationTests(unittest.SynchronousTestCase):
    """Two machines with one another."""

    def up(self, pipe: Pipe) -> Pipe:
        pipe.run()
        self.assertTrue(pipe.up, pipe.log)
        return pipe

    def test_sasl(self) -> None:
        """STARTTLS, SASL EXTERNAL, a new header each time; the features fit the moment."""
        pipe = self.up(Pipe(STRICT, STRICT))
        written = "\n".join(pipe.log)
        self.assertEqual(written.count("<stream:stream "), 6)
        self.assertIn("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/>", written)
        self.assertIn(">YS5leGFtcGxl</auth>", written)
        self.assertEqual(pipe.method, "SASL EXTERNAL")

    @given(st.integers(1, 60))
    @settings(max_examples=25, deadline=None)
    def test_cuts(self, cut: int) -> None:
        """However octets are cut, the negotiation and what follows come out the same."""
        for security in (STRICT, OPTIONAL, CLEAR):
            pipe = Pipe(security, security)
            pipe.cut = cut
            self.up(pipe)
            pipe.out.send(text("x@a.example", "y@b.example"))
            pipe.exchange()
            stanzas = [event for event in pipe.in_events if isinstance(event, Stanza)]
            self.assertEqual([stanza.id for stanza in stanzas], ["1"])

    def test_both_ways(self) -> None:
        """With bidi, stanzas may come back, of the reverse pair and no other."""
        pipe = self.up(Pipe(STRICT, STRICT))
        self.assertTrue(pipe.in_.bidi and pipe.out.bidi)
        pipe.in_.send(text("y@b.example", "x@a.example"))
        pipe.exchange()
        self.assertIsInstance(pipe.out_events[-1], Stanza)
        pipe.in_.send(text("y@b2.example", "x@a.example"))
        pipe.exchange()
        self.assertEqual(pipe.out_events[-1].condition, "invalid-from")

    def test_bidi_needs_a_proven_peer(self) -> None:
        """A peer whose certificate proves nothing is not asked for both ways."""
        pipe = self.up(Pipe(OPTIONAL, OPTIONAL, receiver_certificate=Shown("")))
        self.assertFalse(pipe.in_.bidi)
        pipe.in_.send(text("y@b.example", "x@a.example"))
        pipe.exchange()
        self.assertEqual(pipe.out_events[-1].condition, "not-authorized")

    def test_bidi_by_the_wrong_name(self) -> None:
        """A request for both ways in the namespace of the feature counts, too."""
        stream = IncomingStream(World("b.example", security=CLEAR))
        stream.connected(1.0)
        stream.receive(header("a.example", "b.example"), 1.0)
        stream.receive(b"<bidi xmlns='urn:xmpp:features:bidi'/>", 1.0)
        self.assertTrue(stream.bidi)

    def test_another_pair(self) -> None:
        """A further domain of ours is proven by dialback on the open stream; a third is refused."""
        pipe = self.up(Pipe(CLEAR, CLEAR))
        pipe.out_events += pipe.out.add_pair("a2.example", "b.example", pipe.now)
        pipe.exchange()
        proven = [event for event in pipe.in_events if isinstance(event, PairProven)]
        self.assertEqual([event.remote for event in proven], ["a.example", "a2.example"])
        pipe.out.send(text("x@a2.example", "y@b.example"))
        pipe.exchange()
        self.assertIsInstance(pipe.in_events[-1], Stanza)
        pipe.out_events += pipe.out.add_pair("a.example", "nowhere.example", pipe.now)
        pipe.exchange()
        refused = [event for event in pipe.out_events if isinstance(event, PairRefused)]
        self.assertEqual(refused[-1].condition, "item-not-found")
        self.assertTrue(pipe.up)

    def test_certificate_speaks_to_all_of_ours(self) -> None:
        """Who has proven a domain by certificate may write to each domain of ours; none writes back."""
        pipe = self.up(Pipe(STRICT, STRICT))
        pipe.out.send(text("x@a.example", "y@b2.example"))
        pipe.exchange()
        self.assertIsInstance(pipe.in_events[-1], Stanza)
        proven = [event for event in pipe.in_events if isinstance(event, PairProven)]
        self.assertEqual([event.sending for event in proven], [True, False])

    def test_no_certificate_of_our_own(self) -> None:
        """Without a certificate TLS is not offered, and a request for it denied."""
        world = World("b.example", security=OPTIONAL)
        world.offers_tls = False
        stream = IncomingStream(world)
        stream.connected(1.0)
        stream.receive(header("a.example", "b.example"), 1.0)
        self.assertNotIn(b"starttls", stream.output())
        (closed,) = stream.receive(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", 1.0)
        self.assertIn("TLS is off here", closed.words)

    def test_international_domains(self) -> None:
        """A-labels and U-labels are one domain."""
        world = World(b"xn--bcher-kva.example".decode("idna"), security=CLEAR)
        stream = IncomingStream(world)
        stream.connected(1.0)
        stream.receive(header("a.example", "xn--bcher-kva.example"), 1.0)
        self.assertEqual((stream.state, stream.local), (In.UNPROVEN, "bücher.example"))

    def test_legacy_peer(self) -> None:
        """A peer from before XMPP 1.0 gets dialback without features, where TLS is not required."""
        old = header("a.example", "b.example").replace(b" version='1.0' xml", b" xml")
        stream = OutgoingStream(World("a.example", security=OPTIONAL), "a.example", "b.example")
        stream.connected(1.0)
        stream.output()
        stream.receive(
            header("b.example", "a.example").replace(b" version='1.0' xml", b" xml"), 1.0
        )
        self.assertIn(b"<db:result", stream.output())
        for security, condition in ((STRICT, b"<unsupported-version"), (CLEAR, b"xml:lang='en'>")):
            incoming = IncomingStream(World("b.example", security=security))
            incoming.connected(1.0)
            incoming.receive(old, 1.0)
            self.assertIn(condition, incoming.output())

    def test_nameless_legacy_peer(self) -> None:
        """One that names nobody in its header is heard, and judged by its dialback elements."""
        nameless = header("", "", "").replace(b" version='1.0' xml", b" xml")
        for security, next in ((STRICT, ["PairRefused"]), (CLEAR, ["VerifyWanted"])):
            incoming = IncomingStream(World("b.example", security=security))
            incoming.connected(1.0)
            incoming.receive(nameless, 1.0)
            self.assertEqual(incoming.state, In.UNPROVEN)
            result = b"<db:result from='a.example' to='b.example'>key</db:result>"
            events = incoming.receive(result, 1.0)
            self.assertEqual(names(events), next)
            self.assertEqual(b"type='error'" in incoming.output(), security is STRICT)

    def test_plaintext_after_starttls(self) -> None:
        """What came in clear after the request for TLS is never read, however wrong it is."""
        for rest in (
            b"<message from='x@a.example' to='y@b.example'/>",
            b"<<<",
            b"</stream:stream>",
        ):
            stream = IncomingStream(World("b.example", security=OPTIONAL))
            stream.connected(1.0)
            stream.receive(header("a.example", "b.example"), 1.0)
            events = stream.receive(
                b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" + rest, 1
            )
            self.assertEqual(names(events), ["BeginTls"])
            self.assertTrue(
                stream.output().endswith(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            )
            self.assertEqual(stream.tls_done(Shown("a.example"), 1.0), [])
            self.assertIs(stream.state, In.HEADER)

    def test_policy(self) -> None:
        """A domain that policy refuses gets policy-violation with our words, and nothing else."""
        world = World("b.example", security=CLEAR)
        world.refused["a.example"] = "a.example is on the list"
        stream = IncomingStream(world)
        stream.connected(1.0)
        events = stream.receive(header("a.example", "b.example"), 1.0)
        self.assertEqual(names(events), ["StreamClosed"])
        output = stream.output().decode()
        self.assertIn("<policy-violation", output)
        self.assertIn("a.example is on the list", output)
        self.assertNotIn("features", output)


class OutgoingTests(unittest.SynchronousTestCase):
    """The initiating side against a scripted peer."""

    def stream(self, security: Security = CLEAR, **options: Any) -> OutgoingStream:
        stream = OutgoingStream(
            World("a.example", security=security), "a.example", "b.example", **options
        )
        stream.connected(1.0)
        return stream

    def features(self, stream: OutgoingStream, inside: str = "") -> list[Any]:
        head = header("b.example", "a.example")
        return stream.receive(head + f"<stream:features>{inside}</stream:features>".encode(), 1.0)

    def test_unasked_valid(self) -> None:
        """A "valid" that nobody asked for, or for another pair, opens nothing."""
        stream = self.stream()
        self.features(stream)
        for answer in (
            dialback.result_answer("b.example", "a2.example", True),
            dialback.result_answer("evil.example", "a.example", True),
            dialback.verify_answer("b.example", "a.example", "s1", True),
            "<db:result type='valid'/>",
        ):
            self.assertEqual(stream.receive(answer.encode(), 1.0), [])
            self.assertIs(stream.state, Out.DIALBACK)
        events = stream.receive(dialback.result_answer("b.example", "a.example", True).encode(), 1)
        self.assertEqual(names(events), ["PairProven"])

    def test_verify(self) -> None:
        """Questions wait for the stream to open, and answers are matched by pair and id."""
        stream = self.stream(verify_only=True)
        stream.verify("a.example", "b.example", "id1", "k1", 1.0)
        self.assertNotIn(b"db:verify", stream.output())
        self.features(stream)
        self.assertIn(b"<db:verify from='a.example' to='b.example' id='id1'>k1", stream.output())
        wrong = dialback.verify_answer("b.example", "a.example", "id2", True)
        self.assertEqual(stream.receive(wrong.encode(), 1.0), [])
        right = dialback.verify_answer("b.example", "a.example", "id1", True)
        self.assertEqual(
            stream.receive(right.encode(), 1.0),
            [VerifyAnswered("a.example", "b.example", "id1", True, "")],
        )
        self.assertEqual(stream.receive(right.encode(), 1.0), [])
        stream.verify("a.example", "b.example", "id3", "k3", 5.0)
        self.assertEqual(stream.handle_timers(24.0), [])
        self.assertEqual(names(stream.handle_timers(25.0)), ["VerifyAnswered"])

    def test_keys_do_not_come_by_the_stream_they_went_by(self) -> None:
        """A question about keys on our own stream is refused."""
        stream = self.stream()
        self.features(stream)
        key = stream._world.keys.key("b.example", "a.example", "s1")
        stream.output()
        stream.receive(dialback.verify("b.example", "a.example", "s1", key).encode(), 1.0)
        self.assertIn(b"<not-allowed", stream.output())

    def test_refusals(self) -> None:
        """Each way in which a peer can refuse says what to do next."""
        tls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
        failure = b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>"
        for security, retry in ((OPTIONAL, Retry.WITHOUT_TLS), (STRICT, Retry.LATER)):
            stream = self.stream(security)
            self.features(stream, tls)
            (closed,) = stream.receive(failure, 1.0)
            self.assertEqual(closed.retry, retry)
        again = self.stream(OPTIONAL, in_clear=True)
        self.features(again, tls)
        self.assertIs(again.state, Out.DIALBACK)
        invalid = dialback.result_answer("b.example", "a.example", False)
        (closed,) = again.receive(invalid.encode(), 1.0)
        self.assertIn("do all nodes have the same secret?", closed.words)
        self.assertIs(closed.retry, Retry.NEVER)
        error = self.stream()
        self.features(error)
        answer = dialback.result_error("b.example", "a.example", "remote-server-timeout", "slow")
        (closed,) = error.receive(answer.encode(), 1.0)
        self.assertIn("remote-server-timeout: slow", closed.words)
        self.assertIs(closed.retry, Retry.LATER)
        unknown = self.stream()
        self.features(unknown)
        answer = dialback.result_error("b.example", "a.example", "remote-server-not-found", "DNS")
        (closed,) = unknown.receive(answer.encode(), 1.0)
        self.assertIs(closed.retry, Retry.NEVER)

    def test_sasl_refused(self) -> None:
        """SASL EXTERNAL refused: dialback on the same stream, else after a new connection."""
        mechanisms = (
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>"
            "<mechanism>PLAIN</mechanism><mechanism>EXTERNAL</mechanism></mechanisms>"
        )
        failure = b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
        for end, retry in ((failure, None), (b"</stream:stream>", Retry.WITHOUT_SASL)):
            stream = OutgoingStream(World("a.example"), "a.example", "b.example")
            stream.connected(1.0, direct_tls=True)
            stream.tls_done(Shown("b.example"), 1.0)
            self.features(stream, mechanisms)
            self.assertIs(stream.state, Out.SASL)
            events = stream.receive(end, 1.0)
            if retry is None:
                self.assertIs(stream.state, Out.DIALBACK)
            else:
                self.assertIs(events[-1].retry, retry)

    def test_wrong_peer(self) -> None:
        """A peer that calls itself something else is left."""
        stream = self.stream()
        (closed,) = stream.receive(header("c.example", "a.example"), 1.0)
        self.assertEqual((closed.condition, closed.retry), ("invalid-from", Retry.LATER))

    def test_times_out(self) -> None:
        """A negotiation that takes too long ends."""
        stream = self.stream()
        self.assertEqual(stream.next_timer, 31.0)
        self.assertEqual(stream.handle_timers(30.9), [])
        (closed,) = stream.handle_timers(31.0)
        self.assertEqual(closed.condition, "connection-timeout")
        self.assertIsNone(stream.next_timer)


class IncomingTests(unittest.SynchronousTestCase):
    """The receiving side against a scripted peer."""

    def stream(self, **limits: Any) -> IncomingStream:
        world = World("b.example", "b2.example", security=CLEAR, limits=StreamLimits(**limits))
        stream = IncomingStream(world)
        stream.connected(1.0)
        stream.receive(header("a.example", "b.example"), 1.0)
        stream.output()
        return stream

    def ask(self, stream: IncomingStream, remote: str = "a.example") -> list[Any]:
        return stream.receive(dialback.result(remote, "b.example", "k").encode(), 2.0)

    def test_verdicts(self) -> None:
        """Valid opens the pair, once; invalid ends the stream; an error leaves it as it was."""
        stream = self.stream()
        (wanted,) = self.ask(stream)
        self.assertEqual(wanted, VerifyWanted("b.example", "a.example", stream.id, "k"))
        self.assertEqual(self.ask(stream), [])  # asked already
        self.assertEqual(stream.verdict("b2.example", "a.example", True, "", 2.0), [])
        events = stream.verdict("b.example", "a.example", True, "", 2.0)
        self.assertEqual(names(events), ["PairProven"])
        self.assertEqual(stream.verdict("b.example", "a.example", True, "", 2.0), [])
        other = self.stream()
        self.ask(other)
        (refused,) = other.verdict("b.example", "a.example", False, "resource-constraint", 2)
        self.assertEqual(refused.words, "its own server cannot be asked: resource-constraint")
        self.assertIn(b"<resource-constraint", other.output())
        self.ask(other)
        self.assertEqual(
            names(other.verdict("b.example", "a.example", False, "", 2.0)), ["StreamClosed"]
        )

    def test_pending_dialbacks_are_bounded(self) -> None:
        """Each request costs us a connection, so only so many may be open at once."""
        stream = self.stream(pending=3)
        for number in range(3):
            self.assertEqual(names(self.ask(stream, f"d{number}.example")), ["VerifyWanted"])
        (closed,) = self.ask(stream, "d3.example")
        self.assertEqual(closed.condition, "policy-violation")

    def test_pending_dialbacks_end(self) -> None:
        """An authority that never answers is a dialback error, and then the stream's time is up."""
        stream = self.stream()
        stream.receive(dialback.result("a.example", "b.example", "k").encode(), 25.0)
        self.assertEqual(stream.handle_timers(31.0), [])  # the answer may still come
        self.assertEqual(names(stream.handle_timers(45.0)), ["PairRefused"])
        self.assertIn(b"<remote-server-timeout", stream.output())
        (closed,) = stream.handle_timers(51.0)
        self.assertEqual(closed.condition, "connection-timeout")

    def test_never_a_domain_of_ours(self) -> None:
        """Nobody proves to be one of us."""
        stream = self.stream()
        stream.receive(dialback.result("b2.example", "b.example", "k").encode(), 2.0)
        self.assertIn(b"<not-allowed", stream.output())
        world = World("b.example", security=CLEAR)
        other = IncomingStream(world)
        other.connected(1.0)
        (closed,) = other.receive(header("b.example", "b.example"), 1.0)
        self.assertEqual(closed.condition, "invalid-from")

    def test_bad_addresses(self) -> None:
        """A malformed address of a proven domain costs the stanza, not the stream."""
        stream = self.stream()
        self.ask(stream)
        stream.verdict("b.example", "a.example", True, "", 2.0)
        (bad,) = stream.receive(b"<message from='x@a.example' to='@b.example/&quot;' id='1'/>", 2.0)
        self.assertIsInstance(bad, BadStanza)
        (closed,) = stream.receive(b"<message from='x@evil.example' to='@b.example/'/>", 2.0)
        self.assertEqual(closed.condition, "invalid-from")

    def test_limits_grow_with_proof(self) -> None:
        """Before a domain is proven stanzas are small; after, they may be large."""
        large = b"<message from='x@a.example' to='y@b.example'><body>%s</body></message>" % (
            b"x" * 100_000
        )
        (closed,) = self.stream().receive(large, 2.0)
        self.assertEqual(closed.condition, "policy-violation")
        stream = self.stream()
        self.ask(stream)
        stream.verdict("b.example", "a.example", True, "", 2.0)
        self.assertEqual(names(stream.receive(large, 2.0)), ["Stanza"])


class TlsTests(unittest.SynchronousTestCase):
    """Certificates judged."""

    def test_refused_server(self) -> None:
        """A server that must prove itself and does not is told why, before anything is sent."""
        pipe = Pipe(STRICT, STRICT, receiver_certificate=Shown("", "expired"))
        pipe.run()
        closed = next(event for event in pipe.out_events if isinstance(event, StreamClosed))
        self.assertEqual(
            closed.words, "a valid certificate is required: the certificate is expired"
        )
        self.assertIs(closed.retry, Retry.NEVER)
        self.assertIsInstance(pipe.out_events[0], BeginTls)
        self.assertNotIn("<auth", "".join(pipe.log))
