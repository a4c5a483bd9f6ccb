"""What operators do to a cluster under load: drain, restart with other settings, change certificates."""

from __future__ import annotations

from demo.parts import wait_until
from tests.interop.balancer import NAME
from tests.interop.cluster import NAMES, host, links
from tests.interop.cluster_story import ClusterStory
from tests.interop.scene import HOME

LATE = """
[[domain]]
name = "late.example"
next_hop = { address = "127.0.0.1:9", tls_name = "sip.late.example" }
"""


class UpkeepTests(ClusterStory):
    """It goes on unnoticed."""

    def test_drain(self) -> None:
        """A node gives everything away, is taken back, every text arrives once, and no talk is cut off."""
        victim = self.scene.link_owner()
        foreign = self.scene.far_user_of("alice", victim, 4)
        self.texts("alice", foreign, "before the drain")
        self.befriend("alice", foreign)
        # What comes within a session at the moment when that is given away may get 500 with Retry-After.
        with self.load(refused=0.01):
            self.flows(2)
            since = self.far.position
            self.assertIn("drained", self.scene.control(victim, "drain"))
            self.flows(2)
        moved = {each["call"] for each in self.far.seen(since, event="moved")}
        left = {each["call"] for each in self.far.seen(since, event="left")}
        print(f"{len(moved)} sessions moved", flush=True)
        self.assertTrue(moved)
        self.assertEqual(moved & left, set())
        self.assertEqual(self.scene.crowd.owners(self.scene.redis, NAMES)[victim], 0)
        self.changes("alice", foreign)
        self.texts("alice", foreign, "while it is out")
        with self.load(refused=0.01):
            self.scene.control(victim, "drain", "stop")
            self.scene.settle(60)
            self.flows(2)
        self.changes("alice", foreign)

    def test_rolling_restart(self) -> None:
        """Each node is restarted with another configuration, and hardly anybody notices.

        What the far side sends just when a node closes its connection comes back, and what another node
        passes on to that one at this moment is refused: one in a hundred at most.
        """
        foreign = self.scene.far_user_of("bob", NAMES[1], 3)
        self.befriend("bob", foreign)
        with self.load(crash=True, refused=0.01) as told:
            for name in NAMES:
                self.scene.restart(name, LATE)
                self.scene.settle(60)
        (history,) = told
        self.assertEqual(history.twice, {})
        self.assertLessEqual(len(history.doubtful), len(NAMES), str(history))
        for name in NAMES:
            self.assertIn("127.0.0.1:9", self.scene.control(name, "route", "x@late.example"))
        self.changes("bob", foreign)

    def test_certificates(self) -> None:
        """Each node gets a new certificate while it runs, and shows it to whoever connects next."""
        foreign = self.scene.far_user_of("carol", NAMES[2], 3)
        self.befriend("carol", foreign)
        # The connections to the partner are broken, so that new ones are made; an answer may be lost.
        with self.load(crash=True, refused=0.01):
            new = {name: self.scene.authority.issue(host(name), NAME, HOME) for name in NAMES}
            wanted = {name: issued.certificate.read_text() for name, issued in new.items()}
            swapped = wait_until(lambda: {n: self.scene.shown(n) for n in NAMES} == wanted, 30, 0.5)
            self.assertTrue(swapped)
            for link in links("partner"):
                self.scene.links.tell("reset", link=link)
            self.flows(2)
        self.changes("carol", foreign)
