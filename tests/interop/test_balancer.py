"""HAProxy with the shipped sample between a far side and two nodes (SPEC section 2, point 3)."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import time

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import wait_until
from tests.interop.balancer import NAME, balanced
from tests.interop.scene import FOREIGN, HOME
from tests.interop.test_proxy_node import read_status

ALICE = f"alice@{HOME}"


class BalancerTests(SynchronousTestCase):
    """Each test begins and ends with the first node alive and the second dead."""

    def setUp(self) -> None:
        self.scene = balanced()
        self.far = self.scene.far
        self.begin = self.far.position
        self.assertTrue(self.scene.haproxy.becomes(1, "UP", 10), self.scene.haproxy.state(1))
        self.assertTrue(self.scene.haproxy.becomes(2, "DOWN", 10), self.scene.haproxy.state(2))

    def tearDown(self) -> None:
        self.assertEqual(self.far.seen(self.begin, event="violation"), [])

    def writes(self, who: str, text: str, number: int) -> None:
        """A far user writes, and the alice of a node reads it."""
        alice = self.scene.alices[number - 1]
        begin, since = alice.position, self.far.position
        done = self.far.send("im", **{"from": who, "to": ALICE, "text": text})
        answer = self.far.expect(since, 30, event="done", id=done)
        self.assertEqual(answer["status"], 200, answer)
        alice.expect(begin, event="message", body=text, sender=f"{who}@{FOREIGN}")

    def ask(self, method: str, sender: str, source: str) -> int:
        """Connect from an address with the far side's certificate, send a request, return the status."""
        certificate = self.scene.far_certificate
        tls = ssl.create_default_context(cafile=str(certificate.ca))
        tls.load_cert_chain(certificate.certificate, certificate.key)
        address = ("127.0.0.1", self.scene.port)
        with (
            socket.create_connection(address, 10, (source, 0)) as plain,
            tls.wrap_socket(plain, server_hostname=NAME) as wire,
            wire.makefile("rb") as answers,
        ):
            head = (
                f"{method} sip:{ALICE} SIP/2.0\r\nVia: SIP/2.0/TLS x.test;branch=z9hG4bK{time.time()}",
                f"Max-Forwards: 70\r\nFrom: <sip:romeo@{sender}>;tag=1\r\nTo: <sip:{ALICE}>",
                f"Call-ID: {time.time()}\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n",
            )
            wire.sendall("\r\n".join(head).encode())
            return read_status(answers)

    def test_im(self) -> None:
        """A session goes through the balancer, both ways over the connection that the far side opened."""
        self.writes("romeo", "But soft", 1)
        since = self.far.position
        self.scene.alices[0].send("message", to=f"romeo@{FOREIGN}", body="Ay me")
        told = self.far.expect(since, event="im", text="Ay me")
        self.assertEqual(told["sender"], ALICE)
        wire = self.far.expect(
            since, event="wire", direction="received", text=lambda text: text.endswith("Ay me")
        )
        self.assertTrue(wire["ours"])
        status = json.loads(self.scene.status(1))
        self.assertIn(f"sip.{FOREIGN}", json.dumps(status))

    def test_source(self) -> None:
        """The node sees the peer's own address and whom the balancer has verified."""
        self.assertEqual(self.ask("OPTIONS", FOREIGN, "127.0.0.9"), 200)
        told = f"connection from tls:127.0.0.9:[0-9]+ is open: CN=sip.{FOREIGN}, by the word of"
        self.assertRegex(self.scene.log(1), told)

    def test_no_word_for_others(self) -> None:
        """A partner cannot speak for another one, though both come through the balancer."""
        self.assertEqual(self.ask("MESSAGE", "other.test", "127.0.0.8"), 403)
        refused = rf"from other.test refused: .*found: sip.{FOREIGN}; connection from 127.0.0.8:"
        self.assertRegex(self.scene.log(1), refused)

    def test_past_the_balancer(self) -> None:
        """A connection straight to the node brings no header and is closed."""
        with socket.create_connection(("127.0.0.1", self.scene.nodes[0].port), 10) as wire:
            wire.sendall(b"OPTIONS sip:x SIP/2.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):  # an abrupt end is an end
                self.assertEqual(wire.recv(100), b"")
        line = "closed: there is no PROXY header"
        self.assertTrue(wait_until(lambda: line in self.scene.log(1)))

    def test_dead_node(self) -> None:
        """A node that answers no check is out within five seconds, and texts go to the other one."""
        first, second = self.scene.nodes
        self.writes("tybalt", "Peace?", 1)
        second.start()
        try:
            self.assertTrue(self.scene.haproxy.becomes(2, "UP", 5), self.scene.haproxy.state(2))
            assert first.part is not None
            first.part.kill(signal.SIGSTOP)  # its sockets stay open: only the check can tell
            began = time.monotonic()
            self.assertTrue(self.scene.haproxy.becomes(1, "DOWN", 5.5), self.scene.haproxy.state(1))
            took = time.monotonic() - began
            self.assertLess(took, 5.0)
            self.writes("paris", "I hate the word", 2)
            first.part.kill(signal.SIGCONT)
            self.assertTrue(self.scene.haproxy.becomes(1, "UP", 5), self.scene.haproxy.state(1))
        finally:
            assert first.part is not None
            first.part.kill(signal.SIGCONT)
            second.stop()

    def test_drain(self) -> None:
        """A drained node keeps its connections and gets no new ones."""
        second = self.scene.nodes[1]
        self.writes("mercutio", "A plague", 1)
        second.start()
        try:
            self.assertTrue(self.scene.haproxy.becomes(2, "UP", 5), self.scene.haproxy.state(2))
            self.scene.haproxy.admin("set server nodes/node1 state drain")
            self.assertEqual(self.ask("OPTIONS", FOREIGN, "127.0.0.7"), 200)
            self.assertIn("from tls:127.0.0.7:", self.scene.log(2))
            self.writes("mercutio", "On both your houses", 1)
        finally:
            self.scene.haproxy.admin("set server nodes/node1 state ready")
            second.stop()
