"""Home servers linked by S2S, and nodes that speak XMPP alone."""

from __future__ import annotations

from tests.config.samples import GOOD
from tests.config.test_load import LoadCase

STREAM = """
[[home]]
name = "inside"
kind = "s2s"
domains = ["inside.example"]
address = "federation.inside.example"
connect = "10.0.0.5:5269"
bind = "10.0.0.9:5269"
"""
XMPP_ONLY = '[node]\nname = "x"\n[s2s]\nbind = "127.0.0.1:5269"\n'


class StreamTests(LoadCase):
    """Kind "s2s"."""

    def test_read(self) -> None:
        """It needs no secret; TLS is tried, and a certificate not insisted on, by default."""
        home = self.shop.load(GOOD + STREAM).homes[-1]
        self.assertEqual((home.bind_host, home.bind_port), ("10.0.0.9", 5269))
        self.assertEqual((home.tls, home.require_certificates, home.ca), ("optional", False, None))

    def test_incomplete(self) -> None:
        """Without the node's own address, or without where to listen, it is refused."""
        for key in ("address", "bind"):
            lines = [line for line in STREAM.splitlines() if not line.startswith(key)]
            self.assertEqual(self.only(GOOD + "\n".join(lines)).message, f"{key} is missing")

    def test_two_doors(self) -> None:
        """Its door is another than that of other organisations."""
        problem = self.only(GOOD + STREAM + "[s2s]\n")
        self.assertEqual(problem.key, "home[2].bind")
        self.shop.load(GOOD + STREAM + '[s2s]\nbind = "192.0.2.1:5269"\n')

    def test_of_no_use(self) -> None:
        """What only streams need is refused with another kind."""
        problem = self.replaced('"component"', '"component"\ntls = "required"')
        self.assertEqual(problem.key, "home[1].tls")


class XmppOnlyTests(LoadCase):
    """A node without SIP."""

    def test_tls_without_a_certificate(self) -> None:
        """TLS is not required where there is nothing to show."""
        self.assertEqual(self.only(XMPP_ONLY + STREAM + 'tls = "required"\n').key, "home[1].tls")

    def test_no_listener(self) -> None:
        """With XMPP federation alone no listener for SIP is needed."""
        self.assertEqual(self.shop.load(XMPP_ONLY + STREAM).listeners, ())

    def test_sip_wanted(self) -> None:
        """As soon as anything is to go by SIP, one is."""
        for more in (
            '[[domain]]\nname = "lync.example"\n',
            "[open_federation]\nenabled = true\n",
        ):
            problem = self.only(XMPP_ONLY + STREAM + more)
            self.assertEqual(problem.message, "there is no [[listener]]")
