"""IM sessions whose pair goes to another node: they go on there, and nobody notices."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.gateway.im_moves import IN_USE
from impfed.gateway.im_resume import PATIENCE
from impfed.store.records import SessionRecord
from tests.cluster.gateways import HOME, Sent, World
from tests.gateway.harness import SDP

TEXT = ("Content-Type: text/plain; charset=UTF-8",)
SDP_TYPE = ("Content-Type: application/sdp",)


class Case(SynchronousTestCase):
    """Two nodes; a pair of the one that will drain has a session."""

    def setUp(self) -> None:
        self.world = World("n1", "n2")
        self.far = self.world.far
        self.slow = False
        ((self.local, self.foreign),) = self.world.pairs_of("n1", 1)

    def tearDown(self) -> None:
        self.assertEqual(self.far.backward, [])

    def writes(self, *texts: str) -> None:
        for text in texts:
            self.world.writes(self.local, self.foreign, text)

    def texts(self) -> list[str]:
        """Return what the foreign user got."""
        return self.far.texts.get((self.local, self.foreign), [])

    def invites(self) -> list[Sent]:
        return self.far.of("INVITE")

    def drains(self, node: str = "n1") -> None:
        ended = self.world.drain(node)
        self.world.run(5.0)
        self.assertEqual(ended, [None])

    def far_writes(self, node: str, text: str, cseq: int, tag: str = "") -> int:
        """The foreign user's text reaches a node; returns the answer.

        :param tag: the node's in a session that he has begun; else it is the local user's.
        """
        if tag:
            dialog = {"call_id": "theirs", "tag": tag}
        else:
            invite = self.invites()[0].message
            dialog = {"call_id": invite.call_id, "tag": invite.from_tag, "own_tag": "far"}
        self.far.answers.clear()
        self.world.far_sends(
            node, "MESSAGE", self.local, self.foreign, cseq=cseq, body=text, headers=TEXT, **dialog  # type: ignore[arg-type]
        )  # fmt: skip
        self.world.run(6.0 if self.slow else 1.0)
        (answer,) = self.far.answers
        return answer.status

    def far_opens(self) -> str:
        """The foreign user opens a session at the pair's node; returns our tag."""
        people, call = (self.local, self.foreign), {"call_id": "theirs", "cseq": 1}
        self.world.far_sends("n1", "INVITE", *people, body=SDP, headers=SDP_TYPE, **call)  # type: ignore[arg-type]
        self.world.run(0.5)
        tag = self.far.answers[-1].message.to_tag
        self.world.far_sends("n1", "ACK", *people, tag=tag, **call)  # type: ignore[arg-type]
        return tag

    def shown(self, text: str) -> bool:
        """Whether the local user has got a text."""
        return any(f"<body>{text}</body>" in xml for xml in self.world.written)

    def records(self) -> list[bytes]:
        """Return the sessions that the store has."""
        names = self.world.sides
        return [data for name in names for data in self.world.cluster.model.rows("session", name)]


