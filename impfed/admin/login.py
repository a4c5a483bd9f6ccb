"""Proof of who somebody is, without passwords: one-time links, then sessions.

A link is sent as an instant message to the user who asked for it; whoever presents its token is
that user.  Of tokens and session secrets only digests are kept, and only in memory: with the end of
the process everybody is logged out.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from impfed.core.errors import ImpfedError
from impfed.core.ids import IdSource
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


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


class LoginLinks:
    """One-time tokens; a new one for a user makes his older one worthless."""

    def __init__(self, ids: IdSource, seconds: Callable[[], float]) -> None:
        self._ids = ids
        self._seconds = seconds
        self._rate = RateLimit(LINKS_PER_WINDOW, RATE_WINDOW, seconds)
        self._tokens: dict[bytes, tuple[JID, float]] = {}
        self._latest: dict[JID, bytes] = {}

    def issue(self, user: JID) -> str:
        """Return a token that stands for a user, once, for a while.

        :raises TooMany: when he has asked too often.
        """
        self._rate.take(user)
        self._expire()
        self._tokens.pop(self._latest.get(user, b""), None)
        token = self._ids.token(_OCTETS)
        digest = _digest(token)
        self._tokens[digest] = (user, self._seconds() + LINK_LIFETIME)
        self._latest[user] = digest
        return token

    def peek(self, token: str) -> JID | None:
        """Return whom a token stands for, without using it up; None when it is worthless."""
        found = self._tokens.get(_digest(token))
        return found[0] if found is not None and found[1] > self._seconds() else None

    def redeem(self, token: str) -> JID | None:
        """Return whom a token stands for, and make it worthless."""
        user = self.peek(token)
        found = self._tokens.pop(_digest(token), None)
        if found is not None:
            self._latest.pop(found[0], None)
        return user

    def _expire(self) -> None:
        now = self._seconds()
        for digest, (user, until) in list(self._tokens.items()):
            if until > now:
                break  # they are in the order of their issue
            del self._tokens[digest]
            self._latest.pop(user, None)


@dataclass(slots=True)
class Session:
    """Somebody who is logged in.

    :ivar csrf: stands in each form, and proves that our page made it.
    :ivar notices: sentences to be shown on the next page.
    """

    user: JID
    csrf: str
    begun: float
    used: float
    notices: list[str] = field(default_factory=list)


class Sessions:
    """Everybody who is logged in.

    :param idle: seconds without a request after which a session ends.
    """

    def __init__(self, ids: IdSource, seconds: Callable[[], float], idle: float) -> None:
        self._ids = ids
        self._seconds = seconds
        self._idle = idle
        self._key = ids.token(32).encode()
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, user: JID) -> str:
        """Log a user in; returns the secret for his cookie."""
        now = self._seconds()
        self._expire(now)
        own = [digest for digest, each in self._sessions.items() if each.user == user]
        for digest in own[: max(0, len(own) - SESSIONS_PER_USER + 1)]:
            del self._sessions[digest]
        if len(self._sessions) >= SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        secret = self._ids.token(_OCTETS)
        self._sessions[_digest(secret)] = Session(user, self._ids.token(_OCTETS), now, now)
        return secret

    def find(self, secret: str) -> Session | None:
        """Return the session of a cookie, which counts as a use; None when it is over."""
        if not secret:
            return None
        digest = _digest(secret)
        session = self._sessions.get(digest)
        if session is None:
            return None
        now = self._seconds()
        if self._over(session, now):
            del self._sessions[digest]
            return None
        session.used = now
        return session

    def end(self, secret: str) -> None:
        """Log somebody out."""
        self._sessions.pop(_digest(secret), None)

    def end_all(self, user: JID) -> None:
        """Log somebody out everywhere."""
        for digest in [key for key, each in self._sessions.items() if each.user == user]:
            del self._sessions[digest]

    def _over(self, session: Session, now: float) -> bool:
        return now - session.used >= self._idle or now - session.begun >= SESSION_LIFETIME

    def _expire(self, now: float) -> None:
        for digest in [key for key, each in self._sessions.items() if self._over(each, now)]:
            del self._sessions[digest]

    # Before anybody is logged in a form is tied to a browser by a cookie of its own.

    def new_visit(self) -> str:
        """Return a value for the cookie of a browser that is not logged in."""
        return self._ids.token(_OCTETS)

    def visit_csrf(self, visit: str) -> str:
        """Return what a form must carry that was shown to the browser with this cookie."""
        return hmac.new(self._key, visit.encode("utf-8", "surrogatepass"), sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare two secrets without telling by the time where they differ."""
    return bool(one) and hmac.compare_digest(_digest(one), _digest(other))
