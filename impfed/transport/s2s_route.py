"""The way from one of our domains to a foreign one: what waits for a stream, and the stream itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol

from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.transport.backoff import Backoff
from impfed.transport.s2s_api import Fate, S2SContext
from impfed.transport.s2s_connection import S2SConnection
from impfed.transport.s2s_dial import Dialer
from impfed.xmpp.s2s_parts import S2SEvent
from impfed.xmpp.stanza import OutStanza

log = EventLog("impfed.s2s")


class RouteState(Enum):
    """Where a way stands."""

    IDLE = "no stream, none wanted"
    DIALLING = "a stream is being made"
    UP = "a stream stands"
    WAITING = "the next attempt is due later"


class Waiting(NamedTuple):
    """A stanza that waits.

    :ivar due: when it is returned at the latest, or, if it may wait for longer, looked at again.
    :ivar last: until when it may wait.
    """

    stanza: OutStanza
    due: float
    last: float


class RouteOwner(Protocol):
    """What a way needs of the service.

    :ivar stopping: whether nothing new is begun any more.
    """

    stopping: bool

    def flush_later(self, connection: S2SConnection) -> None:
        """Write a stream's output at the end of this reactor turn."""

    def stream_opened(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """Take over an outgoing stream that is open."""

    def tell(self, stanza: OutStanza, fate: Fate) -> None:
        """Tell how a stanza stands."""

    def bounce(self, stanza: OutStanza, condition: str, words: str) -> None:
        """Return a stanza to its sender."""

    def route_failed(self, route: Route, words: str, lasting: bool) -> None:
        """No stream came about."""


class Route:
    """Everything from ``local`` to ``remote``.

    :ivar carrier: the stream in use; None without one.
    :ivar reason: why the last attempt failed, in words; "" while all is well.
    """

    def __init__(self, owner: RouteOwner, context: S2SContext, local: str, remote: str) -> None:
        self.local = local
        self.remote = remote
        self.state = RouteState.IDLE
        self.reason = ""
        self.since = context.timers.seconds()
        self.carrier: S2SConnection | None = None
        self._owner = owner
        self._context = context
        self._queue: deque[Waiting] = deque()
        self._octets = 0
        # Who waits sees at least two attempts, however long the peer has been away before.
        self._backoff = Backoff(context.ids, limit=context.limits.patience / 3.0)
        self._dialer: Dialer | None = None
        self._timer: Timer | None = None
        self._retry_at = 0.0
        self._lasting = ""  # condition with which stanzas are returned until the next attempt
        self._up_since = 0.0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost if it were forgotten."""
        return self.carrier is None and self._dialer is None and not self._queue

    # -- stanzas -------------------------------------------------------------------------------

    def send(self, stanza: OutStanza) -> None:
        """Send a stanza, now or when there is a stream; else it is returned to its sender."""
        carrier = self.carrier
        if carrier is not None and not self._queue and carrier.ready:
            self._hand_over(carrier, stanza)
            if not carrier.dirty:
                carrier.dirty = True
                self._owner.flush_later(carrier)
            return
        now = self._context.timers.seconds()
        if self._lasting and now < self._retry_at and carrier is None:
            self._owner.bounce(stanza, self._lasting, self.reason)
            return
        limits = self._context.limits
        if len(self._queue) >= limits.queue or self._octets >= limits.queue_octets:
            self._context.metrics.count("s2s.queue_full")
            words = f"too much waits for {self.remote}"
            self._owner.bounce(stanza, "resource-constraint", words)
            return
        self._queue.append(self._waiting(stanza, now))
        self._octets += len(stanza.xml)
        self._owner.tell(stanza, Fate.WAITING)
        if self.state is RouteState.IDLE:
            self._dial()
        self._watch()

    def _waiting(self, stanza: OutStanza, now: float) -> Waiting:
        limits = self._context.limits
        last = now + (limits.errors if stanza.tells_of_failure else limits.patience)
        return Waiting(stanza, now + limits.patience, last)

    def _hand_over(self, carrier: S2SConnection, stanza: OutStanza) -> None:
        carrier.send(stanza)
        if not carrier.stream.acks.sending:
            self._owner.tell(stanza, Fate.WRITTEN)

    def pump(self) -> None:
        """Hand what waits to the stream, as far as it takes it."""
        carrier = self.carrier
        if carrier is None:
            return
        sent = False
        while self._queue and carrier.ready:
            waiting = self._queue.popleft()
            self._octets -= len(waiting.stanza.xml)
            self._hand_over(carrier, waiting.stanza)
            sent = True
        if sent and not carrier.dirty:
            carrier.dirty = True
            self._owner.flush_later(carrier)

    # -- streams -------------------------------------------------------------------------------

    def use(self, connection: S2SConnection) -> None:
        """Send over this stream from now on, unless there is one already."""
        if self.carrier is not None and not self.carrier.closing:
            return
        self.carrier = connection
        if self._dialer is not None:
            # The peer was faster: a stream both ways has come from it.
            self._dialer.cancel()
            self._dialer = None
        self._up_since = self._context.timers.seconds()
        self._lasting = ""
        self._set_state(RouteState.UP, "")
        self.pump()

    def lost(self, connection: S2SConnection, words: str) -> None:
        """A stream is gone; what it has not acknowledged is sent again, once."""
        if self.carrier is not connection:
            return
        self.carrier = None
        now = self._context.timers.seconds()
        if now - self._up_since >= self._context.limits.stable:
            self._backoff.reset()
        self._set_state(RouteState.IDLE, words if self._queue else "")
        self._take_back(connection, now)
        if self._queue:
            if now - self._up_since >= self._context.limits.stable:
                self._dial()
            else:
                self._wait(words, "")
        self._watch()

    def _take_back(self, connection: S2SConnection, now: float) -> None:
        left = connection.stream.left()
        for stanza in reversed(left):
            if (stanza.from_.domain, stanza.to.domain) == (self.local, self.remote):
                self._queue.appendleft(self._waiting(stanza, now))
                self._octets += len(stanza.xml)
                self._owner.tell(stanza, Fate.WAITING)
        if left:
            self._context.metrics.count("s2s.sent_again", len(left))

    def _dial(self) -> None:
        if self._owner.stopping:
            return
        self._set_state(RouteState.DIALLING, self.reason)
        dialer = self._dialer = Dialer(self, self._context, self.local, self.remote)
        dialer.start()

    def dial_opened(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """Take the new stream."""
        self._dialer = None
        self._owner.stream_opened(connection, events)

    def dial_failed(self, condition: str, words: str, lasting: bool) -> None:
        """Wait for the next attempt; where that is unlikely to help, return what waits."""
        self._dialer = None
        self._context.metrics.count("s2s.connect_failed")
        self._wait(words, condition if lasting else "")
        log.warn(
            "stream_failed",
            "no stream from {local} to {remote}: {reason}; next try in {delay:.1f} s at the earliest",
            local=self.local,
            remote=self.remote,
            reason=words,
            delay=self._retry_at - self._context.timers.seconds(),
        )
        if lasting:
            self.give_back(condition, words)
        self._owner.route_failed(self, words, lasting)
        self._watch()

    def _wait(self, words: str, lasting: str) -> None:
        self._lasting = lasting
        delay = self._backoff.next(bool(lasting))
        self._retry_at = self._context.timers.seconds() + delay
        self._set_state(RouteState.WAITING, words)

    # -- time ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        """See that one timer stands at the next time something is due."""
        due = [self._queue[0].due] if self._queue else []
        if self.state is RouteState.WAITING:
            due.append(self._retry_at)
        if self._timer is not None:
            if due and self._timer.active and self._timer.when <= min(due):
                return
            self._timer.cancel()
            self._timer = None
        if due and not self._owner.stopping:
            delay = max(0.0, min(due) - self._context.timers.seconds())
            self._timer = self._context.timers.after(delay, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._context.timers.seconds()
        while self._queue and self._queue[0].due <= now:
            waiting = self._queue.popleft()
            if now < waiting.last:
                self._queue.append(waiting._replace(due=now + self._context.limits.patience))
                continue
            self._octets -= len(waiting.stanza.xml)
            words = self.reason or f"no stream to {self.remote} in time"
            self._owner.bounce(waiting.stanza, "remote-server-timeout", words)
        if self.state is RouteState.WAITING and now >= self._retry_at:
            if self._queue:
                self._dial()
            else:
                self._set_state(RouteState.IDLE, self.reason)
        self._watch()

    def give_back(self, condition: str, words: str) -> None:
        """Return everything that waits."""
        queue, self._queue = self._queue, deque()
        self._octets = 0
        for waiting in queue:
            self._owner.bounce(waiting.stanza, condition, words)

    def withdraw(self, unwanted: Callable[[OutStanza], bool]) -> None:
        """Forget what waits and is not to be sent any more; nobody is told."""
        self._queue = deque(one for one in self._queue if not unwanted(one.stanza))
        self._octets = sum(len(one.stanza.xml) for one in self._queue)

    def stop(self, words: str) -> None:
        """End all attempts, and return what waits."""
        if self._dialer is not None:
            self._dialer.cancel(words)
            self._dialer = None
        self.give_back("remote-server-timeout", words)
        self._set_state(RouteState.IDLE, words)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- words ---------------------------------------------------------------------------------

    def _set_state(self, state: RouteState, reason: str) -> None:
        if state is not self.state:
            self.since = self._context.timers.seconds()
        self.state = state
        self.reason = reason

    def status(self) -> dict[str, Any]:
        """Return what an operator wants to know."""
        status: dict[str, Any] = {
            "local": self.local,
            "remote": self.remote,
            "direction": "out",
            "state": self.state.value,
            "since": self.since,
            "reason": self.reason,
            "waiting": len(self._queue),
        }
        if self.carrier is not None:
            status |= {
                "address": self.carrier.remote_address,
                "tls": self.carrier.encryption,
                "unacknowledged": len(self.carrier.stream.acks.waiting),
            }
        if self.state is RouteState.WAITING:
            status["retry_at"] = self._retry_at
        return status
