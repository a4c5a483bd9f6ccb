"""A node calls itself and its neighbours through the addresses that peers are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import Config, ListenerConfig, NeighbourConfig
from impfed.core.ids import IdSource
from impfed.ctl.pat import words
from impfed.proxy.pat_check import PatCheck
from impfed.proxy.relaying import relay_tokens
from impfed.routing.neighbours import Neighbours
from impfed.transport.identity import NOBODY, PeerIdentity
from tests.gateway.harness import CONFIG
from tests.transport.sip_kit import MemoryStack, MemoryTransport, request_bytes

PUBLIC = "203.0.113.10"
SECRET = "what all of the nodes know"


class PatNode:
    """A node with a TCP listener, in memory."""

    def __init__(
        self,
        name: str,
        inside: str,
        *listeners: ListenerConfig,
        neighbours: tuple[NeighbourConfig, ...] = (),
        secret: str = SECRET,
    ) -> None:
        self.inside = inside
        self.config: Config = replace(
            CONFIG,
            node=replace(CONFIG.node, name=name, relay_secret=secret),
            listeners=listeners,
            neighbours=neighbours,
        )
        self.memory = MemoryStack(list(listeners), answer=200)
        # In memory nothing is bound to a port of the system's choice.
        for listener in listeners:
            self.memory.stack.ports[listener.name] = listener.port
        tokens = relay_tokens(self.config)
        around = Neighbours(neighbours)
        self.check = PatCheck(self.config, self.memory.stack, around, tokens, IdSource())
        self.called = 0


class Firewall:
    """Maps public ports to listeners of nodes; what is not mapped is refused, or dropped."""

    def __init__(self, *nodes: PatNode) -> None:
        self.nodes = nodes
        self.table: dict[int, tuple[PatNode, int]] = {}
        self.dropped: set[int] = set()
        self.shown: dict[int, PeerIdentity] = {}  # certificates, as if it were TLS
        self.pipes: list[tuple[MemoryTransport, MemoryTransport]] = []

    def connect(self, node: PatNode) -> None:
        """Let the attempts of a node go where they are mapped to."""
        clients = node.memory.reactor.tcpClients
        while node.called < len(clients):
            number, node.called = node.called, node.called + 1
            port = clients[number][1]
            if port in self.dropped:
                continue
            if port not in self.table:
                node.memory.refuse(ConnectionRefusedError(), number)
                continue
            there, listener = self.table[port]
            client = node.memory.connected(number)
            factory = there.memory.reactor.tcpServers[listener][1]
            protocol = factory.buildProtocol(client.getPeer())
            server = MemoryTransport(protocol, PUBLIC, 50000 + number)
            protocol.makeConnection(server)
            self.pipes.append((client, server))
            for flow in node.memory.stack.pool.flows:
                if flow.target is not None and flow.target.port == port:
                    flow.peer = self.shown.get(port, NOBODY)

    def settle(self) -> None:
        """Let everything go where it goes, until nothing moves."""
        for _ in range(20):
            for node in self.nodes:
                self.connect(node)
                node.memory.turn()
            for one, other in self.pipes:
                for sender, receiver in ((one, other), (other, one)):
                    data = sender.take()
                    if data and not receiver.disconnecting:
                        receiver.protocol.dataReceived(data)


def listener(name: str, inside: str, port: int, public: int, **more: Any) -> ListenerConfig:
    """Return a listener behind the public address."""
    return ListenerConfig(name, "tcp", inside, port, PUBLIC, public, **more)


class PatCheckTests(SynchronousTestCase):
    """Two nodes behind one address; the first has two listeners."""

    def setUp(self) -> None:
        self.build()

    def build(self, secret2: str = SECRET, **more: Any) -> None:
        """Make both nodes, with the table that is right."""
        near = NeighbourConfig("node2", (), "10.0.0.2", 5060, advertised=((PUBLIC, 45060),))
        back = NeighbourConfig("node1", (), "10.0.0.1", 5060, advertised=((PUBLIC, 5060),))
        self.node1 = PatNode(
            "node1",
            "10.0.0.1",
            listener("main", "10.0.0.1", 5060, 5060, **more),
            listener("other", "10.0.0.1", 5080, 5080),
            neighbours=(near,),
        )
        self.node2 = PatNode(
            "node2",
            "10.0.0.2",
            listener("main", "10.0.0.2", 5060, 45060),
            neighbours=(back,),
            secret=secret2,
        )
        self.firewall = Firewall(self.node1, self.node2)
        self.firewall.table = {
            5060: (self.node1, 0), 5080: (self.node1, 1), 45060: (self.node2, 0),
        }  # fmt: skip

    def found(self, seconds: float = 0.0) -> dict[str, dict[str, Any]]:
        """Let the first node check; return what it found, by address."""
        answers: list[list[dict[str, Any]]] = []
        self.node1.check.check(answers.append)
        self.firewall.settle()
        self.node1.memory.turn(seconds)
        self.firewall.settle()
        (self.items,) = answers
        return {str(item["address"]): item for item in self.items}

    def verdicts(self, seconds: float = 0.0) -> list[str]:
        """Return the verdicts on 5060, 5080 and 45060."""
        found = self.found(seconds)
        return [found[f"{PUBLIC}:{port}"]["verdict"] for port in (5060, 5080, 45060)]

    def test_right(self) -> None:
        """Every mapping that is right is said to be; nothing is left over."""
        self.assertEqual(self.verdicts(), ["right"] * 3)
        self.assertTrue(all(item["passes"] for item in self.items))
        self.assertIn("every address leads where it should", words(self.items))
        self.assertIn(f"{PUBLIC}:5080 tcp   of this node, listener other", words(self.items))
        self.assertEqual(len(self.node1.memory.stack.pool), 0)
        self.assertEqual(self.node1.memory.stack.pool.resting(), {})
        self.assertEqual(self.node1.memory.user.requests, [])  # the gateway hears nothing of it

    def test_again(self) -> None:
        """Each check is a new call: what was right a moment ago may be wrong now."""
        self.assertEqual(self.verdicts(), ["right"] * 3)
        del self.firewall.table[5080]
        self.assertEqual(self.verdicts(), ["right", "missing", "right"])
        self.firewall.table[5080] = (self.node1, 1)
        self.assertEqual(self.verdicts(), ["right"] * 3)

    def test_refused(self) -> None:
        """A port that nobody listens at is missing, and the words say where it has to lead."""
        del self.firewall.table[5060]
        line = self.found()[f"{PUBLIC}:5060"]
        self.assertEqual((line["verdict"], line["passes"]), ("missing", False))
        wanted = "connection refused: is it mapped to this node, listener main (10.0.0.1:5060)?"
        self.assertEqual(line["words"], wanted)
        self.assertIn("1 of 3 addresses to correct at the firewall", words(self.items))

    def test_silence(self) -> None:
        """A port whose packets are dropped is missing after five seconds; firewalls may not lead back in."""
        self.firewall.dropped.add(45060)
        line = self.found(5.0)[f"{PUBLIC}:45060"]
        self.assertEqual(line["verdict"], "missing")
        self.assertIn(
            "nobody answers within 5 s: is it mapped to node2 (10.0.0.2:5060)", line["words"]
        )
        self.assertIn("lead connections from inside back in", line["words"])

    def test_crossed(self) -> None:
        """When two mappings are exchanged both are named, and who is there in truth."""
        self.firewall.table |= {5060: (self.node2, 0), 45060: (self.node1, 0)}
        found = self.found()
        own, neighbours = found[f"{PUBLIC}:5060"], found[f"{PUBLIC}:45060"]
        self.assertEqual((own["verdict"], own["leads_to"]), ("crossed", "node2, listener main"))
        self.assertIn("map it to this node, listener main (10.0.0.1:5060)", own["words"])
        self.assertEqual(neighbours["leads_to"], "this node, listener main")
        self.assertIn("map it to node2 (10.0.0.2:5060)", neighbours["words"])
        self.assertEqual(found[f"{PUBLIC}:5080"]["verdict"], "right")
        self.assertIn("2 of 3 addresses to correct", words(self.items))

    def test_crossed_between_listeners(self) -> None:
        """Within one node, too, an address has to lead to the listener that tells it."""
        self.firewall.table |= {5060: (self.node1, 1), 5080: (self.node1, 0)}
        self.assertEqual(self.verdicts(), ["crossed", "crossed", "right"])
        self.assertEqual(self.items[0]["leads_to"], "this node, listener other")

    def test_another_secret(self) -> None:
        """A node with another relay secret proves nothing, so it is not taken for ours."""
        self.build(secret2="another secret altogether")
        line = self.found()[f"{PUBLIC}:45060"]
        self.assertEqual((line["verdict"], line["leads_to"]), ("crossed", "a stranger"))
        self.assertIn("not with our relay secret", line["words"])
        # Its gateway has answered, as it answers any OPTIONS.
        self.assertEqual(len(self.node2.memory.user.requests), 1)

    def test_certificates(self) -> None:
        """Without the secret a certificate tells who it is: a node, an edge of ours, or a stranger."""
        self.build(secret2="another secret altogether")
        address = f"{PUBLIC}:45060"
        for name, verdict, who in (
            ("10.0.0.2", "crossed", "node2"),  # its configured name, in this table
            ("home.example", "not checked", "an edge or balancer"),
            ("evil.example", "crossed", "a stranger"),
        ):
            shown = PeerIdentity(frozenset({name}), True, f"CN={name}")
            self.firewall.shown[45060] = shown
            line = self.found()[address]
            self.assertEqual((line["verdict"], line["leads_to"]), (verdict, who))
            self.assertIn(f"CN={name}", line["words"])

    def test_no_secret(self) -> None:
        """A single node without a secret can check itself all the same."""
        alone = PatNode("node1", "10.0.0.1", listener("main", "10.0.0.1", 5060, 5060), secret="")
        firewall = Firewall(alone)
        firewall.table[5060] = (alone, 0)
        answers: list[Any] = []
        alone.check.check(answers.append)
        firewall.settle()
        self.assertEqual([item["verdict"] for item in answers[0]], ["right"])

    def test_shared_contact(self) -> None:
        """The federation routing name is right wherever it leads to a node of ours."""
        self.build(contact_host="federation.company.example", contact_port=5061)
        self.node1.memory.reactor.hosts["federation.company.example"] = [PUBLIC]
        self.firewall.table[5061] = (self.node2, 0)
        line = self.found()["federation.company.example:5061"]
        self.assertEqual((line["verdict"], line["leads_to"]), ("right", "node2, listener main"))

    def test_sixth_version(self) -> None:
        """IPv6 addresses are called and shown as they are written in URIs."""
        told = ListenerConfig("main", "tcp", "2001:db8:1::1", 5060, "2001:db8::10", 5060)
        node = PatNode("node1", "2001:db8:1::1", told)
        firewall = Firewall(node)
        answers: list[Any] = []
        node.check.check(answers.append)
        firewall.settle()
        (line,) = answers.pop()
        self.assertEqual(line["address"], "[2001:db8::10]:5060")
        self.assertIn("listener main ([2001:db8:1::1]:5060)?", line["words"])
        firewall.table[5060] = (node, 0)
        node.check.check(answers.append)
        firewall.settle()
        self.assertEqual([item["verdict"] for item in answers[0]], ["right"])

    def test_datagrams(self) -> None:
        """A UDP listener is named and left alone."""
        udp = ListenerConfig("datagrams", "udp", "10.0.0.1", 5060, PUBLIC, 5060)
        node = PatNode("node1", "10.0.0.1", udp)
        answers: list[Any] = []
        node.check.check(answers.append)
        ((line,),) = answers
        self.assertEqual((line["verdict"], line["passes"]), ("not checked", True))

    def test_calls_of_strangers(self) -> None:
        """Who makes up a call gets what everybody gets: no node tells him its name."""
        peer = self.node1.memory.accept()
        assert peer is not None
        for number, call in enumerate(("0123-aaaaaaaaaaaaaaaa", "", "-", "x" * 500, "0123-é")):
            data = request_bytes(
                "OPTIONS", branch=f"z9hG4bK{number}", call_id=str(number), transport="TCP",
                extra=f"Impfed-Check: {call}\r\n",
            )  # fmt: skip
            self.node1.memory.receive(peer, data)
            answer = peer.take()
            self.assertIn(b"SIP/2.0 200", answer)
            self.assertNotIn(b"Impfed-Node", answer)
        self.assertEqual(len(self.node1.memory.user.requests), 5)

    def test_forged_answer(self) -> None:
        """Who answers in a node's name has to sign it; a stranger who claims it is a stranger."""

        def lies(transaction: Any, request: Any, flow: Any) -> bool:
            claim = f"node2 main {'a' * 16}"
            self.node2.memory.stack.respond(transaction, 200, headers=(("Impfed-Node", claim),))
            return True

        self.node2.memory.stack.probed = lies
        self.assertEqual(self.found()[f"{PUBLIC}:45060"]["leads_to"], "a stranger")
