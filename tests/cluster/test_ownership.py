"""Which node a pair belongs to: evenly, stably, and only with one owner at a time."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.ownership import Enabled, Placement, Rendezvous, node_pair

PAIRS = [
    (f"user{number % 9973}@company.example", f"friend{number}@lync.example")
    for number in range(100_000)
]


def names(count: int) -> list[str]:
    return [f"node{number}" for number in range(1, count + 1)]


class RendezvousTests(SynchronousTestCase):
    def test_balance(self) -> None:
        """100,000 pairs lie within 2 % of even on 3 to 6 nodes."""
        for count in range(3, 7):
            owner = Rendezvous(names(count)).owner
            shares = Counter(map(owner, PAIRS))
            for name in names(count):
                self.assertLess(abs(shares[name] * count / len(PAIRS) - 1), 0.02)

    def test_only_the_share_of_the_dead_moves(self) -> None:
        """When a node goes, no pair of another node moves, and its own are spread evenly."""
        before, after = Rendezvous(names(5)), Rendezvous(names(4))
        moved: Counter[str] = Counter()
        for pair in PAIRS:
            old, new = before.owner(pair), after.owner(pair)
            if old == "node5":
                moved[new] += 1
            else:
                self.assertEqual(new, old)
        total = sum(moved.values())
        for name in names(4):
            self.assertLess(abs(moved[name] * 4 / total - 1), 0.06)

    def test_order_of_names_means_nothing(self) -> None:
        """Every node computes the same, in whatever order it has heard of the others."""
        one, two = Rendezvous(["a", "b", "c"]), Rendezvous(["c", "a", "b", "a"])
        for pair in PAIRS[:1000]:
            self.assertEqual(one.owner(pair), two.owner(pair))

    def test_nobody(self) -> None:
        """Without nodes nobody owns anything."""
        self.assertEqual(Rendezvous([]).owner(PAIRS[0]), "")

    def test_enabled(self) -> None:
        """Some pairs lie on the nodes that are enabled for them alone, evenly, the others on all."""
        some = Enabled(frozenset(("node1", "node3", "node9")), lambda pair: "friend1" in pair[1])
        narrow, wide = Rendezvous(names(4), some), Rendezvous(names(4))
        shares = Counter(narrow.owner(pair) for pair in PAIRS if some.concerns(pair))
        self.assertEqual(set(shares), {"node1", "node3"})
        self.assertLess(abs(shares["node1"] / shares.total() - 0.5), 0.02)
        others = [pair for pair in PAIRS[:1000] if not some.concerns(pair)]
        self.assertEqual(list(map(narrow.owner, others)), list(map(wide.owner, others)))
        self.assertNotEqual(narrow.owner(node_pair("node2")), "")

    def test_nobodys(self) -> None:
        """A pair is nobody's where nodes live, but none that is enabled for it."""
        nobody = Placement("a", enabled=Enabled(frozenset("x"), lambda pair: True))
        self.assertFalse(nobody.nobodys(PAIRS[0]))  # nothing is known yet
        seen = nobody.seen(1, "ab", {"a": 0, "b": 1})
        self.assertEqual(seen.heir(PAIRS[0]), Rendezvous("ab").owner(PAIRS[0]))
        self.assertTrue(seen.nobodys(PAIRS[0]))
        self.assertFalse(seen.nobodys(node_pair("b")))
        self.assertFalse(seen.seen(2, "abx", {"a": 1, "b": 1, "x": 0}).nobodys(PAIRS[0]))


LIVES = st.lists(st.frozensets(st.sampled_from("abcd"), min_size=1), min_size=1, max_size=6)


