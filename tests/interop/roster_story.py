"""What a home server's module does to rosters, told for every home server alike."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from impfed.transport.home import Existence, RosterAnswer, RosterOutcome
from impfed.transport.rosters import Deed
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import presence
from tests.interop.test_prosody_link import stanza

ALICE = JID.parse("alice@home.example")
BOB = JID.parse("bob@lync.example")


async def ask(call: Any, *arguments: Any) -> RosterAnswer:
    """Call one of the links' roster functions and wait for its answer."""
    done: Deferred[RosterAnswer] = Deferred()
    call(*arguments, done.callback)
    return await done.addTimeout(20, reactor)  # type: ignore[arg-type]


class RosterStory:
    """For a LinkCase whose home server runs our module."""

    async def begin(self: Any) -> Any:
        """Start everything, with Alice online."""
        await self.start()
        await self.start_links()
        alice = await self.log_in("alice")
        # The module was greeted before this, on the same stream.
        self.assertEqual(await self.existence("alice@home.example"), Existence.EXISTS)
        return alice

    async def test_approve_without_asking(self: Any) -> None:
        """A foreign user allowed without asking sees presence, and no client is asked anything."""
        alice = await self.begin()
        self.assertTrue(self.links.can_write_rosters("home.example"))
        told = self.gateway.wait(stanza("presence", "subscribed"))
        seen = self.gateway.wait(stanza("presence", ""))
        pushed = alice.event(event="iq", type="set")
        self.assertEqual((await ask(self.links.approve, ALICE, BOB)).outcome, RosterOutcome.DONE)
        self.assertEqual((await told).to, BOB)
        self.assertEqual((await seen).from_, JID.parse("alice@home.example/test"))
        while 'subscription="from"' not in (await pushed)["xml"]:
            pushed = alice.event(event="iq", type="set")
        probed = self.gateway.wait(stanza("presence", ""))
        self.links.send(presence(ALICE, BOB, type="probe"))
        await probed
        changed = self.gateway.wait(lambda what: getattr(what, "kind", "") == "presence")
        alice.do("presence", show="away")
        self.assertEqual((await changed).text("show"), "away")
        asked = [line for line in alice.lines if '"type": "subscribe"' in line]
        self.assertEqual(asked, [])
        self.assertEqual((await ask(self.links.approve, ALICE, BOB)).outcome, RosterOutcome.DONE)

    async def test_approve_what_is_pending(self: Any) -> None:
        """Whoever has asked already is approved in place of the user."""
        alice = await self.begin()
        asks = alice.event(event="presence", type="subscribe")
        self.links.send(presence(ALICE, BOB, type="subscribe"))
        await asks
        seen = self.gateway.wait(stanza("presence", ""))
        self.assertTrue((await ask(self.links.approve, ALICE, BOB)).done)
        await seen

    async def test_approve_while_offline(self: Any) -> None:
        """A user who is offline is not asked later: his server shows him at his next login."""
        await self.start()
        await self.start_links()
        await self.existence("carol@home.example")
        carol = JID.parse("carol@home.example")
        self.assertTrue((await ask(self.links.approve, carol, BOB)).done)
        seen = self.gateway.wait(stanza("presence", ""))
        client = await self.log_in("carol")
        await seen
        self.assertEqual([line for line in client.lines if '"type": "subscribe"' in line], [])

    async def test_cancel(self: Any) -> None:
        """An approval taken back ends the contact's view at once."""
        await self.begin()
        seen = self.gateway.wait(stanza("presence", ""))
        self.assertTrue((await ask(self.links.approve, ALICE, BOB)).done)
        await seen
        ended = self.gateway.wait(stanza("presence", "unsubscribed"))
        self.assertTrue((await ask(self.links.cancel_approval, ALICE, BOB)).done)
        await ended

    async def test_add_and_remove(self: Any) -> None:
        """A contact put on the roster has its name and is subscribed to; taken off, it is gone."""
        alice = await self.begin()
        wanted = self.gateway.wait(stanza("presence", "subscribe"))
        pushed = alice.event(event="iq", type="set")
        answer = await ask(self.links.add_contact, ALICE, BOB, 'Bob "B" <Builder>')
        self.assertEqual(answer.outcome, RosterOutcome.DONE, answer.text)
        await wanted
        push = (await pushed)["xml"]
        self.assertIn("Bob &quot;B&quot; &lt;Builder&gt;", push)
        watching = alice.event(event="iq", type="set")
        self.links.send(presence(ALICE, BOB, type="subscribed"))
        while 'subscription="to"' not in (await watching)["xml"]:
            watching = alice.event(event="iq", type="set")
        gone = self.gateway.wait(stanza("presence", "unsubscribe"))
        removed = alice.event(event="iq", type="set")
        self.assertTrue((await ask(self.links.remove_contact, ALICE, BOB)).done)
        await gone
        while 'subscription="remove"' not in (await removed)["xml"]:
            removed = alice.event(event="iq", type="set")

    async def test_what_is_refused(self: Any) -> None:
        """Only existing local users and foreign contacts, and the refusal says why."""
        await self.begin()
        nobody = JID.parse("nobody@home.example")
        answer = await ask(self.links.approve, nobody, BOB)
        self.assertEqual(answer, RosterAnswer(RosterOutcome.REFUSED, "no such local user"))
        link = self.links.links[0]
        done: Deferred[RosterAnswer] = Deferred()
        link.change_roster(Deed.APPROVE, ALICE, JID.parse("carol@home.example"), "", done.callback)
        answer = await done
        self.assertEqual(answer.outcome, RosterOutcome.REFUSED)
        self.assertIn("not a user of", answer.text)

    async def test_only_the_component_may_ask(self: Any) -> None:
        """A user who asks the module himself is refused."""
        alice = await self.begin()
        answer = alice.event(event="iq", id="q1")
        alice.do(
            "raw",
            xml=f"<iq type='set' to='{self.links.links[0].module_address}' id='q1'><query"
            " xmlns='urn:xmpp:impfed:roster:0'><approve user='carol@home.example'"
            " contact='bob@lync.example'/></query></iq>",
        )
        self.assertEqual((await answer)["condition"], "forbidden")

    async def test_status(self: Any) -> None:
        """The status says that the module is there and writes rosters."""
        await self.begin()
        status = self.links.status()[0]
        self.assertEqual(status["module"], "there")
        self.assertEqual(status["rosters"], {"home.example": "by module impfed"})
