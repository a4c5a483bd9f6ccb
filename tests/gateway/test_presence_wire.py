"""The Microsoft wire samples of presence, each driven through the whole gateway.

The samples' own README says what a correct peer does.  In-dialog samples carry the samples' dialog
identifiers, which are replaced by those of the subscription at hand; nothing else is touched.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import HomeConfig, ListenerConfig
from impfed.routing.api import Existence
from impfed.sip.message import parse_message
from tests.gateway.harness import CONFIG
from tests.gateway.presence_world import PresenceWorld, state_of

SAMPLES = Path(__file__).parents[1] / "data" / "wire" / "lync"
JULIET, ROMEO = "juliet@impfed.example", "romeo@lync.example"
OURS = replace(
    CONFIG,
    homes=(HomeConfig("home", "component", ("impfed.example",)),),
    listeners=(ListenerConfig("federation", "tls", "0.0.0.0", 5061, "fed.impfed.example", 5061),),
)


def sample(name: str) -> bytes:
    """Return a sample's octets."""
    return (SAMPLES / f"{name}.sip").read_bytes()


class Wire(PresenceWorld):
    """Juliet at impfed.example, romeo behind a Microsoft edge."""

    def __init__(self) -> None:
        super().__init__(OURS)
        self.stack._address = ("fed.impfed.example", 5061)

    def receives(self, name: str, *changes: tuple[str, str]):
        """A sample arrives, with changes of octets; returns our answer, None if there is none."""
        octets = sample(name)
        for old, new in changes:
            assert old.encode() in octets, f"{name} has no {old}"
            octets = octets.replace(old.encode(), new.encode())
        before = len(self.stack.answers)
        self.stack.receive(octets, self.flow)
        return self.stack.answers[-1].message if len(self.stack.answers) > before else None

    def juliet(self, type: str, inner: str = "") -> None:
        """Juliet's server sends a presence stanza for romeo."""
        kind = f" type='{type}'" if type else ""
        sender = JULIET if type in ("subscribe", "subscribed", "probe") else f"{JULIET}/balcony"
        self.home_sends(f"<presence from='{sender}' to='{ROMEO}'{kind}>{inner}</presence>")

    def approved(self) -> None:
        """Juliet has let romeo see her, and is available."""
        self.juliet("subscribed")
        self.juliet("")
        self.settle()

    def watching_romeo(self):
        """Juliet has subscribed and romeo's server took it; returns the changes for samples."""
        self.juliet("subscribe")
        sent = self.stack.take("SUBSCRIBE")
        sent.answer(200, headers=[("Expires", "7200")], to_tag="8F0A1B2C3D4E")
        return (
            ("77c0ffee-0002-4a1b-impfed@fed.impfed.example", sent.message.call_id),
            ("tag=jf-55120", f"tag={sent.message.from_tag}"),
        )


