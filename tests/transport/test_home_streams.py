"""A home server linked by S2S, played by a server of the test's own over loopback."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.task import deferLater

from demo.parts import free_ports
from impfed.config.model import HomeConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.transport.home import ACCEPTED, Delivery, HomeLinks, LinkLimits, Outcome
from impfed.transport.link_api import LinkState
from impfed.transport.s2s import S2SLimits, Security, Target, Tls
from impfed.xmpp.stanza import OutStanza, Stanza, error_reply, iq, message
from tests.transport.home_case import Gateway
from tests.transport.s2s_kit import J, S2SCase, reactor, text, tls_store

Steps = Generator[Deferred[Any], Any, None]
CLEAR = Security(Tls.NONE, certificates=False)
FOREIGN, ADDRESS, HOME = "lync.example", "federation.home.example", "home.example"


class StreamLinkCase(S2SCase):
    """A node's links, with a home server that answers pings and refuses whom it does not know."""

    def setUp(self) -> None:
        super().setUp()
        self.deliveries: list[Delivery] = []
        self.settling: list[Callable[[], None]] = []
        self.gateway = Gateway()
        self.links: HomeLinks | None = None

    def link(self, clear: bool, settle: Any = None) -> Any:
        """Start a home server and the link to it; fires when the link is up."""
        (self.door,) = free_ports(1)
        for domain in (FOREIGN, ADDRESS, "verona.example"):
            self.world.targets.table[domain] = [Target("127.0.0.1", self.door)]
        # As real home servers do: our certificate proves nothing for other people's domains.
        security = CLEAR if clear else Security(Tls.OPTIONAL, certificates=False)
        self.home = self.node(
            HOME, security=security, certificate=None if clear else True,
            limits=S2SLimits(patience=30.0),
        )  # fmt: skip
        self.home.user.hook = self.answer
        return self.connect(clear, settle)

    def connect(self, clear: bool, settle: Any = None) -> Any:
        """Start the link; fires when it is up."""
        home = HomeConfig(
            "home", "s2s", (HOME,), port=self.home.s2s.ports[0], address=ADDRESS,
            bind_host="127.0.0.1", bind_port=self.door, tls="none" if clear else "required",
            require_certificates=not clear,
        )  # fmt: skip
        issued = () if clear else (self.world.issue("fed.home.example"),)
        links = self.links = HomeLinks(
            reactor, [home], [FOREIGN], IdSource(), Metrics(), Tracer(),
            limits=LinkLimits(acceptance=30.0), tls=tls_store(self.world, issued),
            settle=settle or (lambda done, foreign: done()),
        )  # fmt: skip
        links.user = self.gateway
        links.startService()
        self.addCleanup(lambda: maybeDeferred(links.stopService))
        return self.until(lambda: links.links[0].up)

    def answer(self, stanza: Stanza) -> None:
        """Do what a home server does."""
        if stanza.kind == "iq" and stanza.type == "get":
            self.home.s2s.send(iq(stanza.from_, stanza.to, id=stanza.id, type="result"))
        elif stanza.to.local == "nobody" and stanza.type != "error":
            self.home.s2s.send(error_reply(stanza, "service-unavailable"))

    def deliver(self, to: str, body: str) -> None:
        """Send a text of a foreign user's."""
        assert self.links is not None
        stanza = message(J(f"{to}@{HOME}"), J(f"bob@{FOREIGN}"), id=body, body=body)
        self.links.deliver(stanza, self.deliveries.append)

    @property
    def outcomes(self) -> list[Outcome]:
        """What was told of deliveries."""
        return [each.outcome for each in self.deliveries]

    @inlineCallbacks
    def play_texts(self, clear: bool) -> Steps:
        """Accepted and refused, each told once and rightly, first of all and later."""
        yield self.link(clear)
        calls: list[Any] = []
        # What it answers goes out before its count, as with a server that works in one line.
        self.home.s2s.settle = lambda done, _: calls.append(reactor.callLater(0.01, done))
        self.addCleanup(lambda: [call.cancel() for call in calls if call.active()])
        for round in range(2):
            self.deliveries.clear()
            self.deliver("alice", f"one {round}")
            self.deliver("nobody", f"two {round}")
            self.deliver("alice", f"three {round}")
            yield self.until(lambda: len(self.deliveries) == 3)
            self.assertEqual(sorted(each.value for each in self.outcomes),
                             ["accepted", "accepted", "refused"])  # fmt: skip
            (refused,) = [each for each in self.deliveries if each != ACCEPTED]
            self.assertEqual(refused.condition, "service-unavailable")


