"""Static routes: which pattern decides, in which order its hops come, and what a block stops."""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import NextHopConfig, RouteConfig, SipDomainConfig
from impfed.config.patterns import parse_pattern
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.routing.api import Reject, RouteQuery
from impfed.routing.order import in_order
from impfed.routing.router import Router
from impfed.routing.static import StaticRoute, StaticTable, with_static_names
from impfed.sip.target import Hop


def route(pattern: str, host: str = "", **fields) -> RouteConfig:
    """Return a static route."""
    return RouteConfig(parse_pattern(pattern), host, **fields)


DOMAINS = (SipDomainConfig("domaina.com"),)


class StaticRouteTests(SynchronousTestCase):
    """The table, asked through the chain as the node does."""

    def hosts(self, to: str, *routes: RouteConfig, domains=DOMAINS):
        table = StaticTable(domains, routes)
        answers = []
        static = StaticRoute(domains, table=table)
        Router([static], Metrics()).resolve(
            RouteQuery("INVITE", "alice@home.example", to), answers.append
        )
        [answer] = answers
        return answer.status if isinstance(answer, Reject) else [hop.host for hop in answer]

    def test_narrowest_pattern_decides(self) -> None:
        """A user pattern beats a plain domain, that a long reversed one, that a short one, that .*."""
        routes = [
            route(".*", "all"),
            route(".com.*", "com"),
            route(".com.domaina.*", "reversed"),
            route("domaina.com", "plain"),
            route("boss@domaina.com", "boss"),
        ]
        self.assertEqual(self.hosts("boss@domaina.com", *routes), ["boss"])
        self.assertEqual(self.hosts("BOSS@domaina.com", *routes), ["boss"])
        self.assertEqual(self.hosts("bob@domaina.com", *routes), ["plain"])
        self.assertEqual(self.hosts("bob@sub.domaina.com", *routes), ["reversed"])
        self.assertEqual(self.hosts("bob@other.com", *routes), ["com"])

    def test_everything_serves_configured_domains_only(self) -> None:
        """.* is a configured domain's last resort; an unknown domain is open federation's business."""
        self.assertEqual(self.hosts("bob@domaina.com", route(".*", "all")), ["all"])
        self.assertEqual(self.hosts("bob@unknown.com", route(".*", "all")), 404)

    def test_priority_and_next_hop(self) -> None:
        """Lower priority first; the next hop of a [[domain]] is one more route of priority 1."""
        domain = SipDomainConfig("domaina.com", next_hop=NextHopConfig("own"))
        routes = [
            route("domaina.com", "third", priority=3),
            route("domaina.com", "zero", priority=0),
        ]
        self.assertEqual(
            self.hosts("bob@domaina.com", *routes, domains=(domain,)), ["zero", "own", "third"]
        )

    def test_out_of_service(self) -> None:
        """A route out of service is as if it were not there: the next, or a wider pattern, serves."""
        off = route("domaina.com", "off", in_service=False)
        self.assertEqual(self.hosts("b@domaina.com", off, route("domaina.com", "on")), ["on"])
        self.assertEqual(self.hosts("b@domaina.com", off, route(".com.*", "wide")), ["wide"])
        self.assertEqual(self.hosts("b@domaina.com", off), 404)

    def test_no_fall_back_to_a_wider_pattern(self) -> None:
        """Hops of a wider pattern are no backup: a default route must not get a domain's traffic."""
        found = self.hosts("b@domaina.com", route("domaina.com", "own"), route(".com.*", "wide"))
        self.assertEqual(found, ["own"])

    def test_block(self) -> None:
        """A blocked pattern answers 403, other routes of it notwithstanding; a narrower one may allow."""
        block = route(".com.domaina.*", block=True)
        self.assertEqual(
            self.hosts("b@domaina.com", block, route(".com.domaina.*", "x", priority=0)), 403
        )
        self.assertEqual(self.hosts("b@domaina.com", block, route("domaina.com", "x")), ["x"])
        self.assertEqual(self.hosts("b@sub.domaina.com", block, route("domaina.com", "x")), 403)
        self.assertEqual(
            self.hosts("b@domaina.com", route(".com.domaina.*", block=True, in_service=False)), 404
        )

    def test_hop(self) -> None:
        """A hop carries transport, TLS name, the domain's certificate, and the pattern as reason."""
        domain = SipDomainConfig("domaina.com", client_certificate="partner")
        table = StaticTable(
            [domain],
            [route("domaina.com", "192.0.2.1", tls_name="sip.domaina.com", priority=7)],
        )
        entry = table.match("b", "domaina.com")
        assert entry is not None
        (hop,) = entry.hops
        self.assertEqual((hop.tls_name, hop.certificate), ("sip.domaina.com", "partner"))
        self.assertIn("domaina.com priority 7", hop.source)
        (plain,) = StaticTable([], [route("a.com", "h", transport="tcp")]).match("b", "a.com").hops
        self.assertEqual((plain.transport, plain.tls_name), ("tcp", ""))

    def test_peers_prove_themselves_by_static_hops(self) -> None:
        """The names of a domain's static hops are accepted of its peers; those of .* are not."""
        domain = SipDomainConfig("domaina.com", peer_names=("edge.example",))
        table = StaticTable(
            [domain], [route(".com.domaina.*", "hop.example"), route(".*", "default.example")]
        )
        told = with_static_names(domain, table)
        self.assertEqual(told.peer_names, ("edge.example", "hop.example"))
        assert told.next_hop is not None
        self.assertEqual(told.next_hop.host, "hop.example")


class OrderTests(SynchronousTestCase):
    """Lots among hops of equal priority (RFC 2782)."""

    def test_weights(self) -> None:
        """Over many draws each hop comes first as often as its weight says."""
        hops = [Hop("tls", "a", 1, weight=3), Hop("tls", "b", 1, weight=1)]
        uniform = IdSource().uniform
        first = Counter(in_order(hops, uniform)[0].host for _ in range(2000))
        self.assertTrue(0.70 < first["a"] / 2000 < 0.80, first)

    def test_everybody_is_there(self) -> None:
        """Each draw holds every hop once; weight 0 comes last."""
        hops = [
            Hop("tls", name, 1, weight=weight) for name, weight in (("z", 0), ("a", 5), ("b", 5))
        ]
        for _ in range(50):
            drawn = [hop.host for hop in in_order(hops, IdSource().uniform)]
            self.assertEqual(sorted(drawn), ["a", "b", "z"])
            self.assertEqual(drawn[-1], "z")
