"""Connections of the cluster that break, swallow, or stand still, under load: seen in time, nothing lost."""

from __future__ import annotations

import random
import time

from demo.parts import wait_until
from tests.interop.cluster import NAMES, TARGETS, links
from tests.interop.cluster_story import SOAK, ClusterStory

#: Seconds for which a connection swallows all.  In the long form it has to be given up by then: after two
#: keep-alives and five seconds.
HOLE = 65.0 if SOAK else 8.0
#: Seconds for which somebody reads nothing.
SLOW = 60.0 if SOAK else 8.0
#: MiB that a node may grow by meanwhile.
GROWTH = 64.0


class LinkTests(ClusterStory):
    """The relay between the nodes and what they dial spoils one link after the other."""

    def test_hole_to_redis(self) -> None:
        """What a node says to Redis vanishes: the others take over within seconds."""
        victim = self.scene.link_owner()
        with self.load(crash=True, refused=0.5):
            self.scene.links.spoil(f"{victim}-redis", hole=True)
            self.scene.settle(30, self.others(victim))
            self.flows(2)
            self.scene.links.mend(f"{victim}-redis")
            self.scene.settle(60)

    def test_hole_to_home_server(self) -> None:
        """The home link is half open: what it swallowed goes again, and it is given up in time."""
        self.hole([f"{self.scene.link_holder()}-home"], "impfed.home.link_down")

    def test_hole_to_partner(self) -> None:
        """The connections to the partner are half open: its answers are waited for, and no longer."""
        self.tolerated += ("no final response",)
        self.hole(links("partner"), "nothing was heard")

    def hole(self, ways: list[str], words: str) -> None:
        """These links swallow all, until the log of each node that is connected has these words."""
        tell = self.scene.links.tell
        names = [way.partition("-")[0] for way in ways if tell("report", link=way)["open"]]
        before = {name: self.scene.log(name).count(words) for name in names}
        with self.load(crash=True, refused=1.0):
            begin = time.monotonic()
            self.scene.links.spoil(*ways, hole=True)

            def noticed() -> bool:
                return all(self.scene.log(name).count(words) > before[name] for name in names)

            seen = wait_until(noticed, HOLE, 0.5)
            print(
                f"half open: {seen} that it was seen, {time.monotonic() - begin:.0f} s", flush=True
            )
            self.scene.links.mend(*ways)
            self.assertTrue(seen or not SOAK)
            self.scene.settle(60)
            self.flows(2)

    def test_slow_readers(self) -> None:
        """Partner and home server read nothing for a while: what cannot wait comes back, no node grows."""
        self.tolerated += ("no final response", "no ACK", "a second final response")
        before = {name: self.scene.memory(name) for name in NAMES}
        ways = [*links("partner"), *links("home")]
        with self.load(crash=True, refused=1.0):
            self.scene.links.spoil(*ways, way="out", rate=0)
            self.flows(SLOW)
            self.scene.links.mend(*ways)
            self.scene.settle(60)
            self.flows(2)
        grown = {name: self.scene.memory(name) - before[name] for name in NAMES}
        print(f"MiB more: {grown}", flush=True)
        self.assertLess(max(grown.values()), GROWTH)

    def test_bad_network(self) -> None:
        """Everything comes late, in small pieces, and not fast: all arrives."""
        ways = [link for target in TARGETS for link in links(target)]
        with self.load():
            self.scene.links.spoil(*ways, latency=0.02, jitter=0.03, slice=700, rate=500_000)
            self.flows(SLOW / 2)
            self.scene.links.mend(*ways)
            self.flows(1)

    def test_swizzle(self) -> None:
        """All links are cut one after the other, and restored in another order."""
        ways = [link for target in TARGETS for link in links(target)]
        chance = random.Random(self.id())
        with self.load(crash=True, refused=1.0):
            for order, change in ((1, self.scene.links.cut), (2, self.scene.links.mend)):
                for link in chance.sample(ways, len(ways)):
                    change(link)
                    self.flows(chance.uniform(0.2, 1.0) * order)
            self.scene.settle(60)
            self.flows(2)
