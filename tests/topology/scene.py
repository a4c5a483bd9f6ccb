"""An organisation with two clusters of two nodes each, what stands before them, and a partner."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from demo.parts import ROOT, Authority, PartFailed, Talker, wait_until, xmpp_user
from tests.interop.homes import HomeProsody, together

from .dns import NameServer
from .kamailio import Edge, bracketed
from .net import Machine
from .node import ClusterNode, neighbour, partner
from .plan import Plan

RUN = ROOT / "run" / "topology" / str(os.getpid())

#: Node -> the domains at home there, the first being that of its cluster's own names.
HOMES = {
    "a1": ("company.example", "second.example"),
    "a2": ("branch.group.example",),
    "b1": ("a.firm.example",),
    "b2": ("works.example",),
}
LOCAL = tuple(itertools.chain(*HOMES.values()))
#: The partner's: elsewhere, under one of ours, above one of ours, and beside one of ours.
FOREIGN = ("lync.example", "foreign.company.example", "group.example", "b.firm.example")
#: Node -> its neighbours, and the domains that are reached through each.
NEIGHBOURS: dict[str, dict[str, tuple[str, ...]]] = {
    "a1": {"a2": HOMES["a2"], "b1": (*HOMES["b1"], *HOMES["b2"])},
    "a2": {"a1": HOMES["a1"]},
    "b1": {"a1": (*HOMES["a1"], *HOMES["a2"]), "b2": HOMES["b2"]},
    "b2": {"b1": HOMES["b1"]},
}
#: Node -> who passes on to it what comes from outside.
UPSTREAM = {"a2": "a1", "b1": "a1", "b2": "b1"}
#: The user at home in every local domain, and the partner's people.
NAME = "kim"
PEOPLE = ("romeo", "tybalt", "paris", "mercutio", "benvolio", "capulet", "escalus", "juliet")
PORT = 5062
BORDER = "edge.lync.example"


@dataclass(frozen=True)
class Variant:
    """What is different in a scene.

    :ivar version: of the Internet Protocol, everywhere.
    :ivar stateless: whether the partner's edge is stateless and routes by name.
    """

    version: int = 4
    stateless: bool = False


class Scene:
    """Everything that runs in one topology.

    :ivar users: domain -> its user, logged in.
    :ivar far: the partner's people.
    """

    #: Name of the topology in docs/topologies.toml.
    topology = ""
    #: Nodes that get new requests from outside.
    entrances: tuple[str, ...] = ("a1",)
    #: What every node's certificate carries besides.
    common_names: tuple[str, ...] = ()
    #: More lines about a node's listener.
    listener = ""

    def __init__(self, variant: Variant = Variant()) -> None:
        self.variant = variant
        self.plan = Plan.named(self.topology)
        RUN.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.topology}-", dir=RUN))
        self.stack = ExitStack()
        self.network = self.plan.build()
        self.stack.callback(self.network.close)
        self.authority = Authority(self.directory / "pki", "topology CA")
        self.nodes: dict[str, ClusterNode] = {}
        self.users: dict[str, Talker] = {}
        self.far: Talker
        self.border: Edge

    # -- where things are --------------------------------------------------------------------------

    def machine(self, name: str) -> Machine:
        """Return a machine."""
        return self.network.machines[name]

    def at(self, name: str, lan: str) -> str:
        """Return a machine's address."""
        return self.machine(name).at(lan, self.variant.version)

    def bind(self, node: str) -> str:
        """Return address and port at which a node listens."""
        return f"{bracketed(self.at(node, 'inside'))}:{PORT}"

    def told(self, node: str) -> str:
        """Return address and port that a node tells its peers: by the port table, or its own."""
        for row in self.plan.ports:
            if row.machine == node and row.public != 5061:
                return f"{bracketed(self.at(self.plan.public, 'internet'))}:{row.public}"
        return self.bind(node)

    # -- configuration -----------------------------------------------------------------------------

    def _node(self, name: str) -> ClusterNode:
        first, *others = HOMES[name]
        netns = self.machine(name).netns
        home = HomeProsody(
            self.directory / name / "prosody", first, {NAME: "same here"}, others=tuple(others),
            module=f"federation.{first}", c2s_port=5222, component_port=5347, netns=netns,
        )  # fmt: skip
        names = [f"{name}.company.example", *HOMES[name], *self.common_names]
        if name in self.entrances:  # a partner checks it for whomever answers
            names += ["sip.company.example", *(d for d in LOCAL if d not in names)]
        return ClusterNode(
            self.directory / name, home, self.authority.issue(*names), PORT, ("", 0),
            upstreams=self.upstreams(name), netns=netns, bind=self.bind(name),
            told=self.told(name), domains=HOMES[name], federation=self.federation(name),
            listener=self.listener, home_extra=self.home_extra(name),
        )  # fmt: skip

    def upstreams(self, node: str) -> tuple[str, ...]:
        """Return the certificate names of who stands before a node."""
        return (f"{UPSTREAM[node]}.company.example",) if node in UPSTREAM else ()

    def neighbours(self, node: str) -> dict[str, tuple[str, ...]]:
        """Return a node's neighbours, and the domains that are reached through each."""
        return NEIGHBOURS[node]

    def listeners(self, node: str) -> str:
        """Return further listeners of a node."""
        return ""

    def home_extra(self, node: str) -> str:
        """Return more lines about a node's home server."""
        return ""

    def federation(self, node: str) -> str:
        """Return what a node's configuration says of others."""
        neighbours = [
            neighbour(name, domains, self.bind(name), self.told(name))
            for name, domains in self.neighbours(node).items()
        ]
        listeners = self.listeners(node)
        return "".join([listeners, *neighbours, *(partner(d, BORDER, self.hop()) for d in FOREIGN)])

    def hop(self) -> str:
        """Return the next hop of the partner's domains; "" to have the DNS asked."""
        return ""

    # -- start -------------------------------------------------------------------------------------

    def start(self) -> Scene:
        """Start everything; stops it again when a part fails."""
        try:
            self.nodes |= {name: self._node(name) for name in HOMES}
            self.name_servers()
            together([self._partner, self.before, *(self._home(n) for n in self.nodes.values())])
            together(self._begin(node.start, node.stop) for node in self.nodes.values())
            together(functools.partial(self._log_in, domain) for domain in LOCAL)
            for node in self.nodes.values():
                if not wait_until(node.finds_its_neighbours, 60):
                    raise PartFailed(f"no neighbours: {node.operator('status')}")
            self.after()
        except BaseException:
            self.stack.close()
            raise
        return self

    def _begin(self, start: object, stop: object) -> functools.partial[None]:
        return functools.partial(self._started, start, stop)

    def _started(self, start: object, stop: object) -> None:
        assert callable(start) and callable(stop)
        self.stack.callback(stop)
        start()

    def _home(self, node: ClusterNode) -> functools.partial[None]:
        return self._begin(node.home.start, node.home.stop)

    def _log_in(self, domain: str) -> None:
        node = next(node for node in self.nodes.values() if domain in node.domains)
        assert isinstance(node.home, HomeProsody)
        home = replace(node.home, domain=domain)
        user = xmpp_user(self.directory / "users" / domain, home, NAME, netns=node.netns)
        self.stack.callback(user.stop)
        self.users[domain] = user

    def before(self) -> None:
        """Start what stands before the nodes."""

    def after(self) -> None:
        """Wait for what stands before the nodes to find them."""

    def name_servers(self) -> None:
        """Start the two views of the names: one for the nodes, one for everybody else."""
        ours, theirs = self.at(self.plan.public, "internet"), self.at("border", "internet")
        hosts = {f"sip.{domain}": [ours] for domain in LOCAL}
        hosts |= {f"edge.{domain}": [theirs] for domain in FOREIGN}
        hosts |= {name: [ours] for name in self.common_names}
        services = []
        for domain, host in [*((d, "sip") for d in LOCAL), *((d, "edge") for d in FOREIGN)]:
            for service in ("_sipfederationtls._tcp", "_sips._tcp"):
                services.append((f"{service}.{domain}", f"{host}.{domain}", 5061))
        inside = {f"{name}.company.example": [self.at(name, "inside")] for name in HOMES}
        inside |= self.private_names()
        public = NameServer(self.machine("public"), self.directory / "dns", hosts, services)
        self.stack.callback(public.stop)
        onward = self.machine("public").at("internet")
        names = NameServer(self.machine("names"), self.directory / "dns", inside, onward=[onward])
        self.stack.callback(names.stop)

    def private_names(self) -> dict[str, list[str]]:
        """Return more names of the internal view, with their addresses."""
        return {}

    def _partner(self) -> None:
        version = self.variant.version
        outer = [a for a in self.machine("border").addresses["internet"] if _is(a, version)]
        inner, server = self.at("border", "partner"), self.at("server", "partner")
        names = (BORDER, "inner.lync.example", *FOREIGN, *(f"edge.{d}" for d in FOREIGN[1:]))
        listen = [*((address, BORDER) for address in outer), (inner, "inner.lync.example")]
        self.border = Edge(
            self.machine("border"), self.directory / "border", self.authority.issue(*names),
            listen, (server, 5061), FOREIGN, one_server=True, stateless=self.variant.stateless,
        )  # fmt: skip
        self.stack.callback(self.border.stop)
        certificate = self.authority.issue("sip.lync.example", "lync.example")
        users = [f"{who}@lync.example" for who in PEOPLE]
        users += [f"romeo@{domain}" for domain in FOREIGN[1:]]
        self.far = Talker(
            "farside",
            [
                sys.executable, "-m", "demo.farside", "--domain", "lync.example",
                "--listen", f"{bracketed(server)}:5061", "--node", f"{bracketed(inner)}:5061",
                "--node-name", BORDER, "--edge", BORDER, "--certificate", certificate.certificate,
                "--key", certificate.key, "--ca", certificate.ca, "--accept-delay", "0.3",
                *(word for user in users for word in ("--user", user)),
            ],
            self.directory,
            netns=self.machine("server").netns,
        )  # fmt: skip
        self.stack.callback(self.far.stop)
        self.far.expect(event="ready")


def _is(address: str, version: int) -> bool:
    return ip_address(address).version == version


_current: dict[tuple[type[Scene], Variant], Scene | Exception] = {}


def stop() -> None:
    """Stop the scene that runs."""
    for found in _current.values():
        if isinstance(found, Scene):
            found.stack.close()
    _current.clear()


atexit.register(stop)


def scene(kind: type[Scene], variant: Variant) -> Scene:
    """Return a scene, started once, and the only one: another one is stopped for it.

    :raises PartFailed: with what kept it from starting, each time.
    """
    if (kind, variant) not in _current:
        stop()
        try:
            _current[kind, variant] = kind(variant).start()
        except Exception as error:
            _current[kind, variant] = error
    found = _current[kind, variant]
    if isinstance(found, Exception):
        raise PartFailed(f"{type(found).__name__}: {found}")
    return found
