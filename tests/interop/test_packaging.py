"""The package works after a normal and after an editable install, with the shipped sample configuration."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.sample import sample_configuration

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("impfed", "twisted", "etc", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
TWISTD = "from twisted.scripts.twistd import run; run()"


class PackagingTests(SynchronousTestCase):
    """A copy of the sources is installed into an empty environment of its own."""

    def setUp(self) -> None:
        self.directory = ROOT / "run" / "packaging" / self.id().rpartition(".")[2]
        shutil.rmtree(self.directory, ignore_errors=True)
        self.source = self.directory / "source"
        self.source.mkdir(parents=True)
        for name in SOURCES:
            path = ROOT / name
            if path.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "dropin.cache")
                shutil.copytree(path, self.source / name, ignore=ignore)
            else:
                shutil.copy(path, self.source / name)
        # The libraries come from this environment, without its own editable install: that hook
        # works only in the site-packages that it stands in.
        libraries = sysconfig.get_paths()["purelib"]
        self.environment = {**os.environ, "PYTHONPATH": libraries, "PYTHONDONTWRITEBYTECODE": "1"}
        self.python = self.directory / "environment" / "bin" / "python"
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", self.python.parent.parent], check=True
        )

    def install(self, *options: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        command += ["--no-deps", "--no-build-isolation", *options, str(self.source)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def runs(self) -> None:
        """The node starts under twistd, says so, answers impfedctl, and stops when told."""
        configuration = sample_configuration(self.directory)
        node = subprocess.Popen(
            [self.python, "-c", TWISTD, "-n", "--pidfile=", "impfed", "--config", configuration],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = []
        try:
            assert node.stdout is not None
            for line in node.stdout:
                lines.append(line)
                if "impfed.service.started" in line:
                    break
            else:
                self.fail("the node ended:\n" + "".join(lines))
            control = self.python.with_name("impfedctl")
            shown = subprocess.run(
                [control, "--socket", self.directory / "control.sock", "status"],
                cwd=self.directory, env=self.environment, capture_output=True, text=True,
            )  # fmt: skip
            self.assertEqual(shown.returncode, 0, shown.stderr)
            self.assertIn("node1", shown.stdout)
        finally:
            node.send_signal(signal.SIGTERM)
            rest, _ = node.communicate(timeout=120)
        # twistd stops in order and then ends by the signal that it was sent.
        self.assertEqual(node.returncode, -signal.SIGTERM, rest)
        self.assertIn("impfed.service.stopped", rest)

    def test_normal_install(self) -> None:
        """pip install: twistd knows the command, and the kinds' data files are there."""
        self.install()
        self.runs()

    def test_editable_install(self) -> None:
        """pip install -e: the same, from the sources."""
        self.install("-e")
        self.runs()
