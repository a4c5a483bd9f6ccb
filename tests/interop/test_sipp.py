"""SIPp, an independent SIP implementation, in IM sessions and subscriptions with the node."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import Talker
from tests.interop.scene import HOME, Scene, scene
from tests.interop.sipp import Outcome

ALICE = f"alice@{HOME}"


def bare(address: str) -> object:
    """Return a matcher for events from an address, whatever its resource."""
    return lambda sender: sender.partition("/")[0] == address


class SippCase(SynchronousTestCase):
    """What every case here needs."""

    name = "tls"

    def setUp(self) -> None:
        self.scene: Scene = scene(self.name)
        self.alice: Talker = self.scene.alice

    def went_well(self, outcome: Outcome, calls: int = 1) -> None:
        """Exit code and both counts are right."""
        seen = (outcome.code, outcome.successful, outcome.failed)
        self.assertEqual(seen, (0, calls, 0), f"{outcome.log}\n{outcome.trouble}")


class Sessions(SippCase):
    """IM sessions in mutual TLS, through our Prosody module."""

    def test_a_session_from_outside(self) -> None:
        """A text that SIPp sends reaches alice, and her answer uses the same session."""
        tybalt, since = "tybalt@lync.example", self.alice.position
        caller = self.scene.call("caller", tybalt, ALICE)
        text = self.alice.expect(since, event="message", sender=bare(tybalt))
        self.assertEqual(text["body"], "hello 1 from sipp")
        self.alice.send("message", to=tybalt, body="Peace? I hate the word")
        outcome = caller.finish()
        self.went_well(outcome)
        self.assertEqual(outcome.logged("GOT"), ["Peace? I hate the word"])

    def test_a_session_from_inside(self) -> None:
        """Alice's first text opens a session with SIPp, whose answer reaches her."""
        paris, since = "paris@lync.example", self.alice.position
        answerer = self.scene.answer("answerer", paris)
        self.alice.send("message", to=paris, body="What must be shall be – Ça ira")
        outcome = answerer.finish()
        self.went_well(outcome)
        self.assertEqual(outcome.logged("GOT"), ["What must be shall be – Ça ira"])
        answer = self.alice.expect(since, event="message", sender=bare(paris))
        self.assertEqual(answer["body"], "answer 1 from sipp")

    def test_who_does_not_exist(self) -> None:
        """An INVITE to somebody whom the home server does not know gets 404."""
        self.went_well(self.scene.call("nobody", "a@lync.example", f"nobody@{HOME}").finish())

    def test_a_call(self) -> None:
        """An audio offer gets 488 with a Warning."""
        outcome = self.scene.call("call", "b@lync.example", ALICE).finish()
        self.went_well(outcome)
        self.assertEqual(len(outcome.logged("Warning")), 1)

    def test_a_dialog_that_is_gone(self) -> None:
        """A MESSAGE in an unknown dialog gets 481, so that the peer opens a new session."""
        self.went_well(self.scene.call("stale", "c@lync.example", ALICE).finish())

    def test_a_heartbeat(self) -> None:
        """OPTIONS gets 200 and says what is allowed."""
        outcome = self.scene.call("options", "d@lync.example", HOME).finish()
        self.went_well(outcome)
        for method in ("INVITE", "MESSAGE", "SUBSCRIBE", "NOTIFY", "BYE"):
            self.assertIn(method, outcome.logged("Allow")[0])


class Subscriptions(SippCase):
    """Presence in mutual TLS, through our Prosody module."""

    def test_a_watcher(self) -> None:
        """SIPp sees pending, then the state, a full NOTIFY after its refresh, and the end."""
        benvolio, since = "benvolio@lync.example", self.alice.position
        watcher = self.scene.call("watcher", benvolio, ALICE)
        self.alice.expect(since, event="asked", sender=benvolio)
        self.alice.send("approve", to=benvolio)
        outcome = watcher.finish()
        self.went_well(outcome)
        states = [state.partition(";")[0] for state in outcome.logged("Subscription-State")]
        self.assertEqual(states, ["pending", "active", "active", "terminated"])
        self.assertEqual(
            outcome.logged("DOCUMENT")[:3],
            ["<basic>closed</basic>", "<basic>open</basic>", "<basic>open</basic>"],
        )

    def test_a_presentity(self) -> None:
        """Alice sees SIPp's states, and her subscription is refreshed before it runs out."""
        nurse, since = "nurse@lync.example", self.alice.position
        presentity = self.scene.answer("presentity", nurse, keys={"expires": "60"}, timeout=90)
        self.alice.send("subscribe", to=nurse)
        self.alice.expect(since, event="presence", sender=nurse, kind="available", show="")
        busy = self.alice.expect(since, event="presence", sender=nurse, show="away", status="Busy")
        after = self.alice.events.index(busy, since)
        outcome = presentity.finish(100)
        self.went_well(outcome)
        self.assertEqual(outcome.logged("Accept"), ["application/pidf+xml"])
        self.assertEqual(outcome.logged("Expires"), ["7200", "7200"])
        self.alice.expect(after, event="presence", sender=nurse, kind="available", show="")


class PlainComponent(Sessions):
    """The same sessions with one XEP-0114 component for the foreign domain."""

    name = "tls-component"


class Datagrams(SippCase):
    """A SIMPLE domain over UDP, where requests are repeated until they are answered."""

    name = "udp"

    test_a_session_from_outside = Sessions.test_a_session_from_outside
    test_a_session_from_inside = Sessions.test_a_session_from_inside
    test_a_dialog_that_is_gone = Sessions.test_a_dialog_that_is_gone

    def test_a_page(self) -> None:
        """A MESSAGE outside a session is taken from a SIMPLE domain and reaches alice."""
        mercutio, since = "mercutio@lync.example", self.alice.position
        outcome = self.scene.call("page", mercutio, ALICE).finish()
        self.went_well(outcome)
        text = self.alice.expect(since, event="message", sender=bare(mercutio))
        self.assertEqual(text["body"], "page 1 from sipp")
