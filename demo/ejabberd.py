"""An ejabberd home server, beside :class:`demo.home.Prosody` and of the same shape.

Nothing of it is the system's: configuration, database, logs and port mapper are its own.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .parts import ROOT, Part, PartFailed, free_ports

SAMPLE = ROOT / "etc" / "ejabberd"
#: What ejabberd's output says when it takes clients and components, and its users are there.
READY = "users are there"

_CONFIGURATION = """\
hosts: [{domain}]
loglevel: info
include_config_file: ["{base}/impfed.yml"]
listen:
  - port: {port}
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


def write_configuration(
    base: Path,
    domain: str,
    foreign: Iterable[str],
    secret: str,
    ports: tuple[int, int],
    modules: str = "",
    *,
    ours: bool = True,
) -> None:
    """Write ``ejabberd.yml``, and the shipped sample with this run's names beside it.

    :param ports: for clients, for components.
    :param modules: more lines of the section ``modules``.
    :param ours: whether mod_impfed runs.
    """
    base.mkdir(parents=True, exist_ok=True)
    text = (SAMPLE / "impfed.yml").read_text()
    hosts = "\n      ".join(f'{name}: {{password: "{secret}"}}' for name in foreign)
    for here, there in (
        ("[lync.example]", f"[{', '.join(foreign)}]"),
        ('lync.example: {password: "change me"}', hosts),
        ("port: 5347", f"port: {ports[1]}"),
    ):
        if here not in text:
            raise PartFailed(f"the sample does not say {here} any more")
        text = text.replace(here, there)
    if not ours:
        text = text[: text.index("\nmodules:")]
    (base / "impfed.yml").write_text(text)
    (base / "ejabberd.yml").write_text(
        _CONFIGURATION.format(domain=domain, base=base, port=ports[0], modules=modules)
    )


def compile_module(target: Path) -> Path:
    """Compile mod_impfed into a folder, with the script that operators use; return the folder."""
    done = subprocess.run([SAMPLE / "compile", target], capture_output=True, text=True)
    if done.returncode:
        raise PartFailed(f"mod_impfed does not compile: {done.stdout}{done.stderr}")
    return target


def mapper_command(port: int) -> list[str]:
    """Return the command of a port mapper of one's own, which stays in the foreground."""
    return ["/usr/bin/epmd", "-d", "-port", str(port), "-address", "127.0.0.1"]


def server_command(
    base: Path, mapper: int, domain: str, users: dict[str, str], *folders: Path
) -> list[str]:
    """Return the command that starts ejabberd in the foreground, says READY, and stays.

    :param mapper: port of the port mapper.
    :param users: names with passwords.
    :param folders: compiled modules.
    """
    accounts = ", ".join(f'{{<<"{name}">>, <<"{word}">>}}' for name, word in users.items())
    register = (
        f'[ejabberd_auth:try_register(User, <<"{domain}">>, Password)'
        f' || {{User, Password}} <- [{accounts}]], io:format("{READY}~n").'
    )
    own = next(Path("/usr/lib").glob("*/ejabberd-*/ebin"))
    return [
        "/usr/bin/env",
        f"HOME={base}",
        f"ERL_EPMD_PORT={mapper}",
        "ERL_EPMD_ADDRESS=127.0.0.1",
        f"ERL_CRASH_DUMP={base / 'crash.dump'}",
        "/usr/bin/erl",
        "-noinput",
        *("-start_epmd", "false"),  # the mapper above or none: nothing must outlive a test
        *("-sname", f"impfed{mapper}@localhost"),
        *("-setcookie", secrets.token_hex(8)),
        *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
        *("-mnesia", "dir", f'"{base / "db"}"'),
        *("-ejabberd", "config", f'"{base / "ejabberd.yml"}"'),
        *("-ejabberd", "log_path", f'"{base / "ejabberd.log"}"'),
        "-pa",
        *map(str, (own, *folders)),
        *("-s", "ejabberd"),
        *("-eval", register),
    ]


@dataclass
class Ejabberd:
    """An ejabberd on loopback, with a component for each foreign domain.

    :ivar ours: whether mod_impfed runs on it.
    :ivar prefix: words before the command that starts it.
    :ivar module: the one component that carries everything: ejabberd has none.
    """

    directory: Path
    domain: str = "home.example"
    users: dict[str, str] = field(default_factory=lambda: {"alice": "wonder", "carol": "singing"})
    secret: str = "between us"
    components: tuple[str, ...] = ("lync.example",)
    ours: bool = True
    module: str = ""
    prefix: tuple[str, ...] = ()
    c2s_port: int = 0
    component_port: int = 0
    part: Part | None = None
    mapper: Part | None = None
    _mapper_port: int = 0

    @property
    def knows_users(self) -> bool:
        """Whether it says who exists."""
        return self.ours

    def start(self) -> Ejabberd:
        """Write the configuration, start, wait until it takes clients and components."""
        base = self.directory.absolute()
        if not self.c2s_port:
            self.c2s_port, self.component_port, self._mapper_port = free_ports(3)
        ports = (self.c2s_port, self.component_port)
        write_configuration(base, self.domain, self.components, self.secret, ports, ours=self.ours)
        folders = [compile_module(base / "ebin")] if self.ours else []
        try:
            self.mapper = Part("epmd", mapper_command(self._mapper_port), base)
            self.mapper.await_port(self._mapper_port)
            command = server_command(base, self._mapper_port, self.domain, self.users, *folders)
            self.part = Part("ejabberd.out", [*self.prefix, *command], base)
            self.part.await_logged(READY)
            self.part.await_port(self.c2s_port)
            self.part.await_port(self.component_port)
        except PartFailed:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it, and then its port mapper."""
        for part in (self.part, self.mapper):
            if part is not None:
                part.stop()
