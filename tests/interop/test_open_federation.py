"""A node with open federation, and a far side that nobody has configured."""

from __future__ import annotations

import shutil

from twisted.trial.unittest import SynchronousTestCase

from demo.certificates import Authority, Certificate
from demo.far import far_side
from demo.home import Prosody, xmpp_user
from demo.node import Node
from demo.parts import Talker, free_ports
from tests.interop.control import operator
from tests.interop.scene import FOREIGN, HOME, RUN


class OpenFederationTests(SynchronousTestCase):
    """Prosody, a node whose only way out is the route ``.*``, and an edge at the end of it."""

    def setUp(self) -> None:
        self.directory = directory = RUN / "open-federation"
        shutil.rmtree(directory, ignore_errors=True)
        self.authority = Authority(directory / "pki", "interop CA")
        node_port, self.port = free_ports(2)
        home = Prosody(directory / "prosody", module=f"federation.{HOME}")
        self.node = Node(
            directory / "node", home, self.authority.issue(f"fed.{HOME}", HOME), node_port,
            ("127.0.0.1", 9), foreign="configured.example",
            extra=f'[open_federation]\nenabled = true\n\n[[route]]\npattern = ".*"\n'
            f'address = "127.0.0.1:{self.port}"\ntls_name = "sip.{FOREIGN}"\n',
        )  # fmt: skip
        for part in (home, self.node):
            self.addCleanup(part.stop)
        home.start()
        self.node.start()
        self.alice = xmpp_user(directory, home, "alice")
        self.addCleanup(self.alice.stop)

    def edge(self, certificate: Certificate) -> Talker:
        """Start the far side."""
        far = far_side(
            self.directory, certificate, f"127.0.0.1:{self.port}",
            (f"127.0.0.1:{self.node.port}", f"fed.{HOME}"), ["romeo"], delay=0.0,
        )  # fmt: skip
        self.addCleanup(far.stop)
        return far

    def operator(self, *words: str) -> str:
        """Run impfedctl; return what it says."""
        return operator(self.node.socket, *words)

    def far_does(self, far: Talker, wanted: int, text: str) -> None:
        """Let romeo write to alice; the answer must have the wanted status."""
        since = far.position
        details = {"from": "romeo", "to": f"alice@{HOME}", "text": text}
        number = far.send("im", **details)
        self.assertEqual(far.expect(since, 30, event="done", id=number)["status"], wanted)

    def test_outwards(self) -> None:
        """A text finds an unknown domain by the route .*, the answer comes back; both are remembered."""
        far = self.edge(self.authority.issue(f"sip.{FOREIGN}", FOREIGN))
        since = far.position
        self.alice.send("message", to=f"romeo@{FOREIGN}", body="Who are you?")
        far.expect(since, event="im", sender=f"alice@{HOME}", text="Who are you?")
        begin = self.alice.position
        self.far_does(far, 200, "A stranger")
        self.alice.expect(begin, event="message", body="A stranger", sender=f"romeo@{FOREIGN}")
        learned = self.operator("learned")
        self.assertRegex(learned, rf"{FOREIGN} +sip .*(yes|True)")
        self.assertIn("18", self.operator("budget", FOREIGN))
        self.assertIn("is forgotten", self.operator("forget", FOREIGN))
        self.assertNotIn(FOREIGN, self.operator("learned"))

    def test_inwards(self) -> None:
        """A stranger whose certificate proves his domain is let in, and answered."""
        far = self.edge(self.authority.issue(f"sip.{FOREIGN}", FOREIGN))
        begin = self.alice.position
        self.far_does(far, 200, "May I come in?")
        self.alice.expect(begin, event="message", body="May I come in?", sender=f"romeo@{FOREIGN}")
        since = far.position
        self.alice.send("message", to=f"romeo@{FOREIGN}", body="You may")
        far.expect(since, event="im", sender=f"alice@{HOME}", text="You may")
        self.assertRegex(self.operator("learned"), rf"{FOREIGN} +sip")

    def test_not_proven(self) -> None:
        """One whose certificate only proves a host in the domain is refused, and the log says why."""
        far = self.edge(self.authority.issue(f"sip.{FOREIGN}"))
        self.far_does(far, 403, "Let me in")
        log = (self.node.directory / "node.log").read_text()
        self.assertIn("does not prove exactly that domain", log)
        self.assertIn("no learned domains", self.operator("learned"))
