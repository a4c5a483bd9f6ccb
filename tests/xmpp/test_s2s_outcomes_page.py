"""The page of outcomes, and the record that it is made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from impfed.xmpp.s2s_security import Direction, outcome
from tests.interop.s2s_matrix import (
    OUR_SETTINGS,
    PEER_SETTINGS,
    SERVERS,
    agrees,
    read_record,
    selection,
)

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "s2s-outcomes"


class PageTests(SynchronousTestCase):
    """docs/s2s-outcomes.md."""

    def test_fresh(self) -> None:
        """It is what scripts/s2s-outcomes writes from the function and the record."""
        done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class RecordTests(SynchronousTestCase):
    """What was seen with real servers when every combination was last played."""

    def test_whole(self) -> None:
        """Every combination of settings and certificates is there, for both servers and directions."""
        wanted = {
            (server, case, direction)
            for server, peers in SERVERS.items()
            for case in selection(peers, soak=True)
            for direction in Direction
        }
        self.assertEqual(set(read_record()), wanted)

    def test_as_foretold(self) -> None:
        """It is what the program foretells, and where nothing passed somebody was told why."""
        for (server, case, direction), seen in read_record().items():
            foretold = outcome(
                OUR_SETTINGS[case.ours], PEER_SETTINGS[case.theirs], *case[2:], direction
            )
            self.assertTrue(agrees(foretold, direction, seen), (server, case, direction, seen))
            self.assertTrue(seen.how or seen.words, (server, case, direction))
