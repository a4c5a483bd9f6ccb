"""The proxy on a real SIP stack, between two peers in memory: octets in, octets out."""

from __future__ import annotations

from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from impfed.core.errors import RemoteError
from impfed.proxy.agent import ProxyAgent
from impfed.proxy.core import Proxy
from impfed.proxy.values import Leg, Target
from impfed.sip.target import Hop
from impfed.testing.fakes import counting_ids
from impfed.transport.sip import ISipUser
from impfed.transport.timers import ReactorTimers
from tests.transport.sip_kit import MemoryStack, answer_to, request_bytes

ROUTE = "<sip:192.0.2.1;transport=tcp;lr>"


class AgentCase(SynchronousTestCase):
    """A caller, the proxy, and one or two next hops."""

    def setUp(self) -> None:
        self.memory = memory = MemoryStack()
        self.hops = [Hop("tcp", "192.0.2.50", 5060)]
        self.decision = None
        ours = self.ours
        proxy = Proxy(ours, lambda host, port: host == "192.0.2.1", lambda *_: None, counting_ids())
        self.agent = ProxyAgent(
            memory.stack, proxy, self.locate, lambda question: self.legs()[0],
            ReactorTimers(memory.reactor), memory.metrics,
        )  # fmt: skip
        memory.stack.user = self.agent
        self.caller = memory.accept()

    @staticmethod
    def ours(uri) -> bool:
        return uri.host == "192.0.2.1"

    def legs(self):
        return tuple(Leg(hop, "TCP 192.0.2.1:5060", (ROUTE,)) for hop in self.hops)

    def locate(self, question, done) -> None:
        done(self.decision or [Target(self.legs())])

    def call(self, data: bytes):
        """Let the caller send; return the connection to the next hop."""
        self.memory.receive(self.caller, data)
        self.memory.turn()
        hop = self.memory.connected()
        self.memory.turn()
        return hop

    def invite(self, **options) -> bytes:
        return request_bytes("INVITE", transport="TCP", body=b"", **options)

    def reply(self, hop, request: bytes, status: str, to_tag: str = "x") -> bytes:
        """Let the hop answer; return what the caller gets."""
        self.memory.receive(hop, answer_to(request, status, to_tag))
        return self.heard()

    def heard(self) -> bytes:
        self.memory.turn()
        return self.caller.take()


