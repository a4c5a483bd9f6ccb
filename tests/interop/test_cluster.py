"""Three real nodes, Redis, HAProxy, Prosody and a far side, while nodes die, sleep and are restarted."""

from __future__ import annotations

import signal
import time

from tests.interop.cluster import NAMES
from tests.interop.cluster_story import SOAK, ClusterStory
from tests.interop.scene import HOME

#: Seconds of texts with kills in turn, and for which a process is stopped.
LONG, STOPPED = (240.0, 45.0) if SOAK else (40.0, 6.0)


class ClusterTests(ClusterStory):
    """The stories."""

    def setUp(self) -> None:
        super().setUp()
        # Whose INVITE the far side accepts just as it is killed acknowledges nothing; the far side says
        # so a quarter of a minute later.
        self.tolerated += ("no ACK",)

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
        with self.load(crash=True, refused=0.05):
            self.scene.kill(victim)
            self.scene.settle(30, self.others(victim))
            self.flows(2)
        self.changes(local, foreign)
        self.texts(local, foreign, f"without {victim}")
        since = self.far.position
        number = self.far.send("refresh", **{"from": foreign, "to": f"{local}@{HOME}"})
        self.assertEqual(self.far.expect(since, 30, event="done", id=number)["status"], 200)
        with self.load(refused=0.02):
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
        # What the far side had sent it, and the balancer cannot know.
        self.tolerated += ("no final response",)
        foreign = self.scene.far_user_of(local, victim, offset)
        self.befriend(local, foreign)
        part = self.scene.nodes[victim].part
        assert part is not None
        with self.load(crash=True, refused=0.15):
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

    def test_kills_in_turn(self) -> None:
        """Texts flow both ways while one node after the other is killed: none is lost."""
        end, victims = time.monotonic() + LONG, 0
        with self.load(crash=True, refused=0.03) as told:
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
