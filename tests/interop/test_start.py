"""A node that cannot start says why in one line and ends with an exit code that says so too."""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.sample import ROOT, sample_configuration


class StartTests(SynchronousTestCase):
    """What an operator reads when a start fails."""

    def setUp(self) -> None:
        self.directory = ROOT / "run" / "start" / self.id().rpartition(".")[2]
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.configuration = sample_configuration(self.directory)

    def start(self) -> str:
        """Start the node, which must fail; return what it said."""
        twistd = Path(sys.executable).with_name("twistd")
        done = subprocess.run(
            [twistd, "-n", "--pidfile=", "impfed", "--config", self.configuration],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, 1, said)
        self.assertNotIn("Traceback", said)
        return said

    def test_port_taken(self) -> None:
        """A port that another program has is named."""
        match = re.search(r"127.0.0.1:(\d+)", self.configuration.read_text())
        assert match is not None
        with socket.socket() as other:
            other.bind(("127.0.0.1", int(match[1])))
            other.listen()
            self.assertIn(match[1], self.start())

    def test_configuration_problems(self) -> None:
        """Every problem of the configuration is listed, and nothing is started."""
        text = self.configuration.read_text()
        text = text.replace('kind = "microsoft"', 'kind = "microsft"').replace("2h", "two hours")
        self.configuration.write_text(text)
        said = self.start()
        self.assertIn('did you mean "microsoft"', said)
        self.assertIn("two hours", said)

    def test_newer_store(self) -> None:
        """A store that a newer release has written is left alone."""
        store = self.directory / "state" / "impfed.sqlite"
        connection = sqlite3.connect(store)
        connection.execute("PRAGMA user_version = 999")
        connection.execute("CREATE TABLE anything (x)")
        connection.commit()
        connection.close()
        before = store.read_bytes()
        self.assertIn("impfed.sqlite", self.start())
        self.assertEqual(store.read_bytes(), before)
