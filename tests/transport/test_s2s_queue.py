"""What waits for a stream is delivered or returned, whatever becomes of the stream."""

from __future__ import annotations

import socket
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.threads import deferToThread

from demo.parts import free_ports
from impfed.core.errors import LocalError
from impfed.transport.s2s import FixedSettings, S2SLimits, Security, Target, Tls
from impfed.transport.s2s_bounce import read_stanza
from impfed.xmpp.s2s_parts import StreamLimits
from impfed.xmpp.stanza import Stanza, error_reply, iq, presence
from tests.transport.s2s_kit import J, Node, S2SCase, reactor, text
from tests.transport.s2s_raw import RawPeer

Steps = Generator[Deferred[Any], Any, None]
QUICK = S2SLimits(patience=0.6, connect=0.5)
CLEAR = Security(Tls.NONE, certificates=False)


def message_of(from_: str, to: str, id: str) -> Stanza:
    """Return a message as it has come from a stream."""
    stanza = read_stanza(text(from_, to, id=id).xml)
    assert stanza is not None
    return stanza


class _Leg(Protocol):
    """One side of a connection through the middle."""

    other: _Leg | None = None
    middle: Middle

    def connectionMade(self) -> None:
        self.middle.legs.append(self)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None and not self.middle.swallowing:
            self.other.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: Any = None) -> None:
        self.middle.legs.remove(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.loseConnection()


class Middle(Factory):
    """A TCP relay that can swallow everything, or break all connections."""

    noisy = False

    def __init__(self, target: int) -> None:
        self.legs: list[_Leg] = []
        self.swallowing = False
        self._target = target
        self.listener = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.port = self.listener.getHost().port

    def buildProtocol(self, addr: object) -> _Leg:
        near = _Leg()
        near.middle = self
        early: list[bytes] = []
        near.dataReceived = early.append  # type: ignore[method-assign]
        far = _Leg()
        far.middle = self
        far.other = near
        made = far.connectionMade

        def joined() -> None:
            made()
            near.other = far
            del near.dataReceived  # type: ignore[method-assign]
            for data in early:
                near.dataReceived(data)

        far.connectionMade = joined  # type: ignore[method-assign]
        factory = ClientFactory()
        factory.noisy = False
        factory.buildProtocol = lambda _: far  # type: ignore[method-assign]
        reactor.connectTCP("127.0.0.1", self._target, factory)
        return near

    def cut(self) -> None:
        """Break all connections."""
        for leg in list(self.legs):
            leg.transport.abortConnection()  # type: ignore[union-attr]


class QueueTests(S2SCase):
    """Stanzas without a stream."""

    @inlineCallbacks
    def test_nobody_there(self) -> Steps:
        """When nobody listens all the time, everything that can be answered comes back, with words."""
        a = self.node("a.example", limits=QUICK)
        self.world.targets.table["b.example"] = [Target("127.0.0.1", free_ports(1)[0])]
        a.s2s.send(text("x@a.example", "y@b.example", id="m"))
        a.s2s.send(
            iq(J("y@b.example"), J("x@a.example"), id="q", type="get", payload="<q xmlns='u'/>")
        )
        a.s2s.send(iq(J("y@b.example"), J("x@a.example"), id="r", type="result"))
        a.s2s.send(presence(J("y@b.example"), J("x@a.example"), type="subscribe", id="p"))
        yield self.until(lambda: len(a.user.errors) == 3)
        self.assertEqual([error.id for error in a.user.errors], ["m", "q", "p"])
        for error in a.user.errors:
            self.assertIn("<remote-server-timeout", error.to_xml())
            self.assertIn("nothing listens there", error.to_xml())
            self.assertEqual(error.to.text, "x@a.example")
        self.assertEqual(a.metrics.value("s2s.dropped"), 1)
        status = a.s2s.status()[0]
        self.assertEqual((status["waiting"], status["remote"]), (0, "b.example"))

    @inlineCallbacks
    def test_comes_up_late(self) -> Steps:
        """A server that is away for a moment costs nothing but the moment."""
        a = self.node("a.example")
        (port,) = free_ports(1)
        self.world.targets.table["b.example"] = [Target("127.0.0.1", port)]
        a.s2s.send(text("x@a.example", "y@b.example", "early"))
        yield self.until(lambda: a.s2s.status()[0]["state"] == "the next attempt is due later")
        b = self.node("b.example")
        yield self.until(lambda: b.user.bodies == ["early"])

    @inlineCallbacks
    def test_error_waits(self) -> Steps:
        """That a message has not arrived is told for longer: nobody could be told of this not arriving."""
        error = error_reply(
            message_of("y@b.example", "x@a.example", "lost"), "recipient-unavailable"
        )
        a = self.node("a.example", limits=replace(QUICK, errors=60.0))
        (port,) = free_ports(1)
        self.world.targets.table["b.example"] = [Target("127.0.0.1", port)]
        a.s2s.send(error)
        a.s2s.send(text("x@a.example", "y@b.example", id="m"))
        yield self.until(lambda: a.user.errors)
        self.assertEqual(a.s2s.status()[0]["waiting"], 1)
        b = self.node("b.example")
        yield self.until(lambda: b.user.errors)
        self.assertEqual([each.id for each in b.user.errors], ["lost"])

    @inlineCallbacks
    def test_error_does_not_wait_for_ever(self) -> Steps:
        """One that cannot be told in its time is dropped."""
        a = self.node("a.example", limits=replace(QUICK, errors=1.0))
        self.world.targets.table["b.example"] = [Target("127.0.0.1", free_ports(1)[0])]
        a.s2s.send(
            error_reply(message_of("y@b.example", "x@a.example", "lost"), "recipient-unavailable")
        )
        yield self.until(lambda: a.metrics.value("s2s.dropped") == 1)
        self.assertEqual(a.s2s.status()[0]["waiting"], 0)

    @inlineCallbacks
    def test_full(self) -> Steps:
        """Beyond the bound stanzas come back at once."""
        a = self.node("a.example", limits=S2SLimits(queue=3))
        self.world.targets.table["b.example"] = [Target("127.0.0.1", free_ports(1)[0])]
        for number in range(5):
            a.s2s.send(text("x@a.example", "y@b.example", id=str(number)))
        yield self.until(lambda: len(a.user.errors) == 2)
        self.assertIn("<resource-constraint", a.user.errors[0].to_xml())
        self.assertEqual([error.id for error in a.user.errors], ["3", "4"])

    @inlineCallbacks
    def test_refused_for_good(self) -> Steps:
        """A refusal that will last returns what waits at once, and what follows for a while."""
        a = self.node("a.example", certificate=self.world.self_signed("a.example"))
        self.node("b.example")
        for number in range(2):
            a.s2s.send(text("x@a.example", "y@b.example", id=str(number)))
            yield self.until(lambda number=number: len(a.user.errors) == number + 1)
        for error in a.user.errors:
            self.assertIn("valid certificate is required", error.to_xml())
            self.assertIn("self-signed", error.to_xml())
        self.assertEqual(a.metrics.value("s2s.connect_failed"), 1)

    @inlineCallbacks
    def test_policy_outwards(self) -> Steps:
        """A domain that policy refuses is never connected to."""
        settings = FixedSettings(refused={"b.example": "b.example is not allowed"})
        a, b = self.node("a.example", settings=settings), self.node("b.example")
        a.s2s.send(text("x@a.example", "y@b.example"))
        yield self.until(lambda: a.user.errors)
        self.assertIn("<not-allowed", a.user.errors[0].to_xml())
        self.assertEqual(b.metrics.snapshot(), {})

    def test_own_domains(self) -> None:
        """Stanzas between domains of ours, or of strangers, are a fault of the caller."""
        a = self.node("a.example", "a2.example")
        for from_, to in (("x@a.example", "y@a2.example"), ("x@c.example", "y@b.example")):
            self.assertRaises(LocalError, a.s2s.send, text(from_, to))

    @inlineCallbacks
    def test_stopping(self) -> Steps:
        """What still waits when the service stops comes back."""
        a = self.node("a.example")
        self.world.targets.table["b.example"] = [Target("127.0.0.1", free_ports(1)[0])]
        a.s2s.send(text("x@a.example", "y@b.example"))
        self.nodes.remove(a)
        yield a.stop()
        yield self.until(lambda: a.user.errors)
        self.assertIn("this node is stopping", a.user.errors[0].to_xml())


class BreakTests(S2SCase):
    """Streams that break."""

    def tearDown(self) -> Deferred[Any]:
        stopping = super().tearDown()
        middle = getattr(self, "middle", None)
        if middle is not None:
            middle.cut()
            stopping.addCallback(lambda _: middle.listener.stopListening())
            stopping.addCallback(lambda _: self.until(lambda: not middle.legs))
        return stopping

    def pair(self, **options: Any) -> tuple[Node, Node]:
        a, b = self.node("a.example", **options), self.node("b.example")
        self.middle = Middle(b.s2s.ports[0])
        self.world.targets.table["b.example"] = [Target("127.0.0.1", self.middle.port)]
        return a, b

    @inlineCallbacks
    def test_sent_again(self) -> Steps:
        """What a dead connection has swallowed goes again over the next, each once, in order."""
        a, b = self.pair()
        a.s2s.send(text("x@a.example", "y@b.example", "0"))
        yield self.until(lambda: b.user.bodies == ["0"])
        yield self.until(lambda: not a.s2s.status()[0]["unacknowledged"])
        self.middle.swallowing = True
        for number in range(1, 4):
            a.s2s.send(text("x@a.example", "y@b.example", str(number)))
        yield self.until(lambda: a.s2s.status()[0]["unacknowledged"] == 3)
        self.middle.cut()
        self.middle.swallowing = False
        yield self.until(lambda: len(b.user.bodies) >= 4)
        self.assertEqual(b.user.bodies, ["0", "1", "2", "3"])
        self.assertEqual(a.metrics.value("s2s.sent_again"), 3)
        self.assertEqual(a.user.errors, [])

    @inlineCallbacks
    def test_dead_peer(self) -> Steps:
        """A peer that is there but says nothing is given up, and the stanzas go to the next."""
        limits = S2SLimits(stream=StreamLimits(silence=0.3, acknowledgement=0.3))
        a, b = self.pair(limits=limits)
        a.s2s.send(text("x@a.example", "y@b.example", "0"))
        yield self.until(lambda: b.user.bodies == ["0"])
        self.middle.swallowing = True
        a.s2s.send(text("x@a.example", "y@b.example", "1"))
        yield self.until(lambda: a.s2s.status()[0]["state"] != "a stream stands")
        self.middle.swallowing = False
        yield self.until(lambda: b.user.bodies[-1] == "1")

    @inlineCallbacks
    def test_kernel_watches(self) -> Steps:
        """Without acknowledgements the kernel gives a dead peer up, idle or not, within 65 s."""
        a, _ = self.pair()
        a.s2s.send(text("x@a.example", "y@b.example", "0"))
        yield self.until(lambda: a.s2s.status()[0]["state"] == "a stream stands")
        carrier = next(iter(a.s2s._routes.values())).carrier
        assert carrier is not None
        tcp = carrier.transport.socket
        option = lambda name: tcp.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))  # noqa: E731
        self.assertEqual(option("TCP_NODELAY"), 1)
        self.assertEqual(option("TCP_USER_TIMEOUT"), 50000)
        probes = option("TCP_KEEPIDLE") + option("TCP_KEEPINTVL") * option("TCP_KEEPCNT")
        self.assertLessEqual(probes, 65)

    @inlineCallbacks
    def test_restart(self) -> Steps:
        """A peer that restarts in good order is reached again."""
        a, b = self.node("a.example"), self.node("b.example")
        a.s2s.send(text("x@a.example", "y@b.example", "0"))
        yield self.until(lambda: b.user.bodies == ["0"])
        self.nodes.remove(b)
        yield b.stop()
        b = self.node("b.example")
        a.s2s.send(text("x@a.example", "y@b.example", "1"))
        yield self.until(lambda: b.user.bodies == ["1"])

    @inlineCallbacks
    def test_idle(self) -> Steps:
        """An idle stream is closed without a word to anybody; the next stanza opens another."""
        a, b = self.pair(limits=S2SLimits(idle=0.3))
        for body in ("0", "1"):
            a.s2s.send(text("x@a.example", "y@b.example", body))
            yield self.until(lambda body=body: b.user.bodies[-1:] == [body])
            yield self.until(lambda: a.s2s.status()[0]["state"] == "no stream, none wanted")
        self.assertEqual(a.metrics.value("s2s.streams_out"), 2)
        self.assertEqual(a.user.errors, [])


