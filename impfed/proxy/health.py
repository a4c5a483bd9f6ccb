"""Which machines behind an edge answer: each is asked with OPTIONS all the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from impfed.config.edge import EdgeConfig, EdgeTargetConfig
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.timers import Timer
from impfed.sip.message import SipResponse
from impfed.sip.outgoing import OutgoingRequest
from impfed.sip.transaction import ClientTransaction, FailureCause
from impfed.transport.flow import bracketed
from impfed.transport.timers import ReactorTimers

log = EventLog("impfed.edge")

#: Answers that mean that the machine is there, but does not want to work.
_OUT_OF_SERVICE = frozenset((408, 500, 502, 503, 504))

#: Sends a request to a target; its user is told what comes of it.
Ask = Callable[[EdgeTargetConfig, OutgoingRequest, Any], None]


@dataclass(slots=True, eq=False)
class _Watched:
    """A target and what its checks said."""

    target: EdgeTargetConfig
    up: bool = True
    streak: int = 0  # checks in a row that say the contrary of ``up``
    since: float = 0.0
    reason: str = "not checked yet"
    check: _Check | None = None
    timer: Timer | None = None


class HealthChecks:
    """Asks every target again and again; until it knows better it takes all of them as up.

    :param ask: sends.
    :param changed: called with a target's name when it has gone up or down.
    """

    def __init__(
        self,
        edge: EdgeConfig,
        ask: Ask,
        timers: ReactorTimers,
        ids: IdSource,
        metrics: Metrics,
        changed: Callable[[str, bool], None] = lambda name, up: None,
    ) -> None:
        self._edge = edge
        self._ask_target = ask
        self._timers = timers
        self._ids = ids
        self._metrics = metrics
        self._changed = changed
        self._watched = {target.name: _Watched(target) for target in edge.targets}
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

    def status(self) -> Iterable[dict[str, Any]]:
        """Return a line about each target."""
        for watched in self._watched.values():
            target = watched.target
            yield {
                "name": target.name,
                "address": f"{target.transport}:{bracketed(target.host)}:{target.port}",
                "new_requests": target.new_requests,
                "priority": target.priority,
                "weight": target.weight,
                "state": "up" if watched.up else "down",
                "since": watched.since,
                "reason": watched.reason,
            }

    # -- one check ---------------------------------------------------------------------------------

    def _ask(self, watched: _Watched) -> None:
        self._cancel(watched)
        check = watched.check = _Check(self, watched)
        self._metrics.count("edge.checks")
        wait = self._edge.check_timeout
        watched.timer = self._timers.after(wait, self._late, watched, check)
        self._ask_target(watched.target, self._options(watched.target), check)

    def _options(self, target: EdgeTargetConfig) -> OutgoingRequest:
        # To the machine itself: a routing node has to answer, not to pass it on.
        uri = f"sip:{bracketed(target.host)}:{target.port};transport={target.transport}"
        call_id = self._ids.call_id()
        headers = [
            ("Max-Forwards", "1"),
            ("From", f"<sip:{self._edge.domains[0]}>;tag={self._ids.tag()}"),
            ("To", f"<{uri}>"),
            ("Call-ID", call_id),
            ("CSeq", "1 OPTIONS"),
        ]
        return OutgoingRequest("OPTIONS", uri, headers, b"", 1, call_id)

    def _late(self, watched: _Watched, check: _Check) -> None:
        self.told(watched, check, f"no answer to OPTIONS within {self._edge.check_timeout:g} s")

    def told(self, watched: _Watched, check: _Check, trouble: str) -> None:
        """Take the outcome of a check.

        :param trouble: why it failed, in words; "" when the target has answered.
        """
        if watched.check is not check:
            return  # it was late, and counted
        watched.check = None
        self._cancel(watched)
        edge = self._edge
        watched.timer = self._timers.after(edge.check_interval, self._ask, watched)
        good = not trouble
        watched.reason = trouble
        if good is watched.up:
            watched.streak = 0
            return
        watched.streak += 1
        if watched.streak >= (edge.check_rises if good else edge.check_falls):
            self._turn(watched, good)
        elif not good and edge.check_falls > 1:
            # A connection that is refused says so at once: do not wait a whole interval to be sure.
            watched.timer.cancel()
            pause = min(edge.check_interval, 1.0)
            watched.timer = self._timers.after(pause, self._ask, watched)

    def _turn(self, watched: _Watched, up: bool) -> None:
        watched.up, watched.streak, watched.since = up, 0, self._timers.seconds()
        self._metrics.count("edge.targets_up" if up else "edge.targets_down")
        name = watched.target.name
        if up:
            log.info("target_up", "{target} answers again", target=name)
        else:
            log.warn(
                "target_down",
                "{target} gets no new requests: {why}",
                target=name,
                why=watched.reason,
            )
        self._changed(name, up)

    @staticmethod
    def _cancel(watched: _Watched) -> None:
        timer, watched.timer = watched.timer, None
        if timer is not None:
            timer.cancel()


class _Check:
    """The user of one OPTIONS."""

    __slots__ = ("_checks", "_watched")

    def __init__(self, checks: HealthChecks, watched: _Watched) -> None:
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
