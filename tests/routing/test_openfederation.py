"""Open federation: XMPP first, then the route ``.*``; what worked is remembered, listed, removable."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from impfed.config.model import RouteConfig
from impfed.config.patterns import parse_pattern
from impfed.core.metrics import Metrics
from impfed.routing.api import IRoute, OverXmpp, Reject, RouteQuery
from impfed.routing.learned import LearnedDomains
from impfed.routing.openfederation import IXmppProbe, NoXmpp, OpenFederationRoute
from impfed.routing.static import StaticTable
from impfed.store.memory import MemoryStore
from impfed.store.records import LearnedDomainRecord

ALL = RouteConfig(parse_pattern(".*"), "default.example")


@implementer(IXmppProbe)
class ScriptedProbe:
    """A probe that answers what the test says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = lambda: succeed(False)

    def reachable(self, domain: str):
        self.asked.append(domain)
        return self.answer()


class OpenFederationTests(SynchronousTestCase):
    """The route with a double for the XMPP side."""

    def setUp(self) -> None:
        self.clock, self.store, self.probe = Clock(), MemoryStore(), ScriptedProbe()
        self.successResultOf(self.store.start())
        self.begin(ALL)

    def begin(self, *routes: RouteConfig) -> None:
        self.learned = LearnedDomains(self.store, self.clock.seconds, Metrics(), remember=600)
        self.successResultOf(self.learned.load())
        table = StaticTable([], routes)
        known = {"lync.example", "home.example"}
        self.route = OpenFederationRoute(table, known.__contains__, self.learned, self.probe)

    def resolve(self, domain: str = "new.example"):
        answer = self.route.resolve(RouteQuery("INVITE", "a@home.example", f"bob@{domain}"))
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def test_interfaces(self) -> None:
        """Route, probe and the stand-in for no XMPP provide what they have to."""
        verifyObject(IRoute, self.route)
        verifyObject(IXmppProbe, self.probe)
        verifyObject(IXmppProbe, NoXmpp())
        self.assertFalse(self.successResultOf(NoXmpp().reachable("x.example")))

    def test_configured_domains_are_not_unknown(self) -> None:
        """A configured or local domain is never probed."""
        self.assertIsNone(self.resolve("lync.example"))
        self.assertIsNone(self.resolve("home.example"))
        self.assertEqual(self.probe.asked, [])

    def test_xmpp_first(self) -> None:
        """A domain that answers over XMPP is left to it."""
        self.probe.answer = lambda: succeed(True)
        self.assertIsInstance(self.resolve(), OverXmpp)

    def test_then_sip(self) -> None:
        """One that does not is tried by the route .*, and not probed again for a while."""
        (hop,) = self.resolve()
        self.assertEqual(hop.host, "default.example")
        self.resolve()
        self.assertEqual(self.probe.asked, ["new.example"])
        self.clock.advance(601)
        self.resolve()
        self.assertEqual(len(self.probe.asked), 2)

    def test_a_probe_that_fails_is_a_no(self) -> None:
        """A failing or raising probe leads on to SIP."""
        self.probe.answer = lambda: fail(OSError("no route to host"))
        self.assertEqual(self.resolve()[0].host, "default.example")

        def broken():
            raise ValueError("bug")

        self.probe.answer = broken
        self.assertEqual(self.resolve("other.example")[0].host, "default.example")

    def test_no_way(self) -> None:
        """Without a route .* the answer says what is missing."""
        self.begin()
        answer = self.resolve()
        self.assertIsInstance(answer, Reject)
        self.assertIn("no static route .*", answer.reason)

    def test_blocked_everything(self) -> None:
        """A blocked .* refuses strangers over SIP."""
        self.begin(RouteConfig(parse_pattern(".*"), block=True))
        self.assertEqual(self.resolve().status, 403)

    def test_one_probe_for_many(self) -> None:
        """Requests that come while a domain is probed wait for that probe."""
        probing: Deferred[bool] = Deferred()
        self.probe.answer = lambda: probing
        query = RouteQuery("INVITE", "a@home.example", "bob@new.example")
        first, second = self.route.resolve(query), self.route.resolve(query)
        probing.callback(True)
        for answer in (first, second):
            self.assertIsInstance(self.successResultOf(answer), OverXmpp)
        self.assertEqual(self.probe.asked, ["new.example"])

    def test_what_worked_is_remembered(self) -> None:
        """The first success is written down, survives a restart, and is not probed again."""
        self.resolve()
        self.learned.worked("new.example", "sip")
        self.learned.worked("never-asked.example", "sip")
        self.begin(ALL)
        self.assertEqual(self.resolve()[0].host, "default.example")
        self.assertEqual(self.probe.asked, ["new.example"])
        (line,) = self.learned.view()
        self.assertEqual((line["domain"], line["protocol"], line["proven"]),
                         ("new.example", "sip", True))  # fmt: skip

    def test_removal(self) -> None:
        """A removed domain is gone from the store and tried anew."""
        self.resolve()
        self.learned.worked("new.example", "sip")
        self.assertTrue(self.learned.remove("new.example"))
        self.assertFalse(self.learned.remove("new.example"))
        self.assertEqual(self.successResultOf(self.store.load(LearnedDomainRecord)), [])
        self.probe.answer = lambda: succeed(True)
        self.assertIsInstance(self.resolve(), OverXmpp)

    def test_strangers_do_not_fill_the_memory(self) -> None:
        """Findings beyond the bound are not kept."""
        self.learned = LearnedDomains(self.store, self.clock.seconds, Metrics(), capacity=2)
        for number in range(5):
            self.learned.found(f"d{number}.example", "sip")
        self.assertEqual(len(self.learned.view()), 2)
