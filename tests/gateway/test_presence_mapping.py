"""Tables T1 to T6, row by row, through the whole gateway: octets in, stanza out, and the reverse.

The rows are written here as the specification prints them; nothing is taken from the program's
data files.  Documents are checked as a Microsoft client reads them: with a parser of our own.
"""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import NextHopConfig, SipDomainConfig
from impfed.interwork.availability import Kinds
from tests.gateway.harness import CONFIG
from tests.gateway.presence_world import PresenceWorld, pidf

PEERS = {
    "microsoft": "romeo@lync.example",
    "office365": "rosaline@online.example",
    "simple": "benvolio@simple.example",
}
WORLD = replace(
    CONFIG,
    domains=(
        *CONFIG.domains,
        SipDomainConfig(
            "online.example", kind="office365", next_hop=NextHopConfig("sip.online.example")
        ),
    ),
)
_PIDF = "{urn:ietf:params:xml:ns:pidf}"

# What a Microsoft user sets; what his edge writes (basic, activity); the stanza that we send; what
# a third-party client and a Jabber client make of that stanza.  T1 (OCS) and T4 (Lync).
T1_T4 = (
    ("Available", "open", "", ("available", "", ""), "Available", "Available"),
    ("Busy", "open", "busy", ("available", "away", "Busy"), 'Away, "Busy"', "Busy"),
    ("DND", "open", "busy", ("available", "away", "Busy"), 'Away, "Busy"', "Busy"),
    ("BRB", "open", "away", ("available", "away", ""), "Away", "Away"),
    ("Away", "open", "away", ("available", "away", ""), "Away", "Away"),
    ("Offline", "closed", "", ("unavailable", "", ""), "Offline", "Offline"),
)

# What a Jabber user sets, the stanza of his client, what OCS and Lync show.  T2 and T5.
T2_T5 = (
    ("Available", ("", "", ""), "Available"),
    ("Busy", ("", "away", "Busy"), "Busy"),
    ("Busy", ("", "away", "Busy (On the phone)"), "Busy"),
    ("DND", ("", "dnd", ""), "Busy"),
    ("Away", ("", "away", ""), "Away"),
    ("Idle", ("", "away", "Idle"), "Away"),
    ("Offline", ("unavailable", "", ""), "Offline"),
)

# The same for any other client.  T3 and T6.
T3_T6 = (
    ("Available", ("", "", ""), "Available"),
    ("Free for chat", ("", "chat", ""), "Available"),
    ("Away", ("", "away", ""), "Away"),
    ("XA", ("", "xa", ""), "Away"),
    ("DND", ("", "dnd", ""), "Busy"),
    ("Unknown show", ("", "sleepy", ""), "Available"),
    ("Offline", ("unavailable", "", ""), "Offline"),
)

# Richer RPID, from peers that send it.
RICHER = (
    ("on-the-phone", ("available", "away", "Busy (On the phone)")),
    ("meeting", ("available", "away", "Busy (In a meeting)")),
    ("presentation", ("available", "away", "Busy")),
    ("vacation", ("available", "xa", "")),
    ("holiday", ("available", "xa", "")),
    ("steering", ("available", "", "")),
)


def third_party(stanza: tuple[str, str, str]) -> str:
    """What a third-party client draws for (type, show, status)."""
    kind, show, status = stanza
    if kind == "unavailable":
        return "Offline"
    word = {"": "Available", "chat": "Available", "away": "Away", "xa": "XA", "dnd": "DND"}[show]
    return f'{word}, "{status}"' if status else word


def jabber(stanza: tuple[str, str, str]) -> str:
    """What Jabber draws for it."""
    kind, show, status = stanza
    if kind != "unavailable" and show == "away":
        for word in ("Busy", "Idle"):
            if status == word or status.startswith(f"{word} ("):
                return word
    return third_party((kind, show, "")).replace("XA", "Away")


def microsoft(body: bytes, form: str) -> str:
    """What a Microsoft client (or one that reads RFC 4480) shows for a document."""
    root = ElementTree.fromstring(body)
    tuples = root.findall(f"{_PIDF}tuple")
    assert len(tuples) == 1
    if tuples[0].findtext(f"{_PIDF}status/{_PIDF}basic") != "open":
        return "Offline"
    if form == "draft":
        space = "{urn:ietf:params:xml:ns:pidf:status:rpid-status}"
        words = [each.text for each in tuples[0].iter(f"{space}activity")]
    else:
        space = "{urn:ietf:params:xml:ns:pidf:rpid}"
        words = [
            child.tag.removeprefix(space)
            for each in root.iter(f"{space}activities")
            for child in each
        ]
    known = [word for word in words if word in ("busy", "away")]
    return known[0].capitalize() if known else "Available"


