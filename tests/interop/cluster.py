"""Three nodes that share a Redis, behind HAProxy, with one Prosody, a far side and a crowd.

All nodes tell partners the balancer's address.  What belongs to a dialog comes to any of them and is passed
on to the owner by its relay token.  What the nodes dial they reach through a relay that can spoil it.
"""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.bench_presence import rss_mib
from demo.certificates import Authority
from demo.far import far_side
from demo.home import Prosody, xmpp_user
from demo.node import Node
from demo.parts import ROOT, PartFailed, Talker, free_ports, wait_until
from impfed.cluster.ownership import Rendezvous
from impfed.gateway.cluster_home import link_pair
from tests.interop import crowd
from tests.interop.balancer import BALANCER, NAME, Haproxy
from tests.interop.cluster_redis import PASSWORD, OneRedis, WatchedRedis
from tests.interop.control import is_whole, status_of
from tests.interop.crowd import Crowd
from tests.interop.links import Links
from tests.interop.scene import FOREIGN, HOME, RUN
from tests.store.redis_server import RedisServer

NAMES = ("node1", "node2", "node3")
USERS = ("alice", "bob", "carol", "dave")
FAR_USERS = tuple(f"u{number:03}" for number in range(125))  # with USERS 500 pairs
MODULE = f"federation.{HOME}"

SAMPLE = ROOT / "etc" / "impfed-cluster.toml"


@dataclass
class ClusterNode(Node):
    """A node with the shipped sample of a configuration.

    :ivar places: what stands in the sample -> what takes its place.
    """

    places: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Write the configuration."""
        text = SAMPLE.read_text("utf-8")
        for sample in self.places:
            if sample not in text:
                raise PartFailed(f"{SAMPLE.name} does not say {sample} any more")
        longest = sorted(self.places, key=len, reverse=True)
        found = "|".join(map(re.escape, longest))
        text = re.sub(found, lambda place: self.places[place[0]], text)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(text + self.extra)


def host(name: str) -> str:
    """Return the name in a node's certificate that is its own."""
    return f"{name}.{HOME}"


#: What a node reaches through the relay: the link from NODE to one of these is NODE-TARGET.
TARGETS = ("redis", "home", "partner")


def links(target: str, names: Iterable[str] = NAMES) -> list[str]:
    """Return the names of the links from these nodes to a target."""
    return [f"{name}-{target}" for name in names]


