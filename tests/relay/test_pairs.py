"""How many may watch whom over XMPP."""

from __future__ import annotations

from impfed.config.model import PresenceConfig
from impfed.relay.pairs import Totals
from impfed.xmpp.jid import JID
from tests.relay.world import RelayCase

JULIET = "juliet@home.example"
LOCAL = JID.parse(JULIET)


def foreign(name: str) -> JID:
    return JID.parse(f"{name}@verona.example")


class LimitTests(RelayCase):
    """Over a limit."""

    presence = PresenceConfig(
        contacts_per_user=2, watchers_per_user=2, pending_per_domain=3, new_per_minute=4
    )

    def ask(self, name: str) -> str:
        """Ask for presence; return the condition of a refusal, or "" if the user is asked."""
        xml = f"<presence from='{foreign(name)}' to='{JULIET}' type='subscribe' id='s'/>"
        asked = "type='subscribe'" in self.far(xml)
        sent = "".join(self.streams.take())
        self.assertNotEqual(asked, bool(sent))
        return "resource-constraint" if "<resource-constraint " in sent else sent

    def approve(self, *names: str) -> None:
        for name in names:
            self.answers.decide_inbound((LOCAL, foreign(name)), "approved")

    def test_watchers(self) -> None:
        """One watcher more than the limit is refused; who is approved already asks again freely."""
        self.up()
        self.approve("a", "b")
        self.assertEqual(self.ask("c"), "resource-constraint")
        self.assertEqual(self.ask("a"), "")
        self.answers.decide_inbound((LOCAL, foreign("b")), "none")
        self.assertEqual(self.ask("c"), "")
        self.assertEqual(self.relay_metrics.value("relay.watchers_limit"), 1)

    def test_blocked_too(self) -> None:
        """The limit comes before the list, so a refusal says nothing of the list."""
        self.up()
        self.approve("a", "b")
        self.policies.set(LOCAL, "verona.example", "block")
        self.streams.take()
        self.assertEqual(self.ask("c"), "resource-constraint")

    def test_both_kinds_together(self) -> None:
        """People who watch over SIP count, too."""
        self.up()
        pairs = self.relay.pairs
        pairs.count_with(Totals(lambda who: 1 + pairs.watchers(who), lambda who: 2))
        self.approve("a")
        self.assertEqual(self.ask("c"), "resource-constraint")
        sent = self.local(f"<presence from='{JULIET}' to='{foreign('x')}' type='subscribe'/>")
        self.assertEqual(sent, [])

    def test_contacts(self) -> None:
        """A local user over the limit is told, and nothing is sent."""
        self.up()
        request = "<presence from='{}' to='{}' type='subscribe' id='s'/>"
        for name in ("a", "b"):
            self.assertEqual(len(self.local(request.format(JULIET, foreign(name)))), 1)
        self.wires[-1].take()
        self.assertEqual(self.local(request.format(JULIET, foreign("c"))), [])
        told = self.turn()
        self.assertIn("<resource-constraint ", told)
        self.assertIn("you have 2 contacts", told)
        self.assertEqual(len(self.local(request.format(JULIET, foreign("a")))), 1)  # not new

    def test_pending(self) -> None:
        """Unanswered requests of one domain are bounded."""
        self.up()
        for name in "abc":
            self.assertEqual(self.ask(name), "")
        self.assertEqual(self.ask("d"), "resource-constraint")
        self.assertEqual(self.ask("a"), "")  # asked already
        self.answers.decide_inbound((LOCAL, foreign("a")), "declined")
        self.assertEqual(self.ask("d"), "")

    def test_pace(self) -> None:
        """So are new ones in a minute."""
        self.up()
        for name in "abcd":
            self.assertEqual(self.ask(name), "")
            self.answers.decide_inbound((LOCAL, foreign(name)), "declined")
        self.assertEqual(self.ask("e"), "resource-constraint")
        self.reactor.advance(15)
        self.turn()
        self.assertEqual(self.ask("e"), "")


class ViewTests(RelayCase):
    """What an operator sees."""

    def test_view(self) -> None:
        """Each direction of a pair is a line; SIP's pairs are told elsewhere."""
        self.answers.decide_inbound((LOCAL, foreign("a")), "approved")
        self.answers.decide_outbound((LOCAL, foreign("a")), "pending")
        self.answers.decide_inbound((LOCAL, foreign("b")), "approved")
        self.answers.decide_inbound((LOCAL, JID.parse("bob@lync.example")), "approved")
        self.policies.set(LOCAL, str(foreign("b")), "block")
        lines = self.relay.pairs.view(self.relay.people.blocks)
        self.assertEqual(
            [(one["direction"], one["foreign"], one["state"], one["shown"]) for one in lines],
            [
                ("in", "a@verona.example", "active, over XMPP", ""),
                ("out", "a@verona.example", "pending, over XMPP", ""),
                ("in", "b@verona.example", "active, over XMPP", "offline, whatever the state"),
            ],
        )
        self.assertEqual(
            (self.relay.pairs.watchers(LOCAL), self.relay.pairs.contacts(LOCAL)), (2, 1)
        )