class InwardTests(SynchronousTestCase):
    """NOTIFY in, stanza out."""

    def shown(self, foreign: str, bodies: list[str]) -> list[tuple[str, str, str]]:
        """Let alice watch somebody who sends documents; returns the stanza of each."""
        world = PresenceWorld(WORLD)
        sent = world.watching(to=foreign, body=pidf("closed", entity=foreign))
        found = []
        for number, body in enumerate(bodies, 2):
            world.notifies(sent, "active;expires=7000", body, cseq=number)
            self.assertEqual(world.stack.last_answer().status, 200)
            found += [
                (
                    each.get("type") or "available",
                    each.findtext("show") or "",
                    each.findtext("status") or "",
                )
                for each in world.stanzas()
            ]
        return found

    def test_t1_and_t4(self) -> None:
        """Every state of OCS and Lync becomes the table's stanza, and is drawn as it says."""
        for kind, foreign in PEERS.items():
            for state, basic, activity, stanza, others, ciscos in T1_T4:
                between = [pidf("open", "vacation", entity=foreign)]
                row = pidf(basic, activity, entity=foreign)
                self.assertEqual(self.shown(foreign, [*between, row])[-1], stanza, (kind, state))
                self.assertEqual(third_party(stanza), others, state)
                self.assertEqual(jabber(stanza), ciscos, state)

    def test_richer_activities(self) -> None:
        """Activities beyond busy and away become what the specification decides."""
        for kind, foreign in PEERS.items():
            for activity, stanza in RICHER:
                first = pidf("open", "away", entity=foreign)
                row = pidf("open", activity, entity=foreign)
                self.assertEqual(self.shown(foreign, [first, row])[-1], stanza, (kind, activity))

    def test_notes(self) -> None:
        """A note travels as status text, inside the marker where there is one."""
        note = "<note>Back at five</note>"
        for activity, stanza in (
            ("", ("available", "", "Back at five")),
            ("away", ("available", "away", "Back at five")),
            ("busy", ("available", "away", "Busy (Back at five)")),
        ):
            body = pidf("open", activity, note)
            self.assertEqual(self.shown("romeo@lync.example", [body])[-1], stanza)


class OutwardTests(SynchronousTestCase):
    """Stanza in, NOTIFY out."""

    def bodies(self, foreign: str, stanzas: list[tuple[str, str, str]]) -> list[bytes]:
        """Let somebody watch alice, who changes her state; returns the document of each."""
        world = PresenceWorld(WORLD)
        domain = foreign.partition("@")[2]
        world.flow.peer = replace(world.flow.peer, names=frozenset({f"sip.{domain}", domain}))
        world.subscribes(who=foreign)
        world.notify()
        world.alice_says("subscribed", to=foreign)
        world.alice_is("xa", "before", to=foreign)
        world.settle()
        found = []
        while world.stack.sent:
            found.append(world.notify().body)
        for kind, show, status in stanzas:
            world.alice_is(show, status, type=kind, to=foreign)
            while world.stack.sent:
                found.append(world.notify().body)
        return found

    def rows(self, table) -> None:
        """Check a table with every kind of peer."""
        for kind, foreign in PEERS.items():
            form = "rpid" if kind == "simple" else "draft"
            for state, stanza, expected in table:
                body = self.bodies(foreign, [stanza])[-1]
                self.assertEqual(microsoft(body, form), expected, (kind, state))

    def test_t2_and_t5(self) -> None:
        """Every state of Jabber is shown by OCS and Lync as the table says."""
        self.rows(T2_T5)

    def test_t3_and_t6(self) -> None:
        """Every state of a third-party client is shown by OCS and Lync as the table says."""
        self.rows(T3_T6)

    def test_notes(self) -> None:
        """Status text goes out as a note; of a marked one what stands in its brackets."""
        for stanza, note in (
            (("", "", "Back at five"), "Back at five"),
            (("", "away", "Busy (On the phone)"), "On the phone"),
            (("", "away", "Busy"), None),
        ):
            root = ElementTree.fromstring(self.bodies("romeo@lync.example", [stanza])[-1])
            self.assertEqual(root.findtext(f".//{_PIDF}note"), note)


class OwnRowsTests(SynchronousTestCase):
    """An operator's rows."""

    def test_a_row_replaced(self) -> None:
        """The row with the same name gives way; the others stand; other kinds do not change."""
        rows = {
            "to_xmpp": [
                {"state": "Busy", "basic": "open", "activity": ["busy"], "show": "dnd"},
                {"state": "Gone fishing", "basic": "open", "activity": ["fishing"], "show": "xa"},
            ],
            "from_xmpp": [
                {"state": "Do Not Disturb", "available": True, "show": ["dnd"], "basic": "closed"}
            ],
        }
        kinds = Kinds({"microsoft": rows})
        world = PresenceWorld(WORLD)
        object.__setattr__(world.around, "kind", kinds.kind)
        sent = world.watching()
        for number, (activity, show) in enumerate(
            (("busy", "dnd"), ("fishing", "xa"), ("away", "away")), 2
        ):
            world.notifies(sent, "active;expires=7000", pidf("open", activity), cseq=number)
            self.assertEqual(world.stanzas()[-1].findtext("show"), show)
        world.subscribes()
        world.notify()
        world.alice_approves()
        self.assertEqual(microsoft(world.notify().body, "draft"), "Available")
        world.alice_is("dnd")
        self.assertEqual(microsoft(world.notify().body, "draft"), "Offline")
        other = world.watching(to="benvolio@simple.example")
        body = pidf("open", "busy", entity="benvolio@simple.example")
        world.notifies(other, "active;expires=7000", body, cseq=2)
        self.assertEqual(world.stanzas()[-1].findtext("status"), "Busy")
