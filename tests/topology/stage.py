"""What every scene has: the machines of a topology, a certificate authority, name servers, a SIP partner."""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from demo.certificates import Authority
from demo.far import far_side
from demo.parts import ROOT, PartFailed, Talker

from .dns import NameServer
from .kamailio import Edge, bracketed
from .net import Machine
from .node import ClusterNode
from .plan import Plan

RUN = ROOT / "run" / "topology" / str(os.getpid())

#: The partner's domains: elsewhere, under one of ours, above one of ours, and beside one of ours.
FOREIGN = ("lync.example", "foreign.company.example", "group.example", "b.firm.example")
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


#: Nothing of it.
PLAIN = Variant()


class Stage(ABC):
    """Everything that runs in one topology.

    :ivar nodes: by name.
    :ivar users: local domain -> its user, logged in.
    :ivar far: the partner's people.
    """

    #: Name of the topology in docs/topologies.toml.
    topology = ""
    #: The local domains.
    local: tuple[str, ...] = ()
    #: Names of the public address that every node's certificate carries besides.
    common_names: tuple[str, ...] = ()

    def __init__(self, variant: Variant = PLAIN) -> None:
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
        self.public: NameServer

    # -- where things are --------------------------------------------------------------------------

    def machine(self, name: str) -> Machine:
        """Return a machine."""
        return self.network.machines[name]

    def at(self, name: str, lan: str) -> str:
        """Return a machine's address."""
        return self.machine(name).at(lan, self.variant.version)

    def inner(self, node: str, port: int = PORT) -> str:
        """Return address and port of a node for the machines inside."""
        return f"{bracketed(self.at(node, 'inside'))}:{port}"

    @property
    def anywhere(self) -> str:
        """What stands for every address of a machine."""
        return "[::]" if self.variant.version == 6 else "0.0.0.0"

    def told(self, node: str) -> str:
        """Return address and port that a node tells its peers: by the port table, or its own."""
        for row in self.plan.ports:
            if row.machine == node and row.port == PORT and row.public != 5061:
                return f"{bracketed(self.at(self.plan.public, 'internet'))}:{row.public}"
        return self.inner(node)

    # -- start -------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start everything; stops it again when a part fails."""
        try:
            self.build()
        except BaseException:
            self.stack.close()
            raise
        return self

    @abstractmethod
    def build(self) -> None:
        """Make and start all parts; what is to be stopped goes on the stack."""

    def begin(self, start: Callable[[], object], stop: Callable[[], object]) -> Callable[[], None]:
        """Return what starts a part, and has it stopped at the end."""
        return functools.partial(self._started, start, stop)

    def _started(self, start: Callable[[], object], stop: Callable[[], object]) -> None:
        self.stack.callback(stop)
        start()

    # -- names -------------------------------------------------------------------------------------

    def name_servers(self) -> None:
        """Start the two views of the names: one for the nodes, one for everybody else."""
        ours, theirs = self.at(self.plan.public, "internet"), self.at("border", "internet")
        hosts = {f"sip.{domain}": [ours] for domain in self.local}
        hosts |= {f"edge.{domain}": [theirs] for domain in FOREIGN}
        hosts |= {name: [ours] for name in self.common_names}
        hosts |= self.public_names()
        inside = {f"{name}.company.example": [self.at(name, "inside")] for name in self.nodes}
        inside |= self.private_names()
        directory = self.directory / "dns"
        self.public = NameServer(self.machine("public"), directory, hosts, self.services())
        self.stack.callback(self.public.stop)
        onward = self.machine("public").at("internet")
        names = NameServer(self.machine("names"), directory, inside, onward=[onward])
        self.stack.callback(names.stop)

    def services(self) -> list[tuple[str, str, int]]:
        """Return the SRV records of the public view: owner, target, port."""
        ends = [*((d, "sip") for d in self.local), *((d, "edge") for d in FOREIGN)]
        return [
            (f"{service}.{domain}", f"{host}.{domain}", 5061)
            for domain, host in ends
            for service in ("_sipfederationtls._tcp", "_sips._tcp")
        ]

    def public_names(self) -> dict[str, list[str]]:
        """Return more names of the public view, with their addresses."""
        return {}

    def private_names(self) -> dict[str, list[str]]:
        """Return more names of the internal view, with their addresses."""
        return {}

    # -- the partner -------------------------------------------------------------------------------

    def partner(self) -> None:
        """Start the partner: its edge, and the server behind."""
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
        self.far = far_side(
            self.directory, certificate, f"{bracketed(server)}:5061",
            (f"{bracketed(inner)}:5061", BORDER), users, "--edge", BORDER,
            netns=self.machine("server").netns,
        )  # fmt: skip
        self.stack.callback(self.far.stop)


def _is(address: str, version: int) -> bool:
    return ip_address(address).version == version


_current: dict[tuple[type[Stage], Variant], Stage | Exception] = {}


def stop() -> None:
    """Stop the scene that runs."""
    for found in _current.values():
        if isinstance(found, Stage):
            found.stack.close()
    _current.clear()


atexit.register(stop)


def scene(kind: type[Stage], variant: Variant) -> Stage:
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
