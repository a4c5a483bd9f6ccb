"""What a node took over survives ``kill -9``: texts on their way and subscriptions."""

from __future__ import annotations

import io
import shutil

from twisted.trial.unittest import SynchronousTestCase

from demo.ladder import Ladder
from demo.parts import PartFailed
from demo.run import Stage
from demo.story import ALICE, ROMEO
from tests.interop.scene import RUN


class Killed(SynchronousTestCase):
    """A node that dies without warning, between a real Prosody and the Lync-style far side."""

    def setUp(self) -> None:
        directory = RUN / self.id().rpartition(".")[2]
        shutil.rmtree(directory, ignore_errors=True)
        ladder = Ladder("romeo", io.StringIO())
        self.stage = Stage(directory, ladder, "prosody", 3.0)
        self.addCleanup(self.stage.stack.close)
        try:
            self.cast = self.stage.start()
        except PartFailed:
            self.stage.stack.close()
            raise

    def kill_and_restart(self) -> None:
        """Kill the node and start another one on the same state."""
        node = self.stage.node
        assert node.part is not None
        node.part.kill()
        node.part.process.wait()
        node.start()

    def test_a_text_on_its_way(self) -> None:
        """A text that waits for a late 200 when the node is killed still arrives."""
        far, alice = self.cast.far, self.cast.alice
        alice.send("message", to=ROMEO, body="Stony limits cannot hold love out")
        far.expect(event="session", sender=ALICE)
        self.kill_and_restart()
        far.expect(seconds=60, event="im", text="Stony limits cannot hold love out")
        self.assertEqual(far.seen(event="violation"), [])

    def test_subscriptions(self) -> None:
        """Both directions' subscriptions come back live and catch up with what was missed."""
        far, alice = self.cast.far, self.cast.alice
        self.cast.far_does("subscribe", 200, **{"from": "romeo", "to": ALICE})
        alice.expect(event="asked", sender=ROMEO)
        alice.send("approve", to=ROMEO)
        far.expect(event="presence", sender=ALICE, state="available")
        alice.send("subscribe", to=ROMEO)
        alice.expect(event="presence", sender=ROMEO, kind="available")
        node = self.stage.node
        assert node.part is not None
        node.part.kill()
        node.part.process.wait()
        since = far.position
        alice.send("presence", show="dnd")
        node.start()
        far.expect(since, 30, event="presence", sender=ALICE, state="busy")
        since = alice.position
        self.cast.far_does("presence", 200, **{"from": "romeo", "state": "away"})
        alice.expect(since, 30, event="presence", sender=ROMEO, show="away")
        since = far.position
        self.cast.far_does("refresh", 200, **{"from": "romeo", "to": ALICE})
        far.expect(since, event="presence", sender=ALICE, subscription="active", state="busy")
        self.assertEqual(far.seen(event="violation"), [])
