"""Kamailio as a presence server of a SIMPLE domain."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.kamailio import PresenceServer
from tests.interop.scene import FOREIGN, scene
from tests.interop.sipp import Outcome, Sipp


class Presentity(SynchronousTestCase):
    """Users publish at Kamailio, alice watches them."""

    def setUp(self) -> None:
        self.scene = scene("tcp")
        self.directory = self.scene.directory / self.id().rpartition(".")[2]
        self.server = PresenceServer(self.directory / "kamailio", FOREIGN, self.scene.peer_port)
        self.addCleanup(self.server.stop)

    def publish(self, who: str, basic: str, etag: str = "") -> str:
        """Publish a state; returns the tag that changes it later."""
        scenario = "republish" if etag else "publish"
        keys = {"basic": basic, "etag": etag}
        outcome: Outcome = Sipp(
            scenario, self.directory / scenario, here=who, remote=self.server.port, via="TCP",
            keys=keys,
        ).finish()  # fmt: skip
        self.assertEqual((outcome.code, outcome.successful), (0, 1), outcome.trouble)
        return outcome.logged("ETag")[0]

    def test_published_states_are_seen(self) -> None:
        """Alice sees what was published before she subscribed, and what is published later."""
        who, alice = f"juliet@{FOREIGN}", self.scene.alice
        etag, since = self.publish(who, "open"), alice.position
        alice.send("subscribe", to=who)
        alice.expect(since, event="presence", sender=who, kind="available")
        since = alice.position
        self.publish(who, "closed", etag)
        alice.expect(since, event="presence", sender=who, kind="unavailable")
        self.assertTrue(self.server.part.alive, self.server.part.tail())
