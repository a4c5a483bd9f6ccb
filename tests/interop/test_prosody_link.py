"""Home links against a real Prosody, in both modes, with slixmpp as an independent client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.trial import unittest

from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.transport.home import Delivery, Existence, HomeLinks, Outcome
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import Stanza, message, presence
from tests.interop.servers import Prosody, XmppClient

reactor: Any = _reactor
J = JID.parse


class Gateway:
    """Stands for the gateway: keeps what arrives, and fires what waits for it."""

    def __init__(self) -> None:
        self.stanzas: list[Stanza] = []
        self._waiting: list[tuple[Any, Deferred[Any]]] = []

    def stanza_arrived(self, stanza: Stanza, link: Any) -> None:
        self.stanzas.append(stanza)
        self._happened(stanza)

    def link_up(self, link: Any) -> None:
        self._happened(("up", link.name))

    def link_down(self, link: Any, reason: str) -> None:
        self._happened(("down", link.name, reason))

    def wait(self, wanted: Any, timeout: float = 20.0) -> Deferred[Any]:
        """Fire when something wanted happens."""
        found: Deferred[Any] = Deferred()
        self._waiting.append((wanted, found))
        return found.addTimeout(timeout, reactor)

    def _happened(self, what: Any) -> None:
        due = [entry for entry in self._waiting if entry[0](what)]
        self._waiting = [entry for entry in self._waiting if entry not in due]
        for _, found in due:
            found.callback(what)


def is_up(what: Any) -> bool:
    return isinstance(what, tuple) and what[0] == "up"


def is_down(what: Any) -> bool:
    return isinstance(what, tuple) and what[0] == "down"


def stanza(kind: str, type: str) -> Any:
    def wanted(what: Any) -> bool:
        return isinstance(what, Stanza) and what.kind == kind and what.type == type

    return wanted


class LinkCase(unittest.TestCase):
    """Starts a Prosody and a node's home links, and stops both."""

    mode = "module"
    foreign = ("lync.example",)

    async def start(self, **options: Any) -> None:
        self.prosody = Prosody(
            Path(self.mktemp()).absolute(), mode=self.mode, foreign=self.foreign, **options
        )
        self.addCleanup(self.prosody.stop)
        await self.prosody.start()

    def make_links(self, **changes: Any) -> tuple[HomeLinks, Gateway]:
        home = self.prosody.home(**changes)
        links = HomeLinks(reactor, [home], self.foreign, IdSource(), Metrics(), Tracer())
        links.user = gateway = Gateway()
        self.addCleanup(links.stopService)
        return links, gateway

    async def start_links(self, **changes: Any) -> None:
        self.links, self.gateway = self.make_links(**changes)
        up = self.gateway.wait(is_up)
        self.links.startService()
        await up

    async def log_in(self, user: str) -> XmppClient:
        client = XmppClient(f"{user}@home.example/test", "pw", "127.0.0.1", self.prosody.c2s_port)
        self.addCleanup(client.stop)
        await client.start()
        return client

    def deliver(self, local: str, id: str, body: str = "hi") -> Deferred[Delivery]:
        done: Deferred[Delivery] = Deferred()
        out = message(J(f"{local}@home.example"), J("bob@lync.example"), id=id, body=body)
        self.links.deliver(out, done.callback)
        return done.addTimeout(20, reactor)

    async def existence(self, address: str) -> Existence:
        done: Deferred[Existence] = Deferred()
        self.links.exists(J(address), done.callback)
        return await done.addTimeout(20, reactor)


