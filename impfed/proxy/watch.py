"""Which neighbours answer: every address of each is asked all the time, so that nobody waits for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from impfed.config.model import Config
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.proxy.health import HealthChecks, Rhythm
from impfed.routing.neighbours import Neighbours
from impfed.sip.outgoing import OutgoingRequest
from impfed.sip.target import Hop
from impfed.transport.pool import Target
from impfed.transport.sip import SipStack

#: Seconds that the answer to an OPTIONS may take; one that fails is repeated to be sure.
_TIMEOUT = 3.0
_FALLS = 2

#: Seconds between two questions to one that is down: it is used again as soon as it is back. In a
#: cluster its share of the people waits for that.
_WHILE_DOWN = 0.5


@dataclass(frozen=True, slots=True)
class _Address:
    """One address of a neighbour."""

    name: str
    hop: Hop

    @property
    def transport(self) -> str:
        """How it is reached."""
        return self.hop.transport

    @property
    def host(self) -> str:
        """Where it is reached."""
        return self.hop.host

    @property
    def port(self) -> int:
        """Where it is reached."""
        return self.hop.port


class NeighbourWatch:
    """Asks the neighbours whether they are there, and tells :class:`Neighbours` who is.

    :ivar condition: says how things stand with a hop, as far as this or the connections know.
    """

    def __init__(
        self,
        config: Config,
        neighbours: Neighbours,
        stack: SipStack,
        ids: IdSource,
        metrics: Metrics,
    ) -> None:
        self._stack = stack
        self._checks: list[HealthChecks[_Address]] = []
        self._by_hop: dict[Hop, tuple[HealthChecks[_Address], str]] = {}
        # In whose name is asked does not matter: the other node looks at our certificate.
        domain = min(config.own_domains, default="neighbour.invalid")
        for each in neighbours.configs:
            if not each.check_interval:
                continue
            down = min(each.check_interval, _WHILE_DOWN)
            rhythm = Rhythm(each.check_interval, _TIMEOUT, _FALLS, 1, domain, down)
            hops = neighbours.all_ways(each.name)
            names = [each.name if len(hops) == 1 else f"{each.name} ({hop})" for hop in hops]
            addresses = [_Address(name, hop) for name, hop in zip(names, hops, strict=True)]
            checks = HealthChecks(
                addresses, rhythm, self._ask, stack.timers, ids, metrics, room="proxy"
            )
            self._checks.append(checks)
            for address in addresses:
                self._by_hop[address.hop] = (checks, address.name)
        neighbours.up = self.up

    def up(self, hop: Hop) -> bool:
        """Say whether a hop to a neighbour answers; until it is known it is taken to."""
        found = self._by_hop.get(hop)
        return found is None or found[0].up(found[1])

    def condition(self, hop: Hop) -> tuple[str, str]:
        """Return how things stand with a hop, and why: "down", or the state of its connection."""
        found = self._by_hop.get(hop)
        if found is not None and not found[0].up(found[1]):
            return "down", found[0].reason(found[1])
        return self._stack.pool.condition(Target.of_hop(hop))

    def start(self) -> None:
        """Ask from now on."""
        for checks in self._checks:
            checks.start()

    def stop(self) -> None:
        """Ask no longer."""
        for checks in self._checks:
            checks.stop()

    def _ask(self, address: _Address, request: OutgoingRequest, user: Any) -> None:
        if not self.up(address.hop):  # whatever has failed, this is how we learn that it is back
            self._stack.pool.forgive(Target.of_hop(address.hop))
        self._stack.request(request, address.hop, user)
