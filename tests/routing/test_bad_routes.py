"""What is wrong with a route is said thrice, each time in words of its own: in the log, by ``impfedctl
route`` (or when the configuration is checked), and to whoever wrote the message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from impfed.config.model import Config, ListenerConfig, NextHopConfig, RouteConfig, SipDomainConfig
from impfed.config.patterns import parse_pattern
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.ctl.routes import story as in_words
from impfed.gateway.paced import PacedStack
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import RouteQuery
from impfed.routing.router import Router
from impfed.routing.setup import story
from impfed.routing.srv import SrvRoute
from impfed.routing.static import LocalRoute, StaticRoute, StaticTable
from impfed.testing.pki import make_ca, make_certificate
from impfed.transport.pool import Target
from impfed.transport.sip import SipLimits, SipStack
from impfed.transport.tls import TlsStore
from tests.config.samples import GOOD
from tests.config.test_load import LoadCase
from tests.gateway.harness import CONFIG, World
from tests.routing.scripted_dns import ScriptedDns
from tests.transport.sip_kit import RecordingUser, tls_config

reactor: Any = _reactor

FED = "_sipfederationtls._tcp.lync.example"


@dataclass(frozen=True)
class Case:
    """One mistake.

    :ivar hop: the next hop of lync.example; None to look it up in the DNS.
    :ivar zone: the DNS.
    :ivar routes: more static routes.
    :ivar log: event of the log that tells of it, and words in it.
    :ivar route: words of ``impfedctl route``.
    :ivar error: condition and words of the error that the sender gets.
    """

    log: tuple[str, str]
    route: str
    error: tuple[str, str]
    hop: NextHopConfig | None = None
    zone: str = ""
    routes: tuple[RouteConfig, ...] = ()


#: By name; {tls}, {tcp} and {loop} are the ports of a far side, {own} is that of the node itself.
CASES: dict[str, Case] = {
    "routes that lead back to the node itself": Case(
        zone=f"{FED} 60 SRV 0 0 {{own}} sip.lync.example.\nsip.lync.example 60 A 127.0.0.1",
        log=("route_circle", "srv leads back to this node itself (tls:127.0.0.1:{own})"),
        route="goes nowhere: 482, srv leads back to this node itself",
        error=("remote-server-not-found", "leads back to this node itself"),
    ),
    "routes of two nodes that lead to each other": Case(
        hop=NextHopConfig("127.0.0.1", 0, "tcp", "{loop}"),
        log=("loop", "lync.example answered 482"),
        route="minutes ago: lync.example answered 482: its next hops lead back here",
        error=("not-acceptable", "Loop Detected"),
    ),
    "a next hop that cannot be resolved": Case(
        hop=NextHopConfig("nowhere.invalid", 5061, "tls", "sip.lync.example"),
        log=("connect_failed", "the host name nowhere.invalid has no address"),
        route="out of reach: the host name nowhere.invalid has no address",
        error=("remote-server-timeout", "the host name nowhere.invalid has no address"),
    ),
    'an SRV record with target "."': Case(
        zone=f"{FED} 60 SRV 0 0 0 .",
        log=("invitation_failed", 'says that there is no such service (target ".")'),
        route="goes nowhere: 404, _sipfederationtls._tcp.lync.example says that there is no such",
        error=("remote-server-not-found", 'no such service (target ".")'),
    ),
    "a blocked pattern": Case(
        routes=(RouteConfig(parse_pattern("lync.example"), block=True),),
        log=("invitation_failed", "is blocked by the static route lync.example"),
        route="goes nowhere: 403, romeo@lync.example is blocked by the static route",
        error=("forbidden", "is blocked by the static route lync.example"),
    ),
    "a certificate for another name": Case(
        hop=NextHopConfig("127.0.0.1", 0, "tls", "sip.lync.example"),
        log=("connect_failed", "the peer's certificate is not for sip.lync.example: its names are"),
        route="the peer's certificate is not for sip.lync.example: its names are other.example",
        error=("remote-server-timeout", "the peer's certificate is not for sip.lync.example"),
    ),
    "TLS to a TCP port": Case(
        hop=NextHopConfig("127.0.0.1", 1, "tls", "sip.lync.example"),
        log=(
            "connect_failed",
            "what came is not TLS: does the peer speak plain text on this port?",
        ),
        route="out of reach: what came is not TLS: does the peer speak plain text",
        error=("remote-server-timeout", "what came is not TLS"),
    ),
    "TCP to a TLS port": Case(
        hop=NextHopConfig("127.0.0.1", 0, "tcp", ""),
        log=("connect_failed", "without a word (does it expect TLS on this port?)"),
        route="out of reach: the peer closed the connection without a word (does it expect TLS",
        error=("remote-server-timeout", "lost before an answer came: the peer closed the"),
    ),
    "TCP to a TLS port that says so": Case(
        hop=NextHopConfig("127.0.0.1", 2, "tcp", ""),
        log=("connect_failed", 'what came is TLS: is transport = "tls" missing here'),
        route='out of reach: what came is TLS: is transport = "tls" missing here',
        error=("remote-server-timeout", "what came is TLS"),
    ),
}


class PlainSip(Protocol):
    """A SIP server over TCP that knows one answer.

    :ivar answer: what every INVITE is answered with; b"" for a TLS alert.
    """

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def dataReceived(self, data: bytes) -> None:
        if not self.answer:
            self.transport.write(b"\x15\x03\x01\x00\x02\x02\x46")
            return
        if not data.startswith(b"INVITE "):
            if not data.startswith(b"ACK "):
                self.transport.write(b"SIP/2.0 400 Bad Request\r\n\r\n")
            return
        head = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
        kept = [
            line + (b";tag=x" if line.startswith(b"To:") else b"")
            for line in head
            if line.split(b":")[0] in (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
        ]
        lines = [b"SIP/2.0 " + self.answer, *kept, b"Content-Length: 0", b"", b""]
        self.transport.write(b"\r\n".join(lines))


class RealWorld(World):
    """A gateway whose SIP is real: the stack, the routes, the far side."""

    def __init__(self, config: Config, stack: SipStack) -> None:
        self.real = stack
        super().__init__(config)

    def make_stack(self, peers: PeerPolicy, timers: Any) -> Any:
        self.paced = PacedStack(self.real, peers.domain, self.store, timers, self.metrics)
        return self.paced


class BadRoutes(TestCase):
    """Alice writes to romeo@lync.example, and something is wrong with the way there."""

    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.ca = make_ca(self.folder, "Root")
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.stops: list[Callable[[], Any]] = []

    async def tearDown(self) -> None:
        await DeferredList([Deferred.fromCoroutine(_called(stop)) for stop in self.stops])

    def stack(self, name: str, transports: tuple[str, ...]) -> SipStack:
        """Start a stack on free ports; its certificate is for one name."""
        issued = make_certificate(self.ca, self.folder, name, file=name)
        stack = SipStack(
            reactor,
            [ListenerConfig(each, each, "127.0.0.1", 0, "127.0.0.1", 0) for each in transports],
            TlsStore(tls_config(self.ca, (name, issued))),
            IdSource(),
            Metrics(),
            Tracer(),
            RecordingUser(),
            SipLimits(close_timeout=0.5, backoff=30.0),
        )
        stack.startService()
        self.stops.append(stack.stopService)
        return stack

    def plain(self, answer: bytes) -> int:
        """Start a plain server; return its port."""
        factory: Any = Factory()
        factory.buildProtocol = lambda addr: PlainSip(answer)
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.stops.append(port.stopListening)
        return int(port.getHost().port)

    async def tell(self, case: Case) -> tuple[list[str], str, str]:
        """Let it happen; return the lines of the log, what the command says, and the sender's error."""
        node, far = (
            self.stack("home.example", ("tls", "tcp")),
            self.stack("other.example", ("tls",)),
        )
        ports = {"own": node.ports["tls"], "tls": far.ports["tls"]}
        hop = case.hop
        if hop is not None and hop.tls_name == "{loop}":
            hop = replace(hop, port=self.plain(b"482 Loop Detected"), tls_name="")
        elif hop is not None and hop.port == 1:
            hop = replace(hop, port=self.plain(b"200 OK"))
        elif hop is not None and hop.port == 2:
            hop = replace(hop, port=self.plain(b""))
        elif hop is not None and hop.port == 0:
            hop = replace(hop, port=ports["tls"])
        domain = SipDomainConfig("lync.example", next_hop=hop, listed=True)
        config = replace(CONFIG, domains=(domain,))
        world = RealWorld(config, node)
        peers = PeerPolicy([domain])
        dns = ScriptedDns(case.zone.replace("{own}", str(ports["own"])))
        router = Router(
            [
                LocalRoute(["home.example"]),
                StaticRoute([domain], table=StaticTable([domain], case.routes)),
                SrvRoute(
                    {"lync.example": domain}.get, peers.may_prove, dns.lookup, ("tls", "tcp"),
                    IdSource().uniform,
                ),
            ],
            world.metrics,
            own=[("127.0.0.1", ports["own"])],
        )  # fmt: skip
        world.resolve = router.resolve
        world.paced.looped = router.looped
        world.alice_writes("Where are you?")
        for _ in range(300):
            world.clock.advance(0)
            if world.home.deliveries:
                break
            await deferLater(reactor, 0.1, lambda: None)
        told: list[dict[str, Any]] = []
        query = RouteQuery("MESSAGE", "", "romeo@lync.example")
        pool = node.pool
        router.explain(
            query,
            lambda steps, found: told.append(
                story(
                    query.to_address, steps, found, lambda hop: pool.condition(Target.of_hop(hop))
                )
                | {"lately": router.lately("lync.example")}
            ),
        )
        wanted, _ = case.log
        lines = [
            formatEvent(event) for event in self.events
            if str(event.get("event", event.get("log_system", ""))).endswith(wanted)
            or wanted in str(event)
        ]  # fmt: skip
        return lines, in_words(told[0]), world.home.accept().xml.replace("&quot;", '"')

    async def test_every_mistake(self) -> None:
        """Each has its line in the log, its words in the command, and its error for the sender."""
        seen: dict[str, str] = {}
        for name, case in CASES.items():
            self.events.clear()
            log, command, error = await self.tell(case)
            own = next(iter(self.stops)).__self__.ports["tls"]  # type: ignore[attr-defined]
            words = case.log[1].replace("{own}", str(own))
            self.assertTrue(any(words in line for line in log), (name, words, log))
            self.assertIn(case.route, command, (name, command))
            condition, text = case.error
            self.assertIn(f"<{condition} ", error, (name, error))
            self.assertIn(text, error, (name, error))
            self.assertNotIn(case.route, seen, name)
            seen[case.route] = name
            for stop in self.stops:
                await _called(stop)
            self.stops.clear()


