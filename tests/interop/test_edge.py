"""An edge between two nodes with private addresses and the far side (SPEC section 7)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import Event
from tests.interop.edge_scene import NODE_NAMES, OUTSIDE_NAME, bordered
from tests.interop.scene import FOREIGN, HOME

ALICE = f"alice@{HOME}"


def head(event: Event) -> str:
    """Return the head of a message on the wire."""
    text: str = event["text"]
    return text.partition("\r\n\r\n")[0]


class EdgeTests(SynchronousTestCase):
    """Each test has a far user of its own."""

    def setUp(self) -> None:
        self.scene = bordered()
        self.edge, self.far, self.alice = self.scene.edge, self.scene.far, self.scene.alice
        self.begin = self.far.position
        self.alice_begin = self.alice.position

    def tearDown(self) -> None:
        self.assertEqual(self.far.seen(self.begin, event="violation"), [])

    def far_does(self, do: str, who: str, wanted: int, to: str = ALICE, **details: str) -> None:
        """Let a far user do something; the answer must have the wanted status."""
        since = self.far.position
        number = self.far.send(do, **{"from": who, "to": to, **details})
        done = self.far.expect(since, 30, event="done", id=number)
        self.assertEqual(done["status"], wanted, done)

    def wire(self, direction: str, begins: str, contains: str, since: int) -> Event:
        """Return a message that the far side has sent or received."""

        def fits(text: str) -> bool:
            return text.startswith(begins) and contains in text

        return self.far.expect(since, event="wire", direction=direction, text=fits)

    def test_im_inward(self) -> None:
        """A session from outside reaches the node, which answers in it; only public addresses show."""
        self.far_does("im", "romeo", 200, text="But soft")
        self.alice.expect(
            self.alice_begin, event="message", body="But soft", sender=f"romeo@{FOREIGN}"
        )
        answer = self.wire("received", "SIP/2.0 200", "INVITE", self.begin)["text"]
        public = f"{OUTSIDE_NAME}:{self.edge.returns[0]}"
        self.assertRegex(answer, rf"Contact: <sip:\S*{public};transport=tls")
        since = self.far.position
        self.alice.send("message", to=f"romeo@{FOREIGN}", body="Who's there?")
        self.far.expect(since, event="im", sender=ALICE, text="Who's there?")
        for event in self.far.seen(self.begin, event="wire", direction="received"):
            self.assertNotIn(NODE_NAMES[0], head(event))

    def test_im_outward(self) -> None:
        """A node's session goes out through the edge under its public address, and back into it."""
        self.alice.send("message", to=f"paris@{FOREIGN}", body="Good morrow")
        self.far.expect(self.begin, event="im", sender=ALICE, text="Good morrow")
        invite = self.wire("received", "INVITE", f"paris@{FOREIGN}", self.begin)["text"]
        self.assertIn(f"SIP/2.0/TLS {OUTSIDE_NAME}:{self.edge.port};branch=", invite)
        self.assertIn(f"SIP/2.0/TLS {OUTSIDE_NAME}:{self.edge.returns[0]};branch=", invite)
        self.assertNotIn(NODE_NAMES[0], invite.partition("\r\n\r\n")[0])
        self.far_does("im", "paris", 200, text="Happily met")
        self.alice.expect(self.alice_begin, event="message", body="Happily met")
