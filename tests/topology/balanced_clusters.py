"""Two clusters, a load balancer before the one that partners know."""

from __future__ import annotations

from demo.parts import PartFailed
from tests.interop.balancer import Haproxy

from .clusters import LOCAL, A, Clusters
from .stage import PORT


class BalancedClusters(Clusters):
    """All nodes of cluster A tell partners the balancer's address, and have another port for the nodes."""

    topology = "clusters-balancer"
    haproxy: Haproxy

    def told(self, node: str) -> str:
        """Return the balancer's public address for those behind it."""
        return (
            f"{self.at(self.plan.public, 'internet')}:5061"
            if node in A.nodes
            else super().told(node)
        )

    def bind(self, node: str) -> str:
        """Return where the balancer, or the partners, find a node."""
        return "0.0.0.0:5061" if node in A.nodes else super().bind(node)

    def listener(self, node: str) -> str:
        """Return that a node behind the balancer is told by it who connects."""
        if node not in A.nodes:
            return ""
        return f'proxy_protocol = true\nproxy_addresses = ["{self.at("balancer", "inside")}"]\n'

    def listeners(self, node: str) -> str:
        """Return the listener for the other nodes."""
        if node not in A.nodes:
            return ""
        return f"""
[[listener]]
name = "nodes"
transport = "tls"
bind = "0.0.0.0:{PORT}"
advertised = "{node}.company.example:{PORT}"
"""

    def upstreams(self, node: str) -> tuple[str, ...]:
        """Return the balancer besides the other nodes."""
        return (*super().upstreams(node), "balancer.company.example")

    def known_as(self, node: str) -> tuple[str, ...]:
        """Return nothing for those behind the balancer, whose address is that of all."""
        return () if node in A.nodes else super().known_as(node)

    def before(self) -> None:
        """Start the balancer."""
        authority, inside = str(self.authority.path), self.at("balancer", "inside")
        partners = self.authority.issue("sip.company.example", *LOCAL)
        balancer = self.authority.issue("balancer.company.example")
        second = "  server node2 10.0.0.2:5061"
        places = {
            "/etc/haproxy/company.example.pem": str(partners.both),
            "/etc/haproxy/balancer.pem": str(balancer.both),
            "/etc/haproxy/partners-ca.pem": authority,
            "/etc/haproxy/nodes-ca.pem": authority,
            "0.0.0.0:5061": f"{inside}:5061",
            second: f"{second}\n  server node3 {self.at('a3', 'inside')}:5061",
        }
        netns = self.machine("balancer").netns
        self.haproxy = Haproxy(self.directory / "haproxy", places, 5061, netns)
        self.stack.callback(self.haproxy.stop)

    def after(self) -> None:
        """Wait until the balancer has seen that all nodes are up."""
        for number in (1, 2, 3):
            if not self.haproxy.becomes(number, "UP", 60):
                raise PartFailed(f"node{number} is {self.haproxy.state(number)} for the balancer")
