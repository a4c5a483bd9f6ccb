"""The resolver chain: asks the routes in their order, and survives a broken one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from impfed.core.errors import LocalError
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.routing.api import INTERFACE_VERSION, Reject, RouteQuery
from impfed.routing.order import Uniform, heaviest_first, in_order
from impfed.sip.target import Hop

log = EventLog("impfed.routing")

#: What a resolution ends with: hops in order of preference, or the reason why there are none.
Resolution = Sequence[Hop] | Reject

#: Domains of which is remembered what was wrong with their routes, and for how many seconds.
_NOTES, _NOTED = 1000, 3600.0

#: Seconds that a route may think when nobody says otherwise.
TIME_LIMIT = 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one route said.

    :ivar route: its name.
    :ivar order: its place.
    :ivar answer: hops, a Reject, or None for "not mine"; None as well when it failed.
    :ivar failure: why it is skipped, in words; empty when it answered.
    """

    route: str
    order: int
    answer: Resolution | None
    failure: str = ""


class Router:
    """Asks routes until one answers.

    A route that raises, answers something else than the interface says, or does not answer in time
    is skipped, logged and counted; it never takes the node down (DESIGN section 3).

    :param routes: providers of :class:`impfed.routing.api.IRoute`.
    :param clock: provider of ``IReactorTime`` for the time limit; without one nothing is limited.
    :param limits: seconds for each route by name; :data:`TIME_LIMIT` for one not listed.
    :param uniform: draws the order of hops of equal priority.
    :param own: (host, port) that peers know us by; a hop there is a circle and never used.
    :param kinds: kinds of the configured domains by name.
    :param certificates: certificates of local domains that have one of their own: what goes out from
        there shows it, where a route names none.
    :ivar skipped: how often each route was skipped, by name.
    :raises LocalError: for a route written for another version of the interface, or two of a name.
    """

    def __init__(
        self,
        routes: Iterable[Any],
        metrics: Metrics,
        *,
        clock: Any = None,
        limits: Mapping[str, float] | None = None,
        uniform: Uniform = heaviest_first,
        own: Collection[tuple[str, int]] = (),
        kinds: Mapping[str, str] | None = None,
        certificates: Mapping[str, str] | None = None,
    ) -> None:
        self._routes = sorted(routes, key=lambda route: (route.order, route.name))
        self._metrics = metrics
        self._clock = clock
        self._limits = limits or {}
        self._uniform = uniform
        self._own = frozenset(own)
        self._kinds = kinds or {}
        self._certificates = certificates or {}
        self._lately: dict[str, tuple[float, str]] = {}
        self.skipped: dict[str, int] = {}
        for route in self._routes:
            if route.interface_version != INTERFACE_VERSION:
                raise LocalError(
                    f"route {route.name} was written for version {route.interface_version} of the"
                    f" route interface; this is version {INTERFACE_VERSION}"
                )
            if route.name in self.skipped:
                raise LocalError(f"there are two routes named {route.name}")
            self.skipped[route.name] = 0

    def resolve(self, query: RouteQuery, done: Callable[[Resolution], None]) -> None:
        """Find the next hops of a query; ``done`` is called once, at once if no route needs to wait."""
        self._ask(0, self._complete(query), lambda step: step.answer is not None, [], done)

    def explain(self, query: RouteQuery, done: Callable[[list[Step], Resolution], None]) -> None:
        """Ask every route, also those behind the one that decides, and tell what each said."""
        steps: list[Step] = []

        def all_asked(_: Resolution) -> None:
            decided = next((step.answer for step in steps if step.answer is not None), None)
            done(steps, self._nobody(query) if decided is None else decided)

        self._ask(0, self._complete(query), lambda step: False, steps, all_asked)

    def looped(self, domain: str, status: int) -> None:
        """A domain says (482, 483) that our request went in a circle."""
        words = f"{domain} answered {status}: its next hops lead back here, or to one another"
        self._metrics.count("routing.loops")
        if not self.lately(domain):
            log.warn("loop", "{why} (see impfedctl route)", why=words)
        self.note(domain, words)

    def note(self, domain: str, words: str) -> None:
        """Remember what was wrong with a domain's routes, as nothing but its requests can tell."""
        while len(self._lately) >= _NOTES:
            del self._lately[next(iter(self._lately))]
        self._lately.pop(domain, None)
        self._lately[domain] = (self._seconds(), words)

    def lately(self, domain: str) -> str:
        """Return what was wrong with a domain's routes in the last hour, and when; "" for nothing."""
        at, words = self._lately.get(domain, (0.0, ""))
        ago = self._seconds() - at
        return f"{round(ago / 60)} minutes ago: {words}" if words and ago < _NOTED else ""

    def _seconds(self) -> float:
        return float(self._clock.seconds()) if self._clock is not None else 0.0

    def status(self) -> list[dict[str, Any]]:
        """Return a line about each route."""
        return [
            {"route": route.name, "order": route.order, "skipped": self.skipped[route.name]}
            for route in self._routes
        ]

    def _complete(self, query: RouteQuery) -> RouteQuery:
        kind = self._kinds.get(query.to_domain, "") if not query.kind else ""
        return replace(query, kind=kind) if kind else query

    def _ask(
        self,
        index: int,
        query: RouteQuery,
        enough: Callable[[Step], bool],
        steps: list[Step],
        done: Callable[[Resolution], None],
    ) -> None:
        while index < len(self._routes):
            route = self._routes[index]
            index += 1
            try:
                answer = route.resolve(query)
            except Exception as error:
                self._broken(route, Failure())
                steps.append(Step(route.name, route.order, None, f"failed: {error}"))
                continue
            if isinstance(answer, Deferred):
                following = index

                def heard(step: Step, following: int = following) -> None:
                    steps.append(step)
                    if enough(step) and step.answer is not None:
                        done(step.answer)
                    else:
                        self._ask(following, query, enough, steps, done)

                self._wait(answer, route, query, heard)
                return
            step = self._step(route, answer, query)
            steps.append(step)
            if enough(step) and step.answer is not None:
                done(step.answer)
                return
        done(self._nobody(query))

    def _wait(
        self,
        answer: Deferred[Any],
        route: Any,
        query: RouteQuery,
        heard: Callable[[Step], None],
    ) -> None:
        limit = self._limits.get(route.name, TIME_LIMIT)
        open_ = [True]
        timer = None

        def close() -> bool:
            was_open, open_[0] = open_[0], False
            if was_open and timer is not None and timer.active():
                timer.cancel()
            return was_open

        def arrived(value: Any) -> None:
            if close():
                heard(self._step(route, value, query))

        def failed(failure: Failure) -> None:
            if close():
                self._broken(route, failure)
                words = f"failed: {failure.getErrorMessage()}"
                heard(Step(route.name, route.order, None, words))
            elif not failure.check(CancelledError):
                log.warn("route_failed_late", "route {route}: {why}", route=route.name, why=failure)

        def late() -> None:
            if close():
                self._late(route, limit)
                words = f"no answer within {limit:g} s"
                heard(Step(route.name, route.order, None, words))
                answer.cancel()

        if self._clock is not None:
            timer = self._clock.callLater(limit, late)
        answer.addCallbacks(arrived, failed)

    def _step(self, route: Any, answer: Any, query: RouteQuery) -> Step:
        if answer is None or isinstance(answer, Reject):
            return Step(route.name, route.order, answer)
        try:
            hops = list(answer)
            if not all(isinstance(hop, Hop) for hop in hops):
                raise TypeError("something that is no Hop")
        except TypeError as error:
            self._skip(route.name)
            text = f"answered {error} (expected: hops, a Reject, or None)"
            log.error("route_answer", "route {route} is skipped: {why}", route=route.name, why=text)
            return Step(route.name, route.order, None, text)
        if not hops:
            return Step(route.name, route.order, None)
        onward = [hop for hop in hops if (hop.host, hop.port) not in self._own]
        if onward:
            if self._certificates and not getattr(route, "inside", False):
                onward = self._with_certificates(onward, query)
            return Step(route.name, route.order, in_order(onward, self._uniform))
        self._metrics.count("routing.circles")
        reason = f"{route.name} leads back to this node itself ({hops[0]})"
        log.warn("route_circle", "{domain}: {reason}", domain=query.to_domain, reason=reason)
        return Step(route.name, route.order, Reject(482, reason))

    def _with_certificates(self, hops: list[Hop], query: RouteQuery) -> list[Hop]:
        own = self._certificates.get(query.local_domain, "")
        return [
            replace(hop, certificate=own) if hop.transport == "tls" and not hop.certificate else hop
            for hop in hops
        ]

    @staticmethod
    def _nobody(query: RouteQuery) -> Reject:
        return Reject(404, f"no route leads to {query.to_domain}")

    def _skip(self, name: str) -> None:
        self.skipped[name] += 1
        self._metrics.count("routing.route_failed")

    def _broken(self, route: Any, failure: Failure) -> None:
        self._skip(route.name)
        log.failure(
            "route_failed", "route {route} failed and is skipped", failure, route=route.name
        )

    def _late(self, route: Any, limit: float) -> None:
        self._skip(route.name)
        self._metrics.count("routing.route_late")
        log.warn(
            "route_late",
            "route {route} has not answered within {limit} s and is skipped",
            route=route.name,
            limit=limit,
        )
