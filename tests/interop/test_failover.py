"""Two next hops, and the first is cut off without a word: who carries the texts, and how soon."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from demo.certificates import Authority
from demo.far import far_side
from demo.home import Prosody, xmpp_user
from demo.node import Node
from demo.parts import Talker, free_ports, wait_until
from tests.interop.namespace import Network
from tests.interop.scene import FOREIGN, HOME, RUN

#: Seconds in which a text has to be there by the other hop.
SOON = 5.0


class FailoverTests(SynchronousTestCase):
    """One node between Prosody and two edges of one foreign domain, in a network of its own."""

    def setUp(self) -> None:
        network = Network()
        self.addCleanup(network.leave)
        directory = RUN / "failover"
        shutil.rmtree(directory, ignore_errors=True)
        self.directory = directory
        authority = Authority(directory / "pki", "interop CA")
        self.certificate = authority.issue(f"sip.{FOREIGN}", FOREIGN)
        node_port, self.port = free_ports(2)
        home = Prosody(directory / "prosody", module=f"federation.{HOME}")
        second = f'\n[[route]]\npattern = "{FOREIGN}"\naddress = "127.0.0.3:{self.port}"\n'
        self.node = Node(
            directory / "node", home, authority.issue(f"fed.{HOME}", HOME), node_port,
            ("127.0.0.2", self.port),
            extra=f'{second}tls_name = "sip.{FOREIGN}"\npriority = 2\n',
        )  # fmt: skip
        for part in (home, self.node):
            self.addCleanup(part.stop)
        home.start()
        self.first, self.second = self.edge("127.0.0.2"), self.edge("127.0.0.3")
        self.node.start()
        self.alice = xmpp_user(directory, home, "alice")
        self.addCleanup(self.alice.stop)

    def edge(self, host: str) -> Talker:
        """Start a foreign edge."""
        far = far_side(
            self.directory / host, self.certificate, f"{host}:{self.port}",
            (f"127.0.0.1:{self.node.port}", f"fed.{HOME}"), ("romeo", "paris", "tybalt"),
            delay=0.0, name=f"edge-{host}",
        )  # fmt: skip
        self.addCleanup(far.stop)
        return far

    def cut(self, host: str) -> None:
        """Drop every packet from and to an address, from now on."""
        self.nft(f"""
            table inet cut {{
                chain everything {{
                    type filter hook input priority 0;
                    ip daddr {host} drop
                    ip saddr {host} drop
                }}
            }}
        """)

    @staticmethod
    def nft(rules: str) -> None:
        """Add rules to the packet filter of this network."""
        subprocess.run(["nft", "-f", "-"], check=True, text=True, input=rules)

    def mend(self) -> None:
        """Let everything pass again."""
        subprocess.run(["nft", "delete", "table", "inet", "cut"], check=True)

    def writes(self, who: str, text: str, edge: Talker) -> float:
        """Let alice write; return after how many seconds the text was there."""
        since, began = edge.position, time.monotonic()
        self.alice.send("message", to=f"{who}@{FOREIGN}", body=text)
        edge.expect(since, 30, event="im", sender=f"alice@{HOME}", text=text)
        return time.monotonic() - began

    def used(self) -> str:
        """Return the hop that ``impfedctl route`` says is used."""
        command = [sys.executable, "-m", "impfed.ctl.main", "--socket", str(self.node.socket)]
        told = subprocess.run(
            [*command, "route", f"romeo@{FOREIGN}"], capture_output=True, text=True, check=True
        )
        return next(line for line in told.stdout.splitlines() if "use" in line)

    def back_on_the_first(self) -> None:
        self.assertTrue(wait_until(lambda: "127.0.0.2" in self.used(), 60), self.used())

    def test_never_reached(self) -> None:
        """The first hop is silent from the beginning; it takes over when it is back."""
        self.cut("127.0.0.2")
        self.assertLess(self.writes("romeo", "Who is there?", self.second), SOON)
        self.assertLess(self.writes("paris", "And you?", self.second), 2.0)
        self.assertIn("127.0.0.3", self.used())
        self.mend()
        self.back_on_the_first()
        self.assertLess(self.writes("tybalt", "Welcome back", self.first), 2.0)

    def test_their_session(self) -> None:
        """The session is the partner's, over a connection of his: the same."""
        self.nft(f"""
            table ip own {{
                chain leaving {{
                    type nat hook postrouting priority 100;
                    ip daddr 127.0.0.1 tcp dport {self.node.port} snat to 127.0.0.2
                }}
            }}
        """)
        begin = self.alice.position
        number = self.first.send("im", **{"from": "romeo", "to": f"alice@{HOME}", "text": "Mine"})
        self.first.expect(event="done", id=number, status=200)
        self.alice.expect(begin, event="message", body="Mine")
        self.cut("127.0.0.2")
        self.assertLess(self.writes("romeo", "By the second", self.second), SOON)
        self.assertLess(self.writes("paris", "At once", self.second), 2.0)

    def test_in_use(self) -> None:
        """The first hop falls silent while a session runs over it: the next text goes round it."""
        self.writes("romeo", "By the first", self.first)
        self.cut("127.0.0.2")
        self.assertLess(self.writes("romeo", "By the second", self.second), SOON)
        self.assertLess(self.writes("paris", "At once", self.second), 2.0)
        self.mend()
        self.back_on_the_first()
        self.assertLess(self.writes("tybalt", "Welcome back", self.first), 2.0)
