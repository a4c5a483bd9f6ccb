"""Rooms on both sides of a node that speaks XMPP alone: Prosody with our module, and a foreign Prosody."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demo.certificates import Authority
from demo.home import Prosody, xmpp_user
from demo.node import Node
from demo.parts import PartFailed, Talker, free_ports
from tests.interop.foreign import Enterprise, ForeignProsody
from tests.interop.once import started_once
from tests.interop.rooms import Rooms
from tests.interop.scene import HOME, RUN

VERONA, SPAM = "verona.example", "spam.example"
#: Their rooms, and ours.
THEIRS, OURS = f"rooms.{VERONA}", f"conference.{HOME}"
FOREIGNERS = dict.fromkeys(("romeo", "tybalt"), "on both")


class _Home(Prosody):
    def _configuration(self) -> str:
        return super()._configuration() + f'\nComponent "{OURS}" "muc"\n'


class _Foreign(ForeignProsody):
    def _configuration(self) -> str:
        return super()._configuration() + f'\nComponent "{THEIRS}" "muc"\n'


@dataclass
class _Node(Node):
    """A node without SIP."""

    def write(self) -> None:
        super().write()
        text = self.configuration.read_text()
        start, end = text.index("[[listener]]"), text.index("[[home]]")
        text = text[:start] + text[end:]
        self.configuration.write_text(text.replace(f'["{HOME}"]', f'["{HOME}", "{OURS}"]'))


class _Scene:
    def __init__(self) -> None:
        directory = self.directory = RUN / "rooms"
        shutil.rmtree(directory, ignore_errors=True)
        self.stack = ExitStack()
        authority = Authority(directory / "pki")
        self.home = _Home(directory / "home", module=f"federation.{HOME}")
        (s2s_port,) = free_ports(1)
        self.verona = verona = Enterprise(
            directory / "verona", authority, VERONA, SPAM, users=FOREIGNERS,
            reach={HOME: s2s_port, OURS: s2s_port},
        )  # fmt: skip
        values = {each.name: getattr(verona.server, each.name) for each in fields(ForeignProsody)}
        values["certificate"] = authority.issue(VERONA, SPAM, THEIRS)
        verona.server = _Foreign(**values)
        verona.names.services[THEIRS] = port = verona.server.s2s_port
        self.node = _Node(
            directory / "node", self.home, authority.issue(f"fed.{HOME}", HOME, OURS), 0,
            ("127.0.0.1", 0),
            extra=f"""\
[s2s]
bind = "127.0.0.1:{s2s_port}"

[[s2s.exception]]
domain = "{SPAM}"
direction = "in"

[[s2s.domain]]
name = "*.{VERONA}"
connect = "127.0.0.1:{port}"

[[s2s.domain]]
name = "{SPAM}"
connect = "127.0.0.1:{port}"
""",
        )  # fmt: skip

    def start(self) -> _Scene:
        """Start everything."""
        stack = self.stack
        stack.callback(self.verona.stop)
        try:
            self.verona.server.start()
            stack.callback(self.home.start().stop)
            stack.callback(self.node.start().stop)
        except PartFailed:
            stack.close()
            raise
        return self

    @functools.cache  # noqa: B019
    def local(self, name: str) -> Talker:
        """Return a local user, logged in."""
        user = xmpp_user(self.directory, self.home, name)
        self.stack.callback(user.stop)
        return user

    @functools.cache  # noqa: B019
    def foreign(self, name: str, domain: str = "") -> Talker:
        """Return a foreign user, logged in."""
        user = self.verona.log_in(name, domain)
        self.stack.callback(user.stop)
        return user


@started_once(lambda scene: scene.stack.close())
def _scene() -> _Scene:
    return _Scene().start()


class RoomTests(Rooms, SynchronousTestCase):
    """Room domains are local domains; foreign rooms are foreign domains."""

    def setUp(self) -> None:
        self.scene = _scene()

    def test_foreign_guest(self) -> None:
        """A foreign user enters a room on our home server, found by the room domain's own SRV."""
        self.meet(self.scene.local("alice"), self.scene.foreign("romeo"), f"hall@{OURS}")

    def test_foreign_room(self) -> None:
        """A local user enters a room on a foreign server."""
        self.meet(self.scene.foreign("romeo"), self.scene.local("carol"), f"tomb@{THEIRS}")

    def test_refused_domain(self) -> None:
        """Nobody of a refused domain gets in: he has an error, and those inside see nothing."""
        alice, room = self.scene.local("alice"), f"closed@{OURS}"
        self.join(alice, room, "owner")
        self.unlock(alice, room)
        spammer, since = self.scene.foreign("tybalt", SPAM), alice.position
        muc = "<x xmlns='http://jabber.org/protocol/muc'/>"
        spammer.send("raw", xml=f"<presence to='{room}/spam' id='in'>{muc}</presence>")
        spammer.expect(event="presence", sender=room, kind="error")
        self.say(alice, room, "Alone?")
        alice.expect(since, event="message", body="Alone?")
        self.assertEqual(alice.seen(since, event="presence", resource="spam"), [])

    def test_known_to_the_operator(self) -> None:
        """Nothing is missing: the certificate carries the room domain, and the home server has it."""
        log = (self.scene.node.directory / "node.log").read_text()
        self.assertNotIn("name_missing", log)
        self.assertNotIn("domains_not_hosted", log)
        socket = self.scene.node.socket
        command = [Path(sys.executable).with_name("impfedctl"), "--socket", socket, "status"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertIn(OURS, done.stdout)
