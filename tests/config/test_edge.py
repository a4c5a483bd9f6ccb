"""The edge's configuration: what it may say, and everything that does not fit together."""

from __future__ import annotations

from pathlib import Path

from impfed.config.edge import EdgeConfig, EdgeLimitsConfig, EdgeTargetConfig
from tests.config.samples import CERTIFICATE, KEY
from tests.config.test_load import LoadCase

ROOT = Path(__file__).parents[2]

EDGE = """\
[tls]
ca = "ca.pem"

[[tls.certificate]]
name = "company"
certificate = "node.pem"
key = "node.key"

[[listener]]
name = "internet"
side = "outside"
transport = "tls"
bind = "203.0.113.10:5061"

[[listener]]
name = "nodes"
side = "inside"
transport = "tls"
bind = "10.0.0.254:5061"

[edge]
domains = ["company.example"]

[[edge.target]]
name = "node1"
address = "10.0.0.1:5062"
tls_name = "node1.inside.example"

[[edge.port]]
public = "203.0.113.10:45062"
target = "node1"

[[domain]]
name = "lync.example"
next_hop = { address = "sip.lync.example:5061" }
"""

TARGET2 = """
[[edge.target]]
name = "node2"
address = "10.0.0.2:5062"
tls_name = "node2.inside.example"
"""

# What is replaced in the good text, by what; the key of the only problem, and a word of it.
BROKEN = {
    "two roles": ("[edge]", "[web]\nbind = '[::]:1'\n[edge]", None, "no users"),
    "a local domain that is foreign": (
        '["company.example"]', '["lync.example"]', "edge.domains", "either ours or foreign"),
    "no side": ('side = "inside"\n', "", "listener[2]", "side is missing"),
    "no inside": ('side = "inside"', 'side = "outside"', None, 'side = "inside"'),
    "no outside": ('side = "outside"', 'side = "inside"', None, 'side = "outside"'),
    "nodes without certificates": (
        'side = "inside"', 'side = "inside"\nclient_certificates = "none"',
        "listener[2].client_certificates", "known by their certificates"),
    "an unknown certificate": (
        '["company.example"]', '["company.example"]\ncertificate = "compony"',
        "edge.certificate", "compony"),
    "an unknown certificate of a listener": (
        'side = "outside"', 'side = "outside"\ncertificate = "compony"',
        "listener[1].certificate", "compony"),
    "a name that a partner may carry": (
        "node1.inside.example", "sip.lync.example", "edge.target[1].tls_name", "lync.example"),
    "an address without a name": (
        'tls_name = "node1.inside.example"\n', "", "edge.target[1].address", "RFC 5922"),
    "a target that is the edge": (
        "10.0.0.1:5062", "10.0.0.254:5061", "edge.target[1].address", "this edge itself"),
    "a name without TLS": (
        'tls_name = "node1', 'transport = "tcp"\ntls_name = "node1', None, "no TLS over tcp"),
    "nobody for new requests": (
        'tls_name = "node1.inside.example"',
        'tls_name = "node1.inside.example"\nnew_requests = false', "edge", "nobody inside"),
    "a port of nobody": (
        'target = "node1"', 'target = "node7"', "edge.port[1].target", "node7"),
    "a port that is the edge's own": (
        'public = "203.0.113.10:45062"', 'public = "203.0.113.10:5061"',
        "edge.port[1].public", "the edge's own"),
    "a port that is bound": (
        'target = "node1"', 'target = "node1"\nbind = "10.0.0.254:5061"',
        "edge.port[1].bind", "bound by listener"),
    "a partner over an inside transport": (
        '"sip.lync.example:5061"', '"sip.lync.example:5061", transport = "tcp"',
        "domain[1].next_hop.transport", "tcp"),
    "limits that are none": (
        '["company.example"]', '["company.example"]\nlimits = 5', "edge.limits", "[edge.limits]"),
    "a misspelt key": (
        '["company.example"]', '["company.example"]\nconections = 3', "edge.conections",
        "no such key"),
}  # fmt: skip


