"""The User Options on the real lists and subscriptions; far side and home server are doubles."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.admin.options import NodeOptions
from impfed.admin.options_api import (
    Added,
    Contact,
    Entry,
    ForeignDomain,
    OptionsError,
    Request,
    UserOptions,
)
from impfed.policy import users
from impfed.transport.home import RosterAnswer, RosterOutcome
from impfed.transport.rosters import DONE, unavailable
from impfed.xmpp.jid import JID
from tests.gateway.presence_world import PresenceWorld

ALICE, ROMEO = JID.parse("alice@home.example"), JID.parse("romeo@lync.example")
OWN = JID.parse("federation.home.example")
REFUSED = RosterAnswer(RosterOutcome.REFUSED, "no such user")
UNSURE = RosterAnswer(RosterOutcome.UNSURE, "no answer")


class NodeOptionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = PresenceWorld()
        self.presence = self.world.presence
        home = self.home = self.world.home
        self.asked: list[tuple] = []
        self.answer = DONE
        self.able = True
        home.own_domains = frozenset({OWN.domain})
        home.can_write_rosters = lambda domain: self.able
        for name in ("approve", "cancel_approval", "add_contact"):
            setattr(home, name, lambda *given, name=name: self._asked(name, *given))
        self.options = NodeOptions(
            self.presence,
            home,
            home,
            self.world.around.ids,
            lambda: [ForeignDomain("lync.example")],
            frozenset({"home.example"}),
            {"home.example": OWN}.get,
        )

    def _asked(self, name, *given) -> None:
        *what, done = given
        self.asked.append((name, *what))
        done(self.answer)

    def view(self):
        return self.options.overview(ALICE)

    def watched(self) -> None:
        """Romeo wants to see alice; she is asked."""
        self.world.subscribes()
        self.world.notify()

    def failure(self, deferred) -> str:
        return str(self.failureResultOf(deferred, OptionsError).value)

    def test_fulfils_the_protocol(self) -> None:
        """What the pages need is there."""
        options: UserOptions = self.options
        self.assertEqual(options.overview(ALICE).default, "ask")

    def test_request(self) -> None:
        """A request is shown until it is accepted, with who the home server then shows."""
        self.watched()
        (request,) = self.view().waiting
        self.assertEqual((request.foreign, request.name), (ROMEO, "Romeo Montague"))
        self.assertEqual([each.sees for each in self.view().watchers], ["waits"])
        self.successResultOf(self.options.accept(ALICE, ROMEO))
        self.assertEqual(self.asked, [("approve", ALICE, ROMEO)])
        self.assertEqual(self.view().waiting, [])
        self.assertEqual([each.sees for each in self.view().watchers], ["sees"])

    def test_request_that_only_the_client_can_accept(self) -> None:
        """Where the roster cannot be written nothing is accepted, and the user told where to."""
        self.watched()
        self.able = False
        self.assertIn("chat program", self.failure(self.options.accept(ALICE, ROMEO)))
        self.able, self.answer = True, unavailable("not here")
        self.assertIn("chat program", self.failure(self.options.accept(ALICE, ROMEO)))
        self.answer = REFUSED
        self.assertIn("no such user", self.failure(self.options.accept(ALICE, ROMEO)))
        self.answer = UNSURE
        self.assertIn("Try again", self.failure(self.options.accept(ALICE, ROMEO)))
        self.assertEqual([each.foreign for each in self.view().waiting], [ROMEO])

    def test_decline_and_clear(self) -> None:
        """Who was declined sees alice offline; cleared, he is asked about again."""
        self.watched()
        self.options.decline(ALICE, ROMEO)
        self.assertEqual(self.asked, [("cancel_approval", ALICE, ROMEO)])
        self.assertEqual([each.foreign for each in self.view().declined], [ROMEO])
        self.assertEqual(self.view().waiting, [])
        self.world.clock.advance(3)
        self.assertEqual([each.sees for each in self.view().watchers], ["hidden"])
        self.world.home.sent.clear()
        self.options.clear(ALICE, ROMEO)
        self.assertEqual(self.view().declined, [])
        self.assertIn("type='subscribe'", "".join(each.xml for each in self.world.home.sent))

    def test_list(self) -> None:
        """Entries and the default are the node's own, and act at once."""
        self.watched()
        self.options.decide(ALICE, ROMEO, "block")
        self.options.decide(ALICE, JID.parse("spam.example"), "block")
        self.assertEqual(
            self.view().entries,
            [Entry("spam.example", "block"), Entry("romeo@lync.example", "block")],
        )
        self.assertEqual(self.presence.policies.judge(ALICE, ROMEO).verdict, users.Verdict.BLOCK)
        self.assertTrue(self.options.delete(ALICE, "romeo@lync.example"))
        self.assertFalse(self.options.delete(ALICE, "romeo@lync.example"))
        self.assertFalse(self.options.delete(ALICE, "@@"))
        self.options.set_default(ALICE, "block")
        self.assertEqual(self.view().default, "block")

    def test_full_list(self) -> None:
        """A full list is told as a sentence."""
        self.patch(users, "ENTRY_LIMIT", 1)
        self.options.decide(ALICE, ROMEO, "block")
        error = self.assertRaises(
            OptionsError, self.options.decide, ALICE, JID.parse("b.example"), "block"
        )
        self.assertEqual(str(error), "The list has 1 entries already.")

    def test_contacts(self) -> None:
        """Contacts are shown as the other side has decided."""
        self.world.alice_says("subscribe")
        self.assertEqual(self.view().contacts, [Contact(ROMEO, "pending")])

    def test_who_may_but_does_not(self) -> None:
        """Who was accepted and does not watch at present is shown, too."""
        self.presence.authorizations.decide_inbound((ALICE, ROMEO), "approved")
        (watcher,) = self.view().watchers
        self.assertEqual((watcher.foreign, watcher.sees, watcher.devices), (ROMEO, "sees", 0))

    def test_other_users_have_their_own(self) -> None:
        """Nothing of one user is shown to another."""
        self.watched()
        self.options.decide(ALICE, ROMEO, "block")
        other = self.options.overview(JID.parse("carol@home.example"))
        self.assertEqual(
            (list(other.waiting), list(other.entries), list(other.watchers)), ([], [], [])
        )

    def test_add_contact(self) -> None:
        """A contact goes to the roster, else the client is asked to add it (XEP-0144)."""
        adding = self.options.add_contact(ALICE, ROMEO, "Ro")
        self.assertEqual(self.successResultOf(adding), Added.ROSTER)
        self.assertEqual(self.asked, [("add_contact", ALICE, ROMEO, "Ro")])
        self.answer = unavailable("not here")
        adding = self.options.add_contact(ALICE, ROMEO, "R<o")
        self.assertEqual(self.successResultOf(adding), Added.SUGGESTED)
        suggestion = self.home.sent[-1].xml
        self.assertIn("http://jabber.org/protocol/rosterx", suggestion)
        self.assertIn("<item action='add' jid='romeo@lync.example' name='R&lt;o'/>", suggestion)
        self.assertIn("xmpp:romeo@lync.example?roster", suggestion)
        self.home.up = False
        adding = self.options.add_contact(ALICE, ROMEO, "")
        self.assertEqual(self.successResultOf(adding), Added.BY_HAND)
        for self.answer in (REFUSED, UNSURE):
            self.failure(self.options.add_contact(ALICE, ROMEO, ""))

    def test_domains(self) -> None:
        """Own and foreign domains are known apart."""
        self.assertTrue(self.options.federated("lync.example"))
        self.assertFalse(self.options.federated("simple.lync.example"))
        self.assertTrue(self.options.hosted("home.example"))
        self.assertTrue(self.options.hosted("federation.home.example"))
        self.assertFalse(self.options.hosted("lync.example"))

    def test_names(self) -> None:
        """A request keeps the name that its SUBSCRIBE gave."""
        self.watched()
        self.assertIsInstance(self.view().waiting[0], Request)
        self.assertGreater(self.view().waiting[0].since, 0)
