"""Sametime and Webex, through a whole node: what their kinds bring is enough to federate with them.

``[s2s]`` of this node says things that would keep both out: SASL is off and certificates are required.
Sametime is played by a small peer of the tests, Webex by a Prosody that shows no client certificate.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

from twisted.trial.unittest import SynchronousTestCase

from demo.certificates import Authority
from demo.ladder import Ladder
from demo.parts import PartFailed, Talker, free_ports
from demo.run import Stage
from tests.interop.control import operator
from tests.interop.foreign import Enterprise
from tests.interop.once import started_once
from tests.interop.sametime import GaveUp, Sametime
from tests.interop.scene import HOME, RUN

SAMETIME, WEBEX, OTHER = "sametime.example", "webex.example", "other.example"
PEOPLE = dict.fromkeys(("juliet", "nurse", "paris"), "a plague")
SERVER = "{jabber:server}"


class _Scene:
    """The demo's stage, with both peers beside it."""

    def __init__(self) -> None:
        directory = RUN / "profiles"
        shutil.rmtree(directory, ignore_errors=True)
        self.stage = stage = Stage(directory, Ladder("romeo", io.StringIO()), "prosody", 0.0)
        stage.home.users |= PEOPLE
        self.port, self.dead = free_ports(2)
        authority = Authority(directory / "peers-pki", "Peers' CA")
        self.webex = Enterprise(
            directory / "webex", authority, WEBEX, OTHER, users={"prince": "pw"},
            reach={HOME: self.port}, modules=("no_client_certificate",),
        )  # fmt: skip
        names = self.webex.names
        shown = authority.issue(SAMETIME)
        ours = Path(stage.node.certificate.ca)
        both = ours.read_text() + authority.path.read_text()
        ours.write_text(both)
        authority.path.write_text(both)
        self.sametime = Sametime(SAMETIME, shown, names.port)
        names.services[SAMETIME] = self.sametime.port
        peers = (
            (WEBEX, "webex", self.webex.server.s2s_port),
            (SAMETIME, "sametime", self.sametime.port),
            (OTHER, "xmpp", self.webex.server.s2s_port),
        )
        stage.node.extra = f"""\
[s2s]
bind = "127.0.0.1:{self.port}"
secret = "between our nodes"
patience = "8s"
tls = "optional"
sasl_in = false
sasl_out = false
""" + "".join(
            f'[[s2s.domain]]\nname = "{name}"\nkind = "{kind}"\nconnect = "127.0.0.1:{port}"\n'
            for name, kind, port in peers
        )
        self._talkers: dict[str, Talker] = {}

    def start(self) -> _Scene:
        """Start everything."""
        stack = self.stage.stack
        stack.callback(self.webex.stop)
        stack.callback(self.sametime.stop)
        try:
            self.webex.server.start()
            self.stage.start()
        except PartFailed:
            stack.close()
            raise
        return self

    def local(self, name: str) -> Talker:
        """Return a local user, logged in."""
        if name not in self._talkers:
            self._talkers[name] = self.stage.log_in(name)
        return self._talkers[name]

    def foreign(self, domain: str) -> Talker:
        """Return a Webex user, or one of the other domain, logged in."""
        if domain not in self._talkers:
            talker = self.webex.log_in("prince", "" if domain == WEBEX else domain)
            self.stage.stack.callback(talker.stop)
            self._talkers[domain] = talker
        return self._talkers[domain]


@started_once(lambda scene: scene.stage.stack.close())
def _scene() -> _Scene:
    return _Scene().start()


class ProfileCase(SynchronousTestCase):
    """Tests with that stage."""

    def setUp(self) -> None:
        self.scene = _scene()
        self.sametime = self.scene.sametime

    def operator(self, *words: str) -> str:
        """Run impfedctl; return what it says."""
        return operator(self.scene.stage.node.socket, *words)


