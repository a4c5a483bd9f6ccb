"""Texts from a local user to a foreign one (SPEC section 3)."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.target import Hop
from impfed.store.api import StoreError, StoreFault
from impfed.store.records import OutboxRecord
from tests.gateway.harness import CONFIG, World


class OutwardCase(SynchronousTestCase):
    """Alice writes to Romeo."""

    def setUp(self) -> None:
        self.world = World()

    def session(self):
        """Alice's first text makes a session; returns it with that text delivered."""
        world = self.world
        world.alice_writes("first", id="m0")
        world.stack.take("INVITE").accept()
        world.stack.take("MESSAGE").answer(200)
        return world

    def outbox(self):
        found = []
        self.world.store.load(OutboxRecord).addCallback(found.extend)
        return found

    def told(self):
        """The error that Alice's server is given, accepted."""
        return self.world.home.accept().xml


class SessionTests(OutwardCase):
    """The first text makes a session, later ones use it."""

    def test_first_text(self) -> None:
        """INVITE, 200, ACK, then the MESSAGE: with the peer's GRUU as target and its routes."""
        world = self.world
        world.alice_writes("O Romeo &amp; Co")
        invite = world.stack.take("INVITE")
        self.assertEqual(invite.message.uri_text, "sip:romeo@lync.example")
        self.assertIsNone(invite.message.get("supported"))
        self.assertIn("m=message 5060 sip null", invite.body)
        invite.answer(101)
        invite.answer(180)
        self.assertEqual(world.stack.sent, [])
        invite.answer(
            200,
            headers=[
                (
                    "Record-Route",
                    "<sip:sip.lync.example:5061;transport=tls;lr;ms-route-sig=a>;tag=1",
                ),
                ("Record-Route", "<sip:pool.lync.example:5061;transport=tls;lr;opaque=x>"),
                ("Contact", "<sip:romeo@lync.example;opaque=user:epid:x;gruu>"),
            ],
        )
        message = world.stack.take("MESSAGE")
        for request in (world.stack.acks[0], message.message):
            self.assertEqual(request.uri_text, "sip:romeo@lync.example;opaque=user:epid:x;gruu")
            self.assertEqual(
                [route.partition(">")[0] for route in request.values("route")],
                [
                    "<sip:pool.lync.example:5061;transport=tls;lr;opaque=x",
                    "<sip:sip.lync.example:5061;transport=tls;lr;ms-route-sig=a",
                ],
            )
        self.assertEqual(message.body, "O Romeo & Co")
        self.assertIsNone(message.message.get("contact"))
        self.assertEqual(len(self.outbox()), 1)
        message.answer(200)
        self.assertEqual(self.outbox(), [])
        (entry,) = world.ledger()
        self.assertEqual((entry.outcome, entry.stanza_id), ("delivered", "m1"))

    def test_order(self) -> None:
        """Texts go in their order, one at a time, in the one session."""
        world = self.session()
        for number in range(3):
            world.alice_writes(f"t{number}")
        for number in range(3):
            self.assertEqual(len(world.stack.sent), 1)
            message = world.stack.take("MESSAGE")
            self.assertEqual(
                (message.body, message.message.cseq.number), (f"t{number}", number + 3)
            )
            message.answer(200)

    def test_answer_in_the_peers_session(self) -> None:
        """A text uses the session that the peer has opened, over its connection."""
        world = self.world
        world.romeo_opens()
        world.alice_writes("hi")
        message = world.stack.take("MESSAGE")
        self.assertIs(message.transaction.destination, world.flow)
        self.assertEqual(message.message.to_tag, "r1")

    def test_connection_gone(self) -> None:
        """When the session's connection is gone, the text goes to the domain's next hop."""
        world = self.session()
        world.romeo_opens()
        world.flow.alive = False
        world.stack.sent.clear()
        world.alice_writes("hi")
        self.assertIsInstance(world.stack.take("MESSAGE").transaction.destination, Hop)

    def test_long_text(self) -> None:
        """A text above the limit goes as several messages and is delivered when all are taken."""
        self.world = World(replace(CONFIG, domains=(replace(CONFIG.domains[0], text_limit=10),)))
        world = self.session()
        world.alice_writes("one two three four")
        parts = []
        for _ in range(2):
            message = world.stack.take("MESSAGE")
            parts.append(message.body)
            self.assertEqual(len(self.outbox()), 1)
            message.answer(200)
        self.assertEqual(parts, ["one two", "three four"])
        self.assertEqual(self.outbox(), [])

    def test_late_text(self) -> None:
        """A text that had to wait tells when it was written."""
        world = self.world
        world.alice_writes("x")
        world.clock.advance(80)
        world.stack.take("INVITE").accept()
        message = world.stack.take("MESSAGE").message
        self.assertEqual(message.get("date"), "Mon, 21 Sep 2026 14:13:20 GMT")

    def test_receipt(self) -> None:
        """A receipt that was asked for goes back when the far side's server has the text."""
        world = self.session()
        world.alice_writes("x", id="r7", extra="<request xmlns='urn:xmpp:receipts'/>")
        self.assertEqual(world.home.sent, [])
        world.stack.take("MESSAGE").answer(200)
        self.assertIn('<received xmlns="urn:xmpp:receipts" id="r7"/>', world.home.sent[0].xml)

    def test_idle_session_ends(self) -> None:
        """Ten minutes after the last word the session ends with BYE, and nobody sees "gone"."""
        world = self.session()
        world.clock.advance(599)
        world.alice_writes("still here")
        world.stack.take("MESSAGE").answer(200)
        world.clock.advance(599)
        self.assertEqual(world.stack.sent, [])
        world.clock.advance(2)
        world.stack.take("BYE").answer(200)
        self.assertEqual((world.im.view(), len(world.dialogs), world.home.sent), ([], 0, []))

    def test_both_invite(self) -> None:
        """When both sides INVITE, both stand; the one confirmed last carries on, the other ends."""
        world = self.world
        world.alice_writes("mine")
        invite = world.stack.take("INVITE")
        tag = world.romeo_opens()
        first = world.stack.take("MESSAGE")
        self.assertEqual(first.message.call_id, "c1")
        invite.accept()
        world.romeo_writes(tag, "yours")
        self.assertIn("yours", world.home.accept().xml)
        first.answer(200)
        bye = world.stack.take("BYE")
        self.assertEqual(bye.message.call_id, "c1")
        world.romeo_writes(tag, "crossed the BYE", 3)
        self.assertIn("crossed the BYE", world.home.accept().xml)
        bye.answer(200)
        world.alice_writes("again")
        self.assertEqual(world.stack.take("MESSAGE").message.call_id, invite.message.call_id)

    def test_left_after_both_invited(self) -> None:
        """A text under way in the peer's dialog outlives that dialog and our refused INVITE."""
        world = self.world
        world.alice_writes("mine")
        invite = world.stack.take("INVITE")
        tag = world.romeo_opens()
        message = world.stack.take("MESSAGE")
        world.far_dialog("BYE", 2, tag)
        invite.answer(480)
        message.fail("the connection was lost", maybe_delivered=True)
        world.stack.take("INVITE").accept()
        world.stack.take("MESSAGE").answer(200)
        self.assertEqual([entry.outcome for entry in world.ledger()], ["delivered"])

    def test_several_accept(self) -> None:
        """Of several 200s the first is used; the others are acknowledged and ended."""
        world = self.world
        world.alice_writes("hello")
        invite = world.stack.take("INVITE")
        invite.answer(200, to_tag="a", headers=[("Contact", "<sip:romeo@a.lync.example>")])
        message = world.stack.take("MESSAGE")
        invite.answer(200, to_tag="b", headers=[("Contact", "<sip:romeo@b.lync.example>")])
        bye = world.stack.take("BYE")
        self.assertEqual([ack.to_tag for ack in world.stack.acks], ["a", "b"])
        self.assertEqual((message.message.to_tag, bye.message.to_tag), ("a", "b"))


