"""SIP federation of two real clusters, and what becomes of a dead node's public port."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from demo.parts import Event, PartFailed, wait_until
from impfed.cluster.ownership import Rendezvous
from tests.topology import stories
from tests.topology.balanced_clusters import BalancedClusters
from tests.topology.clusters import MANTUA, NODES, A, B, Cluster, Clusters
from tests.topology.hand_watcher import HandWatcher
from tests.topology.stage import NAME, PEOPLE

PUBLIC = "203.0.113.10"


class ClusterTestCase(stories.TopologyTestCase):
    """Each test leaves both clusters whole."""

    scene: Clusters

    def tearDown(self) -> None:
        self.scene.mend()
        super().tearDown()

    def violations(self) -> list[Event]:
        """Return them without those of the partner's edge, which speaks for a node that has died."""
        return [each for each in super().violations() if "(477/TM)" not in each["detail"]]

    def owner(self, cluster: Cluster, who: str) -> str:
        """Return the node that a local user's pair with somebody belongs to."""
        return Rendezvous(cluster.nodes).owner((cluster.user, who))

    def of(self, cluster: Cluster, node: str, which: int = 0) -> str:
        """Return one of the partner's users whose pairs with a local one belong to a node."""
        everybody = [f"{who}@lync.example" for who in PEOPLE]
        return [who for who in everybody if self.owner(cluster, who) == node][which]

    def serves_after_death(
        self, victim: str, address: str, take_care: Callable[[], object] = lambda: None
    ) -> None:
        """A node dies that has a subscription: what the watcher sends to its address is served.

        :param address: the public address in the subscription's Contact.
        :param take_care: takes care of that address.
        """
        everybody = (f"{self._testMethodName}{number}@{MANTUA}" for number in range(100))
        who = next(who for who in everybody if self.owner(A, who) == victim)
        watcher = self.scene.watcher(who, A.user)
        self.addCleanup(watcher.close)
        host, port = address.split(":")
        answer = watcher.subscribe(host, 5061, A.domain)
        self.assertEqual(answer.start, "SIP/2.0 200 OK")
        self.assertIn(f"@{address};", watcher.contact)
        user = self.users[A.domain]
        user.expect(self.begun[A.domain], event="asked", sender=who)
        user.send("approve", to=who)
        watcher.notified(0, "<basic>open")
        self.scene.kill(victim)
        take_care()
        since = len(watcher.heard)
        served = functools.partial(self._served, watcher, host, int(port))
        self.assertTrue(wait_until(served, 30, 0.2))
        watcher.notified(since)
        since = len(watcher.heard)
        user.send("presence", show="dnd")
        watcher.notified(since, "busy")
        user.send("presence", show="")

    def _served(self, watcher: HandWatcher, host: str, port: int) -> bool:
        """Whether a refresh is answered well; until then he may be told to wait, but never that it is over."""
        try:
            answer = watcher.subscribe(host, port, A.domain, 5.0)
        except (OSError, PartFailed):
            return False  # the way still leads to the dead one
        status = answer.start.split()[1]
        self.assertIn(status, ("200", "480", "500"))
        return status == "200"


