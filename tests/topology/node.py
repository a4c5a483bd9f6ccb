"""A node of an organisation that has several, and its home server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from demo.node import Node
from tests.interop.control import operator


@dataclass
class ClusterNode(Node):
    """One of several nodes.

    :ivar bind: address and port of its listener.
    :ivar told: address and port that peers are told.
    :ivar domains: the local domains that are at home here.
    :ivar federation: sections about partners and neighbours.
    :ivar home_host: address of the home server.
    """

    bind: str = ""
    told: str = ""
    domains: tuple[str, ...] = ()
    federation: str = ""
    home_host: str = "127.0.0.1"
    home_extra: str = ""
    sections: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        sections = "\n".join(self.sections)
        self.configuration.write_text(f"""\
[node]
name = "{self.directory.name}"
state_directory = "{self.directory}/state"
control_socket = "{self.socket}"
trusted_upstreams = {list(self.upstreams)}
relay_secret = "between all the nodes"

[tls]
ca = "{self.certificate.ca}"

[[tls.certificate]]
name = "federation"
certificate = "{self.certificate.certificate}"
key = "{self.certificate.key}"

[[listener]]
name = "federation"
transport = "tls"
bind = "{self.bind}"
advertised = "{self.told}"
{self.listener}

[[home]]
name = "home"
kind = "prosody"
domains = {list(self.domains)}
connect = "{self.home_host}:{self.home.component_port}"
secret = "{self.home.secret}"
address = "{self.home.module}"
{self.home_extra}

{self.federation}

{sections}
""")

    def operator(self, *words: str, code: int = 0) -> str:
        """Run impfedctl, return what it says."""
        return operator(self.socket, *words, code=code)

    def counted(self, counter: str) -> int:
        """Return a counter."""
        status: dict[str, Any] = json.loads(self.operator("status", "--json"))
        return int(status["metrics"].get(counter, 0))

    def finds_its_neighbours(self) -> bool:
        """Return whether each neighbour is connected; one that was not up at first rests a while."""
        status: dict[str, Any] = json.loads(self.operator("status", "--json"))
        return all(line["state"] == "open" for line in status["neighbours"])

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.directory / "node.log").read_text(errors="replace")


def neighbour(
    name: str,
    domains: tuple[str, ...],
    address: str,
    *told: str,
    fallback: Iterable[str] = (),
    extra: str = "",
) -> str:
    """Return what a node's configuration says of another one.

    :param domains: those that are reached through it; none for one that only owns its dialogs.
    :param told: what its listeners tell peers.
    :param fallback: further addresses.
    :param extra: more lines.
    """
    hosted = f"domains = {list(domains)}\n" if domains else ""
    return f"""
[[neighbour]]
name = "{name}"
{hosted}address = "{address}"
fallback = {list(fallback)}
tls_name = "{name}.company.example"
advertised = {list(told)}
{extra}
"""


def partner(domain: str, edge: str, hop: str = "") -> str:
    """Return what a configuration says of a partner's domain.

    :param edge: name in the certificate of the partner's edge.
    :param hop: host and port of the next hop; "" to have the DNS asked.
    """
    lines = f'next_hop = {{ address = "{hop}" }}\n' if hop else ""
    return f"""
[[domain]]
name = "{domain}"
kind = "microsoft"
peer_names = ["{edge}"]
listed = true
{lines}"""
