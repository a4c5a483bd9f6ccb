"""We watch them: stories of our SUBSCRIBE, their NOTIFY, and what the local user is shown."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.routing.api import Reject
from impfed.store.records import AuthorizationRecord, OutboundSubscriptionRecord
from impfed.xmpp.jid import JID
from tests.gateway.presence_world import GRUU, PresenceWorld, pidf

ROMEO = "romeo@lync.example"
BENVOLIO = "benvolio@simple.example"
_STANZAS = "{urn:ietf:params:xml:ns:xmpp-stanzas}"


def types(stanzas):
    """Return the types of presence stanzas; "available" where there is none."""
    return [each.get("type") or "available" for each in stanzas]


class SubscribeTests(SynchronousTestCase):
    """A local user adds a foreign contact."""

    def setUp(self) -> None:
        self.world = PresenceWorld()

    def test_form(self) -> None:
        """SUBSCRIBE asks for PIDF and nothing else, and names no Microsoft extension."""
        self.world.alice_says("subscribe")
        sent = self.world.stack.take("SUBSCRIBE")
        message = sent.message
        self.assertEqual(message.uri_text, "sip:romeo@lync.example")
        self.assertEqual(message.from_.without_params, "<sip:alice@home.example>")
        self.assertEqual(message.to.text, "<sip:romeo@lync.example>")
        self.assertEqual(message.get("accept"), "application/pidf+xml")
        self.assertEqual(message.get("event"), "presence")
        self.assertEqual(message.get("expires"), "7200")
        self.assertIsNone(message.get("supported"))
        self.assertEqual(message.contact.uri_text, "sip:alice@fed.home.example:5061;transport=tls")
        self.assertEqual(sent.transaction.destination.host, "sip.lync.example")

    def test_neutral_until_notified(self) -> None:
        """Neither the 200 nor a pending NOTIFY is shown; the first active one allows and shows."""
        world = self.world
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "pending;expires=7200", pidf("open"))
        self.assertEqual(world.stack.last_answer().status, 200)
        self.assertEqual(world.stanzas(), [])
        name = "<ci:display-name>Romeo Montague</ci:display-name>"
        world.notifies(sent, "active;expires=7100", pidf("open", "busy", name), cseq=2)
        subscribed, shown = world.stanzas()
        self.assertEqual(subscribed.get("type"), "subscribed")
        self.assertEqual(subscribed.get("from"), ROMEO)
        self.assertEqual(shown.get("from"), f"{ROMEO}/sip")
        self.assertEqual(shown.get("to"), "alice@home.example")
        self.assertEqual((shown.findtext("show"), shown.findtext("status")), ("away", "Busy"))
        nick = shown.findtext("{http://jabber.org/protocol/nick}nick")
        self.assertEqual(nick, "Romeo Montague")

    def test_told_when_it_would_survive(self) -> None:
        """Nobody is told that he sees a contact whom a kill at this moment would lose."""
        world = self.world
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.store.held = True
        world.notifies(sent, "active;expires=7200", pidf("open"))
        world.notifies(sent, "active;expires=7200", pidf("open", "busy"), cseq=2)
        self.assertEqual(world.stanzas(), [])
        world.store.release()
        self.assertEqual(types(world.stanzas()), ["subscribed", "available"])

    def test_notify_before_the_answer(self) -> None:
        """A NOTIFY that overtakes the 200 is taken."""
        world = self.world
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        world.notifies(sent, "active;expires=7200", pidf("open"))
        self.assertEqual(world.stack.last_answer().status, 200)
        self.assertEqual(types(world.stanzas()), ["subscribed", "available"])
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        self.assertEqual(world.stanzas(), [])

    def test_document_in_the_answer(self) -> None:
        """A body in the 200 is read, and shown when the subscription is active."""
        world = self.world
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        headers = [("Expires", "7200"), ("Contact", GRUU), ("Content-Type", "application/pidf+xml")]
        sent.answer(200, headers=headers, to_tag="n1", body=pidf("open", "away").encode())
        self.assertEqual(world.stanzas(), [])
        world.notifies(sent, "active;expires=7200")
        subscribed, shown = world.stanzas()
        self.assertEqual(subscribed.get("type"), "subscribed")
        self.assertEqual(shown.findtext("show"), "away")

    def test_one_subscription_a_pair(self) -> None:
        """Two users have a SUBSCRIBE each; one user who asks twice has one, and is answered."""
        world = self.world
        world.watching()
        world.alice_says("subscribe")
        self.assertEqual(world.stack.sent, [])
        self.assertEqual(types(world.stanzas()), ["subscribed", "available"])
        world.home_sends(f"<presence from='carol@home.example' to='{ROMEO}' type='subscribe'/>")
        self.assertIn("carol", world.stack.take("SUBSCRIBE").message.from_.text)

    def test_states(self) -> None:
        """Every Microsoft state arrives as the table says; the same state again is not repeated."""
        world = self.world
        sent = world.watching()
        cases = [
            (pidf("open", "busy"), ("available", "away", "Busy")),
            (pidf("open", "away"), ("available", "away", None)),
            (pidf("closed"), ("unavailable", None, None)),
            (pidf("open"), ("available", None, None)),
        ]
        for number, (body, expected) in enumerate(cases):
            for again in (0, 1):
                cseq = 2 + 2 * number + again
                world.notifies(sent, "active;expires=7200", body, cseq=cseq)
            (shown,) = world.stanzas()
            found = (types([shown])[0], shown.findtext("show"), shown.findtext("status"))
            self.assertEqual(found, expected)

    def test_benotify(self) -> None:
        """A BENOTIFY is read and never answered."""
        world = self.world
        sent = world.watching()
        before = len(world.stack.answers)
        world.notifies(sent, "active;expires=7200", pidf("closed"), cseq=2, method="BENOTIFY")
        self.assertEqual(len(world.stack.answers), before)
        self.assertEqual(types(world.stanzas()), ["unavailable"])

    def test_bad_document(self) -> None:
        """What cannot be read changes nothing and does not end the subscription."""
        world = self.world
        sent = world.watching()
        bad = ("no xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", pidf("open")[:60])
        for number, body in enumerate(bad):
            world.notifies(sent, "active;expires=7200", body, cseq=number + 2)
            self.assertEqual(world.stack.last_answer().status, 200)
        self.assertEqual(world.stanzas(), [])
        self.assertEqual(len(world.presence.view()), 1)

    def test_stranger_in_the_dialog(self) -> None:
        """A NOTIFY with another tag, or after the end, is 481."""
        world = self.world
        sent = world.watching()
        world.notifies(sent, "active;expires=7200", pidf("closed"), cseq=2, tag="other")
        self.assertEqual(world.stack.last_answer().status, 481)
        world.notifies(sent, "active;expires=7200", pidf("closed"), cseq=1)
        self.assertEqual(world.stack.last_answer().status, 500)
        self.assertEqual(world.stanzas(), [])

    def test_limit(self) -> None:
        """Beyond the limit of contacts a user is told so."""
        world = self.world
        for number in range(world.config.presence.contacts_per_user):
            world.alice_says("subscribe", to=f"u{number}@lync.example")
        world.stanzas()
        world.alice_says("subscribe", to="onemore@lync.example")
        (error,) = world.stanzas()
        self.assertEqual(error.get("type"), "error")
        self.assertIsNotNone(error.find(f"error/{_STANZAS}resource-constraint"))

    def test_address_without_a_sip_form(self) -> None:
        """An address that no SIP address stands for is refused at once."""
        self.world.alice_says("subscribe", to="foo\\5cbar@lync.example")
        (error,) = self.world.stanzas()
        self.assertIsNotNone(error.find(f"error/{_STANZAS}jid-malformed"))


class RefusedTests(SynchronousTestCase):
    """The far side says no, or nothing."""

    def setUp(self) -> None:
        self.world = PresenceWorld()

    def asked(self, to=ROMEO):
        self.world.alice_says("subscribe", to=to)
        return self.world.stack.take("SUBSCRIBE")

    def outbound(self) -> str:
        (record,) = self.world.store.load(AuthorizationRecord).result
        return record.outbound

    def test_403_of_microsoft(self) -> None:
        """A missing allow entry: tried hourly, the user is told of it but of no refusal."""
        world = self.world
        self.asked().answer(403)
        self.assertEqual(types(world.stanzas()), ["error"])
        self.assertEqual(self.outbound(), "pending")
        world.clock.advance(3000)
        self.assertEqual(world.stack.sent, [])
        world.clock.advance(1200)
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "active;expires=7200", pidf("open"))
        self.assertEqual(types(world.stanzas()), ["subscribed", "available"])

    def test_403_of_another(self) -> None:
        """From a SIMPLE domain 403 is the contact's no: the user is told, and it is not retried."""
        world = self.world
        self.asked(BENVOLIO).answer(403)
        (told,) = world.stanzas()
        self.assertEqual((told.get("type"), told.get("from")), ("unsubscribed", BENVOLIO))
        self.assertEqual(self.outbound(), "declined")
        world.clock.advance(8000)
        self.assertEqual(world.stack.sent, [])
        self.assertEqual(world.presence.view(), [])

    def test_refused_in_a_refresh(self) -> None:
        """403 to a Microsoft refresh keeps the authorization; what was shown becomes unknown."""
        world = self.world
        world.watching()
        world.clock.advance(6600)
        world.stack.take("SUBSCRIBE").answer(403)
        self.assertEqual(world.stanzas(), [])
        world.clock.advance(301)
        (shown,) = world.stanzas()
        self.assertEqual(shown.get("type"), "unavailable")
        self.assertEqual(shown.findtext("status"), "presence unknown")
        self.assertEqual(self.outbound(), "approved")

    def test_rejected(self) -> None:
        """terminated;reason=rejected is the contact's no."""
        world = self.world
        sent = world.watching()
        world.notifies(sent, "terminated;reason=rejected", cseq=2)
        self.assertEqual(world.stack.last_answer().status, 200)
        self.assertEqual(types(world.stanzas()), ["unavailable", "unsubscribed"])
        world.clock.advance(8000)
        self.assertEqual(world.stack.sent, [])

    def test_terminated_reasons(self) -> None:
        """deactivated and timeout: at once; probation and giveup: after retry-after."""
        for reason, before, after in (
            ("deactivated", 0, 2),
            ("timeout", 0, 2),
            ("probation;retry-after=700", 690, 300),
            ("giveup;retry-after=700", 690, 300),
        ):
            world = PresenceWorld()
            sent = world.watching()
            world.clock.advance(100)
            world.notifies(sent, f"terminated;reason={reason}", cseq=2)
            if before:
                world.clock.advance(before)
            self.assertEqual(world.stack.sent, [], reason)
            world.clock.advance(after)
            fresh = world.stack.take("SUBSCRIBE").message
            self.assertNotEqual(fresh.call_id, sent.message.call_id)
            self.assertEqual(fresh.to_tag, "")

    def test_481_to_a_refresh(self) -> None:
        """The far side has forgotten the dialog: a new one, and the user sees no gap."""
        world = self.world
        sent = world.watching()
        world.clock.advance(6600)
        world.stack.take("SUBSCRIBE").answer(481)
        world.clock.advance(2)
        fresh = world.stack.take("SUBSCRIBE")
        self.assertNotEqual(fresh.message.call_id, sent.message.call_id)
        fresh.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n2")
        world.notifies(fresh, "active;expires=7200", pidf("open"))
        world.clock.advance(400)
        self.assertEqual(world.stanzas(), [])

    def test_interval_too_brief(self) -> None:
        """423 is answered by asking for longer."""
        self.asked().answer(423, headers=[("Min-Expires", "14400")])
        self.assertEqual(self.world.stack.take("SUBSCRIBE").message.get("expires"), "14400")

    def test_partner_out_of_reach(self) -> None:
        """The last known presence stays five minutes, then is unknown, until it is right again."""
        world = self.world
        world.watching()
        world.clock.advance(6600)
        world.stack.take("SUBSCRIBE").fail()
        world.clock.advance(290)
        self.assertEqual(world.stanzas(), [])
        world.clock.advance(20)
        (shown,) = world.stanzas()
        self.assertEqual(shown.findtext("status"), "presence unknown")
        while world.stack.sent:
            world.stack.take("SUBSCRIBE").fail()
        for _ in range(40):
            world.clock.advance(60)
            if world.stack.sent:
                break
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "active;expires=7200", pidf("open"), cseq=2)
        self.assertEqual(types(world.stanzas()), ["available"])

    def test_no_route(self) -> None:
        """Without a route nothing is lost: it is tried again."""
        world = self.world
        world.resolve = lambda query, done: done(Reject(404, "no route leads there"))
        world.alice_says("subscribe")
        self.assertEqual(world.stack.sent, [])
        world.clock.advance(1)
        self.assertEqual(len(world.presence.view()), 1)


