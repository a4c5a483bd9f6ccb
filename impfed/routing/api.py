"""The interfaces of the routing room: what a route plugin and a directory promise.

A route answers "where does this request go?" (DESIGN: IRoute), a directory "does this user exist, and
where is his home?" (IDirectory).  Both are zope interfaces so that packages outside the tree can
provide them through :mod:`twisted.plugin`; docs/plugins.md shows how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from impfed.sip.target import Hop

if TYPE_CHECKING:
    from impfed.config.model import Config
    from impfed.core.dns import Lookup
    from impfed.core.metrics import Metrics
    from impfed.routing.order import Uniform

#: Version of these interfaces; a plugin names the one it was written for.
INTERFACE_VERSION = 1


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """What is to be routed.

    :ivar method: SIP method, for example ``INVITE``.
    :ivar from_address: bare address of the sender, ``user@domain``.
    :ivar to_address: bare address of the recipient.
    :ivar outbound: whether the request leaves towards a foreign domain.
    :ivar protocol: "sip" or "xmpp", the protocol that the asker can speak on.
    :ivar kind: kind of the recipient's domain ("microsoft", ...), "" for one that is not configured.
    """

    method: str
    from_address: str
    to_address: str
    outbound: bool = True
    protocol: str = "sip"
    kind: str = ""

    @property
    def to_domain(self) -> str:
        """The recipient's domain, lower case."""
        return self.to_address.rpartition("@")[2].lower()

    @property
    def to_user(self) -> str:
        """The recipient's user part, as it came."""
        return self.to_address.rpartition("@")[0]

    @property
    def local_domain(self) -> str:
        """The domain of ours that is concerned: the sender's on the way out, else the recipient's."""
        address = self.from_address if self.outbound else self.to_address
        return address.rpartition("@")[2].lower()


@dataclass(frozen=True, slots=True)
class Reject:
    """A route's decision that a request goes nowhere.

    :ivar status: SIP status that says so.
    :ivar reason: why, in words for the operator.
    """

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class OverXmpp(Reject):
    """The decision that a domain is reached over XMPP: for SIP, a rejection that says where to go."""


class Existence(Enum):
    """What a directory knows of a user."""

    EXISTS = "exists"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PluginContext:
    """What a plugin is made with.

    :ivar settings: the ``settings`` table of its entry in the configuration.
    :ivar config: the whole configuration.
    :ivar reactor: the reactor.
    :ivar metrics: counters; a plugin's names begin with ``plugin.NAME.``.
    :ivar lookup: asks the DNS as the configuration says, with a cache.
    :ivar uniform: the source of chance, for drawing lots.
    :ivar shared: things that built-in routes share; nothing for third parties.
    """

    settings: Mapping[str, Any]
    config: Config
    reactor: Any
    metrics: Metrics
    lookup: Lookup
    uniform: Uniform
    shared: Mapping[str, Any] = field(default_factory=dict)


class IRoute(Interface):
    """A route: turns a query into next hops, or says that it is not its business."""

    name = Attribute("Name of the route, as the configuration and traces call it (str).")
    order = Attribute("Routes are asked by rising order (int).")
    interface_version = Attribute("INTERFACE_VERSION that the route was written for (int).")

    def resolve(
        query: RouteQuery,
    ) -> Sequence[Hop] | Reject | Deferred[Sequence[Hop] | Reject | None] | None:
        """Return the hops in order of preference, a Reject, or None for "not mine"."""


class IDirectory(Interface):
    """A directory of local users."""

    name = Attribute("Name of the directory (str).")
    interface_version = Attribute("INTERFACE_VERSION that the directory was written for (int).")

    def lookup(address: str) -> Existence | Deferred[Existence]:
        """Say whether a local user ``user@domain`` exists."""


class IRoutePlugin(Interface):
    """What stands in a file of ``twisted/plugins``: makes the route that the configuration names."""

    name = Attribute("Name by which the configuration finds it (str).")
    interface_version = Attribute("INTERFACE_VERSION that it was written for (int).")

    def make(context: PluginContext) -> IRoute:
        """Make the route; a :class:`ValueError` says in words what is wrong with the settings."""


class IDirectoryPlugin(Interface):
    """What stands in a file of ``twisted/plugins``: makes the directory of some local domains."""

    name = Attribute("Name by which the configuration finds it (str).")
    interface_version = Attribute("INTERFACE_VERSION that it was written for (int).")

    def make(context: PluginContext, domains: Sequence[str]) -> IDirectory:
        """Make the directory of these local domains."""