class TextTests(StreamLinkCase):
    """Texts to local users."""

    def test_by_ping(self) -> Any:
        """In clear nothing is acknowledged: pings on the same pair of domains confirm."""
        return self.play_texts(True)

    def test_by_acknowledgement(self) -> Any:
        """Streams both ways acknowledge, and an error comes before."""
        return self.play_texts(False)

    @inlineCallbacks
    def test_acknowledged_without_pings(self) -> Steps:
        """Once a stream acknowledges, no pings are sent for texts."""
        yield self.link(False)
        self.deliver("alice", "first")
        yield self.until(lambda: self.deliveries)
        # The home server's own stream comes with its first stanza, and acknowledges both ways.
        self.home.s2s.send(text(f"alice@{HOME}", f"bob@{FOREIGN}", "hello"))
        yield self.until(lambda: ("message", "chat", "hello", f"bob@{FOREIGN}")
                         in self.gateway.events or len(self.gateway.events) > 1)  # fmt: skip
        link = self.links.links[0]  # type: ignore[union-attr]
        streams = link._streams  # type: ignore[union-attr]
        yield self.until(lambda: streams.acknowledges(FOREIGN, HOME))
        before = len([one for one in self.home.user.stanzas if one.kind == "iq"])
        self.deliver("alice", "second")
        yield self.until(lambda: len(self.deliveries) == 2)
        after = len([one for one in self.home.user.stanzas if one.kind == "iq"])
        self.assertEqual((self.outcomes[1], after), (Outcome.ACCEPTED, before))

    @inlineCallbacks
    def test_home_dies(self) -> Steps:
        """What was on its way is unsure, and not sent again by itself; then nothing is sent."""
        yield self.link(True)
        self.home.user.hook = lambda _: None  # it has stopped thinking
        self.deliver("alice", "unsure")
        yield self.until(lambda: "unsure" in self.home.user.bodies)
        self.nodes.remove(self.home)
        yield self.home.stop()
        yield self.until(lambda: self.deliveries)
        self.assertEqual(self.outcomes, [Outcome.UNSURE])
        yield self.until(lambda: not self.links.links[0].up)  # type: ignore[union-attr]
        self.deliver("alice", "nobody there")
        self.assertEqual(self.outcomes[1:], [Outcome.NOT_SENT])
        self.assertEqual(self.gateway.events[-1][0], "down")

    @inlineCallbacks
    def test_let_go_and_held_again(self) -> Steps:
        """A link that was stopped can be started anew, as nodes of a cluster do with each other's."""
        yield self.link(True)
        assert self.links is not None
        link = self.links.links[0]
        yield link.stop()
        self.assertFalse(link.up)
        link.start()
        yield self.until(lambda: link.up)
        self.deliver("alice", "again")
        yield self.until(lambda: self.deliveries)
        self.assertEqual(self.outcomes, [Outcome.ACCEPTED])

    @inlineCallbacks
    def test_held_again_while_it_closes(self) -> Steps:
        """A link that is wanted again while it is being closed listens once the old streams are gone."""
        yield self.link(True)
        assert self.links is not None
        gone = [self.links.let_go("home")]
        self.links.hold("home")
        gone.append(self.links.let_go("home"))
        self.links.hold("home")
        yield gatherResults(gone)
        yield self.until(lambda: self.links.links[0].up)  # type: ignore[union-attr]
        self.deliver("alice", "again")
        yield self.until(lambda: self.deliveries)
        self.assertEqual(self.outcomes, [Outcome.ACCEPTED])
        self.assertEqual(self.gateway.events, ["up", "up"])

    @inlineCallbacks
    def test_let_go_unanswered(self) -> Steps:
        """A link that is let go before the home server has answered is stopped, and not down."""
        yield self.link(True)
        assert self.links is not None
        yield self.links.let_go("home")
        self.nodes.remove(self.home)
        yield self.home.stop()
        self.links.hold("home")
        yield self.links.let_go("home")
        yield deferLater(reactor, 0)  # in which what waited for a stream is returned
        self.assertEqual(self.links.status()[0]["state"], LinkState.STOPPED.value)


class TrustTests(StreamLinkCase):
    """Who may speak for whom, and when we say that we have something."""

    @inlineCallbacks
    def test_others(self) -> Steps:
        """Nobody but the home server's domains gets in, and nobody speaks to a local domain here."""
        yield self.link(True)
        stranger = self.node("evil.example", security=CLEAR, certificate=None,
                             limits=S2SLimits(patience=1.0))  # fmt: skip
        stranger.s2s.send(text("x@evil.example", f"bob@{FOREIGN}", "let me in"))
        yield self.until(lambda: stranger.user.errors)
        self.assertEqual(self.gateway.events, ["up"])

    @inlineCallbacks
    def test_told_late(self) -> Steps:
        """The home server hears that we have a text only once that would survive us."""
        yield self.link(False, lambda done, foreign: self.settling.append(done))
        self.home.s2s.send(text(f"alice@{HOME}", f"bob@{FOREIGN}", "keep this"))
        yield self.until(lambda: any(each[0] == "message" for each in self.gateway.events))

        def waiting() -> int:
            return sum(int(way.get("unacknowledged", 0)) for way in self.home.s2s.status())

        yield self.until(lambda: self.settling)
        self.assertGreater(waiting(), 0)
        while waiting():
            for call in self.settling:
                call()
            self.settling.clear()
            yield self.until(lambda: self.settling or not waiting())

    @inlineCallbacks
    def test_relay_gets_it_back(self) -> Steps:
        """What cannot be delivered to the home server goes back to the relay."""
        yield self.link(True)
        links, back = self.links, []
        assert links is not None

        class Relay:
            def takes(self, domain: str) -> bool:
                return domain == "verona.example"

            def not_written(self, stanza: OutStanza) -> None:
                back.append(stanza.id)

        links.relay = Relay()
        link = links.links[0]
        link.returned(  # type: ignore[union-attr]
            text("x@verona.example", f"alice@{HOME}", "m"), "remote-server-timeout", "no stream"
        )
        self.assertEqual(len(back), 1)
