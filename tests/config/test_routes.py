"""Routes, DNS, plugins and directories in the configuration."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.patterns import Breadth, parse_pattern
from impfed.config.problems import Unsuitable
from tests.config.samples import GOOD
from tests.config.test_load import LoadCase

ROUTE = '\n[[route]]\npattern = "{}"\naddress = "{}"\n'


class PatternTests(SynchronousTestCase):
    """Patterns of static routes."""

    def test_what_they_cover(self) -> None:
        """A reversed domain covers itself and what lies under it, a plain one only itself."""
        cases = {
            ".com.domaina.*": (
                ["x@domaina.com", "x@a.b.domaina.com"],
                ["x@domainb.com", "x@notdomaina.com", "x@com", "x@domaina.com.evil"],
            ),
            "domaina.com": (["x@domaina.com"], ["x@sub.domaina.com", "x@com"]),
            ".*": (["x@domaina.com", "x@y"], []),
            "sales-*@domaina.com": (
                ["sales-1@domaina.com", "sales-@domaina.com"],
                ["sales@domaina.com", "xsales-1@domaina.com", "sales-1@sub.domaina.com"],
            ),
            "bob@.com.domaina.*": (["bob@sub.domaina.com"], ["bobby@sub.domaina.com"]),
            "a.c*@domaina.com": (["a.cd@domaina.com"], ["abcd@domaina.com"]),
            "*@domaina.com": (["x@domaina.com"], ["x@sub.domaina.com"]),
        }
        for text, (inside, outside) in cases.items():
            pattern = parse_pattern(text)
            for address in inside:
                self.assertTrue(pattern.covers(*address.split("@")), (text, address))
            for address in outside:
                self.assertFalse(pattern.covers(*address.split("@")), (text, address))

    def test_corrections(self) -> None:
        """A pattern that is not reversed, or half written, comes with the right spelling."""
        cases = {
            ".domaina.com.*": '".com.domaina.*"',
            "domaina.com.*": '".com.domaina.*"',
            "*.domaina.com": '".com.domaina.*"',
            "com.domaina.*": '".com.domaina.*"',
            ".com.domaina": '".com.domaina.*"',
            ".domaina.com": '".com.domaina.*"',
            ".sub.domaina.co.uk.*": '".uk.co.domaina.sub.*"',
            ".Lync.Example.*": '".example.lync.*"',
            "bob@.domaina.com.*": '"bob@.com.domaina.*"',
            "*": '".*"',
        }
        for text, right in cases.items():
            problem = self.assertRaises(Unsuitable, parse_pattern, text)
            self.assertEqual(problem.suggestion, f"write {right}", text)
            self.assertEqual(str(parse_pattern(right.strip('"'))), right.strip('"'))

    def test_nonsense(self) -> None:
        """What is no pattern at all is refused."""
        for text in ("", ".", "..", "a..b", "-a.com", ".com.do*main.*", "@domaina.com", "a b@c.com",
                     "a@b@c.com", "dömäin.com", ".com..a.*"):  # fmt: skip
            self.assertRaises(Unsuitable, parse_pattern, text)

    def test_narrower_patterns_rank_first(self) -> None:
        """Users come before domains, exact before reversed, longer before shorter, ``.*`` last."""
        texts = ["bob-*@a.com", "*b@.com.a.*", "b.a.com", ".com.a.b.*", ".com.*", ".*"]
        patterns = [parse_pattern(text) for text in texts]
        self.assertEqual(sorted({*patterns}, key=lambda each: each.rank), patterns)
        self.assertEqual(patterns[-1].breadth, Breadth.ALL)


class RouteTests(LoadCase):
    """The ``[[route]]`` tables."""

    def test_values(self) -> None:
        """A route is read with its defaults, and everything can be said."""
        config = self.shop.load(
            GOOD
            + ROUTE.format(".com.domaina.*", "sip.domaina.com:5061")
            + '\n[[route]]\npattern = "spam@domaina.com"\nblock = true\n'
            + '\n[[route]]\nplugin = "acme"\norder = 50\nsettings = { file = "x" }\n'
        )
        first, second, third = config.routes
        self.assertEqual(
            (str(first.pattern), first.host, first.port, first.transport, first.priority),
            (".com.domaina.*", "sip.domaina.com", 5061, "tls", 1),
        )
        self.assertTrue(first.in_service and second.block)
        self.assertEqual((third.plugin, third.order, third.settings), ("acme", 50, {"file": "x"}))

    def test_unreversed(self) -> None:
        """An unreversed pattern is reported with key, line and the corrected spelling."""
        problem = self.only(GOOD + ROUTE.format(".domaina.com.*", "sip.domaina.com:5061"))
        self.assertEqual((problem.key, problem.line), ("route[1].pattern", 25))
        self.assertEqual(problem.suggestion, 'write ".com.domaina.*"')

    def test_unreversed_by_the_domains(self) -> None:
        """Where the name alone does not tell, a configured domain that fits backwards does."""
        text = GOOD.replace('"lync.example"', '"lync.acme"')
        problem = self.only(text + ROUTE.format(".lync.acme.*", "sip.lync.acme:5061"))
        self.assertIn('"lync.acme" stands among the domains', problem.message)
        self.assertEqual(problem.suggestion, 'write ".acme.lync.*"')
        self.shop.load(text + ROUTE.format(".acme.lync.*", "sip.lync.acme:5061"))

    def test_incomplete(self) -> None:
        """A route needs a pattern or a plugin, and a next hop unless it blocks."""
        self.assertIn("pattern, or plugin", self.only(GOOD + "\n[[route]]\n").allowed)
        problem = self.only(GOOD + '\n[[route]]\npattern = "a.com"\n')
        self.assertIn("address is missing", problem.message)

    def test_contradictions(self) -> None:
        """Keys that do not belong together are named."""
        cases = {
            "route[1].address": '[[route]]\npattern = "a.com"\nblock = true\naddress = "x.com:1"\n',
            "route[1].pattern": '[[route]]\nplugin = "acme"\npattern = "a.com"\n',
            "route[1].order": '[[route]]\npattern = "a.com"\naddress = "x.com:1"\norder = 3\n',
            "route[1].transport": '[[route]]\npattern = "a.com"\naddress = "x.com:1"\n'
            'transport = "tcp"\n',
            "route[1].client_certificate": '[[route]]\npattern = "a.com"\naddress = "x.com:1"\n'
            'client_certificate = "compny"\n',
            "route[2]": '[[route]]\npattern = "a.com"\naddress = "x.com:1"\n' * 2,
        }
        for key, text in cases.items():
            self.assertEqual(self.only(GOOD + "\n" + text).key, key)

    def test_local_domain(self) -> None:
        """A local domain has no route; one under it may have."""
        problem = self.only(GOOD + ROUTE.format("company.example", "sip.x.com:5061"))
        self.assertIn("local domain", problem.message)
        self.shop.load(GOOD + ROUTE.format("foreign.company.example", "sip.x.com:5061"))

    def test_back_to_ourselves(self) -> None:
        """A next hop that is one of our own listeners would be a circle."""
        problem = self.only(
            GOOD + ROUTE.format("a.com", "127.0.0.1:5061") + 'tls_name = "sip.a.com"\n'
        )
        self.assertIn("this node itself (listener[1].bind)", problem.message)

    def test_address_without_a_name(self) -> None:
        """Over TLS an IP address needs the name that the certificate is checked against."""
        problem = self.only(GOOD + ROUTE.format("a.com", "192.0.2.1:5061"))
        self.assertEqual(problem.allowed, "tls_name beside it")


class OtherSectionTests(LoadCase):
    """``[dns]``, ``[open_federation]``, ``[plugins]`` and ``[[ldap]]``."""

    def test_dns_servers(self) -> None:
        """Name servers are addresses, with port 53 unless another is given."""
        config = self.shop.load(
            GOOD + '\n[dns]\nservers = ["192.0.2.53", "[2001:db8::53]:5353", "2001:db8::1"]\n'
        )
        self.assertEqual(
            config.dns.servers, (("192.0.2.53", 53), ("2001:db8::53", 5353), ("2001:db8::1", 53))
        )
        problem = self.only(GOOD + '\n[dns]\nservers = ["dns.example:53"]\n')
        self.assertIn("by its address", problem.message)

    def test_off_by_default(self) -> None:
        """Open federation is off unless the file says otherwise."""
        self.assertFalse(self.shop.load(GOOD).open_federation.enabled)
        problem = self.only(GOOD + '\n[open_federation]\nenabled = "yes"\n')
        self.assertEqual(problem.suggestion, "write true without quotes")

    def test_ldap(self) -> None:
        """A directory is read, and a filter that cannot work is refused."""
        ldap = '\n[[ldap]]\nname = "people"\nurl = "ldap://127.0.0.1:389"\nbase = "dc=x"\n'
        self.assertEqual(self.shop.load(GOOD + ldap).ldap[0].filter, "(mail={address})")
        cases = {
            'filter = "(mail={adress})"\n': "is not known",
            'filter = "(objectClass=person)"\n': "whom to look for",
            'filter = "(mail={address}"\n': "parentheses",
            'bind_dn = "cn=x"\n': "belong together",
        }
        for line, words in cases.items():
            problems = [self.only(GOOD + ldap + line)]
            self.assertIn(words, " ".join(each.message for each in problems), line)
