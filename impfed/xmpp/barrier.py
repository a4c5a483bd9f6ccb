"""The acceptance barrier: how we learn that a home server has taken a message.

XEP-0114 acknowledges nothing.  But a home server handles what comes over one stream in order, and
an error about a message returns before the answer to what was asked after it.  So after a batch of
messages one ping (XEP-0199) is sent to the home domain; its answer, result or error, says that
every message before it was taken, except those for which an error stanza came first.

Pure: time is an argument, and what to send is told, not sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from impfed.xmpp.stanza import OutStanza, Stanza, error_of


class Outcome(Enum):
    """What became of a message."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNSURE = "unsure"
    NOT_SENT = "not sent"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message, and why.

    :ivar condition: stanza error condition of a refusal or of what was not sent, else "".
    :ivar type: error type of a refusal, else "".
    :ivar text: words of the refusal, or why we are unsure or did not send it.
    """

    outcome: Outcome
    condition: str = ""
    type: str = ""
    text: str = ""


ACCEPTED = Delivery(Outcome.ACCEPTED)


def refused(condition: str, type: str = "", text: str = "") -> Delivery:
    """Return a refusal."""
    return Delivery(Outcome.REFUSED, condition, type, text)


def not_sent(condition: str, reason: str) -> Delivery:
    """Return the outcome of a message that never left: there is no link, or it is full."""
    return Delivery(Outcome.NOT_SENT, condition, "wait", reason)


def unsure(reason: str) -> Delivery:
    """Return the outcome of a message that may or may not have arrived."""
    return Delivery(Outcome.UNSURE, text=reason)


class _Waiting:
    """A message whose outcome is open; ``twin`` is an older one with the same id and addresses."""

    __slots__ = ("done", "key", "sent", "twin")

    def __init__(self, key: _Key, done: Callable[[Delivery], None], sent: float) -> None:
        self.key = key
        self.done: Callable[[Delivery], None] | None = done
        self.sent = sent
        self.twin: _Waiting | None = None


_Key = tuple[str, str, str]


class AcceptanceBarrier:
    """The messages of one link whose outcome is open.  One ping is in flight at a time.

    :param timeout: seconds after which a message's outcome is given up as unsure.
    :param fault: called inside the ``except`` clause when a ``done`` function raises, to log it.
    """

    __slots__ = ("_by_key", "_fault", "_flying", "_ping", "_since", "_timeout")

    def __init__(self, timeout: float, fault: Callable[[], None]) -> None:
        self._timeout = timeout
        self._fault = fault
        self._by_key: dict[_Key, _Waiting] = {}
        self._flying: list[_Waiting] = []  # the ping in flight confirms these
        self._since: list[_Waiting] = []  # written after it; the next ping confirms them
        self._ping = ""

    def __len__(self) -> int:
        return len(self._flying) + len(self._since)

    def sent(self, stanza: OutStanza, done: Callable[[Delivery], None], now: float) -> None:
        """Take note of a message that is written now.  ``done`` is called exactly once."""
        key = _key_of(stanza)
        waiting = _Waiting(key, done, now)
        waiting.twin = self._by_key.get(key)
        self._by_key[key] = waiting
        self._since.append(waiting)

    @property
    def wants_ping(self) -> bool:
        """Whether a ping is to be written after what has been written so far."""
        return bool(self._since) and not self._ping

    def ping_sent(self, id: str) -> None:
        """Take note of a ping, written after every message so far."""
        self._ping = id
        self._flying, self._since = self._since, []

    def answered(self, id: str) -> bool:
        """Take an IQ of type result or error; returns whether it was the ping's answer."""
        if not self._ping or id != self._ping:
            return False
        self._ping = ""
        flying, self._flying = self._flying, []
        for waiting in flying:
            self._finish(waiting, ACCEPTED)
        return True

    def decided(self, stanza: OutStanza, delivery: Delivery) -> bool:
        """Take what became of a message from whoever knows; returns whether that was open.

        Of several messages with one id it is the oldest.
        """
        waiting = self._by_key.get(_key_of(stanza))
        open = waiting is not None
        while waiting is not None and waiting.twin is not None and waiting.twin.done is not None:
            waiting = waiting.twin
        if waiting is not None:
            self._finish(waiting, delivery)
        for waits in (self._flying, self._since):
            count = next((i for i, one in enumerate(waits) if one.done is not None), len(waits))
            del waits[:count]
        return open

    def waits_for(self, stanza: OutStanza) -> bool:
        """Say whether the outcome of a message is open."""
        return _key_of(stanza) in self._by_key

    def refused(self, stanza: Stanza) -> bool:
        """Take a message of type error; returns whether it decided an open outcome."""
        waiting = self._by_key.get((stanza.id, stanza.from_.bare.text, stanza.to.bare.text))
        if waiting is None:
            return False
        error = error_of(stanza)
        delivery = Delivery(Outcome.REFUSED, error.condition, error.type, error.text)
        while waiting is not None:
            # Which of several messages with one id was meant, nobody can tell: all are refused.
            twin = waiting.twin
            self._finish(waiting, delivery)
            waiting = twin
        return True

    @property
    def deadline(self) -> float | None:
        """When :meth:`expire` is due; None while no outcome is open."""
        oldest = self._flying or self._since
        return oldest[0].sent + self._timeout if oldest else None

    def expire(self, now: float) -> int:
        """Give up what has waited too long; returns how many.  A late answer finds nothing."""
        limit = now - self._timeout
        late = [waiting for waiting in self._flying if waiting.sent <= limit]
        if late:
            self._flying = [waiting for waiting in self._flying if waiting.sent > limit]
            if not self._flying:
                self._ping = ""
        late_since = [waiting for waiting in self._since if waiting.sent <= limit]
        if late_since:
            self._since = [waiting for waiting in self._since if waiting.sent > limit]
        count = 0
        for waiting in late + late_since:
            if waiting.done is not None:
                count += 1
            self._finish(waiting, unsure(f"no confirmation within {self._timeout:g} s"))
        return count

    def lost(self, reason: str) -> None:
        """Give up everything: the link is gone."""
        waiting = self._flying + self._since
        self._flying, self._since, self._ping = [], [], ""
        for each in waiting:
            self._finish(each, unsure(reason))

    def _finish(self, waiting: _Waiting, delivery: Delivery) -> None:
        done, waiting.done = waiting.done, None
        if done is None:
            return  # refused before
        waiting.twin = None
        if self._by_key.get(waiting.key) is waiting:
            del self._by_key[waiting.key]
        try:
            done(delivery)
        except Exception:
            self._fault()  # the outcomes of the others must still be told


def _key_of(stanza: OutStanza) -> _Key:
    return (stanza.id, stanza.to.bare.text, stanza.from_.bare.text)
