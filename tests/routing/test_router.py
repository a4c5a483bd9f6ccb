"""The resolver chain and the built-in routes."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from impfed.config.model import NextHopConfig, SipDomainConfig
from impfed.core.errors import LocalError
from impfed.core.metrics import Metrics
from impfed.routing.api import INTERFACE_VERSION, IRoute, Reject, RouteQuery
from impfed.routing.router import Router
from impfed.routing.static import LocalRoute, StaticRoute
from impfed.sip.target import Hop

DOMAIN = SipDomainConfig(
    "lync.example", next_hop=NextHopConfig("sip.lync.example"), client_certificate="partner"
)


class ScriptedRoute:
    """A route that answers what the test says."""

    interface_version = INTERFACE_VERSION

    def __init__(self, name, order, answer) -> None:
        self.name, self.order, self.answer = name, order, answer

    def resolve(self, query):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def hop(host, priority=1, weight=1):
    return Hop("tls", host, 5061, priority=priority, weight=weight)


class RouterTests(SynchronousTestCase):
    """Routes are asked in their order until one answers."""

    def setUp(self) -> None:
        self.metrics = Metrics()
        self.answers = []

    def resolve(self, *routes, to="bob@lync.example"):
        query = RouteQuery("INVITE", "alice@home.example", to)
        Router(routes, self.metrics).resolve(query, self.answers.append)
        return self.answers[-1] if self.answers else None

    def test_built_in_routes_keep_their_interface(self) -> None:
        """The built-in routes provide what a plugin has to."""
        verifyObject(IRoute, LocalRoute(["home.example"]))
        verifyObject(IRoute, StaticRoute([DOMAIN]))

    def test_static_route(self) -> None:
        """A configured domain leads to its next hop, with its certificate and the reason why."""
        (found,) = self.resolve(StaticRoute([DOMAIN]))
        self.assertEqual(
            (found.transport, found.host, found.port, found.tls_name, found.certificate),
            ("tls", "sip.lync.example", 5061, "sip.lync.example", "partner"),
        )
        self.assertEqual(found.source, "static route of lync.example")

    def test_local_domains_never_leave(self) -> None:
        """A local domain is rejected as next hop before any other route is asked."""
        greedy = ScriptedRoute("greedy", 50, [hop("anywhere.example")])
        answer = self.resolve(greedy, LocalRoute(["home.example"]), to="carol@home.example")
        self.assertEqual(answer.status, 404)

    def test_exact_domains_only(self) -> None:
        """Domains under a local or a configured one are other domains."""
        local = LocalRoute(["home.example"])
        sub = ScriptedRoute("sub", 50, [hop("sub")])
        self.assertEqual(self.resolve(local, sub, to="x@sub.home.example")[0].host, "sub")
        self.assertIsInstance(self.resolve(StaticRoute([DOMAIN]), to="x@sub.lync.example"), Reject)

    def test_lower_priority_number_first(self) -> None:
        """Hops come in order of priority, heavier first among equals."""
        route = ScriptedRoute("r", 1, [hop("c", 2), hop("b", 1, 1), hop("a", 1, 9)])
        self.assertEqual([each.host for each in self.resolve(route)], ["a", "b", "c"])

    def test_a_broken_route_is_skipped(self) -> None:
        """A route that raises is logged and counted, and the next one is asked."""
        broken = ScriptedRoute("broken", 1, ValueError("plugin bug"))
        answer = self.resolve(broken, ScriptedRoute("good", 2, [hop("good")]))
        self.assertEqual(answer[0].host, "good")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.metrics.value("routing.route_failed"), 1)

    def test_a_route_may_take_its_time(self) -> None:
        """A Deferred answer is waited for; None in it means "not mine"."""
        later: Deferred = Deferred()
        self.assertIsNone(
            self.resolve(ScriptedRoute("slow", 1, later), ScriptedRoute("next", 2, [hop("next")]))
        )
        later.callback(None)
        self.assertEqual(self.answers[0][0].host, "next")

    def test_a_route_that_fails_late_is_skipped(self) -> None:
        """A failing Deferred counts as a broken route."""
        later: Deferred = Deferred()
        self.resolve(ScriptedRoute("slow", 1, later), ScriptedRoute("next", 2, [hop("next")]))
        later.errback(ValueError("resolver bug"))
        self.assertEqual(self.answers[0][0].host, "next")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_nobody_knows(self) -> None:
        """Without any answer the reason names the domain."""
        answer = self.resolve(to="bob@nowhere.example")
        self.assertEqual(answer.status, 404)
        self.assertIn("nowhere.example", answer.reason)

    def test_interface_version(self) -> None:
        """A route for another version of the interface is refused at load, by name."""
        route = ScriptedRoute("old", 1, None)
        route.interface_version = 99
        error = self.assertRaises(LocalError, Router, [route], self.metrics)
        self.assertIn("old", str(error))
