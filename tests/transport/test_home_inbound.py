"""What arrives over a home link, and what the link answers by itself."""

from __future__ import annotations

import re

from impfed.core.trace import TraceLine
from impfed.transport.home import Existence
from impfed.xmpp.stanza import Stanza
from tests.transport.home_case import DIRECTORY, HEADER, HomeCase, J


class InboundTests(HomeCase):
    """Who may say what over a link."""

    def test_gateway_takes(self) -> None:
        """Messages and presence from local users to foreign domains reach the gateway."""
        self.up()
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='1' type='chat'/>")
        self.say("<presence from='carol@second.example/x' to='dan@simple.example' type='probe'/>")
        self.assertEqual(
            self.gateway.events[1:],
            [
                ("message", "chat", "1", "bob@lync.example"),
                ("presence", "probe", "", "dan@simple.example"),
            ],
        )

    def test_foreign_sender(self) -> None:
        """A home link speaks only for its own local domains; the others are refused and counted."""
        self.up()
        for sender in ("eve@evil.example", "eve@sub.home.example", "bob@lync.example"):
            self.say(
                f"<message from='{sender}' to='bob@lync.example' id='1'><body>x</body></message>"
            )
            self.assertIn("<forbidden", self.turn() or self.wires[-1].take())
        self.say("<message from='eve@evil.example' to='bob@lync.example' type='error'/>")
        self.assertEqual(self.turn(), "")
        self.assertEqual(self.gateway.events, ["up"])
        self.assertEqual(self.metrics.value("home.foreign_sender"), 4)

    def test_unknown_foreign_domain(self) -> None:
        """A domain that is not federated with is told so; subdomains are domains of their own."""
        wire = self.up()
        for domain in ("elsewhere.example", "sub.lync.example"):
            self.say(f"<message from='alice@home.example/x' to='bob@{domain}' id='1'/>")
            self.assertIn("<remote-server-not-found", wire.take())
        self.say(
            "<presence from='alice@home.example/x' to='b@elsewhere.example' type='unavailable'/>"
        )
        self.assertEqual(wire.take(), "")

    def test_own_address(self) -> None:
        """The component's own address takes no messages yet, and says so."""
        wire = self.up()
        self.say("<message from='alice@home.example/x' to='federation.home.example' id='1'/>")
        self.assertIn("<service-unavailable", wire.take())

    def test_malformed_addresses(self) -> None:
        """A stanza whose address cannot be read is answered jid-malformed, errors never."""
        wire = self.up()
        self.say("<message from='alice@home.example/x' to='b&apos;b@lync.example' id='1'/>")
        answer = wire.take()
        self.assertIn("<jid-malformed", answer)
        self.assertIn("to='alice@home.example/x'", answer)
        self.say("<message from='alice@home.example/x' to='@' type='error'/><presence to='x'/>")
        self.assertEqual(wire.take(), "")
        self.assertEqual(self.metrics.value("home.bad_stanza"), 3)

    def test_faulty_gateway(self) -> None:
        """A bug in the gateway costs one message, whose sender is told, and not the link."""
        wire = self.up()

        def fail(stanza: Stanza) -> None:
            raise ValueError("bug")

        self.gateway.hook = fail
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='1'/>")
        self.assertIn("<internal-server-error", wire.take())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(self.links.links[0].up)

    def test_trace(self) -> None:
        """Whoever watches sees both directions as they stand on the wire."""
        self.up()
        seen: list[TraceLine] = []
        stop = self.tracer.watch(seen.append)
        self.say("<message from='alice@home.example/x' to='bob@lync.example' id='1'/>")
        self.deliver("2")
        stop()
        self.assertEqual(
            [(line.inbound, line.peer) for line in seen], [(True, "home"), (False, "home")]
        )
        self.assertIn("id='1'", seen[0].text)


