"""The interfaces of the routing room: what a route plugin and a directory promise.

A route answers "where does this request go?" (DESIGN: IRoute), a directory "does this user exist, and
where is his home?" (IDirectory).  Both are zope interfaces so that packages outside the tree can
provide them through :mod:`twisted.plugin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from impfed.sip.target import Hop

#: Version of these interfaces; a plugin names the one it was written for.
INTERFACE_VERSION = 1


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """What is to be routed.

    :ivar method: SIP method, for example ``INVITE``.
    :ivar from_address: bare address of the sender, ``user@domain``.
    :ivar to_address: bare address of the recipient.
    :ivar outbound: whether the request leaves towards a foreign domain.
    """

    method: str
    from_address: str
    to_address: str
    outbound: bool = True

    @property
    def to_domain(self) -> str:
        """The recipient's domain, lower case."""
        return self.to_address.rpartition("@")[2].lower()


@dataclass(frozen=True, slots=True)
class Reject:
    """A route's decision that a request goes nowhere.

    :ivar status: SIP status that says so.
    :ivar reason: why, in words for the operator.
    """

    status: int
    reason: str


class Existence(Enum):
    """What a directory knows of a user."""

    EXISTS = "exists"
    ABSENT = "absent"
    UNKNOWN = "unknown"


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
