"""An ejabberd as the home of components, with a foreign XMPP server among the peers."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from demo.certificates import Authority
from demo.ejabberd import Ejabberd
from demo.ladder import Ladder
from demo.parts import Part, PartFailed, Talker, free_ports, wait_until
from demo.run import Stage
from tests.interop.foreign import Enterprise
from tests.interop.home_streams import FOREIGNERS, StreamScene
from tests.interop.namespace import KeptNetwork, with_resolver
from tests.interop.scene import HOME, RUN
from tests.interop.stream_story import StreamCase

#: One domain of the foreign server is a component on ejabberd, the other is none.
VERONA, MANTUA = "verona.example", "mantua.example"


class _Scene(StreamScene):
    """The stage of the demo with an ejabberd that would find the foreign server by itself."""

    def __init__(self) -> None:
        directory = self.directory = RUN / "ejabberd-peers"
        shutil.rmtree(directory, ignore_errors=True)
        self.network = KeptNetwork()
        self.talkers = {}
        with self.network.entered():
            self._prepare(directory)

    def _prepare(self, directory: Path) -> None:
        stage = self.stage = Stage(directory, Ladder("romeo", io.StringIO()), "ejabberd", 0.0)
        home = stage.home
        assert isinstance(home, Ejabberd)
        home.users["juliet"] = "a plague"
        home.components = ("lync.example", VERONA)
        home.directory.mkdir(parents=True)
        home.prefix = tuple(with_resolver(home.directory, []))
        (s2s_port,) = free_ports(1)
        authority = Authority(directory / "verona-pki", "Verona CA")
        self.verona = Enterprise(
            directory / "verona", authority, VERONA, MANTUA, users=FOREIGNERS,
            reach={HOME: s2s_port},
        )  # fmt: skip
        ours = Path(stage.node.certificate.ca)
        both = ours.read_text() + authority.path.read_text()
        ours.write_text(both)
        authority.path.write_text(both)
        stage.node.extra = f"""\
[s2s]
bind = "127.0.0.1:{s2s_port}"
patience = "8s"

[[s2s.domain]]
name = "{VERONA}"
connect = "127.0.0.1:{self.verona.server.s2s_port}"
"""

    def dns(self) -> Part:
        """Start a name server that knows the foreign server."""
        port = self.verona.server.s2s_port
        words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"]
        words += ["--no-hosts", "--user=root", "--listen-address=127.0.0.1", "--bind-interfaces"]
        words += ["--pid-file=", "--address=/example/127.0.0.1"]
        for domain in (VERONA, MANTUA):
            words.append(f"--srv-host=_xmpp-server._tcp.{domain},xmpp.{domain},{port}")
        part = Part("dnsmasq", words, self.directory / "dns")
        part.await_port(53)
        return part

    def start(self) -> _Scene:
        """Start everything."""
        stack = self.stage.stack
        stack.callback(self.verona.stop)
        with self.network.entered():
            try:
                stack.callback(self.dns().stop)
                self.verona.server.start()
                self.cast = self.stage.start()
            except PartFailed:
                stack.close()
                raise
        self.talkers |= {"alice": self.cast.alice, "carol": self.cast.carol}
        return self

    @property
    def connections(self) -> list[str]:
        """What the foreign server has logged of connections from our domain."""
        log = self.verona.server.directory / "prosody.info.log"
        return [line for line in log.read_text().splitlines() if f"{HOME}->" in line]


class EjabberdPeers(StreamCase):
    """Components of foreign XMPP domains."""

    scene: _Scene

    def make(self) -> _Scene:
        return _Scene()

    def befriend(self, asker: Talker, other: Talker, there: str) -> None:
        """Have somebody ask for another's presence, who says yes, and then changes his state."""
        asker.send("subscribe", to=there)
        asked = other.expect(event="asked")
        since = asker.position
        other.send("approve", to=asked["sender"])
        asker.expect(since, event="presence", sender=there, kind="subscribed")
        asker.expect(since, event="presence", sender=there, kind="available")
        since = asker.position
        other.send("presence", show="dnd", status="busy")
        asker.expect(since, event="presence", sender=there, show="dnd", status="busy")

    def test_both_ways(self) -> None:
        """Texts, refusals and presence pass both ways, and nothing goes by ejabberd's own S2S."""
        juliet, romeo = self.scene.local("juliet"), self.scene.foreign("romeo")
        here, there = f"juliet@{HOME}", f"romeo@{VERONA}"
        romeo.send("message", to=here, body="It is my lady")
        juliet.expect(event="message", body="It is my lady")
        juliet.send("message", to=there, body="Ay me!")
        romeo.expect(event="message", body="Ay me!")
        self.befriend(romeo, juliet, here)
        self.befriend(juliet, romeo, there)
        juliet.send("message", to=f"nobody@{VERONA}", body="?", id="nobody-there")
        juliet.expect(event="refused", id="nobody-there", condition="service-unavailable")
        romeo.send("message", to=f"nobody@{HOME}", body="?", id="nobody-here")
        romeo.expect(event="refused", id="nobody-here", condition="service-unavailable")
        # One stream each way, both of the node's: ejabberd has none of its own.
        self.assertLessEqual(len(self.scene.connections), 1)

    def test_no_leak(self) -> None:
        """Without a node the sender gets an error, and ejabberd does not go by itself."""
        alice, tybalt = self.scene.local("alice"), self.scene.foreign("tybalt")
        node = self.scene.stage.node
        node.stop()
        before = self.scene.connections
        for to, id in ((f"tybalt@{VERONA}", "leak"), ("romeo@lync.example", "leak-sip")):
            alice.send("message", to=to, body="Who is there?", id=id)
            told = alice.expect(event="refused", id=id)
            self.assertIn(
                told["condition"], ("forbidden", "not-allowed", "remote-server-not-found")
            )
        alice.send("subscribe", to=f"tybalt@{VERONA}")
        # The way that it would have taken is open: to a domain that is no component it goes.
        alice.send("message", to=f"tybalt@{MANTUA}", body="by oneself")
        self.assertTrue(wait_until(lambda: len(self.scene.connections) > len(before)))
        self.assertNotIn(VERONA, "".join(self.scene.connections[len(before) :]))
        self.assertEqual(tybalt.seen(event="message", body="Who is there?"), [])
        self.assertEqual(tybalt.seen(event="asked"), [])
