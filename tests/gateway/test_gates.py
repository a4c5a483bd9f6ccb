"""The gates of an inbound subscription: their order, counters, log lines and limits (SPEC section 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from impfed.gateway.gates import Ruling
from impfed.routing.api import Existence
from impfed.store.records import AuthorizationRecord
from impfed.testing.fakes import FakeFlow
from impfed.xmpp.jid import JID
from tests.gateway.harness import CONFIG
from tests.gateway.policy_world import ALICE, ROMEO, PolicyWorld


def limited(**limits: Any) -> PolicyWorld:
    return PolicyWorld(replace(CONFIG, presence=replace(CONFIG.presence, **limits)))


class OrderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = PolicyWorld()
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def counts(self) -> dict[str, float]:
        values = self.world.metrics.snapshot()
        return {name: value for name, value in values.items() if name.startswith("gate.")}

    def logged(self) -> list[str]:
        names = (str(each.get("event", "")) for each in self.events)
        return [
            name.rpartition("_")[2] for name in names if name.startswith("impfed.gateway.gate_")
        ]

    def test_a_stranger_passes_all(self) -> None:
        """Each gate counts him and says so, in this order."""
        self.world.subscribes()
        self.assertEqual(
            self.counts(),
            {
                "gate.node.passed": 1,
                "gate.limits.passed": 1,
                "gate.user.passed": 1,
                "gate.ask.asked": 1,
            },
        )
        self.assertEqual(self.logged(), ["node", "limits", "user", "ask"])

    def test_a_gate_that_settles_it_is_the_last(self) -> None:
        """Behind a block nobody is asked."""
        self.world.block()
        self.world.subscribes()
        self.assertEqual(self.logged(), ["node", "limits", "user"])

    def test_node_policy_refuses_without_the_user(self) -> None:
        """A domain that the node does not federate with gets 403; nobody is looked up or asked."""
        world = self.world
        looked_up = []
        world.directory = lambda address, done: looked_up.append(address)
        answer = world.subscribes(who="x@else.example", flow=FakeFlow(("else.example",)))
        self.assertEqual(answer.status, 403)
        self.assertEqual((world.stanzas(), looked_up, world.presence.view()), ([], [], []))
        self.assertEqual(self.counts(), {"gate.node.refused": 1})

    def test_unknown_user_passes_no_further(self) -> None:
        """Who does not exist is 404 behind the first gate."""
        self.world.existing["alice@home.example"] = Existence.ABSENT
        self.assertEqual(self.world.subscribes().status, 404)
        self.assertEqual(self.counts(), {"gate.node.passed": 1})

    def test_explaining_changes_nothing(self) -> None:
        """To ask the gates what they would do counts, logs and takes nothing."""
        gates = self.world.presence.watched.gates
        found = list(gates.explain((ALICE, ROMEO)))
        self.assertEqual([each.gate for each in found], ["node", "limits", "user", "ask"])
        self.assertEqual([each.ruling for each in found[:-1]], [Ruling.PASS] * 3)
        self.assertEqual((self.counts(), self.logged()), ({}, []))
        self.assertTrue(all(each.words for each in found))

    def test_refreshes_pass_no_gate(self) -> None:
        """A subscription that stands is refreshed without being judged anew."""
        tag = self.world.subscribes().to_tag
        before = self.counts()
        self.world.subscribes(cseq=2, tag=tag)
        self.assertEqual(self.counts(), before)


class LimitTests(SynchronousTestCase):
    def many(self, world: PolicyWorld, count: int, to: str = "alice@home.example") -> list[int]:
        """So many foreign users of lync.example subscribe; return the answers."""
        numbers = range(count)
        if "%d" in to:
            return [
                world.subscribes(call_id=f"m{n}", who=f"u{n}@lync.example", to=to % n).status
                for n in numbers
            ]
        return [
            world.subscribes(call_id=f"m{n}", who=f"u{n}@lync.example", to=to).status
            for n in numbers
        ]

    def test_watchers_of_one_user(self) -> None:
        """Beyond the limit new watchers get 403, those who watch already a second subscription."""
        world = limited(watchers_per_user=3)
        self.assertEqual(self.many(world, 4), [200, 200, 200, 403])
        again = world.subscribes(call_id="again", who="u1@lync.example")
        self.assertEqual(again.status, 200)
        other = world.subscribes(call_id="bob", who="u9@lync.example", to="bob@home.example")
        self.assertEqual(other.status, 200)
        self.assertEqual(world.presence.limits()[0]["who"], "alice@home.example")

    def test_room_again(self) -> None:
        """When a watcher leaves there is room for another one."""
        world = limited(watchers_per_user=1)
        tag = world.subscribes().to_tag
        world.notify()
        self.assertEqual(world.subscribes(call_id="x", who="paris@lync.example").status, 403)
        world.subscribes(cseq=2, tag=tag, expires=0)
        world.notify()
        self.assertEqual(world.subscribes(call_id="y", who="paris@lync.example").status, 200)

    def test_pending_of_one_domain(self) -> None:
        """A domain with too many unanswered requests gets 403 until some are answered."""
        world = limited(pending_per_domain=2)
        self.assertEqual(self.many(world, 3, "l%d@home.example"), [200, 200, 403])
        flow = FakeFlow(("sip.simple.example", "simple.example"))
        other = world.subscribes(call_id="b", who="benvolio@simple.example", flow=flow)
        self.assertEqual(other.status, 200)
        world.home_sends(
            "<presence from='l0@home.example' to='u0@lync.example' type='unsubscribed'/>"
        )
        self.assertEqual(world.subscribes(call_id="z", who="u7@lync.example").status, 200)

    def test_pending_counts_survive_and_age(self) -> None:
        """The count is durable; what nobody answered for a month counts no longer."""
        world = limited(pending_per_domain=1)
        world.subscribes()
        fresh = PolicyWorld(world.config, world.store, at=world.clock.seconds() + 60)
        fresh.presence.load(world.store)
        self.assertEqual(fresh.subscribes(call_id="p", who="paris@lync.example").status, 403)
        fresh.clock.advance(31 * 86400)
        self.assertEqual(fresh.subscribes(call_id="q", who="paris@lync.example").status, 200)

    def test_pace_of_strangers(self) -> None:
        """A domain's unknown people may begin so many subscriptions in a minute."""
        world = limited(new_per_minute=3)
        self.assertEqual(self.many(world, 5), [200, 200, 200, 403, 403])
        world.clock.advance(60)
        self.assertEqual(world.subscribes(call_id="later", who="x@lync.example").status, 200)
        flood = next(each for each in world.presence.limits() if each["limit"] == "domain")
        self.assertEqual((flood["who"], flood["refused"]), ("lync.example", 2))

    def test_pace_spares_those_who_are_known(self) -> None:
        """After a restart of theirs everybody who was answered before may come at once."""
        world = limited(new_per_minute=1)
        for number in range(5):
            pair = (ALICE, JID.parse(f"u{number}@lync.example"))
            answer = "approved" if number % 2 else "declined"
            world.presence.authorizations.decide_inbound(pair, answer)
        self.assertEqual(self.many(world, 5), [200] * 5)

    def test_no_limits(self) -> None:
        """Each limit can be none."""
        world = limited(
            watchers_per_user=None,
            contacts_per_user=None,
            pending_per_domain=None,
            new_per_minute=None,
        )
        self.assertEqual(set(self.many(world, 1100)), {200})
        for number in range(1010):
            world.alice_says("subscribe", to=f"u{number}@lync.example")
        self.assertNotIn("error", world.types())
        self.assertEqual(world.presence.limits(), [])

    def test_refused_before_anything_is_kept(self) -> None:
        """A refused subscription leaves nothing behind."""
        world = limited(pending_per_domain=1)
        self.many(world, 3)
        self.assertEqual(len(world.presence.view()), 1)
        kept = self.successResultOf(world.store.load(AuthorizationRecord))
        self.assertEqual(len(kept), 1)

    def test_allowed_but_to_be_asked(self) -> None:
        """Where allow becomes ask the limit of unanswered requests holds, and nothing is left."""
        world = limited(pending_per_domain=1)
        world.allow("lync.example")
        self.assertEqual(self.many(world, 2), [200, 403])
        self.assertEqual(world.presence.watched.watchers(ALICE), 1)
        world.subscribes(call_id="s", who="paris@lync.example", to="bob@home.example")
        world.policies.set_domain(JID.parse("bob@home.example"), "lync.example", "allow")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_watched_and_watching_elsewhere(self) -> None:
        """People at XMPP domains count, too; a user with nobody else is listed at his limit."""
        world = limited(watchers_per_user=2, contacts_per_user=2)
        presence, romeo = world.presence, JID.parse("romeo@verona.example")
        presence.watched.elsewhere = lambda local: int(local == ALICE)
        self.assertEqual(self.many(world, 2), [200, 403])
        bob = JID.parse("bob@home.example")
        presence.watching.elsewhere = lambda local: 2 * int(local == bob)
        presence.authorizations.decide_outbound((bob, romeo), "approved")
        found = {(line["limit"], line["who"], line["count"]) for line in presence.limits()}
        self.assertEqual(
            found,
            {("watchers_per_user", ALICE.text, 2), ("contacts_per_user", bob.text, 2)},
        )

    def test_contacts(self) -> None:
        """A user with all the contacts he may have is listed; the refusal is counted."""
        world = limited(contacts_per_user=2)
        for number in range(3):
            world.alice_says("subscribe", to=f"u{number}@lync.example")
        self.assertEqual(world.types()[-1], "error")
        self.assertEqual(world.count("presence.out.contacts_limit"), 1)
        (line,) = world.presence.limits()
        self.assertEqual((line["limit"], line["count"]), ("contacts_per_user", 2))
