"""Neighbours with several addresses: which of them answers, which is used, what an operator sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from impfed.core.metrics import Metrics
from impfed.proxy.watch import NeighbourWatch
from impfed.routing.api import RouteQuery
from impfed.routing.neighbours import NeighbourRoute, Neighbours
from impfed.routing.router import Router
from impfed.routing.setup import story
from impfed.sip.transaction import FailureCause
from impfed.testing.fakes import counting_ids
from tests.gateway.harness import CONFIG
from tests.proxy.test_junction import DOMAINS, NODE2, Site, flow_of
from tests.proxy.test_permission import request

NODE2_TWICE = replace(NODE2, fallback=(("10.1.0.2", 5062),))


class Answer:
    """The answer of a neighbour to an OPTIONS."""

    def __init__(self, status: int) -> None:
        self.status = status


class WatchTests(SynchronousTestCase):
    """A routing node whose neighbour has two addresses."""

    def setUp(self) -> None:
        config = replace(CONFIG, domains=DOMAINS, neighbours=(NODE2_TWICE,))
        listeners = tuple(replace(each, transport="tls") for each in CONFIG.listeners[:1])
        self.config = replace(config, listeners=listeners)
        self.site = Site(self.config)
        self.clock: Clock = self.site.clock
        self.asked: list[tuple[Any, Any, Any]] = []
        self.forgiven: list[object] = []
        self.site.stack.request = lambda *what: self.asked.append(what)  # type: ignore[attr-defined]
        self.site.stack.pool = self  # type: ignore[attr-defined]
        self.neighbours: Neighbours = self.site.neighbours
        self.watch = NeighbourWatch(
            self.config, self.neighbours, self.site.stack, counting_ids(), Metrics()  # type: ignore[arg-type]
        )  # fmt: skip
        self.watch.start()

    def condition(self, target: object) -> tuple[str, str]:
        """What the pool would say."""
        return "open", ""

    def forgive(self, target: object) -> None:
        """Note that the pool tries a target at once."""
        self.forgiven.append(target)

    def answers(self, **statuses: int) -> None:
        """Let each address answer what it is asked; one that has no status fails."""
        for _ in range(2):
            asked, self.asked[:] = list(self.asked), []
            for _, hop, user in asked:
                status = statuses.get(f"host_{hop.host.replace('.', '_')}", 0)
                if status:
                    user.response_arrived(None, Answer(status))
                else:
                    user.request_failed(None, FailureCause.TRANSPORT, "nobody there")
            self.clock.advance(1.0)

    def used(self) -> str:
        """Return the address that a request for node 2 would go to now."""
        hop = self.neighbours.hosting("second.example")
        assert hop is not None
        return hop.host

    def states(self) -> list[str]:
        return [line["state"] for line in self.neighbours.status(self.watch.condition)]

    def test_asked(self) -> None:
        """Every address is asked with OPTIONS to itself, again and again."""
        first, second = self.asked
        self.assertEqual(first[0].method, "OPTIONS")
        self.assertEqual(first[0].uri, "sip:10.0.0.2:5062;transport=tls")
        self.assertEqual(second[1].tls_name, "node2.company.example")
        self.answers(host_10_0_0_2=200, host_10_1_0_2=200)
        self.clock.advance(7.5)
        self.assertEqual(self.asked, [])
        self.clock.advance(2.0)
        self.assertEqual(len(self.asked), 2)

    def test_first_is_down(self) -> None:
        """While the first address does not answer the second is used; the first again when it is back."""
        self.assertEqual(self.used(), "10.0.0.2")
        self.answers(host_10_1_0_2=200)
        self.assertEqual((self.used(), self.states()), ("10.1.0.2", ["down", "open"]))
        (line, _) = self.neighbours.status(self.watch.condition)
        self.assertEqual(line["reason"], "nobody there")
        self.assertEqual({str(each) for each in self.forgiven}, {"tls:10.0.0.2:5062"})
        self.clock.advance(0.5)
        self.answers(host_10_0_0_2=200, host_10_1_0_2=200)
        self.assertEqual((self.used(), self.states()), ("10.0.0.2", ["open", "open"]))

    def test_out_of_service(self) -> None:
        """One that answers 503 is there, but does not want to work; any other answer is as good as 200."""
        self.answers(host_10_0_0_2=503, host_10_1_0_2=403)
        self.assertEqual(self.used(), "10.1.0.2")

    def test_request_goes_on(self) -> None:
        """A request has both addresses to try, in order; the one that is down is left out."""
        self.site.receive(request("sip:bob@second.example", method="SUBSCRIBE"), self.far())
        ((_, hop),) = self.site.stack.forwarded
        self.assertEqual(hop.host, "10.0.0.2")
        self.assertTrue(hop.others)
        self.assertEqual(
            [each.host for each in self.neighbours.ways(hop)], ["10.0.0.2", "10.1.0.2"]
        )
        self.answers(host_10_1_0_2=200)
        self.assertEqual([each.host for each in self.neighbours.ways(hop)], ["10.1.0.2"])

    def test_both_are_down(self) -> None:
        """Nothing waits for a neighbour of which no address answers: 480 at once."""
        self.answers()
        self.site.receive(request("sip:bob@second.example", method="SUBSCRIBE"), self.far())
        self.assertEqual((self.site.stack.forwarded, self.site.stack.answers), ([], [480]))

    def test_route(self) -> None:
        """``impfedctl route`` lists both addresses, and says which is used and why."""
        self.answers(host_10_1_0_2=200)
        router = Router([NeighbourRoute(self.neighbours)], Metrics())
        told: list[dict[str, Any]] = []
        router.explain(
            RouteQuery("MESSAGE", "", "bob@second.example"),
            lambda steps, found: told.append(story("b@x", steps, found, self.watch.condition)),
        )
        self.assertEqual([hop["state"] for hop in told[0]["hops"]], ["down", "open"])
        self.assertEqual(told[0]["used"], "tls:10.1.0.2:5062")
        self.assertIn("the 1 before it", told[0]["why"])

    @staticmethod
    def far() -> Any:
        return flow_of("sip.lync.example")
