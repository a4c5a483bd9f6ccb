"""Several nodes, one of them the routing node, behind one public address and static PAT by port."""

from __future__ import annotations

import functools
import signal
import time
from datetime import datetime

from demo.parts import wait_until
from tests.topology import stories
from tests.topology.net import Mapped
from tests.topology.node import ClusterNode
from tests.topology.people import People
from tests.topology.scene import LOCAL, Scene
from tests.topology.scenes import ByName, RoutingNode
from tests.topology.stage import NAME, Variant

A2, B2 = "branch.group.example", "works.example"


class Routed(RoutingNode):
    """One directory holds people of both sides, and one partner has two next hops."""

    def home_extra(self, node: str) -> str:
        """Return the directory for the first node."""
        return 'directory = "people"' if node == "a1" else ""

    def before(self) -> None:
        """Start the directory; romeo is in it, though not one of ours."""
        people = {
            NAME: [f"{NAME}@company.example", f"{NAME}@second.example"],
            "romeo": ["romeo@foreign.company.example"],
        }
        slapd = People(self.machine("names"), self.directory / "people", people)
        self.stack.callback(slapd.stop)

    def federation(self, node: str) -> str:
        """Return the sections of others, two routes to group.example, and the directory."""
        first, second = self.machine("border").addresses["internet"][:2]
        routes = "".join(
            f'[[route]]\npattern = "group.example"\naddress = "{address}:5061"\n'
            f'tls_name = "edge.lync.example"\npriority = {priority}\n'
            for priority, address in enumerate((first, second), 1)
        )
        directory = f"""
[[ldap]]
name = "people"
url = "ldap://{self.at("names", "inside")}:389"
base = "dc=example"
filter = "(uid={{user}})"
"""
        return super().federation(node) + routes + directory


