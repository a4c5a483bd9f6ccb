"""The User Options from a client's own menu: slixmpp, Prosody, a node, the Lync-style far side."""

from __future__ import annotations

import io
import json
import shutil
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from demo.ladder import Ladder
from demo.parts import ROOT, PartFailed, Talker
from demo.run import Stage
from demo.story import ALICE, ROMEO

OWN = "federation.home.example"
COMMANDS = "http://jabber.org/protocol/commands"


class MenuCase(SynchronousTestCase):
    """A stage with a user whose client shows commands."""

    home = "prosody"

    def setUp(self) -> None:
        directory = ROOT / "run" / "interop" / self.id().rpartition(".")[2]
        shutil.rmtree(directory, ignore_errors=True)
        self.stage = Stage(directory, Ladder("romeo", io.StringIO()), self.home, 0.0)
        self.addCleanup(self.stage.stack.close)
        self.prepare()
        try:
            self.cast = self.stage.start()
        except PartFailed:
            self.stage.stack.close()
            raise
        self.cast.alice.stop()
        prosody = self.stage.home
        self.alice = Talker(
            "menu",
            [
                sys.executable, "-m", "tests.interop.menu", ALICE, prosody.users["alice"],
                f"127.0.0.1:{prosody.c2s_port}",
            ],
            directory,
        )  # fmt: skip
        self.stage.stack.callback(self.alice.stop)
        self.alice.expect(event="online")

    def prepare(self) -> None:
        """Change the stage before it is set up."""

    def does(self, do: str, **details: Any) -> dict[str, Any]:
        since = self.alice.position
        number = self.alice.send(do, **details)
        done = self.alice.expect(since, event="done", id=number)
        self.assertEqual(self.alice.seen(event="fault"), [])
        return done

    def opens(self, node: str) -> dict[str, Any]:
        return self.does("open", of=OWN, node=node)

    def submits(self, **fields: Any) -> dict[str, Any]:
        return self.does("submit", fields=json.dumps(fields))

    def asks(self) -> None:
        """Romeo wants to see alice."""
        since = self.alice.position
        self.cast.far_does("subscribe", 200, **{"from": "romeo", "to": ALICE})
        self.alice.expect(since, event="asked", sender=ROMEO)


class Menu(MenuCase):
    """With the Prosody module."""

    def test_menu(self) -> None:
        """The client finds the commands by discovery, as it does with any other service."""
        found = self.does("features", of=OWN)
        self.assertIn(COMMANDS, found["features"])
        self.assertIn("jabber:x:data", found["features"])
        self.assertIn(["gateway", "simple"], found["identities"])
        menu = self.does("menu", of=OWN)["menu"]
        self.assertEqual(menu["impfed#add-contact"], "Add a contact")
        self.assertNotIn("impfed#login", menu)  # no page is configured
        self.assertNotIn(COMMANDS, self.does("features", of="lync.example")["features"])

    def test_story(self) -> None:
        """Requests, list, default and contacts; the far side sees each change at once."""
        self.asks()
        shown = self.opens("impfed#requests")
        self.assertEqual(shown["fields"]["person"]["options"], [ROMEO])
        since = self.cast.far.position
        done = self.submits(person=ROMEO, answer="accept")
        self.assertEqual(done["notes"], [["info", f"{ROMEO} can see you now."]])
        self.cast.far.expect(since, event="presence", sender=ALICE, state="available")

        self.opens("impfed#add-user")
        wrong = self.submits(address="romeo at lync", decision="block")
        self.assertEqual((wrong["status"], wrong["notes"][0][0]), ("executing", "error"))
        self.assertIn("is no address", wrong["instructions"])
        self.assertEqual(wrong["fields"]["address"]["value"], "romeo at lync")
        since = self.cast.far.position
        done = self.submits(address=ROMEO, decision="block")
        self.assertEqual(done["status"], "completed")
        self.cast.far.expect(since, event="presence", sender=ALICE, state="offline")
        watchers = self.opens("impfed#watchers")["fields"]["watchers"]
        self.assertEqual(watchers["value"], [f"{ROMEO}: sees you as offline"])

        self.opens("impfed#delete")
        since = self.cast.far.position
        self.assertEqual(self.submits(entries=[ROMEO])["notes"][0][1], "1 entry was deleted.")
        self.cast.far.expect(since, event="presence", sender=ALICE, state="available")

        self.opens("impfed#default")
        self.submits(default="block")
        self.assertEqual(self.opens("impfed#default")["fields"]["default"]["value"], "block")
        self.assertEqual(self.does("cancel")["status"], "canceled")
        self.assertEqual(self.cast.far.seen(event="violation"), [])

    def test_contact(self) -> None:
        """A contact is on the roster afterwards, subscribed to."""
        self.opens("impfed#add-contact")
        since = self.cast.far.position
        done = self.submits(address="Tybalt <sip:tybalt@lync.example>", name="Prince of Cats")
        self.assertEqual(done["notes"][0][0], "info")
        self.cast.far.expect(since, event="watcher", sender=ALICE, to="tybalt@lync.example")
        item = self.does("roster", of="tybalt@lync.example")["item"]
        self.assertEqual(item["name"], "Prince of Cats")

    def test_session_is_over(self) -> None:
        """A command that is over cannot be submitted again."""
        self.opens("impfed#default")
        self.does("cancel")
        self.opens("impfed#nothing")
        self.assertEqual(self.opens("impfed#nothing")["condition"], "item-not-found")

    def test_only_local_users(self) -> None:
        """A foreign user who writes to the node's own address reaches nobody."""
        self.cast.far_does("im", 404, **{"from": "romeo", "to": f"help@{OWN}", "text": "login"})


class PlainComponents(MenuCase):
    """With a component for each foreign domain, and one for the node's own address."""

    home = "component"

    def prepare(self) -> None:
        prosody, node = self.stage.home, self.stage.node
        prosody.components = (*prosody.components, OWN)
        written = node.write

        def write() -> None:
            written()
            text = node.configuration.read_text()
            node.configuration.write_text(
                text.replace('kind = "component"', f'kind = "component"\naddress = "{OWN}"')
            )

        node.write = write  # type: ignore[method-assign]

    def test_contact_is_suggested(self) -> None:
        """Where rosters cannot be written the client is asked to add the contact."""
        self.opens("impfed#add-contact")
        since = self.alice.position
        self.submits(address=ROMEO)
        suggestion = self.alice.expect(since, event="message", sender=OWN)
        self.assertEqual(suggestion["suggested"], [ROMEO])
        self.assertIn(f"xmpp:{ROMEO}?roster", suggestion["body"])

    def test_accepting_is_for_the_client(self) -> None:
        """Where rosters cannot be written a request is declined here, but accepted in the client."""
        self.asks()
        self.opens("impfed#requests")
        refused = self.submits(person=ROMEO, answer="accept")
        self.assertEqual(refused["status"], "executing")
        self.assertIn("in your chat program", refused["notes"][0][1])
        since = self.cast.far.position
        self.does("presence", to=ROMEO, kind="subscribed")
        self.cast.far.expect(since, event="presence", sender=ALICE, state="available")
