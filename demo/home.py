"""Home servers, of which Prosody is one, and the users who log in to them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .parts import ROOT, Event, Part, Talker, free_ports


class HomeServer(Protocol):
    """What the demo needs of a home server.

    :ivar components: foreign domains that are components of their own.
    :ivar module: address of the one component that carries all foreign domains; "" where each
        domain is a component of its own.
    :ivar knows_users: whether it tells the node who exists.
    """

    domain: str
    users: dict[str, str]
    secret: str
    components: tuple[str, ...]
    module: str
    c2s_port: int
    component_port: int

    @property
    def knows_users(self) -> bool: ...

    def start(self) -> HomeServer: ...

    def stop(self) -> None: ...


@dataclass
class Prosody:
    """A Prosody home server on loopback.

    :ivar netns: the network namespace that it runs in; "" for this one.
    :ivar interfaces: the addresses at which it listens, for clients, components and servers.
    :ivar components: foreign domains as XEP-0114 components of their own (a plain home link).
    :ivar module: the component's address when ``mod_impfed`` carries all foreign domains.
    """

    directory: Path
    domain: str = "home.example"
    users: dict[str, str] = field(default_factory=lambda: {"alice": "wonder", "carol": "singing"})
    secret: str = "between us"
    components: tuple[str, ...] = ()
    module: str = ""
    extra: str = ""
    prefix: tuple[str, ...] = ()
    c2s_port: int = 0
    component_port: int = 0
    netns: str = ""
    interfaces: tuple[str, ...] = ("127.0.0.1",)
    part: Part | None = None

    @property
    def knows_users(self) -> bool:
        """Whether it says who exists: the module does."""
        return bool(self.module)

    def start(self) -> Prosody:
        """Write the configuration and the users, start, wait until it listens."""
        (self.directory / "certs").mkdir(parents=True, exist_ok=True)
        if not self.c2s_port:
            self.c2s_port, self.component_port = free_ports(2)
        for name, password in self.users.items():
            folder = self.directory / "data" / self.domain.replace(".", "%2e") / "accounts"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.dat").write_text(f'return {{ ["password"] = "{password}"; }};\n')
        configuration = self.directory / "prosody.cfg.lua"
        configuration.write_text(self._configuration())
        command: list[str | Path] = [*self.prefix, "prosody", "-F", "--config", configuration]
        self.part = Part("prosody", command, self.directory, netns=self.netns)
        self.part.await_port(self.c2s_port)
        self.part.await_port(self.component_port)
        return self

    def stop(self) -> None:
        """Stop it."""
        if self.part is not None:
            self.part.stop()

    def _configuration(self) -> str:
        component = ""
        modules = ["roster", "saslauth", "disco", "ping", "offline", "carbons", "presence",
                   "message", "iq", "c2s"]  # fmt: skip
        host_modules = ""
        if self.module:
            component = f'Component "{self.module}"\n  component_secret = "{self.secret}"\n'
            component += '  modules_enabled = { "impfed" }\n  validate_from_addresses = false\n'
        for domain in self.components:
            component += f'Component "{domain}"\n  component_secret = "{self.secret}"\n'
        enabled = ", ".join(f'"{name}"' for name in modules)
        interfaces = ", ".join(f'"{address}"' for address in self.interfaces)
        base = self.directory
        return f"""\
run_as_root = true
daemonize = false
pidfile = "{base}/prosody.pid"
data_path = "{base}/data"
certificates = "{base}/certs"
plugin_paths = {{ "{ROOT}/etc/prosody" }}
interfaces = {{ {interfaces} }}
local_interfaces = {{ {interfaces} }}
c2s_ports = {{ {self.c2s_port} }}
c2s_direct_tls_ports = {{ }}
s2s_ports = {{ }}
s2s_direct_tls_ports = {{ }}
component_ports = {{ {self.component_port} }}
component_interfaces = {{ {interfaces} }}
http_ports = {{ }}
https_ports = {{ }}
network_settings = {{ nagle = false }}
log = {{ info = "{base}/prosody.info.log" }}
authentication = "internal_plain"
storage = "internal"
modules_enabled = {{ {enabled} }}
modules_disabled = {{ "s2s", "tls", "http" }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
component_conflict_resolve = "kick_old"
{self.extra}
VirtualHost "{self.domain}"
{host_modules}
{component}"""


def xmpp_user(
    directory: Path,
    home: HomeServer,
    name: str,
    listener: Callable[[str, Event], None] | None = None,
    netns: str = "",
) -> Talker:
    """Log a user in with an independent XMPP client; returns when the home server knows it."""
    user = Talker(
        name,
        [
            sys.executable, "-m", "demo.xmppuser", f"{name}@{home.domain}",
            home.users[name], f"127.0.0.1:{home.c2s_port}",
        ],
        directory,
        listener,
        netns,
    )  # fmt: skip
    return user.begun("online")
