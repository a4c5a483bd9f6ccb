"""The diagrams in the documentation are those of the tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial import unittest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "draw_tables.py"


class DrawingTests(unittest.SynchronousTestCase):
    """docs/state-machines.md is generated and committed."""

    def test_fresh(self) -> None:
        """The committed file is what the script would write now."""
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr)
