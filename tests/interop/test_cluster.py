"""Three real nodes, Redis, HAProxy, Prosody and a far side, while one thing after another fails.

With IMPFED_SOAK in the environment (``make soak``) the long forms are played.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import PartFailed, wait_until
from tests.interop.cluster import NAMES, Cluster
from tests.interop.cluster_load import History, Load
from tests.interop.scene import FOREIGN, HOME

SOAK = bool(os.environ.get("IMPFED_SOAK"))
#: Seconds of texts with kills in turn, and for which a process is stopped.
LONG, STOPPED = (600.0, 45.0) if SOAK else (45.0, 6.0)


@functools.cache
def _started() -> Cluster | PartFailed:
    try:
        scene = Cluster().start()
    except PartFailed as error:
        return error
    atexit.register(scene.stop)
    return scene


def cluster() -> Cluster:
    """Return the scene, started once."""
    found = _started()
    if isinstance(found, PartFailed):
        raise PartFailed(str(found))
    return found


class ClusterTests(SynchronousTestCase):
    """Each test leaves the cluster whole."""

    timeout = 1800

    def setUp(self) -> None:
        self.scene = cluster()
        self.far = self.scene.far
        self.begin = self.far.position

    def tearDown(self) -> None:
        for node in self.scene.nodes.values():
            if node.part is None or not node.part.alive:
                node.start()
        self.scene.settle(60)
        # When its connection has broken, answers come by another one, and find nobody who waits.
        found = self.far.seen(self.begin, event="violation")
        found = [each for each in found if "nobody waits" not in each["detail"]]
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
    def load(self, rate: float = 10.0) -> Iterator[list[History]]:
        """Texts flow while the block runs; nothing of them is lost, and no order is broken."""
        load, told = Load(self.scene, rate), []
        try:
            yield told
        finally:
            history = load.end()
        told.append(history)
        print(f"\n{self.id().rpartition('.')[2]}: {history}", flush=True)
        self.assertEqual(history.lost, [])
        self.assertEqual(history.disordered, [])
        self.assertGreater(history.delivered, history.sent * 0.5)

    def flows(self, seconds: float) -> None:
        """Let texts flow for some time."""
        end = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > end, seconds + 5)

    # -- stories -----------------------------------------------------------------------------------

    def test_any_node(self) -> None:
        """People talk and see each other whichever node their pair belongs to."""
        for number, owner in enumerate(NAMES):
            foreign = self.scene.far_user_of("alice", owner, number)
            self.texts("alice", foreign, f"any {owner}")
            self.befriend("alice", foreign)
            self.changes("alice", foreign)

    def test_status(self) -> None:
        """Every node says who lives, who has settled and where the home link is."""
        holders = []
        for name in NAMES:
            seen = self.scene.membership(name)
            self.assertEqual([each["name"] for each in seen["nodes"]], list(NAMES))
            self.assertEqual({each["state"] for each in seen["nodes"]}, {"live"})
            self.assertEqual(seen["standing"], "member")
            holders += [name] * len(seen["home_links_held"])
        self.assertEqual(holders, [self.scene.link_owner()])

    def test_calm(self) -> None:
        """While nothing fails every text arrives once."""
        with self.load() as told:
            self.flows(6)
        (history,) = told
        self.assertEqual((history.delivered, history.twice), (history.sent, {}), str(history))

    def killed(self, victim: str, local: str, offset: int) -> None:
        """A node dies by ``kill -9``: its subscriptions live on, its texts arrive, it comes back."""
        foreign = self.scene.far_user_of(local, victim, offset)
        self.texts(local, foreign, f"before {victim} dies")
        self.befriend(local, foreign)
        with self.load():
            self.scene.kill(victim)
            self.scene.settle(30, self.others(victim))
            self.flows(2)
        self.changes(local, foreign)
        self.texts(local, foreign, f"without {victim}")
        since = self.far.position
        number = self.far.send("refresh", **{"from": foreign, "to": f"{local}@{HOME}"})
        self.assertEqual(self.far.expect(since, 30, event="done", id=number)["status"], 200)
        with self.load():
            self.scene.nodes[victim].start()
            self.scene.settle(60)
            self.flows(2)
        self.changes(local, foreign)
        self.texts(local, foreign, f"{victim} is back")

    def test_owner_killed(self) -> None:
        """The owner of a pair dies, another node holding the home link."""
        self.killed(self.others(self.scene.link_owner())[0], "bob", 0)

    def test_link_holder_killed(self) -> None:
        """The node dies that holds the home link, and owns a pair."""
        self.killed(self.scene.link_owner(), "carol", 0)

    def stopped(self, victim: str, seconds: float, local: str, offset: int) -> None:
        """A node is stopped until the others have taken over, then wakes: it acts on nothing of theirs."""
        foreign = self.scene.far_user_of(local, victim, offset)
        self.befriend(local, foreign)
        part = self.scene.nodes[victim].part
        assert part is not None
        with self.load():
            part.kill(signal.SIGSTOP)
            try:
                self.scene.settle(30, self.others(victim))
                self.flows(seconds - 4)
            finally:
                part.kill(signal.SIGCONT)
            self.scene.settle(60)
            self.flows(2)
        self.assertIn("impfed.cluster.fenced", self.scene.log(victim))
        self.changes(local, foreign)

    def test_owner_stopped(self) -> None:
        """The owner of a pair sleeps for longer than its lease."""
        self.stopped(self.others(self.scene.link_owner())[1], STOPPED, "dave", 0)

    def test_link_holder_stopped(self) -> None:
        """The node sleeps that holds the home link."""
        self.stopped(self.scene.link_owner(), STOPPED, "dave", 1)

    def test_redis_restarted(self) -> None:
        """Redis is killed and away for five seconds: what cannot be kept is refused, then all goes on."""
        foreign = self.scene.far_user_of("bob", NAMES[0], 2)
        self.befriend("bob", foreign)
        with self.load(5.0):
            self.flows(1)
            self.scene.redis.kill()
            self.flows(5)
            self.scene.redis.start()
            self.scene.settle(60)
            self.flows(2)
        self.changes("bob", foreign)

    def test_rolling_restart(self) -> None:
        """Each node is restarted in turn, and nobody but the sender of a text just then notices."""
        foreign = self.scene.far_user_of("bob", NAMES[1], 3)
        self.befriend("bob", foreign)
        with self.load():
            for name in NAMES:
                self.scene.nodes[name].stop()
                self.scene.nodes[name].start()
                self.scene.settle(60)
        self.changes("bob", foreign)

    def test_kills_in_turn(self) -> None:
        """Texts flow both ways while one node after the other is killed: none is lost."""
        end, victims = time.monotonic() + LONG, 0
        with self.load(20.0) as told:
            while time.monotonic() < end:
                victim = NAMES[victims % len(NAMES)]
                self.flows(3)
                self.scene.kill(victim)
                victims += 1
                self.scene.settle(60, self.others(victim))
                self.flows(2)
                self.scene.nodes[victim].start()
                self.scene.settle(60)
        (history,) = told
        self.assertLess(len(history.twice) + len(history.doubtful), 20 * victims, str(history))
