"""A network of the test's own: every port is free in it, and port 53 can be a DNS of the test's.

The thread that runs the reactor goes into a new network namespace and comes back. Children started
meanwhile live in it, and it is gone with the last of them: nothing has a name, nothing to clean up.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what} (needs CAP_SYS_ADMIN): {os.strerror(number)}")


class Network:
    """A network namespace with a loopback interface, for the calling thread."""

    def __init__(self) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.unshare(_NEW_NETWORK), "no network namespace")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def leave(self) -> None:
        """Bring the thread back to where it was."""
        _check(_libc.setns(self._home, _NEW_NETWORK), "no way back")
        os.close(self._home)


class KeptNetwork(Network):
    """A network that lasts, and that the thread is in only where it says so."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(self._home, _NEW_NETWORK), "no way back")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it meanwhile."""
        _check(_libc.setns(self._inside, _NEW_NETWORK), "no way in")
        try:
            yield
        finally:
            _check(_libc.setns(self._home, _NEW_NETWORK), "no way back")


def mortal(command: list[str]) -> list[str]:
    """Return a command that runs another one, which is killed when the calling thread ends."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


def with_resolver(directory: Path, command: list[str]) -> list[str]:
    """Return a command that runs another one, which finds 127.0.0.1 as its only name server.

    :param directory: where the resolver file is written.
    """
    file = directory / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(file), *command]
