"""How subscriptions of ours end, or do not begin: a table for each rule, told on the clock."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.transaction import FailureCause
from impfed.store.records import AuthorizationRecord, OutboundSubscriptionRecord
from tests.gateway.presence_world import GRUU, PresenceWorld, pidf

ROMEO = "romeo@lync.example"
BENVOLIO = "benvolio@simple.example"
STANZAS = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
HOUR = 3600.0


def told(world: PresenceWorld) -> list[str]:
    """Return what the local user was told since the last call, one word each."""
    return [each.get("type") or "available" for each in world.stanzas()]


def outbound(world: PresenceWorld) -> str:
    """Return the stored authorization, "none" if there is no record."""
    records = world.store.load(AuthorizationRecord).result
    return records[0].outbound if records else "none"


def next_attempt(world: PresenceWorld, limit: float, step: float = 1.0) -> float | None:
    """Return after how many seconds a SUBSCRIBE is sent; None if none is within the limit."""
    passed = 0.0
    while not world.stack.sent:
        if passed > limit:
            return None
        world.clock.advance(step)
        passed += step
    return passed


# Reason of NOTIFY terminated -> the earliest and latest new SUBSCRIBE in seconds (None: never) and
# the authorization that stays.
REASONS: tuple[tuple[str, float | None, float, str], ...] = (
    ("deactivated", 0, 2, "approved"),
    ("timeout", 0, 2, "approved"),
    ("probation", 300, 376, "approved"),
    ("probation;retry-after=900", 900, 1200, "approved"),
    ("giveup", 300, 376, "approved"),
    ("giveup;retry-after=60", 60, 100, "approved"),
    ("", 300, 376, "approved"),
    (";retry-after=120", 120, 160, "approved"),
    ("whatever-comes", 300, 376, "approved"),
    ("invariant", None, 0, "approved"),
    ("rejected", None, 0, "declined"),
    ("noresource", None, 0, "declined"),
)

# Answer to a first SUBSCRIBE, per kind of domain: what the local user is told, the authorization,
# and whether there is a new attempt, between which seconds.
FIRST: tuple[tuple[str, int, str, str, tuple[float, float] | None], ...] = (
    (ROMEO, 403, "error", "pending", (3200, 4000)),
    (ROMEO, 404, "unsubscribed", "none", None),
    (ROMEO, 408, "error", "pending", (20, 40)),
    (ROMEO, 480, "error", "pending", (20, 40)),
    (ROMEO, 489, "unsubscribed", "declined", None),
    (ROMEO, 500, "error", "pending", (20, 40)),
    (ROMEO, 503, "error", "pending", (20, 40)),
    (ROMEO, 504, "error", "pending", (20, 40)),
    (ROMEO, 603, "unsubscribed", "declined", None),
    (BENVOLIO, 302, "error", "pending", (20, 40)),
    (BENVOLIO, 401, "error", "pending", (20, 40)),
    (BENVOLIO, 403, "unsubscribed", "declined", None),
    (BENVOLIO, 404, "unsubscribed", "none", None),
    (BENVOLIO, 405, "error", "pending", (3200, 4000)),
    (BENVOLIO, 407, "error", "pending", (20, 40)),
    (BENVOLIO, 410, "unsubscribed", "none", None),
    (BENVOLIO, 416, "unsubscribed", "none", None),
    (BENVOLIO, 420, "error", "pending", (3200, 4000)),
    (BENVOLIO, 423, "error", "pending", (20, 40)),  # without Min-Expires
    (BENVOLIO, 480, "error", "pending", (20, 40)),
    (BENVOLIO, 481, "error", "pending", (0, 2)),
    (BENVOLIO, 482, "error", "pending", (20, 40)),
    (BENVOLIO, 484, "unsubscribed", "none", None),
    (BENVOLIO, 485, "unsubscribed", "none", None),
    (BENVOLIO, 489, "unsubscribed", "declined", None),
    (BENVOLIO, 501, "error", "pending", (3200, 4000)),
    (BENVOLIO, 600, "error", "pending", (20, 40)),
    (BENVOLIO, 603, "unsubscribed", "declined", None),
    (BENVOLIO, 604, "unsubscribed", "none", None),
    (BENVOLIO, 606, "error", "pending", (20, 40)),
)

# Answer to a refresh, by RFC 6665 section 4.1.2.2: whether the dialog lives on, dies, or the
# authorization with it ("lives", "new dialog", "over"), and until when there is a new request.
REFRESH: tuple[tuple[str, int, str, float], ...] = (
    *((ROMEO, status, "new dialog", 4000.0) for status in (404, 405, 410, 416, 480, 482, 483)),
    *((ROMEO, status, "new dialog", 4000.0) for status in (484, 485, 501, 604)),
    (ROMEO, 481, "new dialog", 2.0),
    *((ROMEO, status, "lives", 400.0) for status in (400, 401, 403, 408, 500, 503, 504, 600)),
    (ROMEO, 489, "over", 0.0),
    (ROMEO, 603, "over", 0.0),
    (BENVOLIO, 403, "over", 0.0),
    (BENVOLIO, 480, "new dialog", 60.0),
)


class TerminatedTests(SynchronousTestCase):
    """NOTIFY with Subscription-State: terminated (RFC 6665 section 4.1.3)."""

    def test_reasons(self) -> None:
        """Every reason has its rule for a new subscription, and for the authorization."""
        for reason, earliest, latest, decision in REASONS:
            world = PresenceWorld()
            sent = world.watching()
            world.clock.advance(100)
            state = "terminated" + (f";reason={reason}" if not reason.startswith(";") else reason)
            world.notifies(sent, "terminated" if not reason else state, cseq=2)
            self.assertEqual(world.stack.last_answer().status, 200, reason)
            found = next_attempt(world, 2 * HOUR, 1.0 if latest < 60 else 10.0)
            if earliest is None:
                self.assertIsNone(found, reason)
            else:
                assert found is not None, reason
                self.assertTrue(earliest <= found <= latest + 10, (reason, found))
                fresh = world.stack.take("SUBSCRIBE").message
                self.assertNotEqual(fresh.call_id, sent.message.call_id)
                self.assertEqual(fresh.to_tag, "")
            self.assertEqual(outbound(world), decision, reason)

    def test_again_and_again(self) -> None:
        """A far side that ends every subscription at once is not asked in a tight loop."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        attempts = 0
        for second in range(3600):
            while world.stack.sent:
                attempts += 1
                sent = world.stack.take("SUBSCRIBE")
                sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
                world.notifies(sent, "terminated;reason=deactivated", cseq=second + 1)
            world.clock.advance(1)
        self.assertLess(attempts, 12)

    def test_invariant_stays_shown(self) -> None:
        """A state that will not change stays as it is, and is asked for at the next login."""
        world = PresenceWorld()
        sent = world.watching()
        world.notifies(sent, "terminated;reason=invariant", cseq=2)
        world.clock.advance(2 * HOUR)
        self.assertEqual(told(world), [])
        world.alice_says("probe")
        self.assertEqual(told(world), ["available"])
        world.stack.take("SUBSCRIBE")

    def test_what_was_seen_before(self) -> None:
        """While the new subscription is made what was seen stays; after five minutes unknown."""
        world = PresenceWorld()
        sent = world.watching()
        world.notifies(sent, "terminated;reason=probation;retry-after=1000", cseq=2)
        world.clock.advance(299)
        self.assertEqual(told(world), [])
        world.clock.advance(2)
        (shown,) = world.stanzas()
        self.assertEqual(shown.findtext("status"), "presence unknown")


