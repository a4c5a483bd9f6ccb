"""An organisation of two real clusters, each with a Redis and a home server, and partners by SIP and XMPP."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from demo.certificates import Authority
from demo.home import xmpp_user
from demo.parts import PartFailed, Talker, wait_until
from tests.interop.control import is_whole, status_of
from tests.interop.foreign import ForeignProsody
from tests.interop.homes import HomeProsody, together
from tests.store.redis_server import RedisServer

from .hand_peer import HandPeer
from .hand_watcher import HandWatcher
from .kamailio import bracketed
from .node import ClusterNode, neighbour, partner
from .stage import BORDER, FOREIGN, NAME, PLAIN, PORT, Stage, Variant

#: The XMPP partner's domain, and its people.
VERONA = "verona.example"
VERONESE = ("romeo", "tybalt", "paris", "benvolio", "prince", "laurence")
XMPP_PORT = 5269
#: An XMPP partner who knows no authority that others know: what is left is dialback.
PADUA = "padua.example"
PADUA_PORT = 5270
#: A SIP partner whose edge the tests work by hand, beside the other partner's.
MANTUA = "mantua.example"
MANTUA_PORT = 5071
REDIS_PORT = 6379
#: Every address of a machine, IPv4 and IPv6.
EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Cluster:
    """One of the clusters.

    :ivar name: also the second half of the name of its home server's machine.
    :ivar domain: the local domain of its users.
    :ivar rooms: domains of its rooms.
    """

    name: str
    nodes: tuple[str, ...]
    domain: str
    rooms: tuple[str, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains at home there."""
        return (self.domain, *self.rooms)

    @property
    def user(self) -> str:
        """The address of its user."""
        return f"{NAME}@{self.domain}"

    @property
    def host(self) -> str:
        """The name that the certificates of all its nodes carry."""
        return f"cluster-{self.name}.company.example"


A = Cluster("a", ("a1", "a2", "a3"), "company.example", ("conference-2.company.example",))
B = Cluster("b", ("b1", "b2"), "works.example")
CLUSTERS = (A, B)
NODES = (*A.nodes, *B.nodes)
LOCAL = (*A.domains, *B.domains)


def cluster_of(node: str) -> Cluster:
    """Return the cluster of a node."""
    return next(cluster for cluster in CLUSTERS if node in cluster.nodes)


