"""A node's process: started on what the store holds, killed, paused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from impfed.config.model import (
    Config,
    DnsConfig,
    HomeConfig,
    ListenerConfig,
    NextHopConfig,
    NodeConfig,
    SipDomainConfig,
    TlsConfig,
)
from impfed.config.s2s import S2SConfig, S2SDomainConfig
from impfed.core.ids import IdSource
from impfed.service import Node
from impfed.store.api import Change, Done, Enter, Put, StoreError, StoreFault, call_done
from impfed.store.encoding import decode, encode
from impfed.store.memory import MemoryStore
from tests.simulation.cast import NAMES, PARTNER, PARTNER_DOMAIN, SECRET, XMPP_DOMAIN, Cast, Home
from tests.simulation.loop import Loop, SimReactor
from tests.simulation.network import Network


class Disk:
    """What survives a process: the records and ledger of a store.

    :ivar trouble: what every write is refused with; None while all is well.
    :ivar slow: seconds that a commit takes at most.
    :ivar commits: how many there were.
    :ivar before_commit: called with the number of each one, right before it is made.
    """

    def __init__(self) -> None:
        self.records: dict[str, dict[str, bytes]] = {}
        self.ledger: dict[str, Any] = {}
        self.trouble: StoreFault | None = None
        self.slow = 0.01
        self.commits = 0
        self.before_commit: Callable[[int], None] | None = None


class SimStore(MemoryStore):
    """The store of one process: commits after a while, unless the process dies before."""

    def __init__(self, reactor: SimReactor, disk: Disk) -> None:
        super().__init__()
        self._reactor = reactor
        self._disk = disk
        self._records = disk.records
        self._ledger = disk.ledger
        self._queue: list[tuple[list[Change], Done | None]] = []

    @property
    def backlog(self) -> int:
        """Writes not confirmed yet."""
        return len(self._queue)

    def write(self, changes: Any, done: Done | None = None, *, within: float = 0.0) -> None:
        """Make changes, a moment later; their values are those of now."""
        self._queue.append(([_snapshot(change) for change in changes], done))
        if len(self._queue) == 1:
            loop = self._reactor.loop
            delay = loop.random.uniform(0.0, self._disk.slow)
            loop.after(delay, lambda: self._reactor.happen(self._commit))

    def load(self, kind: Any) -> Any:
        """Return records, everything written before included."""
        self._commit()
        return super().load(kind)

    def _commit(self) -> None:
        if not self._queue:
            return
        self._disk.commits += 1
        if self._disk.before_commit is not None:
            self._disk.before_commit(self._disk.commits)
            if not self._reactor.alive:
                return
        queue, self._queue = self._queue, []
        trouble = self._disk.trouble
        for changes, done in queue:
            error = None if trouble is None else StoreError(trouble, "made up by the test")
            if error is None:
                self._apply(changes)
            call_done(done, error)


def _snapshot(change: Change) -> Change:
    if isinstance(change, Put):
        return Put(decode(type(change.record), encode(change.record)))
    if isinstance(change, Enter):
        return Enter(msgspec.structs.replace(change.entry))
    return change


def _home(home: Home) -> HomeConfig:
    return HomeConfig(home.name, home.kind, (home.domain,), home.host, 5347, SECRET, home.gate)


class NodeProcess:
    """One node, whatever becomes of it.

    :param cast: whom it connects.
    :ivar node: the living node; None while there is none.
    """

    def __init__(self, loop: Loop, network: Network, cast: Cast, name: str, host: str) -> None:
        self.loop = loop
        self.network = network
        self.cast = cast
        self.name = name
        self.host = host
        self.disk = Disk()
        self.node: Node | None = None
        self.reactor = SimReactor(loop, network, host)
        self.starts = 0

    @property
    def configuration(self) -> Config:
        """What the operator has written."""
        hop = NextHopConfig(PARTNER, 5060, "tcp")
        domain = SipDomainConfig(PARTNER_DOMAIN, "microsoft", next_hop=hop, listed=True)
        s2s = S2SConfig(
            host=self.host,
            secret="a secret of all nodes",
            tls="none",
            require_certificates=False,
            domains=(S2SDomainConfig(XMPP_DOMAIN),),  # for homes with a component for each domain
        )
        return Config(
            path=Path("simulated.toml"),
            node=NodeConfig(name=self.name, control_socket=Path("/tmp/impfed-simulated.sock")),
            tls=TlsConfig(),
            listeners=(ListenerConfig("sip", "tcp", self.host, 5060, self.host, 5060),),
            domains=(domain,) if self.cast.sip else (),
            homes=tuple(map(_home, self.cast.homes)),
            s2s=s2s if self.cast.xmpp else None,
            dns=DnsConfig(servers=((NAMES, 53),)),
        )

    def start(self) -> None:
        """Start it."""
        self.starts += 1
        skew = self.reactor.skew
        self.reactor = SimReactor(self.loop, self.network, self.host)
        self.reactor.skew = skew
        self.reactor.ended = self.ended
        ids = IdSource(self.loop.random.randbytes)
        self.node = Node(
            self.reactor, self.configuration, self.make_store(ids), ids, lambda: self.loop.now
        )
        self.node.startService()

    def ended(self) -> None:
        """The process has ended by itself, for it could not start."""
        raise AssertionError(f"{self.name} gave up")

    def make_store(self, ids: IdSource) -> Any:
        """Return the store of a new process."""
        return SimStore(self.reactor, self.disk)

    def kill(self, silent: bool = False) -> None:
        """Kill it: ``kill -9``, or the machine with it."""
        if self.node is not None:
            self.network.process_died(self.reactor, silent)
            self.node = None
