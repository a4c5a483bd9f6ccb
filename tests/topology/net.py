"""Machines and LANs out of network namespaces: bridges, veth pairs, addresses, port translation.

Every name carries a random prefix, so that two runs beside each other never meet. A shell outside this
process removes everything when the network is closed, and also when this process ends in any other way.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob
from ipaddress import ip_address, ip_network
from pathlib import Path

from demo.parts import PartFailed

#: Kills what still runs in the namespaces of a prefix, and removes them with their resolver files.
_UNDERTAKER = """\
while read -r line; do [ "$line" = done ] && break; done
for path in /run/netns/{prefix}-*; do
    name=${{path##*/}}
    for pid in $(ip netns pids "$name"); do kill -9 "$pid"; done
    ip netns delete "$name"
    rm -rf "/etc/netns/$name"
done
"""


#: Address and port translation, in the place of what was there before.
_PAT = """\
table inet pat {{}}
delete table inet pat
table inet pat {{
    chain arriving {{
        type nat hook prerouting priority dstnat;
        {static}
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat;
        oifname "{outside}" masquerade
        {back}
    }}
}}
"""

#: The inode of a socket that a program still holds, in what ``ss`` says of it.
_INODE = re.compile(r"\bino:([1-9]\d*)")


class NeedsRoot(Exception):
    """The tests of topologies make network namespaces, and only root may."""


def needs_root() -> None:
    """Fail with plain words where network namespaces cannot be made."""
    if os.geteuid() != 0:
        raise NeedsRoot("tests.topology makes network namespaces: run it as root")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    if not any(line.split()[4] == "/" for line in mounts):
        raise NeedsRoot(
            "tests.topology gives each machine a resolver file, and ip-netns can do that only where"
            " the root directory is a mount point: bind it on itself before chroot"
        )


@dataclass(frozen=True, slots=True)
class Mapped:
    """One row of a port table: a public TCP port and where it leads.

    :ivar machine: name of the machine.
    :ivar carries: what comes that way, for people.
    """

    public: int
    machine: str
    port: int
    carries: str = ""


@dataclass
class Machine:
    """A machine: a namespace with an interface in each LAN that it is in, named after the LAN.

    :ivar addresses: by LAN; IPv4 and IPv6 as wanted.
    """

    name: str
    netns: str
    addresses: Mapping[str, Sequence[str]]
    files: list[Path] = field(default_factory=list)

    def at(self, lan: str, version: int = 4) -> str:
        """Return its first address in a LAN, of IPv4 or IPv6."""
        return next(a for a in self.addresses[lan] if ip_address(a).version == version)

    def run(self, *command: str, feed: str = "", check: bool = True) -> str:
        """Run a command on it, return what it says; raises PartFailed when it fails."""
        return call("ip", "netns", "exec", self.netns, *command, feed=feed, check=check)

    def nft(self, rules: str) -> None:
        """Load nftables rules."""
        self.run("nft", "-f", "-", feed=rules)

    def resolver(self, *servers: str) -> None:
        """Say which name servers its programs ask."""
        directory = Path("/etc/netns", self.netns)
        directory.mkdir(parents=True, exist_ok=True)
        lines = [*(f"nameserver {server}" for server in servers), "options timeout:2 attempts:2"]
        (directory / "resolv.conf").write_text("\n".join(lines) + "\n")

    def knows(self, name: str, address: str) -> None:
        """Let its programs know a name that no name server tells."""
        directory = Path("/etc/netns", self.netns)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "hosts").open("a") as hosts:
            hosts.write(f"{address} {name}\n")

    def cut(self, condition: str) -> set[str]:
        """Break its TCP connections that fit a condition of ``ss``; the other ends get a reset.

        Returns the broken sockets, as :meth:`holds` wants them.
        """
        kill = ("ss", "--kill", "--tcp", "--extended", "state", "established")
        return set(_INODE.findall(self.run(*kill, *shlex.split(condition))))

    def holds(self, sockets: set[str]) -> bool:
        """Return whether a program on it has yet to close one of these sockets.

        What it writes into a broken one until then is lost.
        """
        ours = {f"socket:[{inode}]" for inode in sockets}
        for pid in call("ip", "netns", "pids", self.netns).split():
            for descriptor in glob(f"/proc/{pid}/fd/*"):
                with suppress(FileNotFoundError, ProcessLookupError):  # closed, or ended, since
                    if os.readlink(descriptor) in ours:
                        return True
        return False

    def deaf(self, address: str) -> None:
        """Let it drop everything that comes for one of its addresses."""
        family = "ip6" if ":" in address else "ip"
        self.nft(
            "table inet deaf { chain in { type filter hook input priority 0;"
            f" {family} daddr {address} drop; }}\n}}\n"
        )

    def hears(self) -> None:
        """Undo :meth:`deaf`."""
        self.nft("delete table inet deaf\n")


def call(*command: str, feed: str = "", check: bool = True) -> str:
    """Run a command, return what it says; raises PartFailed when it fails."""
    done = subprocess.run(command, input=feed, capture_output=True, text=True, timeout=120)
    if check and done.returncode:
        raise PartFailed(f"{' '.join(command)}: {done.stdout}{done.stderr}\n{feed}")
    return done.stdout


class Network:
    """LANs and the machines in them.

    :param lans: names; each is a bridge. In the LAN called "internet" every address is next door.
    """

    def __init__(self, lans: Iterable[str]) -> None:
        needs_root()
        self.prefix = f"impfed{secrets.token_hex(4)}"
        self.machines: dict[str, Machine] = {}
        self._ports = itertools.count(1)
        self._undertaker = subprocess.Popen(
            ["sh", "-c", _UNDERTAKER.format(prefix=self.prefix)],
            stdin=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._switch = self._namespace("lans")
        self._ip(self._switch, [f"link add {lan} up type bridge" for lan in lans])

    def _namespace(self, name: str) -> str:
        netns = f"{self.prefix}-{name}"
        call("ip", "netns", "add", netns)
        self._ip(netns, ["link set lo up"])
        return netns

    @staticmethod
    def _ip(netns: str, lines: Iterable[str]) -> None:
        call("ip", "-n", netns, "-batch", "-", feed="\n".join(lines) + "\n")

    def machine(
        self, name: str, addresses: Mapping[str, Sequence[str]], gateways: Iterable[str] = ()
    ) -> Machine:
        """Add a machine.

        :param addresses: by LAN, with the length of the prefix: {"inside": ["10.0.0.1/24"]}.
        :param gateways: where everything else goes; a machine in "internet" needs none.
        """
        netns = self._namespace(name)
        lines: list[str] = []
        for lan, all_of_it in addresses.items():
            port = f"port{next(self._ports)}"
            plug = f"link add {port} netns {self._switch} type veth peer name {lan} netns {netns}"
            call("ip", *plug.split())
            self._ip(self._switch, [f"link set {port} master {lan} up"])
            lines += [f"address add {one} dev {lan} nodad" for one in all_of_it if ":" in one]
            lines += [f"address add {one} dev {lan}" for one in all_of_it if ":" not in one]
            lines.append(f"link set {lan} up")
        if "internet" in addresses:
            lines += ["route add 0.0.0.0/0 dev internet", "route add ::/0 dev internet"]
        lines += [f"route add default via {gateway}" for gateway in gateways]
        self._ip(netns, lines)
        plain = {lan: tuple(a.partition("/")[0] for a in each) for lan, each in addresses.items()}
        made = self.machines[name] = Machine(name, netns, plain)
        return made

    def translate(
        self, machine: Machine, inside: str, table: Iterable[Mapped], outside: str = "internet"
    ) -> None:
        """Let a machine between two LANs translate addresses and ports, both ways.

        Static: each row of the table leads from the machine's address outside to a machine inside.
        Dynamic: what leaves does so under that address, from a port that the system picks. Machines
        inside may use that address, too.
        """
        static, back = [], []
        for row in table:
            for address in self.machines[row.machine].addresses[inside]:
                public = machine.at(outside, ip_address(address).version)
                family, host = ("ip6", f"[{address}]") if ":" in address else ("ip", address)
                static.append(
                    f"{family} daddr {public} tcp dport {row.public} dnat {family} to {host}:{row.port}"
                )
        for family, version in (("ip", 4), ("ip6", 6)):
            source = f"{family} saddr {_network(machine, inside, version)}"
            back.append(f'oifname "{inside}" ct status dnat {source} masquerade')
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            machine.run("sh", "-c", f"echo 1 >/proc/sys/net/{switch}")
        machine.nft(
            _PAT.format(
                static="\n        ".join(static), outside=outside, back="\n        ".join(back)
            )
        )

    def close(self) -> None:
        """Kill what still runs on the machines and remove them all."""
        if self._undertaker.stdin is not None and not self._undertaker.stdin.closed:
            self._undertaker.communicate("done\n", timeout=60)


def _network(machine: Machine, lan: str, version: int) -> str:
    """Return the network of a machine's address in a LAN."""
    length = 24 if version == 4 else 64
    return str(ip_network(f"{machine.at(lan, version)}/{length}", strict=False))
