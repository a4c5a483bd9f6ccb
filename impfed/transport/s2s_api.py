"""What the S2S service, its parts and its user know of one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from zope.interface import Interface

from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.transport.s2s_tls import S2STls
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.s2s_parts import StreamLimits
from impfed.xmpp.s2s_security import Security
from impfed.xmpp.stanza import OutStanza, Stanza

if TYPE_CHECKING:
    from impfed.transport.s2s_connection import S2SConnection


@dataclass(frozen=True, slots=True)
class S2SLimits:
    """Times in seconds and bounds of the service.

    :ivar connect: how long a TCP connection may take.
    :ivar patience: how long a stanza may wait for a stream before it is returned.
    :ivar errors: how long a message of type error may wait, of which nobody could be told.
    :ivar idle: without a stanza for so long an outgoing stream is closed.
    :ivar idle_in: the same for incoming ones.
    :ivar dead: after so long the kernel gives up a peer that answers nothing.
    :ivar stable: how long a stream must have stood for its back-off to start afresh.
    :ivar queue: stanzas that may wait for one pair of domains.
    :ivar queue_octets: and their octets.
    :ivar connections: incoming connections altogether.
    :ivar unproven: incoming connections that have proven no domain, altogether.
    :ivar unproven_per_address: and from one address.
    :ivar verifications: authoritative servers that are asked at once.
    :ivar routes: pairs of domains that are remembered.
    """

    connect: float = 10.0
    patience: float = 30.0
    errors: float = 600.0
    idle: float = 600.0
    idle_in: float = 3600.0
    dead: float = 50.0
    stable: float = 30.0
    queue: int = 1000
    queue_octets: int = 4 * 1024 * 1024
    connections: int = 5000
    unproven: int = 500
    unproven_per_address: int = 20
    verifications: int = 100
    routes: int = 20000
    stream: StreamLimits = field(default_factory=StreamLimits)


@dataclass(frozen=True, slots=True)
class S2SListener:
    """Where other servers connect to.

    :ivar direct: whether TLS begins at once (XEP-0368).
    """

    host: str = "0.0.0.0"
    port: int = 5269
    direct: bool = False


class IS2SUser(Interface):
    """What uses the service: the relay."""

    def stanza_arrived(stanza: Stanza, stream: S2SConnection | None) -> None:
        """Take a stanza from a foreign domain to a local one.

        Its domains are proven.  ``stream`` is None for an error that this node itself makes of a
        stanza it could not deliver.
        """


class Fate(Enum):
    """What became of a stanza, as far as it can be known here."""

    WAITING = "waits for a stream"
    ACKNOWLEDGED = "the peer has taken it (XEP-0198)"
    WRITTEN = "written to a stream whose peer acknowledges nothing"
    RETURNED = "returned to its sender"


#: Is told what became of a stanza, with the error's condition and words if it was returned.  After
#: WAITING another word follows, and after WRITTEN one may: what the connection did not take goes again.
FateTeller = Callable[[OutStanza, Fate, str, str], None]


class StreamWatcher(Protocol):
    """What is told more of streams and stanzas than a plain user: a link to a home server."""

    def acknowledged(self, stanzas: list[OutStanza]) -> None:
        """The peer has taken stanzas, over a stream on which an error would have come before."""

    def returned(self, stanza: OutStanza, condition: str, words: str) -> None:
        """A stanza could not be delivered; nobody else is told of it."""

    def stream_lost(self, local: str, remote: str, words: str) -> None:
        """A stream that stood is gone; what it has not acknowledged waits for the next one."""

    def stream_failed(self, local: str, remote: str, words: str, lasting: bool) -> None:
        """No stream came about; the next attempt is made later.

        :param lasting: whether it is likely to end the same way.
        """


class AllBut:
    """Every domain, except some.

    :param excepted: prepared domains.
    """

    def __init__(self, excepted: Iterable[str]) -> None:
        self._excepted = frozenset(excepted)

    def __contains__(self, domain: object) -> bool:
        return bool(domain) and domain not in self._excepted


class S2SSettings(Protocol):
    """Settings by domain."""

    def security(self, local: str, remote: str) -> Security:
        """Return the security settings; either domain may be "" while it is not known."""

    def anchors(self, remote: str) -> Path | None:
        """Return the PEM file of a peer's own trusted roots; None for the node's."""

    def vouchers(self, remote: str) -> tuple[str, ...]:
        """Return the names in a certificate that prove a peer's domain besides its own."""

    def certificate(self, remote: str) -> str:
        """Return the name of the certificate to show a peer: "" by our domain, "none" for none."""

    def refusal(self, local: str, remote: str, incoming: bool) -> str:
        """Say why policy refuses a pair of domains; "" when it does not."""


@dataclass(frozen=True)
class FixedSettings:
    """The same settings for every peer, but for overrides by its domain.

    :ivar nodes: names in certificates of nodes that may speak for every foreign domain.
    """

    default: Security = field(default_factory=Security)
    overrides: dict[str, Security] = field(default_factory=dict)
    roots: dict[str, Path] = field(default_factory=dict)
    certificates: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()

    def security(self, local: str, remote: str) -> Security:
        """Return the settings of a peer, else the default."""
        return self.overrides.get(remote, self.default)

    def anchors(self, remote: str) -> Path | None:
        """Return a peer's own roots."""
        return self.roots.get(remote)

    def vouchers(self, remote: str) -> tuple[str, ...]:
        """Return the nodes."""
        return self.nodes

    def certificate(self, remote: str) -> str:
        """Return the certificate to show a peer."""
        return self.certificates.get(remote, "")

    def refusal(self, local: str, remote: str, incoming: bool) -> str:
        """Return the words for a refused domain."""
        return self.refused.get(remote, "")


class LiveConnections:
    """All TCP connections that stand, so that the end of the last can be waited for."""

    def __init__(self) -> None:
        self._all: set[S2SConnection] = set()
        self._waits: list[Deferred[None]] = []

    def add(self, connection: S2SConnection) -> None:
        """A connection stands."""
        self._all.add(connection)

    def discard(self, connection: S2SConnection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if not self._all:
            waits, self._waits = self._waits, []
            for wait in waits:
                wait.callback(None)

    def close(self, words: str, condition: str) -> Deferred[None]:
        """Close all in good order; fires when the last is gone."""
        wait: Deferred[None] = Deferred()
        self._waits.append(wait)
        for connection in list(self._all):
            connection.close(words, condition)
        if not self._all:
            self._waits.remove(wait)
            wait.callback(None)
        return wait


@dataclass(frozen=True, slots=True)
class S2SContext:
    """What the parts of the service share."""

    reactor: Any
    timers: ReactorTimers
    ids: IdSource
    metrics: Metrics
    tracer: Tracer
    limits: S2SLimits
    settings: S2SSettings
    tls: S2STls
    targets: Any  # provider of ITargetFinder
    world: Any  # provider of S2SWorld, for the streams
    live: LiveConnections
