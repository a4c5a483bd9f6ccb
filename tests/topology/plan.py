"""The description of the topologies, docs/topologies.toml, and a network made of it."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from demo.parts import ROOT

from .net import Machine, Mapped, Network

SOURCE = ROOT / "docs" / "topologies.toml"


@functools.cache
def document() -> dict[str, Any]:
    """Return the whole description."""
    return tomllib.loads(SOURCE.read_text())


@dataclass(frozen=True)
class Plan:
    """One topology.

    :ivar gateway: the machine between the inside LAN and the internet.
    :ivar machines: names, in the order of the description.
    :ivar ports: the port table of the gateway; empty where it is no address translator.
    """

    name: str
    gateway: str
    machines: tuple[str, ...]
    ports: tuple[Mapped, ...]

    @classmethod
    def named(cls, name: str) -> Plan:
        """Return a topology by its name."""
        found = document()["topology"][name]
        machines = (*found["at"], "names", "public")
        ports = tuple(Mapped(**row) for row in found.get("port", ()))
        return cls(name, found["gateway"], machines, ports)

    def build(self) -> Network:
        """Return a network with all machines, which have addresses, gateways and name servers."""
        network = Network(document()["lan"])
        try:
            for name in self.machines:
                self._add(network, name)
            if self.ports:
                network.translate(network.machines[self.gateway], "inside", self.ports)
        except BaseException:
            network.close()
            raise
        return network

    def _add(self, network: Network, name: str) -> Machine:
        lans = document()["machine"][name]["lan"]
        addresses = {
            lan: [f"{address}/{_length(lan, address)}" for address in each]
            for lan, each in lans.items()
        }
        gateways = []
        if "inside" in lans and name != self.gateway:
            gateways = document()["machine"][self.gateway]["lan"]["inside"]
        machine = network.machine(name, addresses, gateways)
        inside = "inside" in lans and name != self.gateway
        view = document()["machine"]["names" if inside else "public"]["lan"]
        if name not in ("names", "public"):
            machine.resolver(view["inside" if inside else "internet"][0])
        return machine


def _length(lan: str, address: str) -> int:
    if ip_address(address).version == 4:
        return 32 if lan == "internet" else 24
    return 128 if lan == "internet" else 64
