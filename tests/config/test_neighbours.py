"""Other nodes of the organisation, and upstreams that are believed."""

from __future__ import annotations

from pathlib import Path

from tests.config.samples import GOOD
from tests.config.test_load import LoadCase

NODE2 = """
[[neighbour]]
name = "node2"
domains = ["second.example"]
address = "10.0.0.2:5062"
tls_name = "node2.company.example"
"""
UPSTREAM = '\n[node]\ntrusted_upstreams = ["{}"]\n'


class NeighbourTests(LoadCase):
    """``[[neighbour]]`` and ``trusted_upstreams``."""

    def test_read(self) -> None:
        """What the file says is in the model; what it leaves out has its default."""
        config = self.shop.load(GOOD + NODE2 + UPSTREAM.format("Edge.company.example"))
        (node2,) = config.neighbours
        self.assertEqual((node2.host, node2.port), ("10.0.0.2", 5062))
        self.assertEqual((node2.peer_names, node2.advertised), ((), ()))
        self.assertEqual(config.node.trusted_upstreams, ("edge.company.example",))

    def test_domains(self) -> None:
        """A neighbour's domains belong to the organisation, but are not at home here."""
        config = self.shop.load(GOOD + NODE2)
        self.assertEqual(config.local_domains, {"company.example"})
        self.assertEqual(config.own_domains, {"company.example", "second.example"})

    def test_xmpp(self) -> None:
        """What foreign XMPP servers send here for another cluster is passed on, if there is such a thing."""
        way = NODE2 + 'xmpp = ["10.0.0.2:5269", "10.0.0.4:5269"]\n'
        (node2,) = self.shop.load(GOOD + way + "[s2s]\n").neighbours
        self.assertEqual(node2.xmpp, (("10.0.0.2", 5269), ("10.0.0.4", 5269)))
        self.assertIn("add [s2s]", str(self.only(GOOD + way)))
        member = way.replace('domains = ["second.example"]\n', "")
        self.assertIn("add domains", str(self.only(GOOD + member + "[s2s]\n")))

    def test_no_domains(self) -> None:
        """A node that hosts nothing of its own is a neighbour for what belongs to its dialogs."""
        (node2,) = self.shop.load(
            GOOD + NODE2.replace('domains = ["second.example"]\n', "")
        ).neighbours
        self.assertEqual((node2.name, node2.domains), ("node2", ()))

    def test_no_home(self) -> None:
        """A node that only routes needs no home server."""
        text = GOOD[: GOOD.index("[[home]]")] + NODE2
        self.assertEqual(self.shop.load(text).homes, ())

    def test_two_places(self) -> None:
        """A neighbour's domain is hosted nowhere else and is not foreign."""
        cases = {"company.example": "home[1]", "lync.example": "[[domain]]"}
        for domain, word in cases.items():
            problem = self.only(GOOD + NODE2.replace("second.example", domain))
            self.assertEqual(problem.key, "neighbour[1].domains")
            self.assertIn(word, problem.message)

    def test_addresses(self) -> None:
        """A neighbour at our own address, or two at one, would be a circle or a mix-up."""
        problem = self.only(GOOD + NODE2.replace("10.0.0.2:5062", "127.0.0.1:5061"))
        self.assertIn("listener[1]", problem.message)
        third = NODE2.replace("node2", "node3").replace("second", "third")
        problem = self.only(GOOD + NODE2 + third)
        self.assertEqual(problem.key, "neighbour[2].address")

    def test_a_partners_name(self) -> None:
        """A name that a partner's certificate may carry is neither a node's nor an upstream's."""
        problem = self.only(GOOD + NODE2.replace("node2.company.example", "sip.lync.example"))
        self.assertEqual(problem.key, "neighbour[1].tls_name")
        problem = self.only(GOOD + UPSTREAM.format("sip.lync.example"))
        self.assertEqual(problem.key, "node.trusted_upstreams")

    def test_tls(self) -> None:
        """An address without a name, and a node without TLS, cannot prove anything."""
        problem = self.only(GOOD + NODE2.replace('tls_name = "node2.company.example"\n', ""))
        self.assertIn("tls_name", problem.allowed + problem.suggestion)
        text = GOOD.replace('transport = "tls"', 'transport = "tcp"').replace(
            ':5061" }', ':5061", transport = "tcp" }'
        )
        self.assertIn("over TLS", self.only(text + NODE2).message)

    def test_several_addresses(self) -> None:
        """A neighbour may have more addresses; they are as little another node's as the first."""
        more = NODE2 + 'fallback = ["10.0.0.3:5062"]\ncheck_interval = "0s"\n'
        (node2,) = self.shop.load(GOOD + more).neighbours
        self.assertEqual(node2.addresses, (("10.0.0.2", 5062), ("10.0.0.3", 5062)))
        self.assertEqual(
            (node2.certificate_names, node2.check_interval), (("node2.company.example",), 0)
        )
        problem = self.only(GOOD + more.replace("10.0.0.3:5062", "127.0.0.1:5061"))
        self.assertEqual(problem.key, "neighbour[1].fallback")
        named = more.replace("10.0.0.2:", "node2.company.example:")
        problem = self.only(GOOD + named.replace('tls_name = "node2.company.example"\n', ""))
        self.assertEqual(problem.key, "neighbour[1].fallback")
        self.assertIn("IP address", problem.message)

    def test_relay_secret(self) -> None:
        """The secret comes from a file, is long enough, and no node has the name of another."""
        (self.shop.path.parent / "relay").write_text("0123456789abcdef0123\nnot this\n")
        node = '\n[node]\nrelay_secret_file = "relay"\nrelay_lifetime = "2h"\n'
        read = self.shop.load(GOOD + NODE2 + node).node
        self.assertEqual((read.relay_secret, read.relay_lifetime), ("0123456789abcdef0123", 7200.0))
        self.assertNotIn("0123456789", repr(read))
        problem = self.only(GOOD + NODE2 + '\n[node]\nrelay_secret = "short"\n')
        self.assertIn("can be guessed", problem.message)
        self.assertNotIn("short", problem.message)
        problem = self.only(GOOD + NODE2 + node + 'name = "node2"\n')
        self.assertEqual(problem.key, "neighbour[1].name")
        self.assertEqual(self.only(GOOD + "\n[node]\nrelay_secret = 5\n").key, "node.relay_secret")

    def test_shared_contact(self) -> None:
        """One Contact for all nodes needs what leads to the right one: tokens, and neighbours."""
        shared = GOOD.replace(
            'transport = "tls"\n',
            'transport = "tls"\ncontact = "federation.company.example:5061"\n',
            1,
        )
        node = '\n[node]\nrelay_secret = "0123456789abcdef0123"\n'
        (listener,) = self.shop.load(shared + NODE2 + node).listeners
        told = (listener.contact_host, listener.contact_port)
        self.assertEqual(told, ("federation.company.example", 5061))
        for text, word in ((shared + NODE2, "relay_secret_file"), (shared + node, "[[neighbour]]")):
            problem = self.only(text)
            self.assertEqual(problem.key, "listener[1].contact")
            self.assertIn(word, problem.suggestion)

    def test_routes(self) -> None:
        """No static route leads to a neighbour's domain."""
        route = '\n[[route]]\npattern = "second.example"\naddress = "sip.lync.example:5061"\n'
        self.assertEqual(self.only(GOOD + NODE2 + route).key, "route[1].pattern")

    def test_documentation(self) -> None:
        """The two nodes of the documentation are configured rightly, and know each other."""
        page = Path(__file__).parents[2] / "docs" / "topologies.md"
        blocks = [each.partition("```")[0] for each in page.read_text().split("```toml\n")[1:]]
        blocks = [each for each in blocks if "[[listener]]" in each and "[[neighbour]]" in each]
        self.assertEqual(len(blocks), 2)
        rest = GOOD[: GOOD.index("[[listener]]")] + GOOD[GOOD.index("[[domain]]") :]
        first = self.shop.load(blocks[0] + rest)
        second = self.shop.load(blocks[1] + rest.replace("company.example", "second.example"))
        for one, other in ((first, second), (second, first)):
            (told,), (listener,) = one.neighbours, other.listeners
            self.assertEqual(told.domains, tuple(other.local_domains))
            self.assertEqual((told.host, told.port), (listener.host, listener.port))
            advertised = (listener.advertised_host, listener.advertised_port)
            self.assertEqual(told.advertised, (advertised,))
        self.assertEqual(second.node.trusted_upstreams, (second.neighbours[0].tls_name,))
