"""What the node answers to whoever writes to its own address."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.testing.fakes import stanza
from tests.admin.kit import OWN, Place


class NodeAddressTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.place = Place()

    def test_login(self) -> None:
        """The link goes to the device that asked, from the address that it wrote to."""
        (xml,) = self.place.writes("login")
        answer = stanza(xml)
        self.assertEqual(answer.to.text, "alice@home.example/phone")
        self.assertEqual(answer.from_.text, OWN)
        self.assertEqual(answer.type, "chat")
        self.assertIn("https://federation.home.example:8443/login/", answer.text("body"))
        self.assertIn("5 minutes", answer.text("body"))

    def test_link_is_not_archived(self) -> None:
        """Archives and other devices are asked not to keep the link."""
        (xml,) = self.place.writes("login")
        answer = stanza(xml)
        for hint in ("no-permanent-store", "no-copy"):
            self.assertIsNotNone(answer.child(hint, "urn:xmpp:hints"))
        (xml,) = self.place.writes("hello")
        self.assertIsNone(stanza(xml).child("no-copy", "urn:xmpp:hints"))

    def test_ways_to_say_it(self) -> None:
        """The word is understood however it is written."""
        for text in ("Login", " LOGIN ", "login!", "/login", "“login”", "log in"):
            self.place.clock.advance(600)
            (xml,) = self.place.writes(text)
            self.assertIn("/login/", xml, text)

    def test_any_address_there(self) -> None:
        """Every address at the node's domain answers as itself."""
        self.place.arrives(
            f"<message from='alice@home.example/x' to='help@{OWN}' type='chat' id='m'>"
            "<body>hi</body></message>"
        )
        self.assertEqual(stanza(self.place.home.sent[0].xml).from_.text, f"help@{OWN}")

    def test_help(self) -> None:
        """Any other text gets help: who can be reached, and what to write."""
        for text in ("hello", "login please", "?", "ロマ"):
            (xml,) = self.place.writes(text)
            body = stanza(xml).text("body")
            self.assertIn("lync.example (Our supplier)", body)
            self.assertIn("Write login", body)
            self.assertIn(OWN, body)

    def test_without_a_page(self) -> None:
        """Where there is no page nobody is promised one."""
        place = Place(web=False)
        (xml,) = place.writes("login")
        self.assertIn("no web page", xml)
        self.assertNotIn("https:", xml)
        (xml,) = place.writes("help")
        self.assertNotIn("Write login", xml)

    def test_too_many_links(self) -> None:
        """Who asks for too many links is told when to ask again."""
        for _ in range(5):
            self.place.writes("login")
        (xml,) = self.place.writes("login")
        self.assertNotIn("https:", xml)
        self.assertIn("in 10 minutes", xml)
        self.assertEqual(self.place.metrics.value("admin.login_refused"), 1)

    def test_two_machines(self) -> None:
        """A machine that answers every answer gets twenty a minute, then none."""
        answers = sum(len(self.place.writes("I am away")) for _ in range(50))
        self.assertEqual(answers, 20)
        self.assertEqual(self.place.metrics.value("admin.unanswered"), 30)
        self.assertEqual(len(self.place.writes("hi", "carol@home.example/x")), 1)
        self.place.clock.advance(60)
        self.assertEqual(len(self.place.writes("hi")), 1)

    def test_what_is_never_answered(self) -> None:
        """Errors, headlines, rooms, typing and receipts are never answered."""
        for type in ("error", "headline", "groupchat"):
            self.assertEqual(self.place.writes("login", type=type), [])
        self.place.arrives(
            f"<message from='alice@home.example/x' to='{OWN}' type='chat'>"
            "<composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
        )
        self.place.arrives(f"<message from='home.example' to='{OWN}'><body>login</body></message>")
        self.assertEqual(self.place.home.sent, [])

    def test_encrypted(self) -> None:
        """A message that we cannot read is answered with what to do."""
        (xml,) = self.place.writes(
            "I sent you an OMEMO encrypted message",
            extra="<encrypted xmlns='eu.siacs.conversations.axolotl'/>",
        )
        self.assertIn("Switch encryption off", xml)

    def test_thread(self) -> None:
        """An answer stays in its thread."""
        (xml,) = self.place.writes("hi", extra="<thread>a&amp;b</thread>")
        self.assertEqual(stanza(xml).text("thread"), "a&b")

    def test_on_the_contact_list(self) -> None:
        """Whoever wants the node on his contact list has it there, available."""

        def says(type: str) -> list[str]:
            self.place.home.sent.clear()
            self.place.arrives(f"<presence from='alice@home.example' to='{OWN}' type='{type}'/>")
            return [stanza(each.xml).type for each in self.place.home.sent]

        self.assertEqual(says("subscribe"), ["subscribed", ""])
        self.assertEqual(says("probe"), [""])
        self.assertEqual(says("unsubscribe"), ["unsubscribed"])
        self.assertEqual(says("unavailable"), [])
        self.assertEqual(says("error"), [])
