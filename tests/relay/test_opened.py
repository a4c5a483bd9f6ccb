"""Stanzas for domains that nobody configured wait until it is known how such a domain is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from impfed.core.metrics import Metrics
from impfed.relay.departures import Departures
from impfed.relay.opened import OpenRelay
from impfed.routing.api import OverXmpp, Reject
from impfed.sip.target import Hop
from impfed.transport.link_api import IForeignRelay
from impfed.transport.s2s_api import IS2SUser
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.stanza import OutStanza, Stanza
from tests.relay.world import read
from tests.routing.test_opened import OpenedCase

HOP = [Hop("tls", "edge.default.example", 5061)]
TEXT = "<message from='alice@home.example/x' to='{}' id='m1' type='chat'><body>Hi</body></message>"


class Relay:
    """The relay proper: keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[Stanza] = []
        self.arrived: list[Stanza] = []
        self.told: list[object] = []
        self.departures = Departures(ReactorTimers(Clock()))

    def takes(self, domain: str) -> bool:
        return domain != "lync.example"

    reaches = takes

    def from_home(self, stanza: Stanza) -> None:
        self.taken.append(stanza)

    def stanza_arrived(self, stanza: Stanza, stream: object) -> None:
        self.arrived.append(stanza)

    def link_up(self, domains: frozenset[str]) -> None:
        self.told.append(domains)

    def not_written(self, stanza: OutStanza) -> None:
        self.told.append(stanza)


class OpenRelayTests(OpenedCase):
    """In front of a relay and a gateway that only note what they get."""

    def setUp(self) -> None:
        super().setUp()
        self.relay = Relay()
        self.to_sip: list[Stanza] = []
        self.to_home: list[OutStanza] = []
        self.to_far: list[OutStanza] = []
        self.asked: list[Callable[[Any], None]] = []
        self.opened.resolve = lambda query, done: self.asked.append(done)
        self.open = OpenRelay(
            self.relay,
            self.opened,
            self.to_sip.append,
            self.to_home.append,
            self.to_far.append,
            Metrics(),
        )

    def writes(self, to: str = "bob@new.example") -> None:
        self.open.from_home(read(TEXT.format(to)))

    def test_interfaces(self) -> None:
        """It is what links and streams expect, and passes the rest on."""
        verifyObject(IForeignRelay, self.open)
        verifyObject(IS2SUser, self.open)
        self.assertEqual(
            (self.open.takes("x.example"), self.open.reaches("lync.example")), (True, False)
        )
        self.open.link_up(frozenset({"home.example"}))
        self.open.not_written(OutStanza("message", *[read(TEXT.format("b@x")).to] * 2, "i", ""))
        self.assertEqual(len(self.relay.told), 2)

    def test_waits(self) -> None:
        """A text waits for the decision, and goes on in the order in which it came."""
        self.writes()
        self.writes("carol@new.example")
        self.assertEqual((self.relay.taken, self.to_sip), ([], []))
        for done in self.asked:
            done(HOP)
        self.assertEqual([each.to.local for each in self.to_sip], ["bob", "carol"])

    def test_not_safe_before(self) -> None:
        """A home server that keeps a text until it is safe keeps it until the decision."""
        for answer in (HOP, OverXmpp(404, "there"), Reject(404, "nowhere")):
            safe: list[bool] = []
            self.writes()
            self.relay.departures.settle("new.example", lambda safe=safe: safe.append(True))
            self.assertEqual(safe, [])
            self.asked.pop()(answer)
            self.assertEqual(safe, [True])

    def test_over_xmpp(self) -> None:
        """What is reached over XMPP is the relay's."""
        self.writes()
        self.asked[0](OverXmpp(404, "there"))
        self.assertEqual(len(self.relay.taken), 1)
        self.learned.found("new.example", "xmpp")
        self.writes()
        self.assertEqual((len(self.relay.taken), len(self.asked)), (2, 1))

    def test_no_way(self) -> None:
        """Where there is no way the sender is told why."""
        self.writes()
        self.asked[0](Reject(404, "there is no static route .* for SIP"))
        (error,) = self.to_home
        self.assertIn("remote-server-not-found", error.xml)
        self.assertIn("there is no static route .* for SIP", error.xml)

    def test_known(self) -> None:
        """Nothing is asked about domains that are not unknown, and for presence that asks nothing."""
        self.writes("bob@lync.example")
        self.open.from_home(
            read("<presence from='alice@home.example/x' to='bob@new.example' type='unavailable'/>")
        )
        self.assertEqual((len(self.relay.taken), self.asked), (2, []))

    def test_too_much_waits(self) -> None:
        """What can wait no more comes back at once."""
        for _ in range(1001):
            self.writes()
        self.assertEqual(len(self.asked), 1000)
        self.assertIn("resource-constraint", self.to_home[0].xml)

    def test_from_there(self) -> None:
        """A stanza that comes over a stream makes its domain one of XMPP, unless SIP has worked there."""
        stanza = read("<message from='bob@new.example/x' to='alice@home.example' id='1'/>")
        self.open.stanza_arrived(stanza, object())
        self.assertEqual(len(self.relay.arrived), 1)
        self.assertEqual(self.learned.protocol("new.example"), "xmpp")
        self.learned.found("old.example", "sip")
        self.opened.worked("old.example")
        stanza = read("<message from='bob@old.example/x' to='alice@home.example' id='1'/>")
        self.open.stanza_arrived(stanza, object())
        self.assertEqual(len(self.relay.arrived), 1)
        self.assertIn("federated with over SIP", self.to_far[0].xml)
        self.open.stanza_arrived(stanza, None)  # an error of our own making
        self.assertEqual(len(self.relay.arrived), 2)