class OutwardTests(Case):
    """The local user's node has invited."""

    def test_goes_on(self) -> None:
        """The new node's re-INVITE names its own address in the dialog; texts go on in it, no BYE."""
        self.writes("one")
        self.world.run(2.0)
        self.drains()
        self.writes("two", "three")
        self.world.run(2.0)
        self.assertEqual(self.texts(), ["one", "two", "three"])
        first, again = self.invites()
        self.assertEqual((first.node, again.node), ("n1", "n2"))
        self.assertEqual(first.message.call_id, again.message.call_id)
        self.assertTrue(again.message.to_tag)
        self.assertGreater(again.message.cseq.number, 2)
        self.assertIn(f"@n2.{HOME}:5061", self.far.targets[first.message.call_id])
        self.assertEqual(
            {each.message.call_id for each in self.far.of("MESSAGE")}, {first.message.call_id}
        )
        self.assertEqual(self.far.of("BYE"), [])

    def test_acknowledged(self) -> None:
        """The re-INVITE's answer is acknowledged with its number."""
        self.writes("one")
        self.world.run(2.0)
        self.drains()
        (ack,) = self.world.sides["n2"].stack.acks
        self.assertEqual(ack.cseq.number, self.invites()[1].message.cseq.number)

    def test_texts_wait(self) -> None:
        """Texts written while the session moves come in order, after the re-INVITE's answer."""
        self.writes("0")
        self.world.run(2.0)
        self.world.drain("n1")
        for number in range(1, 40):
            self.writes(str(number))
            self.world.run(0.05)
        self.world.run(20.0)
        self.assertEqual(self.texts(), [str(number) for number in range(40)])
        self.assertEqual((len(self.invites()), self.far.of("BYE")), (2, []))

    def test_quiet(self) -> None:
        """A session in which nobody has spoken for long ends by BYE, and the next text begins anew."""
        self.writes("one")
        self.world.run(2.0)
        self.world.run(IN_USE, 1.0)
        self.drains()
        self.assertEqual([each.node for each in self.far.of("BYE")], ["n1"])
        self.writes("two")
        self.world.run(2.0)
        calls = [(each.node, each.message.to_tag) for each in self.invites()]
        self.assertEqual(calls, [("n1", ""), ("n2", "")])
        self.assertEqual(self.texts(), ["one", "two"])

    def test_answer_at_the_old_node(self) -> None:
        """What the peer sends to the old node's address is passed on: never 481, and never lost."""
        self.writes("one")
        self.world.run(2.0)
        self.far.delay = 3.0
        self.world.drain("n1")
        for cseq in range(1, 8):
            self.assertEqual(self.far_writes("n1", f"answer {cseq}", cseq), 200)
        for cseq in range(1, 8):
            self.assertTrue(self.shown(f"answer {cseq}"))
        self.assertEqual(self.world.sides["n1"].gateway.dialogs, 0)

    def test_refused(self) -> None:
        """A peer that does not know the session, or does not want it so, gets a new one."""
        for status in (481, 408, 488, 500):
            self.setUp()
            self.writes("one")
            self.world.run(2.0)
            self.far.refuses = lambda request, status=status: (  # type: ignore[misc]
                status if request.method == "INVITE" and request.to_tag else 0
            )
            self.world.drain("n1")
            self.world.run(0.3)
            self.writes("two", "three")
            self.world.run(5.0)
            self.assertEqual(self.texts(), ["one", "two", "three"])
            self.assertEqual(len({each.message.call_id for each in self.invites()}), 2)
            byes = [each.node for each in self.far.of("BYE")]
            self.assertEqual(byes, [] if status == 481 else ["n2"])
            self.assertEqual(self.records(), [])

    def test_no_answer(self) -> None:
        """A peer that does not answer the re-INVITE is invited anew before long."""
        self.writes("one")
        self.world.run(2.0)
        self.far.delay = 60.0
        self.world.drain("n1")
        self.world.run(1.0)
        self.assertEqual(len(self.invites()), 2)
        self.far.delay = 0.1
        self.writes("two")
        self.world.run(PATIENCE + 1.0)
        self.assertEqual(self.texts(), ["one", "two"])
        self.assertEqual(len(self.invites()), 3)

    def test_there_and_back(self) -> None:
        """A session that goes to another node and comes back is the same all the time."""
        self.writes("one")
        self.world.run(2.0)
        self.drains()
        self.writes("two")
        self.world.run(2.0)
        self.world.sides["n1"].node.service.work_again()
        self.world.run(5.0)
        self.writes("three")
        self.world.run(2.0)
        self.assertEqual(self.texts(), ["one", "two", "three"])
        self.assertEqual([each.node for each in self.invites()], ["n1", "n2", "n1"])
        self.assertEqual(len({each.message.call_id for each in self.far.sent}), 1)
        self.assertEqual(len(self.records()), 1)

    def test_new_node_dies(self) -> None:
        """A session that has moved once outlives the death of its new node."""
        self.writes("one")
        self.world.run(2.0)
        self.drains()
        self.world.sides["n1"].node.service.work_again()
        self.world.sides["n2"].node.kill()
        self.world.run(8.0)
        self.world.sides["n1"].home_sends(
            f"<message from='{self.local}@{HOME}/pc' to='{self.foreign}@lync.example' type='chat'>"
            "<body>two</body></message>"
        )
        self.world.run(2.0)
        self.assertEqual(self.texts(), ["one", "two"])
        self.assertEqual(len({each.message.call_id for each in self.invites()}), 1)

    def test_ended(self) -> None:
        """When a session that has moved is over nothing of it is left in the store."""
        self.writes("one")
        self.world.run(2.0)
        self.drains()
        self.assertEqual(len(self.records()), 1)
        invite = self.invites()[0].message
        self.world.far_sends(
            "n1", "BYE", self.local, self.foreign,
            call_id=invite.call_id, cseq=9, tag=invite.from_tag, own_tag="far",
        )  # fmt: skip
        self.world.run(2.0)
        self.assertEqual(self.far.answers[-1].status, 200)
        self.assertEqual(self.records(), [])
        self.assertEqual(self.far_writes("n1", "late", 10), 481)


