"""Connections of ours, one for each (transport, host, port, TLS names, own certificate, lane).

A connection is made when something is first sent to its target; what is sent meanwhile waits in its
flow.  After a failure the target rests for a while, longer each time, and what is sent to it fails
at once: its sender learns early and may try another hop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress, IResolutionReceiver
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.errors import LocalError
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.sip.target import Hop
from impfed.transport.flow import Flow, FlowOwner, NoFlow, bracketed, is_address
from impfed.transport.stream import StreamFlow
from impfed.transport.tls import TlsStore, TlsTransport

log = EventLog("impfed.sip")

#: Targets remembered as failing; beyond this those whose rest is over are forgotten.
_RESTING_LIMIT = 1000

#: A connection that ends sooner than this, without a word from the peer, counts as a failure.
_SHORT = 5.0


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
    """How long a target that failed is left alone."""

    failures: int
    until: float
    reason: str


class Pool:
    """All connections that we have opened.

    :param owner: is told what happens to them.
    :param reactor: connects and resolves.
    """

    def __init__(self, owner: FlowOwner, reactor: Any, tls: TlsStore, ids: IdSource) -> None:
        self._owner = owner
        self._reactor = reactor
        self._tls = tls
        self._ids = ids
        self._flows: dict[Target, StreamFlow] = {}
        self._resting: dict[Target, _Rest] = {}
        self._attempts: set[_Attempt] = set()

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def flows(self) -> list[StreamFlow]:
        """All connections, open or being made."""
        return list(self._flows.values())

    def flow(self, target: Target) -> Flow:
        """Return the connection for a target, a new one if there is none.

        While the target rests, or when our certificate for it does not exist, a :class:`NoFlow`.
        """
        flow = self._flows.get(target)
        if flow is not None and flow.alive:
            return flow
        rest = self._resting.get(target)
        now = self._owner.timers.seconds()
        if rest is not None and now < rest.until:
            reason = (
                f"no connection to {target} (next try in {rest.until - now:.1f} s): {rest.reason}"
            )
            return NoFlow(target.transport, (target.host, target.port), reason)
        flow = StreamFlow(self._owner, target.transport, "", (target.host, target.port), target)
        try:
            plain, factory = self._factory(flow, target)
        except LocalError as error:
            return NoFlow(target.transport, (target.host, target.port), str(error))
        self._flows[target] = flow
        attempt = plain.attempt = _Attempt(self, flow, target, factory)
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
        now = self._owner.timers.seconds()
        lived = flow.opened is not None and now - flow.opened >= _SHORT
        if flow.heard or (lived and not flow.refused):
            self._resting.pop(target, None)
            return
        self._rest(target, reason, now)

    def forgive(self, target: Target) -> None:
        """Try a target at once when something is sent there next, whatever has failed."""
        self._resting.pop(target, None)

    def resting(self) -> dict[str, str]:
        """Return the targets that are left alone, with the reason, for status output."""
        now = self._owner.timers.seconds()
        return {str(key): rest.reason for key, rest in self._resting.items() if rest.until > now}

    def condition(self, target: Target) -> tuple[str, str]:
        """Return how things stand with a target: its connection's state, "resting" or "idle"; why."""
        flow = self._flows.get(target)
        if flow is not None and flow.alive:
            return flow.state.value, ""
        rest = self._resting.get(target)
        left = 0.0 if rest is None else rest.until - self._owner.timers.seconds()
        if rest is not None and left > 0:
            return "resting", f"{rest.reason} (next try in {left:.1f} s)"
        return "idle", "" if rest is None else rest.reason

    def stop(self) -> None:
        """Give up what is being connected."""
        for attempt in list(self._attempts):
            attempt.stop()

    def _rest(self, target: Target, reason: str, now: float) -> None:
        limits = self._owner.limits
        known = self._resting.get(target)
        failures = known.failures + 1 if known is not None else 1
        pause = min(limits.backoff_limit, limits.backoff * 2.0 ** min(failures - 1, 16))
        pause *= self._ids.uniform(0.5, 1.0)
        if known is None and len(self._resting) >= _RESTING_LIMIT:
            self._resting = {key: rest for key, rest in self._resting.items() if rest.until > now}
        self._resting[target] = _Rest(failures, now + pause, reason)
        self._owner.count("sip.connect_failures")
        log.warn(
            "connect_failed",
            "no connection to {target} (failure {failures}, next try in {pause:.1f} s): {reason}",
            target=str(target),
            failures=failures,
            pause=pause,
            reason=reason,
        )

    def _factory(self, flow: StreamFlow, target: Target) -> tuple[_ClientFactory, Any]:
        plain = _ClientFactory(flow)
        if target.transport != "tls":
            return plain, plain
        server_name = target.names[0] if target.names else target.host
        peer = f"{target.host}:{target.port}"
        creator = self._tls.client(target.certificate, server_name, peer)
        flow.remember = creator.remember
        factory = TLSMemoryBIOFactory(creator, True, plain, self._reactor)
        factory.protocol = TlsTransport
        return plain, factory


class _ClientFactory(ClientFactory):
    """Gives the one connection of a flow its protocol."""

    noisy = False
    attempt: _Attempt | None = None

    def __init__(self, flow: StreamFlow) -> None:
        self._flow = flow

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Twisted: the connection stands."""
        if self.attempt is not None:
            self.attempt.over()
        return self._flow.wire

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Twisted: this address did not answer."""
        if self.attempt is not None:
            self.attempt.failed(reason.getErrorMessage())


@implementer(IResolutionReceiver)
class _Attempt:
    """Finds the addresses of a host and tries one after the other."""

    def __init__(self, pool: Pool, flow: StreamFlow, target: Target, factory: Any) -> None:
        self._pool = pool
        self._flow = flow
        self._target = target
        self._factory = factory
        self._addresses: list[str] = []
        self._connector: Any = None
        self._failures: list[str] = []

    def begin(self) -> None:
        """Start."""
        if is_address(self._target.host):
            self._addresses = [self._target.host]
            self._next()
        else:
            resolver = self._pool._reactor.nameResolver
            resolver.resolveHostName(self, self._target.host, self._target.port)

    def stop(self) -> None:
        """Give up."""
        self.over()
        if self._connector is not None:
            connector, self._connector = self._connector, None
            connector.disconnect()

    def over(self) -> None:
        """There is a connection, or there will be none."""
        self._pool._attempts.discard(self)

    def failed(self, reason: str) -> None:
        """One address did not answer."""
        self._failures.append(reason)
        self._next()

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        """Twisted: the resolver is at work."""

    def addressResolved(self, address: Any) -> None:
        """Twisted: the host has this address."""
        if address.host not in self._addresses:
            self._addresses.append(address.host)

    def resolutionComplete(self) -> None:
        """Twisted: there are no more addresses."""
        if not self._addresses:
            self._failures.append(f"the host name {self._target.host} has no address")
        self._next()

    def _next(self) -> None:
        self._connector = None
        if not self._flow.alive or self not in self._pool._attempts:
            self.over()
            return
        if not self._addresses:
            self.over()
            self._flow.lost(_distinct(self._failures))
            return
        address = self._addresses.pop(0)
        try:
            self._connector = self._pool._reactor.connectTCP(
                address,
                self._target.port,
                self._factory,
                timeout=self._pool._owner.limits.connect_timeout,
            )
        except (ConnectError, OSError) as error:
            self.failed(str(error))


def _distinct(reasons: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(reasons)) or "no connection"
