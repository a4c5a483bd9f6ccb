"""The node under show: its configuration file and its process."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from .certificates import Certificate
from .home import HomeServer
from .parts import Part, PartFailed, wait_until

TWISTD: tuple[str | Path, ...] = (Path(sys.executable).with_name("twistd"),)

#: What the log says when the node is ready.
UP = (b"impfed.service.started", b"impfed.home.link_up")


@dataclass
class Node:
    """One impfed node, started as an operator would: ``twistd -n impfed --config FILE``.

    :ivar peer: host and port of the far side.
    :ivar upstreams: certificate names of who stands before the node.
    :ivar advertised: port that partners are told, where it is not ``port``.
    :ivar listener: more lines for the listener's section.
    :ivar prefix: words before the command, such as a taskset.
    :ivar peer_name: name that the peer's certificate carries; "sip." and its domain when empty.
    :ivar netns: the network namespace that it runs in; "" for this one.
    :ivar called: its ``[node] name``.
    :ivar node: more lines for the section ``[node]``.
    :ivar up: what its log says when it is ready.
    """

    directory: Path
    home: HomeServer
    certificate: Certificate
    port: int
    peer: tuple[str, int]
    foreign: str = "lync.example"
    kind: str = "microsoft"
    name: str = "fed.home.example"
    transport: str = "tls"
    extra: str = ""
    upstreams: tuple[str, ...] = ()
    advertised: int = 0
    listener: str = ""
    prefix: tuple[str, ...] = ()
    peer_name: str = ""
    netns: str = ""
    called: str = "demo"
    node: str = ""
    up: tuple[bytes, ...] = UP
    part: Part | None = field(default=None)

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.directory / "control.sock"

    @property
    def configuration(self) -> Path:
        """The configuration file."""
        return self.directory / "impfed.toml"

    def write(self) -> None:
        """Write the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        home = self.home
        link = "prosody" if home.module else "component"
        users = self.directory / "users"
        users.write_text("".join(f"{name}@{home.domain}\n" for name in home.users))
        link_lines = f'address = "{home.module}"\n' if home.module else ""
        link_lines += "" if home.knows_users else f'users = "{users}"\n'
        peer_name = self.peer_name or f"sip.{self.foreign}"
        tls_name = f'tls_name = "{peer_name}"' if self.transport == "tls" else ""
        advertised = self.name if self.transport == "tls" else "127.0.0.1"
        self.configuration.write_text(f"""\
[node]
name = "{self.called}"
state_directory = "{self.directory}/state"
control_socket = "{self.socket}"
trusted_upstreams = {list(self.upstreams)}
{self.node}

[tls]
ca = "{self.certificate.ca}"

[[tls.certificate]]
name = "federation"
certificate = "{self.certificate.certificate}"
key = "{self.certificate.key}"

[[listener]]
name = "edge"
transport = "{self.transport}"
bind = "127.0.0.1:{self.port}"
advertised = "{advertised}:{self.advertised or self.port}"
{self.listener}

[[domain]]
name = "{self.foreign}"
kind = "{self.kind}"
description = "the far side of the demo"
listed = true  # it bears any load, which the benchmarks need

[domain.next_hop]
address = "{self.peer[0]}:{self.peer[1]}"
transport = "{self.transport}"
{tls_name}

[[home]]
name = "home"
kind = "{link}"
domains = ["{home.domain}"]
connect = "127.0.0.1:{home.component_port}"
secret = "{home.secret}"
{link_lines}

{self.extra}
""")

    def start(self) -> Node:
        """Start the node and wait until it listens and its home link is up."""
        if not self.configuration.exists():
            self.write()
        (self.directory / "state").mkdir(exist_ok=True)
        command: list[str | Path] = [*self.prefix, *TWISTD, "-n", "--pidfile=", "impfed"]
        command += ["--config", self.configuration]
        log = self.directory / "node.log"
        before = log.stat().st_size if log.exists() else 0
        part = self.part = Part("node", command, self.directory, netns=self.netns)

        def up() -> bool:
            said = log.read_bytes()[before:]
            return not part.alive or all(word in said for word in self.up)

        if not wait_until(up) or not part.alive:
            part.stop()
            raise PartFailed(f"the node did not start\n{part.tail()}")
        return self

    def stop(self) -> None:
        """Stop the node."""
        if self.part is not None:
            self.part.stop()
