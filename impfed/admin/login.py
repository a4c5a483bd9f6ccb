"""Proof of who somebody is, without passwords: one-time links, then sessions.

A link is sent as an instant message to the user who asked for it; whoever presents its token is
that user.  Of tokens and session secrets only digests are kept.  They are in the store, so that behind a
balancer every node of a cluster knows them; a token is used up by one node alone.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.core.errors import ImpfedError
from impfed.core.ids import IdSource
from impfed.store.api import Change, Delete, Done, Put
from impfed.store.records import LoginLinkRecord, RecordType, WebSessionRecord
from impfed.xmpp.jid import JID

#: Seconds for which a link works.
LINK_LIFETIME = 300.0
#: Links that a user may ask for within :data:`RATE_WINDOW` seconds.
LINKS_PER_WINDOW = 5
RATE_WINDOW = 600.0
#: Seconds after which a session ends, however much it is used.
SESSION_LIFETIME = 8 * 3600.0
SESSIONS_PER_USER = 10
SESSIONS = 20_000

_OCTETS = 24
_ID = 16  # digits of a token that stand for its user
_USED = 60.0  # seconds after which a use of a session is written down again


class TooMany(ImpfedError):
    """Somebody asks too often.

    :ivar wait: seconds until he may ask again.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(f"too often; once more in {wait:.0f} s")
        self.wait = wait


class RateLimit:
    """So many times in so many seconds, for each user.

    :param seconds: the time, in seconds since the epoch.
    """

    def __init__(self, count: int, window: float, seconds: Callable[[], float]) -> None:
        self._count = count
        self._window = window
        self._seconds = seconds
        self._used: dict[JID, deque[float]] = {}
        self._forget_at = 0.0

    def take(self, user: JID) -> None:
        """Note a use.

        :raises TooMany: when it is one too many; it is not noted then.
        """
        now = self._seconds()
        self._forget(now)
        used = self._used.setdefault(user, deque())
        while used and used[0] <= now - self._window:
            used.popleft()
        if len(used) >= self._count:
            raise TooMany(used[0] + self._window - now)
        used.append(now)

    def _forget(self, now: float) -> None:
        """Drop users without recent use, once in a window."""
        if now < self._forget_at:
            return
        self._forget_at = now + self._window
        for user in [user for user, used in self._used.items() if used[-1] <= now - self._window]:
            del self._used[user]


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Records(Protocol):
    """The part of the store that is used here."""

    def write(self, changes: Sequence[Change], done: Done | None = None) -> None:
        """Make changes, all or none of them."""
        ...

    def load(self, kind: type[RecordType]) -> Deferred[list[RecordType]]:
        """Return every record of a kind."""
        ...

    def get(self, kind: type[RecordType], keys: Sequence[str]) -> Deferred[dict[str, RecordType]]:
        """Return the records of a kind that are there of some keys."""
        ...

    def pull(self, kind: type[RecordType], key: str) -> Deferred[RecordType | None]:
        """Remove a record and return it, once."""
        ...


def _written(store: Records, changes: Sequence[Change]) -> Deferred[None]:
    """Make changes; fires when they would outlive the process."""
    written: Deferred[None] = Deferred()

    def done(error: BaseException | None) -> None:
        if error is None:
            written.callback(None)
        else:
            written.errback(error)

    store.write(changes, done)
    return written


class LoginLinks:
    """One-time tokens, good at every node; a new one for a user makes his older one worthless."""

    def __init__(self, store: Records, ids: IdSource, seconds: Callable[[], float]) -> None:
        self._store = store
        self._ids = ids
        self._seconds = seconds
        self._rate = RateLimit(LINKS_PER_WINDOW, RATE_WINDOW, seconds)

    @inlineCallbacks
    def issue(self, user: JID) -> Any:
        """Fire with a token that stands for a user, once, for a while.

        Fails with :class:`TooMany` when he has asked too often.
        """
        self._rate.take(user)
        now = self._seconds()
        links = yield self._store.load(LoginLinkRecord)
        over: list[Change] = [
            Delete(LoginLinkRecord, each.key) for each in links if each.until <= now
        ]
        id, secret = _digest(str(user))[:_ID], self._ids.token(_OCTETS)
        record = LoginLinkRecord(
            id=id, user=str(user), digest=_digest(secret), until=now + LINK_LIFETIME
        )
        yield _written(self._store, [*over, Put(record)])
        return id + secret

    @inlineCallbacks
    def peek(self, token: str) -> Any:
        """Fire with whom a token stands for, without using it up; None when it is worthless."""
        found = yield self._store.get(LoginLinkRecord, [token[:_ID]])
        return self._whom(token, found.get(token[:_ID]))

    @inlineCallbacks
    def redeem(self, token: str) -> Any:
        """Fire with whom a token stands for, and make it worthless, at whichever node."""
        if (yield self.peek(token)) is None:
            return None  # who only knows the user must not spoil his link
        return self._whom(token, (yield self._store.pull(LoginLinkRecord, token[:_ID])))

    def _whom(self, token: str, record: LoginLinkRecord | None) -> JID | None:
        if record is None or record.until <= self._seconds():
            return None
        return JID.parse(record.user) if record.digest == _digest(token[_ID:]) else None


