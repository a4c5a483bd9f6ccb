"""Redis dies, sleeps, forgets, takes nothing, or is out of reach, under load: nothing is lost meanwhile."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.interop.cluster import NAMES, links
from tests.interop.cluster_story import RATE, SOAK, ClusterStory

#: Seconds for which it is away.
AWAY = 60.0 if SOAK else 5.0


class StoreTests(ClusterStory):
    """What cannot be kept is refused while it is away; afterwards all is as before."""

    @contextmanager
    def away(self, local: str, skip: int) -> Iterator[None]:
        """Texts flow while the block takes it away and brings it back; then people reach each other."""
        foreign = self.scene.far_user_of(local, NAMES[skip % len(NAMES)], skip)
        self.befriend(local, foreign)
        with self.load(crash=True, refused=1.0) as told:
            self.flows(1)
            yield
            self.scene.settle(60)
            self.flows(2)
        (history,) = told
        # What was under way in the seconds until it was seen.
        self.assertLessEqual(len(history.twice), RATE, str(history))
        self.assertLessEqual(len(history.doubtful), 5 * RATE, str(history))
        self.changes(local, foreign)
        self.texts(local, foreign, self.id())

    def config(self, name: str, value: str) -> None:
        """Set something of the running Redis."""
        self.assertEqual(self.scene.redis.command("CONFIG", "SET", name, value), "+OK")

    def test_restarted(self) -> None:
        """It is killed, and comes back with what it has on its disk."""
        with self.away("bob", 5):
            self.scene.redis.kill()
            self.flows(AWAY)
            self.scene.redis.start()

    def test_emptied(self) -> None:
        """It is killed and comes back with nothing: the nodes write again what they hold."""
        redis = self.scene.redis
        with self.away("bob", 6):
            redis.kill()
            shutil.rmtree(redis.directory / "appendonlydir")
            redis.start()

    def test_paused(self) -> None:
        """Its process sleeps."""
        with self.away("carol", 7):
            self.scene.redis.kill(signal.SIGSTOP)
            self.flows(AWAY)
            self.scene.redis.kill(signal.SIGCONT)

    def test_out_of_memory(self) -> None:
        """It has no memory left for anything new."""
        with self.away("carol", 8):
            self.config("maxmemory", "1")
            self.flows(AWAY)
            self.config("maxmemory", "0")

    def test_read_only(self) -> None:
        """It misses its replicas, and takes no writes."""
        with self.away("dave", 5):
            self.config("min-replicas-to-write", "1")
            self.flows(AWAY)
            self.config("min-replicas-to-write", "0")

    def test_cut_off(self) -> None:
        """No node reaches it: each goes on with what it owns."""
        with self.away("dave", 6):
            self.scene.links.cut(*links("redis"))
            self.flows(AWAY)
            self.scene.links.mend(*links("redis"))

    def test_one_cut_off(self) -> None:
        """One node does not reach it: the others take over, and it joins again afterwards."""
        victim = self.scene.link_owner()
        with self.away("dave", 7):
            self.scene.links.cut(*links("redis", [victim]))
            self.scene.settle(60, self.others(victim))
            self.flows(AWAY - 5)
            self.scene.links.mend(*links("redis", [victim]))
