"""A node as a member of a cluster: from the node's parts to the cluster's, and their life."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from impfed.cluster.membership import Standing
from impfed.cluster.ownership import Enabled
from impfed.cluster.portions import Demands, Portions
from impfed.cluster.service import ClusterService
from impfed.cluster.shares import Demand
from impfed.cluster_view import ClusterView
from impfed.config.model import Config
from impfed.core.errors import RemoteError
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.ctl.api import Whereabouts
from impfed.gateway.admission import Admission
from impfed.gateway.cluster_home import ClusterHome
from impfed.gateway.cluster_questions import Questions
from impfed.gateway.cluster_relay import PlacedRelay
from impfed.gateway.clustered import Clustered
from impfed.gateway.gateway import Gateway
from impfed.gateway.im import ImGateway
from impfed.gateway.im_moves import ImMoves
from impfed.gateway.paced import PacedStack
from impfed.gateway.paced_parts import SharedPauses
from impfed.gateway.people import People
from impfed.gateway.presence import PresenceGateway
from impfed.gateway.presence_moves import PairsElsewhere, PresenceCommons, PresenceMoves
from impfed.gateway.sights import Sights
from impfed.interwork.address import jid_of
from impfed.proxy.junction import Junction
from impfed.relay.pairs import Totals
from impfed.relay.setup import XmppFederation
from impfed.routing.learned import LearnedDomains
from impfed.routing.neighbours import Neighbours
from impfed.sip.message import SipRequest
from impfed.sip.target import Hop
from impfed.sip.uri import SipUri
from impfed.store.shared import SharedStore
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.jid import JID

log = EventLog("impfed.cluster")

#: Seconds that a node which is stopped takes to give the others what it has.
STOP_LIMIT = 20.0
#: And how often in a row it must find that nothing is under way any more.
_QUIET = 3
#: New requests of people: each is served by the node of its pair.
_OF_PAIRS = frozenset(("INVITE", "SUBSCRIBE", "MESSAGE"))


def awake() -> float:
    """Return seconds that never jump, and go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def divide(
    reactor: Any, cluster: ClusterService, paced: PacedStack, elapsed: Callable[[], float]
) -> Portions:
    """Have the partners' budgets divided between the nodes, from the start of what is returned."""

    def demands() -> Demands:
        now = paced.seconds()
        return {
            name: (rate, Demand(lane.budget.rate_used(now), len(lane.tickets)))
            for name, lane in paced.lanes.items()
            if (rate := lane.budget.whole_rate) is not None
        }

    def nodes() -> int:
        return max(1, len(cluster.placement.living))

    def apply(domain: str, part: float) -> None:
        paced.share(domain, part, nodes())

    portions = Portions(reactor, cluster, demands, apply, elapsed)
    paced.part_of = lambda domain: (portions.part(domain), nodes())
    return portions


def reachable(
    service: ClusterService, neighbours: Neighbours, try_again: Callable[[Hop], object]
) -> Callable[[Hop], bool]:
    """Return what says whether a hop to a neighbour answers, where nodes of the cluster are among them.

    :param try_again: has the next request connect at once, whatever has failed.
    """
    watched, members = neighbours.up, neighbours.members

    def up(hop: Hop) -> bool:
        name = hop.source.removeprefix("neighbour ")
        if name in members and service.may_act and not service.suspected(name):
            # Its heartbeat is back earlier than a question whether it answers, and than the end of the
            # pause after a connection that failed while it was away.
            try_again(hop)
            return True
        return watched(hop)

    return up


def enabled(config: Config) -> Enabled | None:
    """Return which nodes alone may have the pairs of XMPP federation; None where all may.

    Whom no ``[[domain]]`` gives to SIP is reached over XMPP, or is tried so first.
    """
    if config.s2s is None or not config.s2s.nodes:
        return None
    sip = frozenset(JID.parse(domain.name).domain for domain in config.domains)
    return Enabled(frozenset(config.s2s.nodes), lambda pair: pair[1].rpartition("@")[2] not in sip)