class EdgeTests(LoadCase):
    """``[edge]`` and what belongs to it."""

    def test_sample(self) -> None:
        """The documented sample is right, and spells out the program's defaults."""
        for name, text in (
            ("tls/ca.pem", CERTIFICATE),
            ("tls/company.example.pem", CERTIFICATE),
            ("tls/company.example.key", KEY),
            ("tls/edge.inside.pem", CERTIFICATE),
            ("tls/edge.inside.key", KEY),
        ):
            self.shop.put(name, text)
        edge = self.shop.load((ROOT / "etc" / "impfed-edge.toml").read_text("utf-8")).edge
        assert edge is not None
        defaults = EdgeConfig()
        for name in ("connections", "check_interval", "check_timeout", "check_falls"):
            self.assertEqual(getattr(edge, name), getattr(defaults, name), name)
        self.assertEqual(edge.limits, EdgeLimitsConfig())
        self.assertEqual([target.new_requests for target in edge.targets], [True, False])
        self.assertEqual((edge.ports[1].public_port, edge.ports[1].inner_host), (45062, "10.0.0.2"))

    def test_documentation(self) -> None:
        """The pieces of the operators' page make a right edge and a right node."""
        page = (ROOT / "docs" / "edge.md").read_text("utf-8")
        edge, node, port = [each.partition("```")[0] for each in page.split("```toml\n")[1:]]
        tls = EDGE[: EDGE.index("[[listener]]")].replace('name = "company"', 'name = "inside"')
        port = port.replace('target = "node2"', 'target = "node1"')
        self.assertIsNotNone(self.shop.load(tls + edge + port).edge)
        home = '\n[[home]]\nname = "h"\nkind = "component"\ndomains = ["company.example"]\n'
        config = self.shop.load(tls + node + home + 'secret = "sixteen letters or more"\n')
        self.assertEqual(config.node.trusted_upstreams, ("edge.inside.example",))

    def test_an_edge_has_nobody_at_home(self) -> None:
        """It needs no [[home]]; the domains behind it are the organisation's, not its own."""
        config = self.shop.load(EDGE)
        self.assertEqual(config.local_domains, frozenset())
        self.assertEqual(config.own_domains, {"company.example"})
        assert config.edge is not None
        self.assertEqual(
            config.edge.targets,
            (EdgeTargetConfig("node1", "10.0.0.1", 5062, tls_name="node1.inside.example"),),
        )

    def test_problems(self) -> None:
        """Everything that does not fit is reported where it stands, in words."""
        for name, (old, new, key, word) in BROKEN.items():
            self.assertIn(old, EDGE, name)
            problems = self.shop.problems(EDGE.replace(old, new))
            found = [str(problem) for problem in problems]
            self.assertTrue(any(word in text for text in found), (name, found))
            if key is not None:
                self.assertEqual([problem.key for problem in problems], [key], (name, found))

    def test_the_same_twice(self) -> None:
        """Two targets of one name, two lines for one public or one inner address."""
        twice = self.only(EDGE + TARGET2.replace("node2", "node1"))
        self.assertEqual(twice.key, "edge.target[2].name")
        line = '\n[[edge.port]]\npublic = "203.0.113.10:{}"\ntarget = "node2"\ninner = "{}"\n'
        cases = {
            (45062, "10.0.0.2:1"): "edge.port[2].public",
            (55062, "10.0.0.1:5062"): "edge.port[2].inner",
        }
        for addresses, key in cases.items():
            self.assertEqual(self.only(EDGE + TARGET2 + line.format(*addresses)).key, key)
        good = EDGE + TARGET2 + line.format(55062, "10.0.0.2:5062")
        self.assertEqual(self.shop.problems(good), [])

    def test_inside_without_tls(self) -> None:
        """Without TLS a machine has an IP address, and there is an inside listener for it."""
        plain = '[[listener]]\nname = "p"\nside = "inside"\ntransport = "{}"\nbind = "10.0.0.254:5060"\n'
        target = TARGET2.replace('tls_name = "node2.inside.example"', 'transport = "tcp"')
        self.assertEqual(self.shop.problems(EDGE + plain.format("tcp") + target), [])
        self.assertEqual(self.only(EDGE + target).key, "edge.target[2].transport")
        udp = self.only(EDGE + plain.format("udp"))
        self.assertIn("TLS or TCP only", udp.message)
        named = target.replace("10.0.0.2", "node2.inside.example")
        self.assertEqual(
            self.only(EDGE + plain.format("tcp") + named).key, "edge.target[2].address"
        )

    def test_what_an_edge_has_not(self) -> None:
        """Sections that mean nothing here are told of, each with the reason."""
        for name in ("s2s", "store", "open_federation"):
            problems = self.shop.problems(f"{EDGE}\n[{name}]\n")
            found = [problem.message for problem in problems if problem.key == name]
            self.assertTrue(any("edge" in text for text in found), (name, found))

    def test_sides_without_an_edge(self) -> None:
        """A listener of a node has no side."""
        text = EDGE[: EDGE.index("[edge]")] + EDGE[EDGE.index("[[domain]]") :]
        home = '\n[[home]]\nname = "h"\nkind = "component"\ndomains = ["company.example"]\n'
        problems = self.shop.problems(text + home + 'secret = "sixteen letters or more"\n')
        self.assertEqual(
            [problem.key for problem in problems], ["listener[1].side", "listener[2].side"]
        )
