"""Connections that came in: framing, bad input, keep-alives, slow and dead peers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import RemoteError
from impfed.testing.pki import make_ca, make_certificate
from impfed.transport.flow import SipLimits
from impfed.transport.stream import TABLE, Event, FlowStateError, State, StreamFlow
from impfed.transport.tls import TlsStore
from tests.transport.sip_kit import MemoryStack, request_bytes, tls_config, tls_listener


class Receiving(SynchronousTestCase):
    def test_two_requests_in_one_segment(self) -> None:
        """Two requests in one segment arrive in order and their answers leave in one write."""
        memory = MemoryStack(answer=200)
        peer = memory.accept()
        first = request_bytes(branch="z9hG4bKa", cseq=1)
        second = request_bytes(branch="z9hG4bKb", cseq=2)
        memory.receive(peer, first + second)
        self.assertEqual([r.cseq.number for _, r, _ in memory.user.requests], [1, 2])
        self.assertEqual(peer.writes, 1)
        self.assertEqual(peer.value().count(b"SIP/2.0 200 OK"), 2)

    def test_cut_at_every_octet(self) -> None:
        """A request arrives once, whole, wherever the network cuts it in two."""
        data = request_bytes(body=b"a\r\n\r\nb")
        memory = MemoryStack()
        for cut in range(1, len(data)):
            peer = memory.accept()
            message = data.replace(b"z9hG4bKone", b"z9hG4bKn%02x" % (cut % 256))
            message = message.replace(b"call-1", b"c%05d" % cut)
            memory.receive(peer, message[:cut])
            memory.receive(peer, message[cut:])
            self.assertEqual(len(memory.user.requests), cut)
            self.assertEqual(memory.user.requests[-1][1].body, b"a\r\n\r\nb")
            peer.drop()

    def test_one_octet_at_a_time(self) -> None:
        """A request that comes octet by octet arrives once."""
        memory = MemoryStack()
        peer = memory.accept()
        for octet in request_bytes():
            peer.protocol.dataReceived(bytes([octet]))
        self.assertEqual(len(memory.user.requests), 1)

    def test_flow_tells_where_from(self) -> None:
        """The user learns the listener, the peer's address and that a TCP peer has proven nothing."""
        memory = MemoryStack()
        memory.receive(memory.accept("192.0.2.9", 4711), request_bytes())
        flow = memory.user.requests[0][2]
        self.assertEqual((flow.transport, flow.listener), ("tcp", "inside"))
        self.assertEqual(flow.remote, ("192.0.2.9", 4711))
        self.assertFalse(flow.peer.proven)
        self.assertEqual(flow.peer.names, frozenset())


