"""What is for the node itself: who takes it, and what discovery says of it."""

from __future__ import annotations

from typing import Any

from impfed.config.model import HomeConfig
from impfed.core.ids import IdSource
from impfed.transport.home import HomeLinks
from impfed.xmpp.stanza import Stanza, iq_result, message
from tests.transport.home_case import ALICE, Gateway, HomeCase, J

OWN = "federation.home.example"


class Own:
    """Keeps what comes to the node's own address."""

    features = ("urn:example:feature",)

    def __init__(self) -> None:
        self.stanzas: list[Stanza] = []
        self.questions: list[Stanza] = []
        self.takes = True
        self.fails = False

    def stanza_arrived(self, stanza: Stanza) -> None:
        if self.fails:
            raise ZeroDivisionError
        self.stanzas.append(stanza)

    def iq_arrived(self, stanza: Stanza) -> bool:
        self.questions.append(stanza)
        return self.takes


class OwnAddressTests(HomeCase):
    def setUp(self) -> None:
        super().setUp()
        self.own = self.links.own = Own()
        self.up()

    def test_taken(self) -> None:
        """Messages and presence for the node, or for any address there, are handed over."""
        for to in (OWN, f"help@{OWN}"):
            self.say(f"<message from='alice@home.example/x' to='{to}'><body>hi</body></message>")
            self.say(f"<presence from='alice@home.example/x' to='{to}' type='subscribe'/>")
        self.assertEqual(
            [(each.kind, each.to.text) for each in self.own.stanzas],
            [(kind, to) for to in (OWN, f"help@{OWN}") for kind in ("message", "presence")],
        )
        self.assertEqual(self.turn(), "")
        self.assertEqual(self.gateway.events, ["up"])

    def test_only_local_users(self) -> None:
        """Who is not a user of this home server does not get there."""
        self.say(f"<message from='eve@evil.example' to='{OWN}'><body>login</body></message>")
        payload = "<command xmlns='http://jabber.org/protocol/commands' node='x'/>"
        self.say(f"<iq from='eve@evil.example' to='{OWN}' type='set' id='1'>{payload}</iq>")
        self.assertEqual((self.own.stanzas, self.own.questions), ([], []))
        self.assertEqual(self.turn().count("<forbidden"), 2)

    def test_foreign_domains_go_on_as_before(self) -> None:
        """What is for a foreign user goes to the gateway."""
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='1'/>")
        self.assertEqual(self.own.stanzas, [])
        self.assertIn(("message", "", "1", "bob@lync.example"), self.gateway.events)

    def test_fault(self) -> None:
        """A fault costs one stanza, and its sender is told."""
        self.own.fails = True
        self.say(f"<message from='alice@home.example/x' to='{OWN}' id='1'><body>x</body></message>")
        self.assertIn("internal-server-error", self.turn())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_questions(self) -> None:
        """IQs to the node are offered first; what is not taken is answered as ever."""
        head = f"<iq from='alice@home.example/x' to='{OWN}' type='get' id='1'>"
        ping = f"{head}<ping xmlns='urn:xmpp:ping'/></iq>"
        self.own.iq_arrived = lambda stanza: self.links.send(iq_result(stanza))  # type: ignore[method-assign]
        self.say(ping)
        self.assertIn("type='result'", self.turn())
        self.own.iq_arrived = lambda stanza: False  # type: ignore[method-assign]
        self.say(ping)
        self.assertIn("result", self.turn())
        self.say(ping.replace(OWN, "bob@lync.example"))
        self.assertIn("result", self.turn())

    def test_questions_to_others(self) -> None:
        """IQs to foreign users and domains are not offered."""
        for to in ("lync.example", "bob@lync.example/x"):
            self.say(
                f"<iq from='alice@home.example/x' to='{to}' type='get' id='1'><x xmlns='y'/></iq>"
            )
        self.assertEqual(self.own.questions, [])

    def test_discovery(self) -> None:
        """Discovery of the node's address has the features; that of a foreign domain has not."""
        self.own.takes = False
        for to, there in ((OWN, True), ("lync.example", False)):
            self.say(
                f"<iq from='alice@home.example/x' to='{to}' type='get' id='1'>"
                "<query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
            )
            self.assertEqual("urn:example:feature" in self.turn(), there, to)


class ComponentTests(HomeCase):
    """A home server of kind "component" with an address for the node."""

    kind = "component"

    def links_for(self, address: str) -> HomeLinks:
        home = HomeConfig("home", "component", ("home.example",), secret="s", address=address)
        links = HomeLinks(self.reactor, [home], self.foreign, IdSource(), self.metrics, self.tracer)
        links.user = Gateway()
        return links

    def test_one_component_more(self) -> None:
        """With an address there is a component for it beside those of the foreign domains."""
        domains = [link.domain for link in self.links_for(OWN).links]
        self.assertEqual(domains, [OWN, "lync.example", "simple.example"])
        self.assertEqual(len(self.links_for("").links), 2)

    def test_way_back(self) -> None:
        """What the node says goes over the component of its own."""
        links: Any = self.links_for(OWN)
        link = links.link("home.example", OWN)
        self.assertEqual(link.domain, OWN)
        self.assertFalse(links.send(message(ALICE, J(OWN), body="x")))  # it is not connected
