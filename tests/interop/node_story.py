"""Stories of a whole node, told for every home server alike.

The home server, the node and the far side are started once for each kind of home server and stay up
until the tests end; each test has local users of its own.
"""

from __future__ import annotations

import io
import json
import shutil
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from demo.ladder import Ladder
from demo.parts import PartFailed, Talker, wait_until
from demo.run import Stage
from demo.story import ROMEO, STORY, Cast
from tests.interop.control import operator
from tests.interop.once import started_once
from tests.interop.scene import HOME, RUN

#: Users of the home server beside those of the demo, one or more for each test.
PEOPLE = ("abram", "balthasar", "benvolio", "friar", "gregory", "juliet", "lady", "mercutio", "nurse", "paris",
          "prince", "rosaline", "sampson")  # fmt: skip


@started_once(lambda found: found[0].stack.close())
def _started(home: str) -> tuple[Stage, Cast]:
    directory = RUN / f"node-{home}"
    shutil.rmtree(directory, ignore_errors=True)
    stage = Stage(directory, Ladder("romeo", io.StringIO()), home, 1.5)
    stage.home.users |= dict.fromkeys(PEOPLE, "a plague")
    try:
        return stage, stage.start()
    except PartFailed:
        stage.stack.close()
        raise


class NodeCase(SynchronousTestCase):
    """One stage for all tests with the same home server.

    :ivar home: one of ``demo.run.HOMES``.
    """

    home = "prosody"

    def setUp(self) -> None:
        self.stage, self.cast = _started(self.home)
        self.far = self.cast.far
        self._begin = self.far.position
        part = self.stage.node.part
        if part is None or not part.alive:  # a test before this one has failed half-way
            self.stage.node.start()

    def tearDown(self) -> None:
        self.assertEqual(self.far.seen(self._begin, event="violation"), [])

    def someone(self, name: str, answer: str = "") -> Talker:
        """Log a user in, who leaves when the test ends.

        :param answer: "approve" or "decline": his client answers every question so by itself.
        """
        user = self.stage.log_in(name)
        self.addCleanup(user.stop)
        if answer:
            user.send("answer", how=answer)
            user.expect(event="answers")
        return user

    def kill(self) -> None:
        """Kill the node, once what it was told last is on the disk: some milliseconds later."""
        self.assertTrue(wait_until(lambda: self._backlog() == 0))
        part = self.stage.node.part
        assert part is not None
        part.kill()
        part.process.wait()

    def restart(self) -> None:
        """Kill the node and start another one on the same state."""
        self.kill()
        self.stage.node.start()

    def _backlog(self) -> int:
        status = json.loads(self.operator("status", "--json").splitlines()[0])
        return int(status["store_backlog"])

    def operator(self, *words: str) -> str:
        """Run impfedctl; return what it says."""
        return operator(self.stage.node.socket, *words)

    def romeo(self, do: str, local: str, wanted: int = 200) -> list[tuple[str, str]]:
        """Have romeo do something; return the presence that he sees meanwhile.

        :return: subscription and state of each NOTIFY.
        """
        since = self.far.position
        self.cast.far_does(do, wanted, **{"from": "romeo", "to": f"{local}@{HOME}"})
        return self.sees(local, since)

    def sees(self, local: str, since: int) -> list[tuple[str, str]]:
        """Return what romeo has seen of somebody from a position on."""
        seen = self.far.seen(since, event="presence", sender=f"{local}@{HOME}")
        return [(event["subscription"], event["state"]) for event in seen]

    def expect(self, local: str, since: int, subscription: str, state: str) -> None:
        """Wait until romeo sees somebody so."""
        wanted = {"subscription": subscription, "state": state}
        self.far.expect(since, 20, event="presence", sender=f"{local}@{HOME}", **wanted)

    def not_asked_again(self, user: Talker) -> None:
        """Nobody has put more than one question to the user's client."""
        self.assertEqual(len(user.seen(event="asked")), 1)


class WholeStory:
    """The demo."""

    def test_story(self: Any) -> None:
        """Texts and presence both ways, typing, HTML, refusals: each is seen at the far end."""
        for step in STORY:
            try:
                step.play(self.cast)
            except PartFailed as error:
                self.fail(f"{step.title}: {error}\n{self.stage.tails()}")