class EndTests(SynchronousTestCase):
    """The local user removes the contact."""

    def test_unsubscribe(self) -> None:
        """Expires 0 inside the dialog; over when the last NOTIFY has come."""
        world = PresenceWorld()
        sent = world.watching()
        world.alice_says("unsubscribe")
        end = world.stack.take("SUBSCRIBE")
        self.assertEqual(end.message.get("expires"), "0")
        self.assertEqual(end.message.call_id, sent.message.call_id)
        end.answer(200, headers=[("Expires", "0")], to_tag="n1")
        world.notifies(sent, "terminated;reason=timeout", cseq=2)
        self.assertEqual(world.stack.last_answer().status, 200)
        self.assertEqual(types(world.stanzas()), ["unavailable", "unsubscribed"])
        self.assertEqual(world.presence.view(), [])
        self.assertEqual(world.store.load(OutboundSubscriptionRecord).result, [])
        self.assertEqual(world.store.load(AuthorizationRecord).result, [])

    def test_other_direction_untouched(self) -> None:
        """Who may see us is not changed by whom we see."""
        world = PresenceWorld()
        world.alice_says("subscribed")
        world.watching()
        world.alice_says("unsubscribe")
        (record,) = world.store.load(AuthorizationRecord).result
        self.assertEqual((record.inbound, record.outbound), ("approved", "none"))