class FirstTests(SynchronousTestCase):
    """The first SUBSCRIBE of a pair is refused: the local user learns of it (RFC 8048)."""

    def test_answers(self) -> None:
        """Each answer: what the user is told, what stays, and when it is tried again."""
        for who, status, word, decision, again in FIRST:
            world = PresenceWorld()
            world.alice_says("subscribe", to=who)
            world.stack.take("SUBSCRIBE").answer(status)
            self.assertEqual(told(world), [word], (who, status))
            self.assertEqual(outbound(world), decision, (who, status))
            found = next_attempt(world, 2 * HOUR, 1.0 if again and again[1] < 60 else 60.0)
            if again is None:
                self.assertIsNone(found, (who, status))
                self.assertEqual(world.presence.view(), [])
                self.assertEqual(world.store.load(OutboundSubscriptionRecord).result, [])
            else:
                assert found is not None, (who, status)
                self.assertTrue(again[0] <= found <= again[1] + 60, (who, status, found))

    def test_form_of_the_error(self) -> None:
        """The error quotes the request's id and says in words what happened."""
        world = PresenceWorld()
        world.home_sends(
            f"<presence from='alice@home.example' to='{ROMEO}' type='subscribe' id='q1'/>"
        )
        world.stack.take("SUBSCRIBE").answer(480)
        (error,) = world.stanzas()
        self.assertEqual((error.get("id"), error.get("from")), ("q1", ROMEO))
        self.assertEqual(error.get("to"), "alice@home.example")
        self.assertIsNotNone(error.find(f"error/{STANZAS}recipient-unavailable"))
        self.assertIn("we go on trying", error.findtext(f"error/{STANZAS}text"))

    def test_form_of_the_end(self) -> None:
        """What ends a request says why, as text of the unsubscribed."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        world.stack.take("SUBSCRIBE").answer(404)
        (end,) = world.stanzas()
        self.assertEqual((end.get("type"), end.get("from")), ("unsubscribed", ROMEO))
        self.assertIn(f"There is no {ROMEO}", end.findtext("status"))

    def test_no_answer_at_all(self) -> None:
        """Silence and a lost connection are told once; the attempts go on with growing pauses."""
        for cause in (FailureCause.TIMEOUT, FailureCause.TRANSPORT):
            world = PresenceWorld()
            world.alice_says("subscribe")
            world.stack.take("SUBSCRIBE").fail(cause=cause)
            self.assertEqual(told(world), ["error"])
            pauses = []
            for _ in range(9):
                found = next_attempt(world, 2 * HOUR, 10.0)
                assert found is not None
                pauses.append(found)
                world.stack.take("SUBSCRIBE").fail(cause=cause)
            self.assertLess(pauses[0], 100)
            self.assertLess(max(pauses), 1.3 * HOUR)
            self.assertGreater(pauses[-1], 2000)
            self.assertEqual(told(world), [])

    def test_two_hundred_without_notify(self) -> None:
        """A 200 that no NOTIFY follows is no subscription (timer N): told, and tried again."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.clock.advance(31)
        self.assertEqual(told(world), [])
        world.clock.advance(2)
        self.assertEqual(told(world), ["error"])
        self.assertIsNotNone(next_attempt(world, 60))

    def test_given_up_after_a_week(self) -> None:
        """What nobody answers for a week is given up, and the roster waits no longer."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        for _ in range(400):
            while world.stack.sent:
                world.stack.take("SUBSCRIBE").fail()
            world.alice_is()  # he is there all the time
            world.clock.advance(1800)
        self.assertEqual(told(world), ["error", "unsubscribed"])
        self.assertEqual((outbound(world), world.presence.view()), ("none", []))

    def test_asked_again(self) -> None:
        """Who asks again while an attempt waits has it made at once, and is answered again."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        world.stack.take("SUBSCRIBE").answer(480)
        world.alice_says("subscribe")
        world.stack.take("SUBSCRIBE").answer(480)
        self.assertEqual(told(world), ["error", "error"])

    def test_repeated_request(self) -> None:
        """A second request while the first is under way makes no second SUBSCRIBE."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        world.alice_says("subscribe")
        self.assertEqual(len(world.stack.sent), 1)

    def test_operator_is_told_of_the_missing_entry(self) -> None:
        """403 of a Microsoft partner is counted and shown, hour after hour, and ends nothing."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        for _ in range(5):
            world.stack.take("SUBSCRIBE").answer(403)
            self.assertIn("403", world.presence.view()[0]["trouble"])
            found = next_attempt(world, 2 * HOUR, 60.0)
            assert found is not None
            self.assertTrue(3200 <= found <= 4000, found)
        self.assertEqual(told(world), ["error"])
        self.assertEqual(world.metrics.snapshot()["presence.out.refused.403"], 5)
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "active;expires=7200", pidf("open"))
        self.assertEqual(told(world), ["subscribed", "available"])
        self.assertEqual(world.presence.view()[0]["trouble"], "")

    def test_denied_by_a_pending_presentity(self) -> None:
        """A foreign user who is asked and says no: rejected after pending."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(202, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "pending;expires=7200")
        world.notifies(sent, "terminated;reason=rejected", cseq=2)
        self.assertEqual(told(world), ["unsubscribed"])
        self.assertEqual(outbound(world), "declined")
        world.alice_says("probe")
        self.assertEqual(told(world), ["unsubscribed"])
        self.assertIsNone(next_attempt(world, 3 * HOUR, 60.0))

    def test_pending_is_refreshed(self) -> None:
        """A foreign user who does not decide is waited for; the subscription is kept alive."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "pending;expires=7200")
        found = next_attempt(world, 2 * HOUR, 10.0)
        assert found is not None
        refresh = world.stack.take("SUBSCRIBE")
        self.assertEqual(refresh.message.call_id, sent.message.call_id)
        refresh.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "active;expires=7200", pidf("open"), cseq=2)
        self.assertEqual(told(world), ["subscribed", "available"])


