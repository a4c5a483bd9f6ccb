"""Subscriptions of foreign users that another process has begun."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.store.records import AuthorizationRecord, InboundSubscriptionRecord
from impfed.xmpp.jid import JID
from tests.gateway.presence_world import PresenceWorld, state_of
from tests.gateway.test_presence_inward import CLOSED, OPEN


class RestartTests(SynchronousTestCase):
    """kill -9, and the next process serves the same subscriptions."""

    def setUp(self) -> None:
        self.world = PresenceWorld()
        self.tag = self.world.subscribes().to_tag
        self.world.notify()
        self.world.alice_approves("away", "Lunch")
        self.last = self.world.notify()

    def test_watchers_are_served(self) -> None:
        """The refresh of a dialog that stood before is answered, with the state last shown."""
        fresh = self.world.crash()
        answer = fresh.subscribes(cseq=2, tag=self.tag)
        self.assertEqual(answer.status, 200)
        notify = fresh.notify()
        self.assertEqual(state_of(notify), (True, "away", "Lunch"))
        self.assertGreater(notify.cseq.number, self.last.cseq.number + 900)
        self.assertEqual(notify.from_tag, self.tag)
        self.assertEqual(notify.get_all("route"), self.last.get_all("route"))
        self.assertEqual(notify.uri_text, self.last.uri_text)

    def test_changes_are_found_by_probes(self) -> None:
        """Local users are probed; who changed meanwhile makes a NOTIFY, who did not makes none."""
        fresh = self.world.crash()
        fresh.link_comes_up()
        (probe,) = fresh.stanzas()
        self.assertEqual(
            (probe.get("type"), probe.get("from"), probe.get("to")),
            ("probe", "romeo@lync.example", "alice@home.example"),
        )
        fresh.alice_is("away", "Lunch")
        fresh.settle()
        self.assertEqual(fresh.stack.sent, [])
        fresh.alice_is()
        sent = fresh.stack.take("NOTIFY")
        self.assertEqual(state_of(sent.message), OPEN)
        self.assertEqual(sent.transaction.destination.host, "sip.lync.example")
        self.assertIn("transport=tls", sent.message.contact.uri_text)

    def test_probe_that_could_not_be_sent(self) -> None:
        """A link that comes up while the answer is waited for carries the probe after all."""
        world = self.world
        world.home.up = False
        world.presence.authorizations.decide_inbound(
            (JID.parse("alice@home.example"), JID.parse("paris@lync.example")), "approved"
        )
        world.subscribes(call_id="p", who="paris@lync.example")
        world.notify()
        world.link_comes_up()
        probes = [each for each in world.stanzas() if each.get("from") == "paris@lync.example"]
        self.assertEqual([each.get("type") for each in probes], ["probe"])
        world.alice_is(to="paris@lync.example")
        world.settle()
        self.assertEqual(state_of(world.notify()), OPEN)

    def test_user_who_left_meanwhile(self) -> None:
        """A probe without an answer means that nobody is there any more."""
        fresh = self.world.crash()
        fresh.link_comes_up()
        fresh.clock.advance(3)
        self.assertEqual(state_of(fresh.notify()), CLOSED)

    def test_pending_stays_pending(self) -> None:
        """A subscription that was not decided can be decided after the restart."""
        self.world.subscribes(call_id="p1", who="paris@lync.example")
        self.world.notify()
        fresh = self.world.crash()
        fresh.link_comes_up()
        asked = [(each.get("type"), each.get("from")) for each in fresh.stanzas()]
        self.assertCountEqual(
            asked, [("probe", "romeo@lync.example"), ("subscribe", "paris@lync.example")]
        )
        self.assertEqual(fresh.stack.sent, [])
        fresh.alice_says("subscribed", to="paris@lync.example")
        fresh.alice_is(to="paris@lync.example")
        fresh.alice_is("away", "Lunch")
        fresh.settle()
        notify = fresh.notify()
        self.assertEqual(notify.call_id, "p1")
        self.assertEqual(state_of(notify), OPEN)

    def test_decided_and_not_told(self) -> None:
        """A yes that was written down just before the end is told to who still waits for it."""
        self.world.subscribes(call_id="p1", who="paris@lync.example")
        self.world.notify()
        fresh = self.world.crash()
        fresh.presence.authorizations.decide_inbound(
            (JID.parse("alice@home.example"), JID.parse("paris@lync.example")), "approved"
        )
        fresh.link_comes_up()
        asked = {each.get("from"): each.get("type") for each in fresh.stanzas()}
        self.assertEqual(asked["paris@lync.example"], "probe")
        fresh.alice_is(to="paris@lync.example")
        fresh.settle()
        notify = fresh.notify()
        self.assertEqual((notify.call_id, state_of(notify)), ("p1", OPEN))
        self.assertTrue(notify.get("subscription-state").startswith("active"))

    def test_authorization_survives(self) -> None:
        """Who was approved before the restart is not asked about after it."""
        fresh = self.world.crash()
        (record,) = fresh.store.load(AuthorizationRecord).result
        self.assertEqual((record.inbound, record.outbound), ("approved", "none"))
        fresh.subscribes(call_id="s7")
        self.assertTrue(fresh.notify().get("subscription-state").startswith("active"))
        self.assertNotIn("subscribe", [each.get("type") for each in fresh.stanzas()])

    def test_lapsed_ones_are_dropped(self) -> None:
        """A subscription that expired while we were down is forgotten."""
        self.world.clock.advance(7190)
        self.world.stack.sent.clear()
        fresh = self.world.crash()
        self.assertEqual(fresh.presence.view(), [])
        self.assertEqual(fresh.store.load(InboundSubscriptionRecord).result, [])

    def test_end_survives(self) -> None:
        """A subscription that was ended does not come back."""
        self.world.subscribes(cseq=2, tag=self.tag, expires=0)
        self.assertEqual(self.world.crash().presence.view(), [])
