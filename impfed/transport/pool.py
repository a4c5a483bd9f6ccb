"""Connections of ours, one for each (transport, host, port, TLS names, own certificate, lane).

A connection is made when something is first sent to its target; what is sent meanwhile waits in its
flow.  After a failure the target rests for a while, longer each time, and what is sent to it fails
at once: its sender learns early and may try another hop.  After each rest the pool tries the target
by itself, so that nobody has to wait to find out that it is back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.protocols.tls import TLSMemoryBIOFactory

from impfed.core.errors import LocalError
from impfed.core.hosts import bracketed
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.sip.target import Hop
from impfed.transport.attempt import Attempt, ConnectFactory
from impfed.transport.flow import Flow, FlowOwner, NoFlow
from impfed.transport.reuse import Reuse
from impfed.transport.stream import StreamFlow
from impfed.transport.tls import TlsStore
from impfed.transport.tls_transport import TlsTransport

log = EventLog("impfed.sip")

#: Targets remembered as failing; beyond this those whose rest is over are forgotten.
_RESTING_LIMIT = 1000

#: Seconds for which a peer that has fallen silent is not waited for over new connections either.
_AVOIDED = 30.0

#: A connection that ends sooner than this, without a word from the peer, counts as a failure.
_SHORT = 5.0

#: Seconds for which a target that failed is tried again although nothing is sent to it.
_WANTED = 600.0


@dataclass(frozen=True, slots=True)
class Target:
    """What a connection is made for; equal targets share one connection.

    :ivar names: names of which the peer's certificate must carry one (RFC 5922); empty without TLS.
    :ivar certificate: name of the certificate that we show; "" the default, "none" for none.
    :ivar lane: which of several connections to the same place.
    """

    transport: str
    host: str
    port: int
    names: tuple[str, ...] = ()
    certificate: str = ""
    lane: int = 0

    @classmethod
    def of_hop(cls, hop: Hop) -> Target:
        """Return the target of a next hop."""
        if hop.transport != "tls":
            return cls(hop.transport, hop.host, hop.port, lane=hop.lane)
        names = (hop.tls_name or hop.host,)
        return cls("tls", hop.host, hop.port, names, hop.certificate, hop.lane)

    def __str__(self) -> str:
        return f"{self.transport}:{bracketed(self.host)}:{self.port}"


@dataclass(slots=True)
class _Rest:
    """How long a target that failed is left alone.

    :ivar failures: how many in a row.
    :ivar until: when it is tried again.
    :ivar silent: whether it did not even refuse: finding out took long.
    :ivar wanted: when something was last sent there.
    """

    failures: int
    until: float
    reason: str
    silent: bool
    wanted: float


class Pool:
    """All connections that we have opened.

    :param owner: is told what happens to them.
    :param reactor: connects and resolves.
    :ivar reuse: connections of peers that may be used in place of our own.
    """

    def __init__(self, owner: FlowOwner, reactor: Any, tls: TlsStore, ids: IdSource) -> None:
        self._owner = owner
        self._reactor = reactor
        self._tls = tls
        self._ids = ids
        self._flows: dict[Target, StreamFlow] = {}
        self._resting: dict[Target, _Rest] = {}
        self._attempts: set[Attempt] = set()
        self.reuse = Reuse(tls)
        self._once: set[Target] = set()
        self._over = False
        self._silent: dict[str, tuple[float, str]] = {}  # by address and name: until when, and why

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def flows(self) -> list[StreamFlow]:
        """All connections, open or being made."""
        return list(self._flows.values())

    def flow(self, target: Target, others: bool = False) -> Flow:
        """Return the connection for a target, a new one if there is none.

        While the target rests, or when our certificate for it does not exist, a :class:`NoFlow`.

        :param others: whether there is another hop, so that this one may not take long.
        """
        flow = self._flows.get(target)
        rest = self._resting.get(target)
        if flow is not None and flow.alive:
            if others and not flow.patience:
                flow.hurry(self._owner.limits.failover_after)
            if rest is None or flow.opened is not None or not (rest.silent and others):
                return flow
        # A lane of its own is a connection of its own.
        theirs = None if target.lane else self.reuse.find(target)
        if theirs is not None:
            if others and not theirs.patience:
                theirs.hurry(self._owner.limits.failover_after)
            return theirs
        if rest is None and others and (flow is None or not flow.alive):
            rest = self._first_in_the_background(target)
        if rest is not None:
            rest.wanted = now = self._owner.timers.seconds()
            if flow is not None and flow.alive:
                return _no_flow(target, f"no connection to {target} yet: {rest.reason}")
            if now < rest.until:
                pause = f"next try in {rest.until - now:.1f} s"
                return _no_flow(target, f"no connection to {target} ({pause}): {rest.reason}")
        if self._over:
            return _no_flow(target, "this node stops")
        try:
            return self._open(target, others)
        except LocalError as error:
            return _no_flow(target, str(error))

    def avoid(self, flow: StreamFlow, reason: str) -> None:
        """A peer has fallen silent: whatever leads there is tried in the background before it is used."""
        now = self._owner.timers.seconds()
        self._silent = {key: one for key, one in self._silent.items() if one[0] > now}
        for key in (flow.remote[0], *flow.peer.names):
            self._silent[key] = (now + _AVOIDED, reason)

    def _first_in_the_background(self, target: Target) -> _Rest | None:
        """Let a target rest whose peer has just fallen silent, and try it; None for any other."""
        # By host alone: several hops of one domain may prove the same name.
        until, reason = self._silent.get(target.host, (0.0, ""))
        now = self._owner.timers.seconds()
        if until <= now:
            return None
        rest = self._resting[target] = _Rest(0, now + 0.1, reason, True, now)
        self._owner.timers.after(0.1, self._try_again, target, True)
        return rest

    def once(self, target: Target) -> Flow:
        """Return a connection that is tried once: its failure is told to its user alone.

        :param target: with a lane that nobody else has.
        """
        self._once.add(target)
        return self.flow(target)

    def _open(self, target: Target, others: bool) -> StreamFlow:
        place = (target.host, target.port)
        limits = self._owner.limits
        flow = StreamFlow(self._owner, target.transport, "", place, target)
        if others:
            flow.hurry(limits.failover_after)
        plain, factory = self._factory(flow, target)
        self._flows[target] = flow
        limit = limits.failover_after if others else limits.connect_timeout
        attempt = plain.attempt = Attempt(
            self._reactor, self._owner.timers, flow, place, factory, limit, self._attempts.discard
        )
        self._attempts.add(attempt)
        attempt.begin()
        return flow

    def lost(self, flow: StreamFlow, reason: str) -> None:
        """A connection of ours is gone: forget it, and let its target rest if it failed."""
        target = flow.target
        if target is None:
            return
        if self._flows.get(target) is flow:
            del self._flows[target]
        if target in self._once:
            self._once.discard(target)
            return
        now = self._owner.timers.seconds()
        lived = flow.opened is not None and now - flow.opened >= _SHORT
        if not flow.silent and (flow.heard or (lived and not flow.refused)):
            self._resting.pop(target, None)
            return
        self._rest(flow, target, reason, now)

    def forgive(self, target: Target) -> None:
        """Try a target at once when something is sent there next, whatever has failed."""
        rest = self._resting.get(target)
        if rest is not None:
            rest.until = self._owner.timers.seconds()

    def resting(self) -> dict[str, str]:
        """Return the targets that are left alone, with the reason, for status output."""
        now = self._owner.timers.seconds()
        return {str(key): rest.reason for key, rest in self._resting.items() if rest.until > now}

    def condition(self, target: Target) -> tuple[str, str]:
        """Return how things stand with a target: its connection's state, "resting" or "idle"; why."""
        flow = self._flows.get(target)
        rest = self._resting.get(target)
        if flow is not None and flow.alive:
            if rest is None or flow.opened is not None or not rest.silent:
                return flow.state.value, ""
            return "resting", f"{rest.reason} (being tried again)"
        left = 0.0 if rest is None else rest.until - self._owner.timers.seconds()
        if rest is not None and left > 0:
            return "resting", f"{rest.reason} (next try in {left:.1f} s)"
        return "idle", "" if rest is None else rest.reason

    def start(self) -> None:
        """Connect when something is sent."""
        self._over = False

    def stop(self) -> None:
        """Give up what is being connected, and connect no more."""
        self._over = True
        self._resting.clear()
        for attempt in list(self._attempts):
            attempt.stop()

    def _rest(self, flow: StreamFlow, target: Target, reason: str, now: float) -> None:
        limits = self._owner.limits
        known = self._resting.get(target)
        failures = known.failures + 1 if known is not None else 1
        pause = min(limits.backoff_limit, limits.backoff * 2.0 ** min(failures - 1, 16))
        pause *= self._ids.uniform(0.5, 1.0)
        if known is None and len(self._resting) >= _RESTING_LIMIT:
            self._resting = {key: rest for key, rest in self._resting.items() if rest.until > now}
        silent = flow.silent or now - flow.began >= limits.failover_after
        wanted = now if known is None else known.wanted
        self._resting[target] = _Rest(failures, now + pause, reason, silent, wanted)
        self._owner.timers.after(pause, self._try_again, target, bool(flow.patience))
        self._owner.count("sip.connect_failures")
        # A target that is tried again and again says so once.
        tell = log.warn if known is None or known.reason != reason else log.debug
        tell(
            "connect_failed",
            "no connection to {target} (failure {failures}, next try in {pause:.1f} s): {reason}",
            target=str(target),
            failures=failures,
            pause=pause,
            reason=reason,
        )

    def _try_again(self, target: Target, others: bool) -> None:
        """The rest of a target is over: see whether it is back, if anybody still wants it."""
        rest = self._resting.get(target)
        flow = self._flows.get(target)
        now = self._owner.timers.seconds()
        if rest is None or now < rest.until or (flow is not None and flow.alive):
            return
        if now >= rest.wanted + _WANTED:
            del self._resting[target]
            return
        self._owner.count("sip.reconnects")
        try:
            self._open(target, others)
        except LocalError as error:
            rest.reason = str(error)  # our certificate for it is gone; senders are told the same

    def _factory(self, flow: StreamFlow, target: Target) -> tuple[ConnectFactory, Any]:
        plain = ConnectFactory(flow)
        if target.transport != "tls":
            return plain, plain
        server_name = target.names[0] if target.names else target.host
        peer = f"{target.host}:{target.port}"
        creator = self._tls.client(target.certificate, server_name, peer)
        flow.remember = creator.remember
        factory = TLSMemoryBIOFactory(creator, True, plain, self._reactor)
        factory.protocol = TlsTransport
        return plain, factory


def _no_flow(target: Target, reason: str) -> NoFlow:
    return NoFlow(target.transport, (target.host, target.port), reason)
