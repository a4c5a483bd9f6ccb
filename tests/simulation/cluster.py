"""A cluster of nodes that share a store, with mutual TLS between them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from impfed.config.model import (
    CertificateConfig,
    Config,
    ListenerConfig,
    NeighbourConfig,
    TlsConfig,
)
from impfed.core.ids import IdSource
from impfed.store.api import StoreError, StoreFault
from impfed.store.encoding import decode
from impfed.store.model import Model
from impfed.store.modellink import ModelLink
from impfed.store.records import (
    InboundSubscriptionRecord,
    OutboundSubscriptionRecord,
    SessionRecord,
)
from impfed.store.shared import SharedStore
from impfed.testing.pki import make_ca, make_certificate
from tests.simulation.cast import Cast
from tests.simulation.loop import Loop
from tests.simulation.network import Network
from tests.simulation.process import NodeProcess, SimStore
from tests.simulation.world import World

_FAULTS = (StoreFault.OUT_OF_MEMORY, StoreFault.READ_ONLY)
HOSTS = {"node1": "10.2.0.1", "node2": "10.2.0.2", "node3": "10.2.0.3"}


@cache
def _certificates() -> TlsConfig:
    """Return one authority and a certificate for each node; made once, for they cost time."""
    folder = Path(tempfile.mkdtemp(prefix="impfed-simulated-"))
    atexit.register(shutil.rmtree, folder)
    ca = make_ca(folder)
    issued = {name: make_certificate(ca, folder, f"{name}.home.example") for name in HOSTS}
    certificates = tuple(
        CertificateConfig(name, each.certificate, each.key) for name, each in issued.items()
    )
    return TlsConfig(certificates, ca.path)


class ClusterNode(NodeProcess):
    """A node of the cluster.

    :param model: the server that keeps the shared store.
    :ivar link: the way of the living process to it; None while there is none.
    :ivar before: see :class:`ModelLink`; for the links of all its processes.
    :ivar afterwards: the same.
    """

    def __init__(
        self, loop: Loop, network: Network, cast: Cast, name: str, host: str, model: Model
    ) -> None:
        super().__init__(loop, network, cast, name, host)
        self._model = model
        self.link: ModelLink | None = None
        self.before: Callable[[str], bool] = lambda operation: False
        self.afterwards: Callable[[str], bool] = lambda operation: False

    def make_store(self, ids: IdSource) -> Any:
        """Return the store of a new process: a way of its own to the shared server."""
        reactor = self.reactor
        self.link = link = ModelLink(self._model, reactor)
        link.delay = 0.0005
        link.before = lambda operation: not reactor.alive or self.before(operation)
        link.afterwards = lambda operation: self.afterwards(operation)
        return SharedStore(link, SimStore(self.reactor, self.disk), self.reactor, ids)

    def kill(self, silent: bool = False) -> None:
        """Kill it; what it had asked of the server is lost or done."""
        super().kill(silent)
        if self.link is not None:
            self._model.waiters.remove(self.link.wake)
            self.link = None

    @property
    def configuration(self) -> Config:
        """What the operator has written: the node as it would be alone, and its neighbours."""
        single = super().configuration
        tls = _certificates()
        own = next(each for each in tls.certificates if each.name == self.name)
        others = tuple(each for each in tls.certificates if each is not own)
        listener = ListenerConfig("nodes", "tls", self.host, 5061, self.host, 5061)
        names = {name: f"{name}.home.example" for name in HOSTS if name != self.name}
        return replace(
            single,
            node=replace(
                single.node,
                relay_secret="a secret of the whole cluster",
                trusted_upstreams=tuple(names.values()),
            ),
            tls=replace(tls, certificates=(own, *others)),
            listeners=(*single.listeners, listener),
            neighbours=tuple(
                NeighbourConfig(
                    name,
                    (),
                    HOSTS[name],
                    5061,
                    tls_name,
                    advertised=((HOSTS[name], 5060), (HOSTS[name], 5061)),
                )
                for name, tls_name in names.items()
            ),
        )


class ClusterWorld(World):
    """An installation of three nodes."""

    def make_nodes(self) -> list[NodeProcess]:
        """Return the nodes and make the server that they share."""
        self.model = Model(lambda: self.loop.now)
        return [
            ClusterNode(self.loop, self.network, self.cast, name, host, self.model)
            for name, host in HOSTS.items()
        ]

    def owner(self, call_id: str) -> str:
        """Return the address of the node that a dialog belongs to by the store, "" for none."""
        for kind in (InboundSubscriptionRecord, OutboundSubscriptionRecord, SessionRecord):
            for name, host in HOSTS.items():
                for data in self.model.rows(kind.kind, name):
                    dialog = decode(kind, data).dialog
                    if dialog is not None and dialog.call_id == call_id:
                        return host
        return ""

    def run(self) -> list[str]:
        """Run it; what is wrong afterwards includes what two nodes serve, or none."""
        return [*super().run(), *self._ownership()]

    def _ownership(self) -> list[str]:
        """In the end every subscription is served by one node, the one that the store names."""
        problems: list[str] = []
        served: dict[str, str] = {}
        for process in self.nodes:
            node = process.node
            assert node is not None and node.cluster is not None
            if not node.cluster.service.placement.settled:
                problems.append(f"{process.name} has not settled: {node.cluster.status()}")
            for line in node.presence.view():
                call = str(line["call_id"])
                if call in served:
                    problems.append(f"{call} is served by {served[call]} and {process.name}")
                served[call] = process.name
        for kind in (InboundSubscriptionRecord, OutboundSubscriptionRecord):
            for name in HOSTS:
                for data in self.model.rows(kind.kind, name):
                    record = decode(kind, data)
                    call = "" if record.dialog is None else record.dialog.call_id
                    if call and served.get(call) != name:
                        words = f"{name} by the store, {served.get(call)} in fact"
                        problems.append(f"{record.local} and {record.foreign}: {words}")
        return problems

    def _store(self) -> None:
        """The shared server is out of reach for one node or for all, or refuses writes."""
        random = self.loop.random
        kind = random.choice(("cut one", "cut all", "refuse"))
        if kind == "refuse":
            self.model.failing = StoreError(random.choice(_FAULTS), "made up")
        links = [node.link for node in self.nodes if isinstance(node, ClusterNode) and node.link]
        for link in links if kind == "cut all" else links[:1] if kind == "cut one" else ():
            link.cut()
        self.loop.after(random.choice((0.5, 3.0, 20.0)), self._store_well)

    def _store_well(self) -> None:
        self.model.failing = None
        for node in self.nodes:
            if isinstance(node, ClusterNode) and node.link is not None:
                node.link.heal()
