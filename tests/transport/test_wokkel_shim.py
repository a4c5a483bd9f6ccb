"""The shim for wokkel."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial import unittest

MODULES = ["data_form", "disco", "ping", "pubsub", "muc", "generic", "component", "xmppim"]


class ShimTests(unittest.SynchronousTestCase):
    """In a process of its own, for imports are remembered."""

    def run_python(self, code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )

    def test_modules_import(self) -> None:
        """After the shim every wokkel module that the project may use imports."""
        imports = "; ".join(f"import wokkel.{name}" for name in MODULES)
        done = self.run_python(f"import impfed.transport.wokkel_shim; {imports}")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_names_are_the_real_ones(self) -> None:
        """The names put back are constantly's; importing the shim twice changes nothing."""
        done = self.run_python(
            "import impfed.transport.wokkel_shim, importlib, constantly;"
            "importlib.reload(impfed.transport.wokkel_shim);"
            "from twisted.python.constants import NamedConstant;"
            "assert NamedConstant is constantly.NamedConstant"
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
