"""A node as a member of a cluster: from the node's parts to the cluster's, and their life."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import inlineCallbacks

from impfed.cluster.service import ClusterService
from impfed.config.model import Config
from impfed.core.errors import RemoteError
from impfed.gateway.admission import Admission
from impfed.gateway.cluster_home import ClusterHome
from impfed.gateway.clustered import Clustered
from impfed.gateway.gateway import Gateway
from impfed.gateway.im import ImGateway
from impfed.gateway.im_moves import ImMoves
from impfed.gateway.presence import PresenceGateway
from impfed.gateway.presence_moves import PresenceMoves
from impfed.gateway.sights import Sights
from impfed.interwork.address import jid_of
from impfed.proxy.junction import Junction
from impfed.routing.neighbours import Neighbours
from impfed.sip.message import SipRequest
from impfed.sip.uri import SipUri
from impfed.store.shared import SharedStore
from impfed.transport.timers import ReactorTimers

#: New requests of people: each is served by the node of its pair.
_OF_PAIRS = frozenset(("INVITE", "SUBSCRIBE", "MESSAGE"))


def awake() -> float:
    """Return seconds that never jump, and go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
        elapsed: Callable[[], float] = awake,
    ) -> None:
        self._reactor = reactor
        self._sights = sights
        self._config = config
        self._store = store
        self.home = home
        instance = f"{socket.gethostname()}:{config.node.state_directory}"
        name = config.node.name
        self.service = ClusterService(
            reactor, store, name, instance, sights, elapsed, lambda: self._info()
        )
        home.post = self.service
        self._user: Clustered | None = None

    def _info(self) -> bytes:
        return b"" if self._user is None else self._user.info()

    def build(
        self,
        gateway: Gateway,
        im: ImGateway,
        presence: PresenceGateway,
        timers: ReactorTimers,
        admission: Admission,
        neighbours: Neighbours,
        junction: Junction | None,
    ) -> None:
        """Put the cluster between the gateway, its links and the other nodes."""
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
        )
        self.home.links.placed = user
        self.home.links.user = user
        gateway.search = user.search
        members = {each.name for each in self._config.neighbours if not each.domains}

        def gone(name: str) -> bool:
            # Who does not see the cluster himself cannot tell who else does.
            return name in members and self.service.may_act and self.service.suspected(name)

        neighbours.gone = gone
        gateway.may_act = lambda: self.service.may_act
        gateway.tells = lambda flow: self._sights.told(flow, self.service)
        if junction is not None:
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

    @inlineCallbacks
    def join(self) -> Any:
        """Join the cluster, after the store is open and before anything is loaded from it."""
        yield self.service.start()

    def ready(self) -> None:
        """Everything is loaded, and the listeners stand."""
        assert self._user is not None
        self.service.ready()
        self._user.start()

    @inlineCallbacks
    def leave(self) -> Any:
        """Leave the cluster."""
        if self._user is not None:
            self._user.stop()
        yield self.service.stop()

    def status(self) -> dict[str, Any]:
        """Return what ``impfedctl status`` shows of the cluster."""
        return {**self.service.status(), "home_links_held": sorted(self.home.held)}
