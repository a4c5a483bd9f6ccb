"""Prosody, two nodes with private addresses, an edge, and the far side.

Both nodes serve the same users, which only one may do at a time: the second has a Prosody of its own,
and gets new requests only while the first does not answer.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.certificates import Authority, Certificate
from demo.far import far_side
from demo.home import Prosody, xmpp_user
from demo.node import TWISTD, Node
from demo.parts import Part, PartFailed, Talker, free_ports, wait_until
from tests.interop.control import operator
from tests.interop.once import started_once
from tests.interop.scene import FOREIGN, HOME, RUN

OUTSIDE_NAME, INSIDE_NAME = f"fed.{HOME}", f"edge.inside.{HOME}"
NODE_NAMES = (f"node1.inside.{HOME}", f"node2.inside.{HOME}")

FAR_USERS = (
    "romeo", "tybalt", "paris", "mercutio", "benvolio", "capulet", "escalus", "balthasar", "sampson",
    "rosaline", "gregory",
)  # fmt: skip


@dataclass
class EdgeNode:
    """One edge, started as an operator would.

    :ivar nodes: the machines inside, the first choice first.
    :ivar returns: the public port of each of them.
    :ivar netns: the network namespace that it runs in; "" for this one.
    """

    directory: Path
    outside: Certificate
    inside: Certificate
    port: int
    inner_port: int
    nodes: tuple[Node, ...]
    returns: tuple[int, ...]
    peer: tuple[str, int]
    netns: str = ""
    part: Part | None = field(default=None)

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.directory / "control.sock"

    def write(self) -> Path:
        """Write the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        targets = ""
        for number, (node, public) in enumerate(zip(self.nodes, self.returns, strict=True), 1):
            targets += f"""
[[edge.target]]
name = "node{number}"
address = "127.0.0.1:{node.port}"
tls_name = "{node.name}"
priority = {number}
connections = 2

[[edge.port]]
public = "{OUTSIDE_NAME}:{public}"
bind = "127.0.0.1:{public}"
target = "node{number}"
inner = "{node.name}:{node.port}"
"""
        path = self.directory / "edge.toml"
        path.write_text(f"""\
[node]
name = "edge"
control_socket = "{self.socket}"

[tls]
ca = "{self.outside.ca}"

[[tls.certificate]]
name = "outside"
certificate = "{self.outside.certificate}"
key = "{self.outside.key}"

[[tls.certificate]]
name = "inside"
certificate = "{self.inside.certificate}"
key = "{self.inside.key}"

[[listener]]
name = "internet"
side = "outside"
transport = "tls"
bind = "127.0.0.1:{self.port}"
advertised = "{OUTSIDE_NAME}:{self.port}"

[[listener]]
name = "nodes"
side = "inside"
transport = "tls"
bind = "127.0.0.1:{self.inner_port}"
advertised = "{INSIDE_NAME}:{self.inner_port}"

[edge]
domains = ["{HOME}"]
certificate = "inside"
check_interval = "1s"
{targets}
[[domain]]
name = "{FOREIGN}"

[domain.next_hop]
address = "{self.peer[0]}:{self.peer[1]}"
tls_name = "sip.{FOREIGN}"
""")
        return path

    def start(self) -> EdgeNode:
        """Start the edge and wait until it listens."""
        command: list[str | Path] = [
            *TWISTD,
            "-n",
            "--pidfile=",
            "impfed",
            "--config",
            self.write(),
        ]
        part = self.part = Part("edge", command, self.directory, netns=self.netns)
        part.await_port(self.port)
        part.await_port(self.inner_port)
        return self

    def kill(self) -> None:
        """Kill the edge."""
        assert self.part is not None
        self.part.kill()
        self.part.process.wait()

    def stop(self) -> None:
        """Stop the edge."""
        if self.part is not None:
            self.part.stop()

    def operator(self, *words: str, code: int = 0) -> str:
        """Run impfedctl at the edge; return what it says."""
        return operator(self.socket, *words, code=code)

    def status(self) -> dict[str, Any]:
        """Return the edge's status."""
        found: dict[str, Any] = json.loads(self.operator("status", "--json"))
        return found

    def state(self, target: str) -> str:
        """Return whether a target is up."""
        return next(
            str(line["state"]) for line in self.status()["targets"] if line["name"] == target
        )

    def await_state(self, target: str, state: str) -> None:
        """Wait until a target is up, or down."""
        if not wait_until(lambda: self.state(target) == state):
            raise PartFailed(f"{target} is not {state}: {self.status()['targets']}")


class Bordered:
    """The edge between two nodes and the far side."""

    def __init__(self) -> None:
        self.directory = directory = RUN / "edge"
        shutil.rmtree(directory, ignore_errors=True)
        authority = Authority(directory / "pki", "interop CA")
        self.authority = authority
        port, inner, self.far_port, return1, return2, node1, node2 = free_ports(7)
        self.homes = [
            Prosody(directory / f"prosody{number}", module=f"federation.{HOME}")
            for number in (1, 2)
        ]
        self.nodes = tuple(
            Node(
                directory / name, home, authority.issue(name), number, ("127.0.0.1", inner),
                name=name, peer_name=INSIDE_NAME, upstreams=(INSIDE_NAME,),
            )
            for name, home, number in zip(NODE_NAMES, self.homes, (node1, node2), strict=True)
        )  # fmt: skip
        self.edge = EdgeNode(
            directory / "edge", authority.issue(OUTSIDE_NAME, HOME), authority.issue(INSIDE_NAME),
            port, inner, self.nodes, (return1, return2), ("127.0.0.1", self.far_port),
        )  # fmt: skip
        self.far_certificate: Certificate = authority.issue(f"sip.{FOREIGN}", FOREIGN)
        self.far: Talker
        self.alice: Talker
        self.alice2: Talker

    def start(self) -> Bordered:
        """Start everything; stops it again when a part fails."""
        try:
            self._far_side()
            for home in self.homes:
                home.start()
            for node in self.nodes:
                node.start()
            self.edge.start()
            self.alice = xmpp_user(self.directory / "1", self.homes[0], "alice")
            self.alice2 = xmpp_user(self.directory / "2", self.homes[1], "alice")
        except PartFailed:
            self.stop()
            raise
        return self

    def _far_side(self) -> None:
        self.far = far_side(
            self.directory, self.far_certificate, f"127.0.0.1:{self.far_port}",
            (f"127.0.0.1:{self.edge.port}", OUTSIDE_NAME), FAR_USERS, "--other-node", OUTSIDE_NAME,
        )  # fmt: skip

    def await_way_out(self) -> None:
        """Wait until the first node has found the edge again."""

        def found() -> bool:
            try:
                operator(self.nodes[0].socket, "route", f"x@{FOREIGN}")
            except PartFailed:
                return False
            return True

        if not wait_until(found):
            raise PartFailed("the node does not find the edge")

    def stop(self) -> None:
        """Stop everything."""
        for part in ("alice", "alice2", "far"):
            if hasattr(self, part):
                getattr(self, part).stop()
        for part in (self.edge, *self.nodes, *self.homes):
            part.stop()


@started_once(Bordered.stop)
def bordered() -> Bordered:
    """Return the scene, started once."""
    return Bordered().start()
