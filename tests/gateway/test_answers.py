"""What becomes of the question whether a foreign user may see a local one."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.store.api import StoreError, StoreFault
from impfed.store.records import InboundSubscriptionRecord
from impfed.xmpp.jid import JID
from tests.gateway.presence_world import PresenceWorld, state_of

PAIR = (JID.parse("alice@home.example"), JID.parse("romeo@lync.example"))


class AnswerTests(SynchronousTestCase):
    """Romeo has asked to see alice, who has not answered yet."""

    def setUp(self) -> None:
        self.world = PresenceWorld()
        self.tag = self.world.subscribes().to_tag
        self.world.notify()
        self.world.stanzas()

    def answered(self) -> str:
        return self.world.presence.authorizations.inbound(PAIR)

    def test_watcher_goes(self) -> None:
        """A watcher who gives up causes no probe: its answer would be taken for alice's."""
        self.world.subscribes(cseq=2, tag=self.tag, expires=0)
        self.assertTrue(self.world.notify().get("subscription-state").startswith("terminated"))
        self.assertEqual(self.world.stanzas(), [])
        self.assertEqual(self.answered(), "pending")

    def test_watcher_comes_back(self) -> None:
        """A second subscription waits for the same answer, and the question is not put again."""
        world = self.world
        world.subscribes(cseq=2, tag=self.tag, expires=0)
        world.notify()
        world.subscribes(call_id="s2")
        self.assertTrue(world.notify().get("subscription-state").startswith("pending"))
        self.assertEqual(world.stanzas(), [])
        world.alice_approves()
        self.assertEqual(state_of(world.notify()), (True, "", ""))

    def test_answer_that_was_lost(self) -> None:
        """When the home link is back the question is put again: a server that knows repeats itself."""
        self.world.link_comes_up()
        (question,) = self.world.stanzas()
        self.assertEqual(question.get("type"), "subscribe")
        self.world.alice_approves("away")
        self.assertEqual(state_of(self.world.notify()), (True, "away", ""))
        self.world.stanzas()
        self.world.link_comes_up()
        self.assertEqual([each.get("type") for each in self.world.stanzas()], ["probe"])


class KeptFirstTests(SynchronousTestCase):
    """A watcher does not ask again for hours once he was told that he watches."""

    def setUp(self) -> None:
        self.world = PresenceWorld()
        self.world.store.held = True

    def test_answer_waits_for_the_store(self) -> None:
        """Nothing is answered before the subscription would survive a kill; then all of it."""
        world = self.world
        world.subscribes()
        self.assertEqual((world.stack.answers, world.stack.sent), ([], []))
        world.store.release()
        self.assertEqual(world.stack.last_answer().message.status, 200)
        self.assertTrue(world.notify().get("subscription-state").startswith("pending"))
        self.assertEqual(len(world.store.load(InboundSubscriptionRecord).result), 1)

    def test_what_happens_meanwhile(self) -> None:
        """An approval that comes before the store has answered follows the first NOTIFY."""
        world = self.world
        world.subscribes()
        world.alice_approves("dnd")
        self.assertEqual(world.stack.sent, [])
        world.store.release()
        self.assertTrue(world.notify().get("subscription-state").startswith("pending"))
        notify = world.notify()
        self.assertTrue(notify.get("subscription-state").startswith("active"))
        self.assertEqual(state_of(notify), (True, "away", "Busy"))

    def test_store_is_full(self) -> None:
        """A store that takes nothing does not keep watchers out."""
        world = self.world
        world.store.held = False
        world.store.failing = StoreError(StoreFault.OVERLOADED, "too much")
        world.subscribes()
        self.assertEqual(world.stack.last_answer().message.status, 200)
        self.assertTrue(world.notify().get("subscription-state").startswith("pending"))
