"""The parts that play: processes with their logs, and the free ports and the patience that they need.

Everything here is plain threads and blocking calls, and nothing of it imports ``impfed``: the
demo, the tests against real servers and the benchmarks all start their peers with it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Event = dict[str, Any]

#: Seconds that a part may take for anything, on a machine that does much else. Only what fails waits
#: so long.
PATIENCE = 60.0


class PartFailed(Exception):
    """A part did not start, or ended when it should not; the text has the tail of its log."""


#: Sockets that hold the claims of this process on ports, for as long as it lives.
_CLAIMS: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Return so many ports of the loopback address, free of TCP and UDP now, that nobody else is given.

    They lie below the range that the system gives to outgoing connections, so that none of those
    takes one in the moment before it is used. A port once given is claimed until this process ends,
    by an abstract socket of its name, so that neither a later call nor another process gets it
    while the server that it is for has yet to start.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(12000, 32000)
        if _claim(port) and _bindable(port):
            ports.append(port)
    return ports


def _claim(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0impfed-test-port-{port}")
    except OSError:
        claim.close()
        return False
    _CLAIMS.append(claim)
    return True


def _bindable(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def wait_until(true: Callable[[], bool], seconds: float = PATIENCE, step: float = 0.05) -> bool:
    """Poll until a condition holds; False when it did not in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def listening_beside(pid: int, port: int) -> bool:
    """Return whether somebody listens on a TCP port, at any address, in a process's network."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:  # it has just ended
            return False
        for words in map(str.split, lines):
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                return True
    return False


def inside(netns: str) -> tuple[str, ...]:
    """Return the words before a command that has to run in a network namespace; "" is this one."""
    return ("ip", "netns", "exec", netns) if netns else ()


class Part:
    """A process with a log file.

    :param netns: name of the network namespace that it runs in; "" for this one.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        environment: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        netns: str = "",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name, self.netns = name, netns
        self.log = directory / f"{name}.log"
        self.command = [*inside(netns), *(str(word) for word in command)]
        with self.log.open("ab") as log:
            self._begin = log.tell()
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"    {self.name}: {line}" for line in text[-lines:])

    def await_port(self, port: int, seconds: float = PATIENCE) -> None:
        """Wait until the process listens; ends it and raises PartFailed when it does not."""

        def up() -> bool:
            if not self.netns:
                return listening(port)
            mine, its = (os.readlink(f"/proc/{who}/ns/net") for who in ("self", self.pid))
            return mine != its and listening_beside(self.pid, port)

        ready = wait_until(lambda: not self.alive or up(), seconds)
        if not ready or not self.alive:
            self.stop()
            raise PartFailed(f"{self.name} does not listen on port {port}\n{self.tail()}")

    def await_logged(self, words: str, seconds: float = PATIENCE) -> None:
        """Wait until the process has logged something; ends it and raises PartFailed when it does not."""

        def logged() -> bool:
            return words.encode() in self.log.read_bytes()[self._begin :]

        wait_until(lambda: not self.alive or logged(), seconds)
        if not self.alive or not logged():
            self.stop()
            raise PartFailed(f"{self.name} did not start\n{self.tail()}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """End the process, with force if it does not go; returns its exit code."""
        if self.alive:
            self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Talker(Part):
    """A process that takes commands on its standard input and tells events on its output.

    ``listener`` is called, in a thread of this object, with each event.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        listener: Callable[[str, Event], None] | None = None,
        netns: str = "",
    ) -> None:
        pipe = subprocess.PIPE
        super().__init__(name, command, directory, stdin=pipe, stdout=pipe, netns=netns)
        self.events: list[Event] = []
        self._listener = listener
        self._changed = threading.Condition()
        self._commands = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "error", "text": line.decode(errors="replace").rstrip()}
            if self._listener is not None:
                self._listener(self.name, event)
            with self._changed:
                self.events.append(event)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def say(self, line: str) -> None:
        """Write one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def send(self, do: str, **details: Any) -> str:
        """Send a command; returns the id that its ``done`` event will carry."""
        self._commands += 1
        number = str(self._commands)
        self.say(json.dumps({"do": do, "id": number, **details}))
        return number

    def seen(self, since: int = 0, **wanted: Any) -> list[Event]:
        """Return the events with these values, from the given position on."""
        with self._changed:
            events = self.events[since:]
        return [event for event in events if matches(event, wanted)]

    @property
    def position(self) -> int:
        """How many events there were until now."""
        return len(self.events)

    def begun(self, event: str) -> Talker:
        """Return this, once it has told such an event; stops it and raises PartFailed if it does not."""
        try:
            self.expect(event=event)
        except PartFailed:
            self.stop()
            raise
        return self

    def expect(self, since: int = 0, seconds: float = PATIENCE, **wanted: Any) -> Event:
        """Return the first event with these values, waiting for it; raises PartFailed.

        A value may be a function, which then decides.
        """
        end = time.monotonic() + seconds
        with self._changed:
            position = since
            while True:
                while position < len(self.events):
                    event = self.events[position]
                    position += 1
                    if matches(event, wanted):
                        return event
                left = end - time.monotonic()
                if left <= 0 or (not self.alive and position >= len(self.events)):
                    raise PartFailed(f"{self.name} did not see {wanted} within {seconds:.0f} s")
                self._changed.wait(min(left, 0.5))

    def stop(self) -> int:
        """Ask the process to end, then end it."""
        if self.alive and self.process.stdin is not None:
            try:
                self.say("quit")
                self.process.stdin.close()
                return self.process.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                pass  # it did not listen; the signal below it will
        return super().stop()


def matches(event: Event, wanted: dict[str, Any]) -> bool:
    """Return whether an event has all the values; a function as a value decides itself."""
    for name, value in wanted.items():
        got = event.get(name)
        if not (value(got) if callable(value) else got == value):
            return False
    return True
