"""They watch us: stories of SUBSCRIBE, the local user's decision, and NOTIFY (SPEC section 5)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.routing.api import Existence
from impfed.sip.transaction import FailureCause
from impfed.store.records import InboundSubscriptionRecord
from impfed.testing.fakes import FakeFlow
from tests.gateway.presence_world import ROUTES, PresenceWorld, state_of

OPEN = (True, "", "")
CLOSED = (False, "", "")


class FirstSubscriptionTests(SynchronousTestCase):
    """A foreign user subscribes for the first time."""

    def setUp(self) -> None:
        self.world = PresenceWorld()

    def test_pending_until_decided(self) -> None:
        """The SUBSCRIBE is accepted and pending, and the local user is asked, once."""
        world = self.world
        answer = world.subscribes()
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.get("expires"), "7200")
        self.assertEqual(answer.get("event"), "presence")
        self.assertIsNone(answer.get("supported"))
        self.assertEqual(answer.get_all("record-route"), [r.partition(": ")[2] for r in ROUTES])
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "pending;expires=7200")
        self.assertEqual(state_of(notify), CLOSED)
        (question,) = world.stanzas()
        self.assertEqual(question.get("type"), "subscribe")
        self.assertEqual(question.get("from"), "romeo@lync.example")
        self.assertEqual(question.get("to"), "alice@home.example")
        self.assertEqual(
            question.findtext("{http://jabber.org/protocol/nick}nick"), "Romeo Montague"
        )
        world.subscribes(call_id="s2")
        self.assertEqual(world.stanzas(), [])

    def test_in_dialog_form(self) -> None:
        """NOTIFY goes to the GRUU, by the route set as recorded, over the connection it came by."""
        world = self.world
        answer = world.subscribes()
        sent = world.stack.take("NOTIFY")
        message = sent.message
        self.assertEqual(message.uri_text, "sip:romeo@lync.example;opaque=user:epid:abc;gruu")
        self.assertEqual(
            message.get_all("route"),
            [
                "<sip:sip.lync.example:5061;transport=tls;lr;ms-route-sig=aa>",
                "<sip:pool01.lync.example:5061;transport=tls;lr;ms-route-sig=bb>",
            ],
        )
        self.assertEqual(message.from_tag, answer.to_tag)
        self.assertEqual(message.to.param("epid"), "e1")
        self.assertIs(sent.transaction.destination, world.flow)

    def test_simple_pending_is_empty(self) -> None:
        """Towards a SIMPLE domain the pending NOTIFY has no body."""
        flow = FakeFlow(("sip.simple.example", "simple.example"))
        self.world.subscribes(who="benvolio@simple.example", flow=flow)
        notify = self.world.notify()
        self.assertEqual(notify.get("subscription-state"), "pending;expires=7200")
        self.assertEqual(notify.body, b"")

    def test_approved(self) -> None:
        """When the local user says yes the watcher is told the state, once and right."""
        world = self.world
        world.subscribes()
        world.notify()
        world.alice_approves("dnd")
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "active;expires=7200")
        self.assertEqual(state_of(notify), (True, "away", "Busy"))
        self.assertEqual(notify.get("content-type"), "application/pidf+xml")
        self.assertEqual(world.stack.sent, [])

    def test_approved_after_a_strangers_answer(self) -> None:
        """What a home server says while the user has not decided does not flash up afterwards."""
        world = self.world
        world.subscribes()
        world.notify()
        world.alice_is(type="unavailable", resource="")  # as Prosody acknowledges the question
        world.settle()
        world.alice_says("subscribed")
        self.assertEqual(world.stack.sent, [])
        world.alice_is("away")
        world.settle()
        self.assertEqual(state_of(world.notify()), (True, "away", ""))
        self.assertEqual(world.stack.sent, [])

    def test_approved_without_answer(self) -> None:
        """A home server that does not answer the probe leaves the user offline."""
        world = self.world
        world.subscribes()
        world.notify()
        world.alice_says("subscribed")
        self.assertEqual(world.stack.sent, [])
        world.clock.advance(3)
        notify = world.notify()
        self.assertTrue(notify.get("subscription-state").startswith("active"))
        self.assertEqual(state_of(notify), CLOSED)

    def test_nothing_leaks_before_the_decision(self) -> None:
        """Presence that reaches us before the local user has decided is not passed on."""
        world = self.world
        world.subscribes()
        world.notify()
        world.alice_is("chat")
        world.settle()
        self.assertEqual(world.stack.sent, [])

    def test_never_asked_again(self) -> None:
        """A pair that was approved once is served at once, without a question."""
        world = self.world
        world.subscribes()
        world.notify()
        world.alice_approves()
        world.notify()
        world.stanzas()
        world.subscribes(call_id="s2")
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "active;expires=7200")
        self.assertEqual(state_of(notify), OPEN)
        self.assertEqual(world.stanzas(), [])

    def test_asked_when_the_link_comes_up(self) -> None:
        """A question that could not be put is put as soon as the home server is reachable."""
        world = self.world
        world.home.up = False
        self.assertEqual(world.subscribes().status, 200)
        self.assertEqual(world.stanzas(), [])
        world.link_comes_up()
        (question,) = world.stanzas()
        self.assertEqual(question.get("type"), "subscribe")

    def test_unknown_user(self) -> None:
        """Who does not exist is 404, and nobody is asked."""
        self.world.existing["alice@home.example"] = Existence.ABSENT
        self.assertEqual(self.world.subscribes().status, 404)
        self.assertEqual(self.world.stanzas(), [])
        self.assertEqual(self.world.presence.view(), [])

    def test_refusals(self) -> None:
        """What cannot be served is refused with the code that says why."""
        cases = [
            ({"event": "vnd-microsoft-roaming-self"}, 489, "allow-events", "presence"),
            ({"event": ""}, 489, "allow-events", "presence"),
            ({"expires": 5}, 423, "min-expires", "60"),
            ({"accept": "text/xml+msrtc.pidf"}, 406, "accept", "application/pidf+xml"),
            (
                {"extra": "Require: adhoclist, categoryList"},
                420,
                "unsupported",
                "adhoclist, categoryList",
            ),
        ]
        for number, (options, status, header, value) in enumerate(cases):
            answer = self.world.subscribes(call_id=f"x{number}", **options)
            self.assertEqual((answer.status, answer.get(header)), (status, value), options)
        self.assertEqual(self.world.stack.sent, [])
        self.assertEqual(self.world.presence.view(), [])

    def test_proxy_require_ignored(self) -> None:
        """Proxy-Require is not for us."""
        answer = self.world.subscribes(extra="Proxy-Require: ms-benotify\nSupported: ms-benotify")
        self.assertEqual(answer.status, 200)

    def test_expires(self) -> None:
        """The answer's Expires is what was asked, at most two hours, an hour unless asked."""
        for asked, granted in ((28800, "7200"), (600, "600"), (None, "3600")):
            answer = self.world.subscribes(call_id=f"e{asked}", expires=asked)
            self.assertEqual(answer.get("expires"), granted)