class FailureTests(OutwardCase):
    """No text ends silently: delivered, or its sender is told with the original id and body."""

    def test_nobody_there(self) -> None:
        """404 to the INVITE is item-not-found for each text that waited."""
        world = self.world
        world.alice_writes("a", id="1")
        world.alice_writes("b", id="2")
        world.stack.take("INVITE").answer(404)
        for id, body in (("1", "a"), ("2", "b")):
            xml = self.told()
            self.assertIn(f"id='{id}'", xml)
            self.assertIn(f"<body>{body}</body>", xml)
            self.assertIn("<item-not-found", xml)
            self.assertIn("to='alice@home.example/phone'", xml)
        self.assertEqual(self.outbox(), [])
        self.assertEqual([entry.outcome for entry in world.ledger()], ["bounced", "bounced"])
        self.assertEqual(world.im.view(), [])

    def test_mapped_conditions(self) -> None:
        """Each answer of the far side becomes its condition."""
        for status, condition in (
            (403, "forbidden"),
            (480, "recipient-unavailable"),
            (486, "recipient-unavailable"),
            (488, "not-acceptable"),
            (603, "recipient-unavailable"),
            (606, "not-acceptable"),
        ):
            self.world = World()
            self.world.alice_writes("x")
            self.world.stack.take("INVITE").answer(status)
            self.assertIn(f"<{condition} ", self.told(), status)

    def test_far_sides_diagnostics(self) -> None:
        """What Microsoft says of the cause reaches the sender and the ledger."""
        world = self.world
        world.alice_writes("x")
        world.stack.take("INVITE").answer(
            504,
            headers=[("ms-diagnostics", '1009;reason="No match for domain in DNS SRV results"')],
        )
        self.assertIn("1009", self.told())
        self.assertIn("1009", world.ledger()[0].detail)

    def test_dialog_unknown_over_there(self) -> None:
        """481 to a MESSAGE: it goes once more, in a new session."""
        world = self.session()
        world.alice_writes("again")
        world.stack.take("MESSAGE").answer(481)
        world.stack.take("INVITE").accept()
        message = world.stack.take("MESSAGE")
        self.assertEqual(message.body, "again")
        message.answer(200)
        self.assertEqual(world.ledger()[-1].outcome, "delivered")
        self.assertEqual(world.home.deliveries, [])

    def test_twice_unknown(self) -> None:
        """A second 481 is the end: the sender is told."""
        world = self.session()
        world.alice_writes("again")
        world.stack.take("MESSAGE").answer(481)
        world.stack.take("INVITE").accept()
        world.stack.take("MESSAGE").answer(481)
        self.assertIn("<item-not-found", self.told())

    def test_connection_lost_after_writing(self) -> None:
        """No answer: sent once more, and the ledger says that a duplicate is possible."""
        world = self.session()
        world.alice_writes("maybe")
        world.stack.take("MESSAGE").fail()
        world.stack.take("BYE")
        self.assertTrue(self.outbox()[0].unsure)
        world.stack.take("INVITE").accept()
        world.stack.take("MESSAGE").fail()
        world.stack.take("BYE")
        self.assertIn("may have been delivered", self.told())
        self.assertEqual(world.ledger()[-1].outcome, "unsure")

    def test_never_written(self) -> None:
        """A text that never left is surely not delivered; nothing is unsure."""
        world = self.session()
        world.alice_writes("x")
        world.stack.take("MESSAGE").fail(maybe_delivered=False)
        world.stack.take("BYE")
        world.stack.take("INVITE").fail("connection refused", maybe_delivered=False)
        self.assertIn("<remote-server-timeout", self.told())
        self.assertEqual(world.ledger()[-1].outcome, "bounced")

    def test_refused_text_leaves_the_session(self) -> None:
        """A refused text is returned; the next goes in the same session."""
        world = self.session()
        world.alice_writes("bad", id="1")
        world.alice_writes("good", id="2")
        world.stack.take("MESSAGE").answer(415)
        self.assertIn("id='1'", self.told())
        self.assertEqual(world.stack.take("MESSAGE").body, "good")

    def test_nobody_answers(self) -> None:
        """Without an answer the INVITE is cancelled after its time, and the sender told."""
        world = self.world
        world.alice_writes("hello?")
        invite = world.stack.take("INVITE")
        invite.answer(180)
        world.clock.advance(89)
        self.assertEqual((invite.cancelled, world.home.deliveries), (False, []))
        world.clock.advance(2)
        self.assertTrue(invite.cancelled)
        self.assertIn("<remote-server-timeout", self.told())
        invite.answer(200, headers=[("Contact", "<sip:romeo@lync.example>")])
        world.stack.take("BYE")  # the yes that crossed the CANCEL

    def test_next_hop(self) -> None:
        """500, 503, 504 and no connection lead to the next hop, in order."""
        world = self.world
        hops = [Hop("tls", name, 5061) for name in ("one", "two", "three")]
        world.resolve = lambda query, done: done(hops)
        world.alice_writes("x")
        world.stack.take("INVITE").answer(503)
        world.stack.take("INVITE").fail("connection refused", maybe_delivered=False)
        last = world.stack.take("INVITE")
        self.assertEqual(last.transaction.destination.host, "three")
        last.accept()
        self.assertEqual(world.stack.take("MESSAGE").body, "x")

    def test_no_route(self) -> None:
        """A domain without a next hop: the sender is told."""
        domain = replace(CONFIG.domains[0], next_hop=None)
        self.world = World(replace(CONFIG, domains=(domain,)))
        self.world.alice_writes("x")
        self.assertIn("no route leads to lync.example", self.told())

    def test_foreign_domain_not_served(self) -> None:
        """A domain that is not configured is refused at once."""
        self.world.alice_writes("x", to="bob@nowhere.example")
        self.assertIn("<remote-server-not-found", self.world.home.sent[0].xml)
        self.assertEqual(self.outbox(), [])

    def test_error_waits_for_the_home_link(self) -> None:
        """An error that the home link cannot take stays written down and goes when it is up."""
        world = self.world
        world.alice_writes("x")
        world.home.up = False
        world.stack.take("INVITE").answer(404)
        self.assertEqual(len(self.outbox()), 1)
        world.home.up = True
        world.clock.advance(5)
        self.assertIn("<item-not-found", self.told())
        self.assertEqual(self.outbox(), [])

    def test_store_refuses(self) -> None:
        """A text that cannot be written down is not taken over: its sender is told at once."""
        self.world.store.failing = StoreError(StoreFault.FULL, "disk full")
        self.world.alice_writes("x")
        self.assertIn("<resource-constraint", self.world.home.sent[0].xml)
        self.assertEqual(self.world.stack.sent, [])


class DurabilityTests(OutwardCase):
    """What was taken over is sent by the next process."""

    def test_nothing_goes_before_it_is_written(self) -> None:
        """The INVITE waits for the store."""
        world = self.world
        world.store.held = True
        world.alice_writes("x")
        self.assertEqual(world.stack.sent, [])
        world.store.release()
        world.stack.take("INVITE")

    def test_killed_before_delivery(self) -> None:
        """Texts left by a dead process go again, in their order."""
        for text in ("one", "two"):
            self.world.alice_writes(text)
            self.world.clock.advance(1)
        heir = World(store=self.world.store)
        heir.im.restore(self.outbox()[::-1], [])
        heir.stack.take("INVITE").accept()
        for text in ("one", "two"):
            message = heir.stack.take("MESSAGE")
            self.assertEqual(message.body, text)
            message.answer(200)
        self.assertEqual(self.outbox(), [])

    def test_where(self) -> None:
        """A text on its way is found by id and by address."""
        self.world.alice_writes("x", id="m9")
        for question in ("m9", "alice@home.example", "romeo@lync.example"):
            (entry,) = self.world.im.on_their_way(question)
            self.assertEqual(entry.outcome, "queued")