class Survival:
    """What a node took over survives ``kill -9``: texts on their way and subscriptions."""

    def test_a_text_on_its_way(self: Any) -> None:
        """A text that waits for a late 200 when the node is killed still arrives."""
        juliet, since = self.someone("juliet"), self.far.position
        juliet.send("message", to=ROMEO, body="Stony limits cannot hold love out")
        self.far.expect(since, event="session", sender=f"juliet@{HOME}")
        self.restart()
        self.far.expect(since, 60, event="im", text="Stony limits cannot hold love out")

    def test_subscriptions(self: Any) -> None:
        """Both directions' subscriptions come back live and catch up with what was missed."""
        far, nurse = self.far, self.someone("nurse")
        self.romeo("subscribe", "nurse")
        nurse.expect(event="asked", sender=ROMEO)
        since = far.position
        nurse.send("approve", to=ROMEO)
        self.expect("nurse", since, "active", "available")
        self.cast.far_does("presence", 200, **{"from": "romeo", "state": "available"})
        nurse.send("subscribe", to=ROMEO)
        nurse.expect(event="presence", sender=ROMEO, kind="available")
        self.kill()
        since = far.position
        nurse.send("presence", show="dnd")
        self.stage.node.start()
        self.expect("nurse", since, "active", "busy")
        since = nurse.position
        self.cast.far_does("presence", 200, **{"from": "romeo", "state": "away"})
        nurse.expect(since, 30, event="presence", sender=ROMEO, show="away")
        self.assertEqual(self.romeo("refresh", "nurse"), [("active", "busy")])


class Allowed:
    """*Allow without asking*, on a home server that lets the node approve."""

    def test_allow_without_asking(self: Any) -> None:
        """Who is allowed sees presence at once and its changes, and the client is asked nothing."""
        benvolio, since = self.someone("benvolio"), self.far.position
        self.operator("policy", f"benvolio@{HOME}", "allow", "lync.example")
        self.romeo("subscribe", "benvolio")
        self.expect("benvolio", since, "active", "available")
        benvolio.send("presence", show="away")
        self.expect("benvolio", since, "active", "away")
        self.restart()
        self.assertEqual(self.romeo("refresh", "benvolio"), [("active", "away")])
        self.assertEqual(benvolio.seen(event="asked"), [])


class Degraded:
    """*Allow without asking*, on a home server that lets the node approve nobody."""

    def test_allowed_but_asked(self: Any) -> None:
        """The user is asked, and the log says why."""
        gregory, since = self.someone("gregory"), self.far.position
        self.operator("policy", f"gregory@{HOME}", "allow", "lync.example")
        self.romeo("subscribe", "gregory")
        gregory.expect(event="asked", sender=ROMEO)
        gregory.send("approve", to=ROMEO)
        self.expect("gregory", since, "active", "available")
        log = (self.stage.node.directory / "node.log").read_text()
        self.assertIn(f"allow_degraded gregory@{HOME} allows {ROMEO} without asking", log)


