"""Two real clusters over IPv6: what differs there is where things listen, and how addresses are written."""

from __future__ import annotations

from tests.topology.clusters import CLUSTERS, NODES
from tests.topology.stage import Variant
from tests.topology.test_clusters_xmpp import XmppTestCase


class SixthVersionTests(XmppTestCase):
    """Nodes, stores, home servers, partners and name servers, through a firewall that maps ports."""

    variant = Variant(version=6)

    def test_sip(self) -> None:
        """Users of both clusters write first, and are written to first; each node tells its own port."""
        self.writes(self.users, "romeo@lync.example", "Ay me")
        for cluster in CLUSTERS:
            sent = self.wire("received", "INVITE", f"From: <sip:{cluster.user}>")["text"]
            told = [f"Via: SIP/2.0/TLS {self.scene.told(node)};branch=" for node in cluster.nodes]
            self.assertTrue(any(each in sent for each in told), sent)
        self.far_writes("romeo@lync.example", self.users, "She speaks")
        self.far_writes("tybalt@lync.example", self.users, "What, drawn, and talk of peace")
        self.writes(self.users, "tybalt@lync.example", "As I hate hell")

    def test_xmpp(self) -> None:
        """Texts pass both ways, spread over the nodes of the user's own cluster."""
        for cluster in CLUSTERS:
            self.verona_writes("romeo", cluster, "But soft")
            self.assertLessEqual(self.entered_at(), {*NODES})
            self.writes_to_verona(cluster, "Good morrow")
            self.assertEqual(self.left_by(), self.share(cluster))
