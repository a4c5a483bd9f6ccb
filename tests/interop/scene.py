"""A node between a real home server and independent peers, shared by the tests of one kind.

Starting everything takes some seconds, so a scene stays up until the tests end; each test uses
foreign addresses of its own.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from demo.certificates import Authority
from demo.home import Prosody, xmpp_user
from demo.node import Node
from demo.parts import ROOT, PartFailed, Talker, free_ports
from tests.interop.haproxy import MutualTls
from tests.interop.once import started_once
from tests.interop.sipp import Sipp

FOREIGN = "lync.example"
HOME = "home.example"
RUN = ROOT / "run" / "interop" / str(os.getpid())


class Scene:
    """One node with its surroundings.

    :ivar peer_port: where an answering SIPp listens.
    :ivar way_in: where a calling SIPp connects to.
    """

    def __init__(self, name: str, *, transport: str, kind: str, module: bool) -> None:
        self.directory = RUN / name
        shutil.rmtree(self.directory, ignore_errors=True)
        self.transport = transport
        authority = Authority(self.directory / "pki", "interop CA")
        self.prosody = Prosody(
            self.directory / "prosody",
            module=f"federation.{HOME}" if module else "",
            components=() if module else (FOREIGN,),
        )
        node_port, self.peer_port, secure = free_ports(3)
        hop = secure if transport == "tls" else self.peer_port
        self.node = Node(
            self.directory / "node", self.prosody, authority.issue(f"fed.{HOME}", HOME),
            node_port, ("127.0.0.1", hop), foreign=FOREIGN, kind=kind, transport=transport,
        )  # fmt: skip
        self.way_in = node_port
        self.haproxy: MutualTls | None = None
        self._far = authority.issue(f"sip.{FOREIGN}", FOREIGN)
        self._secure = secure
        self.alice: Talker
        self.carol: Talker

    def start(self) -> Scene:
        """Start everything; stops it again when a part fails."""
        try:
            self.prosody.start()
            if self.transport == "tls":
                self.haproxy = MutualTls(
                    self.directory / "haproxy", self._far, self.node.port,
                    f"fed.{HOME}", self.peer_port, self._secure,
                )  # fmt: skip
                self.way_in = self.haproxy.plain
            self.node.start()
            self.alice = xmpp_user(self.directory, self.prosody, "alice")
            self.carol = xmpp_user(self.directory, self.prosody, "carol")
        except PartFailed:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop everything."""
        for user in ("alice", "carol"):
            if hasattr(self, user):
                getattr(self, user).stop()
        self.node.stop()
        if self.haproxy is not None:
            self.haproxy.stop()
        self.prosody.stop()

    def call(self, scenario: str, here: str, there: str, **more: object) -> Sipp:
        """Start SIPp as a caller."""
        return self._sipp(scenario, here, there, self.way_in, 0, more)

    def answer(self, scenario: str, here: str, **more: object) -> Sipp:
        """Start SIPp as an answering peer."""
        return self._sipp(scenario, here, f"alice@{HOME}", None, self.peer_port, more)

    def _sipp(
        self, scenario: str, here: str, there: str, remote: int | None, port: int,
        more: dict[str, object],
    ) -> Sipp:  # fmt: skip
        return Sipp(
            scenario, self._folder(scenario), here=here, there=there, remote=remote, port=port,
            via=self.transport.upper(), mode="u1" if self.transport == "udp" else "t1",
            **more,  # type: ignore[arg-type]
        )  # fmt: skip

    def _folder(self, scenario: str) -> Path:
        folders = [self.directory / "sipp" / f"{scenario}-{number}" for number in range(1000)]
        return next(folder for folder in folders if not folder.exists())


@started_once(Scene.stop)
def scene(name: str) -> Scene:
    """Return the scene of that name, started once: "tls", "tls-component", "tcp", "udp"."""
    kinds: dict[str, tuple[str, str, bool]] = {
        "tls": ("tls", "microsoft", True),
        "tls-component": ("tls", "microsoft", False),
        "tcp": ("tcp", "simple", False),
        "udp": ("udp", "simple", False),
    }
    transport, kind, module = kinds[name]
    return Scene(name, transport=transport, kind=kind, module=module).start()
