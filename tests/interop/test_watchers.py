"""SIPp watches people whose clients (slixmpp, on Prosody) say yes, late, no, or nothing."""

from __future__ import annotations

from demo.parts import wait_until
from tests.interop.scene import HOME
from tests.interop.sipp import Outcome, Sipp
from tests.interop.test_sipp import SippCase

ALICE = f"alice@{HOME}"
CLOSED, OPEN = "<basic>closed</basic>", "<basic>open</basic>"


def states(outcome: Outcome) -> list[str]:
    """Return the first words of the Subscription-States."""
    return [state.partition(";")[0] for state in outcome.logged("Subscription-State")]


class MicrosoftWatchers(SippCase):
    """A domain of kind ``microsoft`` over mutual TLS."""

    name = "tls"
    #: What a pending NOTIFY of this kind carries.
    neutral = CLOSED

    def begin(self, scenario: str, who: str) -> Sipp:
        """Start a watcher and wait until alice has been asked."""
        since = self.alice.position
        watcher = self.scene.call(scenario, who, ALICE)
        self.alice.expect(since, event="asked", sender=who)
        return watcher

    def documents(self, outcome: Outcome) -> list[str]:
        """Return what the NOTIFYs before the last carried."""
        return [line.strip() for line in outcome.logged("DOCUMENT")][:-1]

    def test_microsoft_dialect(self) -> None:
        """The long Accept list and the extensions of Microsoft: plain answers, and the state."""
        watcher = self.begin("watcher_lync", f"lysander.{self.name}@lync.example")
        self.alice.send("approve", to=f"lysander.{self.name}@lync.example")
        outcome = watcher.finish()
        self.went_well(outcome)
        self.assertEqual(states(outcome), ["pending", "active", "active", "terminated"])
        self.assertEqual(self.documents(outcome), [self.neutral, OPEN, OPEN])
        self.assertEqual(outcome.logged("Expires"), ["7200", "7200", "0"])
        self.assertEqual("".join(outcome.logged("Supported")), "")

    def test_late_yes(self) -> None:
        """Who says yes after the watcher has refreshed shows the state at once."""
        who = f"hermia.{self.name}@lync.example"
        watcher = self.begin("watcher_late", who)
        refreshed = wait_until(lambda: len(watcher.lines("Expires")) == 2)
        self.assertTrue(refreshed)
        self.alice.send("approve", to=who)
        outcome = watcher.finish()
        self.went_well(outcome)
        self.assertEqual(states(outcome), ["pending", "pending", "active", "terminated"])
        self.assertEqual(self.documents(outcome), [self.neutral, self.neutral, OPEN])

    def test_no(self) -> None:
        """Who says no is offline for the watcher, politely, and is not asked again."""
        who = f"demetrius.{self.name}@lync.example"
        watcher = self.begin("watcher_declined", who)
        self.alice.send("decline", to=who)
        outcome = watcher.finish()
        self.went_well(outcome)
        self.assertEqual(states(outcome), ["pending", "active", "active", "terminated"])
        self.assertEqual(self.documents(outcome), [self.neutral, CLOSED, CLOSED])
        asked = len(self.alice.seen(event="asked", sender=who))
        again = self.scene.call("watcher_declined", who, ALICE)
        again.stop()
        self.assertEqual(len(self.alice.seen(event="asked", sender=who)), asked)

    def test_nothing(self) -> None:
        """Who never answers stays pending for the watcher, refresh after refresh."""
        outcome = self.begin("watcher_unanswered", f"puck.{self.name}@lync.example").finish()
        self.went_well(outcome)
        self.assertEqual(states(outcome), ["pending", "pending", "terminated"])
        self.assertEqual(self.documents(outcome), [self.neutral, self.neutral])


class SimpleWatchers(MicrosoftWatchers):
    """A domain of kind ``simple`` over TCP: pending says nothing at all."""

    name = "tcp"
    neutral = ""
