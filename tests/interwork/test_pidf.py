"""PIDF: both forms written, every form read, nothing dangerous read."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.interwork.availability import Availability, Kind
from impfed.interwork.document import DocumentError, read_document
from impfed.interwork.pidf import closed_pidf, read_pidf, write_pidf
from impfed.sip.message import parse_message

DATA = Path(__file__).parent.parent / "data"
P = "{urn:ietf:params:xml:ns:pidf}"
MICROSOFT, SIMPLE = Kind.load("microsoft"), Kind.load("simple")

# What must be refused or fail on its own: RFC examples that are not well-formed as printed.
BROKEN = {"rfc4480-01-presence.xml", "rfc4482-01-presence.xml", "rfc4662-02-presence.xml"}


def head(tag: str = "", more: str = "") -> str:
    """A document's opening, with a tuple that is open."""
    return (
        '<presence xmlns="urn:ietf:params:xml:ns:pidf" '
        'xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model" '
        'xmlns:rpid="urn:ietf:params:xml:ns:pidf:rpid" '
        'xmlns:ci="urn:ietf:params:xml:ns:pidf:cipid" entity="sip:a@b.example">'
        f'<tuple id="t1"><status><basic>open</basic></status>{tag}</tuple>{more}</presence>'
    )


def read(text: str, kind: Kind = SIMPLE) -> Availability:
    """The availability that a document stands for."""
    return read_pidf(text.encode()).availability(kind)


class WriterTests(SynchronousTestCase):
    """What we send."""

    def test_microsoft_samples(self) -> None:
        """The documents mean what the samples of the Microsoft dialect mean, element by element."""
        states = {
            "available": Availability(True),
            "busy": Availability(True, "dnd"),
            "dnd": Availability(True, "dnd"),
            "brb": Availability(True, "away"),
            "away": Availability(True, "xa"),
            "offline": Availability(False),
        }
        for name, state in states.items():
            sample = parse_message((DATA / f"wire/lync/notify-out-{name}.sip").read_bytes())
            ours = write_pidf(MICROSOFT, state, "sip:juliet@impfed.example", "Juliet")
            self.assertEqual(
                ElementTree.canonicalize(ours.decode(), strip_text=True),
                ElementTree.canonicalize(sample.body.decode(), strip_text=True),
                name,
            )
        sample = parse_message((DATA / "wire/lync/notify-out-pending.sip").read_bytes())
        self.assertEqual(
            ElementTree.canonicalize(
                closed_pidf(MICROSOFT, "sip:juliet@impfed.example").decode(), strip_text=True
            ),
            ElementTree.canonicalize(sample.body.decode(), strip_text=True),
        )

    def test_standard_form(self) -> None:
        """A SIMPLE domain gets RFC 4480 activities in the person and RFC 8048's show."""
        root = ElementTree.fromstring(
            write_pidf(SIMPLE, Availability(True, "dnd", "In court"), "sip:a@b.example", "Alice")
        )
        self.assertEqual(root.findtext(f"{P}tuple/{P}status/{P}basic"), "open")
        self.assertEqual(root.findtext(f"{P}tuple/{P}status/{{jabber:client}}show"), "dnd")
        self.assertEqual(root.findtext(f"{P}tuple/{P}note"), "In court")
        person = "{urn:ietf:params:xml:ns:pidf:data-model}person"
        rpid = "{urn:ietf:params:xml:ns:pidf:rpid}"
        self.assertIsNotNone(root.find(f"{person}/{rpid}activities/{rpid}busy"))
        name = root.findtext("{urn:ietf:params:xml:ns:pidf:cipid}display-name")
        self.assertEqual(name, "Alice")

    @given(
        st.text(max_size=30), st.text(max_size=30), st.sampled_from(["", "away", "dnd", "xa", "&<"])
    )
    def test_nothing_can_break_out(self, status: str, name: str, show: str) -> None:
        """Whatever a user wrote, the document stays well-formed and says it."""
        for kind in (MICROSOFT, SIMPLE):
            data = write_pidf(kind, Availability(True, show, status), "sip:a@b.example", name)
            document = read_pidf(data)
            self.assertEqual(len(document.states), 1)
            self.assertTrue(document.states[0].open)


