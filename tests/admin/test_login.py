"""One-time links, sessions and how often somebody may ask."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from impfed.admin import login
from impfed.admin.login import LoginLinks, RateLimit, Session, Sessions, TooMany, same
from impfed.core.ids import IdSource
from impfed.store.memory import MemoryStore
from impfed.store.records import LoginLinkRecord, WebSessionRecord
from impfed.xmpp.jid import JID
from tests.admin.kit import ALICE, CAROL


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.store.start()
        self.links = LoginLinks(self.store, IdSource(), self.clock.seconds)

    def test_tokens_cannot_be_guessed(self) -> None:
        """A token has 192 bits of chance."""
        tokens = {
            self.successResultOf(self.links.issue(JID.parse(f"u{i}@home.example")))
            for i in range(100)
        }
        self.assertEqual(len(tokens), 100)
        self.assertEqual({len(token) for token in tokens}, {16 + 48})

    def test_token_itself_is_not_kept(self) -> None:
        """Whoever reads the store finds digests only."""
        token = self.successResultOf(self.links.issue(ALICE))
        (record,) = self.successResultOf(self.store.load(LoginLinkRecord))
        self.assertNotIn(token[16:], repr(record))

    def test_rate(self) -> None:
        """A user gets five links in ten minutes; another one is not concerned."""
        for _ in range(5):
            self.successResultOf(self.links.issue(ALICE))
            self.clock.advance(60)
        failure = self.failureResultOf(self.links.issue(ALICE), TooMany)
        self.assertEqual(failure.value.wait, 300)
        self.successResultOf(self.links.issue(CAROL))
        self.clock.advance(300)
        self.successResultOf(self.links.issue(ALICE))

    def test_refusal_leaves_the_last_link(self) -> None:
        """Asking too often does not make the link worthless that one has."""
        tokens = [self.successResultOf(self.links.issue(ALICE)) for _ in range(5)]
        self.failureResultOf(self.links.issue(ALICE), TooMany)
        self.assertEqual(
            [self.successResultOf(self.links.peek(token)) for token in tokens], [None] * 4 + [ALICE]
        )

    def test_once_anywhere(self) -> None:
        """Of two nodes that a link comes to at the same time only one lets its owner in."""
        token = self.successResultOf(self.links.issue(ALICE))
        other = LoginLinks(self.store, IdSource(), self.clock.seconds)
        self.assertEqual(self.successResultOf(other.peek(token)), ALICE)
        users = [self.successResultOf(each.redeem(token)) for each in (other, self.links)]
        self.assertEqual(users, [ALICE, None])

    def test_not_spoilt(self) -> None:
        """Whoever guesses for whom a link is cannot use it up."""
        token = self.successResultOf(self.links.issue(ALICE))
        self.assertIsNone(self.successResultOf(self.links.redeem(token[:16] + "0" * 48)))
        self.assertEqual(self.successResultOf(self.links.redeem(token)), ALICE)

    def test_expired_links_are_forgotten(self) -> None:
        """Links that nobody used do not gather."""
        for number in range(50):
            self.successResultOf(self.links.issue(JID.parse(f"u{number}@home.example")))
            self.clock.advance(100)
        self.assertLessEqual(len(self.successResultOf(self.store.load(LoginLinkRecord))), 4)

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
        self.store = MemoryStore()
        self.store.start()
        self.sessions = Sessions(self.store, IdSource(), self.clock.seconds, 1800.0)

    def begin(self, user: JID) -> str:
        """Log a user in, a moment after whoever came before."""
        self.clock.advance(1)
        secret: str = self.successResultOf(self.sessions.begin(user))
        return secret

    def find(self, secret: str) -> Session | None:
        """Return the session of a cookie."""
        session: Session | None = self.successResultOf(self.sessions.find(secret))
        return session

    def test_each_has_its_own_secrets(self) -> None:
        """Two sessions of a user share neither cookie nor form token."""
        one, two = self.begin(ALICE), self.begin(ALICE)
        self.assertNotEqual(one, two)
        self.assertNotEqual(self.find(one).csrf, self.find(two).csrf)

    def test_unknown(self) -> None:
        """No cookie and an invented one are nobody's."""
        self.assertIsNone(self.find(""))
        self.assertIsNone(self.find("0" * 48))

    def test_bounds(self) -> None:
        """A user's eleventh session ends his oldest; nobody else's."""
        other = self.begin(CAROL)
        secrets = [self.begin(ALICE) for _ in range(11)]
        self.assertIsNone(self.find(secrets[0]))
        self.assertIsNotNone(self.find(secrets[1]))
        self.assertIsNotNone(self.find(other))
        self.patch(login, "SESSIONS", 11)
        self.begin(JID.parse("bob@home.example"))
        self.assertEqual(len(self.successResultOf(self.store.load(WebSessionRecord))), 11)

    def test_over_is_forgotten(self) -> None:
        """Sessions that are over make room."""
        self.begin(ALICE)
        self.clock.advance(1800)
        self.begin(CAROL)
        self.assertEqual(len(self.successResultOf(self.store.load(WebSessionRecord))), 1)

    def test_visits(self) -> None:
        """A form token fits the cookie that it was made for, and no other process's."""
        visit = self.sessions.new_visit()
        token = self.sessions.visit_csrf(visit)
        self.assertEqual(token, self.sessions.visit_csrf(visit))
        self.assertNotEqual(token, self.sessions.visit_csrf(self.sessions.new_visit()))
        other = Sessions(self.store, IdSource(), self.clock.seconds, 1800.0)
        self.assertNotEqual(token, other.visit_csrf(visit))

    def test_visits_of_a_cluster(self) -> None:
        """Nodes that share a secret know each other's form tokens."""
        one, other = (
            Sessions(self.store, IdSource(), self.clock.seconds, 1800.0, sign=str.upper)
            for _ in range(2)
        )
        self.assertEqual(one.visit_csrf("visit"), other.visit_csrf("visit"))

    def test_known_everywhere(self) -> None:
        """Who has logged in at one node is known at another, and told there what was done."""
        other = Sessions(self.store, IdSource(), self.clock.seconds, 1800.0)
        secret = self.begin(ALICE)
        session = self.successResultOf(other.find(secret))
        self.successResultOf(other.tell(session, "Done."))
        shown = self.find(secret)
        self.assertEqual((shown.user, self.sessions.told(shown)), (ALICE, ["Done."]))
        self.assertEqual(self.sessions.told(self.successResultOf(other.find(secret))), [])
        self.successResultOf(other.end(secret))
        self.assertIsNone(self.find(secret))

    def test_used(self) -> None:
        """A session that is used lives on, though not every use is written down."""
        secret = self.begin(ALICE)
        for _ in range(10):
            self.clock.advance(1000)
            self.assertIsNotNone(self.find(secret))
        self.clock.advance(1800)
        self.assertIsNone(self.find(secret))

    def test_same(self) -> None:
        """Equal secrets are the same; nothing is the same as nothing."""
        self.assertTrue(same("a", "a"))
        self.assertFalse(same("a", "b"))
        self.assertFalse(same("", ""))
        self.assertFalse(same("a", "\udcff"))
