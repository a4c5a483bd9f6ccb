"""What the nodes of a cluster tell home servers, whichever holds the link: last words on a fake clock."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import HomeConfig
from impfed.core.ids import IdSource
from impfed.gateway.cluster_home import ClusterHome, ToHome, Told
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.barrier import Delivery, Outcome
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, error_reply, message, presence, read_stanza


class Link:
    """One of them."""

    up = False


class Links:
    """The node's own links, which are up or not."""

    def __init__(self) -> None:
        self.up = False
        self.sent: list[str] = []

    def link(self, local: str, foreign: str) -> None:
        return None

    def send(self, stanza: OutStanza) -> bool:
        if self.up:
            self.sent.append(stanza.answers)
        return self.up

    def deliver(self, stanza: OutStanza, done: Any) -> None:
        self.sent.append(stanza.id)


class Post:
    """The cluster."""

    def __init__(self) -> None:
        self.may_act = self.full = False
        self.sent: list[bytes] = []

    def send(self, pair: object, payload: bytes, *, presence: bool = False) -> bool:
        self.sent.append(payload)
        return True

    def stuck(self, pair: object) -> bool:
        return self.full

    def waits(self, pair: object) -> bool:
        return False


def text(number: int) -> Stanza:
    """Return a text that a home server has handed over."""
    stanza = read_stanza(
        f"<message from='alice@home.example' to='bob@lync.example' id='m{number}' type='chat'>"
        "<body>hi</body></message>"
    )
    stanza.handed = f"Q:{number}"
    return stanza


class HomeCase(SynchronousTestCase):
    """A node that does not hold the link of its home server."""

    def setUp(self) -> None:
        self.links, self.post = Links(), Post()
        home = HomeConfig("home", "prosody", ("home.example",), "127.0.0.1", 5347, "secret")
        self.clock = Clock()
        timers = ReactorTimers(cast(Any, self.clock))
        self.home = ClusterHome(
            cast(Any, self.links), [home], timers, IdSource(), acceptance=20.0, node="node1"
        )
        self.home.post = self.post
        self.home.seen(["home"])


class LastWords(HomeCase):
    """A text could not be kept while this node saw nobody: its sender is told all the same."""

    def setUp(self) -> None:
        super().setUp()
        self.refusals = [error_reply(text(number), "resource-constraint") for number in (1, 2)]

    def test_over_its_connection(self) -> None:
        """What came by a connection of this node's is returned by it at once; nothing else passes."""
        self.links.up = True
        self.home.held.add("home")
        self.assertTrue(self.home.send(self.refusals[0]))
        self.assertFalse(self.home.send(self.refusals[1]._replace(answers="")))
        self.assertEqual(self.links.sent, ["Q:1"])

    def test_later(self) -> None:
        """What came from another node is returned when this one acts again, in order."""
        for refusal in self.refusals:
            self.assertTrue(self.home.send(refusal))
        self.assertEqual(self.post.sent, [])
        self.post.may_act = True
        self.home.may_act_again()
        self.assertEqual([b"'m1'" in self.post.sent[0], b"'m2'" in self.post.sent[1]], [True, True])
        self.home.may_act_again()
        self.assertEqual(len(self.post.sent), 2)

    def test_until_it_is_told(self) -> None:
        """It is told again until a home server has it: the holder's link may just have gone."""
        self.post.may_act = True
        self.assertTrue(self.home.send(self.refusals[0]))
        for number, outcome in enumerate((Outcome.NOT_SENT, Outcome.UNSURE, Outcome.ACCEPTED), 1):
            self.assertEqual(len(self.post.sent), number)
            errand = msgspec.msgpack.decode(self.post.sent[-1], type=ToHome)
            self.assertIn("'m1'", errand.xml)
            self.home.letter(Told(errand.number, outcome.value, "", "", ""))
            self.clock.pump([1.0] * 6)
        self.assertEqual(len(self.post.sent), 3)

    def test_never(self) -> None:
        """When others have taken over, they handle it again, and this node says nothing."""
        self.home.send(self.refusals[0])
        self.home.drop()
        self.post.may_act = True
        self.home.may_act_again()
        self.assertEqual(self.post.sent, [])

    def test_taken_over_meanwhile(self) -> None:
        """What was under way when others took over is not told again, either."""
        self.post.may_act = True
        self.home.send(self.refusals[0])
        self.home.drop()
        self.clock.pump([5.0] * 10)
        self.assertEqual(len(self.post.sent), 1)


class StuckPost(HomeCase):
    """Letters to the holder of the link do not leave this node: the store takes nothing."""

    def test_refused_at_once(self) -> None:
        """A text from outside is refused before it is taken, and is not delivered later."""
        self.post.may_act = self.post.full = True
        self.assertTrue(self.home.congested("home.example"))
        told: list[Delivery] = []
        alice, bob = JID.parse("alice@home.example"), JID.parse("bob@lync.example")
        self.home.deliver(message(alice, bob, id="x", body="hi"), told.append)
        self.assertEqual([each.outcome for each in told], [Outcome.NOT_SENT])
        self.assertEqual(self.post.sent, [])
        self.post.full = False
        self.assertFalse(self.home.congested("home.example"))


class MovingLink(HomeCase):
    """The link is to be held by this node, and not up yet."""

    def setUp(self) -> None:
        super().setUp()
        self.post.may_act = True
        self.home.held.add("home")
        self.link = Link()
        self.links.link = lambda local, foreign: self.link  # type: ignore[method-assign,assignment]

    def test_text_behind_presence(self) -> None:
        """A text is not refused because the presence of thousands waits for the link already."""
        one = presence(JID.parse("alice@home.example"), JID.parse("bob@lync.example"))
        waiting = 0
        while self.home.send(one):
            waiting += 1
        self.assertGreater(waiting, 5_000)  # each of a node's subscriptions, where it has as many
        told: list[Delivery] = []
        self.home.deliver(message(one.to, one.from_, id="m1", body="hi"), told.append)
        self.assertEqual((told, self.home.under_way), ([], waiting + 1))
        self.links.up = self.link.up = True
        self.home.came_up("home", self.link)
        self.assertEqual((len(self.links.sent), self.home.under_way), (waiting + 1, 0))
