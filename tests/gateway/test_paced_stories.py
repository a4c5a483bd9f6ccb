"""Sessions and waves of subscriptions within a partner's budget, and whatever may be asked in any order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.gateway.paced import Outgoing
from impfed.policy.budget import urgency_of
from impfed.sip.message import OutgoingRequest
from tests.gateway.harness import CONFIG
from tests.gateway.presence_world import PresenceWorld
from tests.gateway.test_paced import HOP, SPARE, Asker, PacedPresenceWorld, PacedWorld, config


class SessionTests(SynchronousTestCase):
    """The gateway above it: what its users are told."""

    def error(self, world) -> str:
        stanza = world.home.accept()
        return stanza.xml

    def test_text_that_does_not_go(self) -> None:
        """A text whose INVITE is not sent comes back as resource-constraint, wait, with the reason."""
        world = PacedWorld(config(addresses=1))
        world.alice_writes("hello")
        world.stack.take("INVITE").accept()
        world.alice_writes("hello", to="nurse@lync.example", id="m2")
        world.clock.advance(1)
        error = self.error(world)
        self.assertIn("resource-constraint", error)
        self.assertIn("type='wait'" if "type='wait'" in error else 'type="wait"', error)
        self.assertIn("1 different people", error)
        self.assertEqual(world.ledger()[-1].outcome, "bounced")

    def test_text_inside_a_session(self) -> None:
        """A text that its dialog may not carry now comes back, and the session goes on."""
        world = PacedWorld(config(rate=None))
        world.alice_writes("one")
        invite = world.stack.take("INVITE")
        invite.accept()
        message = world.stack.take("MESSAGE")
        message.answer(503, headers=[("Retry-After", "60")])
        self.error(world)
        world.alice_writes("two", id="m2")
        world.clock.advance(1)
        self.assertIn("resource-constraint", self.error(world))
        self.assertEqual(world.stack.sent, [], "no BYE, no new INVITE")
        world.clock.advance(60)
        world.alice_writes("three", id="m3")
        self.assertEqual(world.stack.take("MESSAGE").body, "three")

    def test_unknown_user(self) -> None:
        """The second text to somebody who does not exist gets the same error without a question."""
        world = PacedWorld(config())
        for _ in range(2):
            world.alice_writes("hello", to="nobody@lync.example")
            if world.stack.sent:
                world.stack.take("INVITE").answer(404)
            world.clock.advance(1)
            self.assertIn("item-not-found", self.error(world))
        self.assertEqual(world.metrics.value("budget.unknown_user"), 1)

    def test_other_hop_during_a_pause(self) -> None:
        """While one hop wants a pause the next one gets the INVITE."""
        world = PacedWorld(config(rate=None))
        world.resolve = lambda query, done: done([HOP, SPARE])
        world.alice_writes("hello")
        world.stack.take("INVITE").answer(503, headers=[("Retry-After", "60")])
        self.assertEqual(world.stack.take("INVITE").transaction.destination, SPARE)
        world.alice_writes("hello", to="nurse@lync.example", id="m2")
        world.clock.advance(1)
        self.assertEqual(world.stack.take("INVITE").transaction.destination, SPARE)

    def test_subscription_that_does_not_go(self) -> None:
        """A SUBSCRIBE that the budget holds back makes no partner unreachable, and is tried again."""
        world = PacedPresenceWorld(config(addresses=1))
        for to in ("romeo@lync.example", "nurse@lync.example"):
            world.alice_says("subscribe", to=to)
        world.clock.advance(1)
        world.stack.take("SUBSCRIBE").answer(202)
        self.assertEqual(world.stack.sent, [])
        partner = world.presence.watching.partner("lync.example")
        self.assertEqual(partner.reach.value, "reachable")
        contact = [v for v in world.presence.view() if v["foreign"] == "nurse@lync.example"]
        self.assertIn("different people", contact[0]["trouble"])


class WaveTests(SynchronousTestCase):
    """Presence after a restart, at a partner that has merely discovered us."""

    def test_wave_stays_below_the_budget(self) -> None:
        """However fast the node would refresh, no second holds more than 20; texts go between."""
        domains = (replace(CONFIG.domains[0], presence_pace=None), CONFIG.domains[1])
        before = PresenceWorld(replace(CONFIG, domains=domains))
        for number in range(100):
            before.alice_says("subscribe", to=f"u{number}@lync.example")
            before.stack.take("SUBSCRIBE").accept()
        world = PacedPresenceWorld(before.config, before.store, at=before.clock.seconds() + 60)
        world.presence.load(world.store)
        world.presence.resume()
        times: list[tuple[float, str]] = []
        for step in range(90):
            if step == 20:
                world.alice_writes("hello")
            for sent in world.stack.sent:
                times.append((world.clock.seconds(), sent.method))
                sent.accept()
            world.stack.sent.clear()
            world.clock.advance(0.1)
        subscribes = [time for time, method in times if method == "SUBSCRIBE"]
        self.assertEqual(len(subscribes), 100)
        self.assertGreater(subscribes[-1] - subscribes[0], 5.0)
        for start, _ in times:
            self.assertLessEqual(len([t for t, _ in times if start <= t < start + 0.999]), 20)
        (invited,) = [time for time, method in times if method == "INVITE"]
        self.assertLess(invited - times[0][0], 2.3, "a text does not wait for the wave")
        self.assertEqual(len([m for _, m in times if m == "MESSAGE"]), 1)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["INVITE", "MESSAGE", "BYE", "UPDATE", "NOTIFY", "SUBSCRIBE"]),
        st.integers(0, 3),  # user
        st.integers(0, 5),  # dialog; 0 for none
        st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.3, 5.0, 40.0]),  # pause after it
        st.booleans(),  # called off at once
    ),
    max_size=80,
)


class PropertyTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(OPERATIONS, st.integers(1, 30), st.integers(1, 5))
    def test_any_story(self, operations, rate: int, burst: int) -> None:
        """Never more than the budget, by urgency, in order in a dialog, each sent or failed once."""
        story = Story(rate, burst)
        for operation in operations:
            story.ask(*operation)
        story.end()
        for asker, handle in story.asked:
            sent = story.times.count(id(handle))
            self.assertEqual(sent + len(asker.failures), 1)
        times = [time for time, _ in story.log]
        for first, start in enumerate(times):
            for last in range(first, len(times)):
                self.assertLessEqual(last - first + 1, rate * (times[last] - start) + burst + 0.01)
        for dialog in {request.call_id for _, request in story.log}:
            numbers = [r.cseq for _, r in story.log if r.call_id == dialog]
            self.assertEqual(numbers, sorted(numbers))
        self.assertEqual(story.overtaken, [])


class Story:
    """A stack that records, below the budgets, and people who ask."""

    def __init__(self, rate: int, burst: int) -> None:
        world = PacedWorld(config(rate=rate, burst=burst, addresses=None))
        self.clock, self.paced = world.clock, world.paced
        self.paced._stack = self
        self.log: list[tuple[float, OutgoingRequest]] = []
        self.times: list[int] = []
        self.asked: list[tuple[Asker, Outgoing]] = []
        self.overtaken: list[Any] = []
        self._number = 0

    def request(self, request, destination, outgoing):
        """Something is sent; nothing more urgent may wait meanwhile."""
        self.log.append((self.clock.seconds(), request))
        self.times.append(id(outgoing))
        lane = outgoing.lane
        rank = urgency_of(request.method)
        for ticket in lane.tickets.values():
            if ticket.urgency < rank:
                self.overtaken.append((request.method, ticket.item.request.method))
        return object()

    def cancel(self, transaction) -> None:
        """An INVITE that was sent is cancelled."""

    def ask(self, method, user, dialog, pause, called_off) -> None:
        """Somebody wants a request sent."""
        self._number += 1
        call_id = f"d{dialog}" if dialog else f"c{self._number}"
        user = dialog % 4 if dialog else user
        lines = [
            ("From", f"<sip:u{user}@home.example>;tag=a"),
            ("To", "<sip:romeo@lync.example>;tag=b"),
            ("Call-ID", call_id),
        ]
        asker = Asker()
        request = OutgoingRequest(method, "sip:x", lines, cseq=self._number, call_id=call_id)
        handle = self.paced.request(request, HOP, asker)
        self.asked.append((asker, handle))
        if called_off and method == "INVITE":
            self.paced.cancel(handle)
        self.clock.advance(pause)

    def end(self) -> None:
        """Time goes on until nothing waits any more."""
        for _ in range(700):
            self.clock.advance(0.5)