class SubscribeSamples(SynchronousTestCase):
    """What a Microsoft edge sends to watch one of ours."""

    def setUp(self) -> None:
        self.world = Wire()

    def accepted(self, answer) -> None:
        """A 200 that switches on no extension of theirs."""
        self.assertEqual(answer.status, 200)
        self.assertEqual((answer.get("event"), answer.get("expires")), ("presence", "7200"))
        self.assertTrue(answer.to_tag)
        self.assertIsNotNone(answer.contact)
        self.assertIsNone(answer.get("supported"))
        self.assertIsNone(answer.get("require"))
        self.assertEqual(answer.body, b"")
        sample_vias = parse_message(sample("subscribe-in-initial")).get_all("via")
        self.assertEqual(answer.get_all("via"), sample_vias)
        self.assertEqual(len(answer.get_all("record-route")), 2)

    def test_first_ones(self) -> None:
        """Long Accept lists, Supported, Proxy-Require and a category body change nothing."""
        for name in ("initial", "lcs-benotify", "categorylist-body"):
            world = self.world = Wire()
            self.accepted(world.receives(f"subscribe-in-{name}"))
            pending = world.notify()
            self.assertEqual(pending.method, "NOTIFY")
            self.assertTrue(pending.get("subscription-state").startswith("pending;"))
            expected = parse_message(sample("notify-out-pending"))
            self.assertEqual(pending.uri_text, expected.uri_text)
            self.assertEqual(pending.values("route"), expected.values("route"))
            self.assertEqual(pending.to.uri_text, expected.to.uri_text)
            self.assertEqual(sorted(pending.to.params), sorted(expected.to.params))
            self.assertEqual(state_of(pending), state_of(expected))
            world.approved()
            shown = world.notify()
            self.assertEqual(shown.get("event"), "presence")
            self.assertEqual(shown.content_type.essence, "application/pidf+xml")
            self.assertEqual(state_of(shown), (True, "", ""), name)

    def test_batch(self) -> None:
        """A list subscription is 420, naming what we do not do."""
        answer = self.world.receives("subscribe-in-batch-require")
        expected = parse_message(sample("subscribe-420-out"))
        self.assertEqual(answer.status, 420)
        self.assertEqual(
            sorted(answer.values("unsupported")), sorted(expected.values("unsupported"))
        )
        self.assertEqual(self.world.home.sent, [])

    def test_refresh(self) -> None:
        """A refresh is 200 and a full NOTIFY; for a dialog that nobody knows it is 481."""
        unknown = self.world.receives("subscribe-in-refresh")
        self.assertEqual(unknown.status, 481)
        first = self.world.receives("subscribe-in-initial")
        self.world.notify()
        self.world.approved()
        self.world.notify()
        answer = self.world.receives("subscribe-in-refresh", ("impfed-p7", first.to_tag))
        self.assertEqual((answer.status, answer.get("expires")), (200, "7200"))
        self.assertIsNone(answer.get("supported"))
        self.assertEqual(state_of(self.world.notify()), (True, "", ""))

    def test_unsubscribe(self) -> None:
        """The end is 200 with Expires 0, then an empty NOTIFY terminated."""
        first = self.world.receives("subscribe-in-initial")
        self.world.notify()
        answer = self.world.receives("subscribe-in-unsubscribe", ("impfed-p7", first.to_tag))
        self.assertEqual((answer.status, answer.get("expires")), (200, "0"))
        last = self.world.notify()
        expected = parse_message(sample("notify-out-terminated"))
        self.assertEqual(last.get("subscription-state"), expected.get("subscription-state"))
        self.assertEqual(last.body, b"")
        self.assertEqual(self.world.presence.view(), [])

    def test_poll(self) -> None:
        """A poll is 200 and one NOTIFY: neutral for a stranger, the state for a friend."""
        world = self.world
        answer = world.receives("subscribe-in-poll-expires0")
        self.assertEqual((answer.status, answer.get("expires")), (200, "0"))
        notify = world.notify()
        self.assertTrue(notify.get("subscription-state").startswith("terminated"))
        self.assertEqual(state_of(notify), (False, "", ""))
        self.assertEqual(world.home.sent, [])
        world.juliet("subscribed")
        world.receives("subscribe-in-poll-expires0", ("d3e4f506", "d3e4f507"))
        world.juliet("", "<show>away</show>")
        world.settle()
        self.assertEqual(state_of(world.notify()), (True, "away", ""))

    def test_unknown_user(self) -> None:
        """A user who does not exist is 404."""
        self.world.existing[JULIET] = Existence.ABSENT
        self.assertEqual(self.world.receives("subscribe-in-initial").status, 404)

    def test_other_packages(self) -> None:
        """Every other event package is 489 with Allow-Events."""
        for event in ("vnd-microsoft-roaming-contacts", "presence.wpending", "dialog"):
            answer = self.world.receives(
                "subscribe-in-initial", ("Event: presence", f"Event: {event}")
            )
            self.assertEqual((answer.status, answer.get("allow-events")), (489, "presence"))

    def test_our_notify_is_answered(self) -> None:
        """Their 200 to a NOTIFY lets the next one go; their 481 ends the subscription."""
        world = self.world
        world.receives("subscribe-in-initial")
        world.notify()
        world.approved()
        world.stack.take("NOTIFY").answer(200, to_tag="c0ffee1234")
        world.juliet("", "<show>dnd</show>")
        world.stack.take("NOTIFY").answer(481, to_tag="c0ffee1234")
        self.assertEqual(world.presence.view(), [])

    def test_our_documents(self) -> None:
        """Our documents say the same as those that a Microsoft client is known to read."""
        self.world.receives("subscribe-in-initial")
        self.world.notify()
        self.world.approved()
        self.world.notify()
        for name, inner in (
            ("busy", "<show>dnd</show>"),
            ("available", "<show>chat</show>"),
            ("dnd", "<show>away</show><status>Busy</status>"),
            ("away", "<show>away</show>"),
            ("available", ""),
            ("brb", "<show>xa</show>"),
        ):
            self.world.juliet("", inner)
            ours = self.world.notify()
            theirs = parse_message(sample(f"notify-out-{name}"))
            self.assertEqual(state_of(ours), state_of(theirs), name)
            self.assertIn(b'entity="sip:juliet@impfed.example"', ours.body.replace(b"'", b'"'))
        self.world.juliet("unavailable")
        theirs = parse_message(sample("notify-out-offline"))
        self.assertEqual(state_of(self.world.notify()), state_of(theirs))


