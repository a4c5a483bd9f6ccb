"""What one partner bears: rate, addresses, failures, users who do not exist (SPEC section 8)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import BudgetConfig, SipDomainConfig
from impfed.policy.budget import (
    ADDRESS_WINDOW,
    DISCOVERED,
    Limits,
    PartnerBudget,
    Urgency,
    address_of,
    limits_of,
    urgency_of,
)

NOW = 1_790_000_000.0


def budget(**limits) -> PartnerBudget:
    return PartnerBudget("lync.example", Limits(**limits), NOW)


class LimitsTests(SynchronousTestCase):
    def test_by_kind(self) -> None:
        """Microsoft's kinds have a budget until they list us; standard partners have none."""
        for kind, listed, limits in (
            ("microsoft", False, DISCOVERED),
            ("office365", False, DISCOVERED),
            ("microsoft", True, Limits()),
            ("simple", False, Limits()),
        ):
            domain = SipDomainConfig("lync.example", kind=kind, listed=listed)
            self.assertEqual(limits_of(domain), limits, (kind, listed))
        self.assertEqual(limits_of(None), DISCOVERED, "nobody knows what a stranger bears")
        self.assertEqual(DISCOVERED.rate + DISCOVERED.burst, 20)
        self.assertEqual(DISCOVERED.addresses, 1000)

    def test_configured(self) -> None:
        """Each number may be configured alone, also for a partner that has listed us."""
        for config, limits in (
            (BudgetConfig(rate=100), Limits(100, 10, 1000)),
            (BudgetConfig(rate=5), Limits(5, 1, 1000)),
            (BudgetConfig(rate=None), Limits(None, 1, 1000)),
            (BudgetConfig(burst=7), Limits(18, 7, 1000)),
            (BudgetConfig(addresses=None), Limits(18, 2, None)),
            (BudgetConfig(unknown_users=0), Limits(18, 2, 1000, 0)),
        ):
            self.assertEqual(limits_of(SipDomainConfig("x.example", budget=config)), limits)
        listed = SipDomainConfig("x.example", listed=True, budget=BudgetConfig(rate=200, burst=9))
        self.assertEqual(limits_of(listed), Limits(200, 9, None))


class RateTests(SynchronousTestCase):
    def sent(self, partner: PartnerBudget, now: float) -> int:
        count = 0
        while count < 1000 and partner.take(now):
            count += 1
        return count

    def test_burst_then_rate(self) -> None:
        """The burst goes at once, then as much as the rate allows; a pause saves one burst only."""
        partner = budget(rate=10.0, burst=5.0)
        self.assertEqual(self.sent(partner, NOW), 5)
        self.assertEqual(self.sent(partner, NOW + 0.31), 3)
        self.assertEqual(self.sent(partner, NOW + 100), 5)
        self.assertEqual(self.sent(partner, NOW + 50), 0, "time that goes back gives nothing")

    def test_no_limit(self) -> None:
        """Without a rate everything goes at once."""
        self.assertEqual(self.sent(budget(), NOW), 1000)

    def test_ready_at(self) -> None:
        """At the moment that it names, and not noticeably before, one more may go."""
        partner = budget(rate=18.0, burst=2.0)
        now = NOW
        for _ in range(200):
            self.sent(partner, now)
            due = partner.ready_at(now)
            self.assertAlmostEqual(due - now, 1 / 18, places=4)
            self.assertFalse(partner.take(due - 0.001))
            now = due
            self.assertTrue(partner.take(now))

    @given(
        st.floats(0.5, 200),
        st.floats(1, 30),
        st.lists(st.tuples(st.floats(0, 3), st.sampled_from([1.0, 0.5, 0.2])), max_size=60),
    )
    def test_never_more(self, rate: float, burst: float, steps: list[tuple[float, float]]) -> None:
        """In no window more goes than rate times its length plus the burst, whatever the share."""
        partner = budget(rate=rate, burst=burst)
        now, times = NOW, []
        for pause, share in steps:
            now += pause
            partner.share(share, now)
            times += [now] * self.sent(partner, now)
        for first, start in enumerate(times):
            for last in range(first, len(times)):
                bound = rate * (times[last] - start) + burst + 0.01
                self.assertLessEqual(last - first + 1, bound)

    def test_share(self) -> None:
        """A node that has a part of the budget sends that part, and keeps to that many addresses."""
        partner = budget(rate=20.0, burst=4.0, addresses=1000)
        partner.share(0.25, NOW)
        self.assertEqual((partner.rate, partner.burst, partner.address_limit), (5.0, 1.0, 250))
        self.assertEqual(self.sent(partner, NOW), 1)
        partner.share(1.0, NOW + 1)
        self.assertEqual((partner.rate, partner.burst, partner.address_limit), (20.0, 4.0, 1000))

    def test_rate_used(self) -> None:
        """What went out in the last minute, by the second; what is older is forgotten."""
        partner = budget()
        for second in range(40):
            partner.take(NOW + second)
            partner.take(NOW + second)
        self.assertAlmostEqual(partner.rate_used(NOW + 40), 2.0, places=1)
        self.assertEqual(partner.rate_used(NOW + 400), 0.0)


