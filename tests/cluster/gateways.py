"""Whole gateways on the nodes of the kit; the test plays their home server and the far side."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from impfed.config.model import BudgetConfig, Config
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.gateway.admission import Admission
from impfed.gateway.cluster_home import ClusterHome
from impfed.gateway.cluster_questions import Questions
from impfed.gateway.clustered import Clustered
from impfed.gateway.dialogs import DialogTable
from impfed.gateway.gateway import Gateway
from impfed.gateway.im import ImGateway
from impfed.gateway.im_moves import ImMoves
from impfed.gateway.paced import PacedStack
from impfed.gateway.presence import PresenceGateway
from impfed.gateway.presence_moves import PresenceCommons, PresenceMoves
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.address import Aliases
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import Existence
from impfed.routing.router import Router
from impfed.routing.static import LocalRoute, StaticRoute
from impfed.sip.message import SipRequest
from impfed.sip.transaction import ServerTransaction
from impfed.testing.fakes import Answer, FakeFlow, FakeStack, SentRequest, stanza
from impfed.transport.flow import Flow
from impfed.transport.timers import ReactorTimers
from tests.cluster.homelinks import Links
from tests.cluster.kit import Cluster, Node
from tests.gateway.harness import CONFIG, SDP
from tests.gateway.presence_world import pidf

HOME, FOREIGN = "home.example", "lync.example"


def configured(node: str, **budget: Any) -> Config:
    """Return a node's configuration, with a budget for the partner."""
    partner = replace(CONFIG.domains[0], listed=True, budget=BudgetConfig(**budget))
    return replace(CONFIG, node=replace(CONFIG.node, name=node), domains=(partner,))


class _Wire(FakeStack):
    """A node's SIP stack: what it sends goes to the far side of them all."""

    def __init__(self, side: Side) -> None:
        super().__init__(f"{side.node.name}.{HOME}")
        self._side = side

    def request(self, *arguments: Any) -> Any:
        transaction = super().request(*arguments)
        self._side.world.far.arrived(self._side, self.sent.pop())
        return transaction

    def cancel(self, transaction: Any) -> None:
        super().cancel(transaction)
        self._side.world.far.cancelled(self._all[id(transaction)])

    def respond(self, transaction: ServerTransaction, *rest: Any, **more: Any) -> None:
        super().respond(transaction, *rest, **more)
        self._side.world.far.answered(self.answers.pop())


@dataclass
class Sent:
    """A request that reached the far side.

    :ivar node: who sent it.
    :ivar at: when.
    """

    node: str
    at: float
    message: SipRequest

    @property
    def people(self) -> tuple[str, str]:
        """Who speaks to whom: the user parts of From and To."""
        return _user(self.message.from_.uri), _user(self.message.to.uri)


def _user(uri: Any) -> str:
    return str(uri).partition(":")[2].partition("@")[0]


@dataclass
class FarSide:
    """The partner: answers each request after a while, and notices numbers that go back.

    :ivar delay: seconds until an answer; of an INVITE, too.
    :ivar refuses: returns what a request is refused with, 0 for not at all.
    :ivar sent: what has come, in order.
    :ivar texts: by pair the texts that have come, in order.
    :ivar targets: by Call-ID our last Contact.
    :ivar answers: to requests of ours, oldest first.
    :ivar backward: requests whose number was not higher than one before.
    """

    world: World
    delay: float = 0.1
    refuses: Callable[[SipRequest], int] = lambda request: 0
    sent: list[Sent] = field(default_factory=list)
    texts: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    _withdrawn: set[int] = field(default_factory=set)

    def arrived(self, side: Side, request: SentRequest) -> None:
        """Take a request, and answer it."""
        message = request.message
        self.sent.append(Sent(side.node.name, side.node.clock.seconds(), message))
        key, number = (message.call_id, message.from_tag), message.cseq.number
        if number <= self._numbers.get(key, 0):
            self.backward.append(
                f"{message.method} {number} of {side.node.name} after {self._numbers[key]}"
            )
        self._numbers[key] = number
        if (contact := message.contact) is not None:
            self.targets[message.call_id] = contact.uri_text
        side.node.clock.callLater(self.delay, self._answer, request)

    def _answer(self, request: SentRequest) -> None:
        message = request.message
        if id(request) in self._withdrawn:
            request.answer(487)
        elif status := self.refuses(message):
            request.answer(status)
        else:
            if message.method == "MESSAGE":
                people = (_user(message.from_.uri), _user(message.to.uri))
                self.texts.setdefault(people, []).append(message.body.decode())
            headers = [("Contact", f"<{message.to.uri};gruu>")]
            if message.method == "SUBSCRIBE":
                headers.append(("Expires", message.get("expires") or "3600"))
            request.answer(
                200, headers=headers, body=SDP.encode() if message.method == "INVITE" else b""
            )

    def cancelled(self, request: SentRequest) -> None:
        """A CANCEL has come."""
        self._withdrawn.add(id(request))

    def answered(self, answer: Answer) -> None:
        """A node has answered a request of ours."""
        self.answers.append(answer)

    def of(self, method: str) -> list[Sent]:
        """Return the requests of a method that have come."""
        return [each for each in self.sent if each.message.method == method]