class NotifySamples(SynchronousTestCase):
    """What a Microsoft edge tells of the one we watch."""

    def test_states(self) -> None:
        """Each state is 200 and becomes the stanza of T4."""
        expected = {
            "available": ("available", "", ""),
            "busy": ("available", "away", "Busy"),
            "dnd": ("available", "away", "Busy"),
            "brb": ("available", "away", ""),
            "away": ("available", "away", ""),
            "offline": ("unavailable", "", ""),
        }
        for name, state in expected.items():
            world = Wire()
            changes = world.watching_romeo()
            answer = world.receives(f"notify-in-{name}", *changes)
            self.assertEqual((answer.status, answer.body), (200, b""), name)
            subscribed, shown = world.stanzas()
            self.assertEqual((subscribed.get("type"), subscribed.get("to")), ("subscribed", JULIET))
            self.assertEqual(shown.get("from").partition("/")[0], ROMEO)
            found = (
                shown.get("type") or "available",
                shown.findtext("show") or "",
                shown.findtext("status") or "",
            )
            self.assertEqual(found, state, name)

    def test_note_and_two_tuples(self) -> None:
        """Any open tuple makes available; the note is the status text; no Contact is needed."""
        world = Wire()
        changes = world.watching_romeo()
        world.receives("notify-in-busy", *changes)
        world.stanzas()
        self.assertEqual(world.receives("notify-in-note-two-tuples", *changes).status, 200)
        (shown,) = world.stanzas()
        self.assertEqual((shown.get("type"), shown.findtext("status")), (None, "On a call"))

    def test_benotify(self) -> None:
        """A BENOTIFY is read and never answered."""
        world = Wire()
        changes = world.watching_romeo()
        self.assertIsNone(world.receives("benotify-in", *changes))
        self.assertEqual(world.stanzas()[-1].findtext("status"), "Busy")
        world = Wire()
        self.assertIsNone(world.receives("benotify-in"))  # nobody watches: still no answer

    def test_terminated(self) -> None:
        """Their end is 200; what was seen goes after a while unless a new one brings it."""
        world = Wire()
        changes = world.watching_romeo()
        world.receives("notify-in-available", *changes)
        world.stanzas()
        self.assertEqual(world.receives("notify-in-terminated", *changes).status, 200)
        world.clock.advance(2)
        fresh = world.stack.take("SUBSCRIBE")
        self.assertNotEqual(fresh.message.call_id, changes[0][1])
        fresh.answer(504)
        world.clock.advance(301)
        self.assertEqual(world.stanzas()[-1].findtext("status"), "presence unknown")

    def test_unknown(self) -> None:
        """A NOTIFY for nothing of ours is 481."""
        self.assertEqual(Wire().receives("notify-in-available").status, 481)

    def test_document_in_the_answer(self) -> None:
        """A first document inside the 200 is read, and shown once the subscription is active."""
        world = Wire()
        world.juliet("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        answer = parse_message(sample("subscribe-200-in-piggyback"))
        headers = [
            ("Expires", answer.get("expires")),
            ("Contact", answer.get("contact")),
            ("subscription-state", answer.get("subscription-state")),
            ("Supported", answer.get("supported")),
            ("Content-Type", answer.get("content-type")),
        ]
        sent.answer(200, to_tag="8F0A1B2C3D4E", headers=headers, body=answer.body)
        self.assertEqual(world.stanzas(), [])
        changes = (
            ("77c0ffee-0002-4a1b-impfed@fed.impfed.example", sent.message.call_id),
            ("tag=jf-55120", f"tag={sent.message.from_tag}"),
        )
        world.receives("notify-in-away", *changes)
        self.assertEqual([each.findtext("show") for each in world.stanzas()], [None, "away"])

    def test_our_subscribe(self) -> None:
        """Our SUBSCRIBE says what the sample says; their 403 ends nothing."""
        world = Wire()
        world.juliet("subscribe")
        sent = world.stack.take("SUBSCRIBE")
        expected = parse_message(sample("subscribe-out"))
        for name in ("accept", "event", "expires", "supported", "contact"):
            self.assertEqual(sent.message.get(name), expected.get(name), name)
        self.assertEqual(sent.message.uri_text, expected.uri_text)
        refusal = parse_message(sample("subscribe-403-in"))
        sent.answer(refusal.status, refusal.reason)
        self.assertEqual([each.get("type") for each in world.stanzas()], ["error"])
        self.assertEqual(world.presence.view()[0]["decision"], "pending")