class GuardTests(SynchronousTestCase):
    def answers(self, partner: PartnerBudget, good: int, bad: int, now: float, status=404) -> None:
        partner.answers += good
        for _ in range(bad):
            partner.refused(status, now)

    def test_slows_down(self) -> None:
        """When too many answers are failures, a tenth of the rate is sent, at least one a second."""
        partner = budget(rate=18.0, burst=2.0)
        self.answers(partner, 30, 19, NOW + 1)
        self.assertIsNone(partner.slowed_since)
        self.answers(partner, 0, 1, NOW + 2)
        self.assertEqual((partner.slowed_since, partner.rate, partner.burst), (NOW + 2, 1.8, 1.0))
        self.assertIn("listed = true", partner.advice(NOW + 2))
        slow = budget(rate=3.0)
        self.answers(slow, 0, 20, NOW)
        self.assertEqual(slow.rate, 1.0)

    def test_few_answers_say_nothing(self) -> None:
        """A handful of failures is no ratio."""
        partner = budget(rate=18.0)
        self.answers(partner, 0, 19, NOW)
        self.assertIsNone(partner.slowed_since)

    def test_what_is_no_failure(self) -> None:
        """Who is busy, away, declines or wants another format has not been guessed."""
        partner = budget(rate=18.0)
        for status in (408, 415, 423, 480, 481, 486, 487, 488, 489, 491, 600, 603, 606):
            self.answers(partner, 0, 20, NOW, status)
        self.assertEqual((partner.failure_ratio, partner.slowed_since), (0.0, None))
        for status in (403, 404, 410, 484, 485, 500, 503, 504, 604):
            one = budget(rate=18.0)
            self.answers(one, 0, 20, NOW, status)
            self.assertIsNotNone(one.slowed_since, status)

    def test_goes_on(self) -> None:
        """After a minute with few failures, or with hardly any answer, the full rate holds again."""
        for good in (0, 40):
            partner = budget(rate=18.0, burst=2.0)
            self.answers(partner, 0, 20, NOW)
            partner.take(NOW + 31)
            self.assertIsNotNone(partner.slowed_since, "its failures are still in the window")
            partner.answers += good
            partner.take(NOW + 62)
            self.assertEqual((partner.slowed_since, partner.rate), (None, 18.0), good)
            self.assertEqual(partner.advice(NOW + 62), "")

    def test_slow_and_shared(self) -> None:
        """A share is a share of the slow rate, too."""
        partner = budget(rate=20.0)
        partner.share(0.5, NOW)
        self.answers(partner, 0, 20, NOW)
        self.assertEqual(partner.rate, 1.0)

    def test_no_guard_without_rate(self) -> None:
        """Who has listed us is not spared, only shown."""
        partner = budget()
        self.answers(partner, 0, 100, NOW)
        self.assertEqual((partner.rate, partner.failure_ratio), (None, 1.0))