class PortsTests(ClusterTestCase, stories.BothWays):
    """One routing node; each node has a public port of its own for what follows."""

    kind = Clusters

    def test_any_node(self) -> None:
        """Each pair's session is begun by its own node, and what follows comes straight back to it."""
        for cluster in (A, B):
            for node in cluster.nodes:
                who = self.of(cluster, node)
                before = self.scene.counted("proxy.forwarded", NODES)
                self.writes([cluster.domain], who, f"From {node} of")
                sent = self.wire("received", "INVITE", f"To: <sip:{who}>", f"@{cluster.domain}>")
                self.assertIn(f"Via: SIP/2.0/TLS {self.scene.told(node)};branch=", sent["text"])
                self.far_writes(who, [cluster.domain], f"To {node} of")
                self.assertEqual(self.scene.counted("proxy.forwarded", NODES), before)

    def test_node_drained(self) -> None:
        """A session in use goes on with another node, which tells its own public port for what follows."""
        who, domains = self.of(A, "a2", -1), [A.domain]  # with whom nobody has spoken yet
        self.writes(domains, who, "Stay but a little")
        begun = self.wire("received", "INVITE", f"To: <sip:{who}>", f"@{A.domain}>")["text"]
        self.assertIn(f"Via: SIP/2.0/TLS {self.scene.told('a2')};branch=", begun)
        call = next(line for line in begun.split("\r\n") if line.startswith("Call-ID:"))
        living = [name for name in A.nodes if name != "a2"]
        heir = self.scene.told(Rendezvous(living).owner((A.user, who)))
        since = self.far.position
        with self.scene.drained("a2"):
            again = self.wire("received", "INVITE", call, since=since)["text"]
            self.assertIn(f"Via: SIP/2.0/TLS {heir};branch=", again)
            self.assertRegex(again, rf"Contact: <sip:{NAME}@{re.escape(heir)};")
            before = self.scene.counted("proxy.forwarded", NODES)
            self.far_writes(who, domains, "I will come again to")
            self.wire("sent", f"MESSAGE sip:{NAME}@{heir};", call, since=since)
            self.writes(domains, who, "O blessed, blessed night of")
            self.wire("received", "MESSAGE", call, f"Via: SIP/2.0/TLS {heir};branch=", since=since)
            self.assertEqual(self.scene.counted("proxy.forwarded", NODES), before)

    def test_new_requests_enter_at_one_node(self) -> None:
        """What is new for the other cluster goes through the routing node; the answers, too."""
        before = self.scene.counted("proxy.forwarded", ["a1"])
        self.far_writes("capulet@lync.example", [B.domain], "What noise is this?")
        answer = self.wire("received", "SIP/2.0 200", "INVITE")["text"]
        self.assertIn(f"Record-Route: <sip:{PUBLIC}:5062;", answer)
        self.assertGreater(self.scene.counted("proxy.forwarded", ["a1"])["a1"], before["a1"])

    def test_node_killed(self) -> None:
        """What a dead node had the others serve: sessions begin anew, subscriptions live on."""
        for cluster, victim in ((A, "a2"), (B, "b2")):
            who, domains = self.of(cluster, victim), [cluster.domain]
            self.writes(domains, who, f"Is {victim} there")
            self.far_watches(who, domains)
            self.watches(domains, who)
            self.scene.kill(victim)
            self.writes(domains, who, f"And without {victim}")
            self.scene.settle(cluster, [victim])
            self.far_writes(who, domains, f"Nothing without {victim}")
            self.show(who, domains, "dnd", "busy")
            self.far_shows(who, domains, "busy", "Busy")
            self.scene.mend()
            self.show(who, domains, "", "available")
            self.far_shows(who, domains, "available", "")
            self.writes(domains, who, f"And {victim} is back")

    def test_way_in_killed(self) -> None:
        """When the other cluster's first node is dead what is new goes there by its second one."""
        self.scene.kill("b1")
        self.scene.settle(B, ["b1"])
        self.far_writes("escalus@lync.example", [B.domain], "You men, you beasts, of")
        self.writes([B.domain], "escalus@lync.example", "Who set this ancient quarrel")

    # -- a dead node's public port -----------------------------------------------------------------

    def test_port_mapped_anew(self) -> None:
        """The firewall's script maps a dead node's port to another one, which serves what comes there."""
        self.addCleanup(self.scene.map_ports)
        self.serves_after_death("a2", f"{PUBLIC}:45062", lambda: self.scene.map_ports(a2="a3"))

    def test_address_moved(self) -> None:
        """A dead node's address moves to another machine, whose node serves what comes there."""
        take = functools.partial(self.scene.take_address, "a3", "a1")
        try:
            self.serves_after_death("a3", f"{PUBLIC}:55062", take)
        finally:
            self.scene.take_address("a3", "a3")

    def test_routing_node_killed(self) -> None:
        """With its ports mapped to another node that one does the routing, for both clusters."""
        who = self.of(A, "a1")
        self.scene.kill("a1")
        self.scene.map_ports(a1="a2")
        self.addCleanup(self.scene.map_ports)
        self.scene.settle(A, ["a1"])
        self.far_writes(who, self.users, "Who leads the way to")
        self.writes(self.users, who, "Another one of")


class BalancerTests(ClusterTestCase, stories.BothWays):
    """Nodes of one cluster behind a balancer, whose address they all tell."""

    kind = BalancedClusters
    scene: BalancedClusters

    def test_with_a_node_killed(self) -> None:
        """The balancer leads what belongs to a dead node's subscription to one that lives."""
        self.serves_after_death("a2", f"{PUBLIC}:5061")
