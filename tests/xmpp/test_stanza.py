"""Stanzas in and out; nothing that a user wrote can become markup."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from impfed.core.errors import LocalError
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import (
    CONDITIONS,
    NS_STANZAS,
    Stanza,
    StanzaError,
    StanzaProblem,
    element_xml,
    error_of,
    error_reply,
    iq,
    iq_result,
    message,
    message_error,
    presence,
)

J = JID.parse
ALICE, BOB = J("alice@home.example/x"), J("bob@lync.example")
NS = "jabber:component:accept"
CORR = "urn:xmpp:message-correct:0"


def parse(xml: str) -> Stanza:
    """Read a stanza as the home server would."""
    return Stanza.of(ET.fromstring(f"<s xmlns='{NS}'>{xml}</s>")[0])


HOSTILE = [
    "</body></message><message from='admin@home.example' to='x@y'><body>",
    "' onload='x",
    '" to="evil@evil.example',
    "<presence type='unsubscribed'/>",
    "]]>",
    "&amp;&lt;&#0;",
    "\x00\x01\x08\x0b\x1f",
    "\ud800\udfff\ufffe\uffff",
    "a\r\nb\tc",
]


class InjectionTests(unittest.SynchronousTestCase):
    """Bodies, ids, names and addresses stay what they are."""

    def test_hostile_texts(self) -> None:
        """Markup comes back as text; what XML forbids comes back as U+FFFD; nothing else arises."""
        for text in HOSTILE:
            self.check(text)

    @given(st.text(alphabet=st.characters(exclude_categories=()), max_size=40))
    def test_any_text(self, text: str) -> None:
        """The same for any text, surrogates and controls included."""
        self.check(text)

    def check(self, text: str) -> None:
        expected = "".join(
            "\ufffd"
            if (ord(c) < 32 and c not in "\t\n\r")
            or 0xD800 <= ord(c) <= 0xDFFF
            or ord(c) in (0xFFFE, 0xFFFF)
            else c
            for c in text
        )
        out = message(ALICE, BOB, id=text, type=text or "chat", body=text, lang=text)
        read = parse(out.xml)
        self.assertEqual(read.text("body"), expected)
        self.assertEqual(read.id, expected)
        self.assertEqual((read.to, read.from_), (ALICE, BOB))
        self.assertEqual(len(read.element), 1)
        shown = parse(presence(ALICE, BOB, status=text, show=text).xml)
        self.assertEqual(shown.text("status") or "", expected)
        bounced = parse(error_reply(read, "item-not-found", text=text).xml)
        self.assertEqual(bounced.text("body"), expected)
        self.assertEqual(error_of(bounced).text, expected)

    def test_hostile_resource(self) -> None:
        """A resource may hold markup characters, and stays one attribute."""
        jid = J("bob@lync.example/'><x a=\"&")
        read = parse(message(ALICE, jid, body="hi").xml)
        self.assertEqual(read.from_, jid)


class BuildTests(unittest.SynchronousTestCase):
    """Stanzas of ours."""

    def test_message(self) -> None:
        """A message has its body, its payload, and no body element where there is no body."""
        read = parse(message(ALICE, BOB, id="1", body="hi", payload="<a xmlns='u:x'/>").xml)
        self.assertEqual((read.kind, read.type, read.text("body")), ("message", "chat", "hi"))
        self.assertIsNotNone(read.child("a", "u:x"))
        self.assertIsNone(parse(message(ALICE, BOB, payload="<a xmlns='u:x'/>").xml).text("body"))
        self.assertEqual(parse(message(ALICE, BOB, body="").xml).text("body"), "")

    def test_presence(self) -> None:
        """Available presence has no type; show, status and priority are elements."""
        read = parse(presence(ALICE, BOB, show="away", status="Lunch", priority=-1).xml)
        self.assertEqual(
            (read.type, read.text("show"), read.text("status"), read.text("priority")),
            ("", "away", "Lunch", "-1"),
        )

    def test_iq(self) -> None:
        """A result goes back to whoever asked, with the same id."""
        asked = parse(iq(BOB, ALICE, id="7", type="get", payload="<q xmlns='u:q'/>").xml)
        answer = parse(iq_result(asked).xml)
        self.assertEqual(
            (answer.to, answer.from_, answer.id, answer.type), (ALICE, BOB, "7", "result")
        )


class ErrorTests(unittest.SynchronousTestCase):
    """Error stanzas."""

    def test_reply(self) -> None:
        """An error goes back with id and content, its condition and its words."""
        got = parse(message(BOB, ALICE, id="5", body="hi", payload="<e xmlns='u:e'/>").xml)
        read = parse(error_reply(got, "item-not-found", text="nobody").xml)
        self.assertEqual((read.to, read.from_, read.id, read.type), (ALICE, BOB, "5", "error"))
        self.assertEqual(read.text("body"), "hi")
        self.assertIsNotNone(read.child("e", "u:e"))
        self.assertEqual(error_of(read), StanzaError("item-not-found", "cancel", "nobody"))

    def test_every_condition(self) -> None:
        """Each condition of RFC 6120 can be said and read again, with its ordinary type."""
        got = parse(message(BOB, ALICE, id="5", body="hi").xml)
        for condition, type in CONDITIONS.items():
            read = parse(error_reply(got, condition, original=False).xml)
            self.assertEqual(error_of(read), StanzaError(condition, type, ""))
            self.assertIsNone(read.text("body"))

    def test_errors_are_not_answered(self) -> None:
        """Answering an error or a result is a bug of ours."""
        error = parse(message_error(ALICE, BOB, id="1", condition="gone").xml)
        result = parse(iq(ALICE, BOB, id="1", type="result").xml)
        for stanza in (error, result):
            self.assertRaises(LocalError, error_reply, stanza, "gone")

    def test_conditions_are_checked(self) -> None:
        """A condition or type that does not exist is a bug of ours."""
        got = parse(message(BOB, ALICE, body="hi").xml)
        self.assertRaises(LocalError, error_reply, got, "no-such")
        self.assertRaises(LocalError, error_reply, got, "gone", "never")

    def test_without_the_stanza(self) -> None:
        """From the outbox an error can be built without the stanza, quoting id and body."""
        read = parse(
            message_error(ALICE, BOB, id="9", condition="forbidden", body="<hi>", lang="ja").xml
        )
        self.assertEqual((read.id, read.text("body"), read.lang), ("9", "<hi>", "ja"))

    def test_lenient_reading(self) -> None:
        """An error without error element, condition or type is still an error."""
        for inner, expected in (
            ("", StanzaError("undefined-condition", "cancel", "")),
            ("<error/>", StanzaError("undefined-condition", "cancel", "")),
            (
                f"<error type='odd'><gone xmlns='{NS_STANZAS}'/><x xmlns='u:x'/></error>",
                StanzaError("gone", "cancel", ""),
            ),
        ):
            read = parse(f"<message from='a@b' to='c@d' type='error'>{inner}</message>")
            self.assertEqual(error_of(read), expected)

    def test_not_a_stanza(self) -> None:
        """Any other element is no stanza."""
        self.assertRaises(StanzaProblem, Stanza.of, ET.fromstring("<x xmlns='jabber:client'/>"))


class SerialiseTests(unittest.SynchronousTestCase):
    """Elements written out again mean the same."""

    def test_round_trip(self) -> None:
        """Namespaces, attributes with namespaces, mixed content and nesting survive."""
        for xml in (
            f"<m xmlns='{NS}'>a<b/>c<x xmlns='u:x'><y/>t</x>d</m>",
            f"<m xmlns='{NS}' xml:lang='en' xmlns:p='u:p' p:q='1&amp;2'><p:z p:r='3'/></m>",
            f"<m xmlns='{NS}'><x xmlns=''><m xmlns='{NS}'/></x></m>",
        ):
            element = ET.fromstring(xml)
            again = ET.fromstring(element_xml(element))
            inner = ET.fromstring(f"<s xmlns='{NS}'>{element_xml(element, NS)}</s>")[0]
            for copy in (again, inner):
                self.assertEqual(self.facts(copy), self.facts(element))

    def facts(self, element: ET.Element) -> list[object]:
        return [
            (each.tag, dict(each.attrib), each.text or "", each.tail or "")
            for each in element.iter()
        ]

    def test_depth_costs_no_stack(self) -> None:
        """Ten thousand elements within one another are written like any other."""
        xml = "<a>" * 10000 + "</a>" * 10000
        self.assertEqual(len(element_xml(ET.fromstring(xml))), len(xml) - len("<a></a>") + 4)
