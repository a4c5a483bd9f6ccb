"""Messages to home servers: confirmed, sent again, or returned."""

from __future__ import annotations

from impfed.relay.delivery import HOLD, SETTLE
from impfed.transport.link_api import LinkLimits
from impfed.transport.s2s_api import Fate
from tests.relay.world import RelayCase, read

JULIET, ROMEO = "juliet@home.example", "romeo@verona.example"
IN = f"from='{ROMEO}/orchard' to='{JULIET}'"


def said(body: str, id: str = "m") -> str:
    return f"<message {IN} id='{id}' type='chat'><body>{body}</body></message>"


class DeliveryTests(RelayCase):
    """Under the acceptance barrier."""

    def test_confirmed(self) -> None:
        """A message is delivered when the home server has answered what was asked after it."""
        self.up()
        written = self.far(said("hi"))
        self.assertEqual(self.store.entries, {})
        self.pong(self.ping_id(written))
        entry = self.store.last
        self.assertEqual((entry.outcome, entry.direction, entry.far), ("delivered", "in", "xmpp"))
        self.assertEqual((entry.local, entry.foreign), (JULIET, ROMEO))
        self.assertEqual((entry.stanza_id, entry.node, entry.sip_status), ("m", "n1", 0))
        self.assertNotIn("hi", str(entry))

    def test_same_id_twice(self) -> None:
        """Messages of one sender with one id, or with none, are confirmed each by itself."""
        self.up()
        for body in ("one", "two"):
            self.relay.stanza_arrived(read(said(body)), object())
        self.relay.stanza_arrived(read(f"<message {IN}><body>three</body></message>"), object())
        written = self.turn()
        self.assertNotIn("id='r", written)
        self.pong(self.ping_id(written))
        outcomes = [entry.outcome for entry in self.store.entries.values()]
        self.assertEqual(outcomes, ["delivered"] * 3)
        self.assertEqual(self.streams.take(), [])

    def test_home_server_dies(self) -> None:
        """What it had not confirmed goes again over the next link, in order, before anything new."""
        self.up()
        self.far(said("one", "1"))
        self.relay.stanza_arrived(read(said("two", "2")), object())  # not written yet
        self.lose()
        self.assertEqual(self.streams.take(), [])
        (newest, _) = self.relay.ledger.find(ROMEO)
        self.assertIn("goes again", newest.detail)
        self.reactor.advance(5)
        wire = self.open_unread()
        written = wire.take()
        self.assertLess(written.index("one"), written.index("two"))
        self.pong(self.ping_id(written))
        self.assertEqual([each.outcome for each in self.store.entries.values()], ["delivered"] * 2)
        self.assertEqual(self.relay.ledger.find(ROMEO), [])
        self.assertEqual(self.relay_metrics.value("relay.sent_again"), 2)

    def test_home_server_stays_away(self) -> None:
        """After a while the sender gets it back, and is told that it may have arrived."""
        self.up()
        self.far(said("hi"))
        self.lose()
        self.reactor.advance(HOLD - 1)
        self.assertEqual(self.streams.take(), [])
        self.reactor.advance(1)
        (error,) = self.streams.take()
        self.assertIn("<recipient-unavailable ", error)
        self.assertIn("may have it all the same", error)
        self.assertIn("<body>hi</body>", error)
        self.assertEqual(self.store.last.outcome, "unsure")

    def test_half_open(self) -> None:
        """What a link has swallowed goes again in order over the next one, and nobody gets it back."""
        self.up()
        for body in ("one", "two"):
            self.far(said(body))
            self.reactor.advance(5)
        self.reactor.advance(10)
        self.reactor.advance(5)
        written = self.open_unread().take()
        self.assertLess(written.index("one"), written.index("two"))
        self.pong(self.ping_id(written))
        self.assertEqual([each.outcome for each in self.store.entries.values()], ["delivered"] * 2)
        self.assertEqual(self.streams.take(), [])

    def test_home_server_hangs(self) -> None:
        """One that takes links and texts and confirms nothing gets a text a few times, then it comes back."""
        self.up()
        self.far(said("hi"))
        for _ in range(2):
            self.reactor.advance(20)
            self.reactor.advance(5)
            self.assertEqual(self.streams.take(), [])
            self.assertIn("hi", self.open_unread().take())
        self.reactor.advance(20)
        (error,) = self.streams.take()
        self.assertIn("<recipient-unavailable ", error)
        self.assertEqual(self.store.last.outcome, "unsure")

    def test_refused_by_the_home_server(self) -> None:
        """Its error passes as it came, and the ledger has the condition."""
        self.up()
        written = self.far(said("hi"))
        (error,) = self.local(
            f"<message from='{JULIET}' to='{ROMEO}/orchard' id='m' type='error'><error type='cancel'>"
            "<item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        self.assertIn("<item-not-found ", error)
        self.pong(self.ping_id(written))
        entry = self.store.last
        self.assertEqual((entry.outcome, entry.xmpp_condition), ("bounced", "item-not-found"))
        self.assertEqual(len(self.store.entries), 1)

    def test_no_link_at_all(self) -> None:
        """While the link is down new messages come back at once."""
        self.up()
        self.lose()
        self.relay.stanza_arrived(read(said("hi")), object())
        (error,) = self.streams.take()
        self.assertIn("<recipient-unavailable ", error)
        entry = self.store.last
        self.assertEqual(
            (entry.outcome, entry.xmpp_condition), ("bounced", "recipient-unavailable")
        )

    def test_returned_text_reaches_its_sender(self) -> None:
        """An error for a local user, too, goes again when the home link breaks."""
        self.up()
        error = f"<message {IN} type='error' id='m'><error type='wait'/></message>"
        self.relay.stanza_arrived(read(error), None)
        self.turn()
        self.lose()
        self.reactor.advance(5)
        self.assertIn("type='error'", self.open_unread().take())
        self.assertEqual(self.streams.take(), [])

    def test_error_waits_for_its_reader(self) -> None:
        """That a text has not arrived is told when the home server is back, for ten minutes."""
        self.up()
        self.lose()
        error = f"<message {IN} type='error' id='m'><error type='wait'/></message>"
        self.relay.stanza_arrived(read(error), None)
        self.reactor.advance(5 * HOLD + 1)
        self.assertIn("id='m'", self.open_unread().take())
        self.lose()
        self.relay.stanza_arrived(read(error.replace("'m'", "'late'")), None)
        for _ in range(25):
            self.reactor.advance(HOLD)
        self.assertNotIn("late", self.open_unread().take())
        self.assertEqual(self.streams.take(), [])

    def test_error_on_a_link_that_is_dead(self) -> None:
        """It is not lost on a link whose end nobody has noticed yet: it goes again over the next."""
        self.up()
        error = f"<message {IN} type='error' id='m'><error type='wait'/></message>"
        self.far(error)
        self.pass_unconfirmed(20)
        self.lose()
        self.reactor.advance(5)
        self.assertIn("type='error'", self.open_unread().take())

    def test_error_that_is_not_confirmed(self) -> None:
        """A home server that does not confirm it is given it again, but not for ever."""
        self.up()
        error = f"<message {IN} type='error' id='m'><error type='wait'/></message>"
        self.far(error)
        self.pass_unconfirmed(20 + HOLD)
        self.assertIn("type='error'", self.turn())
        self.pass_unconfirmed(40 * HOLD)
        self.turn()
        self.pass_unconfirmed(20 + 2 * HOLD)
        self.assertNotIn("type='error'", self.turn())
        self.assertEqual(self.streams.take(), [])

    def test_settled(self) -> None:
        """A foreign server is told that we have a message when the home server has confirmed it."""
        self.up()
        told: list[int] = []
        self.relay.deliveries.settle(lambda: told.append(0))
        self.assertEqual(told, [0])
        first = self.ping_id(self.far(said("one")))
        self.relay.deliveries.settle(lambda: told.append(1))
        self.far(said("two"))
        self.relay.deliveries.settle(lambda: told.append(2))
        self.assertEqual(told, [0])
        self.pong(first)
        self.assertEqual(told, [0, 1])
        self.pong(self.ping_id(self.turn()))
        self.assertEqual(told, [0, 1, 2])

    def test_settled_when_returned(self) -> None:
        """A message that is returned is still its server's until that has taken the error."""
        self.up()
        self.lose()
        told: list[int] = []
        self.relay.stanza_arrived(read(said("one")), object())
        self.relay.deliveries.settle(lambda: told.append(1))
        (error,) = self.streams.stanzas
        for fate in (Fate.WAITING, Fate.ACKNOWLEDGED):
            self.assertEqual(told, [])
            self.relay.fate(error, fate, "", "")
        self.assertEqual(told, [1])

    def test_settled_late(self) -> None:
        """It is told in time, even so, for it would give the stream up."""
        self.up()
        self.far(said("one"))
        told: list[int] = []
        self.relay.deliveries.settle(lambda: told.append(1))
        self.reactor.advance(SETTLE)
        self.assertEqual(told, [1])


class SlowServerTests(RelayCase):
    """A home server that does not keep up."""

    limits = LinkLimits(queue=1, gather=0.0)

    def test_error_waits(self) -> None:
        """What tells a local user that his text has not arrived is not lost: it goes when there is room."""
        wire = self.up()
        wire.producer.pauseProducing()
        self.far(said("one"))
        error = f"<message {IN} type='error' id='m'><error type='wait'/></message>"
        self.assertEqual(self.far(error), "")
        wire.producer.resumeProducing()
        self.pass_unconfirmed(HOLD)
        self.assertIn("type='error'", self.turn())


class BlockedTests(RelayCase):
    """Whom a list blocks."""

    def test_noted(self) -> None:
        """A blocked text is in the ledger with the reason that its sender is not told."""
        self.up()
        self.policies.set(read(said("")).to, ROMEO, "block")
        self.far(said("hi"))
        entry = self.store.last
        self.assertEqual((entry.outcome, entry.xmpp_condition), ("bounced", "service-unavailable"))
        self.assertIn("its sender is blocked", entry.detail)
