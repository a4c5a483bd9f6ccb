"""Static PAT on real packets: the way back, wrong mappings, and what a node finds out by itself.

Two nodes share one public address; nftables maps its ports by the sample in etc/.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from demo.parts import wait_until

from .hand_peer import Received, Wire
from .pat_scene import PUBLIC, SHARED, pat_scene

TLS2 = f"{PUBLIC}:45062"


class PatCase(SynchronousTestCase):
    """One scene for all tests of a class."""

    shared = False

    def setUp(self) -> None:
        self.scene = pat_scene(self.shared)
        self.addCleanup(self.scene.restore)
        self.bob = self.scene.bob
        self.begin = self.bob.position

    def bob_writes(self, to: str, text: str) -> None:
        """Let bob, at home at node 2, write to a partner's user."""
        self.bob.send("message", to=f"{to}@lync.example", body=text)

    def counted(self, node: str, counter: str) -> int:
        """Return a counter of a node."""
        return self.scene.nodes[node].counted(counter)

    def session(self, who: str, tag: str) -> tuple[Wire, Received]:
        """Open a session from bob; its first text has arrived."""
        self.bob_writes(who, "Good morrow")
        wire, invite = self.scene.invited()
        self.scene.accept(wire, invite, tag)
        self.assertTrue(wire.read().start.startswith("ACK"))
        wire.answer(wire.read(), "200 OK")
        return wire, invite


