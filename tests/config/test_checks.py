"""What sections must say together."""

from __future__ import annotations

from tests.config.samples import GOOD
from tests.config.test_load import LoadCase

SECOND_HOME = '\n[[home]]\nname = "ejabberd"\nkind = "component"\nsecret = "x"\n'


class DomainTests(LoadCase):
    """Domains belong to one side and one server."""

    def test_local_and_foreign(self) -> None:
        """A domain on both sides is refused, naming it and both places."""
        problem = self.replaced('"lync.example"', '"Company.example"')
        self.assertEqual((problem.key, problem.line), ("domain[1].name", 15))
        self.assertIn('"company.example"', problem.message)
        self.assertIn("home[1].domains", problem.message)

    def test_subdomain_is_another_domain(self) -> None:
        """A subdomain of a local domain may be foreign: matching is exact."""
        self.shop.load(GOOD.replace('"lync.example"', '"foreign.company.example"'))

    def test_two_homes_for_one_domain(self) -> None:
        """A local domain hosted twice is refused, with the first place."""
        problem = self.only(GOOD + SECOND_HOME + 'domains = ["b.example", "company.example"]\n')
        self.assertEqual(problem.key, "home[2].domains")
        self.assertIn("home[1]", problem.message)

    def test_component_address_of_its_own(self) -> None:
        """The component's own domain is neither local nor foreign."""
        for taken, kind in (("company.example", "local"), ("lync.example", "foreign")):
            text = GOOD.replace('"component"', f'"prosody"\naddress = "{taken}"')
            self.assertIn(f"a {kind} domain", self.only(text).message)

    def test_prosody_needs_an_address(self) -> None:
        """Kind prosody without an address is refused."""
        problem = self.replaced('"component"', '"prosody"')
        self.assertIn("address", problem.message)


class NameTests(LoadCase):
    """Names are used once and refer to something."""

    def test_duplicates(self) -> None:
        """A second section of one name is refused, wherever names are given."""
        cases = {
            "tls.certificate[2].name": '[[tls.certificate]]\nname = "company"\n'
            'certificate = "node.pem"\nkey = "node.key"\n',
            "listener[2].name": '[[listener]]\nname = "federation"\ntransport = "tcp"\n'
            'bind = "127.0.0.1:5060"\n',
            "domain[2].name": '[[domain]]\nname = "LYNC.example"\n',
            "home[2].name": SECOND_HOME.replace("ejabberd", "prosody")
            + 'domains = ["b.example"]\n',
        }
        for key, text in cases.items():
            problem = self.only(GOOD + text)
            self.assertEqual(problem.key, key)
            self.assertIn(key.replace("2].name", "1]"), problem.message)

    def test_one_port_for_two_listeners(self) -> None:
        """Two listeners on one address and port are refused; TCP and UDP do not collide."""
        second = '[[listener]]\nname = "second"\ntransport = "{}"\nbind = "127.0.0.1:5061"\n'
        self.assertIn("listener[1]", self.only(GOOD + second.format("tcp")).message)
        self.shop.load(GOOD + second.format("udp"))

    def test_unknown_client_certificate(self) -> None:
        """A certificate that nobody defined is refused, with the ones there are."""
        problem = self.replaced(
            'name = "lync.example"', 'name = "lync.example"\nclient_certificate = "compny"'
        )
        self.assertEqual(problem.allowed, '"company", "none"')
        self.assertEqual(problem.suggestion, 'did you mean "company"?')

    def test_wildcard_peer_name(self) -> None:
        """A wildcard among the peer names is refused with the rule."""
        problem = self.replaced(
            'name = "lync.example"', 'name = "lync.example"\npeer_names = ["*.lync.example"]'
        )
        self.assertEqual(problem.key, "domain[1].peer_names")
        self.assertIn("RFC 5922", problem.message)


class TransportTests(LoadCase):
    """Listeners, next hops and certificates fit together."""

    def without_tls(self, transport: str) -> str:
        text = GOOD[GOOD.index("[[listener]]") :]
        return text.replace('transport = "tls"', f'transport = "{transport}"')

    def test_tls_listener_needs_a_certificate(self) -> None:
        """A TLS listener without any certificate is refused; so is the next hop over TLS."""
        problems = self.shop.problems(self.without_tls("tls"))
        self.assertEqual(
            [problem.key for problem in problems],
            ["listener[1].transport", "domain[1].next_hop.transport"],
        )
        self.assertIn("[tls]", problems[1].message)

    def test_next_hop_needs_a_listener_of_its_transport(self) -> None:
        """A next hop over a transport that no listener speaks is refused."""
        problem = self.replaced(
            '"sip.lync.example:5061"', '"sip.lync.example:5060", transport = "tcp"'
        )
        self.assertIn("no tcp listener", problem.message)

    def test_plain_tcp_needs_no_tls_section(self) -> None:
        """Without TLS anywhere no [tls] section is needed."""
        text = self.without_tls("tcp").replace(':5061" }', ':5060", transport = "tcp" }')
        self.assertEqual(self.shop.load(text).tls.certificates, ())

    def test_every_address_needs_an_advertised_one(self) -> None:
        """A listener bound to all addresses must say which one peers are told."""
        for everywhere in ("0.0.0.0:5061", "[::]:5061"):
            problem = self.replaced("127.0.0.1:5061", everywhere)
            self.assertIn("advertised", problem.allowed)

    def test_certificates_without_tls(self) -> None:
        """Client certificates are refused where there is no TLS, and so is a TLS name."""
        text = self.without_tls("tcp").replace(
            ':5061" }', ':5060", transport = "tcp", tls_name = "x.example" }'
        )
        text = text.replace(
            'transport = "tcp"\nb', 'transport = "tcp"\nclient_certificates = "none"\nb'
        )
        keys = [problem.key for problem in self.shop.problems(text)]
        self.assertEqual(keys, ["listener[1].client_certificates", "domain[1].next_hop.tls_name"])

    def test_nothing_to_do(self) -> None:
        """A file without listener and home says what is missing."""
        problems = self.shop.problems('[node]\nname = "x"\n')
        self.assertEqual(
            sorted(problem.message for problem in problems),
            ["there is no [[home]]", "there is no [[listener]]"],
        )

    def test_presence_lifetimes(self) -> None:
        """The shortest lifetime accepted is not longer than the one asked for."""
        text = GOOD + '[presence]\nexpires = "5m"\nminimum_expires = "10m"\n'
        self.assertEqual(self.only(text).key, "presence.minimum_expires")
