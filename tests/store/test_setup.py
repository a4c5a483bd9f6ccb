"""From the configuration to the store, and to what tells a node from its namesake."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.ids import IdSource
from impfed.store.setup import instance_of, make_store
from impfed.store.shared import SharedStore
from impfed.store.sqlite import SqliteStore
from tests.config.samples import GOOD, Workshop


class SetupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.shop = Workshop(self.mktemp())
        self.head = f'[node]\nstate_directory = "{Path(self.mktemp()).resolve()}"\n'

    def test_kinds(self) -> None:
        """Without a section a file; with Redis the shared store, at the place that it names."""
        self.assertIsInstance(make_store(reactor, self.shop.load(), IdSource()), SqliteStore)
        redis = '[store]\nkind = "redis"\naddresses = ["redis.example:6379"]\n'
        store = make_store(reactor, self.shop.load(GOOD + redis), IdSource())
        assert isinstance(store, SharedStore)
        self.assertEqual(store.link.place, "Redis at redis.example:6379")

    def test_instance_stays(self) -> None:
        """The mark of a node is the same after a restart, and another for another directory."""
        config = self.shop.load(self.head + GOOD)
        config.node.state_directory.mkdir(parents=True)
        first = instance_of(config, IdSource())
        self.assertEqual(instance_of(config, IdSource()), first)
        (config.node.state_directory / "instance").unlink()
        self.assertNotEqual(instance_of(config, IdSource()), first)
