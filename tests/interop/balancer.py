"""Two nodes behind HAProxy with the shipped sample, one live at a time, each with a Prosody of its own.

Both serve the same users, which only one may do at a time; the second Prosody stands for the home
server that a take-over would bring along.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from demo.certificates import Authority, Certificate
from demo.far import far_side
from demo.home import Prosody, xmpp_user
from demo.node import Node
from demo.parts import ROOT, Part, PartFailed, Talker, free_ports, wait_until
from tests.interop.control import operator
from tests.interop.once import started_once
from tests.interop.scene import FOREIGN, HOME, RUN

NAME, BALANCER = f"sip.{HOME}", f"balancer.{HOME}"
USERS = ("romeo", "tybalt", "paris", "mercutio")

PROXIED = """
proxy_protocol = true
proxy_addresses = ["127.0.0.1"]
"""

#: A partner whose certificate no connection of the tests shows.
OTHER = """
[[domain]]
name = "other.test"
next_hop = { address = "127.0.0.1:9", tls_name = "sip.other.test" }
"""


class Haproxy:
    """A running HAProxy with the shipped sample.

    :param places: what stands in the sample -> what takes its place.
    """

    def __init__(
        self, directory: Path, places: Mapping[str, str], port: int, netns: str = ""
    ) -> None:
        self.socket = directory / "admin.sock"
        text = (ROOT / "etc" / "haproxy.cfg").read_text()
        own = {"/run/haproxy/admin.sock": str(self.socket), "maxconn 4000": "maxconn 200"}
        for sample, here in {**own, **places}.items():  # few fit into any limit of open files
            if sample not in text:
                raise PartFailed(f"etc/haproxy.cfg does not say {sample} any more")
            text = text.replace(sample, here)
        directory.mkdir(parents=True, exist_ok=True)
        configuration = directory / "haproxy.cfg"
        configuration.write_text(text)
        self.part = Part("haproxy", ["haproxy", "-db", "-f", configuration], directory, netns=netns)
        self.part.await_port(port)

    def stop(self) -> None:
        """Stop it."""
        self.part.stop()

    def admin(self, command: str) -> str:
        """Give it a command; return what it says."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.socket))
            wire.sendall(command.encode() + b"\n")
            with wire.makefile() as answer:
                return answer.read()

    def state(self, number: int) -> str:
        """Return what it thinks of a node: "UP", "DOWN", "DRAIN" ..."""
        lines = [line.split(",") for line in self.admin("show stat").splitlines()]
        column = lines[0].index("status")
        (found,) = (line[column] for line in lines if line[:2] == ["nodes", f"node{number}"])
        return found

    def becomes(self, number: int, state: str, seconds: float) -> bool:
        """Wait until it thinks so of a node; False when it did not in time."""
        return wait_until(lambda: self.state(number).startswith(state), seconds)


class Balanced:
    """The balancer, two nodes with a home server each, and the far side."""

    def __init__(self) -> None:
        self.directory = directory = RUN / "balancer"
        shutil.rmtree(directory, ignore_errors=True)
        self.authority = authority = Authority(directory / "pki", "interop CA")
        self.port, far_port, *ports = free_ports(4)
        certificate = authority.issue(NAME, HOME)
        self.homes = [
            Prosody(directory / f"prosody{number}", module=f"federation.{HOME}")
            for number in (1, 2)
        ]
        self.nodes = [
            Node(
                directory / f"node{number}", home, certificate, port, ("127.0.0.1", far_port),
                name=NAME, upstreams=(BALANCER,), advertised=self.port, listener=PROXIED,
                extra=OTHER,
            )
            for number, (home, port) in enumerate(zip(self.homes, ports, strict=True), 1)
        ]  # fmt: skip
        self.far_certificate = authority.issue(f"sip.{FOREIGN}", FOREIGN)
        self.far_port = far_port
        self.haproxy: Haproxy
        self.far: Talker
        self.alices: list[Talker] = []

    def start(self) -> Balanced:
        """Start everything but the second node; stops it again when a part fails."""
        try:
            for home in self.homes:
                home.start()
            self.nodes[0].start()
            self.haproxy = Haproxy(self.directory, self._places(), self.port)
            self._far_side(self.far_certificate)
            for number, home in enumerate(self.homes, 1):
                self.alices.append(xmpp_user(self.directory / f"user{number}", home, "alice"))
        except PartFailed:
            self.stop()
            raise
        return self

    def _places(self) -> dict[str, str]:
        """Return the places of this run."""
        authority = str(self.directory / "pki" / "ca.pem")
        return {
            "/etc/haproxy/company.example.pem": str(self.nodes[0].certificate.both),
            "/etc/haproxy/balancer.pem": str(self.authority.issue(BALANCER).both),
            "/etc/haproxy/partners-ca.pem": authority,
            "/etc/haproxy/nodes-ca.pem": authority,
            "0.0.0.0:5061": f"127.0.0.1:{self.port}",
            "10.0.0.1:5061": f"127.0.0.1:{self.nodes[0].port}",
            "10.0.0.2:5061": f"127.0.0.1:{self.nodes[1].port}",
            "company.example": HOME,
        }

    def _far_side(self, certificate: Certificate) -> None:
        self.far = far_side(
            self.directory, certificate, f"127.0.0.1:{self.far_port}",
            (f"127.0.0.1:{self.port}", NAME), USERS,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop everything."""
        for talker in (*self.alices, *([self.far] if hasattr(self, "far") else [])):
            talker.stop()
        if hasattr(self, "haproxy"):
            self.haproxy.stop()
        for part in (*self.nodes, *self.homes):
            part.stop()

    def log(self, number: int) -> str:
        """Return a node's log."""
        return (self.nodes[number - 1].directory / "node.log").read_text(errors="replace")

    def status(self, number: int) -> str:
        """Return what impfedctl says of a node, as JSON."""
        return operator(self.nodes[number - 1].socket, "status", "--json")


@started_once(Balanced.stop)
def balanced() -> Balanced:
    """Return the scene, started once."""
    return Balanced().start()