async def _called(stop: Callable[[], Any]) -> None:
    result = stop()
    if isinstance(result, Deferred):
        await result


#: Mistakes that the configuration is refused for, with what is found and what is said.
REFUSED: dict[str, tuple[str, str, str]] = {
    "a route to ourselves": (
        '\n[[route]]\npattern = "other.example"\naddress = "127.0.0.1:5061"\n'
        'tls_name = "home.example"\n',
        "route[1].address",
        "127.0.0.1:5061 is this node itself (listener[1].bind); requests would go in a circle",
    ),
    "a pattern that is not reversed": (
        '\n[[route]]\npattern = ".lync.example.*"\naddress = "sip.lync.example:5061"\n',
        "route[1].pattern",
        'write ".example.lync.*"',
    ),
    "a route for a local domain": (
        '\n[[route]]\npattern = "company.example"\naddress = "sip.lync.example:5061"\n',
        "route[1].pattern",
        "is a local domain; its users are at home with us",
    ),
    "an address that no certificate names": (
        '\n[[route]]\npattern = "other.example"\naddress = "192.0.2.1:5061"\n',
        "route[1].address",
        "an IP address is no name that a certificate could carry",
    ),
    "a transport without a listener": (
        '\n[[route]]\npattern = "other.example"\naddress = "h.example:5060"\ntransport = "udp"\n',
        "route[1].transport",
        "there is no udp listener whose address the peer could be told",
    ),
}


class RefusedRoutes(LoadCase):
    """What can be seen without sending anything keeps the node from starting."""

    def test_every_mistake(self) -> None:
        """Each is told with its place, what is wrong, and how to do it right."""
        for name, (text, key, words) in REFUSED.items():
            problem = self.only(GOOD + text)
            self.assertEqual(problem.key, key, name)
            self.assertIn(words, f"{problem.message}; {problem.suggestion}", name)
