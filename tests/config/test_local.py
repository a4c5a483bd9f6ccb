"""What a local domain has of its own towards partners."""

from __future__ import annotations

from tests.config.samples import GOOD
from tests.config.test_load import LoadCase

OWN = """
[[local_domain]]
name = "Company.example"
certificate = "company"
advertised = "sip.company.example"
"""


class LocalDomainTests(LoadCase):
    """``[[local_domain]]``."""

    def test_read(self) -> None:
        """Certificate and host are found by the domain; who asks for either by name gets the former."""
        config = self.shop.load(GOOD + OWN)
        self.assertEqual(config.certificates_by_domain, {"company.example": "company"})
        self.assertEqual(config.hosts_by_domain, {"company.example": "sip.company.example"})
        self.assertEqual(
            config.tls.asked,
            (("company.example", "company"), ("sip.company.example", "company")),
        )

    def test_not_ours(self) -> None:
        """A domain that nobody of ours hosts, above all a foreign one, has nothing of the kind."""
        problem = self.only(GOOD + OWN.replace("Company", "compani"))
        self.assertEqual(problem.key, "local_domain[1].name")
        self.assertIn('did you mean "company.example"', problem.suggestion)
        self.assertIn("no local domain", self.only(GOOD + OWN.replace("Company", "lync")).message)

    def test_certificate(self) -> None:
        """The certificate has to be there."""
        problem = self.only(GOOD + OWN.replace('"company"', '"campany"'))
        self.assertEqual(problem.key, "local_domain[1].certificate")
        self.assertIn('"company"', problem.allowed + problem.suggestion)

    def test_twice_or_empty(self) -> None:
        """One entry for a domain, and one that says something."""
        self.assertIn("local_domain[1] already", self.only(GOOD + OWN + OWN).message)
        empty = '\n[[local_domain]]\nname = "company.example"\n'
        self.assertIn("says nothing", self.only(GOOD + empty).message)