class AgentTests(AgentCase):
    """Octets in, octets out."""

    def test_interface(self) -> None:
        """It is a user of a stack."""
        verifyObject(ISipUser, self.agent)

    def test_message(self) -> None:
        """A MESSAGE goes on with our Via and Record-Route; its answer comes back without our Via."""
        data = request_bytes(transport="TCP", extra="X-Odd :  1 ;a\r\n", body=b"\xff\x00")
        hop = self.call(data)
        sent = hop.take()
        self.assertIn(b"\r\nVia: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bK", sent)
        self.assertIn(b"\r\nRecord-Route: " + ROUTE.encode(), sent)
        self.assertIn(b"\r\nX-Odd :  1 ;a\r\n", sent)
        self.assertIn(b";branch=z9hG4bKone;received=192.0.2.7\r\n", sent)
        self.assertTrue(sent.endswith(b"\r\n\r\n\xff\x00"))
        back = self.reply(hop, sent, "200 OK")
        self.assertTrue(back.startswith(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP peer.example"))
        self.assertNotIn(b"192.0.2.1", back)
        self.assertEqual(self.agent._contexts, {})

    def test_invite(self) -> None:
        """Ringing and every 2xx pass, the ACK follows, and the proxy repeats nothing by itself."""
        hop = self.call(self.invite())
        sent = hop.take()
        self.assertIn(b"180", self.reply(hop, sent, "180 Ringing"))
        self.assertIn(b"200 OK", self.reply(hop, sent, "200 OK"))
        self.memory.turn(3.0)
        self.assertEqual(self.heard(), b"")
        self.assertIn(b"200 OK", self.reply(hop, sent, "200 OK"))
        for _ in range(2):
            self.memory.receive(
                self.caller,
                request_bytes("ACK", transport="TCP", body=b"", branch="z9hG4bKack"),
            )
            self.memory.turn()
            self.assertTrue(hop.take().startswith(b"ACK sip:alice@home.example"))
        self.memory.turn(40.0)
        self.assertEqual(self.memory.user.unacknowledged, [])

    def test_ack_while_the_dns_is_asked(self) -> None:
        """An ACK cannot wait for the DNS: it takes the way of the INVITE that was accepted."""
        hop = self.call(self.invite())
        self.reply(hop, hop.take(), "200 OK")
        self.agent._leg = lambda question: None
        ack = request_bytes("ACK", transport="TCP", body=b"", branch="z9hG4bKack")
        self.memory.receive(self.caller, ack)
        self.memory.turn()
        sent = hop.take()
        self.assertTrue(sent.startswith(b"ACK sip:alice@home.example"))
        self.assertNotIn(b"Record-Route", sent)
        self.memory.receive(self.caller, ack.replace(b"Call-ID: ", b"Call-ID: other"))
        self.memory.turn()
        self.assertEqual(hop.take(), b"")
        self.assertEqual(self.memory.metrics.value("proxy.dropped"), 1)

    def test_refusal_of_an_invite(self) -> None:
        """A refusal is acknowledged hop by hop: by us downstream, by the caller to us."""
        hop = self.call(self.invite())
        sent = hop.take()
        self.assertIn(b"486", self.reply(hop, sent, "486 Busy Here"))
        self.assertTrue(hop.take().startswith(b"ACK "))

    def test_cancel(self) -> None:
        """A CANCEL is answered here and made anew for the next hop; the 487 comes back."""
        hop = self.call(self.invite())
        sent = hop.take()
        self.reply(hop, sent, "180 Ringing")
        self.memory.receive(self.caller, request_bytes("CANCEL", transport="TCP", body=b""))
        self.assertIn(b"200 OK", self.heard())
        cancel = hop.take()
        self.assertTrue(cancel.startswith(b"CANCEL "))
        line = next(each for each in sent.split(b"\r\n") if each.startswith(b"Via"))
        self.assertIn(line, cancel)
        self.assertIn(b"487", self.reply(hop, sent, "487 Request Terminated"))

    def test_next_hop_when_the_first_is_down(self) -> None:
        """A hop that refuses the connection is followed by the next in order."""
        self.hops.append(Hop("tcp", "192.0.2.51", 5060))
        self.memory.receive(self.caller, request_bytes(transport="TCP"))
        self.memory.refuse(ConnectionRefusedError())
        self.memory.turn()
        self.memory.turn()
        self.assertEqual(self.memory.reactor.tcpClients[-1][0], "192.0.2.51")
        hop = self.memory.connected()
        self.memory.turn()
        self.assertIn(b"202", self.reply(hop, hop.take(), "202 Accepted"))

    def test_no_hop_left(self) -> None:
        """When no hop can be reached the answer is 500, never 503."""
        self.memory.receive(self.caller, request_bytes(transport="TCP"))
        self.memory.refuse(ConnectionRefusedError())
        self.memory.turn()
        self.assertTrue(self.heard().startswith(b"SIP/2.0 500"))

    def test_refused(self) -> None:
        """A decision against it is answered at once."""
        self.decision = RemoteError(404, "Not Here")
        self.memory.receive(self.caller, request_bytes(transport="TCP"))
        self.assertTrue(self.heard().startswith(b"SIP/2.0 404 Not Here"))

    def test_stray_response(self) -> None:
        """A response of nobody's is counted and dropped."""
        self.memory.receive(self.caller, answer_to(request_bytes(transport="TCP")))
        self.assertEqual(self.memory.metrics.value("proxy.dropped"), 1)
        self.assertEqual(self.heard(), b"")

    def test_cancel_of_nothing(self) -> None:
        """A CANCEL that fits no INVITE is answered with 481, and nothing goes on."""
        self.memory.receive(self.caller, request_bytes("CANCEL", transport="TCP", body=b""))
        self.assertTrue(self.heard().startswith(b"SIP/2.0 481"))
        self.assertEqual(self.memory.reactor.tcpClients, [])

    def test_spiral(self) -> None:
        """A request that comes back on another way, for another target, is passed on once more."""
        hop = self.call(self.invite())
        came = hop.take().replace(b"INVITE sip:alice@", b"INVITE sip:alias@")
        via = b"Via: SIP/2.0/TCP 192.0.2.50:5060;branch=z9hG4bKnext\r\nVia: SIP/2.0/TCP 192.0.2.1"
        came = came.replace(b"Via: SIP/2.0/TCP 192.0.2.1", via, 1)
        self.memory.receive(hop, came)
        self.memory.turn()
        self.assertIn(b"INVITE sip:alias@", hop.take())
        self.assertNotIn(b" 482 ", self.heard())
