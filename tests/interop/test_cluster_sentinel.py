"""A cluster whose Redis is watched by Sentinels: its master dies under load, and a replica goes on."""

from __future__ import annotations

from tests.interop.cluster_redis import WatchedRedis
from tests.interop.cluster_story import ClusterStory, watched


class SentinelTests(ClusterStory):
    """Three servers, three Sentinels, a master that writes nothing without a replica."""

    make = staticmethod(watched)

    def test_fail_over(self) -> None:
        """The nodes follow to the new master, write again what it does not have, and lose nothing."""
        store = self.scene.store
        assert isinstance(store, WatchedRedis)
        foreign = self.scene.far_user_of("alice", "node2")
        self.texts("alice", foreign, "before")
        self.befriend("alice", foreign)
        with self.load(crash=True, refused=1.0):
            self.flows(2)
            store.fail_over()
            self.scene.settle(60)
            self.flows(2)
        self.changes("alice", foreign)
        self.texts("alice", foreign, "after")
