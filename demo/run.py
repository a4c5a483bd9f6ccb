"""``make demo``: a home server, a node and a Lync-style far side on this machine, step by step.

``--check`` plays the steps and ends: exit code 0 only if each was seen at the far end. Without it
everything stays up afterwards, for an ordinary XMPP client and for lines typed here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from .certificates import Authority
from .ejabberd import Ejabberd
from .far import far_side
from .home import HomeServer, Prosody, xmpp_user
from .ladder import Ladder
from .node import Node
from .parts import ROOT, PartFailed, Talker, free_ports
from .story import STORY, Cast

NODE_NAME = "fed.home.example"
FAR_NAME = "sip.lync.example"
#: Home servers to choose from.
HOMES = ("prosody", "component", "ejabberd", "ejabberd-plain")

HELP = """\
Everything is up; Ctrl-C ends it.

  With an ordinary XMPP client log in as
      alice@home.example, password {alice}   or   carol@home.example, password {carol}
      server 127.0.0.1, port {port}, without encryption (it is loopback)
  and write to romeo@lync.example or tybalt@lync.example.

  From the far side, type here (then Enter):
      im romeo alice@home.example But soft!
      typing romeo alice@home.example
      presence romeo busy            (available, busy, dnd, brb, away, offline)
      subscribe romeo carol@home.example
      html romeo alice@home.example <B>sun</B>
      conference romeo alice@home.example

  Look inside with
      {ctl} --socket {socket} status
      {ctl} --socket {socket} where romeo@lync.example
  Logs, certificates and configurations are in {directory}
"""


def home_server(kind: str, directory: Path) -> HomeServer:
    """Return a home server that has not been started.

    :param kind: one of HOMES.
    """
    foreign = ("lync.example",)
    if kind.startswith("ejabberd"):
        return Ejabberd(directory / "ejabberd", components=foreign, ours=kind == "ejabberd")
    if kind == "component":
        return Prosody(directory / "prosody", components=foreign)
    return Prosody(directory / "prosody", module="federation.home.example")


class Stage:
    """The parts, in the order in which they start; closed in reverse."""

    def __init__(self, directory: Path, ladder: Ladder, home: str, delay: float) -> None:
        self.directory, self.ladder = directory, ladder
        self.stack = ExitStack()
        authority = Authority(directory / "pki")
        self.home = home_server(home, directory)
        node_port, far_port = free_ports(2)
        self.node = Node(
            directory / "node",
            self.home,
            authority.issue(NODE_NAME, "home.example"),
            node_port,
            ("127.0.0.1", far_port),
        )
        self._far_certificate = authority.issue(FAR_NAME, "lync.example")
        self._far_port, self._delay = far_port, delay

    def start(self) -> Cast:
        """Start everything."""
        self.home.start()
        self.stack.callback(self.home.stop)
        far = self._far_side()
        self.node.start()
        self.stack.callback(self.node.stop)
        users = []
        for name in ("alice", "carol"):
            users.append(self.log_in(name))
        return Cast(far, users[0], users[1], self.ladder)

    def log_in(self, name: str) -> Talker:
        """Log a user of the home server in."""
        user = xmpp_user(self.directory, self.home, name, self.ladder)
        self.stack.callback(user.stop)
        return user

    def _far_side(self) -> Talker:
        far = far_side(
            self.directory, self._far_certificate, f"127.0.0.1:{self._far_port}",
            (f"127.0.0.1:{self.node.port}", NODE_NAME), ("romeo=Roméo Montague", "tybalt=Tybalt"),
            delay=self._delay, listener=self.ladder,
        )  # fmt: skip
        self.stack.callback(far.stop)
        return far

    def tails(self) -> str:
        """Return the ends of the logs."""
        logs = [self.directory / "node" / "node.log", self.directory / "farside.log",
                self.directory / "prosody" / "prosody.info.log",
                self.directory / "ejabberd" / "ejabberd.out.log"]  # fmt: skip
        tails = []
        for log in logs:
            if log.exists():
                lines = log.read_text(errors="replace").splitlines()[-20:]
                tails.append("\n".join([f"--- {log}", *lines]))
        return "\n".join(tails)


def play(cast: Cast, stage: Stage) -> str:
    """Play every step; returns the title of the one that failed, or nothing."""
    ladder = stage.ladder
    for number, step in enumerate(STORY, 1):
        ladder.title(f"{number}. {step.title}")
        try:
            proved = step.play(cast)
            objections = cast.far.seen(event="violation")
            if objections:
                raise PartFailed(f"the far side objected {len(objections)} times")
            if stage.node.part is None or not stage.node.part.alive:
                raise PartFailed("the node has ended")
        except PartFailed as error:
            ladder.note(f"{step.title}: {error}", good=False)
            return step.title
        time.sleep(0.2)  # what still comes is drawn under the step that it belongs to
        ladder.note(proved)
    return ""


def stay(cast: Cast, stage: Stage) -> NoReturn:
    """Hand every line that is typed to the far side, until Ctrl-C."""
    home = stage.home
    stage.ladder.say(
        HELP.format(
            **home.users,
            port=home.c2s_port,
            ctl=Path(sys.executable).with_name("impfedctl"),
            socket=stage.node.socket,
            directory=stage.directory,
        )
    )
    for line in sys.stdin:
        if line.strip():
            since = cast.far.position
            cast.far.say(line.strip())
            done = cast.far.expect(since, 95, event="done")
            stage.ladder.note(f"{done['status']} {done['reason']}", 200 <= done["status"] < 300)
    while True:  # no input: a program watches, or the terminal is gone
        threading.Event().wait()


def main() -> int:
    """Play; return the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="play the steps, then end")
    parser.add_argument("--full", action="store_true", help="show whole messages")
    parser.add_argument(
        "--home",
        choices=HOMES,
        default="prosody",
        help="home server: Prosody with our module, Prosody with a component for each foreign "
        "domain, ejabberd with our module, ejabberd as it comes",
    )
    parser.add_argument(
        "--accept-delay",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="how long a far user takes to accept a session",
    )
    options = parser.parse_args()
    directory = ROOT / "run" / "demo" / str(os.getpid())
    shutil.rmtree(directory, ignore_errors=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ladder = Ladder("romeo", full=options.full)
    stage = None
    try:
        stage = Stage(directory, ladder, options.home, options.accept_delay)
        with stage.stack:
            cast = stage.start()
            failed = play(cast, stage)
            if failed:
                ladder.say(stage.tails())
            if not options.check:
                stay(cast, stage)
    except PartFailed as error:
        ladder.note(str(error), good=False)
        if stage is not None:
            ladder.say(stage.tails())
        failed = "start"
    except KeyboardInterrupt:
        return 0
    if failed:
        ladder.note(f"failed: {failed}", good=False)
        return 1
    shutil.rmtree(directory, ignore_errors=True)  # the logs of a failure stay
    ladder.note(f"all {len(STORY)} steps were seen at the far end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