class ServedTests(SynchronousTestCase):
    """A subscription that stands."""

    def setUp(self) -> None:
        self.world = world = PresenceWorld()
        self.tag = world.subscribes().to_tag
        world.notify()
        world.alice_approves()
        world.notify()
        world.stanzas()

    def test_changes_are_told(self) -> None:
        """Each change of state is one NOTIFY."""
        for show, status, expected in (
            ("away", "", (True, "away", "")),
            ("away", "Busy", (True, "away", "Busy")),
            ("dnd", "In court", (True, "away", "Busy (In court)")),
            ("xa", "At sea", (True, "away", "At sea")),
            ("", "", OPEN),
        ):
            self.world.alice_is(show, status)
            self.assertEqual(state_of(self.world.notify()), expected)

    def test_identical_states_coalesce(self) -> None:
        """The same state again is not told again."""
        self.world.alice_is()
        self.world.alice_is(resource="desk")
        self.assertEqual(self.world.stack.sent, [])

    def test_newest_while_one_is_under_way(self) -> None:
        """While a NOTIFY is unanswered changes wait, and only the newest is sent."""
        world = self.world
        world.alice_is("away")
        first = world.stack.take("NOTIFY")
        world.alice_is("dnd")
        world.alice_is("xa", "gone")
        self.assertEqual(world.stack.sent, [])
        first.answer(200, to_tag="w1")
        self.assertEqual(state_of(world.notify()), (True, "away", "gone"))
        self.assertEqual(world.stack.sent, [])

    def test_several_resources(self) -> None:
        """The highest priority wins; the last one to go makes the user offline."""
        world = self.world
        world.alice_is("dnd", resource="desk", priority=5)
        self.assertEqual(state_of(world.notify()), (True, "away", "Busy"))
        world.alice_is(type="unavailable", resource="desk")
        self.assertEqual(state_of(world.notify()), OPEN)
        world.alice_is(type="unavailable")
        self.assertEqual(state_of(world.notify()), CLOSED)

    def test_shown_to_nobody_else(self) -> None:
        """What the home server sends for one foreign user is not shown to another."""
        world = self.world
        world.subscribes(call_id="m1", who="mercutio@lync.example")
        world.notify()
        world.alice_says("subscribed", to="mercutio@lync.example")
        world.alice_is(to="mercutio@lync.example")
        world.settle()
        world.notify()
        world.alice_is("away", to="mercutio@lync.example")
        notify = world.notify()
        self.assertIn("mercutio", notify.to.text)
        self.assertEqual(world.stack.sent, [])

    def test_several_devices(self) -> None:
        """Each device of a watcher has its own dialog and hears of every change."""
        world = self.world
        world.subscribes(call_id="s2")
        world.notify()
        world.alice_is("away")
        told = {world.notify().call_id, world.notify().call_id}
        self.assertEqual(told, {"s1", "s2"})

    def test_refresh(self) -> None:
        """A refresh gets 200 and a full NOTIFY, and moves the end."""
        world = self.world
        world.clock.advance(6300)
        answer = world.subscribes(cseq=2, tag=self.tag)
        self.assertEqual((answer.status, answer.get("expires")), (200, "7200"))
        self.assertEqual(state_of(world.notify()), OPEN)
        world.clock.advance(7000)
        self.assertEqual(world.stack.sent, [])

    def test_expiry(self) -> None:
        """A subscription that is not refreshed ends with an empty NOTIFY terminated."""
        world = self.world
        world.clock.advance(7201)
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "terminated;reason=timeout")
        self.assertEqual(notify.body, b"")
        self.assertEqual(world.presence.view(), [])
        self.assertEqual(world.subscribes(cseq=2, tag=self.tag).status, 481)

    def test_unsubscribe(self) -> None:
        """Expires 0 in the dialog ends it with an empty NOTIFY; the authorization stays."""
        world = self.world
        answer = world.subscribes(cseq=2, tag=self.tag, expires=0)
        self.assertEqual((answer.status, answer.get("expires")), (200, "0"))
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "terminated;reason=timeout")
        self.assertEqual(notify.body, b"")
        world.subscribes(call_id="s9")
        self.assertTrue(world.notify().get("subscription-state").startswith("active"))
        self.assertNotIn("subscribe", [each.get("type") for each in world.stanzas()])

    def test_gone_watcher(self) -> None:
        """Each code of RFC 6665 section 4.2.2 removes the subscription, and so does silence."""
        codes = [404, 405, 410, 416, 480, 481, 482, 483, 484, 485, 489, 501, 604]
        for code in codes:
            world = PresenceWorld()
            world.subscribes()
            world.stack.take("NOTIFY").answer(code, to_tag="w1")
            self.assertEqual(world.presence.view(), [], code)
            self.assertEqual(world.store.load(InboundSubscriptionRecord).result, [])
        self.world.alice_is("away")
        self.world.stack.take("NOTIFY").fail("timer F", cause=FailureCause.TIMEOUT)
        self.assertEqual(self.world.presence.view(), [])

    def test_other_failures_do_not_end_it(self) -> None:
        """A NOTIFY that could not be sent, or met a 500, is tried again after a while."""
        world = self.world
        for fail in (lambda sent: sent.fail(), lambda sent: sent.answer(500, to_tag="w1")):
            world.alice_is("away")
            fail(world.stack.take("NOTIFY"))
            self.assertEqual(len(world.presence.view()), 1)
            (kept,) = world.store.load(InboundSubscriptionRecord).result
            self.assertEqual(kept.last_state, "", "who goes on with it would not tell the watcher")
            world.clock.advance(20)
            self.assertEqual(state_of(world.notify()), (True, "away", ""))
            world.alice_is()
            world.notify()

    def test_lost_connection(self) -> None:
        """When the watcher's connection is gone the NOTIFY goes to the next hop of the domain."""
        self.world.flow.alive = False
        self.world.alice_is("away")
        sent = self.world.stack.take("NOTIFY")
        self.assertEqual(sent.transaction.destination.host, "sip.lync.example")

    def test_withdrawn(self) -> None:
        """An approval that is taken back leaves the watcher with an offline user."""
        world = self.world
        world.alice_says("unsubscribed")
        world.settle()
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "active;expires=7200")
        self.assertEqual(state_of(notify), CLOSED)
        world.alice_is("chat")
        self.assertEqual(world.stack.sent, [])

    def test_stranger_in_the_dialog(self) -> None:
        """Nobody else can refresh or end the subscription."""
        answer = self.world.subscribes(cseq=2, tag=self.tag, expires=0, who="tybalt@lync.example")
        self.assertEqual(answer.status, 481)
        self.assertEqual(len(self.world.presence.view()), 1)

    def test_view(self) -> None:
        """The operator sees the subscription and what was shown."""
        (line,) = self.world.presence.view()
        self.assertEqual(line["direction"], "in")
        self.assertEqual(line["state"], "active")
        self.assertEqual(line["shown"], "available")


