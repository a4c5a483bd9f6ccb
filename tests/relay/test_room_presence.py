"""Presence in rooms passes as it came, whatever the kind of peer."""

from __future__ import annotations

from twisted.trial import unittest

from impfed.interwork.rewrite import XmppKind
from impfed.relay.presence import PresenceRewriter
from tests.relay.world import read

JULIET = "juliet@home.example"
ROOM = "tomb@rooms.sametime.example"
MUC = "http://jabber.org/protocol/muc"


class RoomTests(unittest.SynchronousTestCase):
    """The rewriter, with rows of its own for Sametime and Webex."""

    def setUp(self) -> None:
        kinds = {name: XmppKind.load(name, None) for name in ("sametime", "webex")}
        self.rewriter = PresenceRewriter(
            kinds.values(), lambda domain: kinds["webex" if "webex" in domain else "sametime"]
        )

    def out(self, resource: str, to: str, content: str = "", type: str = "") -> str:
        """Let juliet send presence; return how it goes out."""
        kind = f" type='{type}'" if type else ""
        xml = f"<presence from='{JULIET}/{resource}' to='{to}'{kind}>{content}</presence>"
        return self.rewriter.outward(read(xml))

    def test_in_a_foreign_room(self) -> None:
        """From entering to leaving, a client's state in a foreign room is its own."""
        away, entering = "<show>xa</show>", f"<x xmlns='{MUC}'/>"
        self.assertIn("<show>away</show>", self.out("a", f"{ROOM}/nick", away))
        self.assertIn(away, self.out("a", f"{ROOM}/nick", away + entering))
        self.assertIn(away, self.out("a", f"{ROOM}/nick", away))
        self.assertIn("<show>away</show>", self.out("b", f"{ROOM}/other", away))
        self.out("a", f"{ROOM}/nick", type="unavailable")
        self.assertIn("<show>away</show>", self.out("a", f"{ROOM}/nick", away))

    def test_of_rooms(self) -> None:
        """What rooms say of those inside passes as it came, both ways."""
        item = f"<x xmlns='{MUC}#user'><item affiliation='none' role='participant'/></x>"
        xml = (
            f"<presence from='hall@rooms.home.example/nick' to='x@sametime.example/c'>"
            f"<show>xa</show>{item}</presence>"
        )
        self.assertIn("<show>xa</show>", self.rewriter.outward(read(xml)))
        meeting = "<show>away</show><status>In a meeting</status>"
        head = f"<presence from='tomb@rooms.webex.example/nick' to='{JULIET}/a'>{meeting}"
        self.assertIn("<show>away</show>", self.rewriter.inward(read(f"{head}{item}</presence>")))
        self.assertNotIn("<show>", self.rewriter.inward(read(f"{head}</presence>")))