class BadInput(SynchronousTestCase):
    def test_garbage_closes_the_connection(self) -> None:
        """What is no SIP closes the connection and is counted once."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, b"\x00\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 garbage\r\n\r\n")
        self.assertTrue(peer.disconnecting)
        self.assertEqual(memory.metrics.value("sip.malformed"), 1)
        self.assertEqual(peer.value(), b"")

    def test_tls_where_there_is_none(self) -> None:
        """A peer that begins TLS on a plain listener is cut off at once, and counted as that."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        self.assertTrue(peer.disconnecting)
        self.assertEqual(memory.metrics.value("sip.tls_on_tcp"), 1)
        self.assertEqual(memory.metrics.value("sip.malformed"), 0)

    def test_request_before_garbage_is_answered(self) -> None:
        """A good request in front of injected garbage is answered before the connection is closed."""
        memory = MemoryStack(answer=200)
        peer = memory.accept()
        memory.receive(peer, request_bytes() + b"\xff\xfe\xfd not SIP at all\r\n\r\n")
        self.assertIn(b"SIP/2.0 200 OK", peer.value())
        self.assertTrue(peer.disconnecting)

    def test_nothing_is_read_after_garbage(self) -> None:
        """What follows garbage is not read as SIP, even if it looks like it."""
        memory = MemoryStack(answer=200)
        peer = memory.accept()
        memory.receive(peer, b"\xff\xfe\r\n\r\n" + request_bytes())
        memory.receive(peer, request_bytes())
        self.assertEqual(memory.user.requests, [])

    def test_missing_content_length_is_answered_and_closed(self) -> None:
        """A request without Content-Length on a stream gets 400, then the connection is closed."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes(body=b"").replace(b"Content-Length: 0\r\n", b""))
        self.assertTrue(peer.value().startswith(b"SIP/2.0 400 "))
        self.assertIn(b"branch=z9hG4bKone", peer.value())
        self.assertTrue(peer.disconnecting)

    def test_malformed_request_is_answered_and_the_stream_goes_on(self) -> None:
        """A request with a wrong CSeq gets 400; the next one on the connection is served."""
        memory = MemoryStack(answer=200)
        peer = memory.accept()
        memory.receive(peer, request_bytes().replace(b"CSeq: 1 MESSAGE", b"CSeq: 1 INVITE"))
        self.assertTrue(peer.take().startswith(b"SIP/2.0 400 "))
        memory.receive(peer, request_bytes(branch="z9hG4bKtwo"))
        self.assertTrue(peer.value().startswith(b"SIP/2.0 200 "))
        self.assertEqual(memory.metrics.value("sip.malformed"), 1)

    def test_malformed_ack_is_never_answered(self) -> None:
        """A malformed ACK is counted and not answered."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes("ACK").replace(b"CSeq: 1 ACK", b"CSeq: x ACK"))
        self.assertEqual(peer.value(), b"")
        self.assertEqual(memory.metrics.value("sip.malformed"), 1)

    def test_too_long_message_is_refused(self) -> None:
        """A body beyond the limit is refused with 513 before it is read."""
        memory = MemoryStack()
        peer = memory.accept()
        head = request_bytes(body=b"").replace(b"Content-Length: 0", b"Content-Length: 99999999")
        memory.receive(peer, head)
        self.assertTrue(peer.value().startswith(b"SIP/2.0 513 "))
        self.assertTrue(peer.disconnecting)

    def test_never_ending_head_is_cut_off(self) -> None:
        """A head that never ends closes the connection at the limit, not before memory is full."""
        memory = MemoryStack()
        peer = memory.accept()
        peer.protocol.dataReceived(b"MESSAGE sip:alice@home.example SIP/2.0\r\n")
        for _ in range(100):
            if not peer.disconnecting:
                peer.protocol.dataReceived(b"X-Long: " + b"x" * 1000 + b"\r\n")
        memory.turn()
        self.assertTrue(peer.disconnecting)

    def test_negotiate_is_refused_with_allow(self) -> None:
        """Microsoft's NEGOTIATE gets 405 with Allow and never reaches the user."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes("NEGOTIATE", body=b""))
        self.assertTrue(peer.value().startswith(b"SIP/2.0 405 "))
        self.assertIn(b"\r\nAllow: INVITE, ACK,", peer.value())
        self.assertEqual(memory.user.requests, [])

    def test_stray_response_is_told(self) -> None:
        """A response to no request of ours is counted and told, and answered by nothing."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, b"SIP/2.0 200 OK\r\n" + request_bytes(body=b"").partition(b"\r\n")[2])
        self.assertEqual([each.status for each in memory.user.strays], [200])
        self.assertEqual(peer.value(), b"")

    def test_user_refuses_with_a_remote_error(self) -> None:
        """A RemoteError of the user becomes the answer, its headers included."""
        memory = MemoryStack()

        def refuse(*_: object) -> None:
            raise RemoteError(480, "Not Here", (("Retry-After", "7"),))

        memory.user.request_arrived = refuse  # type: ignore[method-assign]
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        self.assertTrue(peer.value().startswith(b"SIP/2.0 480 Not Here\r\n"))
        self.assertIn(b"Retry-After: 7\r\n", peer.value())

    def test_fault_of_the_user_becomes_500(self) -> None:
        """A fault in the user is logged, answered with 500, and the connection goes on."""
        memory = MemoryStack()

        def fail(*_: object) -> None:
            raise ZeroDivisionError("a bug")

        memory.user.request_arrived = fail  # type: ignore[method-assign]
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        self.assertTrue(peer.value().startswith(b"SIP/2.0 500 "))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertFalse(peer.disconnecting)


