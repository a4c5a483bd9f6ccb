"""SIP over UDP: where answers go, retransmission, bad datagrams."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase, TestCase

from impfed.sip.message import SipRequest, parse_message
from impfed.sip.target import Hop
from impfed.sip.transaction import FailureCause
from impfed.transport.datagram import LARGEST, with_source
from tests.transport.sip_kit import MemoryStack, Outcome, answer_to, outgoing, request_bytes


def via_of(data: bytes) -> list[str]:
    return [line[5:] for line in data.decode().split("\r\n") if line.startswith("Via: ")]


class Source(SynchronousTestCase):
    """``received`` and ``rport`` in the top Via."""

    def via(
        self, sent_by: str, params: str = "", more: str = "", host: str = "192.0.2.7"
    ) -> list[str]:
        data = request_bytes(sent_by=sent_by, transport="UDP", via_params=params, extra=more)
        request = parse_message(data)
        assert isinstance(request, SipRequest)
        return via_of(with_source(request, host, 4711).head.encode())

    def test_sent_by_is_the_source(self) -> None:
        """Nothing is added when sent-by is the source address."""
        self.assertEqual(
            self.via("192.0.2.7:5060"), ["SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bKone"]
        )

    def test_sent_by_is_a_name(self) -> None:
        """A name in sent-by brings ``received``."""
        self.assertEqual(
            self.via("peer.example"),
            ["SIP/2.0/UDP peer.example;branch=z9hG4bKone;received=192.0.2.7"],
        )

    def test_rport(self) -> None:
        """An empty ``rport`` is filled, and ``received`` is added even if it says nothing new."""
        self.assertEqual(
            self.via("192.0.2.7:5060", ";rport;x=1"),
            ["SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bKone;rport=4711;x=1;received=192.0.2.7"],
        )

    def test_peer_claims(self) -> None:
        """A ``received`` or ``rport`` that the peer wrote itself is replaced."""
        self.assertEqual(
            self.via("a.example", ";received=10.0.0.1;rport=1"),
            ["SIP/2.0/UDP a.example;branch=z9hG4bKone;rport=4711;received=192.0.2.7"],
        )

    def test_only_the_top_via(self) -> None:
        """Lower Vias stay as they are."""
        lower = "SIP/2.0/UDP lower.example;rport"
        self.assertEqual(self.via("192.0.2.7", "", f"Via: {lower}\r\n")[1], lower)
        both = self.via("a.example", f", {lower}")
        self.assertTrue(both[0].endswith(f";received=192.0.2.7, {lower}"), both)

    def test_ipv6(self) -> None:
        """An IPv6 sent-by in brackets is its own source address."""
        self.assertEqual(
            self.via("[2001:db8::1]:5060", host="2001:db8::1"),
            ["SIP/2.0/UDP [2001:db8::1]:5060;branch=z9hG4bKone"],
        )


class Datagrams(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = MemoryStack(answer=200)
        self.socket = self.memory.reactor.datagrams
        self.sent = self.socket.transport.written

    def receive(self, data: bytes, port: int = 4711) -> None:
        self.socket.datagramReceived(data, ("192.0.2.7", port))
        self.memory.turn()

    def test_answer_to_the_sent_by_port(self) -> None:
        """Without rport the answer goes to the source address and the port of sent-by."""
        self.receive(request_bytes(transport="UDP", sent_by="peer.example:5070"))
        self.assertEqual(self.sent[0][1], ("192.0.2.7", 5070))
        self.assertIn(b";received=192.0.2.7\r\n", self.sent[0][0])

    def test_answer_to_the_default_port(self) -> None:
        """Without a port in sent-by it goes to 5060."""
        self.receive(request_bytes(transport="UDP", sent_by="peer.example"))
        self.assertEqual(self.sent[0][1], ("192.0.2.7", 5060))

    def test_answer_to_the_source_port(self) -> None:
        """With rport it goes to the source port."""
        self.receive(request_bytes(transport="UDP", via_params=";rport"))
        self.assertEqual(self.sent[0][1], ("192.0.2.7", 4711))

    def test_maddr_is_not_followed(self) -> None:
        """A Via cannot aim our answers at a third host."""
        self.receive(request_bytes(transport="UDP", via_params=";maddr=10.0.0.1"))
        self.assertEqual(self.sent[0][1][0], "192.0.2.7")

    def test_repeated_request(self) -> None:
        """A repeated request gets the same answer and does not reach the user again."""
        data = request_bytes(transport="UDP")
        self.receive(data)
        self.receive(data)
        self.assertEqual(len(self.memory.user.requests), 1)
        self.assertEqual(self.sent[0], self.sent[1])

    def test_bad_datagrams(self) -> None:
        """What can be answered is, at its source address; the rest is counted; nothing breaks."""
        self.receive(b"\r\n\r\n")
        self.receive(b"nonsense")
        self.receive(b"\xff" * 100)
        self.assertEqual(self.sent, [])
        short = request_bytes(transport="UDP", body=b"hello")[:-2]
        self.receive(short)
        self.assertTrue(self.sent[0][0].startswith(b"SIP/2.0 400 "))
        self.assertEqual(self.sent[0][1], ("192.0.2.7", 5061))
        self.assertEqual(self.memory.metrics.value("sip.malformed"), 3)
        self.receive(request_bytes(transport="UDP", branch="z9hG4bKgood"))
        self.assertTrue(self.sent[1][0].startswith(b"SIP/2.0 200 "))

    def test_request_is_repeated_until_answered(self) -> None:
        """Our request is sent again after T1, then at growing intervals, until the answer."""
        outcome = Outcome()
        self.memory.stack.request(outgoing(), Hop("udp", "192.0.2.7", 5060), outcome)
        self.assertIn(b"Via: SIP/2.0/UDP node1.example:15060;branch=", self.sent[0][0])
        self.assertIn(b";rport\r\n", self.sent[0][0])
        self.memory.turn(0.5)
        self.memory.turn(1)
        self.assertEqual(len(self.sent), 3)
        self.receive(answer_to(self.sent[0][0]))
        self.memory.turn(10)
        self.assertEqual(len(self.sent), 3)
        self.assertEqual(outcome.statuses, [200])

    def test_host_by_name(self) -> None:
        """A next hop by name is looked up; one without an address fails the request in words."""
        self.memory.reactor.hosts["peer.example"] = ["192.0.2.9"]
        self.memory.stack.request(outgoing(), Hop("udp", "peer.example", 5060), Outcome())
        self.assertEqual(self.sent[0][1], ("192.0.2.9", 5060))
        outcome = Outcome()
        self.memory.stack.request(outgoing(), Hop("udp", "no.invalid", 5060), outcome)
        self.memory.turn()
        self.assertEqual(outcome.failures[0][0], FailureCause.TRANSPORT)
        self.assertIn("no.invalid has no address", outcome.failures[0][1])

    def test_too_large(self) -> None:
        """What does not fit into a datagram fails."""
        outcome = Outcome()
        request = outgoing(body=b"x" * LARGEST)
        self.memory.stack.request(request, Hop("udp", "192.0.2.7", 5060), outcome)
        self.memory.turn()
        self.assertEqual(outcome.failures[0][0], FailureCause.TRANSPORT)


class RealUdp(TestCase):
    """One exchange over a real socket."""

    timeout = 120

    async def test_exchange(self) -> None:
        """A MESSAGE over loopback UDP is answered."""
        from twisted.internet import reactor

        from impfed.config.model import ListenerConfig, TlsConfig
        from impfed.core.ids import IdSource
        from impfed.core.metrics import Metrics
        from impfed.core.trace import Tracer
        from impfed.transport.sip import SipStack
        from impfed.transport.tls import TlsStore
        from tests.transport.sip_kit import RecordingUser

        stacks = []
        for _ in range(2):
            user = RecordingUser(200)
            listener = ListenerConfig("u", "udp", "127.0.0.1", 0, "127.0.0.1", 0)
            tls = TlsStore(TlsConfig())
            stack = SipStack(reactor, [listener], tls, IdSource(), Metrics(), Tracer(), user)
            user.stack = stack
            stack.startService()
            stacks.append(stack)
        outcome = Outcome()
        stacks[0].request(outgoing(), Hop("udp", "127.0.0.1", stacks[1].ports["u"]), outcome)
        await outcome.done
        self.assertEqual(outcome.statuses, [200])
        for stack in stacks:
            await stack.stopService()
