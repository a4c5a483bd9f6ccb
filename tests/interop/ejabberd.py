"""A real ejabberd on free loopback ports, with a port mapper of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from demo.ejabberd import (
    READY,
    compile_module,
    mapper_command,
    server_command,
    write_configuration,
)
from demo.parts import free_ports
from impfed.config.model import HomeConfig
from tests.interop.servers import Child

PRIVILEGE = """\
  mod_privilege:
    roster: {both: impfed}
"""


class Ejabberd:
    """An ejabberd as home server, with one component for each foreign domain.

    :param base: empty folder of its own.
    :param module: whether mod_impfed runs on it.
    :param privilege: whether mod_privilege grants the components everything about rosters.
    :ivar c2s_port: port for clients, without TLS.
    """

    def __init__(
        self,
        base: Path,
        *,
        module: bool = False,
        privilege: bool = False,
        domain: str = "home.example",
        users: Sequence[str] = ("alice", "carol"),
        password: str = "pw",
        foreign: Sequence[str] = ("lync.example",),
        secret: str = "secret",
    ) -> None:
        self.base = base
        self.domain = domain
        self.users = users
        self.password = password
        self.secret = secret
        self.c2s_port, self.component_port, self.mapper_port = free_ports(3)
        self.server = Child()
        self._mapper = Child()
        self._folders: list[Path] = []
        write_configuration(
            base, domain, foreign, secret, (self.c2s_port, self.component_port),
            PRIVILEGE if privilege else "", ours=module,
        )  # fmt: skip
        if module:
            self._folders.append(compile_module(base / "ebin"))

    @inlineCallbacks
    def start(self) -> Any:
        """Start it; fires when it takes clients and components."""
        mapper = self._mapper.line(lambda line: "epmd running" in line)
        self._mapper.spawn(mapper_command(self.mapper_port))
        yield mapper
        yield self.boot()

    def boot(self) -> Deferred[Any]:
        """Start ejabberd itself; fires when it takes clients and components."""
        ready = self.server.line(lambda line: READY in line, timeout=60.0)
        users = dict.fromkeys(self.users, self.password)
        command = server_command(self.base, self.mapper_port, self.domain, users, *self._folders)
        self.server.spawn(command, path=str(self.base))
        return ready

    @inlineCallbacks
    def stop(self) -> Any:
        """Stop both processes."""
        yield self.server.stop()
        yield self._mapper.stop()

    def home(self, **changes: Any) -> HomeConfig:
        """Return what impfed's configuration says of this server."""
        values: dict[str, Any] = {
            "name": "home",
            "kind": "component",
            "domains": (self.domain,),
            "host": "127.0.0.1",
            "port": self.component_port,
            "secret": self.secret,
        }
        return HomeConfig(**{**values, **changes})


def installed() -> bool:
    """Say whether there is an ejabberd to start."""
    return os.path.exists("/usr/sbin/ejabberdctl")
