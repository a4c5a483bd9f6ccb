"""A cluster on a clock: nodes come, die, sleep, lose their store, drain."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.membership import Standing
from impfed.cluster.ownership import Placement
from impfed.store.api import Delete, Put
from impfed.store.records import PolicyDefaultRecord
from tests.cluster.kit import Cluster, Kind, Node, pair

PAIRS = range(300)


class ClusterCase(SynchronousTestCase):
    """Three nodes that own 300 pairs."""

    def setUp(self) -> None:
        self.cluster = Cluster("n1", "n2", "n3")
        self.cluster.run(3.0)
        for number in PAIRS:
            self.owner(number).own(number)
        self.cluster.run(0.5)
        self.nodes = dict(self.cluster.nodes)
        for node in self.nodes.values():
            node.user.told.clear()

    def owner(self, number: int) -> Node:
        first = next(iter(self.cluster.nodes.values()))
        return self.cluster.nodes[first.service.owner(pair(number))]

    def check(self) -> None:
        """Every record has one owner, the store and the owner agree, and it is the right one."""
        stored = self.cluster.stored()
        for name, node in self.cluster.nodes.items():
            self.assertEqual(stored.pop(name, []), sorted(node.user.records), name)
            for record in node.user.records.values():
                self.assertEqual(node.service.owner((record.local, record.foreign)), name)
        self.assertEqual(stored, {})
        count = sum(len(node.user.records) for node in self.cluster.nodes.values())
        self.assertEqual(count, len(PAIRS))


class MembershipTests(ClusterCase):
    def test_all_agree(self) -> None:
        """Nodes that have joined know each other and share the pairs."""
        self.check()
        for node in self.nodes.values():
            self.assertIs(node.service.standing, Standing.MEMBER)
            self.assertTrue(node.service.may_act)
            self.assertTrue(node.service.placement.settled)
            self.assertEqual(node.service.placement.now.names, ("n1", "n2", "n3"))
            self.assertEqual([row["state"] for row in node.service.status()["nodes"]], ["live"] * 3)
            self.assertGreater(len(node.user.records), 70)
        self.assertEqual(self.nodes["n1"].service.nodes[1].info, b"info of n2")

    def test_death(self) -> None:
        """A killed node is suspected after 2 s; after 4 s its share is split, within 5 s in all."""
        dead = self.nodes["n2"]
        had = set(dead.user.records)
        one = self.nodes["n1"]
        before = set(one.user.records)
        dead.kill()
        self.assertFalse(one.service.suspected("n2"))
        self.cluster.run(2.6)
        self.assertTrue(one.service.suspected("n2"))
        self.cluster.run(2.4)
        self.check()
        self.assertTrue(before < set(one.user.records))
        self.assertTrue(set(one.user.records) - before < had)
        self.cluster.run(1.0)
        self.assertTrue(one.service.placement.settled)

    def test_lost_answers_while_taking_over(self) -> None:
        """What was taken without the answer having come is served all the same, sooner or later."""
        one = self.nodes["n1"]
        lose = iter([True] * 4)
        one.link.afterwards = lambda operation: operation == "adopt" and next(lose, False)
        self.nodes["n2"].kill()
        self.nodes["n3"].kill()
        self.cluster.run(30.0)
        self.check()

    def test_adopt_on_touch(self) -> None:
        """Who is handed something of a suspected node takes that one record over."""
        dead, one = self.nodes["n2"], self.nodes["n1"]
        key = next(iter(dead.user.records))
        [owner] = [self.successResultOf(self.touch(one, key))[0]]
        self.assertEqual(owner, "n2")
        dead.kill()
        self.cluster.run(2.6)
        owner, record = self.successResultOf(self.touch(one, key))
        self.assertEqual((owner, record.key), ("n1", key))

    def touch(self, node: Node, key: str) -> object:
        touched = node.service.touch(Kind, key)
        self.cluster.run(0.1)
        return touched

    def test_restart_within_the_lease(self) -> None:
        """A node that is back before its lease is over keeps what it had."""
        self.nodes["n2"].kill()
        self.cluster.run(1.0)
        self.cluster.add("n2")
        self.cluster.run(3.0)
        self.check()
        self.assertEqual(self.nodes["n1"].user.told, [])

    def test_return_after_death(self) -> None:
        """A node that comes back gets its share back, given by those who had taken it."""
        had = set(self.nodes["n2"].user.records)
        self.nodes["n2"].kill()
        self.cluster.run(6.0)
        back = self.cluster.add("n2")
        self.cluster.run(3.0)
        self.check()
        self.assertEqual(set(back.user.records), had)
        self.assertTrue(any(word.startswith("give") for word in self.nodes["n1"].user.told))

    def test_process_that_sleeps(self) -> None:
        """A node paused for 45 s acts on nothing that others took: it is fenced, and joins anew."""
        sleeper = self.nodes["n2"]
        record = next(iter(sleeper.user.records.values()))
        sleeper.clock.paused = True
        self.cluster.run(45.0)
        refused: list[BaseException | None] = []
        sleeper.clock.rightNow = self.cluster.clock.seconds()  # awake, before anything has run
        self.assertFalse(sleeper.service.may_act)
        sleeper.store.write([Put(record)], refused.append)
        sleeper.clock.wake()
        self.cluster.run(4.0)
        self.assertEqual([type(error).__name__ for error in refused], ["Fenced"])
        self.assertEqual(sleeper.user.told[:3], ["pause", "drop", "resume"])
        self.check()
        self.assertIs(sleeper.service.standing, Standing.MEMBER)

    def test_taken_over_while_it_loads(self) -> None:
        """A node that takes long to read serves nothing of what others have taken meanwhile."""

        def slowly(node: Node) -> Deferred[list[Kind]]:
            node.link.before = lambda operation: operation == "beat" and node.service.epoch == 4
            later = partial(deferLater, node.clock, 8.0)
            return node.store.load(Kind).addCallback(lambda found: later(lambda: found))

        self.patch(Node, "load", slowly)
        self.nodes["n2"].kill()
        back = self.cluster.add("n2")
        self.cluster.run(6.0)
        taker = self.nodes["n1"]
        key = next(key for key in self.nodes["n2"].user.records if key in taker.user.records)
        taker.store.write([Delete(Kind, taker.user.records.pop(key).key)])
        self.cluster.run(0.5)
        back.link.before = lambda operation: False
        self.cluster.run(15.0)
        self.assertNotIn(key, back.user.records)
        self.assertEqual(sorted(back.user.records), self.cluster.stored()["n2"])

    def test_drain(self) -> None:
        """A node that drains gives everything away, and is done when it has nothing."""
        leaver = self.nodes["n2"]
        drained = leaver.service.drain()
        self.cluster.run(2.0)
        self.successResultOf(drained)
        self.assertEqual(leaver.user.records, {})
        stopped = leaver.service.stop()
        self.cluster.run(1.0)
        self.successResultOf(stopped)
        del self.cluster.nodes["n2"]
        self.cluster.run(1.0)
        self.check()
        self.assertFalse(leaver.service.may_act)

    def test_drain_and_work_again(self) -> None:
        """A node that takes work again gets its own share back, and no other."""
        node = self.nodes["n2"]
        before = set(node.user.records)
        self.assertFalse(node.service.work_again())
        node.service.drain()
        self.cluster.run(2.0)
        self.assertTrue(node.service.drained)
        self.assertTrue(node.service.work_again())
        self.cluster.run(2.0)
        self.assertIs(node.service.standing, Standing.MEMBER)
        self.assertFalse(node.service.drained)
        self.assertEqual(set(node.user.records), before)
        self.check()

    def test_deaf_node_is_given_records(self) -> None:
        """Who cannot read of what it was given does not say that it has given on what is another's now."""
        deaf = self.nodes["n1"]
        deaf.link.before = lambda operation: operation == "wait"
        self.cluster.run(1.5)
        self.nodes["n2"].service.drain()
        self.cluster.run(1.0)
        unread = set(self.cluster.stored()["n1"]) - set(deaf.user.records)
        new = self.cluster.add("n4")
        self.cluster.run(1.0)
        waiting = {number for number in PAIRS if new.service.placement.held(pair(number))}
        for key in unread:
            number = int(key.partition("@")[0].removeprefix("user"))
            self.assertEqual(number in waiting, self.owner(number) is new, key)
        self.assertTrue(unread)
        deaf.link.before = lambda operation: False
        self.cluster.run(4.0)
        self.nodes["n2"].kill()
        self.cluster.run(0.5)
        self.check()
        self.assertTrue(new.service.placement.settled)

    def test_given_too_late(self) -> None:
        """What a node is given after its pair has moved on goes on to whose it is."""
        giver, taker, owner = (self.nodes[name] for name in ("n1", "n2", "n3"))
        number = next(n for n in range(len(PAIRS), 400) if self.owner(n) is owner)
        giver.own(number)
        self.cluster.run(0.1)
        key = Kind(*pair(number)).key
        generation = giver.service.placement.generation
        giver.service.give(Kind, taker.name, [giver.user.records.pop(key).key], generation)
        self.cluster.run(0.1)
        self.assertIn(key, taker.user.records)
        self.cluster.run(2.0)
        self.assertNotIn(key, taker.user.records)
        self.assertIn(key, owner.user.records)
        self.assertIn(key, self.cluster.stored()["n3"])

    def test_given_by_a_shape_that_is_over(self) -> None:
        """Who takes long gives nothing by a shape of the cluster that is over: no owner goes on too early."""
        slow = self.nodes["n1"]
        release, go_on = slow.user.release, Deferred[None]()

        def slowly(placement: Placement) -> Deferred[None]:
            return go_on.addCallback(lambda _: release(placement))

        self.patch(slow.user, "release", slowly)
        self.cluster.add("n4")
        self.cluster.run(2.0)
        self.cluster.add("n5")
        self.cluster.run(2.0)
        go_on.callback(None)
        settled = 0
        for _ in range(80):
            self.cluster.run(0.05)
            if all(node.service.placement.settled for node in self.cluster.nodes.values()):
                settled += 1
                self.check()
        self.assertGreater(settled, 20)

    def test_stop_frees_at_once(self) -> None:
        """A node that stops without draining leaves its share to the others at once."""
        leaver = self.nodes["n2"]
        leaver.service.stop()
        del self.cluster.nodes["n2"]
        self.cluster.run(1.0)
        self.check()

    def test_common_records(self) -> None:
        """What one node changes for all is told to the others, and to itself not."""
        record = PolicyDefaultRecord("carol@company.example", "block")
        self.nodes["n1"].store.write([Put(record)])
        self.cluster.run(0.5)
        self.assertEqual(self.nodes["n2"].user.changes, [(record.key, record)])
        self.assertEqual(self.nodes["n1"].user.changes, [])

    def test_missed_changes(self) -> None:
        """Who cannot have heard of every common change loads all anew; an emptied store is no reason."""
        one, two = self.nodes["n1"], self.nodes["n2"]
        one.store.write([Put(PolicyDefaultRecord("a@company.example"))])
        self.cluster.run(0.5)
        self.cluster.model._feed += 5
        one.store.write([Put(PolicyDefaultRecord("b@company.example"))])
        self.cluster.run(0.5)
        self.assertEqual(two.user.told, ["reload"])
        self.cluster.model._feed = 0
        one.store.write([Put(PolicyDefaultRecord("c@company.example"))])
        self.cluster.run(0.5)
        self.assertEqual(
            (two.user.told, two.user.changes[-1][0]), (["reload"], "c@company.example")
        )


