"""Which node holds the links to which home server: one by a lease, as the cluster places them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from impfed.cluster.ownership import Placement
from impfed.cluster.service import ClusterService
from impfed.config.model import HomeConfig
from impfed.core.log import EventLog
from impfed.gateway.cluster_home import ClusterHome, link_pair
from impfed.store.api import StoreError
from impfed.transport.timers import ReactorTimers

log = EventLog("impfed.cluster")

#: Seconds that messages of ours may take to be confirmed by a home server before its link moves, and
#: that the link may take to be replaced by another node's.
_QUIET, _REPLACED = 3.0, 5.0


class Announcement(msgspec.Struct, gc=False):
    """What a node tells the others of its home links.

    :ivar up: homes whose link is up, and since when.
    :ivar rosters: local domains whose users' rosters it may write.
    """

    up: dict[str, float] = {}
    rosters: list[str] = []


class LinkKeeper:
    """Takes the links that are this node's, and lets go of others.

    :param home: the home links as the gateway sees them.
    :param reachable: told the domains of a home server whose link has come up, at whichever node.
    :ivar up: homes whose link is up here, and since when.
    """

    def __init__(
        self,
        cluster: ClusterService,
        home: ClusterHome,
        homes: Sequence[HomeConfig],
        timers: ReactorTimers,
        reactor: Any,
        reachable: Callable[[frozenset[str]], None],
    ) -> None:
        self.up: dict[str, float] = {}
        self._cluster = cluster
        self._home = home
        self._homes = homes
        self._timers = timers
        self._reactor = reactor
        self._reachable = reachable
        self._busy: set[str] = set()  # homes whose links are being taken, or let go
        self._leases: set[str] = set()  # homes whose links are leased to this node, or may be
        self._known_up: dict[str, tuple[str, float]] = {}

    def info(self) -> bytes:
        """Return what the other nodes are told with each heartbeat."""
        return msgspec.msgpack.encode(self._announcement())

    def _announcement(self) -> Announcement:
        return Announcement(self.up, self._home.writes_rosters())

    def look(self) -> None:
        """See who should hold which link, and who does."""
        self._hear()
        for home in self._homes:
            mine = self._cluster.owner(link_pair(home.name)) == self._cluster.name
            if not self._cluster.may_act:
                self._let_go(home.name)
            elif home.name in self._busy:
                continue
            elif home.name in self._home.held and not mine and self._cluster.placement.settled:
                # The lease came when the links had been placed elsewhere already.
                self._hand_over(home.name)
            elif not mine and home.name in self._leases and self._cluster.placement.settled:
                # Let go of while this node acted on nothing, and placed elsewhere since.
                self._free(home.name)
            elif mine and home.name not in self._home.held:
                self._busy.add(home.name)
                self._leases.add(home.name)  # from now on, whether we hear the answer or not
                asked = self._cluster.take_lease(f"home {home.name}")
                asked.addCallbacks(self._leased, self._not_leased, (home.name,), {}, (home.name,))

    @inlineCallbacks
    def release(self, placement: Placement) -> Any:
        """Hand over the links that belong to other nodes now."""
        for home in self._homes:
            if placement.owner(link_pair(home.name)) not in ("", self._cluster.name):
                yield self._hand_over(home.name)

    def let_go_all(self) -> None:
        """Let go of every link: this node may not hold any."""
        for home in self._homes:
            self._let_go(home.name)

    def came_up(self, link: Any) -> None:
        """A link is up here; the other nodes hear it with the next heartbeat."""
        self.up[link.home.name] = self._timers.seconds()
        self._cluster.tell()
        self._hear()
        self._home.came_up(link.home.name, link)

    def _leased(self, holder: str, name: str) -> None:
        self._busy.discard(name)
        if holder != self._cluster.name:
            self._leases.discard(name)
        elif self._cluster.may_act:
            log.info("link_held", "this node holds the links to home {home}", home=name)
            self._home.held.add(name)
            self._home.links.hold(name)

    def _free(self, name: str) -> Deferred[Any]:
        """Let another node have the lease of a home's links."""
        freed: Deferred[Any] = self._cluster.free_lease(f"home {name}")
        freed.addCallbacks(
            lambda _: self._leases.discard(name), lambda failure: failure.trap(StoreError)
        )
        return freed

    def _not_leased(self, failure: Any, name: str) -> None:
        failure.trap(StoreError)
        self._busy.discard(name)

    def _let_go(self, name: str) -> Deferred[Any] | None:
        if name not in self._home.held:
            return None
        self._home.held.discard(name)
        return self._disconnect(name)

    def _disconnect(self, name: str) -> Deferred[Any]:
        self.up.pop(name, None)
        log.info("link_let_go", "this node lets go of the links to home {home}", home=name)
        return self._home.links.let_go(name)

    def _hear(self) -> None:
        """Learn from the other nodes' heartbeats which links are up."""
        found: dict[str, tuple[str, float]] = {}
        rosters: set[str] = set()
        rows = [(row.name, row.info) for row in self._cluster.nodes if row.lives]
        others = [(node, info) for node, info in rows if info and node != self._cluster.name]
        told = [(node, msgspec.msgpack.decode(info, type=Announcement)) for node, info in others]
        for node, each in (*told, (self._cluster.name, self._announcement())):
            rosters.update(each.rosters)
            for name, since in each.up.items():
                if since > found.get(name, ("", 0.0))[1]:
                    found[name] = (node, since)
        self._home.seen(found, rosters)
        before, self._known_up = self._known_up, found
        for home in self._homes:
            news = found.get(home.name)
            if news is not None and news != before.get(home.name):
                self._reachable(frozenset(home.domains))

    @inlineCallbacks
    def _hand_over(self, name: str) -> Any:
        """Let another node have the links to a home.

        A home server that keeps nothing for us is never without a link: the new one takes the place of
        ours (Prosody's "kick_old"), and what the server has written to ours is read until then.
        """
        links = self._home.links
        if name not in self._home.held:
            return
        self._busy.add(name)
        try:
            self._home.held.discard(name)
            end = self._timers.seconds() + _QUIET
            while links.unconfirmed(name) and self._timers.seconds() < end:
                yield deferLater(self._reactor, 0.05)
            if not links.keeps(name):
                yield self._free(name)
                yield self._replaced(name)
            yield self._disconnect(name)
            yield self._free(name)
        finally:
            self._busy.discard(name)

    def _replaced(self, name: str) -> Deferred[Any]:
        """Fire when another node's links have taken the place of ours, or soon in any case."""
        gone = self._home.links.retire(name)
        timer = self._timers.after(_REPLACED, gone.cancel)
        gone.addBoth(lambda _: timer.cancel())
        return gone
