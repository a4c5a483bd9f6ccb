"""Stories of a home server linked by S2S, told for every server and way of proving domains alike."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import PartFailed, Talker, wait_until
from demo.story import ROMEO, STORY
from tests.interop.home_streams import ADDRESS, ROOMS, VERONA, StreamScene
from tests.interop.rooms import Rooms
from tests.interop.scene import HOME

_STARTED: dict[str, StreamScene | PartFailed] = {}


def started(name: str, make: Callable[[], StreamScene]) -> StreamScene:
    """Return the scene of that name, started once.

    :raises PartFailed: it did not start, now or before.
    """
    if name not in _STARTED:
        try:
            _STARTED[name] = scene = make().start()
            atexit.register(scene.stage.stack.close)
        except PartFailed as error:
            _STARTED[name] = error
    found = _STARTED[name]
    if isinstance(found, PartFailed):
        raise PartFailed(str(found))
    return found


class StreamCase(SynchronousTestCase):
    """One scene for all tests of a kind."""

    scene: StreamScene

    def make(self) -> StreamScene:
        """Make the scene."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.scene = started(type(self).__name__, self.make)
        stage = self.scene.stage
        with self.scene.network.entered():
            if stage.node.part is None or not stage.node.part.alive:
                stage.node.start()

    def kill(self, part: Any) -> None:
        """Kill a part, without warning."""
        part.kill()
        part.process.wait(10)

    def again(self, name: str) -> Talker:
        """Log a local user in anew."""
        self.scene.talkers.pop(name).stop()
        return self.scene.local(name)

    def restart_home(self) -> None:
        """Start the home server again, and wait until the node is linked to it."""
        stage = self.scene.stage
        log = stage.node.directory / "node.log"
        before = log.read_bytes().count(b"impfed.home.link_up")
        with self.scene.network.entered():
            stage.home.start()
        if not wait_until(lambda: log.read_bytes().count(b"impfed.home.link_up") > before):
            raise PartFailed("the node is not linked to the home server")
        for name in [name for name in self.scene.talkers if "@" not in name]:
            self.again(name)
        self.scene.cast.alice = self.scene.local("alice")
        self.scene.cast.carol = self.scene.local("carol")