class ReaderTests(SynchronousTestCase):
    """What we are sent."""

    def test_rfc_examples(self) -> None:
        """Every presence document printed in an RFC is read, or is not well-formed as printed."""
        for path in sorted((DATA / "presence").glob("*-presence.xml")):
            data = path.read_bytes()
            try:
                ElementTree.fromstring(data)
                well_formed = True
            except ElementTree.ParseError:
                well_formed = False
            if not well_formed:
                self.assertRaises(DocumentError, read_pidf, data)
                continue
            found = read_pidf(data)
            self.assertIsInstance(found.availability(SIMPLE), Availability, path.name)

    def test_wire_samples(self) -> None:
        """The samples of the Microsoft dialect mean what their index says."""
        expected = {
            "notify-in-available": (True, "", ""),
            "notify-in-busy": (True, "away", "Busy"),
            "notify-in-dnd": (True, "away", "Busy"),
            "notify-in-brb": (True, "away", ""),
            "notify-in-away": (True, "away", ""),
            "notify-in-offline": (False, "", ""),
            "notify-in-note-two-tuples": (True, "", "On a call"),
            "benotify-in": (True, "away", "Busy"),
            "subscribe-200-in-piggyback": (True, "away", ""),
        }
        for name, state in expected.items():
            sample = parse_message((DATA / f"wire/lync/{name}.sip").read_bytes())
            found = read_pidf(sample.body).availability(MICROSOFT)
            self.assertEqual((found.available, found.show, found.status), state, name)

    def test_rfc4480(self) -> None:
        """Activities of the person count for every tuple; their note too."""
        person = (
            '<dm:person id="p1"><rpid:activities><rpid:note>Deep</rpid:note><rpid:on-the-phone/>'
            "</rpid:activities></dm:person>"
        )
        found = read(head(more=person))
        self.assertEqual((found.show, found.status), ("away", "Busy (On the phone: Deep)"))

    def test_nearest_note_wins(self) -> None:
        """The tuple's note, else the person's, else the document's."""
        person = '<dm:person id="p"><dm:note>person</dm:note></dm:person>'
        whole = "<note>document</note>"
        self.assertEqual(read(head("<note>tuple</note>", person + whole)).status, "tuple")
        self.assertEqual(read(head("", person + whole)).status, "person")
        self.assertEqual(read(head("", whole)).status, "document")

    def test_contact_priority(self) -> None:
        """Of several open tuples the one with the highest contact priority is shown."""
        second = (
            '<tuple id="t2"><status><basic>open</basic></status>'
            '<contact priority="0.9">sip:x</contact><note>two</note></tuple>'
        )
        first = '<contact priority="0.1">sip:y</contact><note>one</note>'
        self.assertEqual(read(head(first, second)).status, "two")
        odd = '<contact priority="many">sip:y</contact><note>one</note>'
        self.assertEqual(read(head(odd)).status, "one")

    def test_nothing_known(self) -> None:
        """Without a tuple, or without a basic status, nobody is there."""
        self.assertFalse(read('<presence xmlns="urn:ietf:params:xml:ns:pidf"/>').available)
        empty = head().replace("<basic>open</basic>", "")
        self.assertFalse(read(empty).available)

    def test_display_name(self) -> None:
        """CIPID's display name is taken over."""
        found = read(head(more="<ci:display-name>Alice A.</ci:display-name>"))
        self.assertEqual(found.display_name, "Alice A.")


class DangerTests(SynchronousTestCase):
    """Documents that are not read."""

    def test_refused(self) -> None:
        """DTDs, entities, deep nesting, size, other documents: each a clean error."""
        entity = '<!DOCTYPE p [<!ENTITY a "x"><!ENTITY b "&a;&a;">]>' + head("<note>&b;</note>")
        external = '<!DOCTYPE p SYSTEM "file:///etc/passwd">' + head()
        for data in (
            b"",
            b"\xff\xfe\x00",
            b"not xml",
            b"<a><b></a>",
            b'<?xml version="1.0" encoding="no-such"?><a/>',
            entity.encode(),
            external.encode(),
            entity.encode("utf-16"),
            b"<a>" * 100 + b"</a>" * 100,
            b"<a>" + b" " * 300_000 + b"</a>",
            b'<presence xmlns="urn:other"/>',
        ):
            self.assertRaises(DocumentError, read_pidf, data)

    @given(st.binary(max_size=200))
    def test_any_octets(self, data: bytes) -> None:
        """Arbitrary octets are a document or a DocumentError, nothing else."""
        try:
            read_document(data)
        except DocumentError as error:
            self.assertEqual(error.status, 400)