class PortTests(PatCase):
    """The first design: each node tells peers a port of its own."""

    def test_answer_by_static_pat(self) -> None:
        """The connection is cut before the answer: it comes by the mapped port to the node that asked."""
        nodes = ("node1", "node2")
        before = [self.counted(node, "proxy.misrouted_answers") for node in nodes]
        self.bob_writes("romeo", "Is the day so young?")
        wire, invite = self.scene.invited()
        via = invite.get("Via")
        self.assertTrue(via.startswith(f"SIP/2.0/TLS {TLS2};branch="), via)
        self.assertIn(f"@{TLS2};transport=tls;relay=", invite.contact)
        back = self.scene.connect(45062)
        self.scene.break_off(wire)  # from now on the node waits five seconds for the answer
        self.scene.accept(back, invite, "romeo1")
        again = self.scene.far.accept()  # the node connects anew
        self.assertTrue(again.read().start.startswith("ACK"))
        message = again.read()
        self.assertEqual(message.body, "Is the day so young?")
        again.answer(message, "200 OK")
        after = [self.counted(node, "proxy.misrouted_answers") for node in nodes]
        self.assertEqual(after, before)
        # The partner writes back by the Contact, which leads to the same node.
        answer = self.scene.write(back, invite, "romeo1", "But new struck nine.")
        self.assertIn("200", answer.start)
        self.bob.expect(self.begin, event="message", body="But new struck nine.")
        self.assertEqual(self.bob.seen(self.begin, event="refused"), [])
        back.close()
        again.close()

    def test_crossed_request(self) -> None:
        """A text that comes to the wrong node by a crossed mapping is relayed, and bob reads it."""
        wire, invite = self.session("tybalt", "tybalt1")
        self.scene.break_off(wire)
        before = self.counted("node1", "proxy.misrouted")
        self.scene.map(45062, "10.0.0.1:5062")
        wrong = self.scene.connect(45062)
        for number, text in enumerate(("What, drawn,", "and talk of peace?", "I hate the word"), 1):
            answer = self.scene.write(wrong, invite, "tybalt1", text, cseq=str(number))
            self.assertEqual(answer.start, "SIP/2.0 200 OK")
            self.bob.expect(self.begin, event="message", body=text)
        self.assertEqual(self.counted("node1", "proxy.misrouted"), before + 3)
        (line,) = [
            each for each in self.scene.status("node1")["misrouted"] if each["address"] == TLS2
        ]
        advice = (
            f"{TLS2} seems to be mapped to this node (10.0.0.1:5062, listener federation);"
            " map it to node2 (10.0.0.2:5062)"
        )
        self.assertEqual((line["owner"], line["advice"]), ("node2", advice))
        self.assertIn(advice, self.scene.nodes["node1"].log)
        # What bob answers goes straight out, and not the way that his partner came by mistake.
        self.bob_writes("tybalt", "As I hate hell")
        straight = self.scene.far.accept()
        self.assertIn("node2.company.example", straight.names)
        message = straight.read()
        self.assertEqual(message.body, "As I hate hell")
        straight.answer(message, "200 OK")
        straight.close()
        # The session ends by the wrong way, too.
        bye = self.scene.write(wrong, invite, "tybalt1", "", method="BYE", cseq="4")
        self.assertEqual(bye.start, "SIP/2.0 200 OK")
        wrong.close()

    def test_crossed_presence(self) -> None:
        """A NOTIFY at the wrong node is relayed, and bob sees how his contact is."""
        self.bob.send("subscribe", to="benvolio@lync.example")
        wire = self.scene.far.accept()
        subscribe = wire.read()
        self.assertTrue(subscribe.start.startswith("SUBSCRIBE"))
        contact = "Contact: <sip:benvolio@lync.example;opaque=user:epid:far;gruu>"
        wire.answer(subscribe, "200 OK", contact, "Expires: 3600", tag="benvolio1")
        self.scene.break_off(wire)
        self.scene.map(45062, "10.0.0.1:5062")
        wrong = self.scene.connect(45062)
        self.assertIn(f"@{TLS2};transport=tls;relay=", subscribe.contact)
        answer = self.scene.notify(wrong, subscribe, "benvolio1")
        self.assertEqual(answer.start, "SIP/2.0 200 OK")
        self.bob.expect(
            self.begin, event="presence", sender="benvolio@lync.example", kind="available"
        )
        wrong.close()
        self.bob.send("unsubscribe", to="benvolio@lync.example")
        straight = self.scene.far.accept()
        end = straight.read()
        self.assertEqual(end.get("Expires"), "0")
        straight.answer(end, "200 OK", contact, "Expires: 0")
        straight.close()

    def test_crossed_answer(self) -> None:
        """An answer that comes to the wrong node is relayed to the one that asked."""
        self.scene.map(45062, "10.0.0.1:5062")
        before = self.counted("node1", "proxy.answers_relayed")
        self.bob_writes("paris", "Happily met")
        wire, invite = self.scene.invited()
        wrong = self.scene.connect(45062)
        self.scene.break_off(wire)
        self.scene.accept(wrong, invite, "paris1")
        again = self.scene.far.accept()
        self.assertTrue(again.read().start.startswith("ACK"))
        message = again.read()
        self.assertEqual(message.body, "Happily met")
        again.answer(message, "200 OK")
        self.assertEqual(self.counted("node1", "proxy.answers_relayed"), before + 1)
        self.assertIn("came to this node and is relayed to it", self.scene.nodes["node1"].log)
        wrong.close()
        again.close()

    def test_bad_tokens(self) -> None:
        """What was made up, or taken from another dialog, is refused at the wrong node and goes nowhere."""
        wire, invite = self.session("mercutio", "mercutio1")
        self.scene.break_off(wire)
        self.scene.map(45062, "10.0.0.1:5062")
        wrong = self.scene.connect(45062)
        forged = invite.contact.replace("relay=", "relay=a")
        refused = self.scene.write(wrong, invite, "mercutio1", "x", uri=forged, cseq="2")
        self.assertEqual(refused.start, "SIP/2.0 403 Forbidden")
        refused = self.scene.write(wrong, invite, "mercutio1", "x", call_id="another", cseq="3")
        self.assertEqual(refused.start, "SIP/2.0 403 Forbidden")
        self.assertEqual(self.counted("node1", "relay.forged"), 1)
        self.assertEqual(self.counted("node1", "relay.other_dialog"), 1)
        said = self.scene.nodes["node1"].log
        self.assertIn("it is forged, or the nodes have different relay secrets", said)
        self.assertIn("it is a token of ours, but of another dialog", said)
        self.assertEqual(self.bob.seen(self.begin, event="message", body="x"), [])
        wrong.close()

    def test_pat_check_right(self) -> None:
        """With the sample every address leads where it should, over TLS and TCP, from both nodes."""
        for node in ("node1", "node2"):
            found = self.scene.checked(node)
            self.assertEqual(
                sorted(found), sorted(f"{PUBLIC}:{port}" for port in (5060, 5062, 45060, 45062))
            )
            self.assertEqual({each["verdict"] for each in found.values()}, {"right"})
        said = self.scene.nodes["node1"].operator("pat-check")
        self.assertIn("every address leads where it should", said)

    def test_pat_check_missing(self) -> None:
        """A port that is not mapped, and one whose packets are dropped, are missing."""
        self.scene.map(45062)
        self.scene.map(45060, "10.0.0.77:5060")  # nobody is there
        found = self.scene.checked("node2", 1)
        line = found[TLS2]
        self.assertEqual(line["verdict"], "missing")
        wanted = (
            "connection refused: is it mapped to this node, listener federation (10.0.0.2:5062)?"
        )
        self.assertEqual(line["words"], wanted)
        self.assertEqual(found[f"{PUBLIC}:45060"]["verdict"], "missing")
        self.assertEqual(found[f"{PUBLIC}:5062"]["verdict"], "right")
        said = self.scene.nodes["node2"].operator("pat-check", code=1)
        self.assertIn("2 of 4 addresses to correct at the firewall", said)

    def test_pat_check_crossed(self) -> None:
        """Two ports that are exchanged are crossed, and each node says who is there in truth."""
        self.scene.map(45062, "10.0.0.1:5062")
        self.scene.map(5062, "10.0.0.2:5062")
        found = self.scene.checked("node2", 1)
        own, other = found[TLS2], found[f"{PUBLIC}:5062"]
        self.assertEqual(
            (own["verdict"], own["leads_to"]), ("crossed", "node1, listener federation")
        )
        self.assertEqual(
            (other["verdict"], other["leads_to"]), ("crossed", "this node, listener federation")
        )
        self.assertIn("map it to node1 (10.0.0.1:5062)", other["words"])

    def test_pat_check_wrong_transport(self) -> None:
        """A TLS port that is mapped to a TCP listener is no way to the node."""
        self.scene.map(45062, "10.0.0.2:5060")
        line = self.scene.checked("node2", 1)[TLS2]
        self.assertEqual(line["verdict"], "missing")
        self.assertIn("does that speak the same transport", line["words"])


