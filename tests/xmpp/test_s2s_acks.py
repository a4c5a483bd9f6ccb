"""Acknowledgements between servers (XEP-0198)."""

from __future__ import annotations

from twisted.trial import unittest

from impfed.xmpp.s2s_parts import Acknowledged
from tests.xmpp.s2s_pipe import Pipe
from tests.xmpp.test_s2s_streams import SM, STRICT, text


class AckTests(unittest.SynchronousTestCase):
    """Stream management."""

    def setUp(self) -> None:
        self.pipe = Pipe(STRICT, STRICT)
        self.pipe.run()

    def test_counts(self) -> None:
        """Stanzas are kept until they are counted; one request is open at a time."""
        pipe, out = self.pipe, self.pipe.out
        for number in range(3):
            out.send(text("x@a.example", "y@b.example", str(number)))
        data = out.output()
        self.assertEqual(data.count(b"<r xmlns"), 1)
        out.send(text("x@a.example", "y@b.example", "3"))
        self.assertNotIn(b"<r xmlns", out.output())
        self.assertEqual(len(out.acks.waiting), 4)
        pipe._in(data)
        events = out.receive(pipe.in_.output(), pipe.now)
        (event,) = events
        assert isinstance(event, Acknowledged)
        self.assertEqual(len(event.stanzas), 3)
        self.assertEqual([stanza.id for stanza in out.left()], ["3"])

    def test_lies(self) -> None:
        """A count of what was never sent, or no count, ends the stream."""
        for count in ("7", "-1", "x", ""):
            self.setUp()
            (closed,) = self.pipe.out.receive(f"<a xmlns='{SM}' h='{count}'/>".encode(), 1.0)
            self.assertTrue(closed.by_us)

    def test_silence(self) -> None:
        """A peer that acknowledges nothing for 60 s is given up."""
        out = self.pipe.out
        self.assertEqual(out.next_timer, 140.0)
        self.assertEqual(out.handle_timers(140.0), [])
        self.assertIn(b"<r xmlns", out.output())
        self.assertEqual(out.next_timer, 160.0)
        (closed,) = out.handle_timers(160.0)
        self.assertEqual(closed.condition, "connection-timeout")

    def test_refused(self) -> None:
        """A peer that offers and then refuses is believed without acknowledgements."""
        out = self.pipe.out
        out.send(text("x@a.example", "y@b.example"))
        out.output()
        out.receive(f"<failed xmlns='{SM}'/>".encode(), 1.0)
        self.assertEqual((out.left(), out.next_timer), ([], None))