@dataclass(slots=True)
class Session:
    """Somebody who is logged in.

    :ivar record: as the store keeps it.
    """

    record: WebSessionRecord
    user: JID

    @property
    def csrf(self) -> str:
        """What stands in each form, and proves that our page made it."""
        return self.record.csrf


class Sessions:
    """Everybody who is logged in, at every node.

    :param idle: seconds without a request after which a session ends.
    :param sign: signs what a browser that is not logged in has for a cookie; the same at every node.
    """

    def __init__(
        self,
        store: Records,
        ids: IdSource,
        seconds: Callable[[], float],
        idle: float,
        sign: Callable[[str], str] | None = None,
    ) -> None:
        self._store = store
        self._ids = ids
        self._seconds = seconds
        self._idle = idle
        self._key = ids.token(32).encode()
        self._sign = sign or self._sign_alone

    @inlineCallbacks
    def begin(self, user: JID) -> Any:
        """Log a user in; fires with the secret for his cookie."""
        now = self._seconds()
        known = yield self._store.load(WebSessionRecord)
        over = [each for each in known if self._over(each, now)]
        left = sorted((each for each in known if each not in over), key=lambda each: each.begun)
        own = [each for each in left if each.user == str(user)]
        over += own[: max(0, len(own) - SESSIONS_PER_USER + 1)]
        over += left[: max(0, len(left) - SESSIONS + 1)]
        secret = self._ids.token(_OCTETS)
        record = WebSessionRecord(
            digest=_digest(secret),
            user=str(user),
            csrf=self._ids.token(_OCTETS),
            begun=now,
            used=now,
        )
        ended: list[Change] = [Delete(WebSessionRecord, each.key) for each in over]
        yield _written(self._store, [*ended, Put(record)])
        return secret

    @inlineCallbacks
    def find(self, secret: str) -> Any:
        """Fire with the session of a cookie, which counts as a use; None when it is over."""
        if not secret:
            return None
        digest = _digest(secret)
        record = (yield self._store.get(WebSessionRecord, [digest])).get(digest)
        if record is None:
            return None
        now = self._seconds()
        if self._over(record, now):
            self._store.write([Delete(WebSessionRecord, digest)])
            return None
        if now - record.used >= min(_USED, self._idle / 2):
            record.used = now
            self._store.write([Put(record)])
        return Session(record, JID.parse(record.user))

    def tell(self, session: Session, words: str) -> Deferred[None]:
        """Have a sentence shown on the user's next page, whichever node shows it."""
        session.record.notices = [*session.record.notices, words]
        return _written(self._store, [Put(session.record)])

    def told(self, session: Session) -> list[str]:
        """Return what is to be shown now, once."""
        notices, session.record.notices = session.record.notices, []
        if notices:
            self._store.write([Put(session.record)])
        return notices

    def end(self, secret: str) -> Deferred[None]:
        """Log somebody out."""
        return _written(self._store, [Delete(WebSessionRecord, _digest(secret))])

    @inlineCallbacks
    def end_all(self, user: JID) -> Any:
        """Log somebody out everywhere."""
        known = yield self._store.load(WebSessionRecord)
        own = [Delete(WebSessionRecord, each.key) for each in known if each.user == str(user)]
        yield _written(self._store, own)

    def _over(self, record: WebSessionRecord, now: float) -> bool:
        return now - record.used >= self._idle or now - record.begun >= SESSION_LIFETIME

    # Before anybody is logged in a form is tied to a browser by a cookie of its own.

    def new_visit(self) -> str:
        """Return a value for the cookie of a browser that is not logged in."""
        return self._ids.token(_OCTETS)

    def visit_csrf(self, visit: str) -> str:
        """Return what a form must carry that was shown to the browser with this cookie."""
        return self._sign(visit)

    def _sign_alone(self, visit: str) -> str:
        return hmac.new(self._key, visit.encode("utf-8", "surrogatepass"), sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare two secrets without telling by the time where they differ."""
    return bool(one) and hmac.compare_digest(_digest(one), _digest(other))
