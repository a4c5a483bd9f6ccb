"""Domains that nobody configured: who they may be, what is found out of them, and what they are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import Config, OpenFederationConfig, RouteConfig
from impfed.config.patterns import parse_pattern
from impfed.config.s2s import S2SConfig, S2SDomainConfig, S2SExceptionConfig
from impfed.core.metrics import Metrics
from impfed.policy.budget import limits_of
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import OverXmpp, Reject
from impfed.routing.learned import LearnedDomains
from impfed.routing.opened import OpenDomains
from impfed.routing.static import StaticTable
from impfed.sip.target import Hop
from impfed.store.memory import MemoryStore
from tests.gateway.harness import CONFIG

DEFAULT = RouteConfig(parse_pattern(".*"), "edge.default.example", tls_name="edge.default.example")
S2S = S2SConfig(
    domains=(S2SDomainConfig("*.xmpp.example"),), exceptions=(S2SExceptionConfig("spam.example"),)
)


class OpenedCase(SynchronousTestCase):
    """A node with open federation, and a store that remembers."""

    def setUp(self) -> None:
        self.clock, self.store = Clock(), MemoryStore()
        self.successResultOf(self.store.start())
        self.begin()

    def begin(self, config: Config = CONFIG, *routes: RouteConfig, **options: Any) -> None:
        """Start the node, anew perhaps."""
        options = {"enabled": True, **options}
        config = replace(config, open_federation=OpenFederationConfig(**options))
        self.learned = LearnedDomains(self.store, self.clock.seconds, Metrics(), 600.0)
        self.successResultOf(self.learned.load())
        table = StaticTable(config.domains, routes or (DEFAULT,))
        self.opened = OpenDomains(config, self.learned, table, Metrics())
        self.peers = PeerPolicy(config.domains, ["balancer.example"], self.opened)


class KnownTests(OpenedCase):
    """Which domains are unknown, and what holds for them."""

    def test_unknown(self) -> None:
        """Configured, local and own domains are not unknown, nor is who has an entry for XMPP."""
        self.begin(replace(CONFIG, s2s=S2S))
        unknown = self.opened.unknown
        for name in ("lync.example", "home.example", "a.xmpp.example", "spam.example", "localhost"):
            self.assertFalse(unknown(name), name)
        for name in ("new.example", "sub.lync.example", "sub.home.example"):
            self.assertTrue(unknown(name), name)
        self.begin(enabled=False)
        self.assertFalse(self.opened.unknown("new.example"))

    def test_what_they_are_given(self) -> None:
        """One that SIP reaches has the kind that is configured, and the budget of a partner that has
        only just discovered us, whatever its kind."""
        self.begin(kind="simple")
        self.assertIsNone(self.peers.domain("new.example"))
        self.learned.found("new.example", "sip")
        domain = self.peers.domain("new.example")
        assert domain is not None
        self.assertEqual(domain.kind, "simple")
        limits = limits_of(domain)
        self.assertEqual((limits.rate, limits.burst, limits.addresses), (18, 2, 1000))
        self.assertFalse(domain.listed)

    def test_forgotten(self) -> None:
        """When the operator has it forgotten it is unknown again."""
        self.learned.found("new.example", "sip")
        self.opened.worked("new.example")
        self.assertTrue(self.learned.remove("new.example"))
        self.assertIsNone(self.peers.domain("new.example"))


class InboundTests(OpenedCase):
    """A SIP connection speaks for a domain that nobody configured."""

    def refusal(self, *names: str, proven: bool = True, transport: str = "tls") -> str:
        found = self.peers.may_speak_for(
            "new.example", frozenset(names), proven, transport, "192.0.2.1"
        )
        return "" if found is None else found.reason

    def test_exactly_itself(self) -> None:
        """Only a certificate for the very domain proves it; then it is one that SIP reaches."""
        for names in (
            ("sip.new.example",),
            ("example",),
            ("lync.example",),
            ("balancer.example",),
            ("edge.default.example",),
            (),
        ):
            self.assertIn("does not prove exactly that domain", self.refusal(*names), names)
            self.assertIsNone(self.peers.domain("new.example"))
        self.assertEqual(self.refusal("other.example", "new.example"), "")
        self.assertIsNotNone(self.peers.domain("new.example"))

    def test_nothing_but_proof(self) -> None:
        """Without mutual TLS nobody speaks for an unknown domain."""
        self.assertIn("does not prove", self.refusal("new.example", proven=False))
        self.assertIn("does not prove", self.refusal("new.example", transport="tcp"))

    def test_hosts_if_the_operator_says_so(self) -> None:
        """A name directly under the domain counts only where that is configured."""
        self.begin(host_names=True)
        self.assertEqual(self.refusal("sip.new.example"), "")
        self.assertIn("does not prove", self.refusal("a.sip.other.example"))
        self.assertEqual(self.peers.expected("x.example"), ("x.example", "HOST.x.example"))

    def test_answers_by_the_default_route(self) -> None:
        """The next hop of ``.*`` speaks for domains that are reached by it, and for no others."""
        self.assertIn("does not prove", self.refusal("edge.default.example"))
        self.learned.found("new.example", "sip")
        self.assertEqual(self.refusal("edge.default.example"), "")
        self.assertTrue(self.peers.reaches("edge.default.example"))

    def test_never_both(self) -> None:
        """A domain that is reached over XMPP is not let in over SIP, and the reason says what to do."""
        self.learned.found("new.example", "xmpp")
        reason = self.refusal("new.example")
        self.assertIn("reached over XMPP", reason)
        self.assertIn("impfedctl forget new.example", reason)

    def test_switched_off(self) -> None:
        """Without open federation it is as ever."""
        self.begin(enabled=False)
        self.assertIn("not a SIP federated domain", self.refusal("new.example"))

    def test_remembered(self) -> None:
        """What has only knocked is forgotten after a while; what was accepted outlives a restart."""
        self.refusal("new.example")
        self.assertEqual([each["proven"] for each in self.learned.view()], [False])
        self.clock.advance(601)
        self.assertIsNone(self.peers.domain("new.example"))
        self.refusal("new.example")
        self.opened.worked("new.example")
        self.begin()
        self.clock.advance(10_000)
        self.assertIsNotNone(self.peers.domain("new.example"))
        self.assertEqual([each["proven"] for each in self.learned.view()], [True])


class OutboundTests(OpenedCase):
    """A local user writes to a domain that nobody configured."""

    def decide(self, resolution: Any) -> tuple[str | None, str]:
        """Let the routes say something; return what is decided."""
        told: list[tuple[str | None, str]] = []
        self.opened.resolve = lambda query, done: done(resolution)
        self.assertTrue(
            self.opened.decide("a@home.example", "b@new.example", lambda *what: told.append(what))
        )
        return told[0]

    def test_decided(self) -> None:
        """The routes find it out: over XMPP, over SIP, or there is no way, and why."""
        self.assertEqual(self.decide(OverXmpp(404, "there")), ("xmpp", ""))
        self.assertEqual(self.decide([Hop("tls", "edge.default.example", 5061)]), ("sip", ""))
        self.assertEqual(self.decide(Reject(404, "no route .*")), (None, "no route .*"))

    def test_bounded(self) -> None:
        """Decisions that do not come are not collected without end."""
        self.opened.resolve = lambda query, done: None
        for _ in range(1000):
            self.assertTrue(self.opened.decide("a@x", "b@y", lambda *what: None))
        self.assertFalse(self.opened.decide("a@x", "b@y", lambda *what: None))
        self.assertEqual(self.opened.status()["undecided"], 1000)

    def test_without_xmpp(self) -> None:
        """Where there is no XMPP federation SIP takes it at once, if there is a route."""
        self.assertTrue(self.opened.serves("new.example"))
        self.assertFalse(self.opened.serves("home.example"))
        self.assertIsNotNone(self.peers.domain("new.example"))
        self.begin(CONFIG, replace(DEFAULT, pattern=parse_pattern("other.example")))
        self.learned.remove("new.example")
        self.assertFalse(self.opened.serves("new.example"))

    def test_with_xmpp(self) -> None:
        """Else it has to be found out first."""
        self.begin(replace(CONFIG, s2s=S2S))
        self.assertFalse(self.opened.serves("new.example"))
        self.learned.found("new.example", "sip")
        self.assertTrue(self.opened.serves("new.example"))

    def test_comes_over_xmpp(self) -> None:
        """A stanza of the domain is stronger than a finding that nothing has proven, and weaker than
        what has worked."""
        self.learned.found("new.example", "sip")
        self.assertEqual(self.opened.came_by_xmpp("new.example"), "")
        self.assertEqual(self.learned.protocol("new.example"), "xmpp")
        self.learned.found("old.example", "sip")
        self.opened.worked("old.example")
        self.assertIn("federated with over SIP", self.opened.came_by_xmpp("old.example"))
        self.assertEqual(self.learned.protocol("old.example"), "sip")
