"""What a node with neighbours passes on and what it leaves to its gateway; where it sends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from impfed.config.local import LocalDomainConfig
from impfed.config.model import (
    Config,
    ListenerConfig,
    NeighbourConfig,
    NextHopConfig,
    SipDomainConfig,
)
from impfed.core.metrics import Metrics
from impfed.policy.peers import PeerPolicy
from impfed.proxy.junction import Junction
from impfed.routing.neighbours import Neighbours
from impfed.routing.router import Router
from impfed.routing.static import StaticRoute
from impfed.sip.message import SipRequest, SipResponse, parse_message
from impfed.sip.relay_token import RelayTokens
from impfed.sip.target import Hop
from impfed.sip.transaction_parts import FailureCause, Machine, ServerTransaction
from impfed.testing.fakes import FakeFlow, counting_ids
from impfed.transport.flow import Flow
from impfed.transport.identity import PeerIdentity
from impfed.transport.pool import Target
from impfed.transport.sip import ISipUser
from impfed.transport.timers import ReactorTimers
from tests.gateway.harness import CONFIG
from tests.proxy.kit import message
from tests.proxy.test_permission import ATTEMPTS, request
from tests.transport.sip_kit import RecordingUser

HOP2 = ("10.0.0.2", 5062)
NODE2 = NeighbourConfig(
    "node2", ("second.example",), *HOP2, "node2.company.example",
    advertised=(("203.0.113.10", 45062),),
)  # fmt: skip
DOMAINS = tuple(
    SipDomainConfig(name, next_hop=NextHopConfig(f"sip.{name}"))
    for name in ("lync.example", "simple.example", "foreign.company.example")
)
HOME = replace(CONFIG.homes[0], domains=("company.example",))


class OneStack:
    """Stands in for a SIP stack: what is sent is noted."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.timers = ReactorTimers(clock)
        self.ports: dict[str, int] = {}
        self.hosts = config.hosts_by_domain
        self.forwarded: list[tuple[SipRequest, Any]] = []
        self.answers_sent: list[tuple[bytes, Any]] = []
        self.answers: list[int] = []
        self.cancelled: list[object] = []
        self.forgiven: list[Target] = []
        self.transactions: list[Any] = []
        self.pool = self
        self.inside: Any = None
        self._listeners = config.listeners

    def advertised(self, transport: str, listener: str = "", domain: str = "") -> tuple[str, int]:
        for each in self._listeners:
            if listener in ("", each.name) and each.transport == transport:
                return self.hosts.get(domain, each.advertised_host), each.advertised_port
        raise AssertionError(transport)

    def forward(self, copy: Any, data: bytes, branch: str, hop: Any, user: Any) -> object:
        self.send(data, hop)
        self.transactions.append(SimpleNamespace(user=user, written=False))
        return self.transactions[-1]

    @staticmethod
    def maybe_delivered(transaction: Any) -> bool:
        return bool(transaction.written)

    def fail(self, written: bool = False) -> None:
        """Let what was forwarded last fail: nobody could be reached, or not after it was written."""
        transaction = self.transactions[-1]
        transaction.written = written
        transaction.user.request_failed(transaction, FailureCause.TRANSPORT, "refused")

    def send(self, data: bytes, hop: Any) -> None:
        sent = parse_message(data)
        if isinstance(sent, SipResponse):
            self.answers_sent.append((data, hop))
        else:
            assert isinstance(sent, SipRequest)
            self.forwarded.append((sent, hop))

    def forgive(self, target: Target) -> None:
        self.forgiven.append(target)

    @staticmethod
    def offers(way: object) -> bool:
        return False

    def cancel(self, transaction: object) -> None:
        self.cancelled.append(transaction)

    def respond(self, transaction: Any, status: int, *rest: Any, **more: Any) -> None:
        self.answers.append(status)


class Site:
    """One node's junction; the gateway behind it only notes what it gets."""

    def __init__(self, config: Config, tokens: RelayTokens | None = None) -> None:
        self.clock = Clock()
        self.stack = OneStack(config, self.clock)
        self.gateway = RecordingUser()
        self.metrics = Metrics()
        self.dialogs: set[tuple[str, str]] = set()
        peers = PeerPolicy(config.domains, config.node.trusted_upstreams)
        self.neighbours = Neighbours(config.neighbours, config.local_domains)
        self.router = Router([StaticRoute(config.domains)], self.metrics)
        self.junction = Junction(
            self.gateway,
            lambda call_id, tag: (call_id, tag) in self.dialogs,
            config,
            self.stack,  # type: ignore[arg-type]
            self.neighbours,
            peers,
            self.router,
            counting_ids(),
            self.metrics,
            tokens,
        )

    def receive(self, arrived: SipRequest, flow: Flow) -> ServerTransaction:
        """Let a request arrive."""
        transaction = ServerTransaction(Machine.SERVER, arrived, flow, True, (arrived.call_id, ""))
        self.junction.request_arrived(transaction, arrived, flow)
        return transaction


