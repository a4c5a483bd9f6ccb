"""The page of outcomes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "s2s-outcomes"


class PageTests(SynchronousTestCase):
    """docs/s2s-outcomes.md."""

    def test_fresh(self) -> None:
        """It is what scripts/s2s-outcomes writes from the function and the tests' selection."""
        done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