class Drain:
    """Gives everything away, on demand and before the end.

    :param left: returns what this node still has, by kind.
    """

    def __init__(
        self, reactor: Any, service: ClusterService, left: Callable[[], dict[str, Any]]
    ) -> None:
        self._reactor = reactor
        self._service = service
        self._left = left

    def begin(self) -> bool:
        """Begin, or go on; False when that cannot be now."""
        if not self._service.may_act:
            return False
        self._service.drain().addErrback(
            lambda failure: log.failure("drain_failed", "draining raised", failure)
        )
        return self._service.standing is Standing.DRAINING

    def work_again(self) -> bool:
        """Take work again; False when the node does not drain."""
        return self._service.work_again()

    def progress(self) -> dict[str, Any]:
        """Return how far it is."""
        left = self._left()
        drained = self._service.drained and not left["sessions"]
        return {"standing": self._service.standing.value, "drained": drained, **left}

    @inlineCallbacks
    def before_stop(self) -> Any:
        """Give the other nodes what this one has, as far as that goes in a short time."""
        others = any(
            row.state == "live" and row.name != self._service.name for row in self._service.nodes
        )
        if not (others and self._service.may_act and self.begin()):
            return
        log.info("draining", "this node gives the others what it has before it stops")
        end = self._reactor.seconds() + STOP_LIMIT
        quiet = 0
        while quiet < _QUIET and self._reactor.seconds() < end:
            if self._service.standing is not Standing.DRAINING:
                return
            yield deferLater(self._reactor, 0.05)
            left = self._left()
            done = self._service.drained and not (left["under_way"] or left["dialogs"])
            quiet = quiet + 1 if done else 0


