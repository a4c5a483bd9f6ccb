"""The topologies: what stands between the nodes and the internet in each of them."""

from __future__ import annotations

from demo.parts import PartFailed
from tests.interop.balancer import Haproxy

from .edge import ImpfedEdge, Inner
from .kamailio import Edge, bracketed
from .scene import HOMES, LOCAL, Scene
from .stage import BORDER, FOREIGN, PORT


class RoutingNode(Scene):
    """Several nodes behind one public address; the destination port decides."""

    topology = "routing-node"


class ByName(RoutingNode):
    """One name in the Contacts of all nodes, for an edge that routes by names and keeps nothing."""

    common_names = ("federation.company.example",)
    listener = 'contact = "federation.company.example:5061"'

    def neighbours(self, node: str) -> dict[str, tuple[str, ...]]:
        """Return those of before; the routing node knows every node, to find the owner of a dialog."""
        found = super().neighbours(node)
        return {**found, "b2": ()} if node == "a1" else found

    def upstreams(self, node: str) -> tuple[str, ...]:
        """Return the routing node for all others, besides who was there before."""
        names = super().upstreams(node)
        return names if node == "a1" else tuple({*names, "a1.company.example"})


class Basic(Scene):
    """An edge that ends TLS and opens it anew stands before the nodes, for both directions."""

    topology = "basic"

    def upstreams(self, node: str) -> tuple[str, ...]:
        """Return the edge for the routing node, besides the others."""
        return ("proxy.company.example",) if node == "a1" else super().upstreams(node)

    def hop(self) -> str:
        """Return the edge: all that goes out goes there."""
        return "proxy.company.example:5061"

    def private_names(self) -> dict[str, list[str]]:
        """Return the edge's name."""
        return {"proxy.company.example": [self.at("proxy", "inside")]}

    def before(self) -> None:
        """Start the edge."""
        outer, inner = self.at("proxy", "internet"), self.at("proxy", "inside")
        names = ("proxy.company.example", "sip.company.example", *LOCAL)
        edge = Edge(
            self.machine("proxy"), self.directory / "proxy", self.authority.issue(*names),
            [(outer, "sip.company.example"), (inner, "proxy.company.example")],
            (self.at("a1", "inside"), PORT), LOCAL,
        )  # fmt: skip
        self.stack.callback(edge.stop)


class Balanced(Scene):
    """HAProxy with the shipped sample before both nodes of the first cluster."""

    topology = "balancer"
    entrances = ("a1", "a2")
    haproxy: Haproxy

    def neighbours(self, node: str) -> dict[str, tuple[str, ...]]:
        """Return those of before; both nodes of the first cluster know the way into the second."""
        cluster_b = {"b1": (*HOMES["b1"], *HOMES["b2"])}
        others: dict[str, dict[str, tuple[str, ...]]] = {
            "a2": {"a1": HOMES["a1"], **cluster_b},
            "b1": {"a1": HOMES["a1"], "a2": HOMES["a2"], "b2": HOMES["b2"]},
        }
        return others.get(node) or super().neighbours(node)

    def upstreams(self, node: str) -> tuple[str, ...]:
        """Return the balancer and the nodes behind it."""
        names = {"a1": ("balancer", "a2"), "a2": ("balancer", "a1"), "b1": ("a1", "a2")}
        return tuple(f"{name}.company.example" for name in names.get(node, ("b1",)))

    def listeners(self, node: str) -> str:
        """Return the listener for the balancer; dialogs come to the node's own port."""
        if node not in self.entrances:
            return ""
        return f"""
[[listener]]
name = "balanced"
transport = "tls"
bind = "{bracketed(self.at(node, "inside"))}:5061"
advertised = "{self.told(node)}"
proxy_protocol = true
proxy_addresses = ["{self.at("balancer", "inside")}"]
"""

    def before(self) -> None:
        """Start the balancer."""
        partners = self.authority.issue("sip.company.example", *LOCAL)
        machine, authority = self.machine("balancer"), str(self.authority.path)
        places = {
            "/etc/haproxy/company.example.pem": str(partners.both),
            "/etc/haproxy/balancer.pem": str(self.authority.issue("balancer.company.example").both),
            "/etc/haproxy/partners-ca.pem": authority,
            "/etc/haproxy/nodes-ca.pem": authority,
            "0.0.0.0:5061": f"{bracketed(self.at('balancer', 'inside'))}:5061",
            "10.0.0.1:5061": f"{bracketed(self.at('a1', 'inside'))}:5061",
            "10.0.0.2:5061": f"{bracketed(self.at('a2', 'inside'))}:5061",
        }
        self.haproxy = Haproxy(self.directory / "haproxy", places, 5061, machine.netns)
        self.stack.callback(self.haproxy.stop)

    def after(self) -> None:
        """Wait until the balancer has seen that both nodes are up."""
        for number in (1, 2):
            if not self.haproxy.becomes(number, "UP", 60):
                raise PartFailed(f"node{number} is {self.haproxy.state(number)} for the balancer")


class BesideFirewall(Scene):
    """impfed's edge, with a public address of its own, is the nodes' default gateway."""

    topology = "edge-beside"
    edge: ImpfedEdge

    def upstreams(self, node: str) -> tuple[str, ...]:
        """Return the edge besides the others."""
        return ("border.company.example", *super().upstreams(node))

    def hop(self) -> str:
        """Return the edge: all that goes out goes there."""
        return "border.company.example:5061"

    def private_names(self) -> dict[str, list[str]]:
        """Return the edge's name."""
        return {"border.company.example": [self.at("edge", "inside")]}

    def told(self, node: str) -> str:
        """Return the private address: the edge writes the public one in its place."""
        return self.inner(node)

    def outside(self) -> str:
        """Return the address that the edge itself has towards the internet."""
        return self.at("edge", "internet")

    def before(self) -> None:
        """Start the edge."""
        public = bracketed(self.at(self.plan.public, "internet"))
        rows = [row for row in self.plan.ports if row.public != 5061]
        inner = tuple(
            Inner(row.machine, f"{row.machine}.company.example", self.inner(row.machine),
                  f"{public}:{row.public}", f"{bracketed(self.outside())}:{row.public}",
                  row.machine in self.entrances)
            for row in rows
        )  # fmt: skip
        self.edge = ImpfedEdge(
            self.directory / "edge", self.authority.issue("sip.company.example", *LOCAL),
            self.authority.issue("border.company.example"),
            f"{bracketed(self.outside())}:5061", f"{bracketed(self.at('edge', 'inside'))}:5061",
            inner, LOCAL, FOREIGN, BORDER, self.machine("edge").netns,
        )  # fmt: skip
        self.stack.callback(self.edge.stop)
        self.edge.start()

    def after(self) -> None:
        """Wait until the edge has seen that all nodes are up."""
        for node in self.nodes:
            self.edge.await_state(node, "up")


class BehindFirewall(BesideFirewall):
    """impfed's edge in a DMZ behind a firewall that maps its address to it; still the nodes' gateway."""

    topology = "edge-behind"

    def outside(self) -> str:
        """Return the edge's address in the DMZ."""
        return self.at("edge", "dmz")
