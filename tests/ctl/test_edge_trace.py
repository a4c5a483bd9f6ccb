"""The ladder of an edge: partners on the left, our own machines on the right."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.trace import INSIDE, TraceLine
from impfed.ctl.follow import as_item
from impfed.ctl.words import Ladder


class EdgeLadderTests(SynchronousTestCase):
    """One request on its way in, and its answer."""

    def drawn(self, peer: str, inbound: bool, text: str = "BYE sip:x@y SIP/2.0\r\n\r\n") -> str:
        """Return the arrow of a message."""
        line = TraceLine(0.0, "sip", inbound, peer, text)
        ladder = Ladder(names=("far side", "edge", "inside"))
        return ladder.draw(as_item(line)).splitlines()[0].partition("|")[2]

    def test_sides(self) -> None:
        """A request from a partner goes right twice, the answer left twice, each in its own column."""
        left, right = "tls:192.0.2.1:5061", f"{INSIDE}tls:10.0.0.1:5062"
        answer = "SIP/2.0 200 OK\r\nCSeq: 1 BYE\r\n\r\n"
        rows = [
            self.drawn(left, True),
            self.drawn(right, False),
            self.drawn(right, True, answer),
            self.drawn(left, False, answer),
        ]
        columns = [
            [" " if not part.strip() else part for part in row.split("|")[:2]] for row in rows
        ]
        shape = [
            (a.strip()[:1] + a.strip()[-1:], b.strip()[:1] + b.strip()[-1:]) for a, b in columns
        ]
        self.assertEqual(shape, [("->", ""), ("", "->"), ("", "<-"), ("<-", "")])

    def test_head(self) -> None:
        """The head says who stands where."""
        head = Ladder(names=("far side", "edge", "inside")).head()
        self.assertRegex(head, r"far side +edge +inside\n")