class FateTests(S2SCase):
    """What is told of each stanza."""

    def watch(self, node: Node) -> list[tuple[str, str, str]]:
        told: list[tuple[str, str, str]] = []
        node.s2s.fate = lambda stanza, fate, condition, words: told.append(
            (stanza.id, fate.name, condition)
        )
        return told

    @inlineCallbacks
    def test_acknowledged(self) -> Steps:
        """With acknowledgements a stanza ends with the peer's, in order."""
        a, b = self.node("a.example"), self.node("b.example")
        told = self.watch(a)
        for number in range(3):
            a.s2s.send(text("x@a.example", "y@b.example", id=str(number)))
        yield self.until(lambda: len(told) == 6)
        fates = ("WAITING", "ACKNOWLEDGED")
        self.assertEqual(told, [(str(number), fate, "") for fate in fates for number in range(3)])
        self.assertEqual(len(b.user.bodies), 3)

    @inlineCallbacks
    def test_late_count(self) -> Steps:
        """What the peer has not made safe yet is not acknowledged."""
        a, b = self.node("a.example"), self.node("b.example")
        told = self.watch(a)
        safe: list[Any] = []
        b.s2s.settle = lambda done, local: safe.append(done)
        a.s2s.send(text("x@a.example", "y@b.example", id="1"))
        yield self.until(lambda: safe)
        self.assertEqual((told, len(b.user.bodies)), ([("1", "WAITING", "")], 1))
        safe.pop()()
        yield self.until(lambda: told[1:] == [("1", "ACKNOWLEDGED", "")])

    @inlineCallbacks
    def test_returned(self) -> Steps:
        """What finds no server is returned, with the condition."""
        a = self.node("a.example")
        told = self.watch(a)
        a.s2s.send(text("x@a.example", "y@nowhere.example", id="1"))
        yield self.until(lambda: len(told) == 2)
        self.assertEqual(told[1], ("1", "RETURNED", "remote-server-not-found"))


