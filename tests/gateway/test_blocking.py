"""Blocking levels: allow, block and ask, at once and politely (SPEC section 5)."""

from __future__ import annotations

import re
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from impfed.testing.fakes import FakeFlow
from impfed.xmpp.jid import JID
from tests.gateway.policy_world import ALICE, ROMEO, PolicyWorld
from tests.gateway.presence_world import state_of

OPEN = (True, "", "")
CLOSED = (False, "", "")
SIMPLE = FakeFlow(("sip.simple.example", "simple.example"))


class BlockedTests(SynchronousTestCase):
    """Block: accepted, and shown offline."""

    def setUp(self) -> None:
        self.world = PolicyWorld()

    def test_new_subscription(self) -> None:
        """It is active and offline, the user hears nothing, and her server is probed."""
        world = self.world
        world.block()
        answer = world.subscribes()
        self.assertEqual(answer.status, 200)
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "active;expires=7200")
        self.assertEqual(state_of(notify), CLOSED)
        self.assertEqual(world.types(), ["probe"])
        self.assertEqual(world.count("gate.user.hidden"), 1)

    def test_answer_to_the_probe_is_no_decision(self) -> None:
        """The home server's "unsubscribed" for a stranger's probe is not taken for hers."""
        world = self.world
        world.block()
        world.subscribes()
        world.notify()
        world.alice_says("unsubscribed")
        world.settle()
        self.assertEqual(world.presence.authorizations.inbound((ALICE, ROMEO)), "none")
        world.stanzas()
        world.unlist()
        self.assertEqual(world.types(), ["subscribe"])

    def test_presence_does_not_leak(self) -> None:
        """Whatever her server sends about her stays here."""
        world = self.world
        world.block()
        world.subscribes()
        world.notify()
        for show in ("chat", "away", ""):
            world.alice_is(show)
            world.settle()
        world.clock.advance(5)
        self.assertEqual(world.stack.sent, [])

    def test_blocking_acts_at_once(self) -> None:
        """An active watcher is told "offline" without waiting for a refresh."""
        world = self.world
        world.approved_romeo("away")
        world.block()
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "active;expires=7200")
        self.assertEqual(state_of(notify), CLOSED)
        self.assertEqual(world.stanzas(), [])

    def test_unblocking_acts_at_once(self) -> None:
        """He gets the real state, the one that came while he was blocked."""
        world = self.world
        world.approved_romeo("away")
        world.block()
        world.notify()
        world.alice_is("chat")
        self.assertEqual(world.stack.sent, [])
        world.unlist()
        self.assertEqual(state_of(world.notify()), OPEN)
        self.assertEqual(world.stanzas(), [])

    def test_domain_and_default(self) -> None:
        """A domain and everybody else can be blocked; an allowed user stays visible to."""
        world = self.world
        world.approved_romeo()
        world.block("lync.example")
        self.assertEqual(state_of(world.notify()), CLOSED)
        world.allow()
        self.assertEqual(state_of(world.notify()), OPEN)
        world.policies.set_default(ALICE, "block")
        self.assertEqual(world.stack.sent, [])
        world.stanzas()
        world.subscribes(call_id="b", who="benvolio@simple.example", flow=SIMPLE)
        world.notify()
        self.assertEqual(world.types(), ["probe"])
        self.assertEqual(world.count("gate.user.hidden"), 1)

    def test_pending_becomes_offline(self) -> None:
        """Somebody who waits for an answer is accepted and shown offline when he is blocked."""
        world = self.world
        world.subscribes()
        world.notify()
        world.stanzas()
        world.block()
        self.assertEqual(world.types(), ["probe"])
        world.alice_is(type="unavailable", resource="")
        world.clock.advance(3)
        notify = world.notify()
        self.assertTrue(notify.get("subscription-state").startswith("active"))
        self.assertEqual(state_of(notify), CLOSED)

    def test_every_device(self) -> None:
        """All of a watcher's devices are told."""
        world = self.world
        world.approved_romeo("away")
        world.subscribes(call_id="s2")
        world.notify()
        world.block()
        self.assertEqual({world.notify().call_id, world.notify().call_id}, {"s1", "s2"})

    def test_what_we_watch_is_unaffected(self) -> None:
        """Alice goes on seeing somebody whom she blocks."""
        world = self.world
        sent = world.watching()
        world.block()
        world.stanzas()
        world.notifies(sent, "active;expires=7200", _busy(), cseq=2)
        (shown,) = world.stanzas()
        self.assertEqual(shown.findtext("show"), "away")

    def test_survives(self) -> None:
        """After a restart the block holds, and a NOTIFY that was still owed is sent."""
        world = self.world
        world.approved_romeo("away")
        world.stack.sent.clear()
        world.policies._listeners.clear()  # the process dies between the decision and the NOTIFY
        world.block()
        fresh = world.crash()
        self.assertEqual(state_of(fresh.notify()), CLOSED)
        fresh.link_comes_up()
        self.assertEqual(fresh.types(), ["probe"])
        fresh.alice_is("chat")
        fresh.settle()
        self.assertEqual(fresh.stack.sent, [])

    def test_poll(self) -> None:
        """A poll by a blocked person is answered like one to somebody offline."""
        world = self.world
        world.block()
        self.assertIsNone(world.subscribes(expires=0))
        self.assertEqual(world.types(), ["probe"])
        world.alice_is("chat")
        world.clock.advance(3)
        notify = world.notify()
        self.assertTrue(notify.get("subscription-state").startswith("terminated"))
        self.assertEqual(state_of(notify), CLOSED)