class Streams(Rooms):
    """What every home server linked by S2S does.

    :cvar acknowledges: whether it knows what a dead node has not taken from its connection.
    """

    acknowledges = True

    def test_story(self: Any) -> None:
        """The story of the demo, as with every other link: texts, presence, typing, refusals."""
        cast = self.scene.cast
        for step in STORY:
            step.play(cast)
        self.assertEqual(cast.far.seen(event="violation"), [])

    def test_foreign_xmpp(self: Any) -> None:
        """Texts, requests, states and questions pass to and from a foreign XMPP server."""
        juliet, romeo = self.scene.local("juliet"), self.scene.foreign("romeo")
        here, there = f"juliet@{HOME}", f"romeo@{VERONA}"
        romeo.send("message", to=here, body="It is my lady, O, it is my love! 😀")
        juliet.expect(event="message", body="It is my lady, O, it is my love! 😀")
        juliet.send("message", to=there, body="Ay me! <&>")
        romeo.expect(event="message", body="Ay me! <&>")
        for asker, other, to in ((romeo, juliet, here), (juliet, romeo, there)):
            asker.send("subscribe", to=to)
            asked = other.expect(event="asked")
            since = asker.position
            other.send("approve", to=asked["sender"])
            asker.expect(since, event="presence", sender=to, kind="subscribed")
            asker.expect(since, event="presence", sender=to, kind="available")
            since = asker.position
            other.send("presence", show="xa", status="In a meeting")
            asker.expect(since, event="presence", sender=to, show="xa", status="In a meeting")
        for asker, to in ((juliet, VERONA), (romeo, HOME)):
            since = asker.position
            ping = f"<iq to='{to}' type='get' id='q1'><ping xmlns='urn:xmpp:ping'/></iq>"
            asker.send("raw", xml=ping)
            wire = asker.expect(
                since, event="wire", direction="received",
                text=lambda text: 'id="q1"' in (text or ""),
            )  # fmt: skip
            self.assertIn('type="result"', wire["text"])
        romeo.send("message", to=f"nobody@{HOME}", body="Is anybody there?", id="nobody")
        romeo.expect(event="refused", id="nobody", condition="service-unavailable")

    def test_room(self: Any) -> None:
        """A foreign user enters a room on the home server, found by the room domain's own SRV."""
        self.meet(self.scene.local("carol"), self.scene.foreign("romeo"), f"hall@{ROOMS}")

    def test_questions(self: Any) -> None:
        """The node answers for SIP domains and at its own address, and refuses what is not there."""
        juliet = self.scene.local("juliet")
        info = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
        for number, (to, payload, wanted) in enumerate(
            (
                ("lync.example", info, 'category="gateway"'),
                (ADDRESS, info, 'category="gateway"'),
                (ADDRESS, "<ping xmlns='urn:xmpp:ping'/>", 'type="result"'),
                (ROMEO, "<vCard xmlns='vcard-temp'/>", "service-unavailable"),
            )
        ):
            since, id = juliet.position, f"own{number}"
            juliet.send("raw", xml=f"<iq to='{to}' type='get' id='{id}'>{payload}</iq>")
            wire = juliet.expect(
                since, event="wire", direction="received",
                text=lambda text, id=id: f'id="{id}"' in (text or ""),
            )  # fmt: skip
            self.assertIn(wanted, wire["text"])

    def test_home_killed(self: Any) -> None:
        """Every text that the far side was told delivered is there when the home server is back."""
        cast, stage, to = self.scene.cast, self.scene.stage, f"lady@{HOME}"
        sent = {}
        lady = self.scene.talkers.pop("lady", None)
        if lady is not None:
            lady.stop()
        for number in range(60):
            if number == 30:
                self.kill(stage.home.part)
            details = {"from": "romeo", "to": to, "text": f"text {number}"}
            sent[cast.far.send("im", **details)] = f"text {number}"
        done = {id: cast.far.expect(0, 60, event="done", id=id)["status"] for id in sent}
        self.restart_home()
        delivered = {text for id, text in sent.items() if done[id] == 200}
        lady = self.scene.local("lady")
        for text in delivered:
            lady.expect(event="message", body=text)
        self.assertLess(len(delivered), 60)
        cast.far_does("im", 200, **{"from": "romeo", "to": to, "text": "and now?"})
        lady.expect(event="message", body="and now?")

    def test_home_killed_under_xmpp(self: Any) -> None:
        """A foreign XMPP user's texts arrive or come back when the home server dies."""
        tybalt, stage = self.scene.foreign("tybalt"), self.scene.stage
        texts = [f"villain {number}" for number in range(40)]
        for number, text in enumerate(texts):
            if number == 20:
                self.kill(stage.home.part)
            tybalt.send("message", to=f"paris@{HOME}", body=text, id=text)
        self.restart_home()
        paris = self.scene.local("paris")
        self.arrived(texts, paris, tybalt)

    def test_node_killed(self: Any) -> None:
        """Texts of a local user arrive or come back when the node dies, to SIP and to XMPP."""
        stage, far = self.scene.stage, self.scene.cast.far
        nurse, benvolio = self.scene.local("nurse"), self.scene.foreign("benvolio")
        texts = [f"anon {number}" for number in range(40)]
        for number, text in enumerate(texts):
            if number == 20:
                far.expect(event="im", text=texts[3])
                self.kill(stage.node.part)
            nurse.send("message", to=ROMEO, body=text, id=text)
        with self.scene.network.entered():
            stage.node.start()
        nurse.send("message", to=ROMEO, body="anon!", id="anon!")
        self.arrived([*texts, "anon!"], far, nurse, slice(4, 40))
        texts = [f"I come {number}" for number in range(40)]
        for number, text in enumerate(texts):
            if number == 20:
                benvolio.expect(event="message", body=texts[3])
                self.kill(stage.node.part)
            nurse.send("message", to=f"benvolio@{VERONA}", body=text, id=text)
        with self.scene.network.entered():
            stage.node.start()
        nurse.send("message", to=f"benvolio@{VERONA}", body="Sir?", id="Sir?")
        self.arrived([*texts, "Sir?"], benvolio, nurse, slice(4, 40))

    def arrived(
        self: Any,
        texts: list[str],
        receiver: Talker,
        sender: Talker,
        written: slice = slice(0),
    ) -> None:
        """Wait until each text was received, or came back.

        :param written: those that may have been written to the connection when it broke, or just then.
        """
        if not self.acknowledges:
            texts = [text for text in texts if text not in texts[written]]

        def lost() -> list[str]:
            seen = {event.get("body", event.get("text")) for event in receiver.seen()
                    if event["event"] in ("message", "im")}  # fmt: skip
            seen |= {event["id"] for event in sender.seen(event="refused")}
            return [text for text in texts if text not in seen]

        wait_until(lambda: not lost())
        self.assertEqual(lost(), [])