class RefreshTests(SynchronousTestCase):
    """A refresh is refused (RFC 6665 section 4.1.2.2, RFC 8048 section 5.2.2)."""

    def test_answers(self) -> None:
        """Each answer keeps the dialog, needs a new one, or ends the authorization."""
        for who, status, outcome, within in REFRESH:
            world = PresenceWorld()
            sent = world.watching(to=who)
            world.clock.advance(6600)
            world.stack.take("SUBSCRIBE").answer(status)
            found = next_attempt(world, within, 1.0 if within < 100 else 20.0)
            name = (who, status)
            if outcome == "over":
                self.assertIsNone(found, name)
                self.assertEqual(told(world), ["unavailable", "unsubscribed"], name)
                self.assertEqual(outbound(world), "declined", name)
                continue
            assert found is not None, name
            again = world.stack.take("SUBSCRIBE").message
            self.assertEqual(again.call_id == sent.message.call_id, outcome == "lives", name)
            self.assertEqual(outbound(world), "approved", name)
            self.assertNotIn("unsubscribed", told(world), name)

    def test_too_brief(self) -> None:
        """423 to a refresh is answered in the dialog with a longer wish; hopeless ones are not."""
        world = PresenceWorld()
        sent = world.watching()
        world.clock.advance(6600)
        world.stack.take("SUBSCRIBE").answer(423, headers=[("Min-Expires", "10000")])
        longer = world.stack.take("SUBSCRIBE")
        self.assertEqual(longer.message.get("expires"), "10000")
        self.assertEqual(longer.message.call_id, sent.message.call_id)
        for minimum in ("10000", "99999999", "x"):
            world = PresenceWorld()
            world.alice_says("subscribe")
            world.stack.take("SUBSCRIBE").answer(423, headers=[("Min-Expires", "10000")])
            world.stack.take("SUBSCRIBE").answer(423, headers=[("Min-Expires", minimum)])
            self.assertEqual(world.stack.sent, [], minimum)
            self.assertEqual(told(world), ["error"], minimum)

    def test_retry_after(self) -> None:
        """A far side that names a time is not asked before it."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        world.stack.take("SUBSCRIBE").answer(503, headers=[("Retry-After", "1800")])
        found = next_attempt(world, 2 * HOUR, 10.0)
        assert found is not None
        self.assertGreaterEqual(found, 1800)

    def test_jitter(self) -> None:
        """Subscriptions made in one second are not refreshed in one second."""
        world = PresenceWorld()
        for number in range(20):
            who = f"u{number}@lync.example"
            world.alice_says("subscribe", to=who)
            sent = world.stack.take("SUBSCRIBE")
            sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
            world.notifies(sent, "active;expires=7200", pidf("open", entity=who))
        times = set()
        for second in range(5700, 6550, 10):
            world.clock.advance(5700 if second == 5700 else 10)
            times.update([second] * len(world.stack.sent))
            world.stack.sent.clear()
        self.assertGreaterEqual(len(times), 5)


class RemovedTests(SynchronousTestCase):
    """The local user removes the contact, at every point of its life."""

    def removed(self, world: PresenceWorld) -> None:
        """His server says so: both directions end, as in RFC 6121 section 2.5.2."""
        world.alice_says("unsubscribe")
        world.alice_says("unsubscribed")

    def settled(self, world: PresenceWorld) -> None:
        """Nothing is left, and nothing is sent any more."""
        self.assertEqual(told(world), ["unsubscribed"])
        self.assertEqual((outbound(world), world.presence.view()), ("none", []))
        self.assertEqual(world.store.load(OutboundSubscriptionRecord).result, [])
        self.assertIsNone(next_attempt(world, 3 * HOUR, 60.0))

    def test_before_any_answer(self) -> None:
        """A NOTIFY that comes for it later is 481, so that the far side forgets it too."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        self.removed(world)
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "pending;expires=7200")
        self.assertEqual(world.stack.last_answer().status, 481)
        self.settled(world)

    def test_while_pending(self) -> None:
        """Expires 0 in the dialog; over with the last NOTIFY."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        world.notifies(sent, "pending;expires=7200")
        self.removed(world)
        end = world.stack.take("SUBSCRIBE")
        self.assertEqual(end.message.get("expires"), "0")
        end.answer(200, headers=[("Expires", "0")], to_tag="n1")
        world.notifies(sent, "terminated;reason=timeout", cseq=2)
        self.settled(world)

    def test_while_an_attempt_waits(self) -> None:
        """A request that could not be delivered is simply forgotten."""
        world = PresenceWorld()
        world.alice_says("subscribe")
        world.stack.take("SUBSCRIBE").answer(480)
        self.assertEqual(told(world), ["error"])
        self.removed(world)
        self.settled(world)

    def test_far_side_does_not_end_it(self) -> None:
        """Whatever the far side makes of the end, it is one: an error, silence, or no NOTIFY."""
        for outcome in (481, 500, 0, 200):
            world = PresenceWorld()
            world.watching()
            world.alice_says("unsubscribe")
            end = world.stack.take("SUBSCRIBE")
            if outcome:
                end.answer(outcome, headers=[("Expires", "0")], to_tag="n1")
            else:
                end.fail(cause=FailureCause.TIMEOUT)
            world.clock.advance(33)
            self.assertEqual(told(world), ["unavailable", "unsubscribed"], outcome)
            self.assertEqual(world.presence.view(), [], outcome)

    def test_added_again_meanwhile(self) -> None:
        """Who adds the contact again before the end was confirmed has a new subscription."""
        world = PresenceWorld()
        old = world.watching()
        world.alice_says("unsubscribe")
        world.stack.take("SUBSCRIBE")
        world.alice_says("subscribe")
        fresh = world.stack.take("SUBSCRIBE")
        self.assertNotEqual(fresh.message.call_id, old.message.call_id)
        fresh.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n2")
        world.notifies(fresh, "active;expires=7200", pidf("open"), tag="n2")
        self.assertEqual(told(world)[-2:], ["subscribed", "available"])
        self.assertEqual(outbound(world), "approved")
