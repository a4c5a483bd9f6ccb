"""The [web] section: off without it, and what must fit together with it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import WebConfig
from tests.config.samples import GOOD, Workshop

ADDRESS = GOOD + 'address = "federation.company.example"\n'
WEB = '\n[web]\nbind = "127.0.0.1:8443"\npublic_url = "https://federation.company.example:8443/"\n'


class WebTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.shop = Workshop(self.mktemp())

    def problems(self, text: str) -> str:
        return "\n".join(str(problem) for problem in self.shop.problems(text))

    def test_off(self) -> None:
        """Without the section there is no page."""
        self.assertIsNone(self.shop.load(GOOD).web)

    def test_on(self) -> None:
        """With it the page has the first certificate and half an hour's patience."""
        self.assertEqual(
            self.shop.load(ADDRESS + WEB).web,
            WebConfig("127.0.0.1", 8443, "https://federation.company.example:8443", "", 1800.0),
        )

    def test_incomplete(self) -> None:
        """What is missing is named, with an example."""
        found = self.problems(ADDRESS + "\n[web]\n")
        self.assertIn("bind is missing", found)
        self.assertIn("public_url is missing", found)

    def test_public_url(self) -> None:
        """The address is https, without query; the ordinary port is left out."""
        for url, wanted in (
            ("https://Fed.company.example:443", "https://fed.company.example"),
            ("https://www.company.example/a/b-c/", "https://www.company.example/a/b-c"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ):
            text = ADDRESS + WEB.replace("https://federation.company.example:8443/", url)
            self.assertEqual(self.shop.load(text).web.public_url, wanted)
        for url, hint in (
            ("http://fed.example", 'write "https://fed.example"'),
            ("fed.example", 'write "https://fed.example"'),
            ("https://fed.example/?a=b", "an address such as"),
            ("https://a:b@fed.example", "an address such as"),
            ("https://fed.example/<x>", "no plain path"),
            ("https://fed.example:x", "no port number"),
            ("https://", "an address such as"),
        ):
            text = ADDRESS + WEB.replace("https://federation.company.example:8443/", url)
            self.assertIn(hint, self.problems(text), url)

    def test_nobody_could_get_a_link(self) -> None:
        """Without an address for the node nobody could be sent a link."""
        self.assertIn("no [[home]] has an address", self.problems(GOOD + WEB))

    def test_certificate(self) -> None:
        """The certificate is one that is there, or none behind a proxy."""
        found = self.problems(ADDRESS + WEB + 'certificate = "compny"\n')
        self.assertIn('there is no certificate named "compny"', found)
        self.assertIn('"company"', found)
        web = self.shop.load(ADDRESS + WEB + 'certificate = "none"\n').web
        self.assertEqual(web.certificate, "none")
