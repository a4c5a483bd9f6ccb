"""A gateway on doubles and a clock; the test is both the far side and the home server."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock

from impfed.config.model import (
    Config,
    HomeConfig,
    ListenerConfig,
    NextHopConfig,
    NodeConfig,
    SipDomainConfig,
    TlsConfig,
)
from impfed.core.metrics import Metrics
from impfed.gateway.admission import Admission
from impfed.gateway.dialogs import DialogTable
from impfed.gateway.gateway import Gateway
from impfed.gateway.im import ImGateway
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.address import Aliases
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import Existence
from impfed.routing.neighbours import Neighbours
from impfed.routing.router import Router
from impfed.routing.static import LocalRoute, StaticRoute
from impfed.store.memory import MemoryStore
from impfed.testing.fakes import FakeFlow, FakeHome, FakeStack, counting_ids, stanza
from impfed.transport.timers import ReactorTimers

START = 1_790_000_000.0

CONFIG = Config(
    path=Path("test.toml"),
    node=NodeConfig(name="node1"),
    tls=TlsConfig(),
    listeners=(ListenerConfig("federation", "tls", "0.0.0.0", 5061, "fed.home.example", 5061),),
    domains=(
        SipDomainConfig("lync.example", next_hop=NextHopConfig("sip.lync.example")),
        SipDomainConfig(
            "simple.example", kind="simple", next_hop=NextHopConfig("sip.simple.example")
        ),
    ),
    homes=(HomeConfig("home", "component", ("home.example",)),),
)


class NoPresence:
    """The presence half is not under test."""

    def subscribe_arrived(self, *arguments) -> None:
        raise AssertionError("no SUBSCRIBE belongs here")

    def stanza_arrived(self, stanza) -> None:
        raise AssertionError("no presence belongs here")

    def sign(self, local) -> None:
        """Nobody watches."""

    def link_up(self, domains) -> None:
        """Nothing waits."""


class World:
    """A node's gateway between a far side and a home server that the test plays.

    :ivar existing: what the directory says of each user; UNKNOWN unless set.
    :cvar neighbours: the organisation's other nodes.
    """

    neighbours = Neighbours()

    def __init__(self, config: Config = CONFIG, store: MemoryStore | None = None) -> None:
        self.config = config
        self.clock = Clock()
        self.clock.advance(START)
        self.stack = FakeStack()
        self.home = FakeHome()
        self.store = store or MemoryStore()
        self.metrics = Metrics()
        self.flow = FakeFlow()
        self.existing: dict[str, Existence] = {}
        self.dialogs = DialogTable()
        self.store.start()
        self.routes = [LocalRoute(config.local_domains), StaticRoute(config.domains)]
        self.resolve = Router(self.routes, self.metrics).resolve
        peers = PeerPolicy(config.domains)
        timers = ReactorTimers(self.clock)
        self.around = Surroundings(
            config=config,
            stack=self.make_stack(peers, timers),
            home=self.home,
            store=self.store,
            resolve=lambda query, done: self.resolve(query, done),
            lookup=lambda address, done: self.directory(address, done),
            domain=peers.domain,
            aliases=Aliases(),
            ids=counting_ids(),
            timers=timers,
            metrics=self.metrics,
            dialogs=self.dialogs,
            neighbours=self.neighbours,
        )
        admission = Admission(
            peers, config.local_domains, ["fed.home.example"], Aliases(), self.metrics
        )
        self.im = ImGateway(self.around)
        self.presence = self.make_presence()
        self.gateway = Gateway(self.around, admission, self.im, self.presence)
        self.stack.user = self.home.user = self.gateway

    def make_presence(self):
        return NoPresence()

    def make_stack(self, peers, timers):
        """What the gateway sends by: as if every partner had listed us."""
        return self.stack

    def directory(self, address, done) -> None:
        done(self.existing.get(address, Existence.UNKNOWN))

    # -- the home server ---------------------------------------------------------------------------

    def home_sends(self, xml: str) -> None:
        """A stanza comes over the home link."""
        self.gateway.stanza_arrived(stanza(xml), None)

    def alice_writes(
        self, text: str, *, id: str = "m1", extra: str = "", to: str = "romeo@lync.example"
    ):
        """Alice's client sends a chat message."""
        self.home_sends(
            f"<message from='alice@home.example/phone' to='{to}' type='chat' id='{id}'>"
            f"<body>{text}</body>{extra}</message>"
        )

    # -- the far side ------------------------------------------------------------------------------

    def far_sends(self, text: str, body: str | bytes = b"", flow=None):
        """A request arrives: the head in lines, with Via, From, To … as the test gives them."""
        data = body if isinstance(body, bytes) else body.encode()
        head = "\r\n".join(line.strip() for line in text.strip().splitlines())
        raw = f"{head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        return self.stack.receive(raw, flow or self.flow)

    def far_dialog(
        self, method: str, cseq: int, tag: str, body="", media="", *, call_id="c1", extra=""
    ):
        """Romeo sends a request inside the dialog of his INVITE."""
        lines = [
            f"{method} sip:alice@fed.home.example:5061;transport=tls SIP/2.0",
            f"Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bK{call_id}{cseq}{method}",
            "Max-Forwards: 70",
            'From: "Romeo"<sip:romeo@lync.example>;tag=r1;epid=e1',
            f"To: <sip:alice@home.example>;tag={tag}",
            f"Call-ID: {call_id}",
            f"CSeq: {cseq} {method}",
        ]
        if media:
            lines.append(f"Content-Type: {media}")
        if extra:
            lines.append(extra)
        return self.far_sends("\n".join(lines), body)

    def romeo_invites(
        self,
        *,
        call_id="c1",
        extra="",
        sdp=None,
        flow=None,
        to="alice@home.example",
        sender="romeo@lync.example",
    ):
        """Romeo opens a session; returns the tag of our answer."""
        self.romeo_invites_only(
            call_id=call_id, extra=extra, sdp=sdp, flow=flow, to=to, sender=sender
        )
        return self.stack.last_answer().message.to_tag

    def romeo_invites_only(
        self,
        *,
        call_id="c1",
        extra="",
        sdp=None,
        flow=None,
        to="alice@home.example",
        sender="romeo@lync.example",
        scheme="sip",
    ):
        """Romeo's INVITE arrives; returns its transaction."""
        lines = [
            f"INVITE {scheme}:{to} SIP/2.0",
            f"Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bK{call_id}inv",
            "Via: SIP/2.0/TLS 10.20.7.31:37737;ms-received-port=37737;ms-received-cid=1F400",
            "Record-Route: <sip:sip.lync.example:5061;transport=tls;lr;ms-route-sig=aa>;tag=3F",
            "Max-Forwards: 70",
            f'From: "Romeo"<sip:{sender}>;tag=r1;epid=e1',
            f"To: <sip:{to}>",
            f"Call-ID: {call_id}",
            "CSeq: 1 INVITE",
            f"Contact: <sip:{sender};opaque=user:epid:abc;gruu>",
            "Content-Type: application/sdp",
        ]
        if extra:
            lines += extra.splitlines()
        return self.far_sends("\n".join(lines), SDP if sdp is None else sdp, flow)

    def romeo_opens(self, **options) -> str:
        """Romeo opens a session and acknowledges our 200; returns our tag."""
        tag = self.romeo_invites(**options)
        self.far_dialog("ACK", 1, tag, call_id=options.get("call_id", "c1"))
        return tag

    def romeo_writes(
        self, tag: str, text: str, cseq: int = 2, *, call_id="c1", media="text/plain; charset=UTF-8"
    ):
        """Romeo sends a text inside his session."""
        return self.far_dialog("MESSAGE", cseq, tag, text, media, call_id=call_id)

    def ledger(self):
        """All ledger entries, oldest first."""
        found = []
        self.store.ledger(limit=1000).addCallback(found.extend)
        return found[::-1]


SDP = (
    "v=0\r\no=- 0 0 IN IP4 10.20.7.31\r\ns=session\r\nc=IN IP4 10.20.7.31\r\nt=0 0\r\n"
    "m=message 5060 sip null\r\na=accept-types:text/plain text/html \r\n"
)
