"""An edge between the world and two machines inside, on a stack that sends nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.edge import EdgeConfig, EdgePortConfig, EdgeTargetConfig
from impfed.config.model import Config, ListenerConfig, SipDomainConfig
from impfed.core.errors import RemoteError
from impfed.core.metrics import Metrics
from impfed.policy.peers import PeerPolicy
from impfed.policy.sources import SourceLimits
from impfed.proxy.border import Border, port_listeners
from impfed.routing.inner import InnerTargets
from impfed.routing.router import Router
from impfed.routing.static import StaticRoute
from impfed.sip.message import SipRequest, SipResponse, parse_message, response_bytes
from impfed.sip.transaction_parts import Machine, ServerTransaction
from impfed.testing.fakes import FakeFlow, counting_ids
from impfed.transport.flow import Flow
from impfed.transport.identity import PeerIdentity
from tests.gateway.harness import CONFIG
from tests.proxy.kit import message
from tests.proxy.test_junction import DOMAINS, OneStack

NODE1 = EdgeTargetConfig("node1", "10.0.0.1", 5062, tls_name="node1.inside.example", connections=1)
NODE2 = EdgeTargetConfig(
    "node2", "10.0.0.2", 5062, tls_name="node2.inside.example", new_requests=False, connections=1
)
SPARE = replace(NODE1, name="spare", host="10.0.0.3", tls_name="spare.inside.example", priority=2)
PORTS = (
    EdgePortConfig("203.0.113.10", 5062, "node1"),
    EdgePortConfig("203.0.113.10", 45062, "node2"),
)
EDGE = EdgeConfig(
    ("company.example", "second.example"), "in", 2, targets=(NODE1, NODE2), ports=PORTS
)
LISTENERS = (
    ListenerConfig(
        "internet", "tls", "203.0.113.10", 5061, "sip.company.example", 5061, side="outside"
    ),
    ListenerConfig("plain", "tcp", "203.0.113.10", 5060, "203.0.113.10", 5060, side="outside"),
    ListenerConfig("nodes", "tls", "10.0.0.254", 5061, "edge.inside.example", 5061, side="inside"),
)
OUTER = "<sip:sip.company.example:5061;transport=tls;lr>"
INNER = "<sip:edge.inside.example:5061;transport=tls;lr>"


class BorderStack(OneStack):
    """Notes, too, whose answer each forwarded request waits for."""

    def __init__(self, config: Config, clock: Clock) -> None:
        super().__init__(config, clock)
        self.users: list[Any] = []
        self.relayed: list[SipResponse] = []
        self.headers: list[Any] = []

    def forward(self, copy: Any, data: bytes, branch: str, hop: Any, user: Any) -> object:
        self.users.append(user)
        return super().forward(copy, data, branch, hop, user)

    def respond(self, transaction: Any, status: int, *rest: Any, **more: Any) -> None:
        super().respond(transaction, status)
        self.headers.append(dict(more.get("headers", ())))

    def relay(self, transaction: Any, status: int, data: bytes) -> None:
        found = parse_message(data)
        assert isinstance(found, SipResponse)
        self.relayed.append(found)


class Answered:
    """A forwarded request's transaction, as far as its user looks at it."""

    def __init__(self, user: Any, request: Any = None, destination: Any = None) -> None:
        self.user, self.request, self.destination = user, request, destination


class Site:
    """One edge on a stack that sends nothing."""

    def __init__(
        self,
        edge: EdgeConfig = EDGE,
        listeners: tuple[ListenerConfig, ...] = LISTENERS,
        domains: tuple[SipDomainConfig, ...] = DOMAINS,
    ) -> None:
        config = replace(CONFIG, listeners=listeners, domains=domains, homes=(), edge=edge)
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.metrics = Metrics()
        self.down: set[str] = set()
        ports = port_listeners(config, edge)
        listening = replace(config, listeners=(*listeners, *ports.values()))
        self.stack = BorderStack(listening, self.clock)
        self.sources = SourceLimits(edge.limits)
        self.inner = InnerTargets(edge, lambda name: name not in self.down)
        self.border = Border(
            config,
            self.stack,  # type: ignore[arg-type]
            self.inner,
            {name: port.target for name, port in zip(ports, edge.ports, strict=True)},
            PeerPolicy(config.domains),
            Router([StaticRoute(config.domains)], self.metrics),
            self.sources,
            counting_ids(),
            self.metrics,
        )

    def receive(self, arrived: SipRequest, flow: Flow) -> int:
        """Let a request arrive; returns the status of the answer, 0 when it was passed on."""
        before = len(self.stack.answers)
        transaction = ServerTransaction(Machine.SERVER, arrived, flow, True, (arrived.call_id, ""))
        try:
            self.border.request_arrived(transaction, arrived, flow)
        except RemoteError as error:
            self.stack.headers.append(dict(error.headers))
            return error.status
        return self.stack.answers[-1] if len(self.stack.answers) > before else 0

    def answer(self, status: int, *headers: tuple[str, str]) -> SipResponse:
        """Let what was forwarded last be answered; returns what goes back to who had asked."""
        sent, hop = self.stack.forwarded[-1]
        response = parse_message(response_bytes(sent, status, "", "t2", headers))
        user = self.stack.users[-1]
        user.response_arrived(Answered(user, sent, hop), response)
        return self.stack.relayed[-1]


def flow_of(
    names: Iterable[str],
    listener: str = "internet",
    transport: str = "tls",
    remote: str = "192.0.2.10",
) -> FakeFlow:
    """Return a connection that proves names."""
    flow = FakeFlow(names, transport, (remote, 50000))
    flow.listener = listener
    flow.peer = PeerIdentity(frozenset(names), bool(names))
    return flow


FAR = flow_of(["sip.lync.example"])
FROM1 = flow_of(["node1.inside.example"], "nodes", remote="10.0.0.1")
FROM2 = flow_of(["node2.inside.example"], "nodes", remote="10.0.0.2")


def outward(more: str = "", method: str = "INVITE", to: str = "sip:x@lync.example") -> SipRequest:
    """Return what node 2 sends to a partner."""
    return message(
        f"{method} {to} SIP/2.0\n"
        "Via: SIP/2.0/TLS 10.0.0.2:5062;branch=z9hG4bKn2\n"
        f"{more}"
        "Max-Forwards: 70\nFrom: <sip:bob@company.example>;tag=2\nTo: <sip:x@lync.example>\n"
        f"Call-ID: c\nCSeq: 1 {method}\nContact: <sip:bob@10.0.0.2:5062;transport=tls>\n"
        "Content-Length: 0"
    )


class BorderCase(SynchronousTestCase):
    """Helpers."""

    def setUp(self) -> None:
        self.site = Site()

    def passed(
        self, arrived: SipRequest, flow: Flow, site: Site | None = None
    ) -> tuple[SipRequest, Any]:
        """Let a request pass; returns it as it went on, and where to."""
        site = site or self.site
        self.assertEqual(site.receive(arrived, flow), 0, site.stack.headers[-1:])
        found: tuple[SipRequest, Any] = site.stack.forwarded[-1]
        return found

    def refused(self, arrived: SipRequest, flow: Flow, status: int, word: str = "") -> None:
        """Let a request be refused; the answer may say why."""
        before = len(self.site.stack.forwarded)
        self.assertEqual(self.site.receive(arrived, flow), status)
        self.assertEqual(len(self.site.stack.forwarded), before)
        if word:
            self.assertIn(word, self.site.stack.headers[-1]["Warning"])
