"""A balancer behind an edge: several connections give it something to balance, and no dialog is torn."""

from __future__ import annotations

import shutil
import socket
import socketserver
import ssl
import threading
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from demo.certificates import Authority
from demo.node import TWISTD
from demo.parts import Part, free_ports
from impfed.sip.message import SipRequest, parse_message, response_bytes
from tests.interop.control import operator
from tests.interop.scene import FOREIGN, HOME, RUN
from tests.interop.test_proxy_node import read_status

DIALOGS, TEXTS = 40, 3

HAPROXY = """\
global
  maxconn 200
defaults
  mode tcp
  timeout connect 3s
  timeout client 60s
  timeout server 60s
frontend in
  bind 127.0.0.1:{front}
  default_backend nodes
backend nodes
  balance roundrobin
  server node1 127.0.0.1:{node1}
  server node2 127.0.0.1:{node2}
"""

EDGE = """\
[node]
name = "edge"
control_socket = "{directory}/control.sock"
log_level = "debug"

[tls]
ca = "{ca}"

[[tls.certificate]]
name = "outside"
certificate = "{certificate}"
key = "{key}"

[[listener]]
name = "internet"
side = "outside"
transport = "tls"
bind = "127.0.0.1:{port}"
advertised = "sip.{home}:{port}"

[[listener]]
name = "nodes"
side = "inside"
transport = "tcp"
bind = "127.0.0.1:{inner}"

[edge]
domains = ["{home}"]
connections = 8
limits = {{ requests = "none" }}

[[edge.target]]
name = "balancer"
address = "127.0.0.1:{front}"
transport = "tcp"

[[domain]]
name = "{foreign}"
next_hop = {{ address = "127.0.0.1:9", tls_name = "sip.{foreign}" }}
"""


class _Answering(socketserver.StreamRequestHandler):
    """Answers every request on a connection with 200."""

    server: Counting

    def handle(self) -> None:
        while head := self._head():
            request = parse_message(head)
            assert isinstance(request, SipRequest)
            if request.method == "MESSAGE":
                self.server.seen.append((request.call_id, request.cseq.number))
            self.wfile.write(response_bytes(request, 200, "", "t"))

    def _head(self) -> bytes:
        lines = b""
        for line in self.rfile:
            if line != b"\r\n":
                lines += line
            elif lines:
                return lines + b"\r\n"
        return b""


class Counting(socketserver.ThreadingTCPServer):
    """A machine behind the balancer.

    :ivar seen: Call-ID and number of each text, in the order of their arrival.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Answering)
        self.seen: list[tuple[str, int]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class EdgeBalancerTests(SynchronousTestCase):
    """HAProxy, which knows connections only, between the edge and two machines."""

    def setUp(self) -> None:
        self.directory = directory = RUN / "edge-balancer"
        shutil.rmtree(directory, ignore_errors=True)
        authority = Authority(directory / "pki", "interop CA")
        outside, far = authority.issue(f"sip.{HOME}", HOME), authority.issue(f"sip.{FOREIGN}")
        self.port, inner, front, node1, node2 = free_ports(5)
        self.nodes = [Counting(node1), Counting(node2)]
        for node in self.nodes:
            self.addCleanup(node.server_close)
            self.addCleanup(node.shutdown)
        self.start("haproxy", HAPROXY.format(front=front, node1=node1, node2=node2), front)
        text = EDGE.format(
            directory=directory, ca=outside.ca, certificate=outside.certificate, key=outside.key,
            port=self.port, inner=inner, front=front, home=HOME, foreign=FOREIGN,
        )  # fmt: skip
        self.start("edge", text, self.port)
        self.tls = ssl.create_default_context(cafile=str(far.ca))
        self.tls.load_cert_chain(far.certificate, far.key)

    def start(self, name: str, text: str, port: int) -> None:
        """Start a program with its configuration."""
        path = self.directory / f"{name}.cfg"
        path.write_text(text)
        commands: dict[str, list[str | Path]] = {
            "haproxy": ["haproxy", "-db", "-f", path],
            "edge": [*TWISTD, "-n", "--pidfile=", "impfed", "--config", path],
        }
        part = Part(name, commands[name], self.directory)
        self.addCleanup(part.stop)
        part.await_port(port)

    def test_spread(self) -> None:
        """Both machines get dialogs, each dialog one machine, its texts in their order."""
        with (
            socket.create_connection(("127.0.0.1", self.port)) as plain,
            self.tls.wrap_socket(plain, server_hostname=f"sip.{HOME}") as wire,
            wire.makefile("rb") as answers,
        ):
            for number in range(1, TEXTS + 1):
                for dialog in range(DIALOGS):
                    wire.sendall(self.text(dialog, number))
            statuses = [read_status(answers) for _ in range(DIALOGS * TEXTS)]
        self.assertEqual(set(statuses), {200})
        parts: list[dict[str, list[int]]] = []
        for node in self.nodes:
            found: dict[str, list[int]] = {}
            for call_id, number in node.seen:
                found.setdefault(call_id, []).append(number)
            parts.append(found)
        first, second = parts
        self.assertEqual(set(first) & set(second), set())
        self.assertEqual(len(first) + len(second), DIALOGS)
        self.assertGreater(min(len(first), len(second)), DIALOGS // 8)
        for numbers in (*first.values(), *second.values()):
            self.assertEqual(numbers, list(range(1, TEXTS + 1)))
        self.assertIn("8 of 8", operator(self.directory / "control.sock", "status"))

    @staticmethod
    def text(dialog: int, number: int) -> bytes:
        """Return a partner's text."""
        lines: list[Any] = [
            f"MESSAGE sip:alice@{HOME} SIP/2.0",
            f"Via: SIP/2.0/TLS sip.{FOREIGN}:5061;branch=z9hG4bK{dialog}-{number}",
            "Max-Forwards: 70",
            f"From: <sip:romeo@{FOREIGN}>;tag=1",
            f"To: <sip:alice@{HOME}>",
            f"Call-ID: dialog-{dialog}",
            f"CSeq: {number} MESSAGE",
            "Content-Length: 0",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()
