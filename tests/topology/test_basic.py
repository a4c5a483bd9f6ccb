"""One edge before all nodes, for both directions; it ends TLS and opens it anew."""

from __future__ import annotations

from tests.topology import stories
from tests.topology.scenes import Basic


class BasicTests(stories.BothWays):
    """The edge is a Kamailio that records its route, as the partner's is."""

    kind = Basic

    def test_way(self) -> None:
        """Both edges stand in the way of every dialog, and what follows in it goes through both."""
        who, domain = "mercutio@lync.example", "branch.group.example"
        self.far_writes(who, [domain], "A plague")
        answer = self.wire("received", "SIP/2.0 200", "INVITE")["text"]
        for name in ("edge.lync.example", "sip.company.example", "proxy.company.example"):
            self.assertIn(f"Record-Route: <sip:{name}:5061;", answer)
        self.writes([domain], who, "On both your houses")
        told = self.wire("received", "MESSAGE", "On both")["text"]
        self.assertEqual(told.count("Via: SIP/2.0/TLS edge.lync.example"), 0)
        self.assertIn("Via: SIP/2.0/TLS inner.lync.example:5061", told)
        self.assertIn("Via: SIP/2.0/TLS sip.company.example:5061", told)
