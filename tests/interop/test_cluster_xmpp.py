"""Three real nodes and an XMPP partner: texts flow while a node drains, and while one is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import wait_until
from tests.interop.cluster import NAMES
from tests.interop.cluster_load import History
from tests.interop.cluster_xmpp import VERONA, XmppCluster, XmppLoad
from tests.interop.once import started_once
from tests.interop.scene import HOME

RATE = 10.0


@started_once(XmppCluster.stop)
def _cluster() -> XmppCluster:
    return XmppCluster("cluster-xmpp").start()


class XmppTests(SynchronousTestCase):
    """Each test leaves the cluster whole."""

    timeout = 900

    def setUp(self) -> None:
        self.scene = _cluster()
        # Both streams between every node and the partner are there before anything happens.
        for name, talker in self.scene.foreign.items():
            begin, user = talker.position, self.scene.users["alice"]
            since = user.position
            user.send("message", to=f"{name}@{VERONA}", body=f"hello {name}")
            talker.expect(begin, 60, event="message", body=f"hello {name}")
            talker.send("message", to=f"alice@{HOME}", body=f"{name} answers")
            user.expect(since, 60, event="message", body=f"{name} answers")

    def tearDown(self) -> None:
        self.scene.heal()
        self.scene.settle(60)

    @contextmanager
    def load(self, crash: bool = False) -> Iterator[None]:
        """Texts flow while the block runs; none is lost, and order is kept."""
        load = XmppLoad(self.scene, RATE)
        try:
            yield
        finally:
            history: History = load.end(90.0)
        print(f"\n{self.id().rpartition('.')[2]}: {history}", flush=True)
        self.assertEqual((history.lost, history.disordered, history.changed), ([], [], []))
        if not crash:
            self.assertEqual((history.refused, history.twice, history.doubtful), ({}, {}, {}))

    def flows(self, seconds: float) -> None:
        """Let texts flow for some time."""
        end = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > end, seconds + 5)

    def test_drain(self) -> None:
        """Nobody notices that a node gives everything away, and takes its share again."""
        victim = self.scene.link_owner()
        with self.load():
            self.flows(2)
            self.assertIn("drained", self.scene.control(victim, "drain"))
            self.flows(2)
            self.scene.control(victim, "drain", "stop")
            self.scene.settle(60)
            self.flows(2)

    def killed(self, victim: str) -> None:
        """A node is killed under load and comes back."""
        with self.load(crash=True):
            self.flows(2)
            self.scene.kill(victim)
            self.scene.settle(30, [name for name in NAMES if name != victim])
            self.flows(2)
            self.scene.nodes[victim].start()
            self.scene.settle(60)
            self.flows(2)

    def test_owner_killed(self) -> None:
        """A node dies that holds streams to the partner, and not the home link."""
        self.killed(next(name for name in NAMES if name != self.scene.link_owner()))

    def test_link_holder_killed(self) -> None:
        """The node dies that holds the home link."""
        self.killed(self.scene.link_owner())
