"""Who behind an edge gets a dialog, and over which connection."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.edge import EdgeConfig, EdgePortConfig, EdgeTargetConfig
from impfed.core.metrics import Metrics
from impfed.routing.api import RouteQuery
from impfed.routing.inner import InnerRoute, InnerTargets
from impfed.routing.router import Router
from impfed.sip.uri import SipUri

NODE1 = EdgeTargetConfig("node1", "10.0.0.1", 5062, tls_name="node1.inside.example")
NODE2 = EdgeTargetConfig("node2", "10.0.0.2", 5062, tls_name="node2.inside.example")
OTHER = EdgeTargetConfig("other", "10.0.0.3", 5060, transport="tcp", new_requests=False)
EDGE = EdgeConfig(
    ("company.example",),
    "inside",
    targets=(NODE1, NODE2, OTHER),
    ports=(EdgePortConfig("203.0.113.10", 45062, "node2", inner_host="10.9.9.9", inner_port=1),),
)
CALLS = [f"call-{number}@x" for number in range(2000)]


def targets(edge: EdgeConfig = EDGE) -> InnerTargets:
    """Return what an edge knows of them."""
    return InnerTargets(edge, lambda name: True)


class InnerTests(SynchronousTestCase):
    """Two nodes for new requests, one more for its own."""

    def test_spread(self) -> None:
        """Dialogs are spread evenly over targets and over the connections to each, by Call-ID alone."""
        inner = targets()
        used = Counter((hop.source, hop.lane) for hop in (inner.for_new(c)[0] for c in CALLS))
        self.assertEqual(len(used), 8)
        for count in used.values():
            self.assertLess(abs(count - 250), 75)
        again = targets()
        self.assertTrue(all(inner.for_new(c) == again.for_new(c) for c in CALLS[:100]))
        self.assertNotIn("other", {hop.source for c in CALLS for hop in inner.for_new(c)})

    def test_weight(self) -> None:
        """A target of three times the weight gets three quarters."""
        inner = targets(replace(EDGE, targets=(NODE1, replace(NODE2, weight=3), OTHER)))
        used = Counter(inner.for_new(c)[0].source for c in CALLS)
        self.assertLess(abs(used["node2"] - 1500), 90)

    def test_priority(self) -> None:
        """The lower number comes first for every dialog, and the others are there behind it."""
        inner = targets(replace(EDGE, targets=(NODE1, replace(NODE2, priority=0), OTHER)))
        for call in CALLS[:50]:
            first, second = inner.for_new(call)
            self.assertEqual((first.source, second.source), ("node2", "node1"))
            self.assertEqual(first.lane, second.lane)

    def test_one_less(self) -> None:
        """Without one target its dialogs go to the next; all others stay where they are."""
        third = replace(NODE2, name="node3", host="10.0.0.4")
        edge = replace(EDGE, targets=(NODE1, NODE2, third, OTHER))
        inner, moved = targets(edge), 0
        for call in CALLS:
            order = [hop.source for hop in inner.for_new(call)]
            left = [name for name in order if name != "node3"]
            moved += order[0] == "node3"
            less = targets(replace(EDGE, targets=(NODE1, NODE2, OTHER)))
            self.assertEqual([hop.source for hop in less.for_new(call)], left)
        self.assertLess(abs(moved - 667), 80)

    def test_addresses(self) -> None:
        """A machine is found by its address, by what it advertises, and by its public port."""
        named = replace(NODE1, advertised=(("sip.company.example", 5061),))
        inner = targets(replace(EDGE, targets=(named, NODE2, OTHER)))
        cases = {
            "sip:a@10.0.0.2:5062;transport=tls": "node2",
            "sip:a@203.0.113.10:45062": "node2",
            "sip:a@10.9.9.9:1": "node2",
            "sip:a@sip.company.example;transport=tls": "node1",
            "sip:10.0.0.3": "other",
            "sip:a@10.0.0.2:5063": "",
            "sip:a@203.0.113.10:45063": "",
        }
        for text, name in cases.items():
            uri = SipUri.parse(text)
            found = [hop.source for hop in inner.at(uri, "c")]
            self.assertEqual((found, inner.knows(uri)), ([name] if name else [], bool(name)), text)

    def test_shared_address(self) -> None:
        """An address that several tell peers leads to one of them, the same for all of a dialog."""
        shared = (("fed.company.example", 5061),)
        both = (replace(NODE1, advertised=shared), replace(NODE2, advertised=shared), OTHER)
        inner = targets(replace(EDGE, targets=both))
        uri = SipUri.parse("sip:fed.company.example:5061")
        for call in CALLS[:50]:
            self.assertEqual(inner.at(uri, call), inner.for_new(call))

    def test_who(self) -> None:
        """Machines are known by their certificates, without TLS by their addresses."""
        inner = targets()
        self.assertEqual(inner.who(["x.example", "node2.inside.example"]), "node2")
        self.assertEqual(inner.who(["10.0.0.3", "sip.lync.example"]), "")
        self.assertEqual((inner.who_at("10.0.0.3"), inner.who_at("10.0.0.1")), ("other", ""))

    def test_route(self) -> None:
        """``impfedctl route`` for a local user shows who gets new requests."""
        told: list[object] = []
        router = Router([InnerRoute(targets(), EDGE.domains)], Metrics())
        for address in ("a@company.example", "a@lync.example"):
            router.resolve(RouteQuery("MESSAGE", "", address), told.append)
        hops, rejected = told
        sources = sorted(hop.source for hop in hops)  # type: ignore[attr-defined]
        self.assertEqual(sources, ["node1", "node2"])
        self.assertEqual(rejected.status, 404)  # type: ignore[attr-defined]
