"""What a home server's module keeps until the node has it, line by line on a fake clock."""

from __future__ import annotations

import re
from collections.abc import Callable

from twisted.trial import unittest

from impfed.transport.handover import GATHER, LAST, HandedOver, ranges
from impfed.xmpp.stanza import Stanza, error_reply
from tests.transport.home_case import DIRECTORY, HomeCase, Wire

HANDOVER = "urn:xmpp:impfed:handover:0"


class HandOverTests(HomeCase):
    """Numbers in, acknowledgements out."""

    def setUp(self) -> None:
        super().setUp()
        self.pending: list[tuple[str, Callable[[], None]]] = []
        self.at_once = True
        self.handed: list[str] = []
        self.gateway.hook = lambda stanza: self.handed.append(stanza.handed)

    def settle(self, done: Callable[[], None], foreign: str) -> None:
        if self.at_once:
            done()
        else:
            self.pending.append((foreign, done))

    def greet(self, ability: str = f"<can name='{HANDOVER}' queue='Q'/>") -> Wire:
        """Bring the newest attempt up with a module that can do this."""
        wire = self.open_unread()
        written = wire.take()
        found = re.search(r"id='(d[0-9a-f]+)'", written)
        assert found, written
        self.assertIn(" acknowledges='true' limit='262144'", written)
        self.say(
            f"<iq type='result' id='{found[1]}' from='federation.home.example'"
            f" to='federation.home.example'><query xmlns='{DIRECTORY}'>{ability}"
            "<host name='home.example'/><host name='second.example'/></query></iq>"
        )
        return wire

    def begin(self, **changes: str) -> Wire:
        self.links.startService()
        return self.greet(**changes)

    def text(self, number: int, to: str = "bob@lync.example", type: str = "chat") -> str:
        return (
            f"<message n='{number}' from='alice@home.example/x' to='{to}' id='m{number}'"
            f" type='{type}'><body>hi</body></message>"
        )

    def acks(self, seconds: float = GATHER) -> list[str]:
        """Let acknowledgements gather; return the numbers in what was written."""
        self.reactor.advance(seconds)
        return re.findall(rf"<a xmlns='{HANDOVER}' n='([^']*)'/>", self.turn())

    def test_acknowledged_together(self) -> None:
        """What comes within a moment is acknowledged by one element, and the number goes no further."""
        self.begin()
        self.gateway.hook = lambda stanza: self.assertNotIn(" n=", stanza.to_xml())
        self.say("".join(self.text(number) for number in (1, 2, 3)))
        self.say(self.text(7))
        self.assertEqual(self.acks(0), [])
        self.assertEqual(self.links.status()[0]["unacknowledged"], 4)
        self.assertEqual(self.acks(), ["1-3 7"])
        self.assertEqual(self.links.status()[0]["unacknowledged"], 0)
        self.assertEqual(self.acks(10), [])
        self.assertEqual(self.links.status()[0]["hand_over"], "acknowledged")

    def test_many_at_once(self) -> None:
        """Much is acknowledged before the moment is over."""
        self.begin()
        self.say("".join(self.text(number) for number in range(1, 301)))
        self.assertEqual(self.acks(0), ["1-256"])
        self.assertEqual(self.acks(), ["257-300"])

    def test_only_when_safe(self) -> None:
        """Nothing is acknowledged before it would survive us; one slow domain holds up no other."""
        self.at_once = False
        self.begin()
        self.say(self.text(1) + self.text(2, "juliet@simple.example") + self.text(3))
        self.assertEqual(self.acks(), [])
        waiting = dict(self.pending)
        waiting["simple.example"]()
        self.assertEqual(self.acks(0), ["2"])
        waiting["lync.example"]()
        self.assertEqual(self.acks(0), ["1 3"])

    def test_returned(self) -> None:
        """What its sender has had back is acknowledged with that, whatever else is not safe yet."""
        self.begin()
        self.at_once = False
        back: list[Stanza] = []
        self.gateway.hook = back.append
        self.say(self.text(1) + self.text(2))
        self.links.send(error_reply(back[1], "resource-constraint", "wait"))
        written = self.turn()
        self.assertLess(
            written.index("type='error'"), written.index(f"<a xmlns='{HANDOVER}' n='2'/>")
        )
        self.say(self.text(3))
        self.lose()
        self.reactor.advance(1)
        self.greet(f"<can name='{HANDOVER}' queue='R'/>")
        self.links.send(error_reply(back[2], "resource-constraint", "wait"))
        self.assertEqual(self.acks(), [])

    def test_everything_counts(self) -> None:
        """Presence, questions, and stanzas that are refused or cannot be read are acknowledged, too."""
        self.begin()
        self.say(
            "<presence n='1' from='alice@home.example/x' to='bob@lync.example'/>"
            "<iq n='2' type='get' id='q' from='alice@home.example/x' to='lync.example'/>"
            "<message n='3' from='eve@elsewhere.example' to='bob@lync.example'/>"
            "<message n='4' from='alice@home.example/x' to='@@'/>"
        )
        self.assertEqual(" ".join(self.acks()), "1-3 4")

    def test_answers_before(self) -> None:
        """What a stanza is answered with is written before its acknowledgement."""
        wire = self.begin()
        self.say(self.text(1, "bob@unknown.example"))
        self.reactor.advance(GATHER)
        self.reactor.advance(0)
        written = wire.take()
        self.assertLess(written.index("type='error'"), written.index("<a xmlns"))

    def test_comes_again(self) -> None:
        """After a cut a text has the same mark as before; what cannot be answered is not handled twice."""
        self.begin()
        self.say(self.text(1) + self.text(2, type="error"))
        self.assertEqual(self.handed, ["Q:1", "Q:2"])
        self.lose()
        self.reactor.advance(1)
        self.greet()
        self.say(self.text(1) + self.text(2, type="error") + self.text(3, type="error"))
        self.assertEqual(self.handed, ["Q:1", "Q:2", "Q:1", "Q:3"])
        self.assertEqual(self.acks(), ["1-3"])

    def test_another_queue(self) -> None:
        """A home server that was started anew counts from one, and nothing is taken for known."""
        self.begin()
        self.say(self.text(1, type="error"))
        self.lose()
        self.reactor.advance(1)
        self.greet(f"<can name='{HANDOVER}' queue='R'/>")
        self.say(self.text(1, type="error"))
        self.assertEqual(self.handed, ["Q:1", "R:1"])

    def test_cut_before_safe(self) -> None:
        """What became safe after its connection broke is not acknowledged over another one."""
        self.at_once = False
        self.begin()
        self.say(self.text(1))
        self.assertEqual(self.acks(), [])
        self.lose()
        self.reactor.advance(1)
        self.greet()
        self.pending[0][1]()
        self.assertEqual(self.acks(), [])

    def test_old_module(self) -> None:
        """A module that gives no numbers gets no acknowledgements, whatever a client writes."""
        self.begin(ability="")
        self.say(self.text(5))
        self.assertEqual(self.handed, [""])
        self.assertEqual(self.acks(10), [])
        self.assertEqual(self.links.status()[0]["hand_over"], "not acknowledged")

    def test_stop(self) -> None:
        """A link that is closed acknowledges what it has taken first, and reads no more."""
        self.at_once = False
        wire = self.begin()
        self.say(self.text(1))
        self.links.stopService()
        self.assertEqual(wire.producerState, "paused")
        self.assertNotIn("</stream:stream>", wire.value().decode())
        self.pending[0][1]()
        self.assertIn(f"<a xmlns='{HANDOVER}' n='1'/></stream:stream>", wire.value().decode())

    def test_stop_in_vain(self) -> None:
        """What does not become safe does not hold up the end for long."""
        self.at_once = False
        wire = self.begin()
        self.say(self.text(1))
        self.links.stopService()
        self.reactor.advance(LAST)
        self.assertIn("</stream:stream>", wire.take())

    def test_held_again(self) -> None:
        """A link that is wanted again while it is being closed has one connection at a time."""
        self.at_once = False
        wire = self.begin()
        self.say(self.text(1))
        gone = [self.links.let_go("home")]
        self.links.hold("home")
        gone.append(self.links.let_go("home"))
        self.links.hold("home")
        self.assertEqual(self.attempts(), 1)
        self.reactor.advance(LAST)
        self.assertIn("</stream:stream>", wire.take())
        self.assertEqual(self.attempts(), 1)
        self.lose()
        self.assertEqual(self.attempts(), 2)
        for each in gone:
            self.successResultOf(each)
        self.at_once = True
        self.greet()
        self.say(self.text(1))
        self.assertEqual(self.acks(), ["1"])
        self.reactor.advance(20)
        self.assertEqual(self.attempts(), 2)


class SmallTests(unittest.SynchronousTestCase):
    """The parts."""

    def test_ranges(self) -> None:
        """Numbers are written as ranges."""
        self.assertEqual(ranges([5]), "5")
        self.assertEqual(ranges([1, 2, 3, 7, 9, 10]), "1-3 7 9-10")

    def test_marks(self) -> None:
        """A mark stands for what it became first; nothing is known of no mark, or of too old a one."""
        handed = HandedOver(limit=2)
        self.assertTrue(handed.add("", "a") and handed.add("", "b"))
        self.assertNotIn("", handed)
        self.assertTrue(handed.add("Q:1", "a"))
        self.assertTrue(handed.add("Q:1", "a"))
        self.assertFalse(handed.add("Q:1", "b"))
        handed.add("Q:2")
        handed.remove("Q:2")
        self.assertNotIn("Q:2", handed)
        handed.add("Q:3")
        handed.add("Q:4")
        self.assertNotIn("Q:1", handed)
        self.assertIn("Q:4", handed)
