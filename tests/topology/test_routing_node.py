"""Several nodes, one of them the routing node, behind one public address and static PAT by port."""

from __future__ import annotations

from tests.topology import stories
from tests.topology.scene import RoutingNode, Variant

BORDERS = "edge.lync.example"


class RoutingNodeTests(stories.BothWays):
    """The partner's edge is a Kamailio that records its route."""

    kind = RoutingNode


class SixthVersionTests(stories.BothWays):
    """The same over IPv6, everywhere but in the loopback of the home servers."""

    kind, variant = RoutingNode, Variant(version=6)
