"""What comes over S2S for a domain at home in another cluster, on loopback with real TLS."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.config.model import NeighbourConfig
from impfed.config.s2s import S2SConfig
from impfed.core.ids import IdSource
from impfed.relay.crossing import Crossing
from impfed.routing.neighbours import Neighbours
from impfed.testing.fakes import stanza
from impfed.transport.s2s import FixedSettings, Target
from tests.gateway.harness import CONFIG
from tests.transport.s2s_kit import S2SCase, reactor, text

CLUSTER_A, CLUSTER_B = "cluster-a.company.example", "cluster-b.company.example"
Steps = Generator[Deferred[Any], Any, None]


class Known:
    """A stream whose peer is a node of another cluster."""

    def __init__(self) -> None:
        self.stream = self.certificate = self

    def is_one_of(self, names: Any) -> bool:
        return CLUSTER_B in names


class CrossingTests(S2SCase):
    """A foreign server that is led to a node of cluster A with what is for a domain of cluster B."""

    def setUp(self) -> None:
        super().setUp()
        works = self.world.issue("works.example", CLUSTER_B)
        trusting = FixedSettings(nodes=(CLUSTER_A,))
        self.there = self.node("works.example", certificate=works, settings=trusting)
        ours = self.world.issue("company.example", "works.example", CLUSTER_A)
        self.here = self.node("company.example", "works.example", certificate=ours)
        self.verona = self.node("verona.example")
        (port, _) = self.there.s2s.ports
        neighbour = NeighbourConfig(
            "cluster-b", ("works.example",), "127.0.0.1", 5062, CLUSTER_B,
            xmpp=(("127.0.0.1", port),),
        )  # fmt: skip
        config = replace(CONFIG, neighbours=(neighbour,), s2s=S2SConfig(patience=2.0))
        here = self.here
        self.crossing = here.s2s.user = Crossing(
            reactor, config, here.tls, IdSource(), here.metrics, here.tracer, here.user, here.s2s,
            lambda call, local: call(), Neighbours(config.neighbours),
        )  # fmt: skip
        here.s2s.settle = self.crossing.settle
        self.crossing.start()
        self.addCleanup(self.crossing.stop)

    def writes(self, words: str) -> None:
        self.verona.s2s.send(text("romeo@verona.example", "kim@works.example", words))

    @inlineCallbacks
    def test_passed_on(self) -> Steps:
        """It arrives there as it came, by the word of the node that it came to."""
        self.writes("But soft")
        yield self.until(lambda: self.there.user.bodies == ["But soft"])
        (arrived,) = self.there.user.stanzas
        self.assertEqual((arrived.from_.text, arrived.id), ("romeo@verona.example", "1"))
        self.assertEqual(self.here.user.stanzas, [])

    @inlineCallbacks
    def test_nobody_there(self) -> Steps:
        """When no node of that cluster is to be reached its sender is told."""
        self.nodes.remove(self.there)
        yield self.there.stop()
        self.writes("What light")
        yield self.until(lambda: self.verona.user.errors)
        (error,) = self.verona.user.errors
        self.assertEqual(error.from_.text, "kim@works.example")
        self.assertIn("remote-server-timeout", error.to_xml())

    @inlineCallbacks
    def test_settled(self) -> Steps:
        """A foreign server is told that it is taken when the other cluster has it, and not before."""
        told: list[str] = []
        self.crossing.stanza_arrived(
            stanza("<message from='romeo@verona.example' to='kim@works.example'><body/></message>"),
            object_stream(),
        )
        self.crossing.settle(lambda: told.append("works"), "works.example")
        self.crossing.settle(lambda: told.append("company"), "company.example")
        self.assertEqual(told, ["company"])
        yield self.until(lambda: told == ["company", "works"])
        yield self.until(lambda: self.there.user.stanzas)

    @inlineCallbacks
    def test_only_once(self) -> Steps:
        """What another cluster has passed on is not passed on again, but returned."""
        returned = stanza(
            "<message from='romeo@verona.example' to='kim@works.example' id='2'><body>x</body></message>"
        )
        self.crossing.stanza_arrived(returned, Known())  # type: ignore[arg-type]
        yield self.until(lambda: self.verona.user.errors)
        (error,) = self.verona.user.errors
        self.assertIn("remote-server-not-found", error.to_xml())
        self.assertEqual(self.there.user.stanzas, [])

    def test_own(self) -> None:
        """What is for this cluster is its own relay's."""
        own = stanza("<presence from='romeo@verona.example' to='kim@company.example'/>")
        self.crossing.stanza_arrived(own, object_stream())
        self.assertEqual(self.here.user.stanzas, [own])

    @inlineCallbacks
    def test_word_of_a_stranger(self) -> Steps:
        """No other certificate lets its owner speak for a foreign domain."""
        liar = self.node("mantua.example", certificate=self.world.issue("mantua.example"))
        liar.s2s.serving = frozenset(("verona.example",))
        (port, _) = self.there.s2s.ports
        self.world.targets.table["works.example"] = [Target("127.0.0.1", port)]
        liar.s2s.send(text("romeo@verona.example", "kim@works.example", "I am he"))
        yield self.until(lambda: liar.user.errors)
        self.assertIn("not for verona.example", liar.user.errors[0].to_xml())
        self.assertEqual(self.there.user.stanzas, [])


def object_stream() -> Any:
    """Return a stream whose peer is a foreign server."""
    stream = Known()
    stream.is_one_of = lambda names: False  # type: ignore[method-assign]
    return stream
