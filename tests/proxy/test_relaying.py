"""Requests and answers of another node's dialogs: relayed by token, refused, explained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import Config, ListenerConfig, NeighbourConfig
from impfed.core.errors import RemoteError
from impfed.proxy.relaying import relay_tokens
from impfed.sip.message import SipRequest, SipResponse, parse_message
from impfed.sip.relay_token import RelayTokens
from impfed.sip.transaction_parts import ServerTransaction
from impfed.transport.flow import Flow
from tests.gateway.harness import CONFIG
from tests.proxy.test_junction import DOMAINS, HOME, Site, flow_of
from tests.proxy.test_permission import request

SECRET = "what all of the nodes know"
SHARED = ("federation.company.example", 5061)

#: What the worked example of two nodes behind one public address says.
NODES = {
    "router": NeighbourConfig(
        "router", ("company.example",), "10.0.0.1", 5062, "node1.company.example",
        advertised=(("203.0.113.10", 5062),),
    ),
    "node2": NeighbourConfig(
        "node2", ("second.example",), "10.0.0.2", 5062, "node2.company.example",
        advertised=(("203.0.113.10", 45062),),
    ),
}  # fmt: skip
CERTIFICATES = {name: node.tls_name for name, node in NODES.items()}


def configuration(
    name: str, shared: bool = False, neighbour: NeighbourConfig | None = None
) -> Config:
    """Return the configuration of one of the two nodes."""
    ((other, there),) = [(key, node) for key, node in NODES.items() if key != name]
    own = NODES[name]
    ((host, port),) = own.advertised
    listener = ListenerConfig("federation", "tls", own.host, own.port, host, port)
    if shared:
        listener = replace(listener, contact_host=SHARED[0], contact_port=SHARED[1])
    node = replace(
        CONFIG.node,
        name=name,
        relay_secret=SECRET,
        trusted_upstreams=(CERTIFICATES[other],),
    )
    return replace(
        CONFIG,
        node=node,
        listeners=(listener,),
        domains=DOMAINS,
        homes=(replace(HOME, domains=own.domains),),
        neighbours=(neighbour or there,),
    )


class TokenSite(Site):
    """One node that has relay tokens."""

    def __init__(self, config: Config) -> None:
        shared = relay_tokens(config)
        super().__init__(config, shared)
        self.tokens = shared or RelayTokens("", b"")
        self.clock.advance(1_790_000_000.0)

    def arrives(self, arrived: SipRequest, flow: Flow) -> int:
        """Let a request arrive; return what is answered at once, 0 for nothing."""
        before = len(self.stack.answers)
        try:
            self.receive(arrived, flow)
        except RemoteError as error:
            return error.status
        return self.stack.answers[-1] if len(self.stack.answers) > before else 0


class RelayingTests(SynchronousTestCase):
    """The routing node gets what belongs to node 2."""

    def setUp(self) -> None:
        self.router = TokenSite(configuration("router"))
        self.node2 = TokenSite(configuration("node2"))
        self.far = flow_of("sip.lync.example")
        self.said: list[Any] = []
        globalLogPublisher.addObserver(self.said.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.said.append)

    def contact(self, call_id: str = "c", tag: str = "2", at: str = "203.0.113.10:45062") -> str:
        """Return the Contact of a dialog of node 2."""
        token = self.node2.tokens.token(call_id, tag, self.node2.clock.seconds())
        return f"sip:bob@{at};transport=tls;relay={token}"

    def in_dialog(self, contact: str, method: str = "MESSAGE") -> SipRequest:
        """Return a far user's request in that dialog."""
        return request(contact, method=method, to_tag=";tag=2")

    def words(self, event: str) -> str:
        """Return what the log says of the only such event."""
        (found,) = [each for each in self.said if each.get("event") == f"impfed.proxy.{event}"]
        return formatEvent(found)

    # -- a crossed mapping

    def test_every_method(self) -> None:
        """Whatever may come in a dialog is relayed to its owner, the answer comes back by its Via."""
        for method in ("MESSAGE", "NOTIFY", "INFO", "BYE", "INVITE", "SUBSCRIBE", "OPTIONS"):
            self.assertEqual(
                self.router.arrives(self.in_dialog(self.contact(), method), self.far), 0
            )
            sent, hop = self.router.stack.forwarded[-1]
            self.assertEqual((sent.method, hop.host, hop.port), (method, "10.0.0.2", 5062))
            self.assertIn(("203.0.113.10", 5062), [(sent.via.host, sent.via.port)])
        ack = self.in_dialog(self.contact(), "ACK")
        self.router.junction.ack_arrived(ack, None, self.far)
        self.assertEqual(self.router.stack.forwarded[-1][0].method, "ACK")

    def test_cancel(self) -> None:
        """The CANCEL of a relayed re-INVITE follows it."""
        server = self.router.receive(self.in_dialog(self.contact(), "INVITE"), self.far)
        self.router.junction.cancel_arrived(server, server.request)
        self.assertEqual(len(self.router.stack.cancelled), 1)

    def test_explained(self) -> None:
        """The log and the status say which port seems to be mapped to which node, and to whom it should."""
        self.router.arrives(self.in_dialog(self.contact()), self.far)
        self.router.arrives(self.in_dialog(self.contact()), self.far)
        advice = (
            "203.0.113.10:45062 seems to be mapped to this node (10.0.0.1:5062, listener federation);"
            " map it to node2 (10.0.0.2:5062)"
        )
        self.assertIn(advice, self.words("misrouted"))  # once, not for each request
        (line,) = self.router.junction.relaying.view()
        self.assertEqual((line["requests"], line["owner"], line["advice"]), (2, "node2", advice))
        self.assertEqual(self.router.metrics.value("proxy.misrouted"), 2)

    def test_the_owner_takes_it(self) -> None:
        """What was relayed is the owner's gateway's, which knows the dialog."""
        self.router.arrives(self.in_dialog(self.contact()), self.far)
        self.node2.dialogs.add(("c", "2"))
        self.node2.arrives(self.router.stack.forwarded[-1][0], flow_of("node1.company.example"))
        self.assertEqual(len(self.node2.gateway.requests), 1)

    # -- bad tokens

    def refused(self, contact: str, status: int, counter: str, words: str) -> None:
        """Send a request that is refused in words, and goes nowhere."""
        self.assertEqual(self.router.arrives(self.in_dialog(contact), self.far), status)
        self.assertEqual(self.router.metrics.value(counter), 1)
        self.assertIn(words, self.words("token_refused"))
        self.assertEqual(self.router.stack.forwarded, [])
        self.assertEqual(self.router.gateway.requests, [])
        # An ACK is never answered, and a BENOTIFY neither.
        self.router.junction.ack_arrived(self.in_dialog(contact, "ACK"), None, self.far)
        self.assertEqual(self.router.arrives(self.in_dialog(contact, "BENOTIFY"), self.far), 0)
        self.assertEqual(self.router.stack.forwarded, [])

    def test_forged(self) -> None:
        """403; nobody who has no secret can name an owner."""
        stranger = RelayTokens("node2", b"a guess")
        token = stranger.token("c", "2", self.router.clock.seconds())
        contact = f"sip:bob@203.0.113.10:45062;relay={token}"
        self.refused(
            contact, 403, "relay.forged", "forged, or the nodes have different relay secrets"
        )

    def test_an_address_for_a_name(self) -> None:
        """403; a token holds a name and never an address, so it leads nowhere from outside."""
        contact = "sip:bob@203.0.113.10:45062;relay=198.51.100.66:5061"
        self.refused(contact, 403, "relay.forged", "forged")

    def test_replayed(self) -> None:
        """403; the token of one dialog counts for nothing in another one."""
        contact = self.contact(call_id="another call")
        self.refused(contact, 403, "relay.other_dialog", "of another dialog")

    def test_expired(self) -> None:
        """481, at which a peer begins anew."""
        contact = self.contact()
        self.router.clock.advance(12 * 3600 + 120)
        self.refused(contact, 481, "relay.expired", "it has expired")

    def test_unknown_node(self) -> None:
        """481 for a good token of a node that is not configured here."""
        node3 = RelayTokens("node3", SECRET.encode())
        token = node3.token("c", "2", self.router.clock.seconds())
        contact = f"sip:bob@203.0.113.10:45062;relay={token}"
        self.refused(contact, 481, "relay.unknown_node", "no [[neighbour]] is called so")

    def test_own_name(self) -> None:
        """A dialog of this node's that is over is the gateway's to refuse; no neighbour gets it."""
        token = self.router.tokens.token("c", "2", self.router.clock.seconds())
        self.router.arrives(self.in_dialog(f"sip:bob@203.0.113.10:5062;relay={token}"), self.far)
        self.assertEqual(len(self.router.gateway.requests), 1)
        self.router.gateway.requests.clear()
        contact = f"sip:bob@203.0.113.10:45062;relay={token}"
        self.refused(contact, 481, "relay.over", "it names this node")

    def test_no_dialog(self) -> None:
        """A token in a request outside any dialog counts for nothing."""
        own = f"sip:bob@203.0.113.10:5062;relay={self.contact().partition('relay=')[2]}"
        self.router.arrives(request(own), self.far)
        self.assertEqual(self.router.stack.forwarded, [])

    def test_who_may_pass(self) -> None:
        """A good token opens no door: the connection has to prove the domain in From."""
        nobody = flow_of()
        self.assertEqual(self.router.arrives(self.in_dialog(self.contact()), nobody), 403)
        stolen = replace_from(self.in_dialog(self.contact()), "alice@company.example")
        self.assertEqual(self.router.arrives(stolen, self.far), 403)
        self.assertEqual(self.router.stack.forwarded, [])

    def test_loop(self) -> None:
        """Nodes that take each other for the owner do not send a request in a circle."""
        # Node 2 has been renamed, and its neighbour is called as it was called itself.
        wrong = replace(NODES["router"], name="node2")
        config = configuration("node2", shared=True, neighbour=wrong)
        node2 = TokenSite(replace(config, node=replace(config.node, name="node2b")))
        router = TokenSite(configuration("router", shared=True))
        contact = self.contact(at=f"{SHARED[0]}:{SHARED[1]}")
        router.arrives(self.in_dialog(contact), self.far)
        node2.arrives(router.stack.forwarded[-1][0], flow_of("node1.company.example"))
        self.assertEqual(node2.stack.forwarded, [])
        self.assertEqual(len(node2.gateway.requests), 1)

    def test_by_the_route_set(self) -> None:
        """In a dialog that came through this node the route set decides, for longer than any token."""
        contact = self.contact()
        self.router.clock.advance(48 * 3600.0)
        route = "Route: <sip:203.0.113.10:5062;transport=tls;lr>\n"
        arrived = request(contact, more=route, to_tag=";tag=2")
        self.assertEqual(self.router.arrives(arrived, self.far), 0)
        self.assertEqual(self.router.stack.forwarded[-1][1].host, "10.0.0.2")
        self.assertEqual(self.router.metrics.value("proxy.misrouted"), 0)

    # -- one Contact for all nodes

    def test_shared_contact(self) -> None:
        """With one name in every Contact the token alone says whose a request is; nothing is misrouted."""
        router = TokenSite(configuration("router", shared=True))
        contact = self.contact(at=f"{SHARED[0]}:{SHARED[1]}")
        self.assertEqual(router.arrives(self.in_dialog(contact), self.far), 0)
        sent, hop = router.stack.forwarded[-1]
        self.assertEqual((sent.uri_text, hop.host), (contact, "10.0.0.2"))
        self.assertEqual(router.metrics.value("proxy.misrouted"), 0)
        # Its own dialogs and what has no token are the gateway's.
        router.arrives(self.in_dialog(f"sip:bob@{SHARED[0]}:{SHARED[1]};transport=tls"), self.far)
        self.assertEqual(len(router.gateway.requests), 1)

    def test_behind_a_balancer(self) -> None:
        """Of two nodes with the same users and address each relays what belongs to the other's dialogs."""
        config = configuration(
            "router", neighbour=replace(NODES["node2"], domains=(), advertised=())
        )
        here = TokenSite(config)
        contact = self.contact(at="203.0.113.10:5062")  # the balancer's, which both of them tell
        self.assertEqual(here.arrives(self.in_dialog(contact), self.far), 0)
        self.assertEqual(here.stack.forwarded[-1][1].host, "10.0.0.2")
        self.assertEqual(here.metrics.value("proxy.misrouted"), 0)
        here.arrives(request(method="INVITE"), self.far)  # what is new stays where it came
        self.assertEqual(len(here.gateway.requests), 1)

    # -- answers

    def answer(self, branch: str, at: str = "203.0.113.10:45062") -> SipResponse:
        """Return an answer with that topmost Via."""
        text = (
            f"SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS {at};branch={branch}\r\n"
            "From: <sip:bob@second.example>;tag=2\r\nTo: <sip:x@lync.example>;tag=1\r\n"
            "Call-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        )
        parsed = parse_message(text.encode())
        assert isinstance(parsed, SipResponse)
        return parsed

    def test_answer(self) -> None:
        """An answer to node 2 goes on to it as it came, and is explained."""
        stray = self.answer("z9hG4bK00ff" + self.node2.tokens.mark)
        self.router.junction.stray_response(stray, self.far)
        ((sent, hop),) = self.router.stack.answers_sent
        self.assertEqual((sent, hop.host), (stray.to_bytes(), "10.0.0.2"))
        self.assertEqual([each.host for each in self.router.stack.forgiven], ["10.0.0.2"])
        self.assertIn("map it to node2 (10.0.0.2:5062)", self.words("misrouted"))
        self.assertEqual(self.router.metrics.value("proxy.misrouted_answers"), 1)
        self.assertEqual(self.router.metrics.value("proxy.answers_relayed"), 1)
        self.assertEqual(self.router.gateway.strays, [])

    def test_answer_without_proof(self) -> None:
        """One whose branch does not prove whose it is is dropped, but explained all the same."""
        self.router.junction.stray_response(self.answer("z9hG4bK00ff"), self.far)
        self.assertEqual(self.router.stack.answers_sent, [])
        self.assertIn("does not prove whose it is", self.words("misrouted"))
        self.assertEqual(len(self.router.gateway.strays), 1)

    def test_answer_for_nobody(self) -> None:
        """One that is this node's own, late, or nobody's is counted and dropped."""
        own = "z9hG4bK00ff" + self.router.tokens.mark
        for branch, at in ((own, "203.0.113.10:5062"), ("z9hG4bK1", "198.51.100.9:5061")):
            self.router.junction.stray_response(self.answer(branch, at), self.far)
        self.assertEqual(self.router.stack.answers_sent, [])
        self.assertEqual(self.router.metrics.value("proxy.misrouted_answers"), 0)
        self.assertEqual(len(self.router.gateway.strays), 2)

    def test_answer_in_circles(self) -> None:
        """What another node has relayed is not relayed again."""
        stray = self.answer("z9hG4bK00ff" + self.node2.tokens.mark)
        self.router.junction.stray_response(stray, flow_of("node2.company.example"))
        self.assertEqual(self.router.stack.answers_sent, [])
        self.assertIn("another node has relayed it already", self.words("misrouted"))

    def test_answers_do_not_fill_the_list(self) -> None:
        """Whatever a peer writes into the Via of an answer, the list of wrong mappings stays short."""
        branch = "z9hG4bK00ff" + self.node2.tokens.mark
        for port in range(100):
            stray = self.answer(branch, f"198.51.100.9:{7000 + port}")
            self.router.junction.stray_response(stray, self.far)
        self.assertEqual(len(self.router.junction.relaying.view()), 1)

    def test_own_branches(self) -> None:
        """What the proxy itself sends says whose it is, too, so that its answers find back."""
        self.router.arrives(self.in_dialog(self.contact()), self.far)
        branch = self.router.stack.forwarded[-1][0].via.branch
        self.assertEqual(self.node2.tokens.branch_owner(branch), "router")

    # -- without a secret

    def test_no_secret(self) -> None:
        """A node without a secret says what that means; the address in the Contact still leads on."""
        config = configuration("router")
        router = TokenSite(replace(config, node=replace(config.node, relay_secret="")))
        self.assertIn(
            "an answer that comes to the wrong node is lost", self.words("no_relay_secret")
        )
        plain = "sip:bob@203.0.113.10:45062;transport=tls"
        self.assertEqual(router.arrives(self.in_dialog(plain), self.far), 0)
        self.assertEqual(len(router.stack.forwarded), 1)


def replace_from(arrived: SipRequest, sender: str) -> SipRequest:
    """Return a request with another From."""
    data = arrived.to_bytes().replace(b"sip:alice@lync.example", f"sip:{sender}".encode())
    parsed: Any = parse_message(data)
    assert isinstance(parsed, SipRequest)
    return parsed


def for_alice(arrived: SipRequest) -> SipRequest:
    """Return a request for alice's Contact with her address in its To."""
    address = arrived.to_bytes().partition(b"To: <")[2].partition(b">")[0]
    data = arrived.to_bytes().replace(b"To: <" + address, b"To: <sip:alice@company.example")
    parsed: Any = parse_message(data)
    assert isinstance(parsed, SipRequest)
    return parsed


class ClusterTests(SynchronousTestCase):
    """A node of a cluster of three, with another cluster beside it."""

    def setUp(self) -> None:
        member = replace(NODES["node2"], domains=())
        third = NeighbourConfig("node3", (), "10.0.0.3", 5062, "node3.company.example")
        other = NeighbourConfig(
            "cluster-b", ("works.example",), "10.0.0.4", 5062, "cluster-b.company.example"
        )
        self.config = replace(configuration("router", True), neighbours=(member, third, other))
        self.node = TokenSite(self.config)
        self.node2 = TokenSite(configuration("node2"))
        self.far = flow_of("sip.lync.example")

    def sent_to(self) -> list[str]:
        """Return where something was sent."""
        return [hop.host for _, hop in self.node.stack.forwarded]

    def test_placed(self) -> None:
        """What is new goes to its node, from outside and from another cluster alike, but only once."""
        self.node.junction.relaying.placed = lambda request: "node2"
        new = request("sip:alice@company.example", method="SUBSCRIBE")
        for flow in (self.far, flow_of("cluster-b.company.example")):
            self.node.arrives(new, flow)
        self.assertEqual(self.sent_to(), ["10.0.0.2", "10.0.0.2"])
        self.node.arrives(new, flow_of("node3.company.example"))
        self.assertEqual(len(self.sent_to()), 2)
        self.assertEqual(len(self.node.gateway.requests), 1)

    def contact(self) -> str:
        """Return the Contact of a dialog of node 2."""
        token = self.node2.tokens.token("c", "2", self.node2.clock.seconds())
        return f"sip:alice@203.0.113.10:45062;transport=tls;relay={token}"

    def test_of_a_dead_node(self) -> None:
        """What comes for a dead node's address goes on to the node that has taken the dialog over."""
        self.node.neighbours.gone = lambda name: name == "node2"
        arrived = request(self.contact(), method="SUBSCRIBE", to_tag=";tag=2")
        transaction = self.node.receive(arrived, self.far)
        self.assertEqual(len(self.node.gateway.requests), 1)  # which asks the store whose it is
        self.assertTrue(self.node.junction.pass_on(transaction, arrived, self.far, "node3"))
        self.assertEqual(self.sent_to(), ["10.0.0.3"])
        owner = flow_of("node3.company.example")
        self.assertFalse(self.node.junction.pass_on(transaction, arrived, owner, "node3"))

    def invited(self, call_id: str) -> ServerTransaction:
        """An INVITE that belongs to node 2, which cannot be reached."""
        self.node.junction.relaying.placed = lambda request: self.owner
        self.owner = "node2"
        new = request("sip:alice@company.example", method="INVITE", call_id=call_id)
        transaction = self.node.receive(new, self.far)
        self.node.stack.fail()
        return transaction

    def test_out_of_reach(self) -> None:
        """What a node has not got that has died goes to whom the cluster gives it, in a moment."""
        self.invited("c")
        self.node.clock.advance(1.0)
        self.node.stack.fail()
        self.owner = "node3"
        self.node.clock.advance(1.0)
        self.assertEqual(self.sent_to(), ["10.0.0.2", "10.0.0.2", "10.0.0.3"])
        self.invited("d")
        self.owner = ""
        self.node.clock.advance(1.0)
        ((_, arrived, _),) = self.node.gateway.requests
        self.assertEqual(arrived.call_id, "d")
        self.node.clock.advance(60.0)
        self.assertEqual(self.node.stack.answers, [])

    def test_out_of_reach_for_long(self) -> None:
        """After some seconds the far user is shown that nobody can be reached."""
        self.invited("c")
        for _ in range(30):
            self.node.clock.advance(0.5)
            if self.node.stack.answers:
                break
            self.node.stack.fail()
        self.assertEqual(self.node.stack.answers, [480])
        self.assertLess(self.node.clock.seconds() % 1000, 15)
        sent = len(self.sent_to())
        self.node.clock.advance(60.0)
        self.assertEqual(len(self.sent_to()), sent)

    def test_out_of_reach_in_order(self) -> None:
        """A text behind one that waits does not overtake it."""
        for number in (1, 2):
            self.node.receive(request(self.contact(), to_tag=";tag=2", cseq=number), self.far)
            if number == 1:
                self.node.stack.fail()
        self.assertEqual(len(self.sent_to()), 1)
        self.node.clock.advance(1.0)
        numbers = [sent.cseq.number for sent, _ in self.node.stack.forwarded]
        self.assertEqual(numbers, [1, 1, 2])

    def test_out_of_reach_once_written(self) -> None:
        """What may have been delivered is not sent again."""
        self.node.receive(request(self.contact(), to_tag=";tag=2"), self.far)
        self.node.stack.fail(written=True)
        self.assertEqual(self.node.stack.answers, [480])

    def test_out_of_reach_cancelled(self) -> None:
        """Who has waited too long himself is told so, and nobody is invited any more."""
        server = self.invited("c")
        self.node.junction.cancel_arrived(server, server.request)
        self.assertEqual(self.node.stack.answers, [487])
        self.node.clock.advance(60.0)
        self.assertEqual(len(self.sent_to()), 1)

    def test_of_a_dead_node_by_another(self) -> None:
        """What a third node sends here for a dead node's address is served here, wherever the dialog is."""
        self.node.neighbours.gone = lambda name: name == "node2"
        arrived = for_alice(request(self.contact(), method="NOTIFY", to_tag=";tag=2"))
        self.assertEqual(self.node.arrives(arrived, flow_of("node3.company.example")), 0)
        self.assertEqual(self.sent_to(), [])
        self.assertEqual(len(self.node.gateway.requests), 1)

    def test_of_a_dialog_that_was_given(self) -> None:
        """What a node passes on that has just given the dialog away is not sent back to it."""
        token = self.node2.tokens.token("c", "2", self.node2.clock.seconds())
        shared = f"sip:alice@{SHARED[0]}:{SHARED[1]};transport=tls;relay={token}"
        for number, contact in enumerate((self.contact(), shared), 1):
            arrived = for_alice(request(contact, to_tag=";tag=2"))
            self.assertEqual(self.node.arrives(arrived, flow_of("node2.company.example")), 0)
            self.assertEqual(self.sent_to(), [])
            self.assertEqual(len(self.node.gateway.requests), number)  # which asks the store

    def test_of_a_dialog_that_went_on(self) -> None:
        """What a third node sends here by a token of ours goes on to where the dialog has gone since."""
        ((host, port),) = NODES["router"].advertised
        token = self.node.tokens.token("c", "2", self.node.clock.seconds())
        contact = f"sip:alice@{host}:{port};transport=tls;relay={token}"
        third = flow_of("node2.company.example")
        for method in ("MESSAGE", "INFO"):
            arrived = request(contact, method=method, to_tag=";tag=2")
            transaction = self.node.receive(arrived, third)
            if method == "MESSAGE":
                self.assertEqual(len(self.node.gateway.requests), 1)
                self.assertTrue(self.node.junction.pass_on(transaction, arrived, third, "node3"))
        self.assertEqual(self.sent_to(), ["10.0.0.3", "10.0.0.3"])
        self.assertEqual(len(self.node.gateway.requests), 1)  # it is known from then on

    def test_by_another_cluster(self) -> None:
        """Another cluster's node sends here what is for any of us: no mapping is wrong."""
        arrived = request(self.contact(), to_tag=";tag=2")
        self.node.arrives(arrived, flow_of("cluster-b.company.example"))
        self.assertEqual(self.sent_to(), ["10.0.0.2"])
        self.assertEqual(self.node.metrics.value("proxy.misrouted"), 0)
