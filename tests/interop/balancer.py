"""Two nodes behind HAProxy with the shipped sample, one live at a time, each with a Prosody of its own.

Both serve the same users, which only one may do at a time; the second Prosody stands for the home
server that a take-over would bring along.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from demo.node import Node
from demo.parts import (
    ROOT,
    Authority,
    Certificate,
    Part,
    PartFailed,
    Prosody,
    Talker,
    free_ports,
    wait_until,
    xmpp_user,
)
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
        self.socket = directory / "admin.sock"
        self.haproxy: Part
        self.far: Talker
        self.alices: list[Talker] = []

    def start(self) -> Balanced:
        """Start everything but the second node; stops it again when a part fails."""
        try:
            for home in self.homes:
                home.start()
            self.nodes[0].start()
            self.haproxy = Part("haproxy", ["haproxy", "-db", "-f", self._sample()], self.directory)
            self.haproxy.await_port(self.port)
            self._far_side(self.far_certificate)
            for number, home in enumerate(self.homes, 1):
                self.alices.append(xmpp_user(self.directory / f"user{number}", home, "alice"))
        except PartFailed:
            self.stop()
            raise
        return self

    def _sample(self) -> Path:
        """Return the sample with the places of this run in it."""
        certificates = self.directory / "pki"
        balancer = self.authority.issue(BALANCER)
        text = (ROOT / "etc" / "haproxy.cfg").read_text()
        for sample, here in (
            ("/run/haproxy/admin.sock", str(self.socket)),
            ("/etc/haproxy/company.example.pem", str(self.nodes[0].certificate.both)),
            ("/etc/haproxy/balancer.pem", str(balancer.both)),
            ("/etc/haproxy/partners-ca.pem", str(certificates / "ca.pem")),
            ("/etc/haproxy/nodes-ca.pem", str(certificates / "ca.pem")),
            ("maxconn 4000", "maxconn 200"),  # fits into any limit of open files
            ("0.0.0.0:5061", f"127.0.0.1:{self.port}"),
            ("10.0.0.1:5061", f"127.0.0.1:{self.nodes[0].port}"),
            ("10.0.0.2:5061", f"127.0.0.1:{self.nodes[1].port}"),
            ("company.example", HOME),
        ):
            if sample not in text:
                raise PartFailed(f"etc/haproxy.cfg does not say {sample} any more")
            text = text.replace(sample, here)
        configuration = self.directory / "haproxy.cfg"
        configuration.write_text(text)
        return configuration

    def _far_side(self, certificate: Certificate) -> None:
        self.far = Talker(
            "farside",
            [
                sys.executable, "-m", "demo.farside", "--domain", FOREIGN,
                "--listen", f"127.0.0.1:{self.far_port}",
                "--node", f"127.0.0.1:{self.port}", "--node-name", NAME,
                "--certificate", certificate.certificate, "--key", certificate.key,
                "--ca", certificate.ca, "--accept-delay", "0.3",
                *(word for user in USERS for word in ("--user", user)),
            ],
            self.directory,
        )  # fmt: skip
        self.far.expect(event="ready")

    def stop(self) -> None:
        """Stop everything."""
        for talker in (*self.alices, *([self.far] if hasattr(self, "far") else [])):
            talker.stop()
        if hasattr(self, "haproxy"):
            self.haproxy.stop()
        for part in (*self.nodes, *self.homes):
            part.stop()

    def admin(self, command: str) -> str:
        """Give HAProxy a command; return what it says."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.socket))
            wire.sendall(command.encode() + b"\n")
            with wire.makefile() as answer:
                return answer.read()

    def state(self, number: int) -> str:
        """Return what HAProxy thinks of a node: "UP", "DOWN", "DRAIN" ..."""
        lines = [line.split(",") for line in self.admin("show stat").splitlines()]
        column = lines[0].index("status")
        (found,) = (line[column] for line in lines if line[:2] == ["nodes", f"node{number}"])
        return found

    def becomes(self, number: int, state: str, seconds: float) -> bool:
        """Wait until HAProxy thinks so of a node; False when it did not in time."""
        return wait_until(lambda: self.state(number).startswith(state), seconds)

    def log(self, number: int) -> str:
        """Return a node's log."""
        return (self.nodes[number - 1].directory / "node.log").read_text(errors="replace")

    def status(self, number: int) -> str:
        """Return what impfedctl says of a node, as JSON."""
        command = [Path(sys.executable).with_name("impfedctl"), "--socket"]
        command += [self.nodes[number - 1].socket]
        return subprocess.run(
            [*command, "status", "--json"], capture_output=True, text=True, timeout=30, check=True
        ).stdout


@functools.cache
def _started() -> Balanced | PartFailed:
    try:
        scene = Balanced().start()
    except PartFailed as error:
        return error
    atexit.register(scene.stop)
    return scene


def balanced() -> Balanced:
    """Return the scene, started once."""
    found = _started()
    if isinstance(found, PartFailed):
        raise PartFailed(str(found))
    return found