class PlacementTests(SynchronousTestCase):
    def test_new_pairs_wait_for_a_living_owner(self) -> None:
        """What another node had waits until that node has settled; the rest goes on."""
        place = Placement("a").seen(1, "ab", {"a": 1, "b": 1})
        place = place.seen(2, "a", {"a": 1, "b": 1})  # b drains
        ours = [pair for pair in PAIRS[:1000] if Rendezvous("ab").owner(pair) == "a"]
        theirs = [pair for pair in PAIRS[:1000] if pair not in ours]
        self.assertFalse(any(map(place.held, ours)))
        self.assertTrue(all(map(place.held, theirs)))
        place = place.seen(2, "a", {"a": 2, "b": 1})
        self.assertTrue(all(map(place.held, theirs)))
        place = place.seen(2, "a", {"a": 2, "b": 2})
        self.assertFalse(any(map(place.held, theirs)))

    def test_nodes_themselves(self) -> None:
        """A letter for a node itself is that node's while it lives, enabled or not, and never waits."""
        place = Placement("a").seen(1, "ab", {"a": 1, "b": 1})
        place = place.seen(2, "a", {"a": 1, "b": 1})  # b drains
        self.assertEqual(place.owner(node_pair("b")), "b")
        self.assertTrue(place.mine(node_pair("a")))
        self.assertFalse(place.held(node_pair("a")))
        self.assertEqual(place.seen(3, "a", {"a": 3}).owner(node_pair("b")), "a")

    def test_what_the_dead_had_waits_for_ourselves(self) -> None:
        """A dead node's pairs wait only until we have taken our share."""
        place = Placement("a").seen(1, "abc", {"a": 1, "b": 1, "c": 1})
        place = place.seen(2, "ab", {"a": 1, "b": 1})
        theirs = [pair for pair in PAIRS[:1000] if Rendezvous("abc").owner(pair) == "c"]
        mine = [pair for pair in theirs if place.mine(pair)]
        self.assertTrue(mine and all(map(place.held, mine)))
        place = place.seen(2, "ab", {"a": 2, "b": 1})
        self.assertFalse(any(map(place.held, mine)))

    def test_who_loses_pairs(self) -> None:
        """Until all have settled it is known which pairs have moved, and who had them."""
        place = Placement("a").seen(1, "abc", {"a": 1, "b": 1, "c": 1})
        self.assertEqual(place.losing, [])
        place = place.seen(2, "ab", {"a": 1, "b": 1, "c": 1})  # c drains
        place = place.seen(3, "abd", {"a": 1, "b": 1, "c": 1, "d": 3})  # d comes
        self.assertEqual(sorted(place.losing), ["b", "c"])
        first, now = Rendezvous("abc"), Rendezvous("abd")
        for pair in PAIRS[:1000]:
            same = first.owner(pair) == Rendezvous("ab").owner(pair) == now.owner(pair)
            self.assertEqual(place.moved(pair), not same)
        self.assertFalse(place.moved(node_pair("c")))
        place = place.seen(3, "abd", {"a": 3, "b": 3, "c": 3, "d": 3})
        self.assertEqual((place.losing, any(map(place.moved, PAIRS[:1000]))), ([], False))

    def test_death_moves_no_letters(self) -> None:
        """When a node dies nobody who lives loses a pair."""
        place = Placement("a").seen(1, "abc", {"a": 1, "b": 1, "c": 1})
        self.assertEqual(place.seen(2, "ab", {"a": 1, "b": 1}).losing, [])

    def test_missed_generation(self) -> None:
        """After a generation that was not seen everything new waits for all; what was always ours does not."""
        place = Placement("a").seen(1, "abc", {"a": 1, "b": 1, "c": 1})
        place = place.seen(3, "ab", {"a": 3, "b": 1})
        for pair in PAIRS[:1000]:
            if place.mine(pair):
                always = Rendezvous("abc").owner(pair) == "a"
                self.assertEqual(place.held(pair), not always)
        self.assertTrue(place.seen(3, "ab", {"a": 3, "b": 3}).settled)

    @settings(suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
    @given(LIVES, st.data())
    def test_never_two_at_once(self, lives: list[frozenset[str]], data: st.DataObject) -> None:
        """However views come, no two living nodes have a pair free at a time."""
        places = {name: Placement(name) for name in "abcd"}
        settled = dict.fromkeys("abcd", 0)
        holder: dict[int, str] = {}
        pairs = PAIRS[:20]
        for generation, living in enumerate(lives, 1):
            for name in "abcd":
                if name not in living:  # it died, and forgets what it knew
                    places[name] = Placement(name)
                    settled[name] = 0
            order = data.draw(st.permutations(sorted(living)))
            some = data.draw(st.integers(0, len(order)))
            for name in order:
                states = {each: settled[each] for each in living}
                places[name] = places[name].seen(generation, living, states)
            for name in order[:some]:  # who settles has given what is not its own any more
                for number, pair in enumerate(pairs):
                    if holder.get(number) == name and places[name].owner(pair) != name:
                        del holder[number]
                settled[name] = generation
            for name in order:
                states = {each: settled[each] for each in living}
                places[name] = places[name].seen(generation, living, states)
            for number, pair in enumerate(pairs):
                if holder.get(number) not in living:
                    holder.pop(number, None)
                for name in order:
                    if places[name].mine(pair) and not places[name].held(pair):
                        self.assertIn(holder.setdefault(number, name), (name,))
