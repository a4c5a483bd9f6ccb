"""The machines behind an edge: whose address is whose, who gets what, and over which connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from math import log

from zope.interface import implementer

from impfed.config.edge import EdgeConfig, EdgeTargetConfig
from impfed.config.edge_checks import inner_address
from impfed.routing.api import INTERFACE_VERSION, IRoute, RouteQuery
from impfed.routing.neighbours import address_of
from impfed.sip.target import Hop
from impfed.sip.uri import SipUri

_SCALE = float(1 << 64)


class InnerTargets:
    """What an edge knows of the machines behind it; nothing of it changes while it runs.

    :param up: says whether a target, by its name, answers.
    :ivar all: the targets, in the order of the configuration.
    """

    def __init__(self, edge: EdgeConfig, up: Callable[[str], bool]) -> None:
        self.all = edge.targets
        self._up = up
        self._edge = edge
        self._named = {target.name: target for target in self.all}
        self._lanes = {
            # From 1 on, so that none of them is the connection that the machine has made to us.
            target.name: tuple(
                _hop(target, edge, 1 + lane) for lane in range(lanes_of(target, edge))
            )
            for target in self.all
        }
        # The same, where another target takes over at once (Hop.others).
        self._hurried = {
            name: tuple(replace(hop, others=True) for hop in hops)
            for name, hops in self._lanes.items()
        }
        self._new = tuple(target for target in self.all if target.new_requests)
        self._by_name = {
            name: target
            for target in self.all
            if target.transport == "tls"
            for name in target.peer_names or (target.tls_name or target.host,)
        }
        self._plain = {target.host: target for target in self.all if target.transport != "tls"}
        self._by_address: dict[tuple[str, int], list[EdgeTargetConfig]] = {}
        for target in self.all:
            for address in ((target.host, target.port), *target.advertised):
                self._add(address, target)
        for port in edge.ports:
            target = self._named[port.target]
            self._add((port.public_host, port.public_port), target)
            self._add(inner_address(port, target), target)

    def _add(self, address: tuple[str, int], target: EdgeTargetConfig) -> None:
        holders = self._by_address.setdefault(address, [])
        if target not in holders:
            holders.append(target)

    # -- who ---------------------------------------------------------------------------------------

    def who(self, names: Iterable[str]) -> str:
        """Return the name of the target that a proven certificate belongs to; "" for none."""
        for name in names:
            if name in self._by_name:
                return self._by_name[name].name
        return ""

    def who_at(self, host: str) -> str:
        """Return the name of the target without TLS that has an IP address; "" for none."""
        found = self._plain.get(host)
        return "" if found is None else found.name

    def knows(self, uri: SipUri) -> bool:
        """Say whether a URI is a Contact or Route of a machine inside."""
        return address_of(uri) in self._by_address

    # -- where to ----------------------------------------------------------------------------------

    def at(self, uri: SipUri, call_id: str) -> list[Hop]:
        """Return the way to the machine whose Contact or Route a URI is; empty if it is nobody's.

        Several that share an address are in the order of :meth:`order`.
        """
        found = self._by_address.get(address_of(uri))
        if found is None:
            return []
        return self._ways(found, call_id)

    def named(self, name: str, call_id: str) -> list[Hop]:
        """Return the way to a target."""
        return self._ways((self._named[name],), call_id)

    def for_new(self, call_id: str) -> list[Hop]:
        """Return where what a partner begins goes: the first choice, and the others in order."""
        return self._ways(self._new, call_id)

    def check(self, target: EdgeTargetConfig) -> Hop:
        """Return the way on which a target is asked whether it is there."""
        return self._lanes[target.name][0]

    def answers(self, name: str) -> bool:
        """Say whether a target answers."""
        return self._up(name)

    def up(self, hop: Hop) -> bool:
        """Say whether the target that a hop leads to answers."""
        return self._up(hop.source)

    def hops(self) -> list[Hop]:
        """Return every connection that there may be."""
        return [hop for hops in self._lanes.values() for hop in hops]

    def _ways(self, targets: Sequence[EdgeTargetConfig], call_id: str) -> list[Hop]:
        lanes = self._hurried if len(targets) > 1 else self._lanes
        number = _number(call_id, "lane")
        chosen = [lanes[target.name] for target in order(targets, call_id)]
        return [hops[number % len(hops)] for hops in chosen]


def order(targets: Sequence[EdgeTargetConfig], call_id: str) -> list[EdgeTargetConfig]:
    """Return targets for a dialog: by priority, equals spread by weight and the dialog's Call-ID.

    A dialog has the same order each time; if its first choice is out it goes to the second, while
    all dialogs with another first choice stay where they are (weighted rendezvous hashing).
    """

    def rank(target: EdgeTargetConfig) -> tuple[int, float]:
        share = (_number(call_id, target.name) + 1) / (_SCALE + 1)
        return target.priority, -log(share) / target.weight

    return sorted(targets, key=rank) if len(targets) > 1 else list(targets)


def lanes_of(target: EdgeTargetConfig, edge: EdgeConfig) -> int:
    """Return how many connections there are to a target."""
    return target.connections or edge.connections


def _number(call_id: str, salt: str) -> int:
    text = f"{salt} {call_id}".encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8).digest())


def _hop(target: EdgeTargetConfig, edge: EdgeConfig, lane: int) -> Hop:
    tls = target.transport == "tls"
    return Hop(
        target.transport,
        target.host,
        target.port,
        tls_name=(target.tls_name or target.host) if tls else "",
        certificate=edge.certificate if tls else "",
        priority=target.priority,
        weight=target.weight,
        source=target.name,
        lane=lane,
    )


@implementer(IRoute)
class InnerRoute:
    """Leads to the machines behind an edge, for ``impfedctl route``.

    :param domains: the local domains behind it.
    :cvar inside: whether its hops are of our own organisation, who knows us by our usual certificate.
    """

    inside = True
    name = "inside"
    order = 10
    interface_version = INTERFACE_VERSION

    def __init__(self, targets: InnerTargets, domains: Iterable[str]) -> None:
        self._targets = targets
        self._domains = frozenset(domains)

    def resolve(self, query: RouteQuery) -> Sequence[Hop] | None:
        """Return who gets new requests, if the recipient's domain is one behind the edge."""
        if query.to_domain not in self._domains:
            return None
        return self._targets.for_new(query.to_address)
