"""Pairs that move from node to node while their partner's budget is used up: order is kept."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.gateways import FOREIGN, HOME, Sent, World


class BudgetTests(SynchronousTestCase):
    """Two nodes, and a partner that bears little; one drains."""

    def setUp(self) -> None:
        self.world = World("n1", "n2", rate=4, burst=4)
        self.far = self.world.far

    def leaving(self, count: int) -> list[tuple[str, str]]:
        """Return pairs of the node that will drain."""
        return self.world.pairs_of("n1", count)

    def drains(self, seconds: float) -> None:
        """Drain the node in so much time; from the end on it sends nothing but the end of sessions."""
        ended = self.world.drain("n1")
        end = self.world.cluster.clock.seconds() + seconds
        while not ended and self.world.cluster.clock.seconds() < end:
            self.world.run(0.05)
        self.assertEqual(ended, [None])
        before = len(self.far.sent)
        self.world.run(60.0)
        late = [each.message for each in self.far.sent[before:] if each.node == "n1"]
        self.assertEqual([each for each in late if each.method != "BYE"], [])

    def assert_one_after_the_other(self) -> None:
        """Nothing of a pair was sent by the old node once the new one had sent something."""
        self.assertEqual(self.far.backward, [])
        taken: set[frozenset[str]] = set()
        for sent in self.far.sent:
            pair = frozenset(sent.people)
            if sent.node == "n2":
                taken.add(pair)
            elif pair in taken and sent.message.method != "BYE":
                self.fail(f"n1 sent {sent.message.method} {sent.message.cseq} of {sorted(pair)}")

    def test_texts(self) -> None:
        """Texts that wait for the budget come in the order in which they were written."""
        pairs = self.leaving(6)
        for pair in pairs:
            self.world.writes(*pair, "0")
        self.world.run(8.0)
        for number in range(1, 6):
            for pair in pairs:
                self.world.writes(*pair, str(number))
            self.world.run(0.1)
        self.world.drain("n1")
        for number in range(6, 10):
            self.world.run(0.25)
            for pair in pairs:
                self.world.writes(*pair, str(number))
        self.world.run(60.0)
        expected = [str(number) for number in range(10)]
        self.assertEqual(self.far.texts, dict.fromkeys(pairs, expected))
        self.assert_one_after_the_other()

    def test_texts_under_way(self) -> None:
        """While a text of a pair is under way the new node sends none of those after it."""
        (pair,) = self.leaving(1)
        self.world.writes(*pair, "0")
        self.world.run(3.0)
        self.far.delay = 3.0
        self.world.writes(*pair, "1")
        self.world.run(0.1)
        self.far.delay = 0.1
        for number in range(2, 6):
            self.world.writes(*pair, str(number))
        self.world.run(0.2)
        self.drains(10.0)
        self.assertEqual(self.far.texts[pair], [str(number) for number in range(6)])
        self.assert_one_after_the_other()

    def test_texts_being_written(self) -> None:
        """A text that is just being written down when its pair moves comes after those before it."""
        (pair,) = self.leaving(1)
        self.world.writes(*pair, "0")
        self.world.run(5.0)
        self.far.delay = 0.3
        for number in range(1, 81):
            if number == 40:
                self.world.drain("n1")
            self.world.writes(*pair, str(number))
            self.world.run(0.002, 0.001)
        self.far.delay = 0.01
        self.world.run(60.0)
        self.assertEqual(self.far.texts, {pair: [str(number) for number in range(81)]})
        self.assert_one_after_the_other()

    def test_subscribe(self) -> None:
        """A refresh that waits for the budget is not sent after the new node's."""
        pairs = self.leaving(30)
        for pair in pairs:
            self.world.presence(*pair, "subscribe")
        self.world.run(12.0)
        for sent in self.far.of("SUBSCRIBE"):
            self.world.far_notifies(sent)
        self.world.run(2.0)
        self.far.sent.clear()
        self.world.sides["n1"].presence.watching.resume()
        self.world.run(3.0)
        self.assertLess(len(self.far.sent), 20)
        self.drains(30.0)
        self.assert_one_after_the_other()
        last = {sent.people: sent.node for sent in self.far.of("SUBSCRIBE")}
        self.assertEqual(last, dict.fromkeys(pairs, "n2"))

    def test_notify(self) -> None:
        """A NOTIFY that waits for the budget is not sent after the new node's."""
        pairs = self.leaving(20)
        for number, pair in enumerate(pairs):
            self.world.far_watches("n1", *pair, call_id=f"w{number}")
        self.far.sent.clear()
        for pair in pairs:
            self.world.presence(*pair, show="dnd")
        self.world.run(1.0)
        self.assertLess(len(self.far.sent), 10)
        self.drains(30.0)
        self.assert_one_after_the_other()
        last = {sent.people: sent.node for sent in self.far.of("NOTIFY")}
        self.assertEqual(len([node for node in last.values() if node == "n2"]), len(pairs))

    def test_unanswered_invitation(self) -> None:
        """A text whose INVITE has no answer yet goes on at the new node, and no session is left behind."""
        (pair,) = self.leaving(1)
        self.far.delay = 5.0
        self.world.writes(*pair, "0")
        self.world.run(0.5)
        self.far.delay = 0.1
        self.drains(10.0)
        self.assertEqual(self.far.texts, {pair: ["0"]})
        self.assertEqual(self.world.sides["n1"].gateway.dialogs, 0)


