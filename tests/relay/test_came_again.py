"""Stanzas that a home server hands over once more, for it has not heard that they are safe."""

from __future__ import annotations

from impfed.transport.s2s_api import Fate
from tests.relay.test_ledger import SAID
from tests.relay.world import RelayCase, read


class CameAgainTests(RelayCase):
    """Juliet writes once."""

    def hand(self, xml: str, mark: str) -> int:
        """Take a stanza with a mark; return how many go to the foreign server."""
        stanza = read(xml)
        stanza.handed = mark
        self.relay.from_home(stanza)
        return len(self.streams.take())

    def test_once(self) -> None:
        """A text or question goes once for each hand-over; presence may be told again."""
        for kind, xml in (
            ("m", SAID),
            ("q", "<iq from='juliet@home.example/b' to='verona.example' type='get' id='1'/>"),
        ):
            counts = [self.hand(xml, mark) for mark in (f"{kind}:1", f"{kind}:1", f"{kind}:2")]
            self.assertEqual(counts, [1, 0, 1])
            self.assertEqual([self.hand(xml, ""), self.hand(xml, "")], [1, 1])
        there = "<presence from='juliet@home.example/b' to='romeo@verona.example'/>"
        self.assertEqual([self.hand(there, "p:1"), self.hand(there, "p:1")], [1, 1])

    def test_after_a_kill(self) -> None:
        """A text that the last process has written down is known by its record."""
        self.hand(SAID, "Q:1")
        (stanza,) = self.streams.stanzas
        self.relay.fate(stanza, Fate.WAITING, "", "")
        (kept,) = self.store.texts.values()
        self.setUp()
        self.relay.restore([kept], kept.received_at)
        self.streams.take()
        self.assertEqual(self.hand(SAID, "Q:1"), 0)

    def test_refused(self) -> None:
        """What was refused is refused again: the first answer may have been lost."""
        self.up()
        said = SAID.replace("verona.example", "x.spam.example")
        for _ in range(2):
            self.assertEqual(self.hand(said, "Q:1"), 0)
            self.assertIn("<not-allowed", self.turn())
