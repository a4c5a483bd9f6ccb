"""Subscriptions of local users that another process has begun."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from tests.gateway.harness import CONFIG
from tests.gateway.presence_world import GRUU, PresenceWorld, pidf
from tests.gateway.test_presence_outward import ROMEO, types


class RestartTests(SynchronousTestCase):
    """kill -9, and the next process goes on inside the same dialogs."""

    def setUp(self) -> None:
        self.world = PresenceWorld()
        self.sent = self.world.watching(body=pidf("open", "busy"))

    def test_refreshed_inside_the_dialog(self) -> None:
        """The subscription is refreshed in its dialog, with a gap in the numbers."""
        fresh = self.world.crash()
        fresh.clock.advance(0.1)
        refresh = fresh.stack.take("SUBSCRIBE")
        self.assertEqual(refresh.message.call_id, self.sent.message.call_id)
        self.assertEqual(refresh.message.to_tag, "n1")
        self.assertGreater(refresh.message.cseq.number, 1000)
        self.assertEqual(
            refresh.message.contact.uri_text, "sip:alice@fed.home.example:5061;transport=tls"
        )
        refresh.answer(200, headers=[("Expires", "7200")], to_tag="n1")
        fresh.notifies(self.sent, "active;expires=7200", pidf("open", "busy"), cseq=2)
        self.assertEqual(fresh.stanzas(), [])
        fresh.notifies(self.sent, "active;expires=7200", pidf("open"), cseq=3)
        self.assertEqual(types(fresh.stanzas()), ["available"])

    def test_notify_before_the_refresh(self) -> None:
        """A NOTIFY that comes first is taken at once: the dialog is known."""
        fresh = self.world.crash()
        fresh.notifies(self.sent, "active;expires=7000", pidf("closed"), cseq=2)
        self.assertEqual(fresh.stack.last_answer().status, 200)
        self.assertEqual(types(fresh.stanzas()), ["unavailable"])

    def test_probe_is_answered(self) -> None:
        """Who logs in during the restart sees the state last known."""
        fresh = self.world.crash()
        fresh.alice_says("probe")
        (shown,) = fresh.stanzas()
        self.assertEqual(shown.findtext("status"), "Busy")

    def test_away_during_the_restart(self) -> None:
        """Who logs in after a restart that he missed is shown what was told meanwhile."""
        self.world.alice_is()
        self.world.alice_is(type="unavailable")
        fresh = self.world.crash()
        fresh.clock.advance(0.1)
        self.assertEqual(fresh.stack.sent, [])
        fresh.alice_says("probe")
        refresh = fresh.stack.take("SUBSCRIBE")
        self.assertEqual(refresh.message.call_id, self.sent.message.call_id)
        refresh.answer(200, headers=[("Expires", "7200")], to_tag="n1")
        fresh.notifies(self.sent, "active;expires=7200", pidf("open"), cseq=2)
        self.assertEqual(fresh.stanzas()[-1].findtext("status"), None)
        fresh.alice_is()
        fresh.alice_is(type="unavailable")
        fresh.alice_says("probe")
        self.assertEqual(fresh.stack.sent, [])

    def test_dialog_gone(self) -> None:
        """A new SUBSCRIBE only where the far side has forgotten the dialog."""
        fresh = self.world.crash()
        fresh.clock.advance(0.1)
        fresh.stack.take("SUBSCRIBE").answer(481)
        fresh.clock.advance(2)
        self.assertEqual(fresh.stack.take("SUBSCRIBE").message.to_tag, "")

    def test_paced(self) -> None:
        """A wave of refreshes stays under what a partner bears."""
        world = PresenceWorld()
        for number in range(50):
            world.watching(to=f"u{number}@lync.example")
        fresh = world.crash()
        fresh.clock.advance(1.0)
        self.assertLess(len(fresh.stack.sent), 20)
        for _ in range(10):
            fresh.clock.advance(1.0)
        self.assertEqual(len(fresh.stack.sent), 50)

    def test_pace_of_the_operator(self) -> None:
        """A domain's own pace holds, those who were there last come first; "none" is at once."""
        for pace, at_once in ((2, 1), (None, 8)):
            domains = (replace(CONFIG.domains[0], presence_pace=pace), *CONFIG.domains[1:])
            world = PresenceWorld(replace(CONFIG, domains=domains))
            for number in range(8):
                world.clock.advance(100)
                world.home_sends(
                    f"<presence from='u{number}@home.example' to='{ROMEO}' type='subscribe'/>"
                )
                sent = world.stack.take("SUBSCRIBE")
                sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
                world.notifies(sent, "active;expires=7200", pidf("open"))
            fresh = world.crash()
            fresh.clock.advance(0.1)
            self.assertEqual(len(fresh.stack.sent), at_once)
            fresh.clock.pump([0.25] * 16)
            order = [sent.message.from_.uri.user for sent in fresh.stack.sent]
            self.assertEqual(order, [f"u{number}" for number in range(7, -1, -1)])

    def test_logged_out_before_the_crash(self) -> None:
        """Who was logged out is not refreshed after a restart, but at the next login."""
        self.world.alice_is()
        self.world.alice_is(type="unavailable")
        fresh = self.world.crash()
        fresh.clock.advance(60)
        self.assertEqual(fresh.stack.sent, [])
        fresh.clock.advance(6500)
        fresh.alice_says("probe")
        fresh.clock.advance(0)
        self.assertEqual(fresh.stack.take("SUBSCRIBE").message.to_tag, "n1")

    def test_unanswered_wish_survives(self) -> None:
        """A subscription that was being set up is asked for again."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        world.stack.take("SUBSCRIBE")
        fresh = world.crash()
        fresh.clock.advance(1)
        sent = fresh.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        fresh.notifies(sent, "active;expires=7200", pidf("open"))
        self.assertEqual(types(fresh.stanzas()), ["subscribed", "available"])

    def test_end_under_way(self) -> None:
        """A subscription that was being ended is not taken up again."""
        self.world.alice_says("unsubscribe")
        fresh = self.world.crash()
        fresh.clock.advance(10)
        self.assertEqual(fresh.stack.sent, [])
        self.assertEqual(fresh.presence.view(), [])

    def test_view(self) -> None:
        """The operator sees what stands and what was shown."""
        (line,) = self.world.crash().presence.view()
        self.assertEqual(
            (line["direction"], line["state"], line["decision"], line["shown"]),
            ("out", "active", "approved", "away Busy"),
        )
