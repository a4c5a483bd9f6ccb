"""The ways between the parts of a scene, and how to spoil them: :mod:`tests.interop.fault_relay` in use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from demo.parts import Event, Talker, free_ports


class Links(Talker):
    """A relay in a process of its own.

    :ivar names: of the links that there are, in the order in which they were made.
    """

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "tests.interop.fault_relay"]
        super().__init__("relay", command, directory)
        self.names: list[str] = []

    def tell(self, do: str, **details: Any) -> Event:
        """Have it do something; returns when that is done."""
        since = self.position
        return self.expect(since, event="done", id=self.send(do, **details))

    def lead(self, name: str, target: int) -> int:
        """Make a link to a port; returns the port to connect to."""
        (port,) = free_ports(1)
        self.tell("open", link=name, port=port, target=target)
        self.names.append(name)
        return port

    def spoil(self, *names: str, way: str = "both", **faults: Any) -> None:
        """Have these links fail; faults as in :class:`tests.interop.fault_relay.Faults`."""
        for name in names:
            self.tell("spoil", link=name, way=way, **faults)

    def cut(self, *names: str) -> None:
        """Reset what is connected, and refuse what comes."""
        for name in names:
            self.tell("cut", link=name)

    def mend(self, *names: str) -> None:
        """Nothing is wrong with these any more; with all of them when none is named."""
        for name in names or self.names:
            self.tell("spoil", link=name, way="both")
            self.tell("mend", link=name)
