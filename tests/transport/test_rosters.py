"""Rosters written through a home link, with the home server played by the test."""

from __future__ import annotations

import re

from impfed.transport.home import RosterAnswer, RosterOutcome
from impfed.transport.rosters import TIMEOUT
from impfed.xmpp.jid import JID
from tests.transport.home_case import ALICE, BOB, HEADER, HomeCase

ROSTERS = "urn:xmpp:impfed:roster:0"
OWN = "lync.example"


class PrivilegeTests(HomeCase):
    """XEP-0356, on a server that obeys a subscription or does not."""

    kind = "component"
    foreign = (OWN,)
    privilege = 2

    def grant(self, type: str, sender: str = "home.example") -> None:
        self.say(
            f"<message from='{sender}' to='{OWN}'><privilege"
            f" xmlns='urn:xmpp:privilege:{self.privilege}'><perm access='message' type='none'/>"
            f"<perm access='roster' type='{type}'/></privilege></message>"
        )

    def approve(self) -> list[RosterAnswer]:
        told: list[RosterAnswer] = []
        self.links.approve(ALICE, BOB, told.append)
        return told

    def written(self, type: str) -> tuple[str, str]:
        """Return the id and the text of the roster IQ that was written."""
        text = self.turn()
        found = re.search(rf"<iq [^>]*id='(r[0-9a-f]+)' type='{type}'>.*?</iq>", text)
        assert found, text
        self.assertIn("to='alice@home.example'", found[0])
        return found[1], found[0]

    def answer(self, id: str, content: str = "", type: str = "result") -> None:
        self.say(f"<iq type='{type}' from='alice@home.example' to='{OWN}' id='{id}'>{content}</iq>")

    def roster(self, id: str, items: str) -> None:
        self.answer(id, f"<query xmlns='jabber:iq:roster'>{items}</query>")

    def test_approve(self) -> None:
        """The item is read, written with its name and groups kept, and read again."""
        for self.privilege in (1, 2):
            self.setUp()
            self.up()
            self.grant("both")
            self.assertTrue(self.links.can_write_rosters("home.example"))
            told = self.approve()
            item = "<item jid='bob@lync.example' name='B&amp;B' subscription='{}'><group>a</group></item>"
            self.roster(self.written("get")[0], item.format("to"))
            id, text = self.written("set")
            self.assertIn(item.format("both"), text)
            self.answer(id)
            self.assertEqual(told, [])
            self.roster(self.written("get")[0], item.format("both"))
            self.assertEqual([each.outcome for each in told], [RosterOutcome.DONE])

    def test_already_approved(self) -> None:
        """What is approved already is not written."""
        self.up()
        self.grant("both")
        told = self.approve()
        self.roster(self.written("get")[0], "<item jid='bob@lync.example' subscription='from'/>")
        self.assertEqual([each.done for each in told], [True])
        self.assertNotIn("jabber:iq:roster", self.turn())

    def test_ignored(self) -> None:
        """A server that ignores the subscription is found out once, and not asked again."""
        self.up()
        self.grant("both")
        told = self.approve()
        self.roster(self.written("get")[0], "")
        self.answer(self.written("set")[0])
        self.roster(self.written("get")[0], "<item jid='bob@lync.example' subscription='none'/>")
        self.assertEqual(told[0].outcome, RosterOutcome.UNAVAILABLE)
        self.assertIn("leaves its subscription", told[0].text)
        self.assertEqual(self.approve(), told)
        self.assertFalse(self.links.can_write_rosters("home.example"))

    def test_failing_set(self) -> None:
        """A server whose roster set fails cannot approve; to add is judged apart."""
        self.up()
        self.grant("both")
        told = self.approve()
        self.roster(self.written("get")[0], "")
        error = (
            "<error type='wait'><internal-server-error xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>Module failed</text></error>"
        )
        self.answer(self.written("set")[0], error, "error")
        self.assertEqual(told[0].outcome, RosterOutcome.UNAVAILABLE)
        self.assertIn("Module failed", told[0].text)
        added: list[RosterAnswer] = []
        self.links.add_contact(ALICE, BOB, "Bob", added.append)
        self.roster(self.written("get")[0], "")
        id, text = self.written("set")
        self.assertIn("<item jid='bob@lync.example' name='Bob' subscription='none'></item>", text)
        self.answer(id)
        self.roster(self.written("get")[0], "<item jid='bob@lync.example' name='Bob'/>")
        self.assertTrue(added[0].done)

    def test_too_little(self) -> None:
        """Less than "both", or another domain's word, lets nothing be written, in words."""
        self.up()
        self.grant("get")
        self.assertIn('grants roster="get"', self.approve()[0].text)
        self.grant("both", "alice@home.example")
        self.grant("both", "second.example")
        self.assertFalse(self.links.can_write_rosters("home.example"))
        self.assertTrue(self.links.can_write_rosters("second.example"))

    def test_no_answer(self) -> None:
        """Without an answer the outcome is unsure after a while, and a late one finds nothing."""
        self.up()
        self.grant("both")
        told = self.approve()
        id, _ = self.written("get")
        self.reactor.advance(TIMEOUT + 1)
        self.assertEqual(told[0].outcome, RosterOutcome.UNSURE)
        self.roster(id, "")
        self.assertEqual(len(told), 1)

    def test_link_lost(self) -> None:
        """A lost link leaves requests unsure, and forgets what was granted."""
        self.up()
        self.grant("both")
        told = self.approve()
        self.turn()
        self.lose()
        self.assertEqual(told[0].outcome, RosterOutcome.UNSURE)
        self.assertIn("no home link", self.approve()[0].text)
        self.reactor.advance(60)
        self.open()
        self.assertFalse(self.links.can_write_rosters("home.example"))


