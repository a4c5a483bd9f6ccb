"""Three nodes of a cluster on a real Redis and the real clock: one dies, one sleeps, Redis restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, succeed
from twisted.trial.unittest import TestCase

from impfed.cluster.membership import Sight
from impfed.cluster.service import ClusterService
from impfed.store.api import Put
from tests.cluster.kit import Kind, User, pair
from tests.store.redis_server import RedisServer
from tests.store.test_redis import make_store

PAIRS = range(60)


class RealNode:
    """A node on the real clock; its user is the one of the other tests."""

    def __init__(self, case: RedisClusterTests, name: str) -> None:
        self.case = case
        self.name = name
        self.cluster = case  # what User asks of it
        clock: Any = reactor
        self.store = make_store(case, case.server, "cluster")
        self.service = ClusterService(clock, self.store, name, name, self, clock.seconds)
        self.user = User(self)  # type: ignore[arg-type]
        self.service.user = self.user

    def sights(self, names: Sequence[str]) -> Deferred[list[Sight]]:
        nodes = self.case.nodes
        return succeed(
            [Sight(name, nodes[name].service.sees_store) for name in names if name in nodes]
        )

    @inlineCallbacks
    def start(self) -> Any:
        yield self.store.start()
        yield self.service.start()
        records = yield self.store.load(Kind)
        self.user.records = {record.key: record for record in records}
        self.service.ready()

    @inlineCallbacks
    def kill(self) -> Any:
        """End without a word to the store."""
        del self.case.nodes[self.name]
        yield self.store.link.stop()
        yield self.service.stop()


class RedisClusterTests(TestCase):
    timeout = 120

    @inlineCallbacks
    def setUp(self) -> Any:
        self.server = RedisServer("--appendonly", "yes", "--appendfsync", "always").start()
        self.addCleanup(self.server.stop)
        self.letters: list[Any] = []
        self.nodes: dict[str, RealNode] = {}
        for name in ("n1", "n2", "n3"):
            self.nodes[name] = RealNode(self, name)
        self.all = list(self.nodes.values())
        yield gatherResults([node.start() for node in self.all])
        yield self.until(lambda: all(self.settled(node) for node in self.all))
        for number in PAIRS:
            node = self.nodes[self.all[0].service.owner(pair(number))]
            record = Kind(*pair(number))
            node.user.records[record.key] = record
            node.store.write([Put(record)])

    @inlineCallbacks
    def tearDown(self) -> Any:
        for node in self.all:
            yield node.service.stop()
            yield node.store.stop()

    def settled(self, node: RealNode) -> bool:
        place = node.service.placement
        return place.settled and len(place.now.names) == len(self.nodes)

    @inlineCallbacks
    def until(self, true: Callable[[], bool]) -> Any:
        while not true():
            yield task.deferLater(reactor, 0.02)  # type: ignore[arg-type]

    def whole(self) -> bool:
        """Whether every pair is served, and by its owner."""
        served = [
            node.service.owner((record.local, record.foreign)) == name
            for name, node in self.nodes.items()
            for record in node.user.records.values()
        ]
        return len(served) == len(PAIRS) and all(served)

    @inlineCallbacks
    def test_death_letters_and_restart_of_redis(self) -> Any:
        """A dead node's share is served by the others, letters arrive, and a restart is only waited for."""
        self.assertTrue(self.whole())
        one = self.nodes["n1"]
        for number in PAIRS:
            self.assertTrue(one.service.send(pair(number), b"letter"))
        yield self.until(lambda: len(set(self.letters)) == len(PAIRS))
        yield self.nodes["n2"].kill()  # with letters that it may not have removed: they come again
        yield self.until(self.whole)
        for node in self.nodes.values():
            self.assertTrue(any(word.startswith("adopt") for word in node.user.told))
            node.user.told.clear()
        self.server.kill()
        yield self.until(lambda: not one.store.link.up)
        self.server.start()
        yield self.until(lambda: all(self.settled(node) for node in self.nodes.values()))
        self.assertTrue(self.whole())
        self.assertNotIn("drop", [word for node in self.nodes.values() for word in node.user.told])
        for number in PAIRS:
            self.assertTrue(one.service.send(pair(number), b"more"))
        yield self.until(lambda: len(set(self.letters)) == 2 * len(PAIRS))
