"""Availability: tables T1 to T6 in a copy written independently, and the rules around them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import LocalError
from impfed.interwork.availability import OFFLINE, Availability, Kind, PidfState, combine
from impfed.interwork.pidf import read_pidf, write_pidf

# What a Microsoft edge writes for a state, and what an XMPP client is sent: T1 (OCS), T4 (Lync).
MICROSOFT_TO_US = {
    "Available": ("open", None, ("available", "", "")),
    "Busy": ("open", "busy", ("available", "away", "Busy")),
    "DND": ("open", "busy", ("available", "away", "Busy")),
    "BRB": ("open", "away", ("available", "away", "")),
    "Away": ("open", "away", ("available", "away", "")),
    "Offline": ("closed", None, ("unavailable", "", "")),
}

# What Lync shows for what it reads.
LYNC_SHOWS = {
    ("open", None): "Available",
    ("open", "busy"): "Busy",
    ("open", "away"): "Away",
    ("closed", None): "Offline",
}

# T2, T5: a client that sets Busy by away with the text; Away and Idle by our decision.
JABBER_TO_MICROSOFT = {
    ("available", "", ""): "Available",
    ("available", "away", "Busy"): "Busy",
    ("available", "away", "Busy (On the phone)"): "Busy",
    ("available", "dnd", ""): "Busy",
    ("available", "away", ""): "Away",
    ("available", "away", "Idle"): "Away",
    ("unavailable", "", ""): "Offline",
}

# T3, T6: any other client.
OTHERS_TO_MICROSOFT = {
    ("available", "", ""): "Available",
    ("available", "chat", ""): "Available",
    ("available", "no-such-show", ""): "Available",
    ("available", "away", ""): "Away",
    ("available", "away", "Busybody"): "Away",
    ("available", "away", "busy"): "Away",
    ("available", "xa", ""): "Away",
    ("available", "xa", "Busy"): "Away",
    ("available", "dnd", ""): "Busy",
    ("available", "", "Busy"): "Available",
    ("unavailable", "", ""): "Offline",
}

# Richer RPID, from peers that send it (SPEC section 6, below the tables).
RICHER = {
    "on-the-phone": ("away", "Busy (On the phone)"),
    "meeting": ("away", "Busy (In a meeting)"),
    "presentation": ("away", "Busy"),
    "vacation": ("xa", ""),
    "holiday": ("xa", ""),
    "steering": ("", ""),
    "no-such-activity": ("", ""),
}

KINDS = ("microsoft", "office365", "simple")


def document(basic: str, activity: str | None) -> bytes:
    """A presence document as section 5 of the dialect notes prints it."""
    inner = ""
    if activity:
        inner = f"<ep:activities><ep:activity>{activity}</ep:activity></ep:activities>"
    return (
        '<presence xmlns="urn:ietf:params:xml:ns:pidf" entity="sip:romeo@lync.example" '
        'xmlns:ep="urn:ietf:params:xml:ns:pidf:status:rpid-status"><tuple id="0"><status>'
        f"<basic>{basic}</basic>{inner}</status></tuple></presence>"
    ).encode()


def word(availability: Availability) -> tuple[str, str, str]:
    """An availability in the words of the tables."""
    kind = "available" if availability.available else "unavailable"
    return (kind, availability.show, availability.status)


class TableTests(SynchronousTestCase):
    """Every cell of T1 to T6, through the documents that travel."""

    def test_microsoft_to_us(self) -> None:
        """T1 and T4."""
        for kind in KINDS:
            for state, (basic, activity, expected) in MICROSOFT_TO_US.items():
                found = read_pidf(document(basic, activity)).availability(Kind.load(kind))
                self.assertEqual(word(found), expected, (kind, state))

    def test_us_to_microsoft(self) -> None:
        """T2, T3, T5 and T6."""
        for name in KINDS:
            kind = Kind.load(name)
            for (type, show, status), expected in (
                *JABBER_TO_MICROSOFT.items(),
                *OTHERS_TO_MICROSOFT.items(),
            ):
                ours = Availability(type == "available", show, status)
                (state,) = read_pidf(write_pidf(kind, ours, "sip:a@home.example")).states
                basic = "open" if state.open else "closed"
                activity = state.activities[0] if state.activities else None
                self.assertEqual(LYNC_SHOWS[basic, activity], expected, (name, ours))

    def test_richer(self) -> None:
        """Activities that only some peers send."""
        for name in KINDS:
            for activity, (show, status) in RICHER.items():
                found = Kind.load(name).to_xmpp(PidfState(True, (activity,)))
                self.assertEqual((found.show, found.status), (show, status), activity)

    def test_most_telling_activity(self) -> None:
        """Of several activities the busiest is shown."""
        found = Kind.load("simple").to_xmpp(PidfState(True, ("away", "on-the-phone", "busy")))
        self.assertEqual((found.show, found.status), ("away", "Busy (On the phone)"))


class NoteTests(SynchronousTestCase):
    """Free text passes both ways."""

    def setUp(self) -> None:
        self.kind = Kind.load("microsoft")

    def test_to_us(self) -> None:
        """A note is the status; with Busy it stands in brackets, so that Busy is still known."""
        for activities, note, expected in (
            ((), "On a call", ("", "On a call")),
            (("away",), "Lunch", ("away", "Lunch")),
            (("busy",), "In court", ("away", "Busy (In court)")),
            (("on-the-phone",), "with Bob", ("away", "Busy (On the phone: with Bob)")),
            (("busy",), "Busy (In court)", ("away", "Busy (In court)")),
            (("away",), "Busy", ("away", "")),
        ):
            found = self.kind.to_xmpp(PidfState(True, activities, note))
            self.assertEqual((found.show, found.status), expected)

    def test_from_us(self) -> None:
        """The markers are taken off, the rest is the note."""
        for show, status, note in (
            ("away", "Busy", ""),
            ("away", "Busy (In court)", "In court"),
            ("away", "Idle", ""),
            ("away", "Lunch", "Lunch"),
            ("dnd", "Writing", "Writing"),
            ("", "Busy", "Busy"),
        ):
            self.assertEqual(self.kind.from_xmpp(Availability(True, show, status)).note, note)

    def test_offline_note(self) -> None:
        """Who is offline may say why."""
        found = self.kind.to_xmpp(PidfState(False, (), "Gone fishing"))
        self.assertEqual(word(found), ("unavailable", "", "Gone fishing"))

    def test_show_carried_along(self) -> None:
        """A show that RFC 8048 put into the document is taken as it is."""
        found = Kind.load("simple").to_xmpp(PidfState(True, ("busy",), "x", show="dnd"))
        self.assertEqual((found.show, found.status), ("dnd", "x"))
        found = Kind.load("simple").to_xmpp(PidfState(True, ("busy",), show="<evil>"))
        self.assertEqual(found.show, "away")


class CombineTests(SynchronousTestCase):
    """Several resources of one user."""

    def test_rules(self) -> None:
        """Each rule of SPEC section 6, against the one after it."""
        away, dnd = Availability(True, "away"), Availability(True, "dnd")
        for resources, expected in (
            ([], OFFLINE),
            ([OFFLINE], OFFLINE),
            ([OFFLINE, Availability(True, "xa", "", -5)], Availability(True, "xa", "", -5)),
            ([Availability(True, "", "", -1), dnd], dnd),
            (
                [Availability(True), Availability(True, "dnd", "", 1)],
                Availability(True, "dnd", "", 1),
            ),
            ([dnd, away], away),
        ):
            self.assertEqual(combine(resources), expected)

    def test_order_among_equals(self) -> None:
        """chat, available, Busy, away, Idle, xa, dnd."""
        order = [
            Availability(True, "chat"),
            Availability(True),
            Availability(True, "away", "Busy"),
            Availability(True, "away"),
            Availability(True, "away", "Idle"),
            Availability(True, "xa"),
            Availability(True, "dnd"),
        ]
        for index, best in enumerate(order):
            self.assertEqual(combine(reversed(order[index:])), best)

    @given(
        st.lists(
            st.builds(
                Availability,
                st.booleans(),
                st.sampled_from(["", "away", "chat", "dnd", "xa", "odd"]),
                st.sampled_from(["", "Busy", "Idle", "x"]),
                st.integers(-128, 127),
            ),
            max_size=5,
        )
    )
    def test_any_available_beats_none(self, resources: list[Availability]) -> None:
        """The result is one of the resources, and available if any is."""
        found = combine(resources)
        self.assertEqual(found.available, any(each.available for each in resources))
        if resources:
            self.assertIn(found, resources)


class OperatorTests(SynchronousTestCase):
    """An operator's rows."""

    def test_replaced_row(self) -> None:
        """A row of the same state takes its place; a new one is tried first."""
        kind = Kind.load(
            "microsoft",
            {
                "to_xmpp": [
                    {"state": "Busy", "basic": "open", "activity": ["busy"], "show": "dnd"},
                    {"state": "Lunch", "basic": "open", "activity": ["meal"], "show": "xa"},
                ],
                "from_xmpp": [
                    {"state": "Away", "available": True, "show": ["xa"], "basic": "closed"}
                ],
            },
        )
        self.assertEqual(kind.to_xmpp(PidfState(True, ("busy",))).show, "dnd")
        self.assertEqual(kind.to_xmpp(PidfState(True, ("away", "meal"))).show, "xa")
        self.assertFalse(kind.from_xmpp(Availability(True, "xa")).open)
        self.assertEqual(Kind.load("microsoft").to_xmpp(PidfState(True, ("busy",))).show, "away")

    def test_wrong_rows(self) -> None:
        """A wrong row is a local error that names it."""
        for row in (
            {"state": "x", "basic": "ajar"},
            {"state": "x"},
            {"state": "x", "basic": "open", "activity": "busy"},
        ):
            self.assertRaises(LocalError, Kind.load, "microsoft", {"to_xmpp": [row]})

    def test_unknown_kind(self) -> None:
        """A kind that has no file is a local error."""
        self.assertRaises(LocalError, Kind.load, "sametime-9")
