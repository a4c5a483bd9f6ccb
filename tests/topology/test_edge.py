"""impfed as the edge, which is the nodes' default gateway: beside a firewall, and behind one."""

from __future__ import annotations

import functools

from demo.parts import wait_until
from tests.topology import stories
from tests.topology.node import ClusterNode
from tests.topology.scene import LOCAL
from tests.topology.scenes import BehindFirewall, BesideFirewall
from tests.topology.stage import Variant


class BesideFirewallTests(stories.BothWays):
    """The edge has a public address of its own; another firewall is for everything else."""

    kind = BesideFirewall
    scene: BesideFirewall

    def test_public_addresses(self) -> None:
        """Partners see public addresses alone, though the nodes write private ones."""
        who, ports = "mercutio@lync.example", {"company.example": 5062, "works.example": 65062}
        self.writes(LOCAL, who, "A plague")
        self.far_writes(who, LOCAL, "On both your houses")
        for domain, port in ports.items():
            sent = self.wire("received", "INVITE", f"From: <sip:kim@{domain}>")["text"]
            self.assertRegex(sent, rf"Contact: <sip:\S*@203\.0\.113\.10:{port};transport=tls")
            self.assertNotIn("10.0.0.", sent.partition("\r\n\r\n")[0])

    def test_restart(self) -> None:
        """Sessions outlive the edge: what it has to know is in the route of each request."""
        who = "benvolio@lync.example"
        self.far_writes(who, LOCAL, "Part, fools")
        self.scene.edge.kill()
        self.scene.edge.start()
        self.scene.after()
        begin = self.far.position
        self.far_writes(who, LOCAL, "I do but keep the peace")
        self.assertEqual(self.far.seen(begin, event="session"), [])
        for node in self.scene.nodes.values():
            # A node does not send to a hop that has failed until it has seen it again.
            found = functools.partial(self._connected, node)
            self.assertTrue(wait_until(found, 60), node.operator("status"))

    def _connected(self, node: ClusterNode) -> bool:
        return "border.company.example:5061  connected" in node.operator("route", "x@lync.example")


class BehindFirewallTests(stories.BothWays):
    """A firewall has the public address and maps its ports to the edge in the DMZ."""

    kind = BehindFirewall


class SixthVersionTests(stories.BothWays):
    """The edge over IPv6, its port table included."""

    kind, variant = BesideFirewall, Variant(version=6)