class Cluster:
    """The cluster and all around it.

    :param name: of the folder where everything lies.
    :param standing: subscriptions that stand.
    :ivar nodes: by name.
    :ivar links: what the nodes dial.
    """

    def __init__(
        self, name: str, standing: int, store: OneRedis | WatchedRedis | None = None
    ) -> None:
        self.directory = directory = RUN / name
        shutil.rmtree(directory, ignore_errors=True)
        self.authority = authority = Authority(directory / "pki", "interop CA")
        self.port, self.far_port, *ports = free_ports(2 + 2 * len(NAMES))
        (self.crowd_port,) = free_ports(1)
        self.standing = standing
        self.links = Links(directory)
        self.store = store or OneRedis()
        users = dict.fromkeys(USERS, "secret")
        self.home = Prosody(
            directory / "prosody", users=users, module=MODULE, components=(crowd.LOCAL,)
        )
        self.home.c2s_port, self.home.component_port = free_ports(2)
        self.inner = dict(zip(NAMES, ports[: len(NAMES)], strict=True))
        outer = dict(zip(NAMES, ports[len(NAMES) :], strict=True))
        self.nodes = {name: self._node(name, outer[name]) for name in NAMES}
        self.far_users = FAR_USERS
        self.far_certificate = authority.issue(f"sip.{FOREIGN}", FOREIGN)
        self.haproxy: Haproxy
        self.far: Talker
        self.crowd: Crowd
        self.users: dict[str, Talker] = {}

    def _node(self, name: str, port: int) -> Node:
        first, second = (other for other in NAMES if other != name)
        issued = self.authority.issue(host(name), NAME, HOME)
        secrets = {
            "relay": "0123456789abcdef0123456789abcdef",
            "prosody": self.home.secret,
            "redis": PASSWORD,
        }
        folder = self.directory / name
        folder.mkdir(parents=True)
        lead = self.links.lead
        next_hop = lead(f"{name}-crowd", self.crowd_port)
        places = {
            "/var/lib/impfed": f"{folder}/state",
            "/run/impfed/control.sock": f"{folder}/control.sock",
            "tls/ca.pem": str(issued.ca),
            "tls/node1.pem": str(issued.certificate),
            "tls/node1.key": str(issued.key),
            "10.0.0.1:5061": f"127.0.0.1:{port}",
            "sip.company.example:5061": f"{NAME}:{self.port}",
            "10.0.0.5": "127.0.0.1",
            "10.0.0.1:5062": f"127.0.0.1:{self.inner[name]}",
            "node1.company.example:5062": f"{host(name)}:{self.inner[name]}",
            "node1": name,
            "node2": first,
            "node3": second,
            "10.0.0.2:5062": f"127.0.0.1:{self.inner[first]}",
            "10.0.0.3:5062": f"127.0.0.1:{self.inner[second]}",
            "sip.lync.example:5061": f"127.0.0.1:{lead(f'{name}-partner', self.far_port)}",
            "10.0.0.9:5347": f"127.0.0.1:{lead(f'{name}-home', self.home.component_port)}",
            **self.store.places(name, lead),
            'domains = ["company.example"]': f'domains = ["{HOME}", "{crowd.LOCAL}"]',
            "company.example": HOME,
            'kind = "microsoft"': 'kind = "microsoft"\nlisted = true',  # it bears the load
        }
        for secret, value in secrets.items():
            (folder / secret).write_text(value)
            places[f"secrets/{secret}"] = str(folder / secret)
        return ClusterNode(
            folder, self.home, issued, port, ("127.0.0.1", self.far_port), name=NAME,
            up=(b"impfed.service.started",), places=places,
            extra=crowd.CONFIGURATION.format(domain=crowd.FOREIGN, next_hop=next_hop),
        )  # fmt: skip

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> Cluster:
        """Start everything; stops it again when a part fails."""
        try:
            self.store.start()
            self.home.start()
            for node in self.nodes.values():
                node.start()
            self.haproxy = Haproxy(self.directory, self._places(), self.port)
            self._far_side()
            self._crowd()
            self.settle(60)
            for name in USERS:
                self.users[name] = xmpp_user(self.directory, self.home, name)
            self.crowd.fill()
        except PartFailed:
            self.stop()
            raise
        return self

    def _places(self) -> dict[str, str]:
        authority = str(self.directory / "pki" / "ca.pem")
        ports = [node.port for node in self.nodes.values()]
        front = self.authority.issue(NAME, HOME)
        third = "  server node2 10.0.0.2:5061"
        return {
            "/etc/haproxy/company.example.pem": str(front.both),
            "/etc/haproxy/balancer.pem": str(self.authority.issue(BALANCER).both),
            "/etc/haproxy/partners-ca.pem": authority,
            "/etc/haproxy/nodes-ca.pem": authority,
            "0.0.0.0:5061": f"127.0.0.1:{self.port}",
            third: f"{third}\n  server node3 127.0.0.1:{ports[2]}",
            "10.0.0.1:5061": f"127.0.0.1:{ports[0]}",
            "10.0.0.2:5061": f"127.0.0.1:{ports[1]}",
            "company.example": HOME,
        }

    def _far_side(self) -> None:
        self.far = far_side(
            self.directory, self.far_certificate, f"127.0.0.1:{self.far_port}",
            (f"127.0.0.1:{self.port}", NAME), self.far_users, delay=0.1,
        )  # fmt: skip

    def _crowd(self) -> None:
        certificate = self.authority.issue(f"sip.{crowd.FOREIGN}", crowd.FOREIGN)
        self.crowd = Crowd(
            self.directory, self.home, certificate, self.crowd_port, (self.port, NAME),
            self.standing,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop everything."""
        for talker in self.users.values():
            talker.stop()
        for part in ("far", "crowd", "haproxy", "links"):
            if hasattr(self, part):
                getattr(self, part).stop()
        for node in self.nodes.values():
            node.stop()
        self.home.stop()
        self.store.stop()

    @property
    def redis(self) -> RedisServer:
        """The Redis that is written to."""
        return self.store.master

    # -- looking -----------------------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any]:
        """Return what ``impfedctl status`` says of a node; empty when it does not answer."""
        return status_of(self.nodes[name].socket)

    def membership(self, name: str) -> dict[str, Any]:
        """Return what a node says of the cluster; empty when it does not answer."""
        found: dict[str, Any] = self.status(name).get("cluster", {})
        return found

    def serves(self, name: str) -> bool:
        """Whether a node runs and is not drained."""
        part = self.nodes[name].part
        alive = part is not None and part.alive
        return alive and self.membership(name).get("standing") != "draining"

    def settle(self, seconds: float, names: Iterable[str] = NAMES) -> None:
        """Wait until the cluster consists of these nodes, and the right one holds the home link."""
        names = list(names)

        def done() -> bool:
            return is_whole({name: self.status(name) for name in names})

        if not wait_until(done, seconds, 0.2):
            views = {name: self.membership(name) for name in names}
            raise PartFailed(f"the cluster is not settled: {views}")

    def link_holder(self, names: Iterable[str] = NAMES) -> str:
        """Return the node whose home link is up, "" for none."""
        for name in names:
            status = self.status(name)
            held = status["cluster"]["home_links_held"] if status else []
            if held and all(link["state"] == "up" for link in status["home_links"]):
                return name
        return ""

    def memory(self, name: str) -> float:
        """Return the MiB that a node has."""
        part = self.nodes[name].part
        assert part is not None
        return rss_mib(part.pid)

    def log(self, name: str) -> str:
        """Return a node's log."""
        return (self.nodes[name].directory / "node.log").read_text(errors="replace")

    # -- who owns what -----------------------------------------------------------------------------

    def owner(self, local: str, foreign: str, names: Iterable[str] = NAMES) -> str:
        """Return the node that a pair belongs to, when these live."""
        return Rendezvous(names).owner((f"{local}@{HOME}", f"{foreign}@{FOREIGN}"))

    def far_user_of(self, local: str, owner: str, skip: int = 0) -> str:
        """Return a far user whose pair with a local one belongs to a node."""
        found = [user for user in self.far_users if self.owner(local, user) == owner]
        return found[skip]

    @staticmethod
    def link_owner(names: Iterable[str] = NAMES) -> str:
        """Return the node that the home link belongs to, when these live."""
        return Rendezvous(names).owner(link_pair("prosody"))

    # -- doing -------------------------------------------------------------------------------------

    def control(self, name: str, *words: str) -> str:
        """Return what ``impfedctl`` prints, asked of a node."""
        command = [Path(sys.executable).with_name("impfedctl"), "--socket"]
        command += [self.nodes[name].socket, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode == 2:
            raise PartFailed(f"impfedctl {' '.join(words)} of {name}: {done.stderr}")
        return done.stdout

    def restart(self, name: str, extra: str = "") -> None:
        """Stop a node as an operator does, and start it with some more lines of configuration."""
        node = self.nodes[name]
        assert node.part is not None
        node.part.process.terminate()
        node.part.process.wait(60)
        node.extra += extra
        node.write()
        node.start()

    def shown(self, name: str) -> str:
        """Return the certificate that a node shows to other nodes."""
        return ssl.get_server_certificate(("127.0.0.1", self.inner[name]), timeout=20)

    def heal(self) -> None:
        """Undo what a test that has failed may have left: links, nodes that are down or drained."""
        self.links.mend()
        for name, node in self.nodes.items():
            if node.part is None or not node.part.alive:
                node.start()
            elif self.membership(name).get("standing") == "draining":
                self.control(name, "drain", "stop")

    def kill(self, name: str) -> None:
        """``kill -9``."""
        part = self.nodes[name].part
        assert part is not None
        part.kill()
        part.process.wait()
