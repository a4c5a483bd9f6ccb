"""Tables T7 to T10: what reaches a client, and what that client draws, in a copy of our own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import LocalError
from impfed.interwork.availability import OFFLINE, Availability
from impfed.interwork.rewrite import XMPP_KINDS, XmppKind

# Row of the table -> the stanza that the sender's server sends (None: unavailable).
STANZAS: dict[str, tuple[str, str] | None] = {
    "Available": ("", ""),
    "DND": ("dnd", ""),
    "Busy": ("away", "Busy"),
    "Idle": ("away", "Idle"),
    'Away "Idle"': ("away", "Idle"),
    "Away": ("away", ""),
    "XA": ("xa", ""),
    'Available "In a meeting"': ("", "In a meeting"),
    'Away "In a meeting"': ("away", "In a meeting"),
    "Offline": None,
}

# T7 and T8: row, what a third-party client shows, what Jabber shows.
T7 = (
    ("Available", "Available", "Available"),
    ("DND", "DND", "DND"),
    ('Available "In a meeting"', 'Available "In a meeting"', 'Available "In a meeting"'),
    ("Away", "Away", "Away"),
    ("Offline", "Offline", "Offline"),
)
T8 = (
    ("Available", "Available", "Available"),
    ("DND", "DND", "DND"),
    ('Away "In a meeting"', 'Available "In a meeting"', 'Away "In a meeting"'),
    ("Away", "Away", "Away"),
    ("Offline", "Offline", "Offline"),
)

# T9 and T10: row, what it must be drawn as by Jabber, a third-party client, Webex and Sametime.
T9 = (
    ("Available", "Available", "Available", "Available", "Available"),
    ("DND", "DND", "DND", "DND", "DND"),
    ("Busy", "Busy", "Away", "Idle", "Away"),
    ("Idle", "Idle", "Idle", "Idle", "Idle"),
    ("Offline", "Offline", "Offline", "Offline", "Offline"),
)
T10 = (
    ("Available", "Available", "Available", "Available", "Available"),
    ("DND", "DND", "DND", "DND", "DND"),
    ("Away", "Away", "Away", "Away", "Away"),
    ("XA", "Away", "XA", "XA", "Away"),
    ('Away "Idle"', "Idle", 'Away "Idle"', 'Away "Idle"', 'Away "Idle"'),
    ("Offline", "Offline", "Offline", "Offline", "Offline"),
)

_WORDS = {"": "Available", "chat": "Available", "away": "Away", "dnd": "DND", "xa": "XA"}


def sent(row: str) -> Availability:
    """Return the presence that stands for a row."""
    stanza = STANZAS[row]
    return OFFLINE if stanza is None else Availability(True, *stanza)


def plain(seen: Availability) -> str:
    """How a client draws that shows the status text beside the state."""
    if not seen.available:
        return "Offline"
    text = f' "{seen.status}"' if seen.status else ""
    return _WORDS[seen.show] + text


def jabber(seen: Availability) -> str:
    """How Jabber draws: Busy and Idle by the text, XA as Away."""
    if seen.available and seen.show == "away" and seen.status in ("Busy", "Idle"):
        return seen.status
    return plain(seen).replace("XA", "Away")


def shown_as(column: str, seen: Availability) -> set[str]:
    """Every word that the table may use for what a client of that column draws."""
    words = {plain(seen)}
    if seen.status == "Busy":  # drawn without the text; Webex draws it as its idle
        words |= {"Away", "Idle"} if column == "webex" else {"Away"}
    if seen.status == "Idle":
        words |= {"Idle", 'Away "Idle"'}
    return words


class InwardTests(SynchronousTestCase):
    """T7 and T8: from a Sametime or Webex domain to a local user."""

    def rows(self, kind: str, table) -> None:
        peer = XmppKind.load(kind)
        for row, others, ciscos in table:
            self.assertEqual(plain(peer.inward(sent(row))), others, (kind, row))
            self.assertEqual(jabber(peer.inward(sent(row), all_jabber=True)), ciscos, (kind, row))

    def test_t7(self) -> None:
        """Sametime."""
        self.rows("sametime", T7)

    def test_t8(self) -> None:
        """Webex: in a meeting is available, except where all clients are Jabber."""
        self.rows("webex", T8)

    def test_other_meetings(self) -> None:
        """Only Webex's own words are rewritten, and only while away."""
        webex = XmppKind.load("webex")
        for show, status in (("away", "In a meetinghouse"), ("dnd", "In a meeting"), ("away", "")):
            presence = Availability(True, show, status)
            self.assertEqual(webex.inward(presence), presence)


class OutwardTests(SynchronousTestCase):
    """T9 and T10: from a local user to another XMPP domain."""

    def rows(self, table) -> None:
        for row, federated_jabber, federated, webex, sametime in table:
            out = {kind: XmppKind.load(kind).outward(sent(row)) for kind in XMPP_KINDS}
            self.assertEqual(jabber(out["xmpp"]), federated_jabber, row)
            self.assertIn(federated, shown_as("xmpp", out["xmpp"]), row)
            self.assertIn(webex, shown_as("webex", out["webex"]), row)
            self.assertIn(sametime, shown_as("sametime", out["sametime"]), row)

    def test_t9(self) -> None:
        """What Jabber users set."""
        self.rows(T9)

    def test_t10(self) -> None:
        """What users of other clients set."""
        self.rows(T10)

    def test_nothing_else_changes(self) -> None:
        """xa towards Sametime is the one stanza that is changed on its way out."""
        for kind in XMPP_KINDS:
            for row in STANZAS:
                out = XmppKind.load(kind).outward(sent(row))
                if (kind, row) == ("sametime", "XA"):
                    self.assertEqual(out, Availability(True, "away", ""))
                else:
                    self.assertEqual(out, sent(row))


class RuleTests(SynchronousTestCase):
    """What holds for every row."""

    @given(st.sampled_from(XMPP_KINDS), st.text(max_size=12), st.text(), st.booleans())
    def test_text_survives(self, name: str, show: str, status: str, jabbers: bool) -> None:
        """The status text, and whether somebody is there at all, is never changed."""
        kind = XmppKind.load(name)
        for there in (True, False):
            presence = Availability(there, show, status, 5, "Juliet")
            for found in (kind.inward(presence, all_jabber=jabbers), kind.outward(presence)):
                self.assertEqual((found.available, found.status), (there, status))
                self.assertEqual((found.priority, found.display_name), (5, "Juliet"))

    def test_own_rows(self) -> None:
        """An operator's row takes the place of ours, or comes first."""
        own = {"to_peer": [{"state": "Extended Away", "show": ["xa"], "becomes": "dnd"}]}
        kind = XmppKind.load("sametime", own)
        self.assertEqual(kind.outward(Availability(True, "xa")).show, "dnd")
        own = {"from_peer": [{"state": "Mine", "show": ["dnd"], "becomes": "away"}]}
        self.assertEqual(XmppKind.load("xmpp", own).inward(Availability(True, "dnd")).show, "away")

    def test_wrong_rows(self) -> None:
        """A row that cannot work is refused with what is wrong."""
        self.assertRaises(LocalError, XmppKind.load, "icq")
        for row in ({"state": "a", "show": "xa", "becomes": ""}, {"state": "a", "show": ["xa"]}):
            self.assertRaises(LocalError, XmppKind.load, "xmpp", {"to_peer": [row]})
