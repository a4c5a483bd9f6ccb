"""Relayed texts in the ledger."""

from __future__ import annotations

from impfed.store.records import RelayedTextRecord
from impfed.transport.s2s_api import Fate
from impfed.transport.s2s_bounce import bounced
from impfed.xmpp.stanza import OutStanza
from tests.relay.world import RelayCase

JULIET, ROMEO = "juliet@home.example", "romeo@verona.example"
OUT = f"from='{JULIET}/b' to='{ROMEO}'"
SAID = f"<message {OUT} id='m1' type='chat'><body>Ay me!</body></message>"


class OutTests(RelayCase):
    """Texts of local users."""

    def sent(self, xml: str = SAID) -> OutStanza:
        self.up()
        self.local(xml)
        return self.streams.stanzas[-1]

    def test_on_its_way(self) -> None:
        """Until S2S tells more, it is found among what is on its way, by id and by both addresses."""
        self.sent()
        (entry,) = self.relay.ledger.find("m1")
        for text in (entry.id, JULIET, ROMEO):
            self.assertEqual(self.relay.ledger.find(text), [entry])
        self.assertEqual(entry.outcome, "queued")
        self.assertEqual(entry.detail, "waiting for a stream to verona.example")
        self.assertEqual(self.store.entries, {})
        self.assertNotIn("Ay me", str(entry))

    def test_fates(self) -> None:
        """It ends as far as anything is known: acknowledged, written, or returned with the reason."""
        stanza = self.sent()
        for fate, outcome in (
            (Fate.WRITTEN, "written"),
            (Fate.ACKNOWLEDGED, "acknowledged"),
        ):
            self.relay.ledger.fate(stanza, fate, "", "")
            self.assertEqual(self.store.last.outcome, outcome)
            self.assertEqual(self.store.last.detail, "")
        words = "no stream in time"
        self.relay.ledger.fate(stanza, Fate.RETURNED, "remote-server-timeout", words)
        entry = self.store.last
        self.assertEqual(
            (entry.outcome, entry.xmpp_condition, entry.detail),
            ("bounced", "remote-server-timeout", words),
        )
        self.assertEqual((entry.direction, entry.far, entry.stanza_id), ("out", "xmpp", "m1"))
        self.assertEqual(len(self.store.entries), 1)
        self.assertEqual(self.relay.ledger.find("m1"), [])

    def test_error_of_the_far_side(self) -> None:
        """What the foreign server returns later is entered in the same line."""
        stanza = self.sent()
        self.relay.ledger.fate(stanza, Fate.ACKNOWLEDGED, "", "")
        self.far(
            f"<message from='{ROMEO}' to='{JULIET}/b' id='m1' type='error'><error type='cancel'>"
            "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        entry = self.store.last
        self.assertEqual((entry.outcome, entry.xmpp_condition), ("bounced", "service-unavailable"))
        self.assertEqual(entry.detail, "the foreign server returned it")
        self.assertEqual(len(self.store.entries), 1)

    def test_refused_domain(self) -> None:
        """What policy refuses is there, with the reason."""
        self.up()
        self.local(SAID.replace("verona.example", "x.spam.example"))
        entry = self.store.last
        self.assertEqual((entry.outcome, entry.xmpp_condition), ("bounced", "not-allowed"))
        self.assertIn("spam.example", entry.detail)

    def test_kept_while_it_waits(self) -> None:
        """A text that waits for a stream is in the store until its end is known."""
        for end in (Fate.WRITTEN, Fate.ACKNOWLEDGED):
            stanza = self.sent() if not self.streams.stanzas else self.streams.stanzas[-1]
            for _ in range(2):
                self.relay.ledger.fate(stanza, Fate.WAITING, "", "")
            (kept,) = self.store.texts.values()
            self.assertEqual((kept.local, kept.foreign), (f"{JULIET}/b", ROMEO))
            self.assertEqual(kept.xml, stanza.xml)
            self.assertEqual(len(self.relay.ledger.find("m1")), 1)
            self.relay.ledger.fate(stanza, end, "", "")
            self.assertEqual(self.store.texts, {})
            self.assertEqual(self.relay.ledger.find("m1"), [])

    def test_safe_while_it_waits(self) -> None:
        """A home server that keeps a text until it is safe may forget it once it is in the store."""
        told: list[str] = []
        first = self.sent()
        self.relay.departures.settle("verona.example", lambda: told.append("first"))
        self.store.error = OSError("disk full")
        self.relay.fate(first, Fate.WAITING, "", "")
        self.assertEqual(told, [])
        self.relay.fate(first, Fate.WRITTEN, "", "")
        self.assertEqual(told, ["first"])
        self.store.error = None
        self.local(SAID)
        self.relay.departures.settle("verona.example", lambda: told.append("second"))
        self.assertEqual(told, ["first"])
        self.relay.fate(self.streams.stanzas[-1], Fate.WAITING, "", "")
        self.assertEqual(told, ["first", "second"])

    def left_behind(self) -> RelayedTextRecord:
        self.relay.ledger.fate(self.sent(), Fate.WAITING, "", "")
        (kept,) = self.store.texts.values()
        self.streams.take()
        self.streams.stanzas.clear()
        return kept

    def test_sent_by_the_next_process(self) -> None:
        """What a killed process has left behind is sent as it was, and told of in the same line."""
        kept = self.left_behind()
        self.relay.restore([kept], kept.received_at + 10)
        (stanza,) = self.streams.stanzas
        self.assertEqual((stanza.xml, stanza.id), (kept.xml, "m1"))
        self.relay.fate(stanza, Fate.ACKNOWLEDGED, "", "")
        self.assertEqual((self.store.last.id, self.store.last.outcome), (kept.id, "acknowledged"))
        self.assertEqual(self.store.texts, {})

    def test_old_news(self) -> None:
        """What has waited through a long absence of the node goes back to its sender."""
        kept = self.left_behind()
        self.wires[-1].take()
        self.relay.restore([kept], kept.received_at + 301)
        self.assertEqual(self.streams.stanzas, [])
        told = self.turn()
        self.assertIn("<remote-server-timeout ", told)
        self.assertIn("this node was away", told)
        self.assertIn("Ay me!", told)
        self.assertEqual((self.store.last.id, self.store.last.outcome), (kept.id, "bounced"))
        self.pong(self.ping_id(told))
        self.assertEqual(self.store.texts, {})

    def test_returned(self) -> None:
        """What S2S returns is kept until its sender knows: a process that is killed before does it again."""
        stanza = self.sent()
        self.relay.fate(stanza, Fate.WAITING, "", "")
        self.relay.fate(stanza, Fate.RETURNED, "remote-server-timeout", "no stream")
        error = bounced(stanza, "remote-server-timeout", "no stream")
        assert error is not None
        self.relay.stanza_arrived(error, None)
        told = self.turn()
        self.assertIn("<remote-server-timeout ", told)
        self.assertEqual(len(self.store.texts), 1)
        self.pong(self.ping_id(told))
        self.assertEqual(self.store.texts, {})

    def test_no_texts(self) -> None:
        """Typing notices, rooms and errors are none."""
        self.up()
        for xml in (
            f"<message {OUT} type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>",
            f"<message {OUT} type='groupchat'><body>x</body></message>",
            f"<message {OUT} type='error'><body>x</body></message>",
        ):
            self.local(xml)
            self.assertIs(type(self.streams.stanzas[-1]), OutStanza)
        self.assertEqual(self.relay.ledger.find(ROMEO), [])