class LikeOfflineTests(SynchronousTestCase):
    """A blocked watcher's wire cannot be told from that of one who watches an offline user."""

    HOW = ("blocked", "online", "silent", "domain", "default", "declined", "revoked", "offline")

    def wire(self, how: str, who: str, story: Callable) -> list[tuple[float, bytes]]:
        """Return every message that leaves to the watcher, with its time, tags normalised."""
        world = PolicyWorld()
        domain = who.partition("@")[2]
        flow = FakeFlow((f"sip.{domain}", domain))
        foreign = JID.parse(who)
        if how in ("offline", "revoked", "declined"):
            answer = "approved" if how == "offline" else "declined"
            world.presence.authorizations.decide_inbound((ALICE, foreign), answer)
        elif how == "default":
            world.policies.set_default(ALICE, "block")
        else:
            world.block(domain if how == "domain" else who)
        if how == "online":  # he was approved once, and her server tells him everything
            world.presence.authorizations.decide_inbound((ALICE, foreign), "approved")
        begun, seen, told = world.clock.seconds(), [], 0

        def home_answers() -> None:
            for each in world.stanzas():
                self.assertEqual(each.get("type"), "probe", how)
                if how == "offline":
                    world.alice_is(type="unavailable", resource="", to=who)
                elif how == "silent":
                    continue  # a home server that does not answer for those who are not there
                elif how == "online":
                    world.alice_is("away", "At my desk", to=who)
                    world.alice_is("chat", resource="desk", to=who)
                elif how == "revoked":
                    stranger = f"from='alice@home.example' to='{who}' type='error'"
                    forbidden = "<forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
                    world.home_sends(
                        f"<presence {stranger}><error type='auth'>{forbidden}</error></presence>"
                    )
                else:
                    world.alice_says("unsubscribed", to=who)

        def passes(seconds: float) -> None:
            nonlocal told
            end = world.clock.seconds() + seconds
            while world.clock.seconds() < end:
                world.clock.advance(0.01)
                home_answers()
                when = round(world.clock.seconds() - begun, 3)
                for answer in world.stack.answers[told:]:
                    seen.append((when, answer.message.to_bytes()))
                told = len(world.stack.answers)
                while world.stack.sent:
                    sent = world.stack.sent.pop(0)
                    seen.append((when, sent.message.to_bytes()))
                    sent.answer(200, to_tag="w1")

        story(world, {"who": who, "flow": flow}, passes)
        self.assertTrue(seen)
        return [(when, _normal(data)) for when, data in seen]

    def same(self, story: Callable) -> list[tuple[float, bytes]]:
        for who in ("romeo@lync.example", "benvolio@simple.example"):
            offline = self.wire("offline", who, story)
            for how in self.HOW:
                self.assertEqual(self.wire(how, who, story), offline, (who, how))
        return offline

    def test_subscription_and_refreshes(self) -> None:
        """Subscribing, refreshing, a second device, polling and leaving look the same, octet by octet
        and at the same times."""

        def story(world, by, passes) -> None:
            world.subscribes(**by)
            passes(3)
            tag = world.stack.last_answer().message.to_tag
            world.subscribes(call_id="second", **by)
            passes(1)
            world.subscribes(cseq=2, tag=tag, **by)
            passes(1)
            world.subscribes(call_id="poll", expires=0, **by)
            passes(3)
            world.subscribes(cseq=3, tag=tag, expires=0, **by)
            passes(3)

        self.assertEqual(len(self.same(story)), 11)

    def test_poll_of_a_stranger(self) -> None:
        """A poll out of the blue is answered at the same time with the same octets."""

        def story(world, by, passes) -> None:
            world.subscribes(call_id="poll", expires=0, **by)
            passes(3)

        self.assertEqual(len(self.same(story)), 2)

    def test_home_link_comes_back(self) -> None:
        """A home server that was away makes no difference either."""

        def story(world, by, passes) -> None:
            world.home.up = False
            world.subscribes(**by)
            passes(3)
            world.link_comes_up()
            passes(3)

        self.same(story)

    def test_home_link_comes_back_soon(self) -> None:
        """Not even when it comes back while the answer was still waited for."""

        def story(world, by, passes) -> None:
            world.home.up = False
            world.subscribes(**by)
            passes(1)
            world.link_comes_up()
            passes(4)

        self.same(story)