class DeclinedTests(SynchronousTestCase):
    """Denial is polite: it cannot be told from an offline user."""

    def story(self, decline: bool) -> list[tuple[float, str, bytes]]:
        """Subscribe, be declined or find alice offline, subscribe again; return all that is seen."""
        world = PresenceWorld()
        seen = []

        def look(until: float) -> None:
            end = world.clock.seconds() + until
            while world.clock.seconds() < end:
                while world.stack.sent:
                    notify = world.notify()
                    when = round(world.clock.seconds() % 1e6, 2)
                    seen.append((when, notify.get("subscription-state"), notify.body))
                world.clock.advance(0.05)

        world.subscribes()
        look(5)
        if decline:
            world.alice_says("unsubscribed")
        else:
            world.alice_says("subscribed")
            world.alice_is(type="unavailable", resource="")
        look(5)
        world.stanzas()
        tag = world.subscribes(call_id="again").to_tag
        probes = world.stanzas()
        self.assertNotIn("subscribe", [each.get("type") for each in probes])
        look(5)
        world.subscribes(call_id="again", cseq=2, tag=tag)
        look(5)
        world.subscribes(call_id="poll", expires=0)
        look(5)
        return seen

    def test_no_difference(self) -> None:
        """Content and time of every NOTIFY are the same for a declined and an offline pair."""
        self.assertEqual(self.story(decline=True), self.story(decline=False))

    def test_same_probe(self) -> None:
        """After a restart both are probed, and both answers lead to the same."""
        for decline in (True, False):
            world = PresenceWorld()
            world.subscribes()
            world.notify()
            if decline:
                world.alice_says("unsubscribed")
            else:
                world.alice_says("subscribed")
                world.alice_is(type="unavailable", resource="")
            world.clock.advance(3)
            world.notify()
            fresh = world.crash()
            fresh.link_comes_up()
            (probe,) = fresh.stanzas()
            self.assertEqual(probe.get("type"), "probe")
            if decline:
                fresh.alice_says("unsubscribed")
            else:
                fresh.alice_is(type="unavailable", resource="")
            fresh.clock.advance(3)
            self.assertEqual(fresh.stack.sent, [])

    def test_decline_is_remembered_until_approved(self) -> None:
        """Not asked again; a later yes of the local user shows the state at once."""
        world = PresenceWorld()
        world.subscribes()
        world.notify()
        world.alice_says("unsubscribed")
        world.clock.advance(3)
        notify = world.notify()
        self.assertTrue(notify.get("subscription-state").startswith("active"))
        self.assertEqual(state_of(notify), CLOSED)
        world.alice_approves("chat")
        self.assertEqual(state_of(world.notify()), OPEN)


