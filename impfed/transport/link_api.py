"""What a home link, its service and its user know of one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from zope.interface import Attribute, Interface

from impfed.config.model import HomeConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.transport.handover import Settle
from impfed.transport.queries import Description
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.jid import JID
from impfed.xmpp.reader import ReaderLimits
from impfed.xmpp.stanza import OutStanza, Stanza

if TYPE_CHECKING:
    from impfed.transport.link_base import LinkBase


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Times in seconds and bounds of a home link.

    :ivar acceptance: how long a home server may take to accept a message.
    :ivar keepalive: silence after which a ping is sent; after as much again the link is given up.
    :ivar connect: how long a connection may take.
    :ivar congested: messages without confirmation from which the SIP side is asked to wait.
    :ivar queue: octets that may wait for the home server to read; beyond, messages are refused.
    :ivar gather: how long a stanza may wait for others while they come densely.
    :ivar stable: how long a link must have stood for its back-off to start afresh.
    """

    acceptance: float = 20.0
    keepalive: float = 30.0
    connect: float = 10.0
    congested: int = 1000
    queue: int = 4 * 1024 * 1024
    stable: float = 30.0
    gather: float = 0.002
    reader: ReaderLimits = field(default_factory=ReaderLimits)


class IHomeUser(Interface):
    """What uses the home links: the gateway."""

    def stanza_arrived(stanza: Stanza, link: LinkBase) -> None:
        """Take a message or presence from a local user to a foreign domain of ours."""

    def link_up(link: LinkBase) -> None:
        """Take note that a link stands."""

    def link_down(link: LinkBase, reason: str) -> None:
        """Take note that a link that stood is gone; messages without confirmation are unsure."""


class IForeignRelay(Interface):
    """What takes the stanzas for foreign domains that are reached over XMPP: the relay."""

    def takes(domain: str) -> bool:
        """Say whether a domain is one of those."""

    def reaches(domain: str) -> bool:
        """Say whether policy lets stanzas out to such a domain, too."""

    def from_home(stanza: Stanza) -> None:
        """Take a stanza of any kind from a local user or service."""

    def link_up(domains: frozenset[str]) -> None:
        """Take note that the home server of these local domains is there."""

    def not_written(stanza: OutStanza) -> None:
        """Take back a stanza that was passed on, and not written before the link broke."""


class IOwnAddress(Interface):
    """What answers at the node's own address: a component's own domain, and each address there."""

    features = Attribute("Features for service discovery, a sequence of str.")

    def stanza_arrived(stanza: Stanza) -> None:
        """Take a message or presence from a local user to the node itself."""

    def iq_arrived(stanza: Stanza) -> bool:
        """Answer an IQ of type get or set, now or later; False leaves it to the home link."""


class ILinkOwner(Interface):
    """What a link needs of the service that holds it."""

    user = Attribute("The IHomeUser.")
    relay = Attribute("The IForeignRelay, None without XMPP federation.")
    own = Attribute("The IOwnAddress, None if nobody answers at the node's own address.")

    def flush_later(link: LinkBase) -> None:
        """Call ``link.flush()`` at the end of this reactor turn."""

    def describe(address: JID) -> Sequence[Description]:
        """Say what service discovery says of an address."""

    def serves(domain: str) -> bool:
        """Say whether a domain is a foreign domain of ours."""


class LinkState(Enum):
    """Where a link stands."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    UP = "up"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class LinkContext:
    """What all links share."""

    connect: Callable[[HomeConfig, Factory, float], Deferred[Any]]
    timers: ReactorTimers
    ids: IdSource
    metrics: Metrics
    tracer: Tracer
    limits: LinkLimits
    settle: Settle