class StoreOutageTests(ClusterCase):
    def links(self, cut: bool) -> None:
        for node in self.nodes.values():
            (node.link.cut if cut else node.link.heal)()

    def test_gone_for_all(self) -> None:
        """While nobody sees the store every node goes on, for as long as it takes."""
        self.links(cut=True)
        for _ in range(60):
            self.cluster.run(1.0)
            self.assertTrue(all(node.service.may_act for node in self.nodes.values()))
        self.assertIs(self.nodes["n1"].service.standing, Standing.HOLDING)
        self.links(cut=False)
        self.cluster.run(3.0)
        self.check()
        for node in self.nodes.values():
            self.assertIs(node.service.standing, Standing.MEMBER)
            self.assertIn("rewrite", node.user.told)
            self.assertNotIn("drop", node.user.told)

    def test_gone_for_one(self) -> None:
        """A node that alone loses the store steps down before the others take over, and comes back."""
        lonely = self.nodes["n2"]
        lonely.link.cut()
        acted = []
        for _ in range(80):
            self.cluster.run(0.1)
            taken = any(node.user.told for node in self.nodes.values() if node is not lonely)
            acted.append((lonely.service.may_act, taken))
        self.assertNotIn((True, True), acted)
        self.assertIn((False, True), acted)
        lonely.link.heal()
        self.cluster.run(4.0)
        self.check()
        self.assertEqual(lonely.user.told[:3], ["pause", "drop", "resume"])

    def test_gone_for_one_while_a_dead_one_returns(self) -> None:
        """A node that loses the store when it thinks itself alone hears of one that has just come back."""
        last, back = self.nodes["n1"], self.nodes["n2"]
        self.nodes["n3"].kill()
        back.link.cut()
        self.cluster.run(8.0)
        self.assertEqual(last.service.placement.now.names, ("n1",))
        last.link.cut()
        back.link.heal()
        for _ in range(100):
            self.cluster.run(0.1)
            taken = "adopt" in " ".join(back.user.told)
            self.assertFalse(taken and last.service.may_act)
        self.assertTrue(taken)
        last.link.heal()
        self.cluster.run(4.0)
        self.check()

    def test_gone_for_one_that_nobody_answers(self) -> None:
        """A node cut off from the store and from the others steps down, too."""
        lonely = self.nodes["n2"]
        lonely.link.cut()
        lonely.reachable = False
        self.cluster.run(6.0)
        self.assertFalse(lonely.service.may_act)
        self.assertNotIn(lonely.name, self.nodes["n1"].service.placement.now.names)

    def test_emptied(self) -> None:
        """A store that comes back empty is filled again by those who own what it had."""
        self.links(cut=True)
        self.cluster.run(5.0)
        self.cluster.model.empty()
        self.links(cut=False)
        self.cluster.run(4.0)
        self.check()

    def test_ended_meanwhile(self) -> None:
        """What has ended while the store was away, or lately before it lost that, is gone when it is back."""
        one = self.nodes["n1"]
        before, away, *_ = one.user.records.values()
        errors: list[BaseException | None] = []
        state = self.cluster.model.state()
        one.store.write([Delete(Kind, one.user.records.pop(before.key).key)], errors.append)
        self.cluster.run(0.5)
        self.links(cut=True)
        one.store.write([Delete(Kind, one.user.records.pop(away.key).key)], errors.append)
        self.cluster.run(6.0)
        self.cluster.model.go_back(state)
        self.links(cut=False)
        self.cluster.run(3.0)
        self.assertEqual([error is None for error in errors], [True, False])
        self.assertIn("rewrite", one.user.told)
        left = set(self.cluster.stored()["n1"])
        self.assertFalse(left & {before.key, away.key})

    def test_went_back(self) -> None:
        """A store that has lost the last seconds is found out by its count of beats."""
        row = self.cluster.model._nodes["n2"]
        row.number = b"1"
        self.cluster.run(1.0)
        self.assertEqual(self.nodes["n2"].user.told, ["rewrite"])

    def test_slow_store_changes_nothing(self) -> None:
        """Answers that take a second make nobody step down."""
        for node in self.nodes.values():
            node.link.delay = 1.0
        self.cluster.run(20.0)
        for node in self.nodes.values():
            self.assertEqual((node.user.told, node.service.may_act), ([], True))
