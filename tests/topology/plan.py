"""The description of the topologies, docs/topologies.toml, and a network made of it."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from demo.parts import ROOT

from .net import Mapped, Network

SOURCE = ROOT / "docs" / "topologies.toml"


@functools.cache
def document() -> dict[str, Any]:
    """Return the whole description."""
    return tomllib.loads(SOURCE.read_text())


@dataclass(frozen=True)
class Plan:
    """One topology.

    :ivar public: the machine that has the address which partners connect to.
    :ivar machines: names, in the order of the description.
    :ivar ports: the port table of the public address; empty where nothing is mapped.
    """

    name: str
    public: str
    machines: tuple[str, ...]
    ports: tuple[Mapped, ...]

    @classmethod
    def named(cls, name: str) -> Plan:
        """Return a topology by its name."""
        found = document()["topology"][name]
        machines = (*found["at"], "names", "public")
        ports = tuple(Mapped(**row) for row in found.get("port", ()))
        return cls(name, found.get("public", found["gateway"]), machines, ports)

    @property
    def found(self) -> dict[str, Any]:
        """What the description says of it."""
        found: dict[str, Any] = document()["topology"][self.name]
        return found

    @property
    def gateway(self) -> str:
        """The machine where everything for elsewhere goes."""
        return str(self.found["gateway"])

    def lans(self, machine: str) -> dict[str, list[str]]:
        """Return a machine's addresses, by LAN."""
        lans: dict[str, list[str]] = document()["machine"][machine]["lan"]
        some = self.found.get("lans", {}).get(machine, lans)
        return {lan: lans[lan] for lan in some}

    def build(self) -> Network:
        """Return a network with all machines, which have addresses, gateways and name servers."""
        network = Network(document()["lan"])
        try:
            for name in self.machines:
                self._add(network, name)
            for nat in self.found.get("nat", ()):
                machine = network.machines[nat["machine"]]
                network.translate(machine, nat["inside"], self.table(nat), nat["outside"])
        except BaseException:
            network.close()
            raise
        return network

    def table(self, nat: dict[str, Any]) -> tuple[Mapped, ...]:
        """Return the static rows of a translator."""
        if "to" in nat:
            return tuple(Mapped(row.public, nat["to"], row.public) for row in self.ports)
        return self.ports if nat.get("table") else ()

    def _add(self, network: Network, name: str) -> None:
        lans = self.lans(name)
        addresses = {
            lan: [f"{address}/{_length(lan, address)}" for address in each]
            for lan, each in lans.items()
        }
        inside = "inside" in lans and "internet" not in lans and name != self.found["gateway"]
        gateway = self.found["gateway"] if inside else ""
        gateway = self.found.get("gateways", {}).get(name, gateway)
        gateways = []
        if gateway:
            there = self.lans(gateway)
            gateways = there[next(lan for lan in lans if lan in there)]
        machine = network.machine(name, addresses, gateways)
        if name not in ("names", "public"):
            view = ("names", "inside") if inside else ("public", "internet")
            machine.resolver(self.lans(view[0])[view[1]][0])


def _length(lan: str, address: str) -> int:
    if ip_address(address).version == 4:
        return 32 if lan == "internet" else 24
    return 128 if lan == "internet" else 64
