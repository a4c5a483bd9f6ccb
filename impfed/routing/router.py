"""The resolver chain: asks the routes in their order, and survives a broken one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from impfed.core.errors import LocalError
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.routing.api import INTERFACE_VERSION, Reject, RouteQuery
from impfed.sip.target import Hop

log = EventLog("impfed.routing")

#: What a resolution ends with: hops in order of preference, or the reason why there are none.
Resolution = Sequence[Hop] | Reject


class Router:
    """Asks routes until one answers.

    A route that raises is skipped, logged and counted; it never takes the node down (DESIGN section 3).

    :param routes: providers of :class:`impfed.routing.api.IRoute`.
    :raises LocalError: for a route written for another version of the interface.
    """

    def __init__(self, routes: Iterable[Any], metrics: Metrics) -> None:
        self._routes = sorted(routes, key=lambda route: (route.order, route.name))
        self._metrics = metrics
        for route in self._routes:
            if route.interface_version != INTERFACE_VERSION:
                raise LocalError(
                    f"route {route.name} was written for version {route.interface_version} of the"
                    f" route interface; this is version {INTERFACE_VERSION}"
                )

    def resolve(self, query: RouteQuery, done: Callable[[Resolution], None]) -> None:
        """Find the next hops of a query; ``done`` is called once, at once if no route needs to wait."""
        self._ask(0, query, done)

    def _ask(self, index: int, query: RouteQuery, done: Callable[[Resolution], None]) -> None:
        while index < len(self._routes):
            route = self._routes[index]
            index += 1
            try:
                answer = route.resolve(query)
            except Exception:
                self._broken(route, Failure())
                continue
            if isinstance(answer, Deferred):
                self._wait(answer, route, index, query, done)
                return
            if answer is not None:
                done(_ordered(answer))
                return
        done(Reject(404, f"no route leads to {query.to_domain}"))

    def _wait(
        self,
        answer: Deferred[Any],
        route: Any,
        index: int,
        query: RouteQuery,
        done: Callable[[Resolution], None],
    ) -> None:
        def arrived(value: Resolution | None) -> None:
            if value is None:
                self._ask(index, query, done)
            else:
                done(_ordered(value))

        def failed(failure: Failure) -> None:
            self._broken(route, failure)
            self._ask(index, query, done)

        answer.addCallbacks(arrived, failed)

    def _broken(self, route: Any, failure: Failure) -> None:
        self._metrics.count("routing.route_failed")
        log.failure(
            "route_failed", "route {route} failed and is skipped", failure, route=route.name
        )


def _ordered(answer: Resolution) -> Resolution:
    if isinstance(answer, Reject):
        return answer
    return sorted(answer, key=lambda hop: (hop.priority, -hop.weight))