class SharingTests(S2SCase):
    """How many streams there are."""

    @inlineCallbacks
    def test_bidi(self) -> Steps:
        """Two servers with certificates need one stream for both directions."""
        a, b = self.node("a.example"), self.node("b.example")
        a.s2s.send(text("x@a.example", "y@b.example", "there"))
        yield self.until(lambda: b.user.bodies)
        b.s2s.send(text("y@b.example", "x@a.example", "back"))
        yield self.until(lambda: a.user.bodies)
        total = a.metrics.value("s2s.streams_out") + b.metrics.value("s2s.streams_out")
        self.assertEqual(total, 1)
        (incoming,) = [one for one in b.s2s.status() if one["direction"] == "in"]
        self.assertTrue(incoming["bidi"])

    @inlineCallbacks
    def test_one_for_each_direction(self) -> Steps:
        """By dialback there is one stream for each direction and pair, however much is sent."""
        a, b = self.node("a.example", security=CLEAR), self.node("b.example", security=CLEAR)
        for number in range(50):
            a.s2s.send(text("x@a.example", "y@b.example", str(number)))
            b.s2s.send(text("y@b.example", "x@a.example", str(number)))
        yield self.until(lambda: len(a.user.bodies) == len(b.user.bodies) == 50)
        for node in (a, b):
            self.assertEqual(node.metrics.value("s2s.streams_out"), 1)


