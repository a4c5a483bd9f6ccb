"""The demo is a test as well: each of its steps must be seen at the far end."""

from __future__ import annotations

import ast
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import ROOT


class Demo(SynchronousTestCase):
    """``make demo CHECK=1`` for both kinds of home link."""

    def play(self, home: str) -> None:
        """Play the story; the last lines of the output say what failed."""
        done = subprocess.run(
            [sys.executable, "-m", "demo.run", "--check", "--home", home, "--accept-delay", "1"],
            cwd=ROOT, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])

    def test_with_the_prosody_module(self) -> None:
        """The whole story through one component that carries every foreign domain."""
        self.play("prosody")

    def test_with_a_plain_component(self) -> None:
        """The whole story through a component for the foreign domain."""
        self.play("component")


class Independence(SynchronousTestCase):
    """A mistake in our understanding of SIP or XMPP must not hide in shared code."""

    def test_peers_share_no_code_with_the_node(self) -> None:
        """Nothing that plays a peer in demo, tests or benchmarks imports impfed."""
        files = [*(ROOT / "demo").rglob("*.py"), ROOT / "bench" / "xmppload.py"]
        files += [ROOT / "tests" / "interop" / f"{name}.py" for name in ("sipp", "haproxy", "menu")]
        for file in files:
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in getattr(node, "names", ())]
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                elif not isinstance(node, ast.Import):
                    continue
                for name in names:
                    self.assertNotEqual(name.partition(".")[0], "impfed", file)
