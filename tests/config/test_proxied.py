"""Listeners behind a load balancer."""

from __future__ import annotations

from tests.config.samples import GOOD
from tests.config.test_load import LoadCase

BIND = 'bind = "127.0.0.1:5061"\n'
PROXIED = BIND + "proxy_protocol = true\n"


class ProxiedTests(LoadCase):
    """``proxy_protocol`` and ``proxy_addresses``."""

    def test_read(self) -> None:
        """Addresses and networks are read; without the keys nobody is believed."""
        plain = self.shop.load(GOOD).listeners[0]
        self.assertEqual((plain.proxy_protocol, plain.proxy_addresses), (False, ()))
        more = PROXIED + 'proxy_addresses = ["10.0.0.5", "2001:DB8:5::/64"]\n'
        listener = self.shop.load(GOOD.replace(BIND, more)).listeners[0]
        self.assertTrue(listener.proxy_protocol)
        self.assertEqual(listener.proxy_addresses, ("10.0.0.5", "2001:db8:5::/64"))

    def test_both_or_none(self) -> None:
        """The one key needs the other; nobody is believed from everywhere by an omission."""
        problem = self.replaced(BIND, PROXIED)
        self.assertEqual(problem.key, "listener[1].proxy_protocol")
        self.assertIn("proxy_addresses", problem.allowed)
        problem = self.replaced(BIND, BIND + 'proxy_addresses = ["10.0.0.5"]\n')
        self.assertEqual(problem.suggestion, "write proxy_protocol = true")

    def test_udp(self) -> None:
        """Datagrams have no header."""
        udp = '[[listener]]\nname = "datagrams"\ntransport = "udp"\n' + PROXIED
        udp = udp.replace("5061", "5060") + 'proxy_addresses = ["10.0.0.5"]\n'
        problem = self.only(GOOD + udp)
        self.assertEqual(problem.key, "listener[2].proxy_protocol")

    def test_addresses(self) -> None:
        """A name is no address, and a network is written as such."""
        for word, hint in (("balancer.example", "no IP address"), ("10.0.0.5/24", "network")):
            more = PROXIED + f'proxy_addresses = ["{word}"]\n'
            problem = self.replaced(BIND, more)
            self.assertEqual(problem.key, "listener[1].proxy_addresses")
            self.assertIn(hint, problem.message)