class SametimeTests(ProfileCase):
    """Sametime."""

    def say(self, xml: str) -> None:
        self.sametime.send(HOME, xml)

    def test_texts(self) -> None:
        """Texts pass both ways, over TLS with SASL EXTERNAL."""
        juliet = self.scene.local("juliet")
        romeo = f"romeo@{SAMETIME}"
        self.say(
            f"<message from='{romeo}/st' to='juliet@{HOME}' type='chat' id='m1'>"
            "<body>from Sametime</body></message>"
        )
        got = juliet.expect(event="message", body="from Sametime")
        self.assertEqual(got["sender"], f"{romeo}/st")
        juliet.send("message", to=romeo, body="to Sametime")
        told = self.sametime.expect(lambda each: each.findtext(f"{SERVER}body") == "to Sametime")
        self.assertEqual(told.get("to"), romeo)
        self.assertEqual(self.sametime.gave_up, [])

    def test_presence(self) -> None:
        """Presence passes both ways; towards Sametime extended away becomes away, else nothing changes."""
        nurse, here, there = self.scene.local("nurse"), f"nurse@{HOME}", f"peter@{SAMETIME}"
        self.say(f"<presence from='{there}' to='{here}' type='subscribe'/>")
        nurse.expect(event="asked", sender=there)
        nurse.send("approve", to=there)

        def shown(show: str | None, status: str) -> ET.Element:
            return self.sametime.expect(
                lambda each: (
                    each.tag == f"{SERVER}presence"
                    and (each.findtext(f"{SERVER}show"), each.findtext(f"{SERVER}status"))
                    == (show, status)
                    and each.get("from", "").startswith(here)
                )
            )

        for show, status, seen in (
            ("xa", "gone for long", "away"),
            ("away", "Busy", "away"),
            ("dnd", "Peter!", "dnd"),
            ("", "at the market", None),
        ):
            nurse.send("presence", show=show, status=status)
            shown(seen, status)
        # T7: nothing of theirs is changed.
        nurse.send("subscribe", to=there)
        self.sametime.expect(lambda each: each.get("type") == "subscribe")
        self.say(f"<presence from='{there}' to='{here}' type='subscribed'/>")
        for show, status in (("", "In a meeting"), ("dnd", "not now"), ("away", "out")):
            inner = f"<show>{show}</show>" if show else ""
            self.say(
                f"<presence from='{there}/st' to='{here}'>{inner}<status>{status}</status></presence>"
            )
            nurse.expect(event="presence", sender=there, show=show, status=status)
        self.say(f"<presence from='{there}/st' to='{here}' type='unavailable'/>")
        nurse.expect(event="presence", sender=there, kind="unavailable")

    def test_second_server(self) -> None:
        """With our first server away nothing comes from Sametime; status and explain say so."""
        names = self.scene.webex.names
        another = Sametime(SAMETIME, self.sametime._certificate, names.port)
        self.addCleanup(another.stop)
        names.services[HOME] = (self.scene.dead, self.scene.port)
        self.addCleanup(names.services.__setitem__, HOME, self.scene.port)
        with self.assertRaises(GaveUp):
            another.send(HOME, f"<message from='x@{SAMETIME}' to='juliet@{HOME}'/>")
        self.assertEqual(another.tried, [self.scene.dead])
        words = "it tries the first only"
        self.assertIn(words, self.operator("status"))
        self.assertIn(words, self.operator("explain", f"x@{SAMETIME}", f"juliet@{HOME}"))


class WebexTests(ProfileCase):
    """Webex."""

    def test_texts(self) -> None:
        """Without a client certificate texts pass both ways, proven by dialback over TLS."""
        juliet, prince = self.scene.local("juliet"), self.scene.foreign(WEBEX)
        prince.send("message", to=f"juliet@{HOME}", body="from Webex")
        got = juliet.expect(event="message", body="from Webex")
        juliet.send("message", to=got["sender"], body="to Webex")
        prince.expect(event="message", body="to Webex")
        self.assertIn("which acknowledges nothing", self.operator("where", f"prince@{WEBEX}"))
        log = (self.scene.stage.node.directory / "node.log").read_text(errors="replace")
        self.assertIn(f"stream in between {HOME} and {WEBEX} by dialback, TLSv1", log)

    def test_presence(self) -> None:
        """Away in a meeting becomes available in a meeting; our extended away stays what it is."""
        paris, prince = self.scene.local("paris"), self.scene.foreign(WEBEX)
        here, there = f"paris@{HOME}", f"prince@{WEBEX}"
        prince.send("subscribe", to=here)
        paris.expect(event="asked", sender=there)
        paris.send("approve", to=there)
        prince.expect(event="presence", sender=here, kind="subscribed")
        paris.send("subscribe", to=there)
        prince.expect(event="asked", sender=here)
        prince.send("approve", to=here)
        paris.expect(event="presence", sender=there, kind="subscribed")
        since = paris.position
        prince.send("presence", show="away", status="In a meeting")
        paris.expect(since, event="presence", sender=there, show="", status="In a meeting")
        prince.send("presence", show="away", status="lunch")
        paris.expect(since, event="presence", sender=there, show="away", status="lunch")
        since = prince.position
        paris.send("presence", show="xa", status="abroad")
        prince.expect(since, event="presence", sender=here, show="xa", status="abroad")

    def test_others_must_show_one(self) -> None:
        """The same server is refused for a domain of no such kind, and the log says why."""
        juliet, prince = self.scene.local("juliet"), self.scene.foreign(OTHER)
        since = juliet.position
        prince.send("message", to=f"juliet@{HOME}", body="without a certificate")
        prince.expect(event="refused")
        self.assertEqual(juliet.seen(since, event="message"), [])
        log = (self.scene.stage.node.directory / "node.log").read_text(errors="replace")
        self.assertIn("a valid certificate is required", log)

    def test_told(self) -> None:
        """Status says what is required of each peer, and what cannot be done with it."""
        status = self.operator("status")
        self.assertIn("invite our users to rooms", status)
        self.assertIn("not required", status)
