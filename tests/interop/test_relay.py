"""XMPP federation of a whole node: Prosody with our module — node — S2S over TLS — a foreign Prosody."""

from __future__ import annotations

import io
import os
import shutil
import signal
from pathlib import Path
from xml.etree import ElementTree as ET

from twisted.trial.unittest import SynchronousTestCase

from demo.certificates import Authority
from demo.ladder import Ladder
from demo.parts import PartFailed, Talker, free_ports, wait_until
from demo.run import Stage
from demo.story import Cast
from impfed.ctl.main import main as ctl
from tests.interop.foreign import Enterprise
from tests.interop.once import started_once
from tests.interop.scene import HOME, RUN

VERONA, WEBEX, SPAM = "verona.example", "webex.example", "spam.example"
PEOPLE = dict.fromkeys(("juliet", "nurse", "paris", "lady"), "a plague")
FOREIGNERS = dict.fromkeys(("romeo", "tybalt", "benvolio", "prince"), "on both")
#: Without prefixed attributes, which slixmpp loses before it shows them.
UNKNOWN = (
    "<marvel xmlns='urn:example:marvel' xmlns:o='urn:example:other' v=' a b &lt;'>"
    "tail<o:deep xml:lang='it'>ça va?<x/></o:deep>&amp;<body xmlns='jabber:client'/></marvel>"
)


class _Scene:
    """The stage of the demo with an XMPP enterprise beside its SIP one."""

    def __init__(self) -> None:
        directory = RUN / "relay"
        shutil.rmtree(directory, ignore_errors=True)
        self.stage = stage = Stage(directory, Ladder("romeo", io.StringIO()), "prosody", 0.0)
        stage.home.users |= PEOPLE
        (s2s_port,) = free_ports(1)
        authority = Authority(directory / "verona-pki", "Verona CA")
        self.verona = Enterprise(
            directory / "verona", authority, VERONA, WEBEX, SPAM, users=FOREIGNERS,
            reach={HOME: s2s_port}, modules=("smacks",),
        )  # fmt: skip
        # One authority for S2S both ways: each side's roots hold the other's.
        ours = Path(stage.node.certificate.ca)
        both = ours.read_text() + authority.path.read_text()
        ours.write_text(both)
        authority.path.write_text(both)
        stage.node.extra = f"""\
[s2s]
bind = "127.0.0.1:{s2s_port}"
secret = "between our nodes"
patience = "8s"

[[s2s.exception]]
domain = "*.{SPAM}"

[[s2s.domain]]
name = "{WEBEX}"
kind = "webex"
connect = "127.0.0.1:{self.verona.server.s2s_port}"

[[s2s.domain]]
name = "{VERONA}"
connect = "127.0.0.1:{self.verona.server.s2s_port}"
"""
        self.talkers: dict[str, Talker] = {}
        self.cast: Cast

    def start(self) -> _Scene:
        """Start everything."""
        stack = self.stage.stack
        stack.callback(self.verona.stop)
        try:
            self.verona.server.start()
            self.cast = self.stage.start()
            self.talkers["alice"] = self.cast.alice
        except PartFailed:
            stack.close()
            raise
        return self

    def restart_home(self) -> None:
        """Start the home server again, and wait until the node is linked to it."""
        log = self.stage.node.directory / "node.log"
        before = log.read_bytes().count(b"impfed.home.link_up")
        self.stage.home.start()
        if not wait_until(lambda: log.read_bytes().count(b"impfed.home.link_up") > before):
            raise PartFailed("the node is not linked to the home server")
        self.forget_locals()

    def forget_locals(self) -> None:
        """The home server is another process: its users log in anew."""
        for key in [key for key in self.talkers if "@" not in key]:
            del self.talkers[key]

    def local(self, name: str) -> Talker:
        """Return a local user, logged in."""
        if name not in self.talkers:
            self.talkers[name] = self.stage.log_in(name)
        return self.talkers[name]

    def foreign(self, name: str, domain: str = VERONA) -> Talker:
        """Return a foreign user, logged in."""
        key = f"{name}@{domain}"
        if key not in self.talkers:
            self.talkers[key] = self.again(name, domain)
        return self.talkers[key]

    def again(self, name: str, domain: str = VERONA) -> Talker:
        """Return a further client of a foreign user."""
        talker = self.verona.log_in(name, "" if domain == VERONA else domain)
        self.stage.stack.callback(talker.stop)
        return talker


