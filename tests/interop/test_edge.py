"""An edge between two nodes with private addresses and the far side (SPEC section 7)."""

from __future__ import annotations

import io
import socket
import ssl

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import Event
from tests.interop.edge_scene import INSIDE_NAME, NODE_NAMES, OUTSIDE_NAME, bordered
from tests.interop.scene import FOREIGN, HOME
from tests.interop.test_proxy_node import read_status
from tests.proxy.test_permission import ATTEMPTS, request

ALICE = f"alice@{HOME}"


def head(event: Event) -> str:
    """Return the head of a message on the wire."""
    text: str = event["text"]
    return text.partition("\r\n\r\n")[0]


class EdgeTests(SynchronousTestCase):
    """Each test has a far user of its own."""

    def setUp(self) -> None:
        self.scene = bordered()
        self.edge, self.far, self.alice = self.scene.edge, self.scene.far, self.scene.alice
        self.begin = self.far.position
        self.alice_begin = self.alice.position

    def tearDown(self) -> None:
        self.assertEqual(self.far.seen(self.begin, event="violation"), [])

    def far_does(self, do: str, who: str, wanted: int, to: str = ALICE, **details: str) -> None:
        """Let a far user do something; the answer must have the wanted status."""
        since = self.far.position
        number = self.far.send(do, **{"from": who, "to": to, **details})
        done = self.far.expect(since, 30, event="done", id=number)
        self.assertEqual(done["status"], wanted, done)

    def wire(self, direction: str, begins: str, contains: str, since: int) -> Event:
        """Return a message that the far side has sent or received."""

        def fits(text: str) -> bool:
            return text.startswith(begins) and contains in text

        return self.far.expect(since, event="wire", direction=direction, text=fits)

    def test_im_inward(self) -> None:
        """A session from outside reaches the node, which answers in it; only public addresses show."""
        self.far_does("im", "romeo", 200, text="But soft")
        self.alice.expect(
            self.alice_begin, event="message", body="But soft", sender=f"romeo@{FOREIGN}"
        )
        answer = self.wire("received", "SIP/2.0 200", "INVITE", self.begin)["text"]
        public = f"{OUTSIDE_NAME}:{self.edge.returns[0]}"
        self.assertRegex(answer, rf"Contact: <sip:\S*{public};transport=tls")
        since = self.far.position
        self.alice.send("message", to=f"romeo@{FOREIGN}", body="Who's there?")
        self.far.expect(since, event="im", sender=ALICE, text="Who's there?")
        for event in self.far.seen(self.begin, event="wire", direction="received"):
            self.assertNotIn(NODE_NAMES[0], head(event))

    def test_im_outward(self) -> None:
        """A node's session goes out through the edge under its public address, and back into it."""
        self.alice.send("message", to=f"paris@{FOREIGN}", body="Good morrow")
        self.far.expect(self.begin, event="im", sender=ALICE, text="Good morrow")
        invite = self.wire("received", "INVITE", f"paris@{FOREIGN}", self.begin)["text"]
        self.assertIn(f"SIP/2.0/TLS {OUTSIDE_NAME}:{self.edge.port};branch=", invite)
        self.assertIn(f"SIP/2.0/TLS {OUTSIDE_NAME}:{self.edge.returns[0]};branch=", invite)
        self.assertNotIn(NODE_NAMES[0], invite.partition("\r\n\r\n")[0])
        self.far_does("im", "paris", 200, text="Happily met")
        self.alice.expect(self.alice_begin, event="message", body="Happily met")

    def watched(self, who: str) -> None:
        """A far user watches alice, who says yes."""
        self.far_does("subscribe", who, 200)
        self.alice.expect(self.alice_begin, event="asked", sender=f"{who}@{FOREIGN}")
        self.alice.send("approve", to=f"{who}@{FOREIGN}")
        self.sees(who, "available", self.begin)

    def sees(self, who: str, state: str, since: int) -> None:
        """Wait until a far user sees alice so."""
        wanted = {"event": "presence", "sender": ALICE, "to": f"{who}@{FOREIGN}", "state": state}
        self.far.expect(since, 30, subscription="active", **wanted)

    def test_presence_inward(self) -> None:
        """A far user watches ours: changes arrive, a refresh is answered, it ends."""
        self.watched("balthasar")
        since = self.far.position
        self.alice.send("presence", show="dnd")
        self.sees("balthasar", "busy", since)
        self.alice.send("presence", show="")
        self.far_does("refresh", "balthasar", 200)
        since = self.far.position
        self.far_does("unsubscribe", "balthasar", 200)
        self.far.expect(since, event="presence", sender=ALICE, subscription="terminated")

    def test_presence_outward(self) -> None:
        """Ours watches a far user, whose changes arrive through the edge."""
        tybalt = f"tybalt@{FOREIGN}"
        self.alice.send("subscribe", to=tybalt)
        self.far.expect(self.begin, event="watcher", sender=ALICE)
        self.far.send("presence", **{"from": "tybalt", "state": "away"})
        self.alice.expect(self.alice_begin, 30, event="presence", sender=tybalt, show="away")
        self.far.send("presence", **{"from": "tybalt", "state": "busy"})
        self.alice.expect(self.alice_begin, 30, event="presence", sender=tybalt, status="Busy")

    def test_edge_restarted(self) -> None:
        """Subscriptions and sessions outlive the edge: what it has to know is in the routes."""
        self.watched("mercutio")
        self.far_does("im", "mercutio", 200, text="A plague")
        sampson = f"sampson@{FOREIGN}"
        self.alice.send("subscribe", to=sampson)
        self.far.expect(self.begin, event="watcher", sender=ALICE)
        self.far.send("presence", **{"from": "sampson", "state": "away"})
        self.alice.expect(self.alice_begin, 30, event="presence", sender=sampson, show="away")
        self.edge.kill()
        self.edge.start()
        self.scene.await_way_out()
        since, alice_since = self.far.position, self.alice.position
        self.far_does("im", "mercutio", 200, text="On both your houses")
        self.alice.expect(alice_since, event="message", body="On both your houses")
        self.alice.send("message", to=f"mercutio@{FOREIGN}", body="How now?")
        self.far.expect(since, event="im", sender=ALICE, text="How now?")
        self.far_does("refresh", "mercutio", 200)
        self.alice.send("presence", show="dnd")
        self.sees("mercutio", "busy", since)
        self.far.send("presence", **{"from": "sampson", "state": "busy"})
        self.alice.expect(alice_since, 30, event="presence", sender=sampson, status="Busy")
        self.alice.send("presence", show="")
        self.sees("mercutio", "available", since)
        self.assertEqual(self.far.seen(since, event="session"), [])
        begun = [each for each in self.far.seen(since, event="watcher") if not each["refresh"]]
        self.assertEqual(begun, [])

    def test_inner_target_killed_and_back(self) -> None:
        """While the first node is dead new sessions go to the second; then to the first again."""
        first, _ = self.scene.nodes
        alice2 = self.scene.alice2
        self.far_does("im", "benvolio", 200, text="Part, fools")
        self.alice.expect(self.alice_begin, event="message", body="Part, fools")
        assert first.part is not None
        first.part.kill()
        first.part.process.wait()
        try:
            begin2 = alice2.position
            # Its session is the dead node's; the edge says so at once, and a new one is opened.
            self.far_does("im", "benvolio", 480, text="Put up your swords")
            self.far_does("im", "capulet", 200, text="What noise is this?")
            alice2.expect(begin2, event="message", body="What noise is this?")
            self.edge.await_state("node1", "down")
            self.assertRegex(self.edge.operator("status"), r"node1\b.*down")
            self.assertRegex(self.edge.operator("route", ALICE), r"node2|resting")
            self.far_does("im", "rosaline", 200, text="Ay me")
            alice2.expect(begin2, event="message", body="Ay me")
            since = self.far.position
            alice2.send("message", to=f"rosaline@{FOREIGN}", body="What's the matter?")
            self.far.expect(since, event="im", sender=ALICE, text="What's the matter?")
        finally:
            first.start()
        self.edge.await_state("node1", "up")
        begin = self.alice.position
        self.far_does("im", "escalus", 200, text="Rebellious subjects")
        self.alice.expect(begin, event="message", body="Rebellious subjects")

    def test_operator(self) -> None:
        """The operator sees targets, ports and ways; what is about users is not here."""
        self.edge.await_state("node1", "up")
        status = self.edge.operator("status")
        self.assertRegex(status, r"node1 +tls:127\.0\.0\.1:\d+ +up")
        self.assertIn(f"{OUTSIDE_NAME}:{self.edge.returns[0]}", status)
        self.assertIn("inside", self.edge.operator("route", ALICE))
        self.assertIn("sip.lync.example", self.edge.operator("route", f"romeo@{FOREIGN}"))
        self.assertIn("nobody", self.edge.operator("limits"))
        told = self.edge.operator("sessions", code=2)
        self.assertIn("an edge has no users", told)
        self.edge.operator("check-config", str(self.edge.write()))

    def test_connections(self) -> None:
        """Dialogs are spread over the connections to a machine; each keeps to its own."""
        for number in range(12):
            self.far_does("im", "gregory", 200, text=f"Number {number}")
            self.far_does("leave", "gregory", 200)
        line = next(line for line in self.edge.status()["targets"] if line["name"] == "node1")
        self.assertEqual(line["connections"], "2 of 2")

    def attempt_status(self, wire: ssl.SSLSocket, answers: io.BufferedReader, text: str) -> int:
        """Send one request, return the status of its answer."""
        wire.sendall(text.encode())
        return read_status(answers)

    def test_no_open_relay(self) -> None:
        """Every attempt to use the edge as a relay is refused, and nothing goes on to anybody."""
        edge = self.edge
        before = edge.status()["metrics"].get("proxy.forwarded", 0)
        node = self.scene.nodes[1]
        names = {
            "company.example": HOME,
            "10.0.0.2:5062": f"{node.name}:{node.port}1",
            "203.0.113.10:5062": f"{OUTSIDE_NAME}:{edge.port}",
            "203.0.113.10:45062": f"{OUTSIDE_NAME}:{edge.returns[1]}1",
        }
        certificate = self.scene.far_certificate
        tls = ssl.create_default_context(cafile=str(certificate.ca))
        tls.load_cert_chain(certificate.certificate, certificate.key)
        with (
            socket.create_connection(("127.0.0.1", edge.port)) as plain,
            tls.wrap_socket(plain, server_hostname=OUTSIDE_NAME) as wire,
            wire.makefile("rb") as answers,
        ):
            for number, (name, (attempt, source, _, _)) in enumerate(ATTEMPTS.items()):
                if source != FOREIGN:
                    continue
                text = attempt.to_bytes().decode()
                for ours, theirs in names.items():
                    text = text.replace(ours, theirs)
                text = text.replace("z9hG4bK1", f"z9hG4bK{number}")
                text = text.replace("Call-ID: c", f"Call-ID: {number}")
                self.assertIn(self.attempt_status(wire, answers, text), (403, 404), (name, text))
        metrics = edge.status()["metrics"]
        self.assertEqual(metrics.get("proxy.forwarded", 0), before)
        self.assertGreater(metrics["edge.refused"], 20)

    def test_a_machine_that_is_none_of_ours(self) -> None:
        """A partner's certificate opens nothing on the inside; without one there is no TLS at all."""
        edge, certificate = self.edge, self.scene.far_certificate
        invite = request(f"sip:{ALICE}", f"sip:x@{FOREIGN}", method="INVITE").to_bytes().decode()
        tls = ssl.create_default_context(cafile=str(certificate.ca))
        refused = edge.status()["metrics"].get("sip.connections_not_secured", 0)
        with (
            socket.create_connection(("127.0.0.1", edge.port)) as plain,
            self.assertRaises(OSError),
            tls.wrap_socket(plain, server_hostname=OUTSIDE_NAME) as wire,
        ):
            wire.sendall(invite.encode())
            if not wire.recv(1):
                raise OSError("closed")
        counted = edge.status()["metrics"]["sip.connections_not_secured"]
        self.assertGreater(counted, refused)
        tls.load_cert_chain(certificate.certificate, certificate.key)
        with (
            socket.create_connection(("127.0.0.1", edge.inner_port)) as plain,
            tls.wrap_socket(plain, server_hostname=INSIDE_NAME) as wire,
            wire.makefile("rb") as answers,
        ):
            self.assertEqual(self.attempt_status(wire, answers, invite), 403)