class ModuleTests(HomeCase):
    """Our module on the home server."""

    def greeting(self, abilities: str) -> None:
        wire = self.up_raw()
        found = re.search(r"id='(d[0-9a-f]+)'", wire)
        assert found
        self.say(
            f"<iq type='result' from='federation.home.example' to='federation.home.example'"
            f" id='{found[1]}'><query xmlns='urn:xmpp:impfed:directory:0'>{abilities}"
            "<host name='home.example'/><host name='second.example'/></query></iq>"
        )

    def up_raw(self) -> str:
        """Bring the link up; return what it wrote after the handshake."""
        self.links.startService()
        wire = self.accept()
        self.say(HEADER)
        wire.take()
        self.say("<handshake/>")
        return wire.take()

    def test_module(self) -> None:
        """The module is asked in one IQ, and its refusal is told in its words."""
        self.greeting(f"<can name='{ROSTERS}'/>")
        told: list[RosterAnswer] = []
        self.links.add_contact(ALICE, BOB, "O'Bob", told.append)
        text = self.turn()
        self.assertIn(
            "<add user='alice@home.example' contact='bob@lync.example' name='O&apos;Bob'/>", text
        )
        found = re.search(r"id='(r[0-9a-f]+)' type='set'", text)
        assert found
        self.say(
            f"<iq type='result' from='federation.home.example' to='federation.home.example'"
            f" id='{found[1]}'><query xmlns='{ROSTERS}'><add state='refused'>no such local user"
            "</add></query></iq>"
        )
        self.assertEqual(told, [RosterAnswer(RosterOutcome.REFUSED, "no such local user")])

    def test_older_module(self) -> None:
        """A module that knows nothing of rosters writes none."""
        self.greeting("")
        self.assertFalse(self.links.can_write_rosters("home.example"))
        self.assertEqual(self.links.status()[0]["module"], "there")

    def test_strangers(self) -> None:
        """For a domain of no home server the answer comes at once."""
        told: list[RosterAnswer] = []
        self.links.approve(JID.parse("a@nowhere.example"), BOB, told.append)
        self.assertEqual(told[0].outcome, RosterOutcome.UNAVAILABLE)