class Side:
    """The gateway of one node."""

    def __init__(self, world: World, node: Node) -> None:
        self.world = world
        self.node = node
        config = configured(node.name, **world.budget)
        peers, timers, metrics = PeerPolicy(config.domains), ReactorTimers(node.clock), Metrics()
        ids = IdSource(random.Random(node.name).randbytes)
        self.stack = _Wire(self)
        self.links = Links(CONFIG.homes[0], world.written)
        self.home = ClusterHome(self.links, config.homes, timers, ids, 20.0, node.name)  # type: ignore[arg-type]
        self.paced = PacedStack(self.stack, peers.domain, node.store, timers, metrics)  # type: ignore[arg-type]
        self.paced.may_act = lambda: node.service.may_act
        routes = [LocalRoute(config.local_domains), StaticRoute(config.domains)]
        around = Surroundings(
            config=config,
            stack=self.paced,
            home=self.home,  # type: ignore[arg-type]
            store=node.store,
            resolve=Router(routes, metrics).resolve,
            lookup=lambda address, done: done(Existence.UNKNOWN),
            domain=peers.domain,
            aliases=Aliases(),
            ids=ids,
            timers=timers,
            metrics=metrics,
            dialogs=DialogTable(),
        )
        admission = Admission(
            peers, config.local_domains, [f"{node.name}.{HOME}"], Aliases(), metrics
        )
        self.im = ImGateway(around)
        self.presence = PresenceGateway(around)
        self.gateway = Gateway(around, admission, self.im, self.presence)
        self.questions = Questions(node.service, timers, ids, node.name)
        self.clustered = Clustered(
            node.service, self.home, config.homes, self.gateway, ImMoves(self.im),
            PresenceMoves(self.presence), timers, node.clock, node.store, self.questions,
            (PresenceCommons(self.presence),),
        )  # fmt: skip
        node.service._info = self.clustered.info
        self.gateway.search = self.clustered.search
        self.gateway.may_act = lambda: node.service.may_act
        self.gateway.pass_on = self._pass_on
        self.presence.watching.mine = self.clustered.mine
        self.stack.user = self.gateway
        self.links.user = self.clustered

    def _pass_on(
        self, transaction: ServerTransaction, request: SipRequest, flow: Flow, node: str
    ) -> bool:
        self.world.sides[node].gateway.request_arrived(transaction, request, flow)
        return True

    def home_sends(self, xml: str) -> None:
        """The home server sends a stanza over the link, which is here."""
        self.clustered.stanza_arrived(stanza(xml), None)