class InwardTests(Case):
    """The foreign user has invited."""

    def test_goes_on(self) -> None:
        """His texts are taken before and after, whichever node they come to; so are the answers."""
        tag = self.far_opens()
        self.assertEqual(self.far_writes("n1", "one", 2, tag), 200)
        self.drains()
        (again,) = self.invites()
        self.assertEqual((again.node, again.message.from_tag), ("n2", tag))
        self.assertEqual(again.message.to_tag, "f-theirs")
        self.assertEqual(self.far_writes("n2", "two", 3, tag), 200)
        self.assertEqual(self.far_writes("n1", "three", 4, tag), 200)
        self.writes("four")
        self.world.run(1.0)
        self.assertEqual(self.texts(), ["four"])
        self.assertTrue(all(self.shown(text) for text in ("one", "two", "three")))
        self.assertEqual(self.far.of("BYE"), [])

    def test_comes_twice(self) -> None:
        """A copy of a text that the old node has taken is not shown again by the new one."""
        tag = self.far_opens()
        self.assertEqual(self.far_writes("n1", "one", 2, tag), 200)
        self.drains()
        self.assertEqual(self.far_writes("n2", "one", 2, tag), 500)

    def test_both_ask(self) -> None:
        """Re-INVITEs that cross are both refused with 491, and ours goes again."""
        tag = self.far_opens()
        self.assertEqual(self.far_writes("n1", "one", 2, tag), 200)
        refused: list[int] = []

        def busy(request: object) -> int:
            refused.append(491)
            return 491 if len(refused) == 1 else 0

        self.far.refuses = busy
        self.far.delay = 2.0
        self.world.drain("n1")
        self.world.run(1.5)
        self.assertEqual(len(self.invites()), 1)
        self.world.far_sends(
            "n2", "INVITE", self.local, self.foreign,
            call_id="theirs", cseq=3, tag=tag, body=SDP, headers=SDP_TYPE,
        )  # fmt: skip
        self.world.run(0.5)
        self.assertEqual(self.far.answers[-1].status, 491)
        self.world.run(5.0)
        self.assertEqual(len(self.invites()), 2)
        self.assertEqual(self.far_writes("n2", "two", 4, tag), 200)
        self.assertEqual(self.far.of("BYE"), [])

    def test_store_away(self) -> None:
        """While the store is away a text in a session that nobody here knows gets 500, and comes again."""
        tag = self.far_opens()
        self.drains()
        self.world.sides["n1"].node.link.cut()
        self.slow = True
        self.assertEqual(self.far_writes("n1", "one", 2, tag), 500)
        answer = self.far.answers[-1].message
        self.assertTrue(answer.get("retry-after"))


class ThreeNodesTests(Case):
    """A node whose sessions go to two others, with a store that takes its time."""

    def setUp(self) -> None:
        self.world = World("n1", "n2", "n3")
        self.far = self.world.far

    def test_one_after_the_other(self) -> None:
        """What the peer writes meanwhile takes no session back: each goes on at one node, once."""
        pairs = self.world.pairs_of("n1", 8)
        for pair in pairs:
            self.world.writes(*pair, "one")
        self.world.run(2.0)
        calls = [(pair, each.message) for pair, each in zip(pairs, self.invites(), strict=True)]
        self.world.sides["n1"].node.link.delay = 0.02
        self.world.drain("n1")
        for cseq in range(1, 31):
            for people, invite in calls:
                self.world.far_sends(
                    "n1", "MESSAGE", *people, call_id=invite.call_id, cseq=cseq, tag=invite.from_tag,
                    own_tag="far", body=f"answer {cseq}", headers=TEXT,
                )  # fmt: skip
            self.world.run(0.05)
        self.world.run(5.0)
        nodes: dict[str, list[str]] = {}
        for each in self.invites():
            nodes.setdefault(each.message.call_id, []).append(each.node)
        self.assertEqual({tuple(each) for each in nodes.values()}, {("n1", "n2"), ("n1", "n3")})
        self.assertEqual({answer.status for answer in self.far.answers}, {200})


class BudgetTests(Case):
    """The partner bears little."""

    def setUp(self) -> None:
        self.world = World("n1", "n2", rate=4, burst=4)
        self.far = self.world.far

    def test_order(self) -> None:
        """Sessions move with what waits in them; every text comes once, in order, in the one dialog."""
        pairs = self.world.pairs_of("n1", 5)
        for number in range(12):
            if number == 6:
                self.world.drain("n1")
            for pair in pairs:
                self.world.writes(*pair, str(number))
            self.world.run(1.0)
        self.world.run(60.0)
        expected = [str(number) for number in range(12)]
        self.assertEqual(self.far.texts, dict.fromkeys(pairs, expected))
        self.assertEqual(self.far.of("BYE"), [])
        calls = {(each.people, each.message.call_id) for each in self.far.sent}
        self.assertEqual(len(calls), len(pairs))


class RecordTests(SynchronousTestCase):
    """What is written down of a session."""

    def test_kind(self) -> None:
        """A session belongs to its pair, and is found by what the peer's requests name."""
        self.assertTrue(SessionRecord.owned)
        self.assertEqual(SessionRecord.kind, "session")
