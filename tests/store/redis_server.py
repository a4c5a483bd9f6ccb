"""A real redis-server for tests: on a Unix socket, or on a port where a test needs one."""

from __future__ import annotations

import atexit
import shutil
import signal
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

from demo.parts import Part, PartFailed, wait_until


class RedisServer:
    """One server, with nothing on disk unless told so.

    :param options: further options of its command line.
    :param netns: the network namespace that it runs in; "" for this one.
    """

    def __init__(self, *options: str, netns: str = "") -> None:
        # A Unix socket's path is short, so not under trial's directory.
        self.directory = Path(tempfile.mkdtemp(prefix="impfed-redis-"))
        self.socket = self.directory / "redis.sock"
        self.options, self.netns = options, netns
        self.part: Part | None = None

    def start(self, *more: str) -> RedisServer:
        """Start it and wait until it answers."""
        command = [
            "redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "",
            "--dir", self.directory, "--enable-debug-command", "yes", *self.options, *more,
        ]  # fmt: skip
        self.part = Part("redis", command, self.directory, netns=self.netns)
        if not wait_until(lambda: not self.alive or self.command("PING") == "+PONG"):
            raise PartFailed(f"redis does not answer\n{self.part.tail()}")
        if not self.alive:
            raise PartFailed(f"redis has ended\n{self.part.tail()}")
        return self

    @property
    def alive(self) -> bool:
        return self.part is not None and self.part.alive

    def command(self, *words: str) -> str:
        """Return the first line of the answer to a command, "" when there is none."""
        return self.answer(*words).split("\r\n")[0]

    def answer(self, *words: str) -> str:
        """Return the answer to a command, as it comes, "" when there is none."""
        return self.ask(str(self.socket), *words)

    def lines(self, *words: str) -> list[str]:
        """Return what is in the answer to a command that is answered with a list of texts."""
        return [line for line in self.answer(*words).split("\r\n")[1:] if line[:1] not in ("$", "")]

    @staticmethod
    def ask(place: str | tuple[str, int], *words: str) -> str:
        """Ask the server at a path or port."""
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
        try:
            with socket.socket(family) as connection:
                connection.settimeout(5)
                connection.connect(place)
                connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
                with connection.makefile("rb") as stream:
                    return whole(stream).decode()
        except OSError:
            return ""

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL wait until the process is gone."""
        assert self.part is not None
        self.part.kill(number)
        if number == signal.SIGKILL:
            self.part.process.wait(10)

    def stop(self) -> None:
        """End it and remove what it left."""
        if self.alive:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def whole(stream: IO[bytes]) -> bytes:
    """Read one answer, with all that is in it."""
    line = stream.readline()
    if line[:1] == b"$" and line != b"$-1\r\n":
        return line + stream.read(int(line[1:]) + 2)
    if line[:1] == b"*" and line != b"*-1\r\n":
        return line + b"".join([whole(stream) for _ in range(int(line[1:]))])
    return line


@cache
def common_server() -> RedisServer:
    """Return the server of this process, for tests that leave it as it is."""
    server = RedisServer().start()
    atexit.register(server.stop)
    return server