class LoginTests(SynchronousTestCase):
    """The local user comes and goes."""

    def setUp(self) -> None:
        self.world = PresenceWorld()
        self.sent = self.world.watching()

    def test_refresh_in_time(self) -> None:
        """While the user is there the subscription is refreshed inside its dialog, in time."""
        world = self.world
        world.clock.advance(5700)
        self.assertEqual(world.stack.sent, [])
        world.clock.advance(1000)
        refresh = world.stack.take("SUBSCRIBE").message
        self.assertEqual(refresh.uri_text, "sip:romeo@lync.example;opaque=user:epid:abc;gruu")
        self.assertEqual(refresh.to_tag, "n1")
        self.assertEqual(refresh.get("accept"), "application/pidf+xml")
        self.assertGreater(refresh.cseq.number, 1)

    def test_probe_is_answered_from_the_dialog(self) -> None:
        """A login is answered with what is known, without a request to the far side."""
        self.world.alice_says("probe")
        self.assertEqual(types(self.world.stanzas()), ["available"])
        self.assertEqual(self.world.stack.sent, [])

    def test_logout(self) -> None:
        """After the last client has gone nothing is refreshed and nothing is ended."""
        world = self.world
        world.alice_is()
        world.alice_is(resource="desk")
        world.alice_is(type="unavailable")
        world.alice_is(type="unavailable", resource="desk")
        world.clock.advance(7000)
        self.assertEqual(world.stack.sent, [])
        world.alice_says("probe")
        self.assertEqual(types(world.stanzas()), ["available"])
        world.clock.advance(0)
        self.assertEqual(world.stack.take("SUBSCRIBE").message.to_tag, "n1")

    def test_login_after_the_dialog_died(self) -> None:
        """A dead dialog is made anew at the next login, and old news are not shown."""
        world = self.world
        world.alice_is()
        world.alice_is(type="unavailable")
        world.clock.advance(20000)
        self.assertEqual(world.stack.sent, [])
        world.alice_says("probe")
        self.assertEqual(world.stanzas(), [])
        fresh = world.stack.take("SUBSCRIBE")
        self.assertEqual(fresh.message.to_tag, "")
        fresh.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n2")
        world.notifies(fresh, "active;expires=7200", pidf("open"))
        self.assertEqual(types(world.stanzas()), ["available"])

    def test_no_sign_for_a_day(self) -> None:
        """Who only watches and gives no sign for a day counts as logged out."""
        world = self.world
        refreshes = 0
        for _ in range(400):
            world.clock.advance(300)
            while world.stack.sent:
                refreshes += 1
                sent = world.stack.take("SUBSCRIBE")
                sent.answer(200, headers=[("Expires", "7200")], to_tag="n1")
                body = pidf("open")
                world.notifies(self.sent, "active;expires=7200", body, cseq=refreshes + 10)
        self.assertGreater(refreshes, 10)
        self.assertLess(refreshes, 17)

    def test_probe_of_an_unknown_pair(self) -> None:
        """A roster that knows more than we do is believed: the subscription is made."""
        world = PresenceWorld()
        world.alice_says("probe")
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "active;expires=7200", pidf("open", "busy"))
        self.assertEqual(types(world.stanzas()), ["subscribed", "available"])

    def test_home_server_comes_back(self) -> None:
        """When a home link comes up its users are shown what they may have missed."""
        world = self.world
        world.home.up = False
        world.notifies(self.sent, "active;expires=7200", pidf("open", "busy"), cseq=2)
        world.link_comes_up()
        (shown,) = world.stanzas()
        self.assertEqual(shown.findtext("status"), "Busy")

    def test_slow_home_server(self) -> None:
        """A presence that the home server did not take is sent again, as it is by then."""
        world = self.world
        world.home.up = False
        world.notifies(self.sent, "active;expires=7200", pidf("open", "busy"), cseq=2)
        world.notifies(self.sent, "active;expires=7200", pidf("open", "away"), cseq=3)
        world.home.up = True
        world.clock.advance(16)
        (shown,) = world.stanzas()
        self.assertEqual((shown.findtext("show"), shown.findtext("status")), ("away", None))

    def test_permission_is_not_lost(self) -> None:
        """A "subscribed" that no home server took is said when one is there."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.home.up = False
        world.notifies(sent, "active;expires=7200", pidf("open"))
        world.link_comes_up()
        self.assertEqual(types(world.stanzas())[:2], ["subscribed", "available"])

    def test_writing_is_a_sign(self) -> None:
        """Who writes messages is there, though his server says nothing of his presence."""
        world = self.world
        world.clock.advance(5000)
        world.presence.sign(JID.parse("alice@home.example"))
        world.presence.sign(JID.parse("nobody@home.example"))
        alice = JID.parse("alice@home.example")
        self.assertEqual(world.presence.watching.last_used(alice), world.clock.seconds())
