"""A foreign domain that is restarted, or cannot be reached: what becomes of our subscriptions."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from impfed.gateway import partner
from impfed.gateway.presence_moves import PresenceMoves
from impfed.sip.transaction import FailureCause
from impfed.store.records import OutboundSubscriptionRecord
from tests.gateway.harness import CONFIG, FakeFlow
from tests.gateway.presence_world import GRUU, PresenceWorld, pidf


class PartnerTests(SynchronousTestCase):
    """Alice and others watch people at lync.example."""

    def setUp(self) -> None:
        domains = (replace(CONFIG.domains[0], presence_pace=None), *CONFIG.domains[1:])
        self.world = PresenceWorld(replace(CONFIG, domains=domains))
        self.flow = FakeFlow()
        self.world.flow = self.flow
        self.subscriptions = [self.watch(number) for number in range(5)]
        self.world.stanzas()

    def watch(self, number: int, way: FakeFlow | None = None):
        """One more user subscribes, over a connection, and is allowed; returns the SUBSCRIBE."""
        world = self.world
        world.clock.advance(1)
        world.home_sends(
            f"<presence from='u{number}@home.example' to='romeo@lync.example' type='subscribe'/>"
        )
        sent = world.stack.take("SUBSCRIBE")
        sent.transaction.destination = way
        self.accept(sent)
        return sent

    def accept(self, sent, cseq: int = 1) -> None:
        """The far side takes a SUBSCRIBE and notifies, over the flow that stands."""
        sent.answer(200, headers=[("Expires", "7200"), ("Contact", GRUU)], to_tag="n1")
        message, notify = sent.message, "active;expires=7200"
        self.world.far_sends(
            "\n".join(
                [
                    "NOTIFY sip:alice@fed.home.example:5061;transport=tls SIP/2.0",
                    f"Via: SIP/2.0/TLS 192.0.2.10;branch=z9hG4bK{message.call_id}n{cseq}",
                    "Max-Forwards: 69",
                    "From: <sip:romeo@lync.example>;tag=n1",
                    f"To: {message.from_.text}",
                    f"Call-ID: {message.call_id}",
                    f"CSeq: {cseq} NOTIFY",
                    f"Contact: {GRUU}",
                    "Event: presence",
                    f"Subscription-State: {notify}",
                    "Content-Type: application/pidf+xml",
                ]
            ),
            pidf("open"),
            self.flow,
        )

    def lose(self) -> None:
        """The connection is gone."""
        self.flow.alive = False
        self.world.presence.watching.flow_closed(self.flow)

    def fails(self, seconds: float) -> None:
        """For some time the domain cannot be reached, whoever asks."""
        for _ in range(int(seconds)):
            self.world.clock.advance(1)
            while self.world.stack.sent:
                self.world.stack.take("SUBSCRIBE").fail("connection refused")

    def is_there(self, number: int, type: str = "") -> None:
        """A user's only client tells how he is."""
        self.world.home_sends(
            f"<presence from='u{number}@home.example/phone' to='romeo@lync.example' type='{type}'/>"
        )

    def users(self) -> list[str]:
        """Return whose SUBSCRIBEs wait for an answer, in order."""
        return [sent.message.from_.uri.user for sent in self.world.stack.sent]

    def test_idle_connection_closed(self) -> None:
        """One refresh asks whether we are still known; nothing follows if we are."""
        self.lose()
        self.assertEqual(self.users(), [])
        self.world.clock.advance(2)
        self.assertEqual(self.users(), ["u4"])
        sent = self.world.stack.take("SUBSCRIBE")
        self.assertEqual(sent.message.call_id, self.subscriptions[4].message.call_id)
        self.accept(sent, 2)
        self.world.clock.advance(60)
        self.assertEqual(self.users(), [])
        self.assertEqual(self.world.stanzas(), [])

    def test_connection_of_requests_closed(self) -> None:
        """Where NOTIFYs come by another one, as from another node, that of our requests is enough."""
        way = FakeFlow()
        self.watch(5, way)
        way.alive = False
        self.world.presence.watching.flow_closed(way)
        self.world.clock.advance(2)
        self.assertEqual(self.users(), ["u5"])

    def test_new_subscription_meanwhile(self) -> None:
        """What a partner answers to a new subscription does not say that it knows the old ones."""
        self.world.home_sends(
            "<presence from='u5@home.example' to='romeo@lync.example' type='subscribe'/>"
        )
        sent = self.world.stack.take("SUBSCRIBE")
        self.lose()
        self.flow = FakeFlow()
        self.accept(sent)
        self.world.clock.advance(2)
        self.assertEqual(self.users(), ["u4"])

    def test_closed_again_and_again(self) -> None:
        """A peer that closes every connection is not asked more often than each half minute."""
        asked = 0
        for second in range(300):
            self.lose()
            self.world.clock.advance(1)
            while self.world.stack.sent:
                asked += 1
                self.flow = FakeFlow()
                self.accept(self.world.stack.take("SUBSCRIBE"), second + 2)
        self.assertLessEqual(asked, 11)

    def test_another_connection_closed(self) -> None:
        """A connection that brought no NOTIFY says nothing."""
        self.world.presence.watching.flow_closed(FakeFlow())
        self.world.clock.advance(60)
        self.assertEqual(self.users(), [])

    def test_restarted_without_memory(self) -> None:
        """481 to the one means that all are gone: each is refreshed, then made anew at once."""
        self.lose()
        self.world.clock.advance(2)
        self.world.stack.take("SUBSCRIBE").answer(481)
        self.assertEqual(self.users(), ["u3", "u2", "u1", "u0"])
        while self.world.stack.sent:
            self.world.stack.take("SUBSCRIBE").answer(481)
        self.world.clock.advance(2)
        self.assertEqual(sorted(self.users()), ["u0", "u1", "u2", "u3", "u4"])
        for sent in self.world.stack.sent:
            self.assertEqual(sent.message.to_tag, "")

    def test_asked_for_another_node(self) -> None:
        """Where the one that is asked for moves to another node, another one is asked for."""
        self.lose()
        self.world.clock.advance(2)
        self.assertEqual(self.users(), ["u4"])
        moves = PresenceMoves(self.world.presence)
        moves.lost(OutboundSubscriptionRecord.kind, "u4@home.example|romeo@lync.example")
        self.world.stack.take("SUBSCRIBE").answer(481)
        self.world.clock.advance(2)
        self.assertEqual(self.users(), ["u3"])

    def test_out_of_reach(self) -> None:
        """Asked again every few seconds; when it is back all are refreshed, in order of use."""
        world = self.world
        self.lose()
        world.clock.advance(2)
        for _ in range(3):
            world.stack.take("SUBSCRIBE").fail("connection refused")
            self.assertEqual(self.users(), [])
            world.clock.advance(partner.LAST_RETRY + 1)
        self.flow = FakeFlow()
        self.accept(world.stack.take("SUBSCRIBE"), 2)
        self.assertEqual(self.users(), ["u4", "u3", "u2", "u1", "u0"])
        self.assertEqual(world.stanzas(), [])

    def test_node_aside(self) -> None:
        """What this node itself could not send for a moment says nothing of the partner."""
        world = self.world
        world.presence.watching.resume()
        self.assertEqual(self.users(), ["u4", "u3", "u2", "u1", "u0"])
        for _ in range(5):
            world.stack.take("SUBSCRIBE").fail("no cluster", cause=FailureCause.ASIDE)
        self.assertIs(world.presence.watching.partner("lync.example").reach, partner.Reach.UP)
        world.clock.advance(CONFIG.presence.stale_after + 1)
        while world.stack.sent:
            self.accept(world.stack.take("SUBSCRIBE"), 2)
        self.assertNotIn("presence unknown", str([each.text for each in world.stanzas()]))

    def test_long_out_of_reach(self) -> None:
        """After five minutes everybody's view is unknown; it is right again when the domain is."""
        world = self.world
        self.lose()
        self.fails(400)
        shown = world.stanzas()
        self.assertEqual(len(shown), 5)
        self.assertEqual({each.findtext("status") for each in shown}, {"presence unknown"})
        for _ in range(10):
            world.clock.advance(2)
            if world.stack.sent:
                break
        self.flow = FakeFlow()
        number = 2
        while world.stack.sent:
            self.accept(world.stack.take("SUBSCRIBE"), number)
            number += 1
        self.assertEqual(
            len({each.get("to") for each in world.stanzas() if not each.get("type")}), 5
        )

    def test_everybody_away(self) -> None:
        """Where nobody was left to ask for whether a domain can be reached, whoever comes back asks."""
        world = self.world
        for number in range(5):
            self.is_there(number)
        self.lose()
        world.clock.advance(2)
        world.stack.take("SUBSCRIBE").answer(481)  # u0 has no dialog any more, others have theirs
        self.fails(600)
        for number in range(5):
            self.is_there(number, "unavailable")
        self.fails(60)
        self.assertEqual(self.users(), [])
        for number in (0, 4):
            self.is_there(number)
            world.home_sends(
                f"<presence from='u{number}@home.example' to='romeo@lync.example' type='probe'/>"
            )
        self.assertEqual(self.users(), ["u0", "u4"])

    def test_window(self) -> None:
        """Only so many refreshes of a wave are unanswered at one time."""
        self.patch(partner, "WINDOW", 2)
        fresh = self.world.crash()
        fresh.clock.advance(0.1)
        self.assertEqual(len(fresh.stack.sent), 2)
        fresh.stack.take("SUBSCRIBE").answer(200, headers=[("Expires", "7200")], to_tag="n1")
        self.assertEqual(len(fresh.stack.sent), 2)
        # Whoever is removed while his refresh is under way makes room, too.
        user = fresh.stack.sent[0].message.from_.uri.user
        fresh.home_sends(
            f"<presence from='{user}@home.example' to='romeo@lync.example' type='unsubscribe'/>"
        )
        fresh.stack.take("SUBSCRIBE").answer(481)
        fresh.stack.take("SUBSCRIBE").answer(500)
        self.assertEqual(len([sent for sent in fresh.stack.sent if sent.method == "SUBSCRIBE"]), 3)

    def test_nobody_left(self) -> None:
        """A domain without contacts is not asked, and not remembered."""
        for number in range(5):
            self.world.home_sends(
                f"<presence from='u{number}@home.example' to='romeo@lync.example'"
                " type='unsubscribe'/>"
            )
            self.world.stack.take("SUBSCRIBE").answer(481)
        self.lose()
        self.world.clock.advance(60)
        self.assertEqual(self.users(), [])
        self.assertEqual(self.world.presence.watching._partners, {})


class HomeServerTests(SynchronousTestCase):
    """A home server comes back with thousands of users."""

    def test_asked_in_portions(self) -> None:
        """States are asked for in portions, so that its answers come in time."""
        world = PresenceWorld()
        for number in range(500):
            user = f"u{number}@home.example"
            world.subscribes(call_id=f"s{number}", to=user)
            world.notify()
            world.home_sends(f"<presence from='{user}' to='romeo@lync.example' type='subscribed'/>")
            world.home_sends(f"<presence from='{user}/p' to='romeo@lync.example'/>")
        world.settle()
        while world.stack.sent:
            world.notify()
        world.stanzas()
        world.link_comes_up()
        first = len(world.stanzas())
        self.assertEqual(first, 200)
        world.clock.pump([0.06, 0.06])
        self.assertEqual(first + len(world.stanzas()), 500)