class PollTests(SynchronousTestCase):
    """SUBSCRIBE with Expires 0 outside a dialog."""

    def test_stranger(self) -> None:
        """Who is not approved gets a neutral closed document, and nobody is asked or probed."""
        world = PresenceWorld()
        answer = world.subscribes(expires=0)
        self.assertEqual((answer.status, answer.get("expires")), (200, "0"))
        notify = world.notify()
        self.assertTrue(notify.get("subscription-state").startswith("terminated"))
        self.assertEqual(state_of(notify), CLOSED)
        self.assertEqual(world.stanzas(), [])
        self.assertEqual(world.presence.view(), [])

    def test_approved(self) -> None:
        """Who is approved gets the state, asked for by a probe where it is not known."""
        world = PresenceWorld()
        world.alice_says("subscribed")
        self.assertIsNone(world.subscribes(expires=0))
        (probe,) = world.stanzas()
        self.assertEqual(probe.get("type"), "probe")
        world.alice_is("away", "Out")
        world.settle()
        self.assertEqual(world.stack.last_answer().status, 200)
        notify = world.notify()
        self.assertTrue(notify.get("subscription-state").startswith("terminated"))
        self.assertEqual(state_of(notify), (True, "away", "Out"))
        self.assertEqual(world.presence.view(), [])
        self.assertEqual(world.store.load(InboundSubscriptionRecord).result, [])
