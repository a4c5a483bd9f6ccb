"""Asking other nodes of the cluster directly whether they see the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from impfed.cluster.membership import Sight
from impfed.config.model import NeighbourConfig
from impfed.gateway.sights import HEADER, Sights
from impfed.routing.neighbours import Neighbours
from impfed.testing.fakes import FakeFlow, FakeStack, counting_ids
from impfed.transport.timers import ReactorTimers
from tests.gateway.harness import World

NODE2 = NeighbourConfig("node2", (), "10.0.0.2", 5061, "node2.company.example")
NODE3 = NeighbourConfig(
    "node3", (), "10.0.0.3", 5061, "node3.company.example", fallback=(("10.1.0.3", 5061),)
)


class SightsTests(SynchronousTestCase):
    """A node with two neighbours, one of them at two addresses."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.stack = FakeStack()
        self.forgiven: list[Any] = []
        self.stack.pool = self  # type: ignore[attr-defined]
        self.neighbours = Neighbours((NODE2, NODE3))
        self.sights = Sights(
            "node1", "company.example", self.stack, self.neighbours, counting_ids(),  # type: ignore[arg-type]
            ReactorTimers(self.clock),
        )  # fmt: skip
        self.sees_store = True

    def forgive(self, target: Any) -> None:
        self.forgiven.append(target.host)

    def ask(self, *names: str) -> list[Sight]:
        found: list[Sight] = []
        self.sights.sights(names).addCallback(found.extend)
        return found

    def answer(self, number: int, value: str) -> None:
        headers = ((HEADER, value),) if value else ()
        self.stack.sent[number].answer(200, headers=headers)

    def test_answers(self) -> None:
        """Each node is asked with OPTIONS at each of its addresses, and its word is taken from any."""
        found = self.ask("node2", "node3")
        asked = [sent.message.uri for sent in self.stack.sent]
        self.assertEqual(
            [getattr(uri, "host", "") for uri in asked], ["10.0.0.2", "10.0.0.3", "10.1.0.3"]
        )
        self.assertEqual(self.forgiven, ["10.0.0.2", "10.0.0.3", "10.1.0.3"])
        self.answer(0, "node2 gone")
        self.stack.sent[1].fail()
        self.assertEqual(found, [])
        self.answer(2, "node3 seen")
        self.assertEqual(found, [Sight("node2", False), Sight("node3", True)])
        self.clock.advance(2.0)
        self.assertEqual(len(found), 2)

    def test_silence(self) -> None:
        """Who does not answer within a second has given no answer, and a late one changes nothing."""
        found = self.ask("node2")
        self.clock.advance(1.0)
        self.assertEqual(found, [Sight("node2", None)])
        self.answer(0, "node2 gone")
        self.assertEqual(len(found), 1)

    def test_no_answer(self) -> None:
        """Without the header, from another node, or from nobody that is known, it is no answer."""
        found = self.ask("node2", "node3", "stranger")
        self.answer(0, "")
        self.answer(1, "node2 gone")
        self.stack.sent[2].fail()
        self.assertEqual({each.sees_store for each in found}, {None})
        self.assertEqual([each.name for each in found], ["node2", "node3", "stranger"])

    def test_told(self) -> None:
        """A neighbour is told; a stranger, a neighbour's name without a proof, and clear TCP are not."""
        names = ("node2.company.example",)
        self.assertEqual(self.sights.told(FakeFlow(names), self), ((HEADER, "node1 seen"),))
        self.sees_store = False
        self.assertEqual(self.sights.told(FakeFlow(names), self), ((HEADER, "node1 gone"),))
        self.assertEqual(self.sights.told(FakeFlow(), self), ())
        self.assertEqual(self.sights.told(FakeFlow(names, "tcp"), self), ())
        unproven = FakeFlow(names)
        unproven.peer = replace(unproven.peer, proven=False)
        self.assertEqual(self.sights.told(unproven, self), ())


class GatewayTests(SynchronousTestCase):
    """What the gateway adds to its answer."""

    def test_options(self) -> None:
        """The answer to an OPTIONS carries what a neighbour is told."""
        world = World()
        world.gateway.tells = lambda flow: ((HEADER, "node1 seen"),)
        world.far_sends(
            """OPTIONS sip:10.0.0.1:5061 SIP/2.0
            Via: SIP/2.0/TLS 10.0.0.2:5061;branch=z9hG4bK1
            From: <sip:home.example>;tag=1
            To: <sip:10.0.0.1:5061>
            Call-ID: c1
            CSeq: 1 OPTIONS
            Max-Forwards: 1"""
        )
        (answer,) = world.stack.answers
        self.assertIn(b"Impfed-Store: node1 seen", answer.message.to_bytes())
