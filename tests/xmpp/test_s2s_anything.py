"""Streams between servers that are sent anything at all."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from impfed.xmpp import dialback
from impfed.xmpp.s2s_in import IncomingStream
from impfed.xmpp.s2s_in import State as In
from impfed.xmpp.s2s_out import OutgoingStream
from impfed.xmpp.s2s_out import State as Out
from impfed.xmpp.s2s_parts import PairProven
from impfed.xmpp.s2s_security import Security
from impfed.xmpp.stanza import Stanza
from tests.xmpp.s2s_pipe import Shown, World
from tests.xmpp.test_s2s_streams import CLEAR, OPTIONAL, SM, STRICT, header

TLS, SASL = "urn:ietf:params:xml:ns:xmpp-tls", "urn:ietf:params:xml:ns:xmpp-sasl"
ANYTHING = [
    f"<starttls xmlns='{TLS}'/>", f"<proceed xmlns='{TLS}'/>", f"<failure xmlns='{TLS}'/>",
    f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>=</auth>",
    f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>YS5leGFtcGxl</auth>",
    f"<success xmlns='{SASL}'/>", f"<failure xmlns='{SASL}'><not-authorized/></failure>",
    f"<challenge xmlns='{SASL}'/>", f"<abort xmlns='{SASL}'/>",
    "<stream:features/>",
    f"<stream:features><starttls xmlns='{TLS}'/></stream:features>",
    f"<stream:features><mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>"
    f"<bidi xmlns='urn:xmpp:features:bidi'/><sm xmlns='{SM}'/></stream:features>",
    dialback.result("a.example", "b.example", "k"), dialback.result("c.example", "b.example", "k"),
    dialback.result_answer("b.example", "a.example", True),
    dialback.result_answer("b.example", "a.example", False),
    dialback.result_error("b.example", "a.example", "item-not-found"),
    dialback.verify("a.example", "b.example", "1", "k"),
    dialback.verify_answer("b.example", "a.example", "1", True),
    "<bidi xmlns='urn:xmpp:bidi'/>", f"<enable xmlns='{SM}'/>", f"<enabled xmlns='{SM}'/>",
    f"<failed xmlns='{SM}'/>", f"<resume xmlns='{SM}' h='0' previd='x'/>", f"<r xmlns='{SM}'/>",
    f"<a xmlns='{SM}' h='0'/>", f"<a xmlns='{SM}' h='1'/>",
    "<message from='x@a.example' to='y@b.example'/>", "<message from='y@b.example' to='x@a.example'/>",
    "<message from='@' to='y@b.example'/>", "<iq to='b.example'/>", "<foo xmlns='bar'/>", " ",
    "VALID", "INVALID", "TIME", "SECURED", "HEADER",
]  # fmt: skip


class AnythingTests(unittest.SynchronousTestCase):
    """Whatever comes, in whatever order: no exception, and no stanza without proof."""

    def say(self, stream: Any, what: str, own: str, peer: str) -> list[Any]:
        now = stream._now + (40.0 if what == "TIME" else 0.1)
        if what == "TIME":
            return list(stream.handle_timers(now))
        if what in ("VALID", "INVALID"):
            if isinstance(stream, IncomingStream):
                valid = what == "VALID"
                return list(stream.verdict("b.example", "a.example", valid, "", now))
            return []
        if what == "SECURED":
            waits = stream.state in (In.SECURING, Out.SECURING)
            return list(stream.tls_done(Shown(peer), now)) if waits else []
        data = header(peer, own) if what == "HEADER" else what.encode()
        return list(stream.receive(data, now))

    @given(
        st.lists(st.sampled_from(ANYTHING), max_size=25), st.sampled_from([OPTIONAL, STRICT, CLEAR])
    )
    @settings(max_examples=400, deadline=None)
    def test_incoming(self, script: list[str], security: Security) -> None:
        """The receiving side."""
        stream = IncomingStream(World("b.example", security=security))
        stream.connected(1.0)
        proven: set[str] = set()
        for what in ["HEADER", *script]:
            for event in self.say(stream, what, "b.example", "a.example"):
                if isinstance(event, PairProven):
                    proven.add(event.remote)
                if isinstance(event, Stanza):
                    self.assertIn(event.from_.domain, proven)
            stream.output()

    @given(
        st.lists(st.sampled_from(ANYTHING), max_size=25), st.sampled_from([OPTIONAL, STRICT, CLEAR])
    )
    @settings(max_examples=400, deadline=None)
    def test_outgoing(self, script: list[str], security: Security) -> None:
        """The initiating side."""
        stream = OutgoingStream(World("a.example", security=security), "a.example", "b.example")
        stream.connected(1.0)
        receiving = False
        for what in ["HEADER", *script]:
            for event in self.say(stream, what, "a.example", "b.example"):
                if isinstance(event, PairProven):
                    receiving = event.receiving
                if isinstance(event, Stanza):
                    self.assertTrue(receiving)
            stream.output()