class NameTests(PatCase):
    """The second design: one name in every Contact, and the routing node relays by the token."""

    shared = True

    def test_request_by_name(self) -> None:
        """A partner's text for node 2 enters at the routing node, which has no state, and is relayed."""
        wire, invite = self.session("romeo", "romeo1")
        self.assertIn(f"@{SHARED}:5061;transport=tls;relay=", invite.contact)
        self.scene.break_off(wire)
        entrance = self.scene.connect(5061)
        answer = self.scene.write(entrance, invite, "romeo1", "By name")
        self.assertEqual(answer.start, "SIP/2.0 200 OK")
        self.bob.expect(self.begin, event="message", body="By name")
        self.assertEqual(self.counted("node1", "proxy.misrouted"), 0)
        # Nothing but the token says whose it is.
        bare = invite.contact.partition(";relay=")[0]
        nobody = self.scene.write(entrance, invite, "romeo1", "lost", uri=bare, cseq="2")
        self.assertIn("481", nobody.start)
        entrance.close()

    def test_routing_node_restarted(self) -> None:
        """The routing node needs no memory for it: a new life of it reads the same tokens."""
        wire, invite = self.session("tybalt", "tybalt1")
        self.scene.break_off(wire)
        node1 = self.scene.nodes["node1"]
        node1.stop()
        node1.start()
        self.assertTrue(wait_until(lambda: self.scene.knows_the_other("node1")))
        entrance = self.scene.connect(5061)
        answer = self.scene.write(entrance, invite, "tybalt1", "After all")
        self.assertEqual(answer.start, "SIP/2.0 200 OK")
        self.bob.expect(self.begin, event="message", body="After all")
        entrance.close()

    def test_pat_check(self) -> None:
        """The common name has to lead to any node, the nodes' own return paths to their own."""
        found = self.scene.checked("node2")
        self.assertEqual(found[TLS2]["verdict"], "right")
        common = found[f"{SHARED}:5061"]
        self.assertEqual(common["leads_to"], "node1, listener federation")
