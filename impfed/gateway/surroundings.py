"""What the gateway's sessions and subscriptions work with, handed to them as one value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from impfed.config.model import Config, SipDomainConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.gateway.dialogs import DialogTable
from impfed.gateway.paced import PacedStack
from impfed.interwork.address import Aliases
from impfed.interwork.availability import Kind
from impfed.routing.api import Existence, RouteQuery
from impfed.routing.neighbours import Neighbours
from impfed.routing.router import Resolution
from impfed.sip.target import Hop
from impfed.store.api import Change, Done
from impfed.transport.flow import Flow
from impfed.transport.home import HomeLinks
from impfed.transport.timers import ReactorTimers

_Way = TypeVar("_Way", bound=Flow | Hop | None)


class Writes(Protocol):
    """The part of the store that a running session uses."""

    @property
    def backlog(self) -> int:
        """Writes not yet confirmed."""
        ...

    def write(
        self, changes: list[Change], done: Done | None = None, *, within: float = 0.0
    ) -> None:
        """Make changes, all or none; see :class:`impfed.store.api.IStore`."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The collaborators of one node's gateway.

    :ivar stack: sends within each partner's budget.
    :ivar resolve: finds next hops; see :meth:`impfed.routing.router.Router.resolve`.
    :ivar lookup: asks whether a local user exists.
    :ivar domain: finds a foreign SIP domain's configuration by name.
    :ivar kind: finds a kind of SIP peer by name, with the operator's own rows.
    :ivar neighbours: the organisation's other nodes.
    """

    config: Config
    stack: PacedStack
    home: HomeLinks
    store: Writes
    resolve: Callable[[RouteQuery, Callable[[Resolution], None]], None]
    lookup: Callable[[str, Callable[[Existence], None]], None]
    domain: Callable[[str], SipDomainConfig | None]
    aliases: Aliases
    ids: IdSource
    timers: ReactorTimers
    metrics: Metrics
    dialogs: DialogTable
    kind: Callable[[str], Kind] = Kind.load
    neighbours: Neighbours = field(default_factory=Neighbours)

    def through(self, routes: Sequence[str], path: Flow | Hop | None) -> Flow | Hop | None:
        """Return the way to the neighbour that a dialog came through; None for one that did not.

        :param routes: the dialog's route set.
        :param path: the way that it came by; taken while it stands and is the neighbour's.
        """
        hop = self.neighbours.by_route(routes)
        if hop is not None and isinstance(path, Flow) and path.alive:
            return path if self.neighbours.who(path.peer.names) else hop
        return hop

    def way_back(self, routes: Sequence[str], flow: Flow, path: _Way) -> Flow | _Way:
        """Return the way of our next request in a dialog in which the peer has just sent one.

        It is the flow that this came by, unless a neighbour has only relayed it: what came to the wrong
        node once need not go that way again.

        :param routes: the dialog's route set.
        :param path: the dialog's way until now.
        """
        if self.neighbours and self.neighbours.who(flow.peer.names):
            return flow if self.neighbours.by_route(routes) is not None else path
        return flow

    def kind_of(self, domain: str) -> Kind:
        """Return the kind of a foreign domain; "simple" for one that is not configured."""
        found = self.domain(domain)
        return self.kind(found.kind if found is not None else "simple")


def message_id(around: Surroundings) -> str:
    """Return an id that sorts by time; see :meth:`impfed.core.ids.IdSource.ordered`."""
    return around.ids.ordered(around.timers.seconds())