class RoutingNodeTests(stories.BothWays):
    """The partner's edge is a Kamailio that records its route."""

    kind = Routed

    def test_public_addresses(self) -> None:
        """The partner is shown public addresses alone: each node's own port, or the routing node's."""
        who = "mercutio@lync.example"
        self.writes(LOCAL, who, "A plague")
        ports = {"company.example": 5062, "a.firm.example": 55062, A2: 45062, B2: 65062}
        for domain, port in ports.items():
            sent = self.wire("received", "INVITE", f"From: <sip:{NAME}@{domain}>")["text"]
            self.assertIn(f"Via: SIP/2.0/TLS 203.0.113.10:{port};branch=", sent)
            self.assertRegex(sent, rf"Contact: <sip:\S*@203\.0\.113\.10:{port};transport=tls")
            self.assertNotIn("10.0.0.", sent)
        self.far_writes(who, LOCAL, "On both your houses")
        for name, node in self.scene.nodes.items():
            # The partner's edge comes to the node's own port, and is not translated on its way in.
            self.assertIn("connection from tls:198.51.100.20:", node.log, name)

    def test_every_cluster_originates(self) -> None:
        """What a node of the other cluster begins passes through no other node, nor does the answer."""
        nodes = [self.scene.nodes[name] for name in ("a1", "a2", "b1")]
        before = [node.counted("proxy.forwarded") for node in nodes]
        self.writes([B2], "benvolio@lync.example", "Part, fools")
        self.far_writes("benvolio@lync.example", [B2], "I do but keep the peace")
        self.assertEqual([node.counted("proxy.forwarded") for node in nodes], before)

    def test_new_requests_enter_at_one_node(self) -> None:
        """A request for a user of the other cluster passes through its way in; the answers, too."""
        nodes = [self.scene.nodes[name] for name in ("a1", "b1")]
        before = [node.counted("proxy.forwarded") for node in nodes]
        self.far_writes("capulet@lync.example", [B2], "What noise is this?")
        answer = self.wire("received", "SIP/2.0 200", "INVITE")["text"]
        routes = [
            line for line in answer.splitlines() if line.startswith("Record-Route: <sip:203.")
        ]
        self.assertEqual([line.partition(";")[0][-5:] for line in routes], ["55062", ":5062"])
        for node, count in zip(nodes, before, strict=True):
            self.assertGreater(node.counted("proxy.forwarded"), count)

    def test_return_connection_cut(self) -> None:
        """With the connection of the question gone the answer comes by static PAT to who asked."""
        a2, server = self.scene.nodes["a2"], self.far
        server.kill(signal.SIGSTOP)  # so that nobody answers before the connection is cut
        try:
            before = a2.log.count("connection from tls:198.51.100.20:")
            self.users[A2].send("message", to="escalus@lync.example", body="Rebellious subjects")
            self.assertTrue(wait_until(self._asked))
            self.scene.machine("border").cut("src 198.51.100.20")
        finally:
            server.kill(signal.SIGCONT)
        self.far.expect(self.begin, 60, event="im", text="Rebellious subjects")
        self.assertGreater(a2.log.count("connection from tls:198.51.100.20:"), before)
        (session,) = self.far.seen(self.begin, event="session", to="escalus@lync.example")
        self.assertEqual(session["sender"], f"{NAME}@{A2}")

    def test_inner_connections_cut(self) -> None:
        """With the connections between the nodes cut an answer still finds its way through them."""
        who, domain = "benvolio@lync.example", "works.example"
        self.far_writes(who, [domain], "Part, fools")
        self.far.kill(signal.SIGSTOP)
        try:
            self.users[domain].send("message", to=who, body="Art thou drawn?")
            self.assertTrue(wait_until(self._asked))
            for name in ("a1", "b1"):
                self.scene.machine(name).cut("dst 10.0.0.3 or dst 10.0.0.4")
        finally:
            self.far.kill(signal.SIGCONT)
        self.far.expect(self.begin, 60, event="im", text="Art thou drawn?")
        begin = self.far.position
        self.writes([domain], who, "Among these hinds")  # which waits for the answer to the first
        (first,) = self.far.seen(self.begin, event="im", text="Art thou drawn?")
        self.assertEqual(first["to"], who)
        self.assertEqual(self.far.seen(begin, event="session"), [])

    def _asked(self) -> bool:
        """Return whether the partner's edge has handed something on to the server that sleeps."""
        unread = self.scene.machine("server").run("ss", "-Htn", "state", "established")
        return any(int(line.split()[0]) > 0 for line in unread.splitlines())

    def test_wrong_mapping(self) -> None:
        """With a node's port mapped to another node what comes that way is relayed, and noted."""
        a1, a2 = self.scene.nodes["a1"], self.scene.nodes["a2"]
        who = "romeo@b.firm.example"
        self.writes([A2], who, "One")
        firewall, plan = self.scene.machine("firewall"), self.scene.plan
        crossed = [
            Mapped(row.public, "a1", row.port) if row.machine == "a2" else row for row in plan.ports
        ]
        misrouted = a1.counted("proxy.misrouted")
        self.scene.network.translate(firewall, "inside", crossed)
        self.addCleanup(self.scene.network.translate, firewall, "inside", plan.ports)
        self.scene.machine("border").cut("src 198.51.100.20")
        self.far_writes(who, [A2], "Two")
        self.assertGreater(a1.counted("proxy.misrouted"), misrouted)
        self.assertRegex(
            a1.log, r"misrouted .*203\.0\.113\.10:45062 seems to be mapped to this node"
        )
        self.assertRegex(a2.operator("pat-check", code=1), r"crossed +203\.0\.113\.10:45062")

    def both_ways(self, here: str, who: str) -> None:
        """A user of ours and a partner's write to each other and see each other; nobody else does."""
        self.far_writes(who, [here], "From me to")
        self.writes([here], who, "And back from")
        self.far_watches(who, [here])
        self.watches([here], who)
        self.show(who, [here], "dnd", "busy")
        self.far_shows(who, [here], "busy", "Busy")
        self.show(who, [here], "", "available")
        self.far_shows(who, [here], "available", "")
        for domain, user in self.users.items():
            for event in ("message", "asked", "presence"):
                seen = user.seen(self.begun[domain], event=event, sender=who)
                self.assertTrue(domain == here or not seen, seen)

    def test_they_under_us(self) -> None:
        """A partner's domain under one of ours, with people in our own directory, is the partner's."""
        who = "romeo@foreign.company.example"
        self.both_ways("company.example", who)
        # Found in the directory, at a domain that is not ours: so he is no user here.
        stranger = "romeo@company.example"
        self.far_does("im", "capulet@lync.example", stranger, 404, text="Who?")
        self.far_does("subscribe", "capulet@lync.example", stranger, 404)

    def test_we_under_them(self) -> None:
        """A domain of ours under a partner's is ours."""
        self.both_ways(A2, "romeo@group.example")

    def test_siblings(self) -> None:
        """A domain of ours beside a partner's is ours."""
        self.both_ways("a.firm.example", "romeo@b.firm.example")

    def test_second_local_domain(self) -> None:
        """A node's second domain is served as its first one is."""
        self.both_ways("second.example", "escalus@lync.example")

    def test_pat_check(self) -> None:
        """Every node finds itself at its advertised address."""
        for node in self.scene.nodes.values():
            node.operator("pat-check")

    def test_next_hop_down(self) -> None:
        """With the hop of priority 1 silent a node goes to priority 2 within 5 s; then back again."""
        who, border = "romeo@group.example", self.scene.machine("border")
        self.writes([B2], who, "Warm")  # so that one node has a connection, and the other has none
        border.deaf("198.51.100.20")
        self.addCleanup(border.run, "nft", "delete", "table", "inet", "deaf", check=False)
        for name, domain in (("b2", B2), ("a1", "second.example")):
            began = time.time()
            self.writes([domain], who, "Here?")
            self.assertLess(self._opened(name, "198.51.100.21:5061") - began, 5.0)
        border.hears()
        for name in ("b2", "a1"):
            node = self.scene.nodes[name]
            found = functools.partial(self._first_again, node, who)
            self.assertTrue(wait_until(found, 60), node.operator("route", who))
        self.writes([B2, "second.example"], who, "And again")

    def _opened(self, name: str, address: str) -> float:
        """Return when a node has opened its last connection to an address."""
        lines = self.scene.nodes[name].log.splitlines()
        opened = [line for line in lines if f"connection to tls:{address} is open" in line]
        return datetime.fromisoformat(opened[-1].split()[0]).timestamp()

    def _first_again(self, node: ClusterNode, who: str) -> bool:
        return "198.51.100.20:5061  connected" in node.operator("route", who)


class SixthVersionTests(stories.BothWays):
    """The same over IPv6, everywhere but in the loopback of the home servers."""

    kind: type[Scene] = RoutingNode
    variant = Variant(version=6)


class ByNameTests(stories.BothWays):
    """The partner's edge is a stateless Kamailio: it routes by names, and records no route."""

    kind: type[Scene] = ByName
    variant = Variant(stateless=True)

    def test_one_name(self) -> None:
        """All Contacts are one name; what follows enters at the routing node, and finds its owner."""
        who, a1 = "mercutio@lync.example", self.scene.nodes["a1"]
        self.writes(LOCAL, who, "A plague")
        for domain in LOCAL:
            sent = self.wire("received", "INVITE", f"From: <sip:{NAME}@{domain}>")["text"]
            self.assertIn("@federation.company.example:5061;transport=tls;relay=", sent)
        before = a1.counted("proxy.forwarded")
        self.far_writes(who, LOCAL, "On both your houses")
        self.assertGreaterEqual(a1.counted("proxy.forwarded"), before + 3)
        self.assertEqual(a1.counted("proxy.misrouted"), 0)
