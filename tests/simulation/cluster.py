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
from tests.simulation.history import Said
from tests.simulation.loop import Loop
from tests.simulation.network import Network
from tests.simulation.outages import Outages
from tests.simulation.process import NodeProcess, SimStore
from tests.simulation.world import World

#: Share of the runs with a failing store in which it may lose what it has confirmed.
_LOSING = 0.4
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
        self._cut_off = False
        self.before: Callable[[str], bool] = lambda operation: False
        self.afterwards: Callable[[str], bool] = lambda operation: False

    def make_store(self, ids: IdSource) -> Any:
        """Return the store of a new process: a way of its own to the shared server."""
        reactor = self.reactor
        self.link = link = ModelLink(self._model, reactor)
        link.delay = 0.0005
        link.before = lambda operation: not reactor.alive or self.before(operation)
        link.afterwards = lambda operation: self.afterwards(operation)
        if self._cut_off:
            link.cut()
        return SharedStore(link, SimStore(self.reactor, self.disk), self.reactor, ids)

    @property
    def epoch(self) -> int:
        """The epoch of the living process; 0 for none."""
        cluster = None if self.node is None else self.node.cluster
        return 0 if cluster is None else cluster.service.epoch

    def ended(self) -> None:
        """Its store was away when it started: whoever looks after it tries again."""
        self.kill()
        self.loop.after(1.0, self.start_again)

    def start_again(self) -> None:
        """Start it unless it lives."""
        if self.node is None:
            self.start()

    def cut_off(self) -> None:
        """Lose the connection to the shared server, and get no other."""
        self._cut_off = True
        if self.link is not None:
            self.link.cut()

    def heal(self) -> None:
        """Get a connection again."""
        self._cut_off = False
        if self.link is not None:
            self.link.heal()

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
        loop = self.loop
        self.model = Model(lambda: loop.now, loop.after)
        nodes = [
            ClusterNode(loop, self.network, self.cast, name, host, self.model)
            for name, host in HOSTS.items()
        ]
        losing = bool(self.faults.store) and loop.random.random() < _LOSING
        self.outages = Outages(loop, self.model, nodes, losing)
        return list(nodes)

    def owner(self, call_id: str) -> str:
        """Return the address of the node that a dialog belongs to by the store, "" for none."""
        for kind in (InboundSubscriptionRecord, OutboundSubscriptionRecord, SessionRecord):
            for name, host in HOSTS.items():
                for data in self.model.rows(kind.kind, name):
                    dialog = decode(kind, data).dialog
                    if dialog is not None and dialog.call_id == call_id:
                        return host
        return ""

    def remembers(self) -> bool:
        """Whether the store has lost nothing: else a dialog that two have taken over may use a number again."""
        return not self.outages.losses

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

    def _excused(self, said: Said) -> bool:
        """Whether the store lost it, and the node that held it ended: docs/cluster.md has that promise."""
        lost = any(loss.excuses(said.at) for loss in self.outages.losses)
        return lost or super()._excused(said)

    def _store(self) -> None:
        self.outages.bring()

    def _store_well(self) -> None:
        self.outages.mend()

    def _end_faults(self) -> None:
        self.outages.end()
        super()._end_faults()
