"""Which machines of ours answer: each is asked with OPTIONS all the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from impfed.core.hosts import bracketed
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.timers import Timer
from impfed.sip.message import SipResponse
from impfed.sip.outgoing import OutgoingRequest, options_request
from impfed.sip.transaction import ClientTransaction, FailureCause
from impfed.transport.timers import ReactorTimers

#: Answers that mean that the machine is there, but does not want to work.
_OUT_OF_SERVICE = frozenset((408, 500, 502, 503, 504))


class Watchable(Protocol):
    """A machine that is asked."""

    @property
    def name(self) -> str:
        """Its name in logs and status."""
        ...

    @property
    def transport(self) -> str:
        """ "tls" or "tcp"."""
        ...

    @property
    def host(self) -> str:
        """Where it is connected to."""
        ...

    @property
    def port(self) -> int:
        """Where it is connected to."""
        ...


_Target = TypeVar("_Target", bound=Watchable)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How machines are asked.

    :ivar interval: seconds from one check to the next.
    :ivar timeout: seconds that an answer may take.
    :ivar falls: checks in a row that have to fail before a machine counts as down.
    :ivar rises: checks in a row that have to succeed before it counts as up again.
    :ivar domain: a domain of ours, in whose name is asked.
    :ivar while_down: seconds between checks of one that is down; 0 for ``interval``.
    """

    interval: float
    timeout: float
    falls: int
    rises: int
    domain: str
    while_down: float = 0.0


@dataclass(slots=True, eq=False)
class _Watched(Generic[_Target]):
    """A target and what its checks said."""

    target: _Target
    up: bool = True
    streak: int = 0  # checks in a row that say the contrary of ``up``
    since: float = 0.0
    reason: str = "not checked yet"
    check: _Check[_Target] | None = None
    timer: Timer | None = None


class HealthChecks(Generic[_Target]):
    """Asks every target again and again; until it knows better it takes all of them as up.

    :param ask: sends a request to a target; its user is told what comes of it.
    :param changed: called with a target's name when it has gone up or down.
    :param room: "edge" or "proxy": under that name are counters and lines in the log.
    """

    def __init__(
        self,
        targets: Iterable[_Target],
        rhythm: Rhythm,
        ask: Callable[[_Target, OutgoingRequest, Any], None],
        timers: ReactorTimers,
        ids: IdSource,
        metrics: Metrics,
        changed: Callable[[str, bool], None] = lambda name, up: None,
        room: str = "edge",
    ) -> None:
        self._rhythm = rhythm
        self._room = room
        self._log = EventLog(f"impfed.{room}")
        self._ask_target = ask
        self._timers = timers
        self._ids = ids
        self._metrics = metrics
        self._changed = changed
        self._watched = {target.name: _Watched(target) for target in targets}
        self._running = False

    def up(self, name: str) -> bool:
        """Say whether a target answers."""
        return self._watched[name].up

    def start(self) -> None:
        """Ask from now on."""
        self._running = True
        now = self._timers.seconds()
        for watched in self._watched.values():
            watched.since = now
            self._ask(watched)

    def stop(self) -> None:
        """Ask no longer."""
        self._running = False
        for watched in self._watched.values():
            watched.check = None
            self._cancel(watched)

    def suspect(self, name: str) -> None:
        """Something was wrong with a target: ask it now, unless it is being asked."""
        watched = self._watched[name]
        if self._running and watched.check is None:
            self._ask(watched)

    def heard(self, name: str) -> None:
        """Take what a target has sent of its own for an answer, if it counts as down."""
        watched = self._watched[name]
        if self._running and not watched.up:
            watched.check = watched.check or _Check(self, watched)
            self.told(watched, watched.check, "")

    def reason(self, name: str) -> str:
        """Return what was wrong with a target when it was asked last; "" for nothing."""
        return self._watched[name].reason

    def status(self) -> Iterable[tuple[_Target, dict[str, Any]]]:
        """Return what is known of each target."""
        for watched in self._watched.values():
            target = watched.target
            yield (
                target,
                {
                    "name": target.name,
                    "address": f"{target.transport}:{bracketed(target.host)}:{target.port}",
                    "state": "up" if watched.up else "down",
                    "since": watched.since,
                    "reason": watched.reason,
                },
            )

    # -- one check ---------------------------------------------------------------------------------

    def _ask(self, watched: _Watched[_Target]) -> None:
        self._cancel(watched)
        check = watched.check = _Check(self, watched)
        self._metrics.count(f"{self._room}.checks")
        wait = self._rhythm.timeout
        watched.timer = self._timers.after(wait, self._late, watched, check)
        self._ask_target(watched.target, self._options(watched.target), check)

    def _options(self, target: _Target) -> OutgoingRequest:
        uri = f"sip:{bracketed(target.host)}:{target.port};transport={target.transport}"
        return options_request(uri, self._rhythm.domain, self._ids.call_id(), self._ids.tag())

    def _late(self, watched: _Watched[_Target], check: _Check[_Target]) -> None:
        self.told(watched, check, f"no answer to OPTIONS within {self._rhythm.timeout:g} s")

    def told(self, watched: _Watched[_Target], check: _Check[_Target], trouble: str) -> None:
        """Take the outcome of a check.

        :param trouble: why it failed, in words; "" when the target has answered.
        """
        if watched.check is not check:
            return  # it was late, and counted
        watched.check = None
        self._cancel(watched)
        rhythm = self._rhythm
        good = not trouble
        pause = rhythm.interval if good else rhythm.while_down or rhythm.interval
        watched.timer = self._timers.after(pause, self._ask, watched)
        watched.reason = trouble
        if good is watched.up:
            watched.streak = 0
            return
        watched.streak += 1
        if watched.streak >= (rhythm.rises if good else rhythm.falls):
            self._turn(watched, good)
        elif not good and rhythm.falls > 1:
            # A connection that is refused says so at once: do not wait a whole interval to be sure.
            watched.timer.cancel()
            pause = min(rhythm.interval, 1.0)
            watched.timer = self._timers.after(pause, self._ask, watched)

    def _turn(self, watched: _Watched[_Target], up: bool) -> None:
        watched.up, watched.streak, watched.since = up, 0, self._timers.seconds()
        self._metrics.count(f"{self._room}.targets_{'up' if up else 'down'}")
        name = watched.target.name
        if up:
            self._log.info("target_up", "{target} answers again", target=name)
        else:
            self._log.warn(
                "target_down",
                "{target} gets no new requests: {why}",
                target=name,
                why=watched.reason,
            )
        self._changed(name, up)

    @staticmethod
    def _cancel(watched: _Watched[_Target]) -> None:
        timer, watched.timer = watched.timer, None
        if timer is not None:
            timer.cancel()


class _Check(Generic[_Target]):
    """The user of one OPTIONS."""

    __slots__ = ("_checks", "_watched")

    def __init__(self, checks: HealthChecks[_Target], watched: _Watched[_Target]) -> None:
        self._checks = checks
        self._watched = watched

    def response_arrived(self, transaction: ClientTransaction, response: SipResponse) -> None:
        """The target has answered; whatever it is, it is alive."""
        if response.status < 200:
            return
        out = response.status in _OUT_OF_SERVICE
        trouble = f"OPTIONS was answered with {response.status}" if out else ""
        self._checks.told(self._watched, self, trouble)

    def request_failed(
        self, transaction: ClientTransaction, cause: FailureCause, text: str
    ) -> None:
        """There will be no answer."""
        self._checks.told(self._watched, self, text)