class KeepAlives(SynchronousTestCase):
    def test_ping_is_answered(self) -> None:
        """CRLFCRLF is answered with CRLF."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, b"\r\n\r\n")
        self.assertEqual(peer.value(), b"\r\n")

    def test_silent_connection_is_pinged(self) -> None:
        """After 30 s of silence we ping, and again after 30 s more, if the peer never answers pings."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.turn(29)
        self.assertEqual(peer.value(), b"")
        memory.turn(1)
        memory.turn()
        self.assertEqual(peer.take(), b"\r\n\r\n")
        memory.turn(30)
        memory.turn()
        self.assertEqual(peer.take(), b"\r\n\r\n")
        self.assertFalse(peer.disconnecting)

    def test_busy_connection_is_not_pinged(self) -> None:
        """What the peer sends counts as a sign of life."""
        memory = MemoryStack()
        peer = memory.accept()
        for number in range(5):
            memory.turn(20)
            memory.receive(peer, request_bytes(branch=f"z9hG4bK{number}", cseq=number + 1))
        self.assertNotIn(b"\r\n\r\n\r\n", peer.value())
        self.assertEqual(peer.value(), b"")

    def test_peer_that_stops_answering_pings_is_dead(self) -> None:
        """A peer that has answered pings and does not answer one within 10 s is given up."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.turn(30)
        memory.turn()
        memory.receive(peer, b"\r\n")
        memory.turn(30)
        memory.turn()
        self.assertEqual(peer.value(), b"\r\n\r\n" * 2)
        memory.turn(9)
        self.assertFalse(peer.disconnecting)
        memory.turn(1)
        self.assertTrue(peer.disconnecting)
        self.assertEqual(memory.metrics.value("sip.dead_peers"), 1)

    def test_pings_can_be_switched_off(self) -> None:
        """With keepalive 0 nothing is sent."""
        memory = MemoryStack(limits=SipLimits(keepalive=0))
        peer = memory.accept()
        for _ in range(10):
            memory.turn(30)
        self.assertEqual(peer.value(), b"")


class SlowPeers(SynchronousTestCase):
    def test_unfinished_message_ends_the_connection(self) -> None:
        """A message not complete 30 s after its first octet ends the connection."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.turn(20)
        memory.receive(peer, request_bytes()[:40])
        memory.turn(29)
        self.assertFalse(peer.disconnecting)
        memory.turn(1)
        memory.turn()
        self.assertTrue(peer.disconnecting)
        self.assertEqual(memory.metrics.value("sip.message_timeouts"), 1)

    def test_slow_drip_does_not_buy_time(self) -> None:
        """An octet now and then does not prolong the time that a message may take."""
        memory = MemoryStack()
        peer = memory.accept()
        for octet in request_bytes()[:31]:
            if not peer.disconnecting:
                peer.protocol.dataReceived(bytes([octet]))
            memory.turn(1)
        memory.turn(1)
        self.assertTrue(peer.disconnecting)

    def test_complete_messages_start_the_time_anew(self) -> None:
        """On a busy connection, where some message is always half there, each has its own time."""
        memory = MemoryStack()
        peer = memory.accept()
        data = b"".join(request_bytes(branch=f"z9hG4bK{n}", call_id=f"c{n}") for n in range(12))
        size = len(data) // 12
        peer.protocol.dataReceived(data[:100])
        for number in range(11):
            memory.turn(10)
            peer.protocol.dataReceived(data[100 + number * size : 100 + (number + 1) * size])
        self.assertFalse(peer.disconnecting)
        self.assertEqual(len(memory.user.requests), 11)

    def test_peer_that_reads_nothing(self) -> None:
        """What a peer does not read waits up to a bound; after 30 s the connection is given up."""
        memory = MemoryStack(limits=SipLimits(queue=1000, keepalive=0))
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        flow = memory.user.requests[0][2]
        peer.producer.pauseProducing()
        self.assertTrue(flow.write(b"x" * 900))
        self.assertFalse(flow.write(b"x" * 900))
        memory.turn()
        self.assertEqual(peer.value(), b"")
        self.assertEqual(memory.metrics.value("sip.queue_full"), 1)
        memory.turn(31)
        memory.turn(30)
        self.assertTrue(peer.aborting)
        self.assertEqual(memory.metrics.value("sip.stalled_peers"), 1)

    def test_peer_that_reads_again(self) -> None:
        """What waited for a peer is sent, in order, when it reads again."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        flow = memory.user.requests[0][2]
        peer.producer.pauseProducing()
        flow.write(b"one ")
        flow.write(b"two")
        peer.producer.resumeProducing()
        self.assertEqual(peer.value(), b"one two")

    def secure(self, limits: SipLimits | None = None) -> MemoryStack:
        folder = self.mktemp()
        ca = make_ca(folder)
        config = tls_config(ca, ("a", make_certificate(ca, folder, "home.example")))
        return MemoryStack([tls_listener()], limits, tls=TlsStore(config))

    def test_half_open_handshakes_are_bounded(self) -> None:
        """Beyond the limit of handshakes that are not done nobody else gets in."""
        memory = self.secure(SipLimits(handshakes=1))
        peer = memory.accept("192.0.2.1")
        self.assertIsNone(memory.accept("192.0.2.2"))
        peer.drop()
        self.assertIsNotNone(memory.accept("192.0.2.2"))

    def test_handshake_that_never_ends(self) -> None:
        """A TLS peer that says nothing is given up after 15 s."""
        memory = self.secure()
        peer = memory.accept()
        memory.turn(14)
        self.assertFalse(peer.disconnecting)
        memory.turn(1)
        self.assertTrue(peer.disconnecting)
        self.assertEqual(memory.metrics.value("sip.handshake_timeouts"), 1)
        self.assertEqual(memory.metrics.value("sip.connections_not_secured"), 1)

    def test_close_that_never_ends(self) -> None:
        """A connection whose peer does not let us close it in good order is aborted after 5 s."""
        memory = MemoryStack()
        peer = memory.accept()
        memory.receive(peer, request_bytes())
        peer.loseConnection = lambda: None  # type: ignore[method-assign]
        memory.user.requests[0][2].close("enough")
        memory.turn(4)
        self.assertFalse(peer.aborting)
        memory.turn(1)
        self.assertTrue(peer.aborting)


class Bounds(SynchronousTestCase):
    def test_connections_in_all(self) -> None:
        """Beyond the limit a connection is refused and counted; a place that is free is used."""
        memory = MemoryStack(limits=SipLimits(connections=2))
        first = memory.accept("192.0.2.1")
        self.assertIsNotNone(memory.accept("192.0.2.2"))
        self.assertIsNone(memory.accept("192.0.2.3"))
        self.assertEqual(memory.metrics.value("sip.connections_refused"), 1)
        first.drop()
        self.assertIsNotNone(memory.accept("192.0.2.3"))

    def test_connections_of_one_address(self) -> None:
        """One address cannot take all the places."""
        memory = MemoryStack(limits=SipLimits(connections_per_address=1))
        self.assertIsNotNone(memory.accept("192.0.2.1"))
        self.assertIsNone(memory.accept("192.0.2.1"))
        self.assertIsNotNone(memory.accept("192.0.2.2"))


class StateTable(SynchronousTestCase):
    def test_every_pair_is_written_or_an_error(self) -> None:
        """A pair of state and event leads to a state of the table, or is a typed error."""
        memory = MemoryStack()
        for state in State:
            for event in Event:
                flow = StreamFlow(memory.stack, "tcp")
                flow._state = state
                if (state, event) in TABLE:
                    self.assertIs(flow._step(event), TABLE[state, event])
                else:
                    self.assertRaises(FlowStateError, flow._step, event)

    def test_closed_is_final(self) -> None:
        """Nothing brings a closed connection back."""
        self.assertEqual({TABLE[State.CLOSED, event] for event in Event}, {State.CLOSED})
