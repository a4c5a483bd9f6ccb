"""A routing node that proxies to the node where the recipient is at home (SPEC section 2, point 2)."""

from __future__ import annotations

import io
import re
import signal
import socket
import ssl

from twisted.trial.unittest import SynchronousTestCase

from demo.node import Node
from demo.parts import Event, wait_until
from tests.interop.scene import FOREIGN, HOME
from tests.interop.two_nodes import NODE2_NAME, ROUTER_NAME, SECOND, two_nodes
from tests.proxy.test_permission import ATTEMPTS

BOB = f"bob@{SECOND}"


class ProxyNodeTests(SynchronousTestCase):
    """Each test has a far user of its own."""

    def setUp(self) -> None:
        self.scene = two_nodes()
        self.far, self.bob = self.scene.far, self.scene.bob
        self.begin = self.far.position
        self.bob_begin = self.bob.position

    def tearDown(self) -> None:
        self.assertEqual(self.far.seen(self.begin, event="violation"), [])

    def far_does(self, do: str, who: str, wanted: int, to: str = BOB, **details: str) -> None:
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

    def opened_session(self, who: str, text: str) -> None:
        """A far user writes, and bob reads it."""
        self.far_does("im", who, 200, text=text)
        self.bob.expect(self.bob_begin, event="message", body=text, sender=f"{who}@{FOREIGN}")

    def test_im(self) -> None:
        """A session from outside goes through the routing node both ways, by the route set."""
        before = self.scene.counted(self.scene.router, "proxy.forwarded")
        self.opened_session("romeo", "But soft")
        answer = self.wire("received", "SIP/2.0 200", "INVITE", self.begin)["text"]
        self.assertIn(f"Record-Route: <sip:{ROUTER_NAME}:{self.scene.router.port};", answer)
        self.assertIn(f"@{NODE2_NAME}:{self.scene.node2.port};transport=tls>", answer)
        since = self.far.position
        self.bob.send("message", to=f"romeo@{FOREIGN}", body="Who's there?")
        self.far.expect(since, event="im", sender=BOB, text="Who's there?")
        told = self.wire("received", "MESSAGE", "Who's there?", since)
        self.assertTrue(told["ours"])  # back over the connection that the far side has opened
        self.assertIn(f"SIP/2.0/TLS {ROUTER_NAME}:{self.scene.router.port};branch=", told["text"])
        self.assertEqual(self.far.seen(since, event="session"), [])
        self.assertGreater(self.scene.counted(self.scene.router, "proxy.forwarded"), before + 2)

    def test_bye(self) -> None:
        """A far user's good-bye reaches the second node; the next text opens a session straight out."""
        self.opened_session("tybalt", "Peace?")
        self.far_does("leave", "tybalt", 200)
        since = self.far.position
        self.bob.send("message", to=f"tybalt@{FOREIGN}", body="I hate the word")
        self.far.expect(since, event="session", sender=BOB)
        self.far.expect(since, event="im", sender=BOB, text="I hate the word")

    def test_presence(self) -> None:
        """A watcher outside is told by NOTIFYs along the route set, until it ends its subscription."""
        seen = {"event": "presence", "sender": BOB}
        self.far_does("subscribe", "romeo", 200)
        self.far.expect(self.begin, subscription="pending", **seen)
        self.bob.expect(self.bob_begin, event="asked", sender=f"romeo@{FOREIGN}")
        since = self.far.position
        self.bob.send("approve", to=f"romeo@{FOREIGN}")
        self.far.expect(since, subscription="active", state="available", **seen)
        self.assertTrue(self.wire("received", "NOTIFY", "", since)["ours"])
        since = self.far.position
        self.bob.send("presence", show="dnd")
        self.far.expect(since, subscription="active", state="busy", **seen)
        self.bob.send("presence", show="")
        self.far_does("refresh", "romeo", 200)
        since = self.far.position
        self.far_does("unsubscribe", "romeo", 200)
        self.far.expect(since, subscription="terminated", **seen)

    def test_outward(self) -> None:
        """The second node opens a session itself, and the answer comes straight back to it."""
        before = self.scene.counted(self.scene.router, "proxy.forwarded")
        self.bob.send("message", to=f"paris@{FOREIGN}", body="Good morrow")
        self.far.expect(self.begin, event="session", sender=BOB)
        self.far.expect(self.begin, event="im", sender=BOB, text="Good morrow")
        invite = self.wire("received", "INVITE", f"paris@{FOREIGN}", self.begin)
        self.assertIn(f"SIP/2.0/TLS {NODE2_NAME}:{self.scene.node2.port};branch=", invite["text"])
        (opened,) = self.far.seen(event="connection", number=invite["connection"])
        self.assertIn(NODE2_NAME, opened["names"])
        since = self.far.position
        self.far_does("im", "paris", 200, text="Happily met")
        self.bob.expect(self.bob_begin, event="message", body="Happily met")
        answer = self.wire("sent", "MESSAGE", "Happily met", since)
        self.assertEqual(answer["connection"], invite["connection"])
        self.assertEqual(self.scene.counted(self.scene.router, "proxy.forwarded"), before)

    def test_nobody(self) -> None:
        """Who does not exist at the second node is 404 for the far user."""
        self.far_does("im", "romeo", 404, to=f"nobody@{SECOND}", text="Anybody?")
        self.far_does("subscribe", "romeo", 404, to=f"nobody@{SECOND}")

    def test_cancel(self) -> None:
        """A CANCEL follows the INVITE through the routing node; the 487 comes back."""
        home = self.scene.home2.part
        assert home is not None
        home.kill(signal.SIGSTOP)  # the second node waits for it to say whether dave exists
        try:
            self.far_does("withdraw", "mercutio", 487, to=f"dave@{SECOND}")
        finally:
            home.kill(signal.SIGCONT)

    def test_own_users(self) -> None:
        """The routing node's own users are reached as ever."""
        since = self.scene.alice.position
        self.far_does("im", "romeo", 200, to=f"alice@{HOME}", text="It is the east")
        self.scene.alice.expect(since, event="message", body="It is the east")

    def watched_by(self, who: str) -> None:
        """A far user watches bob, who says yes."""
        self.far_does("subscribe", who, 200)
        self.bob.expect(self.bob_begin, event="asked", sender=f"{who}@{FOREIGN}")
        self.bob.send("approve", to=f"{who}@{FOREIGN}")
        self.sees(who, "available", self.begin)

    def sees(self, who: str, state: str, since: int) -> None:
        """Wait until a far user sees bob so."""
        wanted = {"event": "presence", "sender": BOB, "to": f"{who}@{FOREIGN}", "state": state}
        self.far.expect(since, 20, subscription="active", **wanted)

    def kill(self, node: Node) -> None:
        """Kill a node."""
        assert node.part is not None
        node.part.kill()
        node.part.process.wait()

    def test_routing_node_restarted(self) -> None:
        """Sessions and subscriptions outlive the routing node: all it has to know is in the route set."""
        self.opened_session("mercutio", "A plague")
        self.watched_by("mercutio")
        self.kill(self.scene.router)
        self.scene.router.start()
        since = self.far.position
        self.far_does("im", "mercutio", 200, text="On both your houses")
        self.bob.expect(self.bob_begin, event="message", body="On both your houses")
        sent = self.wire("sent", "MESSAGE", "On both", since)["text"]
        self.assertIn(f"Route: <sip:{ROUTER_NAME}:{self.scene.router.port};", sent)
        self.bob.send("message", to=f"mercutio@{FOREIGN}", body="How now?")
        self.far.expect(since, event="im", sender=BOB, text="How now?")
        self.bob.send("presence", show="dnd")
        self.sees("mercutio", "busy", since)
        self.assertEqual(self.far.seen(since, event="session"), [])
        self.bob.send("presence", show="")
        self.sees("mercutio", "available", since)

    def test_routing_node_down(self) -> None:
        """While the routing node is down the second node opens a session of its own, straight out."""
        self.opened_session("benvolio", "Part, fools")
        self.kill(self.scene.router)
        try:
            since = self.far.position
            self.bob.send("message", to=f"benvolio@{FOREIGN}", body="Art thou drawn?")
            self.far.expect(since, event="session", sender=BOB, to=f"benvolio@{FOREIGN}")
            self.far.expect(since, event="im", sender=BOB, text="Art thou drawn?")
        finally:
            self.scene.router.start()
        self.far_does("im", "benvolio", 200, text="I do but keep the peace")
        self.bob.expect(self.bob_begin, event="message", body="I do but keep the peace")

    def test_second_node_down(self) -> None:
        """While the second node is down a far user is told 480; its watchers are told through the
        routing node when it is back."""
        self.watched_by("capulet")
        self.kill(self.scene.node2)
        try:
            self.far_does("im", "escalus", 480, text="Rebellious subjects")
            self.assertRegex(self.neighbours(), rf"node2 +{SECOND} .*(resting|down)")
        finally:
            self.scene.node2.start()
        since = self.far.position
        self.bob.send("presence", show="dnd")
        self.sees("capulet", "busy", since)
        notify = self.wire("received", "NOTIFY", f"capulet@{FOREIGN}", since)
        self.assertIn(f"SIP/2.0/TLS {ROUTER_NAME}:", notify["text"])
        self.bob.send("presence", show="")
        self.sees("capulet", "available", since)
        connected = re.compile(rf"node2 +{SECOND} .*open")
        reached = wait_until(lambda: connected.search(self.neighbours()) is not None)
        self.assertTrue(reached, self.neighbours())
        self.opened_session("escalus", "Enemies to peace")

    def neighbours(self) -> str:
        """Return what the routing node says of its neighbour, among other things."""
        return self.scene.operator(self.scene.router, "status")

    def test_no_open_relay(self) -> None:
        """Every attempt to use the node as a relay is refused, and nothing goes on to anybody."""
        scene = self.scene
        before = scene.counted(scene.router, "proxy.forwarded")
        names = {
            "company.example": HOME,
            "10.0.0.2:5062": f"127.0.0.1:{scene.node2.port}",
            "203.0.113.10:5062": f"{ROUTER_NAME}:{scene.router.port}",
            "203.0.113.10:45062": f"{NODE2_NAME}:{scene.node2.port}",
        }
        certificate = scene.far_certificate
        tls = ssl.create_default_context(cafile=str(certificate.ca))
        tls.load_cert_chain(certificate.certificate, certificate.key)
        with (
            socket.create_connection(("127.0.0.1", scene.router.port)) as plain,
            tls.wrap_socket(plain, server_hostname=ROUTER_NAME) as wire,
            wire.makefile("rb") as answers,
        ):
            for number, (name, (attempt, source, _, _)) in enumerate(ATTEMPTS.items()):
                if source != "lync.example":
                    continue
                text = attempt.to_bytes().decode()
                for ours, theirs in names.items():
                    text = text.replace(ours, theirs)
                # Users of the second node are not at home here, so that the proxy has to decide.
                for home in (HOME, SECOND):
                    one = text.replace(f"bob@{HOME}", f"bob@{home}")
                    one = one.replace("z9hG4bK1", f"z9hG4bK{number}{home}")
                    wire.sendall(one.replace("Call-ID: c", f"Call-ID: {number}{home}").encode())
                    status = read_status(answers)
                    self.assertIn(status, (403, 404, 405, 416, 481), (name, one))
        self.assertEqual(scene.counted(scene.router, "proxy.forwarded"), before)

    def test_operator(self) -> None:
        """The operator sees where a neighbour's users are, and what would happen to a message."""
        self.assertIn("neighbour", self.neighbours())
        told = self.scene.operator(self.scene.router, "explain", f"romeo@{FOREIGN}", BOB)
        self.assertIn("passed on", told)
        self.assertIn("node2", told)
        refused = self.scene.operator(self.scene.router, "explain", "romeo@other.test", BOB, code=1)
        self.assertIn("refused with 403", refused)


def read_status(answers: io.BufferedReader) -> int:
    """Read one response, return its status."""
    status = int(answers.readline().split()[1])
    length = 0
    while (line := answers.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    answers.read(length)
    return status
