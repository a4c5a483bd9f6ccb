"""Letters through a cluster on a clock: to the right node, in order, also across deaths and moves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.mailbox import RESERVE, WAITING_LIMIT
from impfed.cluster.ownership import Pair, Rendezvous
from tests.cluster.kit import Cluster, pair


class PostTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.cluster = Cluster("n1", "n2", "n3")
        self.cluster.run(3.0)
        self.nodes = dict(self.cluster.nodes)
        self.one = self.nodes["n1"]
        self.confirmed: list[BaseException | None] = []
        self.sent: dict[Pair, list[bytes]] = defaultdict(list)

    def send(self, *numbers: int, text: str = "x") -> None:
        for number in numbers:
            payload = f"{text}{len(self.sent[pair(number)])}".encode()
            self.sent[pair(number)].append(payload)
            self.assertTrue(self.one.service.send(pair(number), payload, self.confirmed.append))

    def seen(self) -> dict[Pair, list[bytes]]:
        """Return what was handled anywhere, in order, a repeated letter once."""
        found: dict[Pair, list[bytes]] = defaultdict(list)
        for to, payload in self.cluster.letters:
            if payload not in found[to]:
                found[to].append(payload)
        return found

    def box(self, name: str) -> int:
        return len(self.cluster.model.after(f"mail:{name}", "0-0"))

    def test_to_the_owner(self) -> None:
        """Each letter is handled by the node of its pair, confirmed, and gone from the mailbox."""
        self.send(*range(50), *range(50))
        self.cluster.run(1.0)
        self.assertEqual(self.confirmed, [None] * 100)
        for name, node in self.nodes.items():
            for to, _ in node.user.letters:
                self.assertEqual(node.service.owner(to), name)
            self.assertEqual(self.box(name), 0)
        self.assertEqual(self.seen(), self.sent)

    def test_store_that_loses_letters(self) -> None:
        """Letters that the store has lost are posted again, and one that was handled is not handled twice."""
        two = self.nodes["n2"]
        mine = [n for n in range(50) if self.one.service.owner(pair(n)) == "n2"]
        kept = self.cluster.model.state()
        self.send(*mine[:3])
        self.cluster.run(1.0)
        self.assertEqual(len(two.user.letters), 3)
        two.clock.paused = True
        self.send(*mine[3:6])
        self.cluster.run(1.0)
        self.assertEqual(self.confirmed, [None] * 6)
        self.cluster.model.go_back(kept)
        two.clock.wake()
        self.cluster.run(2.0)
        self.assertEqual(len(two.user.letters), 6)
        self.assertEqual(self.seen(), self.sent)

    def test_letter_of_a_lost_generation(self) -> None:
        """A letter that tells of a generation which no beat knows waits for two of them, not for ever."""
        number = next(n for n in range(50) if self.one.service.owner(pair(n)) == "n2")
        self.one.service.placement = replace(self.one.service.placement, generation=99)
        self.one.link.before = lambda operation: operation == "beat"
        self.send(number)
        self.cluster.run(0.1)
        self.assertEqual(self.seen(), {})
        self.cluster.run(1.2)
        self.assertEqual(self.seen(), self.sent)

    def test_letter_stays_until_it_is_handled(self) -> None:
        """What its owner is still busy with stays in the mailbox, and what it died with is handled again."""
        two = self.nodes["n2"]
        two.user.holding = []
        self.send(*range(30))
        self.cluster.run(1.0)
        held = len(two.user.letters)
        self.assertTrue(held)
        self.assertEqual(self.box("n2"), held)
        two.user.letters.clear()
        two.kill()
        self.send(*range(30))
        self.cluster.run(6.0)
        self.assertEqual(self.seen(), self.sent)
        self.assertEqual(self.box("n2"), 0)

    def test_order_across_death_and_return(self) -> None:
        """Within a pair letters keep their order while nodes die and come back under load."""
        for step in range(200):
            if step == 40:
                self.nodes["n2"].kill()
            if step == 110:
                self.nodes["n2 again"] = self.cluster.add("n2")
            if step == 160:
                self.nodes["n3"].service.drain()
            self.send(*range(step % 3, 30, 3))
            self.cluster.run(0.1)
        self.cluster.run(6.0)
        seen = self.seen()
        for to, payloads in self.sent.items():
            self.assertEqual(seen[to], payloads)
        self.assertEqual(self.confirmed, [None] * sum(map(len, self.sent.values())))

    def heirs(self, first: str, second: str) -> list[int]:
        """Return pairs of one node that are another one's when that is gone, and n1's after both."""
        left = Rendezvous(set(self.nodes) - {first})
        return [
            number
            for number in range(300)
            if self.one.service.owner(pair(number)) == first and left.owner(pair(number)) == second
        ]

    def die_in_turn(self, first: str, second: str, numbers: list[int]) -> None:
        """The second node dies before it has taken what the first one has left; both have letters."""
        self.nodes[first].kill()
        self.send(*numbers)
        self.cluster.run(3.0)
        self.nodes[second].kill()
        self.cluster.run(2.0)
        self.assertEqual(self.one.service.placement.now.names, ("n1", second))
        self.send(*numbers)
        self.assertEqual(self.seen(), {})

    def test_order_across_two_deaths(self) -> None:
        """What was sent to the node that died first comes before what was sent to the one after it."""
        numbers = self.heirs("n3", "n2")
        self.die_in_turn("n3", "n2", numbers)
        self.cluster.run(6.0)
        self.assertEqual(self.seen(), self.sent)

    def test_order_where_the_first_returns(self) -> None:
        """What lies in a node's own mailbox since it died comes before what its heir has left."""
        numbers = self.heirs("n3", "n2")
        self.die_in_turn("n3", "n2", numbers)
        self.cluster.add("n3")
        self.cluster.run(8.0)
        self.assertEqual(self.seen(), self.sent)

    def test_order_of_a_link(self) -> None:
        """What the dead holder of a home link had in its mailbox comes before what is sent afterwards."""
        two = self.nodes["n2"]
        home = next(
            (f"home {number}", "")
            for number in range(99)
            if self.one.service.owner((f"home {number}", "")) == "n2"
            and Rendezvous(("n1", "n3")).owner((f"home {number}", "")) == "n3"
        )
        two.user.holding = []
        self.nodes["n3"].link.delay = 0.12
        sent = [f"{number}".encode() for number in range(120)]
        for number, payload in enumerate(sent):
            if number == 10:
                two.kill()
            self.assertTrue(self.one.service.send(home, payload))
            self.cluster.run(0.05)
        self.cluster.run(6.0)
        handled = [payload for to, payload in self.cluster.letters if to == home]
        self.assertEqual(list(dict.fromkeys(handled[10:])), sent)

    def test_order_at_slow_links(self) -> None:
        """Letters to the owner before are not overtaken, however long they take from there."""
        for node in self.nodes.values():
            node.link.delay = 0.12
        for step in range(300):
            if step == 50:
                self.nodes["n3"].service.drain()
            if step == 200:
                self.nodes["n3"].service.work_again()
            self.send(*range(12))
            self.cluster.run(0.03, 0.01)
        self.cluster.run(8.0)
        seen = self.seen()
        for to, payloads in self.sent.items():
            self.assertEqual(seen[to], payloads)
        self.assertEqual(self.confirmed, [None] * sum(map(len, self.sent.values())))

    def test_owner_before_is_silent(self) -> None:
        """A letter does not wait for ever for others that their owner before does not pass on."""
        self.nodes["n3"].user.holding = []
        self.send(*range(30))
        self.cluster.run(1.0)
        self.cluster.add("n4")
        self.cluster.run(4.0)
        self.send(*range(30), text="later")
        self.cluster.run(6.0)
        later = [payload for _, payload in self.cluster.letters if payload.startswith(b"later")]
        self.assertEqual(len(later), 30)

    def test_given_in_vain(self) -> None:
        """A node that cannot serve what it is given reads its letters all the same."""
        two, three = self.nodes["n2"], self.nodes["n3"]
        two.user.adopt = lambda records: 1 // 0  # type: ignore[method-assign]
        three.own(*(number for number in range(60) if three.service.owner(pair(number)) == "n3"))
        self.cluster.run(0.5)
        three.service.drain()
        self.cluster.run(3.0)
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
        self.send(*range(60))
        self.cluster.run(3.0)
        self.assertEqual(self.seen(), self.sent)

    def test_numbers_never_come_again(self) -> None:
        """Letters to a node that died, came back and died again are all handled."""
        two = self.nodes["n2"]
        for _ in range(2):
            two.user.holding = []
            self.send(*range(30))
            self.cluster.run(1.0)
            two.kill()
            self.cluster.run(7.0)
            two = self.cluster.add("n2")
            self.cluster.run(4.0)
        two.kill()
        self.cluster.run(7.0)
        seen = self.seen()
        for to, payloads in self.sent.items():
            self.assertEqual(seen[to], payloads)

    def test_lost_answers(self) -> None:
        """Posting again after a lost answer brings nothing twice."""
        lose = iter([True] * 3)
        self.one.link.afterwards = lambda operation: operation == "post" and next(lose, False)
        self.send(*range(30))
        self.cluster.run(15.0)
        handled = sum(len(node.user.letters) for node in self.nodes.values())
        self.assertEqual(handled, 30)
        self.assertEqual(self.seen(), self.sent)

    def test_stuck(self) -> None:
        """While the store takes no letters that can be asked, and no longer."""
        others = [number for number in range(50) if self.one.service.owner(pair(number)) != "n1"]
        self.send(*others)
        self.cluster.run(1.0)
        self.assertFalse(any(self.one.service.stuck(pair(number)) for number in others))
        self.one.link.cut()
        self.send(*others)
        self.cluster.run(0.5)
        self.assertTrue(all(self.one.service.stuck(pair(number)) for number in others))
        self.one.link.heal()
        self.cluster.run(1.5)
        self.assertFalse(any(self.one.service.stuck(pair(number)) for number in others))
        self.assertEqual(self.seen(), self.sent)

    def test_back_pressure(self) -> None:
        """When the store takes nothing the sender is told to stop, and goes on afterwards."""
        self.one.link.cut()
        number = next(n for n in range(99) if self.one.service.owner(pair(n)) == "n2")
        send, told, taken = self.one.service.send, self.confirmed.append, 0
        while send(pair(number), b"%d" % taken, told, presence=True):
            taken += 1
        self.assertEqual(taken, WAITING_LIMIT - RESERVE)  # and there is room left for texts
        while send(pair(number), b"%d" % taken, told):
            taken += 1
        self.assertEqual(taken, WAITING_LIMIT)
        self.one.link.heal()
        self.cluster.run(2.0)
        self.assertEqual(self.confirmed, [None] * taken)
        self.assertEqual(len(self.nodes["n2"].user.letters), taken)
        self.assertTrue(self.one.service.send(pair(number), b"more"))