class BothModes:
    """What holds for a plain component and for the module alike."""

    async def test_conversation(self: Any) -> None:
        """Text, typing, presence and a subscription pass between a user and the gateway intact."""
        await self.start()
        await self.start_links()
        alice = await self.log_in("alice")
        arrived = self.gateway.wait(stanza("message", "chat"))
        body = "<b>&'\"\u2603 </message>"
        alice.do("message", to="bob@lync.example", body=body, id="a1")
        got = await arrived
        self.assertEqual(
            (got.text("body"), got.id, got.from_.text, got.to.text),
            (body, "a1", "alice@home.example/test", "bob@lync.example"),
        )
        seen = alice.event(event="message", body=body)
        delivery = await self.deliver("alice", "g1", body)
        self.assertEqual(delivery.outcome, Outcome.ACCEPTED)
        self.assertEqual((await seen)["from"], "bob@lync.example")
        asked = self.gateway.wait(stanza("presence", "subscribe"))
        alice.do("subscribe", to="bob@lync.example")
        await asked
        probed = self.gateway.wait(stanza("presence", ""))
        asks = alice.event(event="presence", type="subscribe")
        self.links.send(presence(J("alice@home.example"), J("bob@lync.example"), type="subscribe"))
        await asks
        alice.do("approve", to="bob@lync.example")
        await probed

    async def test_barrier(self: Any) -> None:
        """In one batch each unknown user's message is refused, and the others are accepted."""
        await self.start()
        await self.start_links()
        await self.log_in("alice")
        batch = [
            self.deliver(user, f"m{number}")
            for number, user in enumerate(["alice", "nobody", "alice", "noone", "carol"])
        ]
        outcomes = [await each for each in batch]
        self.assertEqual(
            [each.outcome.value for each in outcomes],
            ["accepted", "refused", "accepted", "refused", "accepted"],
        )
        self.assertEqual(outcomes[1].condition, "service-unavailable")

    async def test_restart(self: Any) -> None:
        """When Prosody goes the link says so, and once it is back the link comes up again."""
        await self.start()
        await self.start_links()
        down = self.gateway.wait(is_down)
        await self.prosody.stop()
        self.assertIn("connection", (await down)[2])
        self.assertTrue(self.links.congested("home.example"))
        refused = await self.deliver("alice", "m1")
        self.assertEqual(refused.condition, "recipient-unavailable")
        up = self.gateway.wait(is_up)
        await self.prosody.start()
        await up
        self.assertEqual((await self.deliver("carol", "m2")).outcome, Outcome.ACCEPTED)

    async def test_wrong_secret(self: Any) -> None:
        """A wrong secret is said in words, in the log and in the status."""
        await self.start()
        links, _ = self.make_links(secret="guess")
        link = links.links[0]
        refused = self.prosody.line(lambda line: "authentication failed" in line)
        down = self.watch(link)
        links.startService()
        await refused
        await down
        self.assertIn("the secret is wrong", link.status()["reason"])
        self.assertIn("not-authorized", link.status()["reason"])

    async def test_unknown_component(self: Any) -> None:
        """A component that the home server does not know is said in words."""
        await self.start()
        link_config = {"address": "other.example"} if self.mode == "module" else {}
        if self.mode == "component":
            self.foreign = ("other.example",)
        links, _ = self.make_links(**link_config)
        link = links.links[0]
        down = self.watch(link)
        links.startService()
        await down
        self.assertIn('has no component "other.example"', link.status()["reason"])

    async def test_conflict(self: Any) -> None:
        """A second node takes the name over, and the first one says why it is down."""
        await self.start()
        await self.start_links()
        down = self.gateway.wait(is_down)
        other, gateway = self.make_links()
        up = gateway.wait(is_up)
        other.startService()
        await up
        self.assertIn("another connection holds the component", (await down)[2])

    async def test_discovery(self: Any) -> None:
        """A client that asks a foreign domain is told of a gateway, and pings are answered."""
        await self.start()
        await self.start_links()
        alice = await self.log_in("alice")
        for to, payload, wanted in (
            ("lync.example", "<query xmlns='http://jabber.org/protocol/disco#info'/>", "gateway"),
            ("bob@lync.example", "<vCard xmlns='vcard-temp'/>", "service-unavailable"),
            ("lync.example", "<ping xmlns='urn:xmpp:ping'/>", "result"),
        ):
            answer = alice.event(event="iq", id="q1")
            alice.do("raw", xml=f"<iq type='get' to='{to}' id='q1'>{payload}</iq>")
            self.assertIn(wanted, (await answer)["xml"])

    def watch(self: Any, link: Any) -> Deferred[Any]:
        """Fire when the link has failed to come up."""
        failed: Deferred[Any] = Deferred()
        original = link._down

        def down(reason: str, lasting: bool) -> None:
            original(reason, lasting)
            if not failed.called:
                failed.callback(reason)

        self.patch(link, "_down", down)
        return failed.addTimeout(20, reactor)


class ModuleTests(BothModes, LinkCase):
    """One component and mod_impfed."""

    mode = "module"

    async def test_existence(self) -> None:
        """The module knows who exists, who does not, and where it cannot tell."""
        await self.start()
        await self.start_links()
        self.assertEqual(await self.existence("alice@home.example"), Existence.EXISTS)
        self.assertEqual(await self.existence("nobody@home.example"), Existence.ABSENT)
        self.assertEqual(await self.existence("alice@other.example"), Existence.UNKNOWN)
        self.assertEqual(self.links.status()[0]["module"], "there")

    async def test_users_may_not_ask(self) -> None:
        """Only the component itself may ask who exists."""
        await self.start()
        await self.start_links()
        alice = await self.log_in("alice")
        answer = alice.event(event="iq", id="q1")
        alice.do(
            "raw",
            xml=f"<iq type='get' to='{self.prosody.address}' id='q1'><query"
            " xmlns='urn:xmpp:impfed:directory:0'><user jid='carol@home.example'/></query></iq>",
        )
        self.assertEqual((await answer)["condition"], "forbidden")

    async def test_every_foreign_domain(self) -> None:
        """The one link carries several foreign domains, subdomains and siblings exactly."""
        self.foreign = ("lync.example", "sub.lync.example", "simple.example")
        await self.start()
        await self.start_links()
        alice = await self.log_in("alice")
        for domain in self.foreign:
            arrived = self.gateway.wait(stanza("message", "chat"))
            alice.do("message", to=f"bob@{domain}", body="hi")
            self.assertEqual((await arrived).to.domain, domain)
        refused = alice.event(event="message", type="error")
        alice.do("message", to="bob@elsewhere.example", body="hi")
        self.assertEqual((await refused)["condition"], "remote-server-not-found")


class ComponentTests(BothModes, LinkCase):
    """One component for each foreign domain."""

    mode = "component"

    async def test_existence(self) -> None:
        """Without the module nothing is known of who exists."""
        await self.start()
        await self.start_links()
        self.assertEqual(await self.existence("alice@home.example"), Existence.UNKNOWN)

    async def test_module_missing(self) -> None:
        """A home declared as kind "prosody" whose module is missing works, but knows nobody."""
        self.foreign = ("lync.example",)
        await self.start()
        await self.start_links(kind="prosody", address="lync.example")
        self.assertEqual(await self.existence("alice@home.example"), Existence.UNKNOWN)
        self.assertEqual(self.links.status()[0]["module"], "no answer")