class NewcomerTests(SynchronousTestCase):
    """A node that has joined, and does not listen yet."""

    def test_served_until_it_listens(self) -> None:
        """A request of its pair is served by another node, which gives the pair over when it listens."""
        world = World("n1", "n2", rate=100)
        service = world.sides["n2"].node.service
        info, service._info = service._info, lambda: b""
        world.run(1.0)
        (pair,) = world.pairs_of("n2", 1)
        event = ("Event: presence", "Accept: application/pidf+xml", "Expires: 3600")
        world.far_sends("n1", "SUBSCRIBE", *pair, call_id="s", cseq=1, headers=event)
        self.assertEqual(len(world.sides["n1"].presence.watched.all_pairs()), 1)
        service._info = info
        world.run(1.5)
        counts = [len(side.presence.watched.all_pairs()) for side in world.sides.values()]
        self.assertEqual(counts, [0, 1])
        world.presence(*pair, "subscribed")
        world.presence(*pair)
        world.run(1.0)
        last = world.far.of("NOTIFY")[-1]
        self.assertEqual(last.node, "n2")
        self.assertTrue(last.message.get("subscription-state").startswith("active"))


class SilentTests(SynchronousTestCase):
    """A node that is silent for so long that single records are taken from it, and then beats again."""

    def test_gets_back_what_was_taken(self) -> None:
        """A watcher whose refresh came to another node meanwhile is told what his contact shows afterwards."""
        world = World("n1", "n2", rate=100)
        (pair,) = world.pairs_of("n2", 1)
        world.far_watches("n2", *pair, call_id="w")
        silent = world.sides["n2"].node
        silent.clock.paused = True
        world.run(2.5)
        tag = world.far.of("NOTIFY")[-1].message.from_tag
        event = ("Event: presence", "Accept: application/pidf+xml", "Expires: 3600")
        world.far_sends("n1", "SUBSCRIBE", *pair, call_id="w", cseq=2, tag=tag, headers=event)
        world.run(0.2)
        self.assertEqual(world.far.answers[-1].status, 200)
        self.assertEqual(world.far.of("NOTIFY")[-1].node, "n1")
        silent.clock.wake()
        world.run(3.0)
        world.presence(*pair, show="dnd")
        world.run(1.0)
        told = world.far.of("NOTIFY")[-1]
        self.assertEqual(told.node, "n2")
        self.assertIn(b"busy", told.message.body.lower())
        self.assertEqual(world.far.backward, [])

    def watching(self, world: World) -> tuple[tuple[str, str], Sent]:
        """A local user watches a foreign one from a node that falls silent; returns them and his SUBSCRIBE."""
        (pair,) = world.pairs_of("n2", 1)
        world.presence(*pair, "subscribe")
        world.run(1.0)
        (first,) = world.far.of("SUBSCRIBE")
        world.far_notifies(first)
        world.run(0.5)
        world.sides["n2"].node.clock.paused = True
        world.run(2.2)
        return pair, first

    def test_subscribes_anew_meanwhile(self) -> None:
        """What it makes anew before it gets something back is what goes on, also at the next node."""
        world = World("n1", "n2", rate=100)
        pair, first = self.watching(world)
        world.far_notifies(first, "n1", cseq=2)
        world.run(0.1)
        silent = world.sides["n2"]
        silent.node.clock.wake()
        world.run(0.05)
        self.assertEqual(silent.presence.watching.contacts_now(), [])
        silent.home_sends(
            f"<presence from='{pair[0]}@{HOME}' to='{pair[1]}@{FOREIGN}' type='probe'/>"
        )
        anew = world.far.of("SUBSCRIBE")[-1]
        self.assertNotEqual(anew.message.call_id, first.message.call_id)
        world.far_notifies(anew)
        world.run(3.0)
        world.drain("n2")
        world.run(10.0)
        world.far_notifies(anew, "n1", cseq=2)
        world.run(0.5)
        self.assertEqual(world.far.answers[-1].status, 200)

    def test_taken_for_another_dialog(self) -> None:
        """A subscription goes on that was taken for a NOTIFY of one before, and comes back."""
        world = World("n1", "n2", rate=100)
        pair, first = self.watching(world)
        event = ("Event: presence", "Subscription-State: active;expires=3600")
        world.far_sends("n1", "NOTIFY", *pair, call_id="before", cseq=9, tag="b", headers=event)
        world.run(0.1)
        self.assertEqual(world.far.answers[-1].status, 481)
        world.sides["n2"].node.clock.wake()
        world.run(3.0)
        world.presence(*pair, "probe")
        world.run(1.0)
        last = world.far.of("SUBSCRIBE")[-1]
        self.assertEqual((last.node, last.message.call_id), ("n2", first.message.call_id))
        self.assertEqual(len(world.sides["n2"].presence.watching.contacts_now()), 1)
