"""Two nodes of one organisation, each with its own home server, and one far side.

The far side sends everything to the routing node, which has no user called bob: he is at home at
the second node. Both nodes connect to the far side themselves.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from demo.certificates import Authority, Certificate
from demo.far import far_side
from demo.home import Prosody, xmpp_user
from demo.node import Node
from demo.parts import PartFailed, Talker, free_ports
from tests.interop.control import operator
from tests.interop.once import started_once
from tests.interop.scene import FOREIGN, HOME, RUN

SECOND = "second.example"
ROUTER_NAME, NODE2_NAME = f"fed.{HOME}", f"node2.{HOME}"

FAR_USERS = ("romeo", "tybalt", "paris", "mercutio", "benvolio", "capulet", "escalus")

#: Domains that are configured, and that no connection of the tests can prove.
OTHERS = f"""
[[domain]]
name = "simple.example"
kind = "simple"
next_hop = {{ address = "127.0.0.1:9", tls_name = "sip.simple.example" }}

[[domain]]
name = "foreign.{HOME}"
next_hop = {{ address = "127.0.0.1:9", tls_name = "sip.foreign.{HOME}" }}
"""


def neighbour(name: str, domain: str, port: int, certificate: str) -> str:
    """Return what one node's configuration says of the other."""
    return f"""
[[neighbour]]
name = "{name}"
domains = ["{domain}"]
address = "127.0.0.1:{port}"
tls_name = "{certificate}"
advertised = ["{certificate}:{port}"]
"""


class TwoNodes:
    """The routing node, the second node, their home servers, and the far side."""

    def __init__(self) -> None:
        self.directory = directory = RUN / "two-nodes"
        shutil.rmtree(directory, ignore_errors=True)
        authority = Authority(directory / "pki", "interop CA")
        port1, port2, self.far_port = free_ports(3)
        self.home = Prosody(directory / "prosody1", module=f"federation.{HOME}")
        self.home2 = Prosody(
            directory / "prosody2", SECOND, {"bob": "builder", "dave": "digger"},
            module=f"federation.{SECOND}",
        )  # fmt: skip
        peer = ("127.0.0.1", self.far_port)
        # The far side lets a connection speak for the domains that its certificate names.
        self.router = Node(
            directory / "router", self.home, authority.issue(ROUTER_NAME, HOME, SECOND),
            port1, peer, extra=neighbour("node2", SECOND, port2, NODE2_NAME) + OTHERS,
        )  # fmt: skip
        self.node2 = Node(
            directory / "node2", self.home2, authority.issue(NODE2_NAME, SECOND),
            port2, peer, name=NODE2_NAME, upstreams=(ROUTER_NAME,),
            extra=neighbour("router", HOME, port1, ROUTER_NAME),
        )  # fmt: skip
        self.far_certificate: Certificate = authority.issue(f"sip.{FOREIGN}", FOREIGN)
        self.far: Talker
        self.alice: Talker
        self.bob: Talker

    def start(self) -> TwoNodes:
        """Start everything; stops it again when a part fails."""
        try:
            self.home.start()
            self.home2.start()
            self._far_side()
            self.node2.start()
            self.router.start()
            self.alice = xmpp_user(self.directory, self.home, "alice")
            self.bob = xmpp_user(self.directory, self.home2, "bob")
        except PartFailed:
            self.stop()
            raise
        return self

    def _far_side(self) -> None:
        self.far = far_side(
            self.directory, self.far_certificate, f"127.0.0.1:{self.far_port}",
            (f"127.0.0.1:{self.router.port}", ROUTER_NAME), FAR_USERS, "--other-node", NODE2_NAME,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop everything."""
        for part in ("alice", "bob", "far"):
            if hasattr(self, part):
                getattr(self, part).stop()
        for part in (self.router, self.node2, self.home, self.home2):
            part.stop()

    def operator(self, node: Node, *words: str, code: int = 0) -> str:
        """Run impfedctl at a node; return what it says."""
        return operator(node.socket, *words, code=code)

    def counted(self, node: Node, counter: str) -> int:
        """Return a counter of a node."""
        status: dict[str, Any] = json.loads(self.operator(node, "status", "--json"))
        return int(status["metrics"].get(counter, 0))


@started_once(TwoNodes.stop)
def two_nodes() -> TwoNodes:
    """Return the scene, started once."""
    return TwoNodes().start()
