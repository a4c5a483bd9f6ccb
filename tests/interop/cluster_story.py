"""What the stories of a cluster have in common: the scene, the load, and what is checked afterwards.

With IMPFED_SOAK in the environment (``make soak``) the long forms are played.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import wait_until
from tests.interop.cluster import NAMES, Cluster
from tests.interop.cluster_load import History, Load
from tests.interop.cluster_redis import WatchedRedis
from tests.interop.once import started_once
from tests.interop.scene import FOREIGN, HOME, RUN

SOAK = bool(os.environ.get("IMPFED_SOAK"))
#: Subscriptions that stand, and texts a second each way.
STANDING, RATE = (10_000 if SOAK else 1_000), 20.0


def watched() -> Cluster:
    """Return a cluster whose Redis is watched by Sentinels."""
    directory = RUN / "watched-redis"
    directory.mkdir(parents=True, exist_ok=True)
    return Cluster("watched", STANDING, WatchedRedis(directory))


def common() -> Cluster:
    """Return a cluster with one Redis."""
    return Cluster("cluster", STANDING)


@started_once(Cluster.stop)
def cluster(make: Callable[[], Cluster]) -> Cluster:
    """Return a scene, started once."""
    return make().start()


class ClusterStory(SynchronousTestCase):
    """Each test leaves the cluster whole."""

    timeout = 1800
    make: Callable[[], Cluster] = staticmethod(common)

    def setUp(self) -> None:
        self.scene = cluster(self.make)
        self.far = self.scene.far
        self.begin = self.far.position
        # When its connection has broken, answers come by another one, and find nobody who waits.
        self.tolerated: tuple[str, ...] = ("nobody waits",)

    def tearDown(self) -> None:
        self.scene.heal()
        self.scene.settle(60)
        found = [
            each
            for each in self.far.seen(self.begin, event="violation")
            if not any(words in each["detail"] for words in self.tolerated)
        ]
        self.assertEqual(found, [])

    # -- what people do ----------------------------------------------------------------------------

    def texts(self, local: str, foreign: str, what: str) -> None:
        """One text each way, which arrives."""
        user, since, far = self.scene.users[local], self.far.position, self.far
        begin = user.position
        user.send("message", to=f"{foreign}@{FOREIGN}", body=f"{what} out")
        far.expect(since, 30, event="im", text=f"{what} out")
        number = far.send("im", **{"from": foreign, "to": f"{local}@{HOME}", "text": f"{what} in"})
        self.assertEqual(far.expect(since, 40, event="done", id=number)["status"], 200)
        user.expect(begin, 30, event="message", body=f"{what} in")

    def befriend(self, local: str, foreign: str) -> None:
        """Both see each other."""
        user, since = self.scene.users[local], self.far.position
        begin = user.position
        number = self.far.send("subscribe", **{"from": foreign, "to": f"{local}@{HOME}"})
        self.assertEqual(self.far.expect(since, 30, event="done", id=number)["status"], 200)
        user.expect(begin, 30, event="asked", sender=f"{foreign}@{FOREIGN}")
        user.send("approve", to=f"{foreign}@{FOREIGN}")
        self.sees(foreign, local, "available", since)
        user.send("subscribe", to=f"{foreign}@{FOREIGN}")
        user.expect(begin, 30, event="presence", kind="available", sender=f"{foreign}@{FOREIGN}")

    def sees(self, foreign: str, local: str, state: str, since: int) -> None:
        """A far user is told how a local one is."""
        people = {"to": f"{foreign}@{FOREIGN}", "sender": f"{local}@{HOME}"}
        self.far.expect(since, 40, event="presence", subscription="active", state=state, **people)

    def changes(self, local: str, foreign: str) -> None:
        """Each learns at once how the other one is now."""
        user, since = self.scene.users[local], self.far.position
        begin = user.position
        user.send("presence", show="dnd")
        self.sees(foreign, local, "busy", since)
        self.far.send("presence", **{"from": foreign, "state": "busy"})
        user.expect(begin, 40, event="presence", sender=f"{foreign}@{FOREIGN}", show="away")
        since, begin = self.far.position, user.position
        user.send("presence", show="")
        self.sees(foreign, local, "available", since)
        self.far.send("presence", **{"from": foreign, "state": "available"})
        user.expect(begin, 40, event="presence", sender=f"{foreign}@{FOREIGN}", show="")

    def others(self, name: str) -> list[str]:
        return [other for other in NAMES if other != name]

    # -- the load ----------------------------------------------------------------------------------

    @contextmanager
    def load(self, crash: bool = False, refused: float = 0.0) -> Iterator[list[History]]:
        """Texts flow while the block runs; afterwards the history is checked, and who owns what.

        :param crash: a process is killed or sleeps, so a text may come twice, under one id.
        :param refused: share of the texts that may be refused.
        """
        load, told = Load(self.scene, RATE), []
        begin = time.monotonic()
        try:
            yield told
        finally:
            history = load.end()
        told.append(history)
        seconds = time.monotonic() - begin
        print(f"\n{self.id().rpartition('.')[2]}: {history}, {seconds:.0f} s", flush=True)
        self.assertEqual(history.lost, [])
        self.assertEqual(history.disordered, [])
        # Whose session has ended gets 481, and the far side sends once more by itself.
        self.assertLessEqual(len(history.changed), RATE if crash else 0, str(history))
        self.assertLessEqual(len(history.refused), history.sent * refused, str(history))
        if not crash:
            self.assertEqual((history.twice, history.doubtful), ({}, {}), str(history))
        self.presence_is_right()

    def presence_is_right(self) -> None:
        """Every subscription has one owner that lives, and all who watch see how people are now."""
        live = [name for name in NAMES if self.scene.serves(name)]
        taken = self.scene.crowd.changes()
        print(f"presence right everywhere after {taken:.1f} s", flush=True)
        self.scene.settle(60, live)
        owners = self.scene.crowd.owners(self.scene.redis, NAMES)
        self.assertEqual(sum(owners[name] for name in live), sum(owners.values()), str(owners))
        self.assertGreaterEqual(sum(owners.values()), STANDING)

    def flows(self, seconds: float) -> None:
        """Let texts flow for some time."""
        end = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > end, seconds + 5)