class Answers:
    """What a watcher sees of those who accept at once, late, not, and never."""

    def test_at_once(self: Any) -> None:
        """A client that accepts by itself: the watcher sees the user, and later without asking."""
        mercutio, since = self.someone("mercutio", "approve"), self.far.position
        self.romeo("subscribe", "mercutio")
        self.expect("mercutio", since, "active", "available")
        first, *others = self.sees("mercutio", since)
        self.assertEqual(first, ("pending", "offline"))
        self.assertEqual(set(others), {("active", "available")})
        self.restart()
        self.assertEqual(self.romeo("refresh", "mercutio"), [("active", "available")])
        self.assertEqual(self.romeo("unsubscribe", "mercutio")[-1][0], "terminated")
        since = self.far.position
        again = self.romeo("subscribe", "mercutio")
        self.assertEqual({subscription for subscription, _ in again}, {"active"})
        self.expect("mercutio", since, "active", "available")
        self.not_asked_again(mercutio)

    def test_late(self: Any) -> None:
        """Until the user accepts the watcher is told pending, after a restart too."""
        paris, since = self.someone("paris"), self.far.position
        self.romeo("subscribe", "paris")
        paris.expect(event="asked", sender=ROMEO)
        paris.send("presence", show="dnd")
        self.romeo("refresh", "paris")
        self.restart()
        self.romeo("refresh", "paris")
        self.assertEqual(set(self.sees("paris", since)), {("pending", "offline")})
        since = self.far.position
        paris.send("approve", to=ROMEO)
        self.expect("paris", since, "active", "busy")
        self.assertEqual(self.romeo("refresh", "paris"), [("active", "busy")])
        self.not_asked_again(paris)

    def test_declined(self: Any) -> None:
        """A declined watcher sees an offline user from then on, whatever happens."""
        prince, since = self.someone("prince", "decline"), self.far.position
        self.romeo("subscribe", "prince")
        self.expect("prince", since, "active", "offline")
        self.assertEqual(self.sees("prince", since)[0], ("pending", "offline"))
        since = self.far.position
        prince.send("presence", show="away")
        self.romeo("refresh", "prince")
        self.restart()
        self.romeo("refresh", "prince")
        self.romeo("unsubscribe", "prince")
        self.romeo("subscribe", "prince")
        self.romeo("refresh", "prince")
        seen = set(self.sees("prince", since)) - {("terminated", "offline"), ("terminated", "")}
        self.assertEqual(seen, {("active", "offline")})
        self.not_asked_again(prince)

    def test_never(self: Any) -> None:
        """A question that nobody answers stands; the home server puts it again at each login."""
        lady, since = self.someone("lady"), self.far.position
        self.romeo("subscribe", "lady")
        lady.expect(event="asked", sender=ROMEO)
        self.restart()
        self.romeo("refresh", "lady")
        self.romeo("unsubscribe", "lady")
        self.romeo("subscribe", "lady")
        self.romeo("refresh", "lady")
        seen = set(self.sees("lady", since)) - {("terminated", "offline"), ("terminated", "")}
        self.assertEqual(seen, {("pending", "offline")})
        self.not_asked_again(lady)
        lady.stop()
        lady = self.someone("lady")
        lady.expect(event="asked", sender=ROMEO)
        self.romeo("refresh", "lady")
        since = self.far.position
        lady.send("approve", to=ROMEO)
        self.expect("lady", since, "active", "available")
        self.not_asked_again(lady)

    def test_offline(self: Any) -> None:
        """Whoever is not there is asked when he comes, and then sees nothing of it any more."""
        since = self.far.position
        self.romeo("subscribe", "rosaline")
        self.assertEqual(self.sees("rosaline", since), [("pending", "offline")])
        rosaline = self.someone("rosaline")
        rosaline.expect(event="asked", sender=ROMEO)
        rosaline.send("approve", to=ROMEO)
        self.expect("rosaline", since, "active", "available")
        rosaline.stop()
        self.expect("rosaline", since, "active", "offline")
        self.not_asked_again(rosaline)
        self.assertEqual(self.someone("rosaline").seen(event="asked"), [])

    def test_while_the_node_is_away(self: Any) -> None:
        """An answer given while no node runs counts once there is one again."""
        balthasar = self.someone("balthasar")
        self.romeo("subscribe", "balthasar")
        balthasar.expect(event="asked", sender=ROMEO)
        self.kill()
        balthasar.send("approve", to=ROMEO)
        pushed = balthasar.expect(event="wire", text=lambda text: 'subscription="from"' in text)
        self.assertIn(ROMEO, pushed["text"])
        since = self.far.position
        self.stage.node.start()
        self.expect("balthasar", since, "active", "available")
        self.not_asked_again(balthasar)

    def test_declined_while_the_node_is_away(self: Any) -> None:
        """A no that no node heard leaves the question open, so it is put once more, and then closed."""
        abram = self.someone("abram")
        self.romeo("subscribe", "abram")
        abram.expect(event="asked", sender=ROMEO)
        self.kill()
        since = abram.position
        abram.send("decline", to=ROMEO)
        abram.expect(since, event="wire", direction="sent")
        abram.send("ping")
        abram.expect(since, event="pong")
        self.stage.node.start()
        abram.expect(since, event="asked", sender=ROMEO)
        self.assertEqual(self.romeo("refresh", "abram"), [("pending", "offline")])
        seen = self.far.position
        abram.send("decline", to=ROMEO)
        self.expect("abram", seen, "active", "offline")

    def test_taken_back_while_the_node_is_away(self: Any) -> None:
        """Whoever takes his answer back while no node runs is offline once there is one again."""
        sampson, since = self.someone("sampson", "approve"), self.far.position
        self.romeo("subscribe", "sampson")
        self.expect("sampson", since, "active", "available")
        self.kill()
        sampson.send("decline", to=ROMEO)
        sampson.expect(event="wire", text=lambda text: 'subscription="none"' in text)
        since = self.far.position
        self.stage.node.start()
        self.expect("sampson", since, "active", "offline")
        self.not_asked_again(sampson)
