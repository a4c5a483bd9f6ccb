"""Name servers: dnsmasq on a machine of its own, with one view of the names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from demo.parts import Part

from .net import Machine


class NameServer:
    """A dnsmasq on port 53 of a machine.

    :param hosts: addresses by name.
    :param services: (owner, target, port) of SRV records, all of one priority and weight; the owner has its
        two underscored labels.
    :param onward: name servers that are asked for everything else; without any it does not exist.
    """

    def __init__(
        self,
        machine: Machine,
        directory: Path,
        hosts: Mapping[str, Sequence[str]],
        services: Iterable[tuple[str, str, int]] = (),
        onward: Iterable[str] = (),
    ) -> None:
        self._machine, self._directory = machine, directory
        self._hosts, self._onward = hosts, tuple(onward)
        self.start(services)

    def start(self, services: Iterable[tuple[str, str, int]]) -> None:
        """Start it with these SRV records."""
        machine, directory = self._machine, self._directory
        lines = ["no-resolv", "no-hosts", "bind-dynamic", "user=root", "cache-size=0"]
        lines += [f"host-record={name},{','.join(each)}" for name, each in self._hosts.items()]
        lines += [f"srv-host={owner},{target},{port},10,10" for owner, target, port in services]
        servers = [f"server={address}" for address in self._onward]
        lines += servers or ["local=/#/"]
        directory.mkdir(parents=True, exist_ok=True)
        configuration = directory / f"{machine.name}.conf"
        configuration.write_text("\n".join(lines) + "\n")
        command = ["dnsmasq", "--keep-in-foreground", f"--conf-file={configuration}", "--pid-file="]
        command.append("--log-facility=-")
        self.part = Part(f"dns-{machine.name}", command, directory, netns=machine.netns)
        self.part.await_port(53)

    def stop(self) -> None:
        """Stop it."""
        self.part.stop()
