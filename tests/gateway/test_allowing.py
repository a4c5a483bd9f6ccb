"""Foreign users whom a list allows, and what a local user's own answer does to lists."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.gateway.policy_world import ALICE, ROMEO, PolicyWorld
from tests.gateway.presence_world import state_of
from tests.gateway.test_blocking import CLOSED, OPEN


class AllowTests(SynchronousTestCase):
    """Allow: active without a question, where the home server's roster can be changed."""

    def setUp(self) -> None:
        self.world = PolicyWorld()

    def test_active_at_once(self) -> None:
        """The roster is approved, the subscription is active, the state follows from a probe."""
        world = self.world
        roster = world.with_roster()
        world.allow("lync.example")
        world.subscribes()
        self.assertEqual(roster.approved, [("alice@home.example", "romeo@lync.example")])
        self.assertEqual(world.types(), ["probe"])
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "active;expires=7200")
        self.assertEqual(state_of(notify), CLOSED)
        world.alice_is()
        world.settle()
        self.assertEqual(state_of(world.notify()), OPEN)
        self.assertEqual(world.presence.authorizations.inbound((ALICE, ROMEO)), "approved")

    def test_roster_answers_later(self) -> None:
        """It is pending until the home server has answered, and nobody is asked."""
        world = self.world
        roster = world.with_roster(None)
        world.allow()
        world.subscribes()
        self.assertTrue(world.notify().get("subscription-state").startswith("pending"))
        world.subscribes(call_id="s2")
        world.notify()
        self.assertEqual((world.types(), len(roster.approved)), ([], 1))
        roster.waiting[0].callback(True)
        self.assertEqual(world.types(), ["probe"])
        world.alice_is("away")
        world.settle()
        for _ in range(2):
            notify = world.notify()
            self.assertEqual(notify.get("subscription-state"), "active;expires=7200")
            self.assertEqual(state_of(notify)[:2], (True, "away"))

    def test_declined_meanwhile(self) -> None:
        """A decline in a client that crosses the approval of the list stands."""
        world = self.world
        world.subscribes()
        world.notify()
        roster = world.with_roster(None)
        world.allow()
        world.alice_says("unsubscribed")
        world.clock.advance(3)
        self.assertEqual(state_of(world.notify()), CLOSED)
        roster.waiting[0].callback(True)
        world.alice_is()
        world.settle()
        self.assertEqual(world.stack.sent, [])

    def test_degrades_to_ask(self) -> None:
        """Where rosters cannot be changed, or the home server refuses, the user is asked."""
        for number, make in enumerate(
            (
                lambda world: None,
                lambda world: world.with_roster(False),
                lambda world: world.with_roster(RuntimeError("no answer")),
            )
        ):
            world = PolicyWorld()
            make(world)
            world.allow()
            world.subscribes()
            self.assertTrue(world.notify().get("subscription-state").startswith("pending"))
            self.assertEqual(world.types(), ["subscribe"], number)
            self.assertEqual(world.count("gate.user.degraded"), 1)
            world.alice_approves()
            self.assertEqual(state_of(world.notify()), OPEN)
        self.flushLoggedErrors(RuntimeError)

    def test_pending_is_let_in(self) -> None:
        """Allowing somebody who waits lets him in without an answer in the client."""
        world = self.world
        world.subscribes()
        world.notify()
        world.stanzas()
        roster = world.with_roster()
        world.allow()
        self.assertEqual(len(roster.approved), 1)
        world.alice_is("away")
        world.settle()
        notify = world.notify()
        self.assertEqual(notify.get("subscription-state"), "active;expires=7200")
        self.assertEqual(state_of(notify)[:2], (True, "away"))

    def test_contact_list(self) -> None:
        """Whom the user watches may see her, even where her default is to block."""
        world = self.world
        roster = world.with_roster()
        world.policies.set_default(ALICE, "block")
        world.subscribes()
        world.notify()
        world.alice_says("unsubscribed")
        world.settle()
        self.assertEqual(roster.approved, [])
        world.stanzas()
        world.alice_says("subscribe")
        self.assertEqual(len(roster.approved), 1)
        self.assertEqual(world.types(), ["probe"])
        world.alice_is()
        world.settle()
        world.stack.take("SUBSCRIBE")
        self.assertEqual(state_of(world.notify()), OPEN)

    def test_later_allow_clears_a_decline(self) -> None:
        """Who was declined once and is allowed now is let in."""
        world = self.world
        world.presence.authorizations.decide_inbound((ALICE, ROMEO), "declined")
        world.subscribes()
        world.notify()
        world.alice_says("unsubscribed")
        world.settle()
        world.with_roster()
        world.allow("lync.example")
        world.alice_is()
        world.settle()
        self.assertEqual(state_of(world.notify()), OPEN)

    def test_decline_after_allow(self) -> None:
        """Who is declined in a client after he was allowed is hidden, and not approved again."""
        world = self.world
        roster = world.with_roster()
        world.allow()
        world.subscribes()
        world.notify()
        world.alice_is()
        world.settle()
        world.notify()
        world.alice_says("unsubscribed")
        self.assertEqual(state_of(world.notify()), CLOSED)
        world.subscribes(call_id="again")
        world.notify()
        self.assertEqual(len(roster.approved), 1)
        self.assertNotIn("subscribe", world.types())


class AnswerTests(SynchronousTestCase):
    """What a user answers in a third-party client is the pair's authorization and nothing else."""

    def setUp(self) -> None:
        self.world = PolicyWorld()

    def test_list_is_untouched(self) -> None:
        """Accepting and declining change no list."""
        for answer in ("subscribed", "unsubscribed"):
            self.world.subscribes(call_id=answer)
            self.world.alice_says(answer)
            self.assertEqual(self.world.policies.entries(ALICE), [])

    def test_not_asked_again_until_cleared(self) -> None:
        """A declined pair is asked again only when the user clears the decision."""
        world = self.world
        world.subscribes()
        world.notify()
        world.alice_says("unsubscribed")
        world.clock.advance(3)
        world.notify()
        world.stanzas()
        world.subscribes(call_id="s2")
        world.notify()
        fresh = world.crash()
        fresh.link_comes_up()
        self.assertEqual(fresh.types(), ["probe"])
        self.assertTrue(fresh.presence.watched.clear((ALICE, ROMEO)))
        self.assertEqual(fresh.types(), ["subscribe"])
        self.assertEqual(fresh.stack.sent, [])
        fresh.alice_approves("away")
        self.assertEqual(state_of(fresh.notify())[:2], (True, "away"))

    def test_cleared_approval_hides(self) -> None:
        """Clearing an approval hides the state until the user has answered again."""
        world = self.world
        world.approved_romeo("away")
        world.presence.watched.clear((ALICE, ROMEO))
        self.assertEqual(state_of(world.notify()), CLOSED)
        self.assertEqual(world.types(), ["subscribe"])
