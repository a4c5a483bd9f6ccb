"""Which certificate may speak for which foreign domain (SPEC section 8)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import NextHopConfig, SipDomainConfig
from impfed.policy.peers import PeerPolicy

LYNC = SipDomainConfig("lync.example", next_hop=NextHopConfig("edge.hoster.example"))
O365 = SipDomainConfig("cloud.example", kind="office365")
PLAIN = SipDomainConfig(
    "plain.example", kind="simple", next_hop=NextHopConfig("192.0.2.7", 5060, "tcp")
)


class PeerPolicyTests(SynchronousTestCase):
    """A connection speaks for a domain only with a name that the domain stands behind."""

    def setUp(self) -> None:
        self.policy = PeerPolicy([LYNC, O365, PLAIN])

    def refusal(self, domain, *names, proven=True, transport="tls", address="198.51.100.1"):
        return self.policy.may_speak_for(domain, frozenset(names), proven, transport, address)

    def test_accepted_names(self) -> None:
        """The domain, a name directly under it and the static next hop are accepted."""
        for name in ("lync.example", "sip.lync.example", "edge.hoster.example"):
            self.assertIsNone(self.refusal("lync.example", "other.example", name), name)

    def test_refused_names(self) -> None:
        """Names two levels below, siblings, parents and look-alikes are refused."""
        for name in ("a.b.lync.example", "example", "evillync.example", "lync.example.evil"):
            self.assertIsNotNone(self.refusal("lync.example", name), name)

    def test_another_federated_domain_is_nobodys_host(self) -> None:
        """A partner under another partner's domain does not speak for that one, nor the reverse."""
        below = SipDomainConfig("branch.lync.example", next_hop=NextHopConfig("sip.branch.example"))
        self.policy = PeerPolicy([LYNC, below])
        self.assertIsNotNone(self.refusal("lync.example", "branch.lync.example"))
        self.assertIsNotNone(self.refusal("branch.lync.example", "lync.example"))
        self.assertIsNone(self.refusal("branch.lync.example", "branch.lync.example"))

    def test_refusal_says_what_was_expected_and_found(self) -> None:
        """The operator reads which names were expected and which the certificate carried."""
        refusal = self.refusal("lync.example", "mallory.example")
        self.assertIn("edge.hoster.example", refusal.expected)
        self.assertIn("HOST.lync.example", refusal.expected)
        self.assertEqual(refusal.found, ("mallory.example",))

    def test_unproven_names_count_for_nothing(self) -> None:
        """A name that mutual TLS has not verified opens no domain."""
        self.assertIsNotNone(self.refusal("lync.example", "lync.example", proven=False))

    def test_unknown_domain(self) -> None:
        """A domain that is not configured is refused whatever it shows."""
        self.assertIsNotNone(self.refusal("else.example", "else.example"))

    def test_office365_shared_edges(self) -> None:
        """Microsoft's shared edges speak for office365 domains, and for no other kind."""
        self.assertIsNone(self.refusal("cloud.example", "sipfed.online.lync.com"))
        self.assertIsNotNone(self.refusal("lync.example", "sipfed.online.lync.com"))

    def test_without_tls_only_the_next_hops_address(self) -> None:
        """Over TCP a domain is believed only from the address of its own unencrypted next hop."""
        self.assertIsNone(self.refusal("plain.example", transport="tcp", address="192.0.2.7"))
        self.assertIsNotNone(self.refusal("plain.example", transport="tcp", address="192.0.2.8"))
        self.assertIsNotNone(self.refusal("lync.example", transport="tcp", address="192.0.2.7"))

    def test_trusted_upstream(self) -> None:
        """A trusted upstream speaks for every configured domain, over TLS and proven; no other."""
        policy = PeerPolicy([LYNC, PLAIN], ["edge.company.example"])
        names = frozenset({"edge.company.example"})
        address = "10.0.0.1"
        self.assertIsNone(policy.may_speak_for("lync.example", names, True, "tls", address))
        for domain, proven, transport in (
            ("lync.example", False, "tls"),
            ("lync.example", True, "tcp"),
            ("else.example", True, "tls"),
        ):
            refusal = policy.may_speak_for(domain, names, proven, transport, address)
            self.assertIsNotNone(refusal, (domain, proven, transport))
        self.assertIn("edge.company.example", policy.expected("lync.example"))

    def test_servers_of_configured_domains(self) -> None:
        """A host that a configured domain's server may be called is known, any other is not."""
        for host in ("lync.example", "sip.lync.example", "edge.hoster.example", "192.0.2.7",
                     "sipfed.online.lync.com"):  # fmt: skip
            self.assertTrue(self.policy.reaches(host), host)
        for host in ("a.b.lync.example", "victim.example", "online.lync.com", "example"):
            self.assertFalse(self.policy.reaches(host), host)