class World:
    """A cluster of gateways between one home server and one partner.

    :param budget: what the partner bears of each node.
    """

    def __init__(self, *names: str, **budget: Any) -> None:
        self.budget = budget
        self.written: list[str] = []
        self.far = FarSide(self)
        self.cluster = Cluster(*names)
        self.sides = {name: Side(self, node) for name, node in self.cluster.nodes.items()}
        self.run = self.cluster.run
        self.run(3.0)
        for side in self.sides.values():
            side.clustered.start()
        self.run(2.0)
        self._branches = 0

    # -- the cluster -------------------------------------------------------------------------------

    @property
    def holder(self) -> Side:
        """Who holds the home link."""
        (found,) = [side for side in self.sides.values() if side.links.one.up]
        return found

    def owner(self, local: str, foreign: str) -> str:
        """Return whose a pair is."""
        pair = (f"{local}@{HOME}", f"{foreign}@{FOREIGN}")
        return next(iter(self.sides.values())).node.service.owner(pair)

    def pairs_of(self, node: str, count: int) -> list[tuple[str, str]]:
        """Return so many pairs of a node."""
        pairs = ((f"user{number}", f"friend{number}") for number in range(100_000))
        found = (pair for pair in pairs if self.owner(*pair) == node)
        return [next(found) for _ in range(count)]

    def drain(self, node: str) -> list[Any]:
        """Begin to drain a node; what is returned is filled when it has ended."""
        ended: list[Any] = []
        self.sides[node].node.service.drain().addBoth(ended.append)
        return ended

    # -- people ------------------------------------------------------------------------------------

    def writes(self, local: str, foreign: str, text: str) -> None:
        """A local user writes to a foreign one."""
        self.holder.home_sends(
            f"<message from='{local}@{HOME}/pc' to='{foreign}@{FOREIGN}' type='chat' id='{text}'>"
            f"<body>{text}</body></message>"
        )

    def presence(self, local: str, foreign: str, type: str = "", show: str = "") -> None:
        """A local user's server passes his presence, or a question of his, on to a foreign user."""
        sender = f"{local}@{HOME}" if type else f"{local}@{HOME}/pc"
        kind = f" type='{type}'" if type else ""
        child = f"<show>{show}</show>" if show else ""
        self.holder.home_sends(
            f"<presence from='{sender}' to='{foreign}@{FOREIGN}'{kind}>{child}</presence>"
        )

    def far_sends(
        self, node: str, method: str, local: str, foreign: str, *, call_id: str, cseq: int,
        tag: str = "", own_tag: str = "", body: str = "", headers: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """A request of a foreign user reaches a node.

        :param tag: the node's, within a dialog.
        :param own_tag: his own; one by the Call-ID, as in dialogs that he has begun, if empty.
        """
        self._branches += 1
        data = body.encode()
        lines = [
            f"{method} sip:{local}@{HOME} SIP/2.0",
            f"Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bKfar{self._branches}",
            "Max-Forwards: 70",
            f"From: <sip:{foreign}@{FOREIGN}>;tag={own_tag or f'f-{call_id}'}",
            f"To: <sip:{local}@{HOME}>{f';tag={tag}' if tag else ''}",
            f"Call-ID: {call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: <sip:{foreign}@{FOREIGN};opaque=user:epid:abc;gruu>",
            *headers,
            f"Content-Length: {len(data)}",
        ]
        raw = "\r\n".join(lines).encode() + b"\r\n\r\n" + data
        self.sides[node].stack.receive(raw, FakeFlow((f"sip.{FOREIGN}", FOREIGN)))

    def far_watches(self, node: str, local: str, foreign: str, call_id: str) -> None:
        """A foreign user subscribes to a local one, who allows it and is there."""
        event = ("Event: presence", "Accept: application/pidf+xml", "Expires: 3600")
        self.far_sends(node, "SUBSCRIBE", local, foreign, call_id=call_id, cseq=1, headers=event)
        self.run(0.5)
        self.presence(local, foreign, "subscribed")
        self.presence(local, foreign)
        self.run(0.5)

    def far_notifies(self, sent: Sent, node: str = "", cseq: int = 1) -> None:
        """The foreign user whom a SUBSCRIBE asks for is there."""
        local, foreign = sent.people
        self.far_sends(
            node or sent.node, "NOTIFY", local, foreign, call_id=sent.message.call_id, cseq=cseq,
            tag=sent.message.from_tag, body=pidf("open"),
            headers=(
                "Event: presence", "Subscription-State: active;expires=3600",
                "Content-Type: application/pidf+xml",
            ),
        )  # fmt: skip
