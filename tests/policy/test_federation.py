"""Which domains are federated with over XMPP."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.policy.federation import DomainException, XmppPolicy


class PolicyTests(SynchronousTestCase):
    """The default, and what inverts it."""

    def passes(self, policy: XmppPolicy, domain: str) -> str:
        ways = (("in", True), ("out", False))
        return " ".join(name for name, way in ways if not policy.refusal(domain, way))

    def test_allow(self) -> None:
        """Everybody but the exceptions, each in its direction; a pattern covers the domain itself."""
        policy = XmppPolicy(
            True,
            [
                DomainException("a.example", "in"),
                DomainException("b.example", "out"),
                DomainException("*.c.example"),
            ],
        )
        for domain, wanted in (
            ("x.example", "in out"),
            ("a.example", "out"),
            ("sub.a.example", "in out"),
            ("b.example", "in"),
            ("c.example", ""),
            ("deep.sub.c.example", ""),
            ("notc.example", "in out"),
        ):
            self.assertEqual(self.passes(policy, domain), wanted, domain)

    def test_deny(self) -> None:
        """Nobody but the exceptions."""
        policy = XmppPolicy(
            False, [DomainException("*.a.example"), DomainException("b.example", "in")]
        )
        for domain, wanted in (
            ("x.example", ""),
            ("a.example", "in out"),
            ("sub.a.example", "in out"),
            ("b.example", "in"),
        ):
            self.assertEqual(self.passes(policy, domain), wanted, domain)
        self.assertIn("not among", policy.refusal("x.example", True))

    def test_spelling(self) -> None:
        """A name counts in either of its spellings."""
        policy = XmppPolicy(True, [DomainException("xn--bcher-kva.example")])
        self.assertEqual(self.passes(policy, "bücher.example"), "")

    def test_own_and_sip(self) -> None:
        """Our own domains and those of SIP are never federated with over XMPP; what lies under is."""
        policy = XmppPolicy(True, (), ["ours.example"], ["lync.example"])
        self.assertEqual(self.passes(policy, "ours.example"), "")
        self.assertEqual(self.passes(policy, "lync.example"), "")
        self.assertEqual(self.passes(policy, "sub.ours.example"), "in out")
        self.assertIn("over SIP", policy.refusal("lync.example", True))

    def test_memory_is_bounded(self) -> None:
        """However many domains are asked about, the answers stay right."""
        policy = XmppPolicy(True, [DomainException("a.example")])
        for number in range(10050):
            policy.refusal(f"d{number}.example", True)
        self.assertTrue(policy.refusal("a.example", True))
