"""What a shared store must do for a cluster, as a mixin: owners, epochs, leases, letters, portions."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall

from impfed.store.api import Change, Delete, Fenced, Put
from impfed.store.coordination import Coordination, NameTaken, Unknown
from impfed.store.records import OutboxRecord, PolicyDefaultRecord
from impfed.store.shared import SharedStore
from tests.store.contract import BOB, CAROL


def text(id: str, body: str = "x") -> OutboxRecord:
    return OutboxRecord(id, CAROL, BOB, body)


class Member:
    """A node in a test: its store, what it agrees upon, and its epoch."""

    def __init__(self, name: str, store: SharedStore) -> None:
        self.name = name
        self.store = store
        self.agree = Coordination(store.link)
        self.epoch = 0
        self.beats = 0

    @inlineCallbacks
    def join(self, instance: str = "", floor: int = 0) -> Any:
        """Join under a new epoch, and write with it."""
        instance = instance or f"i-{self.name}"
        self.epoch = yield self.agree.join(self.name, instance, b"info", floor)
        self.store.act_as(self.name, self.epoch)
        self.beats = 0
        return self

    def beat(self, **more: Any) -> Deferred[Any]:
        """Beat."""
        self.beats += 1
        return self.agree.beat(self.name, self.epoch, self.beats, **more)

    def written(self, *changes: Change) -> Deferred[None]:
        """Write, and fire when it is confirmed."""
        confirmed: Deferred[None] = Deferred()

        def done(error: BaseException | None) -> None:
            if error is None:
                confirmed.callback(None)
            else:
                confirmed.errback(error)

        self.store.write(changes, done)
        return confirmed

    @inlineCallbacks
    def texts(self, owner: str | None = None) -> Any:
        """Return the ids of the texts that a node owns, this one by default."""
        whose = self.name if owner is None else owner
        records = yield self.store.load_of(whose, OutboxRecord)
        return [record.id for record in records]


class SharedContract:
    """The tests; :meth:`member` makes a store of the common server, :meth:`age` makes a node silent."""

    def make_shared(self) -> SharedStore:
        raise NotImplementedError

    def age(self, node: str, seconds: float) -> None:
        raise NotImplementedError

    def empty(self) -> None:
        raise NotImplementedError

    def away(self, seconds: float) -> None:
        raise NotImplementedError

    @inlineCallbacks
    def member(self, name: str, join: bool = True) -> Any:
        store = self.make_shared()
        yield store.start()
        self.addCleanup(store.stop)  # type: ignore[attr-defined]
        member = Member(name, store)
        if join:
            yield member.join()
        return member

    @inlineCallbacks
    def pair(self) -> Any:
        return (yield self.member("n1")), (yield self.member("n2"))

    def refused(self, answer: Deferred[Any], kind: type[Exception] = Fenced) -> Any:
        return self.assertFailure(answer, kind)  # type: ignore[attr-defined]

    @inlineCallbacks
    def test_each_node_loads_its_own(self) -> Any:
        """Records with an owner are loaded by it alone; those without belong to all."""
        one, two = yield self.pair()
        yield one.written(Put(text("a")), Put(PolicyDefaultRecord(CAROL, "block")))
        yield two.written(Put(text("b")))
        mine = yield two.store.load(OutboxRecord)
        self.assertEqual([record.id for record in mine], ["b"])
        self.assertEqual((yield two.texts("n1")), ["a"])
        self.assertEqual(len((yield two.store.load(PolicyDefaultRecord))), 1)
        self.assertEqual((yield one.store.counts(OutboxRecord)), {"n1": 1, "n2": 1})
        self.assertEqual((yield one.store.counts(PolicyDefaultRecord)), {"=": 1})

    @inlineCallbacks
    def test_others_have_their_turn(self) -> Any:
        """Of many records only some are handed over in a turn, so that everything else goes on."""
        one = yield self.member("n1")
        for start in range(0, 3000, 500):
            yield one.written(*(Put(text(str(start + number))) for number in range(500)))
        turns = [0]
        others = LoopingCall(lambda: turns.append(0))
        others.start(0)

        def take(records: list[OutboxRecord]) -> None:
            turns[-1] += len(records)

        yield one.store.each(OutboxRecord, take)
        others.stop()
        self.assertEqual(sum(turns), 3000)
        self.assertLess(max(turns), 600)

    @inlineCallbacks
    def test_epochs_rise(self) -> Any:
        """Every join gives a higher epoch, above any floor."""
        one, two = yield self.pair()
        first = one.epoch
        self.assertGreater(two.epoch, first)
        yield one.join()
        self.assertGreater(one.epoch, two.epoch)
        yield one.join(floor=100)
        self.assertEqual(one.epoch, 101)

    @inlineCallbacks
    def test_name_of_a_live_node_is_refused(self) -> Any:
        """Two nodes with one name: the second is refused in words, until the first is silent."""
        yield self.member("n1")
        twin = yield self.member("n1", join=False)
        error = yield self.refused(twin.join(instance="another"), NameTaken)
        self.assertIn("another [node] name", error.text)
        self.age("n1", 5.0)
        yield twin.join(instance="another")

    @inlineCallbacks
    def test_write_of_an_old_epoch_is_refused_wholly(self) -> Any:
        """A process whose name joined again can change nothing any more."""
        old = yield self.member("n1")
        yield old.written(Put(text("a")))
        new = yield self.member("n1")
        changes = (Put(text("b")), Delete(OutboxRecord, "a"), Put(PolicyDefaultRecord(CAROL)))
        yield self.refused(old.written(*changes))
        self.assertEqual((yield new.texts()), ["a"])
        self.assertEqual((yield new.store.load(PolicyDefaultRecord)), [])

    @inlineCallbacks
    def test_write_of_a_dead_node_is_refused(self) -> Any:
        """Whoever was declared dead can write no more, and learns it from a beat, too."""
        one, two = yield self.pair()
        self.age("n1", 5.0)
        beat = yield two.beat()
        self.assertEqual(
            [(row.name, row.state) for row in beat.nodes], [("n1", "dead"), ("n2", "live")]
        )
        yield self.refused(one.written(Put(text("a"))))
        yield self.refused(one.beat())

    @inlineCallbacks
    def test_record_of_a_live_node_is_not_overwritten(self) -> Any:
        """A write that touches another's record fails with its owner; its neighbours are made."""
        one, two = yield self.pair()
        yield one.written(Put(text("a", "first")))
        bad = two.written(Put(text("b")), Put(text("a", "second")))
        good = two.written(Put(text("c")))
        error = yield self.refused(bad)
        yield good
        self.assertEqual(error.owner, "n1")
        self.assertEqual((yield two.texts()), ["c"])
        yield self.refused(two.written(Delete(OutboxRecord, "a")))
        [kept] = yield one.store.load(OutboxRecord)
        self.assertEqual(kept.body, "first")

    @inlineCallbacks
    def test_record_of_a_live_node_is_not_taken(self) -> Any:
        """Who asks for a record of a node that beats is told whose it is."""
        one, two = yield self.pair()
        yield one.written(Put(text("a")))
        self.assertEqual((yield two.store.take(OutboxRecord, "a")), ("n1", None))
        self.assertIsNone((yield two.store.take(OutboxRecord, "nothing")))
        self.assertEqual((yield two.store.find(OutboxRecord, "a")), ("n1", text("a")))
        self.assertIsNone((yield two.store.find(OutboxRecord, "nothing")))

    @inlineCallbacks
    def test_adopt_on_touch(self) -> Any:
        """One record of a suspected node is taken; the node cannot write it again, only the others."""
        one, two = yield self.pair()
        yield one.written(Put(text("a")), Put(text("b")))
        self.age("n1", 2.5)
        self.assertEqual((yield two.store.take(OutboxRecord, "a")), ("n2", text("a")))
        yield two.written(Delete(OutboxRecord, "a"))
        error = yield self.refused(one.written(Put(text("a"))))  # even though nobody has it now
        self.assertEqual(error.owner, "n2")
        yield one.written(Put(text("b", "again")))
        beat = yield one.beat()
        self.assertEqual(beat.lost, (("outbox", "a", "n2"),))
        beat = yield one.beat(seen=[("outbox", "a")])
        self.assertEqual(beat.lost, ())

    @inlineCallbacks
    def test_adoption_of_a_dead_nodes_share(self) -> Any:
        """What a dead node had can be split; each record goes to one node only."""
        one, two = yield self.pair()
        three = yield self.member("n3")
        yield one.written(*(Put(text(id)) for id in "abcd"))
        yield self.refused(two.store.adopt(OutboxRecord, "n1", ["a"]))
        self.age("n1", 5.0)
        yield two.beat()
        self.assertEqual((yield two.store.adopt(OutboxRecord, "n1", ["a", "c"])), ["a", "c"])
        self.assertEqual((yield three.store.adopt(OutboxRecord, "n1", ["c", "d"])), ["d"])
        # An attempt that comes again, because its answer was lost, is answered as before.
        self.assertEqual((yield two.store.adopt(OutboxRecord, "n1", ["a", "c", "z"])), ["a", "c"])
        self.assertEqual((yield two.texts()), ["a", "c"])
        yield one.join()
        self.assertEqual((yield one.texts()), ["b"])

    @inlineCallbacks
    def test_write_over_a_dead_nodes_record_takes_it(self) -> Any:
        """A node that writes again what it holds needs not know that the store had forgotten whose it is."""
        one, two = yield self.pair()
        yield one.written(Put(text("a")))
        yield one.agree.leave("n1", one.epoch)
        yield two.written(Put(text("a", "mine")))
        self.assertEqual(((yield two.texts("n1")), (yield two.texts())), ([], ["a"]))

    @inlineCallbacks
    def test_unclaimed_records_are_adopted(self) -> Any:
        """What was written by no node belongs to nobody, until a node takes it."""
        nobody = yield self.member("", join=False)
        yield nobody.written(Put(text("a")), Put(text("b")))
        one = yield self.member("n1")
        self.assertEqual((yield one.texts("")), ["a", "b"])
        self.assertEqual((yield one.store.adopt(OutboxRecord, "", ["a"])), ["a"])
        self.assertEqual((yield one.store.take(OutboxRecord, "b")), ("n1", text("b")))
        self.assertEqual((yield one.texts()), ["a", "b"])

    @inlineCallbacks
    def test_giving_records_away(self) -> Any:
        """A node gives what it has, and only to a live one."""
        one, two = yield self.pair()
        yield one.written(Put(text("a")), Put(text("b")))
        now = (yield one.beat()).generation
        for _ in range(2):  # the second as after a lost answer
            given = yield one.store.give(OutboxRecord, "n2", ["a", "z"], now)
            self.assertEqual(given, ["a"])
        self.assertEqual(len((yield two.store.link.wait({"mail:n2": "0-0"}, 0.1))["mail:n2"]), 1)
        self.assertEqual(((yield one.texts()), (yield two.texts())), (["b"], ["a"]))
        yield two.agree.leave("n2", two.epoch)
        yield self.refused(one.store.give(OutboxRecord, "n2", ["b"], now + 1))

    @inlineCallbacks
    def test_giving_by_a_generation_that_is_over(self) -> Any:
        """Who does not know yet that there are other nodes now gives nothing: it may be the wrong one's."""
        one, _ = yield self.pair()
        yield one.written(Put(text("a")))
        now = (yield one.beat()).generation
        yield self.member("n3")
        yield self.refused(one.store.give(OutboxRecord, "n2", ["a"], now))
        self.assertEqual((yield one.texts()), ["a"])

    @inlineCallbacks
    def test_generation_rises_with_every_change(self) -> Any:
        """Coming, draining, dying and leaving each give a new generation; a beat alone does not."""
        one, two = yield self.pair()
        seen = []
        for act in (two.beat, two.beat, lambda: two.beat(draining=True), two.beat, one.beat):
            seen.append((yield act()).generation)
        start = seen[0]
        self.assertEqual(seen, [start, start, start + 1, start + 2, start + 2])
        yield two.agree.leave("n2", two.epoch)
        self.assertEqual((yield one.beat()).generation, start + 3)

    @inlineCallbacks
    def test_beat_tells_what_others_say(self) -> Any:
        """Age, settled generation and words of every node come with the beat, and our number before."""
        one, _ = yield self.pair()
        yield one.beat(settled=7, info=b"here")
        beat = yield one.beat(settled=8, info=b"there")
        mine, other = beat.nodes
        self.assertEqual(
            (beat.before, mine.settled, mine.info, mine.epoch), (1, 8, b"there", one.epoch)
        )
        self.assertEqual((other.name, other.state, other.settled), ("n2", "live", 0))
        self.age("n2", 3.0)
        other = (yield one.beat()).nodes[1]
        self.assertTrue(2.9 <= other.age < 4.0, other.age)

    @inlineCallbacks
    def test_emptied_store(self) -> Any:
        """A store that lost everything says so; the node is made known again with its own epoch."""
        one = yield self.member("n1")
        yield one.join(floor=41)
        self.empty()
        yield self.refused(one.beat(), Unknown)
        pending = one.written(Put(text("a")))
        yield one.agree.restore("n1", one.epoch, "i-n1", b"")
        yield pending  # a write in between has waited for that
        self.assertEqual((yield one.texts()), ["a"])
        self.assertEqual((yield one.beat()).before, 0)
        two = yield self.member("n2")
        self.assertGreater(two.epoch, one.epoch)

    @inlineCallbacks
    def test_store_that_has_lost_a_join(self) -> Any:
        """It does not know the epoch that it gave; the node is made known again, though it was dead before."""
        one, two = yield self.pair()
        self.age("n1", 5.0)
        yield two.beat()
        one.epoch += 5
        yield self.refused(one.beat(), Unknown)
        yield one.agree.restore("n1", one.epoch, "i-n1", b"")
        self.assertEqual([row.state for row in (yield one.beat()).nodes], ["live", "live"])

    @inlineCallbacks
    def test_store_that_has_lost_generations(self) -> Any:
        """A generation that a node knows does not come again: what is said of it means the one before."""
        one, two = yield self.pair()
        known = (yield one.beat()).generation + 7
        self.assertEqual((yield one.beat(known=known)).generation, known + 1)
        self.assertEqual((yield two.beat(known=known)).generation, known + 1)

    @inlineCallbacks
    def test_store_that_was_away_ends_no_lease(self) -> Any:
        """What nobody could say while the store was away is held against nobody."""
        one, two = yield self.pair()
        yield one.written(Put(text("a")))
        self.away(60.0)
        self.assertEqual((yield two.store.take(OutboxRecord, "a")), ("n1", None))
        beat = yield two.beat()
        self.assertEqual([row.state for row in beat.nodes], ["live", "live"])
        self.age("n1", 5.0)
        beat = yield two.beat()
        self.assertEqual([row.state for row in beat.nodes], ["dead", "live"])

    @inlineCallbacks
    def test_restoring_is_refused_to_the_dead(self) -> Any:
        """A node that was declared dead does not come back with its old epoch."""
        one, two = yield self.pair()
        self.age("n1", 5.0)
        yield two.beat()
        yield self.refused(one.agree.restore("n1", one.epoch, "i-n1", b""))

    @inlineCallbacks
    def test_lease_lasts_as_long_as_its_holder(self) -> Any:
        """A lease is one node's until it gives it back, dies, or joins anew."""
        one, two = yield self.pair()
        takes = [
            lambda: one.agree.take_lease("n1", one.epoch, "home:prosody"),
            lambda: two.agree.take_lease("n2", two.epoch, "home:prosody"),
        ]
        self.assertEqual([(yield takes[0]()), (yield takes[1]())], ["n1", "n1"])
        yield one.agree.free_lease("n1", one.epoch, "home:prosody")
        self.assertEqual([(yield takes[1]()), (yield takes[0]())], ["n2", "n2"])
        self.age("n2", 5.0)
        yield one.beat()
        self.assertEqual((yield takes[0]()), "n1")
        yield self.refused(takes[1]())

    @inlineCallbacks
    def test_letters(self) -> Any:
        """Letters come in order, within the limit; what is done with goes."""
        one, two = yield self.pair()
        post = one.agree.post
        self.assertTrue((yield post("n1", one.epoch, "n2", [b"1", b"\xff2"], 3)))
        self.assertFalse((yield post("n1", one.epoch, "n2", [b"3", b"4"], 3)))
        self.assertTrue((yield post("n1", one.epoch, "n2", [b"3"], 3)))
        letters = yield two.agree.letters("n2")
        self.assertEqual([letter.data for letter in letters], [b"1", b"\xff2", b"3"])
        later = yield two.agree.letters("n2", letters[0].id)
        self.assertEqual([letter.data for letter in later], [b"\xff2", b"3"])
        yield two.agree.trim("n2", two.epoch, letters[2].id)
        self.assertEqual([letter.data for letter in (yield two.agree.letters("n2"))], [b"3"])

    @inlineCallbacks
    def test_letters_of_the_dead(self) -> Any:
        """Nothing is posted to a dead node; what lies there is struck out once, by the living."""
        one, two = yield self.pair()
        yield one.agree.post("n1", one.epoch, "n2", [b"1", b"2"], 10)
        letters = yield one.agree.letters("n2")
        ids = [letter.id for letter in letters]
        yield self.refused(one.agree.strike("n1", one.epoch, "n2", ids))
        self.age("n2", 5.0)
        yield one.beat()
        self.assertIsNone((yield one.agree.post("n1", one.epoch, "n2", [b"3"], 10)))
        self.assertEqual((yield one.agree.strike("n1", one.epoch, "n2", ids[:1])), ids[:1])
        self.assertEqual((yield one.agree.strike("n1", one.epoch, "n2", ids)), ids[1:])
        yield self.refused(two.agree.trim("n2", two.epoch, "0-0"))

    @inlineCallbacks
    def test_portions_never_exceed_the_pool(self) -> Any:
        """Nodes borrow what is left; what a node gives back is the others'."""
        one, two = yield self.pair()

        def borrow(who: Member, wanted: int) -> Deferred[int]:
            return who.agree.portion(who.name, who.epoch, "lync.example", wanted, 750, 60.0)

        self.assertEqual([(yield borrow(one, 600)), (yield borrow(two, 600))], [600, 150])
        self.assertEqual([(yield borrow(one, 100)), (yield borrow(two, 700))], [100, 650])
        self.assertEqual((yield borrow(one, 750)), 100)

    @inlineCallbacks
    def test_common_changes_are_told(self) -> Any:
        """A change of a record without owner is in the feed, with who made it; others can fetch it."""
        one, two = yield self.pair()
        yield one.written(Put(PolicyDefaultRecord(BOB, "ask")))
        [feed, mail] = yield two.agree.last("feed", "mail:n2")
        self.assertEqual(mail, "0-0")
        told = two.store.link.wait({"feed": feed, "mail:n2": mail}, 20.0)
        yield one.written(Put(PolicyDefaultRecord(CAROL, "block")), Put(text("a")))
        found = yield told
        [(feed, fields)] = found["feed"]
        self.assertEqual((fields["kind"], fields["key"]), (b"policy_default", CAROL.encode()))
        self.assertEqual((fields["n"], fields["writer"]), (b"2", one.store.writer.encode()))
        found = yield two.store.get(PolicyDefaultRecord, [CAROL, "nobody"])
        self.assertEqual(found, {CAROL: PolicyDefaultRecord(CAROL, "block")})
        yield one.agree.post("n1", one.epoch, "n2", [b"letter"], 10)
        found = yield two.store.link.wait({"feed": feed, "mail:n2": mail}, 20.0)
        [(_, fields)] = found["mail:n2"]
        self.assertEqual(fields["d"], b"letter")
        self.assertEqual((yield two.store.link.wait({"feed": feed}, 0.01)), {})