class AddressTests(SynchronousTestCase):
    def test_distinct_addresses(self) -> None:
        """So many addresses in a day; known ones go on, and old ones make room."""
        partner = budget(addresses=3)
        people = [partner.person(f"u{number}@lync.example") for number in range(5)]
        for number in range(3):
            self.assertTrue(partner.admit(people[number], Urgency.IM, NOW + number))
            self.assertTrue(partner.admit(people[0], Urgency.IM, NOW + number))
        self.assertFalse(partner.admit(people[3], Urgency.IM, NOW + 10))
        self.assertTrue(partner.admit(people[2], Urgency.IM, NOW + 10))
        self.assertIn("allow our domain by name", partner.advice(NOW + 10))
        self.assertTrue(partner.admit(people[3], Urgency.IM, NOW + ADDRESS_WINDOW + 0.5))
        self.assertFalse(partner.admit(people[0], Urgency.IM, NOW + ADDRESS_WINDOW + 0.5))
        self.assertEqual(partner.addresses(NOW + ADDRESS_WINDOW + 0.5), 3)

    def test_texts_come_after_subscriptions(self) -> None:
        """Subscriptions leave a tenth of the addresses to texts."""
        partner = budget(addresses=10)
        subscribed = [
            partner.admit(partner.person(f"u{n}@x.example"), Urgency.SUBSCRIBE, NOW)
            for n in range(12)
        ]
        self.assertEqual(sum(subscribed), 9)
        self.assertTrue(partner.admit(partner.person("v@x.example"), Urgency.IM, NOW))
        self.assertFalse(partner.admit(partner.person("w@x.example"), Urgency.IM, NOW))

    def test_to_values(self) -> None:
        """Address and domain come from the URI, whatever stands around it."""
        for value, address, domain in (
            ("<sip:Romeo@Lync.Example>", "romeo@lync.example", "lync.example"),
            ('"a>b <sip:x@y>" <sip:r@lync.example;user=phone>;tag=1', "r@lync.example", None),
            ("sip:r@lync.example;tag=1", "r@lync.example", None),
            ("<sip:r@lync.example:5062>", "r@lync.example", None),
            ("<tel:+123>", "<tel:+123>", ""),
            ("", "", ""),
        ):
            found = address_of(value)
            self.assertEqual(found, (address, "lync.example" if domain is None else domain))

    def test_urgency(self) -> None:
        """Texts before the rest of dialogs before NOTIFY before SUBSCRIBE."""
        order = [urgency_of(m) for m in ("MESSAGE", "UPDATE", "NOTIFY", "SUBSCRIBE")]
        self.assertEqual(order, sorted(Urgency))
        for method in ("INVITE", "INFO", "BYE"):
            self.assertIs(urgency_of(method), Urgency.IM)


class UnknownUserTests(SynchronousTestCase):
    def test_not_asked_again(self) -> None:
        """Who does not exist is not asked for until the time is over, or something reaches him."""
        partner = budget(unknown=600.0)
        person = partner.person("nobody@lync.example")
        partner.no_such_user(person, NOW)
        self.assertEqual(partner.unknown_users(NOW), {"nobody@lync.example": NOW + 600})
        self.assertEqual(person.unknown_until, NOW + 600)
        partner.exists(person)
        self.assertEqual((partner.unknown_users(NOW), person.unknown_until), ({}, 0.0))
        partner.no_such_user(person, NOW)
        self.assertEqual(partner.unknown_users(NOW + 600), {})

    def test_operator_clears(self) -> None:
        """One user or all of them are asked for again."""
        partner = budget()
        people = [partner.person(f"u{number}@x.example") for number in range(3)]
        for person in people:
            partner.no_such_user(person, NOW)
        self.assertEqual(partner.forget_unknown("u1@x.example"), 1)
        self.assertEqual(partner.forget_unknown("u1@x.example"), 0)
        self.assertEqual([bool(each.unknown_until) for each in people], [True, False, True])
        self.assertEqual(partner.forget_unknown(), 2)
        self.assertEqual([each.unknown_until for each in people], [0.0] * 3)

    def test_bounded(self) -> None:
        """A flood of names fills no memory: the oldest is forgotten."""
        partner = budget()
        for number in range(10_005):
            partner.no_such_user(partner.person(f"u{number}@x.example"), NOW + number / 1000)
        unknown = partner.unknown_users(NOW + 11)
        self.assertEqual(len(unknown), 10_000)
        self.assertNotIn("u4@x.example", unknown)

    def test_off(self) -> None:
        """With no time to remember nobody is."""
        partner = budget(unknown=0.0)
        partner.no_such_user(partner.person("x@x.example"), NOW)
        self.assertEqual(partner.unknown_users(NOW), {})