def flow_of(*names: str, transport: str = "tls", listener: str = "federation") -> FakeFlow:
    """Return a connection that proves names."""
    flow = FakeFlow()
    flow.transport, flow.listener = transport, listener
    flow.peer = PeerIdentity(frozenset(names), bool(names))
    return flow


class JunctionTests(SynchronousTestCase):
    """A routing node with company.example at home, and second.example at node 2."""

    def setUp(self) -> None:
        self.config = replace(
            CONFIG,
            listeners=(
                ListenerConfig("federation", "tls", "10.0.0.1", 5062, "203.0.113.10", 5062),
                ListenerConfig("plain", "tcp", "10.0.0.1", 5060, "203.0.113.10", 5060),
            ),
            domains=DOMAINS,
            homes=(HOME,),
            neighbours=(NODE2,),
        )
        self.site = Site(self.config)
        self.far = flow_of("sip.lync.example")
        self.node2 = flow_of("node2.company.example")

    def sent(self) -> tuple[SipRequest, Any]:
        """Return the only request that went on."""
        (sent,) = self.site.stack.forwarded
        return sent

    def test_interface(self) -> None:
        """It is a user of a stack."""
        verifyObject(ISipUser, self.site.junction)

    def test_neighbours_domain(self) -> None:
        """A request for a neighbour's user goes to the neighbour, our own users' to the gateway."""
        self.site.receive(request("sip:bob@second.example", method="SUBSCRIBE"), self.far)
        sent, hop = self.sent()
        self.assertEqual((hop.host, hop.port, hop.tls_name), (*HOP2, "node2.company.example"))
        self.assertEqual(sent.values("record-route"), ["<sip:203.0.113.10:5062;transport=tls;lr>"])
        self.site.receive(request(), self.far)
        self.assertEqual(len(self.site.gateway.requests), 1)

    def test_user_who_has_moved(self) -> None:
        """A user of our own domain whose home is with a neighbour is reached there, the others here."""
        users = Path(self.mktemp())
        users.write_text("Carol\n")
        moved = replace(NODE2, users=users)
        self.site = Site(replace(self.config, neighbours=(moved,)))
        self.site.receive(request("sip:carol@company.example", method="INVITE"), self.far)
        self.assertEqual((self.sent()[1].host, self.sent()[1].port), HOP2)
        self.site.receive(request("sip:dave@company.example", method="INVITE"), self.far)
        self.assertEqual(len(self.site.gateway.requests), 1)
        users.write_text("dave@company.example\n\n")
        self.site.receive(request("sip:carol@company.example", method="INVITE"), self.far)
        self.assertEqual(len(self.site.gateway.requests), 2)

    def test_options(self) -> None:
        """Whether the node is there is for itself to say, by whichever domain of ours it is asked."""
        balancer = flow_of("balancer.company.example")
        self.site.receive(request("sip:second.example", method="OPTIONS"), balancer)
        self.assertEqual(self.site.stack.forwarded, [])
        self.assertEqual(len(self.site.gateway.requests), 1)
        self.site.receive(request("sip:bob@second.example", method="OPTIONS"), self.far)
        self.assertEqual(self.sent()[1].host, "10.0.0.2")

    def test_partners_budget(self) -> None:
        """What goes to a partner who is sent so much and no more passes his budget, and nothing else."""

        class Pacer:
            bounded = staticmethod(lambda domain: domain == "lync.example")
            forwarded: ClassVar[list[Any]] = []

            def forward(self, request: Any, sent: Any, hop: Any, user: Any) -> object:
                self.forwarded.append((request.method, hop.host))
                return object()

        self.site.junction.pace(Pacer())
        with self.assertRaises(IndexError):  # nothing has gone by the stack
            self.answer("sip:sip.lync.example:5061;transport=tls;lr")
        self.assertEqual(Pacer.forwarded, [("MESSAGE", "sip.lync.example")])
        self.site.receive(request("sip:bob@second.example", method="SUBSCRIBE"), self.far)
        self.assertEqual(len(Pacer.forwarded), 1)
        self.assertEqual(len(self.site.stack.forwarded), 1)

    def test_way_back(self) -> None:
        """Who proves to be a neighbour is answered where it is; nobody else, whatever he says."""
        inside = self.site.stack.inside
        hop = inside(self.node2)
        self.assertEqual((hop.host, hop.port), HOP2)
        for flow in (self.far, flow_of(), flow_of("node2.company.example", transport="tcp")):
            self.assertIsNone(inside(flow))

    def test_both_sides_addresses(self) -> None:
        """When the sides differ each is told the address on its own side (RFC 5658)."""
        domains = (
            SipDomainConfig("lync.example", next_hop=NextHopConfig("192.0.2.7", 5060, "tcp")),
        )
        site = Site(replace(self.config, domains=domains))
        flow = flow_of(transport="tcp", listener="plain")
        flow.remote = ("192.0.2.7", 40000)
        site.receive(request("sip:bob@second.example", method="SUBSCRIBE"), flow)
        ((sent, _),) = site.stack.forwarded
        self.assertEqual(
            sent.values("record-route"),
            [
                "<sip:203.0.113.10:5062;transport=tls;lr>",
                "<sip:203.0.113.10:5060;transport=tcp;lr>",
            ],
        )

    def test_host_of_a_local_domain(self) -> None:
        """Where a local domain has a host name of its own, peers are told it in Via and Record-Route."""
        own = LocalDomainConfig("second.example", advertised="sip.second.example")
        site = Site(replace(self.config, local=(own,)))
        site.receive(request("sip:bob@second.example", method="SUBSCRIBE"), self.far)
        ((sent, _),) = site.stack.forwarded
        self.assertEqual(
            sent.values("record-route"), ["<sip:sip.second.example:5062;transport=tls;lr>"]
        )
        self.assertEqual((sent.via.host, sent.via.port), ("sip.second.example", 5062))
        route = "Route: <sip:sip.second.example:5062;transport=tls;lr>\n"
        contact = "sip:bob@203.0.113.10:45062;transport=tls"
        site.receive(request(contact, more=route, to_tag=";tag=2"), self.far)
        sent, hop = site.stack.forwarded[-1]
        self.assertEqual((sent.uri_text, hop.host), (contact, "10.0.0.2"))
        self.assertEqual(sent.values("route"), [])

    def test_open_relay_attempts(self) -> None:
        """Nothing of the table of attempts goes on, whether the gateway or the proxy refuses it."""
        for name, (attempt, source, _, _) in ATTEMPTS.items():
            flow = flow_of() if source == "nobody" else flow_of(source)
            self.site.receive(attempt, flow)
            self.assertEqual(self.site.stack.forwarded, [], name)
        left = len(self.site.gateway.requests)
        self.assertEqual(left + len(self.site.stack.answers), len(ATTEMPTS))

    def test_our_own_dialogs(self) -> None:
        """A dialog that is the gateway's stays there, though a neighbour's Contact is named."""
        self.site.dialogs.add(("c", "2"))
        self.site.receive(request("sip:bob@10.0.0.2:5062", to_tag=";tag=2"), self.far)
        self.assertEqual(self.site.stack.forwarded, [])
        self.assertEqual(len(self.site.gateway.requests), 1)

    def test_in_dialog_by_the_route_set(self) -> None:
        """A far user's request in a neighbour's dialog follows the route set to its Contact."""
        route = "Route: <sip:203.0.113.10:5062;transport=tls;lr>\n"
        contact = "sip:bob@203.0.113.10:45062;transport=tls"
        self.site.receive(request(contact, more=route, to_tag=";tag=2"), self.far)
        sent, hop = self.sent()
        self.assertEqual((sent.uri_text, hop.host), (contact, "10.0.0.2"))
        self.assertEqual((sent.values("route"), sent.values("record-route")), ([], []))
        self.assertEqual(self.site.metrics.value("proxy.misrouted"), 0)

    def test_misrouted(self) -> None:
        """One that names the Contact without our Route came to the wrong node: counted and relayed."""
        contact = "sip:bob@203.0.113.10:45062;transport=tls"
        self.site.receive(request(contact, to_tag=";tag=2"), self.far)
        self.assertEqual(self.sent()[1].host, "10.0.0.2")
        self.assertEqual(self.site.metrics.value("proxy.misrouted"), 1)

    def answer(self, route: str) -> Any:
        """Let node 2 answer in a far user's dialog; return where it goes."""
        text = (
            "MESSAGE sip:x@lync.example;gruu SIP/2.0\n"
            "Via: SIP/2.0/TLS 10.0.0.2:5062;branch=z9hG4bKn2\n"
            f"Route: <sip:203.0.113.10:5062;transport=tls;lr>, <{route}>\nMax-Forwards: 9\n"
            "From: <sip:bob@second.example>;tag=2\nTo: <sip:x@lync.example>;tag=1\n"
            "Call-ID: c\nCSeq: 1 MESSAGE\nContent-Length: 0"
        )
        self.site.receive(message(text), self.node2)
        sent, hop = self.site.stack.forwarded[-1]
        self.assertEqual(sent.values("route"), [f"<{route}>"])
        return hop

    def test_answer_by_the_route_set(self) -> None:
        """A neighbour's request goes back over the peer's connection, or to the domain's next hop."""
        edge = "sip:sip.lync.example:5061;transport=tls;lr;ms-x=1"
        self.assertIsInstance(self.answer(edge), Hop)
        self.site.receive(request("sip:bob@second.example"), self.far)
        self.assertIs(self.answer(edge), self.far)
        self.site.junction.flow_closed(self.far)
        self.assertEqual(self.answer(edge).host, "sip.lync.example")

    def test_a_route_to_strangers(self) -> None:
        """Not even a neighbour's request goes to a host that no configured domain is reached by."""
        with self.assertRaises(IndexError):
            self.answer("sip:victim.example;lr")
        self.assertEqual(self.site.stack.answers, [403])

    def test_microsofts_watchers(self) -> None:
        """A Proxy-Require of Microsoft's watchers passes, any other is 420."""
        for number, (tag, forwarded) in enumerate((("ms-benotify", 1), ("other", 1)), 1):
            more = f"Proxy-Require: {tag}\n"
            self.site.receive(
                request("sip:bob@second.example", more=more, method="SUBSCRIBE"), self.far
            )
            self.assertEqual(len(self.site.stack.forwarded), forwarded, number)
        self.assertEqual(self.site.stack.answers, [420])

    def test_loop(self) -> None:
        """Two nodes that send a domain to each other end the circle with 482."""
        back = replace(NODE2, name="node1", host="10.0.0.1", advertised=(("203.0.113.10", 5062),))
        node2 = Site(
            replace(
                self.config,
                listeners=(
                    ListenerConfig("f", "tls", *HOP2, "203.0.113.10", 45062),
                    ListenerConfig("plain", "tcp", "10.0.0.2", 5060, "203.0.113.10", 45060),
                ),
                neighbours=(replace(back, tls_name="node1.company.example"),),
            )
        )
        self.site.receive(request("sip:bob@second.example", method="INVITE"), self.far)
        node1 = flow_of("node1.company.example", listener="f")
        node2.receive(self.site.stack.forwarded[-1][0], node1)
        self.site.receive(node2.stack.forwarded[-1][0], self.node2)
        self.assertEqual(self.site.stack.answers, [482])
        self.assertEqual(len(self.site.stack.forwarded), 1)
        self.assertEqual(self.site.metrics.value("routing.loops"), 1)
        self.assertIn("lead to each other", self.site.router.lately("second.example"))
        self.assertEqual(self.site.router.lately("lync.example"), "")

    def test_acks_and_cancels(self) -> None:
        """An ACK follows its INVITE; CANCEL and missing ACKs go to whoever has the transaction."""
        ack = request("sip:bob@203.0.113.10:45062", method="ACK", to_tag=";tag=2")
        self.site.junction.ack_arrived(ack, None, self.far)
        self.assertEqual(self.sent()[0].method, "ACK")
        proxied = self.site.receive(request("sip:bob@second.example", method="INVITE"), self.far)
        own = self.site.receive(request(method="INVITE"), self.far)
        for transaction in (proxied, own):
            self.site.junction.cancel_arrived(transaction, transaction.request)
            self.site.junction.no_ack(transaction)
        self.assertEqual(len(self.site.stack.cancelled), 1)
        self.assertEqual([each for each, _ in self.site.gateway.cancels], [own])
        self.assertEqual(self.site.gateway.unacknowledged, [own])
