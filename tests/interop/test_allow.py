"""*Allow without asking*, from a Lync-style far side to a client on a real Prosody with the module."""

from __future__ import annotations

import io
import shutil

from twisted.trial.unittest import SynchronousTestCase

from demo.ladder import Ladder
from demo.parts import ROOT, PartFailed
from demo.run import Stage
from demo.story import ALICE, ROMEO
from impfed.store.records import PolicyEntryRecord, encode
from impfed.store.sqlitefile import SqliteFile


class AllowTests(SynchronousTestCase):
    """Alice's list allows the far side's domain."""

    def test_allow_without_asking(self) -> None:
        """Who is allowed sees presence at once and its changes, and the client is asked nothing."""
        directory = ROOT / "run" / "interop" / "allow"
        shutil.rmtree(directory, ignore_errors=True)
        stage = Stage(directory, Ladder("romeo", io.StringIO()), "prosody", 3.0)
        self.addCleanup(stage.stack.close)
        try:
            cast = stage.start()
        except PartFailed:
            stage.stack.close()
            raise
        stage.node.stop()
        file = SqliteFile(stage.node.directory / "state" / "impfed.sqlite")
        file.open()
        entry = PolicyEntryRecord(ALICE, ROMEO.partition("@")[2], "allow")
        self.assertEqual(file.commit([([(entry.kind, entry.key, encode(entry))], [])]), [None])
        file.close()
        stage.node.start()
        far, alice = cast.far, cast.alice
        cast.far_does("subscribe", 200, **{"from": "romeo", "to": ALICE})
        far.expect(event="presence", sender=ALICE, subscription="active", state="available")
        alice.send("presence", show="away")
        far.expect(event="presence", sender=ALICE, state="away")
        self.assertEqual(alice.seen(event="asked"), [])
        self.assertEqual(far.seen(event="violation"), [])
