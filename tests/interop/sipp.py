"""SIPp as a peer: runs a scenario and judges by exit code *and* counts.

Debian's SIPp has no TLS; :mod:`tests.interop.haproxy` puts mutual TLS around it. Its messages
name TLS all the same, for that is what the node sees.
"""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.parts import free_ports, listening, wait_until

SCENARIOS = Path(__file__).with_name("sipp")


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    :ivar code: exit code.
    :ivar successful: calls that went through to the end.
    :ivar failed: calls that did not.
    :ivar log: lines that the scenario wrote down, such as bodies.
    :ivar trouble: SIPp's own words about what went wrong.
    """

    code: int
    successful: int
    failed: int
    log: tuple[str, ...]
    trouble: str

    def logged(self, name: str) -> list[str]:
        """Return what was logged under a name, the first word of its lines."""
        words = [line.partition(" ") for line in self.log]
        return [rest.strip() for first, _, rest in words if first == name]


class Sipp:
    """One run of a scenario in the background.

    :param remote: where a calling scenario sends to; None for an answering one.
    :param here: address that SIPp speaks for.
    :param there: address that it calls.
    :param via: transport named in its headers, whatever carries it.
    :param calls: how many calls to make or to take.
    """

    def __init__(
        self,
        scenario: str,
        directory: Path,
        *,
        here: str,
        there: str = "",
        remote: int | None = None,
        port: int = 0,
        via: str = "TLS",
        mode: str = "t1",
        calls: int = 1,
        keys: Mapping[str, str] | None = None,
        timeout: int = 90,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_ports(1)[0]
        self._calls = calls
        self._base = directory / scenario
        words = {
            "here": here, "here_user": here.partition("@")[0], "there": there, "via": via,
            "lower": via.lower(), **(keys or {}),
        }  # fmt: skip
        command = ["sipp", *([f"127.0.0.1:{remote}"] if remote else [])]
        command += ["-sf", str(SCENARIOS / f"{scenario}.xml"), "-t", mode, "-m", str(calls)]
        command += ["-i", "127.0.0.1", "-p", str(self.port), "-max_socket", "1000", "-nostdin"]
        command += ["-r", "20", "-l", "10", "-timeout", str(timeout), "-timeout_error"]
        for name, ending in (("log", "log"), ("message", "messages"), ("error", "errors")):
            file = self._base.with_suffix(f".{ending}")
            file.unlink(missing_ok=True)
            trace = {"log": "logs", "message": "msg", "error": "err"}[name]
            command += [f"-trace_{trace}", f"-{name}_file", str(file)]
        self._base.with_suffix(".csv").unlink(missing_ok=True)
        command += ["-trace_stat", "-fd", "1", "-stf", str(self._base.with_suffix(".csv"))]
        for key, value in words.items():
            command += ["-key", key, value]
        with self._base.with_suffix(".screen").open("wb") as screen:
            self.process = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen
            )
        if remote is None and mode.startswith("t"):
            wait_until(lambda: self.process.poll() is not None or listening(self.port))

    def finish(self, seconds: float = 120) -> Outcome:
        """Wait for the end of the run and return what came of it."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            code = -1
        successful, failed = self._counts()
        return Outcome(
            code, successful, failed, tuple(self._lines(".log")), "\n".join(self._trouble())
        )

    def lines(self, name: str) -> list[str]:
        """Return what was logged under a name so far, while the scenario goes on."""
        return Outcome(0, 0, 0, tuple(self._lines(".log")), "").logged(name)

    def stop(self) -> None:
        """End the run now."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _counts(self) -> tuple[int, int]:
        file = self._base.with_suffix(".csv")
        if not file.exists():
            return 0, 0
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter=";"))
        if not rows:
            return 0, 0
        return int(rows[-1]["SuccessfulCall(C)"]), int(rows[-1]["FailedCall(C)"])

    def _lines(self, ending: str) -> list[str]:
        file = self._base.with_suffix(ending)
        return file.read_text(errors="replace").splitlines() if file.exists() else []

    def _trouble(self) -> list[str]:
        return [*self._lines(".errors")[:40], *self._lines(".messages")[-120:]]