class UserTests(S2SCase):
    """What the service does for its user, and for the operator."""

    @inlineCallbacks
    def test_faulty_user(self) -> Steps:
        """A user that fails on one stanza gets the next all the same."""
        a, b = self.node("a.example"), self.node("b.example")

        def fail(stanza: Any) -> None:
            if stanza.id == "0":
                raise RuntimeError("a bug")

        b.user.hook = fail
        for number in range(2):
            a.s2s.send(text("x@a.example", "y@b.example", id=str(number)))
        yield self.until(lambda: len(b.user.stanzas) == 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(b.metrics.value("s2s.faults"), 1)

    @inlineCallbacks
    def test_back_pressure(self) -> Steps:
        """While the user is behind, nothing is read; then everything is."""
        a, b = self.node("a.example"), self.node("b.example")
        a.s2s.send(text("x@a.example", "y@b.example", "0"))
        yield self.until(lambda: b.user.bodies == ["0"])
        b.s2s.pause()
        a.s2s.send(text("x@a.example", "y@b.example", "1"))
        yield self.until(lambda: a.s2s.status()[0]["unacknowledged"] == 1)
        self.assertEqual(b.user.bodies, ["0"])
        b.s2s.resume()
        yield self.until(lambda: b.user.bodies == ["0", "1"])

    @inlineCallbacks
    def test_trace(self) -> Steps:
        """Whoever watches sees each stanza on both sides."""
        a, b = self.node("a.example"), self.node("b.example")
        lines: list[Any] = []
        a.tracer.watch(lines.append)
        b.tracer.watch(lines.append)
        a.s2s.send(text("x@a.example", "y@b.example", "there"))
        yield self.until(lambda: b.user.bodies)
        self.assertEqual([line.inbound for line in lines], [False, True])
        self.assertTrue(all("there" in line.text for line in lines))

    def test_missing_names(self) -> None:
        """Domains that no certificate of ours carries are named."""
        issued = self.world.issue("a.example", "*.rooms.example")
        a = self.node("a.example", "x.rooms.example", "mail.example", certificate=issued)
        missing = a.s2s.missing_names()
        self.assertEqual(list(missing), ["mail.example"])
        self.assertIn("DNS:mail.example", missing["mail.example"])

    @inlineCallbacks
    def test_malformed_address(self) -> Steps:
        """A stanza to an address that is none is answered, by our own stream to its domain."""
        a = self.node("a.example", security=CLEAR)
        b = self.node("b.example", security=CLEAR)

        def play() -> None:
            peer = RawPeer(b.s2s.ports[0], to="b.example")
            peer.prove("secret of a.example", peer.open())
            peer.send(
                b"<message from='x@a.example' to='&lt;@b.example' id='m'><body>x</body></message>"
            )
            peer.read(0.3)
            peer.close()

        yield deferToThread(play)
        yield self.until(lambda: a.user.errors)
        (error,) = a.user.errors
        self.assertEqual(
            (error.from_.text, error.to.text, error.id), ("b.example", "x@a.example", "m")
        )
        self.assertIn("<jid-malformed", error.to_xml())
