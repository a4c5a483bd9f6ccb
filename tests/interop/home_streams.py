"""A home server linked by S2S, in a network of the test's own with a resolver file and a dnsmasq.

As in docs/home-servers.md: to the home server every name is the node's inner address.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from demo.certificates import Authority, Certificate
from demo.home import Prosody
from demo.ladder import Ladder
from demo.node import Node
from demo.parts import Part, PartFailed, Talker, free_ports
from demo.run import Stage
from demo.story import Cast
from tests.interop.foreign import Enterprise
from tests.interop.namespace import KeptNetwork, with_resolver
from tests.interop.scene import HOME, RUN

VERONA = "verona.example"
ADDRESS = f"federation.{HOME}"
ROOMS = f"conference.{HOME}"
#: Where the node waits for its home server.
INNER = "127.0.0.2"
#: Where S2S goes without SRV records.
S2S_PORT = 5269
PEOPLE = dict.fromkeys(("juliet", "nurse", "paris", "lady"), "a plague")
FOREIGNERS = dict.fromkeys(("romeo", "tybalt", "benvolio"), "on both")


def dnsmasq(directory: Path) -> Part:
    """Start a name server at 127.0.0.1 for which every name is the node."""
    directory.mkdir(parents=True, exist_ok=True)
    words = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
    ]
    words += ["--user=root", "--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file="]
    part = Part("dnsmasq", [*words, f"--address=/#/{INNER}"], directory)
    part.await_port(53)
    return part


@dataclass
class StreamProsody(Prosody):
    """A Prosody that federates only with the node.

    :ivar certificate: its certificate; None for none, and so no TLS.
    """

    certificate: Certificate | None = None

    def start(self) -> StreamProsody:
        """Start it, with a resolver file of its own."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.c2s_port:
            (self.c2s_port,) = free_ports(1)
            self.component_port = S2S_PORT
        self.prefix = tuple(with_resolver(self.directory, []))
        super().start()
        return self

    def _configuration(self) -> str:
        base = self.directory
        text = super()._configuration()
        enabled = '"s2s", "dialback", "s2s_bidi", "smacks", "disco"'
        if self.certificate is not None:
            enabled += ', "tls", "s2s_auth_certs"'
        for here, there in (
            ("s2s_ports = { }", f"s2s_ports = {{ {S2S_PORT} }}"),
            (f"component_ports = {{ {S2S_PORT} }}", "component_ports = { }"),
            ('modules_disabled = { "s2s", "tls", "http" }',
             'modules_disabled = { "s2s_auth_dane_in", "http" }'),
            ("modules_enabled = { ", f"modules_enabled = {{ {enabled}, "),
            (f"log = {{ info = \"{base}/prosody.info.log\" }}",
             f"log = {{ debug = \"{base}/prosody.debug.log\" }}"),
        ):  # fmt: skip
            if here not in text:
                raise PartFailed(f"the configuration does not say {here} any more")
            text = text.replace(here, there, 1)
        tls = ""
        if self.certificate is not None:
            issued = self.certificate
            tls = f'ssl = {{ key = "{issued.key}", certificate = "{issued.certificate}" }}\n'
        return text.replace(f'VirtualHost "{self.domain}"\n', f"""\
s2s_require_encryption = {"true" if tls else "false"}
s2s_secure_auth = false
smacks_s2s_resend = true
unbound = {{ options = {{ ["do-not-query-localhost:"] = "no" }} }}
{tls}VirtualHost "{self.domain}"
""") + f'\nComponent "{ROOMS}" "muc"\n'  # fmt: skip


@dataclass
class StreamNode(Node):
    """A node with such a home server.

    :ivar home_lines: what its section says beside.
    """

    home_lines: str = ""

    def write(self) -> None:
        """Write the configuration."""
        super().write()
        text = self.configuration.read_text()
        start = text.index('kind = "component"')
        lines = f'kind = "s2s"\naddress = "{ADDRESS}"\nbind = "{INNER}:{S2S_PORT}"\n'
        end = start + len('kind = "component"\n')
        text = text[:start] + lines + self.home_lines + text[end:]
        self.configuration.write_text(text.replace(f'["{HOME}"]', f'["{HOME}", "{ROOMS}"]'))


class StreamScene:
    """The stage of the demo with a home server linked by S2S, and an XMPP enterprise beside.

    :param name: of its folder.
    :param home: makes the home server, given its folder and its certificate.
    :param home_lines: what its section in the node's configuration says beside.
    """

    def __init__(self, name: str, home: Any, home_lines: str) -> None:
        directory = RUN / name
        shutil.rmtree(directory, ignore_errors=True)
        self.directory = directory
        self.network = KeptNetwork()
        with self.network.entered():
            self._build(directory, home, home_lines)
        self.talkers: dict[str, Talker] = {}
        self.cast: Cast

    def _build(self, directory: Path, home: Any, home_lines: str) -> None:
        stage = self.stage = Stage(directory, Ladder("romeo", io.StringIO()), "component", 0.0)
        (s2s_port,) = free_ports(1)
        authority = Authority(directory / "verona-pki", "Verona CA")
        self.verona = Enterprise(
            directory / "verona",
            authority,
            VERONA,
            users=FOREIGNERS,
            reach={HOME: s2s_port, ROOMS: s2s_port},
        )
        issued = authority.issue("fed.home.example", HOME, ROOMS)
        ours = Path(stage.node.certificate.ca)
        both = ours.read_text() + authority.path.read_text()
        ours.write_text(both)
        authority.path.write_text(both)
        inside = Authority(directory / "home-pki", "inner CA")
        stage.home = home(directory / "home", inside.issue(HOME, ROOMS))
        stage.home.users |= PEOPLE
        values = {each.name: getattr(stage.node, each.name) for each in fields(Node)}
        values["home"] = stage.home
        values["certificate"] = replace(issued, ca=stage.node.certificate.ca)
        values["extra"] = f"""\
[s2s]
bind = "127.0.0.1:{s2s_port}"
patience = "8s"

[[s2s.domain]]
name = "{VERONA}"
connect = "127.0.0.1:{self.verona.server.s2s_port}"
"""
        stage.node = StreamNode(**values, home_lines=home_lines.format(ca=inside.path))

    def start(self) -> StreamScene:
        """Start everything."""
        stack = self.stage.stack
        stack.callback(self.verona.stop)
        with self.network.entered():
            try:
                stack.callback(dnsmasq(self.directory / "dns").stop)
                self.verona.server.start()
                self.cast = self.stage.start()
                self.talkers |= {"alice": self.cast.alice, "carol": self.cast.carol}
            except PartFailed:
                stack.close()
                raise
        return self

    def local(self, name: str) -> Talker:
        """Return a local user, logged in."""
        if name not in self.talkers:
            with self.network.entered():
                self.talkers[name] = self.stage.log_in(name)
        return self.talkers[name]

    def foreign(self, name: str) -> Talker:
        """Return a foreign XMPP user, logged in."""
        key = f"{name}@{VERONA}"
        if key not in self.talkers:
            with self.network.entered():
                self.talkers[key] = self.verona.log_in(name)
            self.stage.stack.callback(self.talkers[key].stop)
        return self.talkers[key]
