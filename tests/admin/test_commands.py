"""Ad-hoc commands, stanza by stanza (XEP-0050, XEP-0004)."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from impfed.admin.commands import NS_COMMANDS, NS_INFO, NS_ITEMS
from impfed.admin.forms import NS_DATA
from impfed.admin.options_api import Entry, Request, Watcher
from impfed.testing.fakes import stanza
from impfed.xmpp.stanza import NS_STANZAS
from tests.admin.kit import ALICE, OWN, ROMEO, TYBALT, Place

PHONE = "alice@home.example/phone"


class Reply:
    """An answer to a command."""

    def __init__(self, xml: str) -> None:
        self.stanza = stanza(xml)
        self.command = self.stanza.child("command", NS_COMMANDS)
        self.status = self.command.get("status") if self.command is not None else ""
        self.session = self.command.get("sessionid") if self.command is not None else ""

    def note(self, type: str) -> str:
        notes = self.command.findall(f"{{{NS_COMMANDS}}}note")
        return " ".join(note.text for note in notes if note.get("type") == type)

    @property
    def form(self):
        return self.command.find(f"{{{NS_DATA}}}x")

    def options(self, name: str) -> list[str]:
        field = self.form.find(f"{{{NS_DATA}}}field[@var='{name}']")
        return [
            option.findtext(f"{{{NS_DATA}}}value")
            for option in field.findall(f"{{{NS_DATA}}}option")
        ]

    def values(self, name: str) -> list[str]:
        field = self.form.find(f"{{{NS_DATA}}}field[@var='{name}']")
        return [value.text or "" for value in field.findall(f"{{{NS_DATA}}}value")]

    @property
    def errors(self) -> set[str]:
        error = self.stanza.child("error")
        return {child.tag.rpartition("}")[2] for child in error}


class CommandCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.place = Place()
        self.options = self.place.options

    def ask(self, payload: str, type="set", user=PHONE, to=OWN) -> bool:
        xml = f"<iq from='{user}' to='{to}' type='{type}' id='q1'>{payload}</iq>"
        return self.place.own.iq_arrived(stanza(xml))

    def run_command(
        self, node: str, session: str = "", fields: dict | None = None, action="", user=PHONE
    ) -> Reply:
        attributes = f" sessionid='{session}'" if session else ""
        attributes += f" action='{action}'" if action else ""
        form = ""
        if fields is not None:
            parts = []
            for name, values in fields.items():
                values = [values] if isinstance(values, str) else values
                inner = "".join(f"<value>{value}</value>" for value in values)
                parts.append(f"<field var='{name}'>{inner}</field>")
            form = f"<x xmlns='{NS_DATA}' type='submit'>{''.join(parts)}</x>"
        payload = f"<command xmlns='{NS_COMMANDS}' node='{node}'{attributes}>{form}</command>"
        self.assertTrue(self.ask(payload, user=user))
        return Reply(self.place.home.sent[-1].xml)

    def fill(self, node: str, fields: dict) -> Reply:
        """Begin a command and submit its form."""
        begun = self.run_command(node)
        self.assertEqual(begun.status, "executing")
        return self.run_command(node, begun.session, fields)


class DiscoveryTests(CommandCase):
    def test_items(self) -> None:
        """The list of commands has names for people."""
        self.ask(f"<query xmlns='{NS_ITEMS}' node='{NS_COMMANDS}'/>", "get")
        query = stanza(self.place.home.sent[-1].xml).child("query", NS_ITEMS)
        names = {item.get("node"): item.get("name") for item in query}
        self.assertEqual(names["impfed#add-contact"], "Add a contact")
        self.assertIn("impfed#login", names)
        self.assertEqual({item.get("jid") for item in query}, {OWN})

    def test_no_login_without_a_page(self) -> None:
        """Where there is no page there is no command for it."""
        self.place = Place(web=False)
        self.ask(f"<query xmlns='{NS_ITEMS}' node='{NS_COMMANDS}'/>", "get")
        self.assertNotIn("impfed#login", self.place.home.sent[-1].xml)

    def test_info(self) -> None:
        """Each command says what it is; an unknown one is not found."""
        for node, type in ((NS_COMMANDS, "command-list"), ("impfed#default", "command-node")):
            self.ask(f"<query xmlns='{NS_INFO}' node='{node}'/>", "get")
            query = stanza(self.place.home.sent[-1].xml).child("query", NS_INFO)
            identity = query.find(f"{{{NS_INFO}}}identity")
            self.assertEqual((identity.get("category"), identity.get("type")), ("automation", type))
        self.ask(f"<query xmlns='{NS_INFO}' node='x'/>", "get")
        self.assertIsNotNone(
            stanza(self.place.home.sent[-1].xml)
            .child("error")
            .find(f"{{{NS_STANZAS}}}item-not-found")
        )

    def test_not_ours(self) -> None:
        """Everything else is left to the home link, and so is who is no person."""
        self.assertFalse(self.ask(f"<query xmlns='{NS_INFO}'/>", "get"))
        self.assertFalse(self.ask("<ping xmlns='urn:xmpp:ping'/>", "get"))
        command = f"<command xmlns='{NS_COMMANDS}' node='impfed#default'/>"
        self.assertFalse(self.ask(command, user="home.example"))
        self.assertFalse(self.ask(command, to=f"help@{OWN}"))
        self.assertEqual(self.place.home.sent, [])


class OptionCommandTests(CommandCase):
    def test_add_user(self) -> None:
        """A person is allowed."""
        done = self.fill("impfed#add-user", {"address": "romeo@lync.example", "decision": "allow"})
        self.assertEqual(done.status, "completed")
        self.assertEqual(done.note("info"), "romeo@lync.example is allowed now.")
        self.assertEqual(
            self.options.overview(ALICE).entries, [Entry("romeo@lync.example", "allow")]
        )

    def test_mistake(self) -> None:
        """A mistake comes back in words, with the form as it was filled in; then it can be mended."""
        again = self.fill("impfed#add-user", {"address": "romeo", "decision": "block"})
        self.assertEqual(again.status, "executing")
        self.assertIn("“romeo” is no address", again.note("error"))
        self.assertIn("“romeo”", again.form.findtext(f"{{{NS_DATA}}}instructions"))
        self.assertEqual(again.values("address"), ["romeo"])
        self.assertEqual(again.values("decision"), ["block"])
        done = self.run_command(
            "impfed#add-user", again.session, {"address": "r@lync.example", "decision": "block"}
        )
        self.assertEqual(done.status, "completed")

    def test_add_domain(self) -> None:
        """A domain is blocked."""
        done = self.fill("impfed#add-domain", {"domain": "lync.example", "decision": "block"})
        self.assertIn("is blocked now", done.note("info"))

    def test_delete(self) -> None:
        """Entries are chosen from the list and deleted."""
        self.options.change(
            ALICE, entries=[Entry("b.example", "block"), Entry(str(ROMEO), "allow")]
        )
        begun = self.run_command("impfed#delete")
        self.assertEqual(begun.options("entries"), ["b.example", str(ROMEO)])
        done = self.run_command(
            "impfed#delete", begun.session, {"entries": ["b.example", str(ROMEO)]}
        )
        self.assertIn("2 entries", done.note("info"))
        empty = self.run_command("impfed#delete")
        self.assertEqual(empty.status, "completed")
        self.assertIn("Your list is empty", self.place.home.sent[-1].xml)

    def test_default(self) -> None:
        """The default is shown and changed."""
        self.assertEqual(self.run_command("impfed#default").values("default"), ["ask"])
        self.fill("impfed#default", {"default": "block"})
        self.assertEqual(self.options.overview(ALICE).default, "block")

    def test_requests(self) -> None:
        """A request is accepted once the home server has agreed."""
        self.options.change(ALICE, waiting=[Request(ROMEO, "Romeo")], declined=[Request(TYBALT)])
        begun = self.run_command("impfed#requests")
        self.assertEqual(begun.options("person"), [str(ROMEO), str(TYBALT)])
        self.options.accepting = Deferred()
        sent = len(self.place.home.sent)
        payload = (
            f"<command xmlns='{NS_COMMANDS}' node='impfed#requests' sessionid='{begun.session}'>"
            f"<x xmlns='{NS_DATA}' type='submit'><field var='person'><value>{ROMEO}</value></field>"
            "<field var='answer'><value>accept</value></field></x></command>"
        )
        self.ask(payload)
        self.assertEqual(len(self.place.home.sent), sent)
        self.ask(payload)  # impatience
        self.assertEqual(Reply(self.place.home.sent[-1].xml).errors, {"bad-request", "bad-action"})
        self.options.accepting.callback(None)
        self.assertIn("can see you now", Reply(self.place.home.sent[-1].xml).note("info"))

    def test_last_request_is_gone(self) -> None:
        """Answering a request that is gone ends the command with words."""
        self.options.change(ALICE, waiting=[Request(ROMEO)])
        begun = self.run_command("impfed#requests")
        self.options.change(ALICE, waiting=[])
        done = self.run_command(
            "impfed#requests", begun.session, {"person": str(ROMEO), "answer": "accept"}
        )
        self.assertEqual(done.status, "completed")
        self.assertIn("no request", done.note("error"))

    def test_contact(self) -> None:
        """A contact is added; a refusal of the home server is told in words."""
        done = self.fill("impfed#add-contact", {"address": str(ROMEO), "name": "Ro"})
        self.assertIn("on your contact list", done.note("info"))
        self.options.adds = "Your server has refused it: no."
        again = self.fill("impfed#add-contact", {"address": str(TYBALT)})
        self.assertEqual(again.status, "executing")
        self.assertIn("refused", again.note("error"))

    def test_watchers(self) -> None:
        """Who watches is shown at once, without a form."""
        self.options.change(ALICE, watchers=[Watcher(ROMEO, "sees"), Watcher(TYBALT, "hidden")])
        shown = self.run_command("impfed#watchers")
        self.assertEqual(shown.status, "completed")
        self.assertEqual(shown.form.get("type"), "result")
        self.assertEqual(
            shown.values("watchers"),
            ["romeo@lync.example: sees you", "tybalt@lync.example: sees you as offline"],
        )
        field = shown.form.find(f"{{{NS_DATA}}}field[@var='watchers']")
        self.assertEqual(field.get("label"), "They watch you")

    def test_login(self) -> None:
        """The link to the page comes as a field, so often and not more."""
        shown = self.run_command("impfed#login")
        (link,) = shown.values("link")
        path = link.partition(":8443")[2]
        self.assertEqual(self.place.browser().get(path).status, 200)
        for _ in range(4):
            self.run_command("impfed#login")
        refused = self.run_command("impfed#login")
        self.assertEqual(refused.status, "completed")
        self.assertIn("many links", refused.note("error"))

    def test_markup(self) -> None:
        """Names from outside are text in forms, too."""
        self.options.change(ALICE, waiting=[Request(ROMEO, "</option><x y='z'>&amp;")])
        begun = self.run_command("impfed#requests")
        field = begun.form.find(f"{{{NS_DATA}}}field[@var='person']")
        (option,) = field.findall(f"{{{NS_DATA}}}option")
        self.assertIn("</option><x y='z'>&amp;", option.get("label"))


class ExecutionTests(CommandCase):
    def test_unknown_command(self) -> None:
        """A command that is none is not found."""
        self.assertEqual(self.run_command("impfed#nothing").errors, {"item-not-found"})

    def test_cancel(self) -> None:
        """A command that is cancelled does nothing, and is over."""
        begun = self.run_command("impfed#default")
        ended = self.run_command("impfed#default", begun.session, action="cancel")
        self.assertEqual(ended.status, "canceled")
        late = self.run_command("impfed#default", begun.session, {"default": "block"})
        self.assertEqual(late.errors, {"bad-request", "bad-sessionid"})
        self.assertEqual(self.options.overview(ALICE).default, "ask")

    def test_session_of_somebody_else(self) -> None:
        """A session belongs to the device that began it."""
        begun = self.run_command("impfed#default")
        for user in ("carol@home.example/x", "alice@home.example/other"):
            theirs = self.run_command(
                "impfed#default", begun.session, {"default": "block"}, user=user
            )
            self.assertEqual(theirs.errors, {"bad-request", "bad-sessionid"})
        self.assertEqual(self.options.views, {})

    def test_session_of_another_command(self) -> None:
        """A session cannot go on as another command."""
        begun = self.run_command("impfed#default")
        other = self.run_command("impfed#delete", begun.session, {"entries": "x"})
        self.assertEqual(other.errors, {"bad-request", "bad-sessionid"})

    def test_expired(self) -> None:
        """After ten minutes a form is too old."""
        begun = self.run_command("impfed#default")
        self.place.clock.advance(600)
        late = self.run_command("impfed#default", begun.session, {"default": "block"})
        self.assertEqual(late.errors, {"not-allowed", "session-expired"})

    def test_actions(self) -> None:
        """Actions that make no sense are refused."""
        begun = self.run_command("impfed#default")
        for session, action, error in (
            ("", "complete", "bad-action"),
            ("", "dance", "malformed-action"),
            (begun.session, "prev", "bad-action"),
        ):
            reply = self.run_command("impfed#default", session, action=action)
            self.assertEqual(reply.errors, {"bad-request", error})

    def test_bad_form(self) -> None:
        """A form that is none is refused; no form at all is one that lacks everything."""
        begun = self.run_command("impfed#default")
        head = f"<command xmlns='{NS_COMMANDS}' node='impfed#default' sessionid='{begun.session}'>"
        for form in (
            f"<x xmlns='{NS_DATA}' type='form'/>",
            f"<x xmlns='{NS_DATA}' type='submit'><field var='a'/><field var='a'/></x>",
        ):
            self.ask(f"{head}{form}</command>")
            reply = Reply(self.place.home.sent[-1].xml)
            self.assertEqual(reply.errors, {"bad-request", "bad-payload"})
        again = self.run_command("impfed#default", begun.session)
        self.assertIn("Choose", again.note("error"))

    def test_sessions_are_bounded(self) -> None:
        """A user's eleventh open command ends his first."""
        begun = [self.run_command("impfed#default").session for _ in range(11)]
        first = self.run_command("impfed#default", begun[0], {"default": "block"})
        self.assertEqual(first.errors, {"bad-request", "bad-sessionid"})
        second = self.run_command("impfed#default", begun[1], {"default": "block"})
        self.assertEqual(second.status, "completed")

    def test_fault_of_ours(self) -> None:
        """A fault of ours is an error stanza, and is logged."""
        begun = self.run_command("impfed#add-contact")
        self.options.add_contact = lambda *_: Deferred().addCallback(lambda _: 1 / 0)
        waiting = Deferred()
        waiting.addCallback(lambda _: 1 / 0)
        self.options.add_contact = lambda *_: waiting
        payload = (
            f"<command xmlns='{NS_COMMANDS}' node='impfed#add-contact' sessionid='{begun.session}'>"
            f"<x xmlns='{NS_DATA}' type='submit'><field var='address'><value>{ROMEO}</value></field>"
            "</x></command>"
        )
        self.ask(payload)
        waiting.callback(None)
        self.assertEqual(Reply(self.place.home.sent[-1].xml).errors, {"internal-server-error"})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
