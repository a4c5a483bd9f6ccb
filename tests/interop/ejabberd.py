"""A real ejabberd on free loopback ports, with a port mapper of its own."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.config.model import HomeConfig
from tests.interop.servers import ROOT, Child, free_ports

SAMPLE = ROOT / "etc" / "ejabberd"

CONFIG = """\
hosts: [{domain}]
loglevel: {level}
include_config_file: ["{base}/impfed.yml"]
listen:
  - port: {c2s}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    starttls_required: false
    access: c2s
auth_method: internal
auth_password_format: plain
access_rules:
  c2s: {{allow: all}}
modules:
  mod_roster: {{}}
  mod_disco: {{}}
  mod_offline: {{}}
  mod_ping: {{}}
{modules}
"""

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
        level: str = "info",
    ) -> None:
        self.base = base
        self.domain = domain
        self.users = users
        self.password = password
        self.secret = secret
        self.c2s_port, self.component_port, self.mapper_port = free_ports(3)
        self.server = Child()
        self._mapper = Child()
        self._cookie = secrets.token_hex(8)
        self._folders = [next(Path("/usr/lib").glob("*/ejabberd-*/ebin"))]
        base.mkdir(parents=True)
        text = (SAMPLE / "impfed.yml").read_text()
        domains = ", ".join(foreign)
        hosts = "\n      ".join(f'{name}: {{password: "{secret}"}}' for name in foreign)
        text = text.replace("[lync.example]", f"[{domains}]").replace(
            'lync.example: {password: "change me"}', hosts
        )
        text = text.replace("port: 5347", f"port: {self.component_port}")
        if module:
            self._compile()
        else:
            text = text[: text.index("\nmodules:")]
        (base / "impfed.yml").write_text(text)
        (base / "ejabberd.yml").write_text(
            CONFIG.format(
                domain=domain,
                base=base,
                c2s=self.c2s_port,
                level=level,
                modules=PRIVILEGE if privilege else "",
            )
        )

    def _compile(self) -> None:
        """Compile the module with the script that operators use."""
        subprocess.run([SAMPLE / "compile", self.base / "ebin"], check=True, capture_output=True)
        self._folders.append(self.base / "ebin")

    @inlineCallbacks
    def start(self) -> Any:
        """Start it; fires when it takes clients and components."""
        mapper = self._mapper.line(lambda line: "epmd running" in line)
        port = str(self.mapper_port)
        self._mapper.spawn(["/usr/bin/epmd", "-d", "-port", port, "-address", "127.0.0.1"])
        yield mapper
        yield self.boot()

    def boot(self) -> Deferred[Any]:
        """Start ejabberd itself; fires when it takes clients and components."""
        base = self.base
        users = ", ".join(f'<<"{user}">>' for user in self.users)
        register = (
            f'[ejabberd_auth:try_register(User, <<"{self.domain}">>, <<"{self.password}">>)'
            f' || User <- [{users}]], io:format("users are there~n").'
        )
        ready = self.server.line(lambda line: "users are there" in line, timeout=60.0)
        self.server.spawn(
            [
                "/usr/bin/env",
                f"HOME={base}",
                f"ERL_EPMD_PORT={self.mapper_port}",
                "ERL_EPMD_ADDRESS=127.0.0.1",
                f"ERL_CRASH_DUMP={base / 'crash.dump'}",
                "/usr/bin/erl",
                "-noinput",
                *("-sname", f"impfed{self.mapper_port}@localhost"),
                *("-setcookie", self._cookie),
                *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
                *("-mnesia", "dir", f'"{base / "db"}"'),
                *("-ejabberd", "config", f'"{base / "ejabberd.yml"}"'),
                *("-ejabberd", "log_path", f'"{base / "ejabberd.log"}"'),
                "-pa",
                *map(str, self._folders),
                *("-s", "ejabberd"),
                *("-eval", register),
            ],
            path=str(base),
        )
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