class ClusterSide:
    """This node's place in its cluster.

    :param sights: asks the other nodes directly.
    :param elapsed: see :func:`awake`.
    :ivar home: the home links, wherever they are.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        store: SharedStore,
        home: ClusterHome,
        sights: Sights,
        ids: IdSource,
        elapsed: Callable[[], float] = awake,
    ) -> None:
        self._reactor = reactor
        self._sights = sights
        self._config = config
        self._store = store
        self._ids = ids
        self.home = home
        instance = f"{socket.gethostname()}:{config.node.state_directory}"
        name = config.node.name
        self.service = ClusterService(
            reactor,
            store,
            name,
            instance,
            sights,
            elapsed,
            lambda: self._info(),
            enabled(config),
        )
        home.post = self.service
        self.drain = Drain(reactor, self.service, self._left)
        self._user: Clustered | None = None
        self._portions: Portions | None = None
        self._pairs_elsewhere: PairsElsewhere | None = None
        self._elapsed = elapsed
        self._proxied: Callable[[], int] = lambda: 0

    def _info(self) -> bytes:
        return b"" if self._user is None else self._user.info()

    def _left(self) -> dict[str, Any]:
        found = {"sessions": 0, "subscriptions": 0, "dialogs": 0}
        if self._user is not None:
            found = self._user.left()
        under_way = self.home.under_way + self._proxied()
        return {
            **found,
            "letters": self.service.post.waiting,
            "under_way": under_way,
            "home_links": sorted(self.home.held),
        }

    def build(
        self,
        gateway: Gateway,
        im: ImGateway,
        presence: PresenceGateway,
        timers: ReactorTimers,
        admission: Admission,
        neighbours: Neighbours,
        junction: Junction | None,
        paced: PacedStack,
        learned: LearnedDomains,
    ) -> None:
        """Put the cluster between the gateway, its links and the other nodes."""
        self._questions = Questions(self.service, timers, self._ids, self.service.name)
        user = self._user = Clustered(
            self.service,
            self.home,
            self._config.homes,
            gateway,
            ImMoves(im),
            PresenceMoves(presence),
            timers,
            self._reactor,
            self._store,
            self._questions,
            (PresenceCommons(presence), SharedPauses(paced), learned),
        )
        self._pairs_elsewhere = PairsElsewhere(
            presence, lambda domain: presence.watching.around.domain(domain) is not None
        )
        self.home.links.placed = user
        self.home.links.user = user
        gateway.search = user.search
        members = neighbours.members

        def gone(name: str) -> bool:
            # Who does not see the store himself cannot tell who else lives.
            return name in members and self.service.sees_store and self.service.suspected(name)

        neighbours.gone = gone
        presence.watching.mine = user.mine
        # Requests come by connections of ours before all is loaded: others use those, too.
        gateway.may_act = lambda: user.listens and self.service.may_act
        gateway.tells = lambda flow: self._sights.told(flow, self.service)
        if junction is not None:
            self._proxied = lambda: junction.under_way
            neighbours.up = reachable(self.service, neighbours, junction.try_again)
            junction.relaying.placed = self._placed(admission, user)
            gateway.pass_on = junction.pass_on

    @staticmethod
    def _placed(admission: Admission, user: Clustered) -> Callable[[SipRequest], str]:
        def placed(request: SipRequest) -> str:
            if request.method not in _OF_PAIRS:
                return ""
            try:
                foreign = request.from_.uri
                if not isinstance(foreign, SipUri):
                    return ""
                return user.elsewhere(admission.recipient(request), jid_of(foreign))
            except RemoteError:
                return ""  # refused here, with what is wrong with it

        return placed

    def place(self, relay: Any, federation: XmppFederation) -> PlacedRelay:
        """Return what the home links have for their relay; a node that speaks with nobody hands on."""
        assert self._user is not None
        federation.hand_on(self._user.hand_on)
        return self._user.place(relay, federation)

    def counted(self, relayed: Totals) -> Totals:
        """Return who counts the pairs of a local user that are not this node's over SIP.

        :param relayed: counts those over XMPP.
        """
        assert self._pairs_elsewhere is not None
        sip = self._pairs_elsewhere
        return Totals(
            lambda local: relayed.watchers(local) + sip.watchers(local),
            lambda local: relayed.contacts(local) + sip.contacts(local),
        )

    def view(self, where: Callable[[str], Deferred[Whereabouts]], people: People) -> ClusterView:
        """Return what all nodes say together.

        :param where: finds messages at this node.
        """
        assert self._user is not None
        people.subscribe = self._user.subscribe
        return ClusterView(self._questions, self._others, where, people)

    def _others(self) -> list[str]:
        mine = self.service.name
        return [row.name for row in self.service.nodes if row.name != mine and row.state != "left"]

    def divide(self, paced: PacedStack) -> None:
        """Divide the partners' budgets between the nodes."""
        self._portions = divide(self._reactor, self.service, paced, self._elapsed)

    @inlineCallbacks
    def join(self) -> Any:
        """Join the cluster, after the store is open and before anything is loaded from it."""
        yield self.service.start()

    def ready(self) -> None:
        """Everything is loaded, and the listeners stand."""
        assert self._user is not None
        self.service.ready()
        self._user.start()
        if self._portions is not None:
            self._portions.start()

    def settle(self, done: Callable[[], None]) -> None:
        """Call when what home servers have sent so far would outlive this process."""
        assert self._user is not None
        self._user.settle(done)

    @inlineCallbacks
    def leave(self) -> Any:
        """Leave the cluster."""
        if self._user is not None:
            self._user.stop()
        if self._portions is not None:
            self._portions.stop()
        yield self.service.stop()

    def status(self) -> dict[str, Any]:
        """Return what ``impfedctl status`` shows of the cluster."""
        status = {**self.service.status(), "home_links_held": sorted(self.home.held)}
        if self.service.standing is Standing.DRAINING:
            status |= self.drain.progress()
        return status
