"""One-time links, sessions and how often somebody may ask."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from impfed.admin import login
from impfed.admin.login import LoginLinks, RateLimit, Sessions, TooMany, same
from impfed.core.ids import IdSource
from impfed.xmpp.jid import JID
from tests.admin.kit import ALICE, CAROL


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.links = LoginLinks(IdSource(), self.clock.seconds)

    def test_tokens_cannot_be_guessed(self) -> None:
        """A token has 192 bits of chance."""
        tokens = {self.links.issue(JID.parse(f"u{i}@home.example")) for i in range(100)}
        self.assertEqual(len(tokens), 100)
        self.assertEqual({len(token) for token in tokens}, {48})

    def test_token_itself_is_not_kept(self) -> None:
        """Whoever reads the memory of the process finds digests only."""
        token = self.links.issue(ALICE)
        self.assertNotIn(token, repr(vars(self.links)))

    def test_rate(self) -> None:
        """A user gets five links in ten minutes; another one is not concerned."""
        for _ in range(5):
            self.links.issue(ALICE)
            self.clock.advance(60)
        with self.assertRaises(TooMany) as caught:
            self.links.issue(ALICE)
        self.assertEqual(caught.exception.wait, 300)
        self.links.issue(CAROL)
        self.clock.advance(300)
        self.links.issue(ALICE)

    def test_refusal_leaves_the_last_link(self) -> None:
        """Asking too often does not make the link worthless that one has."""
        tokens = [self.links.issue(ALICE) for _ in range(5)]
        self.assertRaises(TooMany, self.links.issue, ALICE)
        self.assertEqual([self.links.peek(token) for token in tokens], [None] * 4 + [ALICE])

    def test_expired_links_are_forgotten(self) -> None:
        """Links that nobody used do not gather."""
        for number in range(50):
            self.links.issue(JID.parse(f"u{number}@home.example"))
            self.clock.advance(100)
        self.assertLessEqual(len(self.links._tokens), 4)
        self.assertLessEqual(len(self.links._latest), 4)

    def test_rates_are_forgotten(self) -> None:
        """Users who asked once do not gather either."""
        rate = RateLimit(1, 10.0, self.clock.seconds)
        for number in range(50):
            rate.take(JID.parse(f"u{number}@home.example"))
            self.clock.advance(10)
        self.assertLessEqual(len(rate._used), 3)


class SessionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sessions = Sessions(IdSource(), self.clock.seconds, 1800.0)

    def test_each_has_its_own_secrets(self) -> None:
        """Two sessions of a user share neither cookie nor form token."""
        one, two = self.sessions.begin(ALICE), self.sessions.begin(ALICE)
        self.assertNotEqual(one, two)
        self.assertNotEqual(self.sessions.find(one).csrf, self.sessions.find(two).csrf)

    def test_unknown(self) -> None:
        """No cookie and an invented one are nobody's."""
        self.assertIsNone(self.sessions.find(""))
        self.assertIsNone(self.sessions.find("0" * 48))

    def test_bounds(self) -> None:
        """A user's eleventh session ends his oldest; nobody else's."""
        other = self.sessions.begin(CAROL)
        secrets = [self.sessions.begin(ALICE) for _ in range(11)]
        self.assertIsNone(self.sessions.find(secrets[0]))
        self.assertIsNotNone(self.sessions.find(secrets[1]))
        self.assertIsNotNone(self.sessions.find(other))
        self.patch(login, "SESSIONS", 11)
        self.sessions.begin(JID.parse("bob@home.example"))
        self.assertEqual(len(self.sessions), 11)

    def test_over_is_forgotten(self) -> None:
        """Sessions that are over make room."""
        self.sessions.begin(ALICE)
        self.clock.advance(1800)
        self.sessions.begin(CAROL)
        self.assertEqual(len(self.sessions), 1)

    def test_visits(self) -> None:
        """A form token fits the cookie that it was made for, and no other process's."""
        visit = self.sessions.new_visit()
        token = self.sessions.visit_csrf(visit)
        self.assertEqual(token, self.sessions.visit_csrf(visit))
        self.assertNotEqual(token, self.sessions.visit_csrf(self.sessions.new_visit()))
        other = Sessions(IdSource(), self.clock.seconds, 1800.0)
        self.assertNotEqual(token, other.visit_csrf(visit))

    def test_same(self) -> None:
        """Equal secrets are the same; nothing is the same as nothing."""
        self.assertTrue(same("a", "a"))
        self.assertFalse(same("a", "b"))
        self.assertFalse(same("", ""))
        self.assertFalse(same("a", "\udcff"))