class TextTests(SynchronousTestCase):
    """A block stops messages too."""

    def world(self, setting: str = "refuse") -> PolicyWorld:
        from dataclasses import replace

        from tests.gateway.harness import CONFIG

        im = replace(CONFIG.im, blocked_texts=setting)
        return PolicyWorld(replace(CONFIG, im=im))

    def test_session_is_refused(self) -> None:
        """An INVITE of a blocked person gets 480, like one to somebody who is not there."""
        world = self.world()
        world.block()
        world.romeo_invites_only()
        answer = world.stack.last_answer().message
        self.assertEqual((answer.status, answer.get("retry-after")), (480, None))
        self.assertEqual(world.home.deliveries, [])
        self.assertEqual(world.count("gate.texts.refused"), 1)

    def test_text_in_a_standing_session(self) -> None:
        """In a session that stood before the block the next text is refused; the ledger knows why."""
        world = self.world()
        tag = world.romeo_opens()
        world.block()
        world.romeo_writes(tag, "hello?")
        self.assertEqual(world.stack.last_answer().status, 480)
        (entry,) = world.ledger()
        self.assertEqual((entry.outcome, entry.sip_status), ("bounced", 480))
        self.assertIn("blocked", entry.detail)
        self.assertEqual(world.home.deliveries, [])

    def test_unblocked(self) -> None:
        """After unblocking texts pass again."""
        world = self.world()
        tag = world.romeo_opens()
        world.block()
        world.unlist()
        world.romeo_writes(tag, "hello")
        world.home.accept()
        self.assertEqual(world.stack.last_answer().status, 200)

    def test_page_mode(self) -> None:
        """A MESSAGE outside any dialog is refused the same way."""
        world = self.world()
        world.block("simple.example")
        world.far_sends(
            "MESSAGE sip:alice@home.example SIP/2.0\nVia: SIP/2.0/TLS b;branch=z9hG4bKp1\n"
            "Max-Forwards: 70\nFrom: <sip:benvolio@simple.example>;tag=b1\n"
            "To: <sip:alice@home.example>\nCall-ID: p1\nCSeq: 1 MESSAGE\nContent-Type: text/plain",
            "hi",
            flow=SIMPLE,
        )
        self.assertEqual(world.stack.last_answer().status, 480)

    def test_discarded(self) -> None:
        """By setting they are taken, thrown away and counted."""
        world = self.world("discard")
        world.block()
        tag = world.romeo_opens()
        world.romeo_writes(tag, "hello?")
        self.assertEqual(world.stack.last_answer().status, 200)
        self.assertEqual(world.home.deliveries, [])
        self.assertEqual(world.count("gate.texts.discarded"), 1)
        (entry,) = world.ledger()
        self.assertEqual(entry.outcome, "discarded")

    def test_embedded_text_is_stopped_too(self) -> None:
        """A first text that was held when the block came is not delivered."""
        world = self.world()
        extra = "ms-text-format: text/plain; charset=UTF-8;msgr=WAAtAE0A;ms-body=aGVsbG8="
        world.romeo_opens(extra=extra)
        world.block()
        world.clock.advance(15)
        self.assertEqual(world.home.deliveries, [])
        (entry,) = world.ledger()
        self.assertEqual(entry.outcome, "bounced")

    def test_typing_is_not_shown(self) -> None:
        """Alice does not see a blocked person type."""
        world = self.world()
        tag = world.romeo_opens()
        world.block()
        world.stanzas()
        body = '<KeyboardActivity><status status="type"/></KeyboardActivity>'
        world.far_dialog("INFO", 2, tag, body, "application/xml")
        self.assertEqual(world.stanzas(), [])

    def test_declined_person_may_write(self) -> None:
        """A request that was declined in a client hides the presence and nothing else."""
        world = self.world()
        world.presence.authorizations.decide_inbound((ALICE, ROMEO), "declined")
        tag = world.romeo_opens()
        world.romeo_writes(tag, "but why?")
        self.assertEqual(len(world.home.deliveries), 1)

    def test_answer_under_a_blocking_default(self) -> None:
        """Whom she writes to herself may answer while the conversation lasts; strangers may not."""
        world = self.world()
        world.policies.set_default(ALICE, "block")
        world.romeo_invites_only(call_id="before")
        self.assertEqual(world.stack.last_answer().status, 480)
        world.alice_writes("hi Romeo")
        world.romeo_invites_only(call_id="after")
        self.assertEqual(world.stack.last_answer().status, 200)
        world.block()
        world.romeo_invites_only(call_id="later")
        self.assertEqual(world.stack.last_answer().status, 480)

    def test_alice_may_write(self) -> None:
        """Her own texts to a blocked person go out."""
        world = self.world()
        world.block()
        world.alice_writes("one last thing")
        world.stack.take("INVITE")


def _busy() -> str:
    from tests.gateway.presence_world import pidf

    return pidf("open", "away")


def _normal(data: bytes) -> bytes:
    """Replace what differs from run to run: tags."""
    return re.sub(rb";tag=[^\r\n;>]+", b";tag=T", data)
