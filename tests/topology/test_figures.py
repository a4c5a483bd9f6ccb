"""The figures of the topologies are drawn from the description that the tests build networks of."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import ROOT
from tests.topology.plan import document


class FigureTests(SynchronousTestCase):
    """docs/figures is generated and committed."""

    def test_fresh(self) -> None:
        """The committed figures are what the script would draw now."""
        command = [sys.executable, str(ROOT / "scripts" / "draw-topologies"), "--check"]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_shown(self) -> None:
        """Each figure stands in the documentation."""
        page = (ROOT / "docs" / "topologies.md").read_text()
        for name in document()["topology"]:
            self.assertIn(f"(figures/{name}.svg)", page)