class Clusters(Stage):
    """Two clusters behind one public address, of which each port leads to one machine.

    :ivar redis: by cluster.
    :ivar homes: by cluster.
    :ivar verona: the XMPP partner's server.
    :ivar veronese: its people, logged in.
    :ivar published: nodes that the DNS names for XMPP, by domain.
    """

    topology = "clusters"
    local = LOCAL
    #: The nodes that speak XMPP with others, by cluster, where that is not everyone.
    enabled: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, variant: Variant = PLAIN) -> None:
        super().__init__(variant)
        self.redis: dict[str, RedisServer] = {}
        self.homes: dict[str, HomeProsody] = {}
        self.verona: ForeignProsody
        self.veronese: dict[str, Talker] = {}
        self.hand = self.authority.issue(f"edge.{MANTUA}", MANTUA)
        self.published = {
            domain: self.enabled.get(cluster.name, cluster.nodes)
            for cluster in CLUSTERS
            for domain in cluster.domains
        }

    # -- configuration -----------------------------------------------------------------------------

    def _home(self, cluster: Cluster) -> HomeProsody:
        machine = self.machine(f"home-{cluster.name}")
        return HomeProsody(
            self.directory / machine.name, cluster.domain, {NAME: "same here"}, rooms=cluster.rooms,
            module=f"federation.{cluster.domain}", c2s_port=5222, component_port=5347,
            netns=machine.netns, interfaces=EVERYWHERE,
        )  # fmt: skip

    def _redis(self, cluster: Cluster) -> RedisServer:
        netns = self.machine(f"home-{cluster.name}").netns
        options = ("--port", str(REDIS_PORT), "--bind", *EVERYWHERE, "--protected-mode", "no")
        return RedisServer(*options, "--appendonly", "yes", "--appendfsync", "always", netns=netns)

    def _node(self, name: str) -> ClusterNode:
        cluster = cluster_of(name)
        issued = self.authority.issue(
            f"{name}.company.example", cluster.host, "sip.company.example", *LOCAL
        )
        home = bracketed(self.at(f"home-{cluster.name}", "inside"))
        store = f'[store]\nkind = "redis"\naddresses = ["{home}:{REDIS_PORT}"]\n'
        return ClusterNode(
            self.directory / name, self.homes[cluster.name], issued, PORT, ("", 0),
            upstreams=self.upstreams(name), netns=self.machine(name).netns, bind=self.bind(name),
            told=self.told(name), listener=self.listener(name), domains=self.at_home(cluster),
            federation=self.listeners(name) + self._federation(name), home_host=home,
            sections=[store, self.s2s(name)], up=(b"impfed.service.started",),
        )  # fmt: skip

    def at_home(self, cluster: Cluster) -> tuple[str, ...]:
        """Return the domains of a cluster's home server."""
        return cluster.domains

    def moved(self, cluster: Cluster) -> str:
        """Return what its nodes are told of users whose home has moved to the other cluster."""
        return ""

    def bind(self, node: str) -> str:
        """Return where a node listens for partners: everywhere, so that it gets what a moved address brings."""
        return f"{self.anywhere}:{PORT}"

    def listener(self, node: str) -> str:
        """Return more lines about that listener."""
        return ""

    def listeners(self, node: str) -> str:
        """Return further listeners of a node."""
        return ""

    def upstreams(self, node: str) -> tuple[str, ...]:
        """Return the certificate names of who passes on: every other node."""
        return tuple(f"{other}.company.example" for other in NODES if other != node)

    def known_as(self, node: str) -> tuple[str, ...]:
        """Return the addresses by which the others of its cluster know what is a node's."""
        return (self.told(node),)

    def _federation(self, name: str) -> str:
        cluster = cluster_of(name)
        (other,) = (each for each in CLUSTERS if each != cluster)
        sections = [
            neighbour(node, (), self.inner(node), *self.known_as(node))
            for node in cluster.nodes
            if node != name
        ]
        told = sorted({self.told(node) for node in other.nodes})
        xmpp = [self.inner(node, XMPP_PORT) for node in other.nodes]
        there = tuple(each for each in other.domains if each not in self.at_home(cluster))
        sections.append(
            neighbour(f"cluster-{other.name}", there, self.inner(other.nodes[0]), *told,
                      fallback=map(self.inner, other.nodes[1:]),
                      extra=f"xmpp = {xmpp}\n{self.moved(cluster)}")
        )  # fmt: skip
        sections.append(partner(MANTUA, f"edge.{MANTUA}", f"edge.{MANTUA}:{MANTUA_PORT}"))
        return "".join([*sections, *(partner(domain, BORDER) for domain in FOREIGN)])

    def s2s(self, name: str) -> str:
        """Return what a node's configuration says of XMPP federation."""
        nodes = list(self.enabled.get(cluster_of(name).name, ()))
        return f"""
[s2s]
bind = "{self.anywhere}:{XMPP_PORT}"
secret = "between all the nodes"
patience = "8s"
nodes = {nodes}

[[s2s.domain]]
name = "{PADUA}"
require_certificates = false
"""

    # -- start -------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make and start all parts."""
        for cluster in CLUSTERS:
            self.homes[cluster.name] = self._home(cluster)
            self.redis[cluster.name] = self._redis(cluster)
        self.nodes |= {name: self._node(name) for cluster in CLUSTERS for name in cluster.nodes}
        self.name_servers()
        behind = [*self.redis.values(), *self.homes.values()]
        together([self.partner, self.before, *(self.begin(o.start, o.stop) for o in behind)])
        together(self.begin(node.start, node.stop) for node in self.nodes.values())
        for cluster in CLUSTERS:
            self.settle(cluster)
        together(functools.partial(self._log_in, cluster) for cluster in CLUSTERS)
        self.after()

    def before(self) -> None:
        """Start what stands before the nodes, or beyond: the XMPP partner."""
        machine = self.machine("verona")
        self.verona = ForeignProsody(
            self.directory / "verona", VERONA, dict.fromkeys(VERONESE, "on both"),
            certificate=self.authority.issue(VERONA), components=(f"components.{VERONA}",),
            c2s_port=5222, component_port=5347, s2s_port=XMPP_PORT, netns=machine.netns,
            interfaces=EVERYWHERE, dns_host=self.at("public", "internet"), dns_port=53,
        )  # fmt: skip
        self.begin(self.verona.start, self.verona.stop)()

    def after(self) -> None:
        """Do what can be done when the nodes are up: people at the XMPP partner log in."""
        together(functools.partial(self._log_in_there, who) for who in VERONESE)

    def _log_in(self, cluster: Cluster) -> None:
        home = self.home_of_user(cluster)
        user = xmpp_user(self.directory / "users" / cluster.domain, home, NAME, netns=home.netns)
        self.stack.callback(user.stop)
        self.users[cluster.domain] = user

    def home_of_user(self, cluster: Cluster) -> HomeProsody:
        """Return the home server that the user of a cluster's domain logs in to, by that domain."""
        return self.homes[cluster.name]

    def _log_in_there(self, who: str) -> None:
        server = self.verona
        user = xmpp_user(self.directory / "users" / VERONA, server, who, netns=server.netns)
        self.stack.callback(user.stop)
        self.veronese[who] = user

    def guest(self) -> Talker:
        """Start the partner in Padua, with one user, who logs in; both stay until the scene ends."""
        machine, directory = self.machine("verona"), self.directory / "padua"
        authority = Authority(directory / "pki", "Authority of Padua")
        server = ForeignProsody(
            directory, PADUA, {NAME: "alone here"}, certificate=authority.issue(PADUA),
            components=(f"components.{PADUA}",), c2s_port=5223, component_port=5348,
            s2s_port=PADUA_PORT, netns=machine.netns, interfaces=EVERYWHERE, secure_auth=False,
            dns_host=self.at("public", "internet"), dns_port=53,
        )  # fmt: skip
        self.begin(server.start, server.stop)()
        guest = xmpp_user(directory / "users", server, NAME, netns=server.netns)
        self.stack.callback(guest.stop)
        return guest

    # -- names -------------------------------------------------------------------------------------

    def services(self) -> list[tuple[str, str, int]]:
        """Return the SRV records of the public view, those of XMPP as :attr:`published` says."""
        ports = {row.machine: row.public for row in self.plan.ports if row.port == XMPP_PORT}
        records = super().services()
        for domain, port in ((VERONA, XMPP_PORT), (PADUA, PADUA_PORT)):
            records.append((f"_xmpp-server._tcp.{domain}", f"xmpp.{domain}", port))
        for domain, names in self.published.items():
            owner, target = f"_xmpp-server._tcp.{domain}", f"xmpp.{domain}"
            records += [(owner, target, ports[name]) for name in names if name in ports]
        return records

    def publish(self, domain: str, *nodes: str) -> None:
        """Let the DNS name these nodes for a domain, and the XMPP partner ask it anew.

        Its streams know no acknowledgements, so nobody may write before it has seen them broken.
        """
        self.published[domain] = nodes
        self.public.stop()
        self.public.start(self.services())
        ours = self.at(self.plan.public, "internet")
        verona = self.machine("verona")
        broken = verona.cut(f"dst {ours} and sport != :{XMPP_PORT}")  # what it has opened
        if not wait_until(lambda: not verona.holds(broken)):
            raise PartFailed(f"{VERONA} does not close its broken streams")

    def public_names(self) -> dict[str, list[str]]:
        """Return the hosts of XMPP, and the edge that is worked by hand."""
        ours = self.at(self.plan.public, "internet")
        hosts = {f"xmpp.{domain}": [ours] for domain in LOCAL}
        hosts[f"edge.{MANTUA}"] = [self.mantua]
        if "verona" in self.network.machines:
            there = [self.at("verona", "internet")]
            hosts |= {f"xmpp.{VERONA}": there, f"xmpp.{PADUA}": there}
        return hosts

    @property
    def mantua(self) -> str:
        """The address of the edge that is worked by hand: the second one of the other partner's."""
        return self.machine("border").addresses["internet"][1]

    def watcher(self, who: str, whom: str) -> HandWatcher:
        """Return a watcher at the partner whose edge is worked by hand."""
        edge = HandPeer(self.machine("border").netns, self.mantua, MANTUA_PORT, self.hand)
        return HandWatcher(edge, who, whom)

    # -- the firewall ------------------------------------------------------------------------------

    def map_ports(self, **moved: str) -> None:
        """Load the port table, with the ports of some nodes leading to others: a2="a3"."""
        table = [
            replace(row, machine=moved.get(row.machine, row.machine)) for row in self.plan.ports
        ]
        self.network.translate(self.machine(self.plan.gateway), "inside", table)

    def take_address(self, node: str, machine: str) -> None:
        """Let a node's address be at another machine, or at its own again."""
        address, gateway = self.at(node, "inside"), self.at(self.plan.gateway, "inside")
        for name in cluster_of(node).nodes:
            own = self.machine(name)
            if name == machine:
                own.run("ip", "address", "replace", f"{address}/24", "dev", "inside")
                own.run(
                    "ip", "route", "replace", "default", "via", gateway
                )  # went with the address
            else:
                own.run("ip", "address", "del", f"{address}/24", "dev", "inside", check=False)
        for each in self.network.machines.values():  # as the machine's announcement would do
            each.run("ip", "neighbour", "flush", "to", address)

    # -- the clusters ------------------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any]:
        """Return what a node says of itself; empty when it does not answer."""
        return status_of(self.nodes[name].socket)

    def counted(self, counter: str, names: Iterable[str]) -> dict[str, int]:
        """Return a counter of some nodes."""
        return {name: self.status(name)["metrics"].get(counter, 0) for name in names}

    def settle(self, cluster: Cluster, without: Iterable[str] = ()) -> None:
        """Wait until a cluster consists of its nodes, or all but some, and the right one has the link."""
        names = [name for name in cluster.nodes if name not in set(without)]

        def done() -> bool:
            return is_whole({name: self.status(name) for name in names})

        if not wait_until(done, 60, 0.2):
            views = {name: self.status(name).get("cluster") for name in names}
            raise PartFailed(f"cluster {cluster.name} is not settled: {views}")

    def kill(self, name: str) -> None:
        """``kill -9``."""
        part = self.nodes[name].part
        assert part is not None
        part.kill()
        part.process.wait()

    @contextmanager
    def drained(self, name: str) -> Iterator[None]:
        """Take a node out meanwhile."""
        self.nodes[name].operator("drain")
        try:
            yield
        finally:
            self.nodes[name].operator("drain", "stop")

    def mend(self) -> None:
        """Start the nodes that are dead, and wait until both clusters are whole."""
        dead = [node for node in self.nodes.values() if node.part is None or not node.part.alive]
        together(node.start for node in dead)
        for cluster in CLUSTERS:
            self.settle(cluster)


class OneEnabled(Clusters):
    """Of the first cluster one node alone speaks XMPP with others."""

    enabled = {A.name: ("a1",)}


class MovedUser(Clusters):
    """The user of the first cluster's domain has his home with the second one; the domain has not moved."""

    def at_home(self, cluster: Cluster) -> tuple[str, ...]:
        """Return them: the domain is at both, each with users of its own."""
        return cluster.domains if cluster == A else (*cluster.domains, A.domain)

    def moved(self, cluster: Cluster) -> str:
        """Return the file that names him, where he was."""
        if cluster != A:
            return ""
        users = self.directory / "moved"
        users.write_text(f"{NAME}\n")
        return f'users = "{users}"\n'

    def _home(self, cluster: Cluster) -> HomeProsody:
        home = super()._home(cluster)
        home.others = tuple(set(self.at_home(cluster)) - set(cluster.domains))
        return home

    def home_of_user(self, cluster: Cluster) -> HomeProsody:
        """Return the second cluster's, for both."""
        home = copy(self.homes[B.name])
        home.domain = cluster.domain
        return home