class QueryTests(HomeCase):
    """IQs are answered by the link itself."""

    def ask(
        self, to: str, payload: str, type: str = "get", sender: str = "alice@home.example/x"
    ) -> str:
        self.say(f"<iq type='{type}' id='q' from='{sender}' to='{to}'>{payload}</iq>")
        return self.turn() or self.wires[-1].take()

    def test_discovery(self) -> None:
        """A foreign domain is a gateway of its kind, its users are accounts."""
        self.up()
        query = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
        self.wires[-1].take()
        self.say(
            f"<iq type='get' id='q' from='alice@home.example/x' to='lync.example'>{query}</iq>"
        )
        domain = self.wires[-1].take()
        self.assertIn("category='gateway' type='lcs' name='Lync'", domain)
        self.assertIn("var='urn:xmpp:ping'", domain)
        self.assertIn("type='simple'", self.ask("simple.example", query))
        user = self.ask("bob@lync.example", query)
        self.assertIn("category='account' type='registered'", user)
        self.assertIn("chatstates", user)
        node = query.replace("/>", " node='x'/>")
        self.assertIn("<item-not-found", self.ask("lync.example", node))
        items = self.ask("lync.example", "<query xmlns='http://jabber.org/protocol/disco#items'/>")
        self.assertIn("type='result'", items)

    def test_ping_and_version(self) -> None:
        """Ping and version have answers."""
        self.up()
        self.assertIn("type='result'", self.ask("lync.example", "<ping xmlns='urn:xmpp:ping'/>"))
        version = self.ask("lync.example", "<query xmlns='jabber:iq:version'/>")
        self.assertIn("<name>impfed</name>", version)

    def test_others(self) -> None:
        """What nobody knows is service-unavailable, with the question quoted; vCards are the same."""
        self.up()
        for type, payload in (
            ("get", "<vCard xmlns='vcard-temp'/>"),
            ("set", "<x xmlns='u:x'>&lt;y/&gt;</x>"),
        ):
            answer = self.ask("bob@lync.example", payload, type)
            self.assertIn("<service-unavailable", answer)
            self.assertIn(payload, answer)
        self.assertIn("<bad-request", self.ask("lync.example", "<x xmlns='u:x'/>", "odd"))

    def test_results_are_not_answered(self) -> None:
        """Results and errors that belong to nothing are let go."""
        self.up()
        for type in ("result", "error"):
            self.assertEqual(self.ask("lync.example", "", type), "")

    def test_strangers(self) -> None:
        """An IQ from elsewhere is refused."""
        self.up()
        payload = "<ping xmlns='urn:xmpp:ping'/>"
        self.assertIn("<forbidden", self.ask("lync.example", payload, sender="eve@evil.example"))

    def test_old_profiles(self) -> None:
        """An address that the older profiles of twisted.words refuse still gets an answer."""
        self.up()
        sender = "alice@home.example/\U0001f9d1"
        query = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
        answer = self.ask("lync.example", query, sender=sender)
        self.assertIn("category='gateway'", answer)
        self.assertIn(f"to='{sender}'", answer)
        answer = self.ask("lync.example/\U0001f9d1", query)
        self.assertIn("<service-unavailable", answer)


class DirectoryTests(HomeCase):
    """Who exists, by the Prosody module."""

    def ask(self, *users: str) -> dict[str, Existence]:
        told: dict[str, Existence] = {}
        for user in users:
            self.links.exists(J(user), lambda existence, user=user: told.update({user: existence}))
        return told

    def query_id(self, written: str) -> str:
        found = re.search(rf"id='(d[0-9a-f]+)' type='get'><query xmlns='{DIRECTORY}'", written)
        assert found, written
        return found[1]

    def answer(self, id: str, content: str, type: str = "result") -> None:
        own = "federation.home.example"
        self.say(
            f"<iq type='{type}' from='{own}' to='{own}' id='{id}'>"
            f"<query xmlns='{DIRECTORY}'>{content}</query></iq>"
        )

    def test_batch(self) -> None:
        """Questions of one turn ride in one IQ; an address is asked about once."""
        self.up()
        told = self.ask(
            "alice@home.example", "x@home.example", "alice@home.example/r", "y@second.example"
        )
        written = self.turn()
        self.assertEqual(written.count("<user"), 3)
        self.answer(
            self.query_id(written),
            "<user jid='alice@home.example' state='exists'/><user jid='x@home.example'"
            " state='absent'/><user jid='y@second.example' state='odd'/>",
        )
        self.assertEqual(
            told,
            {
                "alice@home.example": Existence.EXISTS,
                "alice@home.example/r": Existence.EXISTS,
                "x@home.example": Existence.ABSENT,
                "y@second.example": Existence.UNKNOWN,
            },
        )

    def test_unknown(self) -> None:
        """No link, no answer, an error, a lost link: nothing is known, and nobody waits for ever."""
        self.assertEqual(self.ask("a@home.example"), {"a@home.example": Existence.UNKNOWN})
        self.up()
        self.assertEqual(self.ask("a@nowhere.example"), {"a@nowhere.example": Existence.UNKNOWN})
        refused = self.ask("a@home.example")
        self.answer(self.query_id(self.turn()), "", "error")
        self.assertEqual(refused, {"a@home.example": Existence.UNKNOWN})
        silent = self.ask("b@home.example")
        self.turn()
        self.reactor.advance(10)
        self.assertEqual(silent, {"b@home.example": Existence.UNKNOWN})
        lost = self.ask("c@home.example")
        self.lose()
        self.assertEqual(lost, {"c@home.example": Existence.UNKNOWN})

    def test_greeting(self) -> None:
        """The module's answer to the greeting shows in the status; its absence too."""
        self.links.startService()
        wire = self.accept()
        self.say(HEADER)
        self.say("<handshake/>")
        id = self.query_id(wire.take())
        self.assertEqual(self.links.status()[0]["module"], "no answer")
        self.answer(id, "<host name='home.example'/><host name='second.example'/>")
        self.assertEqual(self.links.status()[0]["module"], "there")

    def test_no_module(self) -> None:
        """Without the module our question comes back to ourselves, and is not answered."""
        wire = self.up()
        told = self.ask("a@home.example")
        self.answer(self.query_id(self.turn()), "<user jid='a@home.example'/>", "get")
        self.assertEqual(told, {"a@home.example": Existence.UNKNOWN})
        self.assertEqual(wire.take(), "")