@started_once(lambda scene: scene.stage.stack.close())
def _scene() -> _Scene:
    return _Scene().start()


def canonical(wire: str, name: str) -> str:
    """Return an element of a stanza in canonical form."""
    found = ET.fromstring(wire).find(f".//{name}")
    assert found is not None
    found.tail = None
    return ET.canonicalize(ET.tostring(found, "unicode"), rewrite_prefixes=True)


class RelayTests(SynchronousTestCase):
    """What passes between local users and a foreign XMPP domain."""

    def setUp(self) -> None:
        self.scene = _scene()

    def operator(self, *words: str, code: int = 0) -> str:
        """Run impfedctl, in this process: some tests are a race with a time limit of the node's."""
        ended, said = self._asked(*words)
        self.assertEqual(ended, code, said)
        return said

    def _asked(self, *words: str) -> tuple[int, str]:
        said = io.StringIO()
        ended = ctl(["--socket", str(self.scene.stage.node.socket), *words], said)
        return ended, said.getvalue()

    def told(self, id: str, words: str) -> None:
        """Wait until the ledger knows a text, and says this of it."""
        self.assertTrue(wait_until(lambda: words in self._asked("where", id)[1]))

    def where(self, text: str) -> str:
        """Ask where texts went, once all of them have come to an end."""
        ended = lambda: "on its way" not in self.operator("where", text)  # noqa: E731
        self.assertTrue(wait_until(ended))
        return self.operator("where", text)

    def befriend(self, asker: Talker, other: Talker, there: str) -> None:
        """Have somebody ask for another's presence, who says yes."""
        asker.send("subscribe", to=there)
        asked = other.expect(event="asked")
        since = asker.position
        other.send("approve", to=asked["sender"])
        asker.expect(since, event="presence", sender=there, kind="subscribed")
        asker.expect(since, event="presence", sender=there, kind="available")

    def test_chat(self) -> None:
        """Texts pass both ways, also while SIP is spoken beside them."""
        juliet, romeo = self.scene.local("juliet"), self.scene.foreign("romeo")
        romeo.send("message", to=f"juliet@{HOME}", body="It is my lady, O, it is my love! 😀")
        got = juliet.expect(event="message", body="It is my lady, O, it is my love! 😀")
        self.assertEqual(got["sender"].partition("/")[0], f"romeo@{VERONA}")
        juliet.send("message", to=got["sender"], body="Ay me! <&>")
        romeo.expect(event="message", body="Ay me! <&>")
        cast = self.scene.cast
        cast.far_does("im", 200, **{"from": "romeo", "to": f"alice@{HOME}", "text": "by SIP"})
        alice = self.scene.local("alice")
        alice.expect(event="message", body="by SIP")
        alice.send("message", to="romeo@lync.example", body="by SIP, too")
        cast.far.expect(event="im", text="by SIP, too")
        for words in ("juliet@home.example: delivered", "S2S leg   came from its server"):
            self.assertIn(words, self.where(f"romeo@{VERONA}"))
        for words in ("its server has taken it (XEP-0198)", "taken over, no error returned"):
            self.assertIn(words, self.where(f"romeo@{VERONA}"))
        self.assertNotIn("Ay me", self.where(f"romeo@{VERONA}"))
        status = self.operator("status")
        self.assertIn(
            "xmpp federation: every domain is allowed, except *.spam.example (both)", status
        )
        self.assertIn(VERONA, status)

    def test_presence(self) -> None:
        """Requests, answers, states and probes pass both ways."""
        nurse, benvolio = self.scene.local("nurse"), self.scene.foreign("benvolio")
        here, there = f"nurse@{HOME}", f"benvolio@{VERONA}"
        self.befriend(benvolio, nurse, here)
        since = benvolio.position
        nurse.send("presence", show="dnd", status="Peter!")
        benvolio.expect(since, event="presence", sender=here, show="dnd", status="Peter!")
        self.befriend(nurse, benvolio, there)
        for direction in ("in ", "out"):
            line = rf"{direction} +{here} +{there} +active, over XMPP"
            self.assertRegex(self.operator("subscriptions"), line)
        since = nurse.position
        benvolio.send("presence", show="xa", status="In a meeting")
        nurse.expect(since, event="presence", sender=there, show="xa", status="In a meeting")
        probing = self.scene.again("benvolio")  # his server asks ours for the state
        probing.expect(event="presence", sender=here, kind="available", show="dnd")
        since = nurse.position
        benvolio.send("unsubscribe", to=here)
        benvolio.send("decline", to=here)
        nurse.expect(since, event="presence", sender=there, kind="unsubscribe")
        nurse.expect(since, event="presence", sender=there, kind="unsubscribed")
        for line in ("refused", "node policy"):
            self.assertIn(line, self.operator("explain", f"x@{SPAM}", here, code=1))
        self.assertIn("sent over S2S", self.operator("explain", here, there))

    def test_declined(self) -> None:
        """A client's own decline passes as it is, and the user is not asked again."""
        lady, prince = self.scene.local("lady"), self.scene.foreign("prince")
        prince.send("subscribe", to=f"lady@{HOME}")
        lady.expect(event="asked", sender=f"prince@{VERONA}")
        lady.send("decline", to=f"prince@{VERONA}")
        prince.expect(event="presence", sender=f"lady@{HOME}", kind="unsubscribed")
        words = self.operator("explain", f"prince@{VERONA}", f"lady@{HOME}", code=1)
        self.assertIn("not asked again", words)
        since = prince.position
        prince.send("subscribe", to=f"lady@{HOME}")
        prince.expect(since, event="presence", sender=f"lady@{HOME}", kind="unsubscribed")
        self.assertEqual(len(lady.seen(event="asked")), 1)

    def test_unknown_extension(self) -> None:
        """An extension that nobody here knows arrives canonically equal, both ways."""
        juliet, romeo = self.scene.local("juliet"), self.scene.foreign("romeo")
        wanted = canonical(f"<a>{UNKNOWN}</a>", "{urn:example:marvel}marvel")
        for one, other, to in (
            (romeo, juliet, f"juliet@{HOME}"),
            (juliet, romeo, f"romeo@{VERONA}"),
        ):
            since = other.position
            one.send(
                "raw",
                xml=f"<message to='{to}' type='chat' id='m1'><body>m</body>{UNKNOWN}</message>",
            )
            wire = other.expect(
                since, event="wire", direction="received",
                text=lambda text: "urn:example:marvel" in (text or ""),
            )  # fmt: skip
            self.assertEqual(canonical(wire["text"], "{urn:example:marvel}marvel"), wanted)

    def test_questions(self) -> None:
        """IQs pass both ways: to a domain, to an account, to a client; and one that nobody answers."""
        juliet, romeo = self.scene.local("juliet"), self.scene.foreign("romeo")
        info = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
        ping, vcard = "<ping xmlns='urn:xmpp:ping'/>", "<vCard xmlns='vcard-temp'/>"
        mine = {one: one.expect(event="online")["jid"] for one in (juliet, romeo)}
        for number, (asker, to, payload, answer) in enumerate(
            (
                (juliet, VERONA, info, 'category="server"'),
                (juliet, VERONA, ping, 'type="result"'),
                (juliet, f"romeo@{VERONA}", vcard, "item-not-found"),
                (juliet, mine[romeo], info, "No handlers registered"),
                (juliet, f"nobody@{VERONA}/x", ping, "service-unavailable"),
                (romeo, HOME, info, 'category="server"'),
                (romeo, HOME, ping, 'type="result"'),
                (romeo, mine[juliet], info, "No handlers registered"),
                (romeo, f"nobody@{HOME}/x", ping, "service-unavailable"),
            )
        ):
            since, id = asker.position, f"q{number}"
            asker.send("raw", xml=f"<iq to='{to}' type='get' id='{id}'>{payload}</iq>")
            wire = asker.expect(
                since, event="wire", direction="received",
                text=lambda text, id=id: f'id="{id}"' in (text or ""),
            )  # fmt: skip
            self.assertIn(answer, wire["text"])

    def test_refused_domain(self) -> None:
        """A domain that policy refuses: errors for both senders, and nothing for the local user."""
        juliet, spammer = self.scene.local("juliet"), self.scene.foreign("tybalt", SPAM)
        juliet.send("message", to=f"tybalt@{SPAM}", body="who are you?")
        refused = juliet.expect(event="refused", body="who are you?")
        self.assertEqual(refused["condition"], "not-allowed")
        since = juliet.position
        spammer.send("message", to=f"juliet@{HOME}", body="cheap swords")
        spammer.expect(event="refused")
        self.assertEqual(juliet.seen(since, event="message"), [])

    def test_webex_meeting(self) -> None:
        """Away and in a meeting becomes available in a meeting, from a domain of kind webex."""
        juliet, colleague = self.scene.local("juliet"), self.scene.foreign("prince", WEBEX)
        there = f"prince@{WEBEX}"
        self.befriend(juliet, colleague, there)
        since = juliet.position
        colleague.send("presence", show="away", status="In a meeting")
        juliet.expect(since, event="presence", sender=there, show="", status="In a meeting")

    def test_block(self) -> None:
        """A blocked user sees an offline one, is refused without a reason, and unblocked at once."""
        paris, tybalt = self.scene.local("paris"), self.scene.foreign("tybalt")
        here, there = f"paris@{HOME}", f"tybalt@{VERONA}"
        self.operator("policy", here, "block", there)
        tybalt.send("subscribe", to=here)
        tybalt.expect(event="presence", sender=here, kind="subscribed")
        tybalt.expect(event="presence", sender=here, kind="unavailable")
        tybalt.send("message", to=here, body="Thou art a villain")
        refused = tybalt.expect(event="refused", body="Thou art a villain")
        self.assertEqual((refused["condition"], refused["text"]), ("service-unavailable", ""))
        self.assertEqual(paris.seen(event="asked"), [])
        self.assertEqual(paris.seen(event="message"), [])
        self.assertIn("shown offline", self.operator("explain", there, here, code=1))
        since = tybalt.position
        self.operator("policy", here, "allow", there)
        self.assertTrue(wait_until(lambda: bool(paris.seen(event="asked"))))
        paris.send("approve", to=there)
        tybalt.expect(since, event="presence", sender=here, kind="available")
        since = tybalt.position
        self.operator("policy", here, "block", there)
        tybalt.expect(since, event="presence", sender=here, kind="unavailable")
        since = tybalt.position
        self.operator("policy", here, "allow", there)
        tybalt.expect(since, event="presence", sender=here, kind="available")

    def test_allow(self) -> None:
        """Whom the list allows is approved without a question."""
        alice, benvolio = self.scene.local("alice"), self.scene.foreign("benvolio")
        self.operator("policy", f"alice@{HOME}", "allow", f"benvolio@{VERONA}")
        benvolio.send("subscribe", to=f"alice@{HOME}")
        benvolio.expect(event="presence", sender=f"alice@{HOME}", kind="subscribed")
        benvolio.expect(event="presence", sender=f"alice@{HOME}", kind="available")
        self.assertEqual(alice.seen(event="asked"), [])

    def test_home_killed(self) -> None:
        """While the home server is down foreign senders get errors; it catches up with presence."""
        nurse, prince = self.scene.local("nurse"), self.scene.foreign("prince")
        there = f"prince@{VERONA}"
        self.befriend(nurse, prince, there)
        home = self.scene.stage.home
        home.part.kill()  # type: ignore[attr-defined]
        home.part.process.wait(10)  # type: ignore[attr-defined]
        prince.send("message", to=f"nurse@{HOME}", body="anybody there?")
        refused = prince.expect(event="refused", body="anybody there?")
        self.assertEqual((refused["condition"], refused["kind"]), ("recipient-unavailable", "wait"))
        self.scene.restart_home()
        nurse = self.scene.local("nurse")  # her server asks for the state of her contacts
        nurse.expect(event="presence", sender=there, kind="available")
        prince.send("message", to=f"nurse@{HOME}", body="and now?")
        nurse.expect(event="message", body="and now?")

    def test_home_dies_with_a_text(self) -> None:
        """A text that the home server never read before it died goes again when it is back."""
        nurse, prince = self.scene.local("nurse"), self.scene.foreign("prince")
        prince.send("message", to=f"nurse@{HOME}", body="before")
        nurse.expect(event="message", body="before")
        part = self.scene.stage.home.part
        assert part is not None
        os.kill(part.pid, signal.SIGSTOP)
        prince.send("message", to=f"nurse@{HOME}", body="into the dark", id="dark")
        self.told("dark", "on its way")
        part.kill()
        part.process.wait(10)
        self.scene.restart_home()
        nurse = self.scene.local("nurse")
        nurse.expect(event="message", body="into the dark")
        self.assertNotIn("not delivered", self.where(f"nurse@{HOME}"))

    def test_all_die_with_a_text(self) -> None:
        """A text that neither the home server nor, killed after it, the node has kept: its sender hears."""
        prince, stage = self.scene.foreign("prince"), self.scene.stage
        nurse = self.scene.local("nurse")
        prince.send("message", to=f"nurse@{HOME}", body="before it all")
        nurse.expect(event="message", body="before it all")
        home, node = stage.home.part, stage.node.part
        assert home is not None and node is not None
        os.kill(home.pid, signal.SIGSTOP)
        # The node tells the foreign server ten seconds later that it has the text, come what may.
        since = prince.position
        prince.send("message", to=f"nurse@{HOME}", body="into the void", id="void")
        self.told("void", "on its way")
        home.kill()
        home.process.wait(10)
        self.told("void", "goes again")
        node.kill()
        node.process.wait(10)
        refused = prince.expect(since, event="refused")  # its server was never told that we have it
        self.assertEqual(refused["condition"], "recipient-unavailable")
        stage.home.start()
        stage.node.start()
        self.scene.forget_locals()
        nurse = self.scene.local("nurse")
        prince.send("message", to=f"nurse@{HOME}", body="after it all")
        nurse.expect(event="message", body="after it all", seconds=60)

    def test_node_dies_with_a_text(self) -> None:
        """A text that waits for a foreign server is sent by the next process of a node that is killed."""
        scene, server = self.scene, self.scene.verona.server
        juliet, node = scene.local("juliet"), scene.stage.node
        assert server.part is not None and node.part is not None
        server.part.kill()
        server.part.process.wait(10)
        juliet.send("message", to=f"romeo@{VERONA}", body="and yet", id="yet")
        self.told("yet", "waiting for a stream")
        node.part.kill()
        node.part.process.wait(10)
        server.start()
        for key in [key for key in scene.talkers if "@" in key]:
            del scene.talkers[key]
        romeo = scene.foreign("romeo")
        node.start()
        romeo.expect(event="message", body="and yet", seconds=60)
        juliet.send("message", to=f"romeo@{VERONA}", body="and more")
        romeo.expect(event="message", body="and more", seconds=60)
        self.assertEqual(juliet.seen(event="refused", body="and yet"), [])

    def test_killed(self) -> None:
        """While the foreign server is down senders get errors; when it is back texts pass again."""
        juliet, server = self.scene.local("juliet"), self.scene.verona.server
        part = server.part
        assert part is not None
        part.kill()
        part.process.wait(10)
        juliet.send("message", to=f"romeo@{VERONA}", body="art thou there?")
        refused = juliet.expect(event="refused", body="art thou there?")
        self.assertEqual(refused["condition"], "remote-server-timeout")
        server.start()
        for key in [key for key in self.scene.talkers if "@" in key]:
            del self.scene.talkers[key]
        romeo = self.scene.foreign("romeo")
        juliet.send("message", to=f"romeo@{VERONA}", body="and now?")
        # It waits for the next try to connect, which comes after ten seconds or so.
        romeo.expect(event="message", body="and now?", seconds=60)
        romeo.send("message", to=f"juliet@{HOME}", body="with love's light wings")
        juliet.expect(event="message", body="with love's light wings")
