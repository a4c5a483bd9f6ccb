"""``[s2s]`` and ``[[s2s.domain]]``, and what becomes of them on a given day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from impfed.config.s2s import S2SConfig, S2SDomainConfig
from impfed.transport.s2s_settings import (
    ConfiguredSettings,
    ConfiguredTargets,
    limits_of,
    listeners_of,
)
from impfed.transport.s2s_targets import FixedTargets, Found, Target
from impfed.xmpp.s2s_security import Security, Tls
from tests.config.samples import GOOD
from tests.config.test_load import LoadCase


class ReadTests(LoadCase):
    """What the file says."""

    def s2s(self, text: str, **environ: str) -> S2SConfig:
        config = self.shop.load(GOOD + text, **environ).s2s
        assert config is not None
        return config

    def test_off(self) -> None:
        """Without the section there is no XMPP federation."""
        self.assertIsNone(self.shop.load().s2s)

    def test_defaults(self) -> None:
        """With an empty section it is on, and strict."""
        self.assertEqual(self.s2s("[s2s]\n"), S2SConfig())

    def test_nodes(self) -> None:
        """Some nodes of a cluster may speak for all; they must be nodes of it."""
        cluster = '[store]\nkind = "redis"\naddresses = ["redis.company.example:6379"]\n' + (
            '[[neighbour]]\nname = "node2"\naddress = "10.0.0.2:5062"\ntls_name = "n2.company.example"\n'
            '[[neighbour]]\nname = "b"\naddress = "10.0.0.3:5062"\ntls_name = "b.company.example"\n'
            'domains = ["works.example"]\n'
        )
        config = self.s2s(cluster + '[s2s]\nnodes = ["node2"]\n')
        self.assertEqual([config.speaks(name) for name in ("node1", "node2")], [False, True])
        self.assertTrue(S2SConfig().speaks("node1"))
        problem = self.only(GOOD + cluster + '[s2s]\nnodes = ["node2", "b"]\n')
        self.assertIn('no node of this cluster is called "b"', str(problem))
        problem = self.only(GOOD + '[s2s]\nnodes = ["impfed"]\n')
        self.assertIn("only nodes of a cluster", str(problem))

    def test_everything(self) -> None:
        """Every key arrives where it belongs."""
        config = self.s2s(
            '[s2s]\nbind = "[::]:5269"\ndirect_bind = "[::]:5270"\nsecret_env = "DB"\n'
            'policy = "deny"\ntls = "optional"\n'
            "require_certificates = false\nsasl_in = false\nsasl_out = false\n"
            'dialback = false\npatience = "1m"\nstream_idle = "1h"\n'
            '[[s2s.exception]]\ndomain = "*.B.example"\ndirection = "in"\n'
            '[[s2s.domain]]\nname = "*.Partner.example"\nkind = "webex"\ntls = "none"\nuntil = 2027-03-31\n'
            'ca = "ca.pem"\ncertificate = "none"\nconnect = "192.0.2.1:7269"\ndirect_tls = true\n',
            DB="s3cret",
        )
        self.assertEqual((config.host, config.direct_port, config.secret), ("::", 5270, "s3cret"))
        self.assertEqual((config.tls, config.patience, config.stream_idle), ("optional", 60, 3600))
        (domain,) = config.domains
        (exception,) = config.exceptions
        self.assertEqual((config.policy, domain.kind), ("deny", "webex"))
        self.assertEqual((exception.domain, exception.direction), ("*.b.example", "in"))
        self.assertEqual((domain.name, domain.tls), ("*.partner.example", "none"))
        self.assertEqual((domain.until, domain.host), (date(2027, 3, 31), "192.0.2.1"))
        self.assertNotIn("s3cret", repr(config))
        self.assertEqual([one.direct for one in listeners_of(config)], [False, True])
        self.assertEqual(limits_of(config).patience, 60)

    def test_problems(self) -> None:
        """Each mistake is named with the right spelling."""
        for text, message, more in (
            ('[s2s]\ntls = "optinal"\n', '"optinal"', "optional"),
            ('[s2s]\nsecret = "a"\nsecret_env = "B"\n', "is there too", "one of them"),
            (
                '[[s2s.domain]]\nname = "a.example"\nuntil = "2027-03-31"\n',
                "2027",
                "without quotes",
            ),
            ('[[s2s.domain]]\nname = "a.*.example"\n', "without wildcards", ""),
            ('[[s2s.domain]]\nname = "lync.example"\n', "SIP by domain[1].name", "[[domain]]"),
            (
                '[s2s]\npolicy = "deny"\n[[s2s.exception]]\ndomain = "lync.example"\n',
                "s2s.exception[1].domain",
                "SIP by domain[1].name",
            ),
            (
                '[[s2s.exception]]\ndomain = "a.example"\n'
                '[[s2s.exception]]\ndomain = "a.example"\ndirection = "in"\n',
                "s2s.exception[2].domain",
                "s2s.exception[1] already",
            ),
            ('[[s2s.exception]]\ndomain = "a.example"\ndirection = "inn"\n', '"inn"', '"both"'),
            ('[[s2s.domain]]\nname = "a.example"\nkind = "webx"\n', '"webx"', "webex"),
            ('[[s2s.domain]]\nname = "company.example"\n', "local domain", ""),
            ('[[s2s.domain]]\nname = "a.example"\ncertificate = "compani"\n', "compani", "company"),
        ):
            problem = self.only(GOOD + text)
            words = f"{problem.key} {problem.message} {problem.allowed} {problem.suggestion}"
            self.assertIn(message, words)
            self.assertIn(more, words)


class SettingsTests(LoadCase):
    """What holds for whom, and when."""

    def setUp(self) -> None:
        self.now = datetime(2027, 3, 31, 23, 0, tzinfo=UTC).timestamp()
        config = S2SConfig(
            domains=(
                S2SDomainConfig("*.partner.example", tls="optional", certificate="none"),
                S2SDomainConfig("*.deep.partner.example", dialback=False),
                S2SDomainConfig("x.partner.example", tls="none", until=date(2027, 3, 31)),
                S2SDomainConfig("fixed.example", host="192.0.2.1", port=7269, direct_tls=True),
                S2SDomainConfig("named.example", host="xmpp.named.example"),
                S2SDomainConfig("xn--bcher-kva.example", require_certificates=False),
            )
        )
        self.settings = ConfiguredSettings(config, lambda: self.now)

    def test_nearest_entry(self) -> None:
        """The exact name before a pattern, the longer pattern before the shorter, else the default."""
        security = lambda name: self.settings.security("ours.example", name)  # noqa: E731
        self.assertEqual(security("other.example"), Security())
        self.assertEqual(security(""), Security())
        self.assertIs(security("partner.example").tls, Tls.OPTIONAL)
        self.assertIs(security("a.partner.example").tls, Tls.OPTIONAL)
        self.assertIs(security("notpartner.example").tls, Tls.REQUIRED)
        self.assertFalse(security("a.deep.partner.example").dialback)
        self.assertIs(security("x.partner.example").tls, Tls.NONE)
        self.assertFalse(security("bücher.example").certificates)
        self.assertEqual(self.settings.certificate("a.partner.example"), "none")

    def test_kinds(self) -> None:
        """A kind brings what such peers need; the entry's own keys go before it, it before ``[s2s]``."""
        config = S2SConfig(
            tls="optional",
            sasl_in=False,
            sasl_out=False,
            dialback=False,
            domains=(
                S2SDomainConfig("sametime.example", "sametime"),
                S2SDomainConfig("webex.example", "webex"),
                S2SDomainConfig("odd.example", "webex", require_certificates=True, tls="none"),
                S2SDomainConfig("plain.example"),
            ),
        )
        settings = ConfiguredSettings(config, lambda: 0.0)
        for name, tls, certificates, sasl, dialback in (
            ("sametime", Tls.REQUIRED, True, True, False),
            ("webex", Tls.OPTIONAL, False, False, True),
            ("odd", Tls.NONE, True, False, True),
            ("plain", Tls.OPTIONAL, True, False, False),
            ("other", Tls.OPTIONAL, True, False, False),
        ):
            wanted = Security(tls, certificates, sasl, sasl, dialback)
            self.assertEqual(settings.security("", f"{name}.example"), wanted, name)

    def test_end_date(self) -> None:
        """On the day after its last an entry holds no longer."""
        self.now += 3600
        self.assertIs(self.settings.security("", "x.partner.example").tls, Tls.OPTIONAL)

    def test_targets(self) -> None:
        """A configured server is used in the place of DNS; a name without address is told."""
        hosts: dict[str, list[str]] = {"xmpp.named.example": ["192.0.2.5"]}
        finder = ConfiguredTargets(
            self.settings,
            FixedTargets({}),
            lambda host, done: done(hosts.get(host, [])),
        )
        found: list[Any] = []
        for domain in ("fixed.example", "named.example", "other.example"):
            finder.find(domain, found.append)
        hosts.clear()
        finder.find("named.example", found.append)
        self.assertEqual(found[0], Found((Target("192.0.2.1", 7269, True),)))
        self.assertEqual(found[1].targets[0].host, "xmpp.named.example")
        self.assertEqual(found[2].condition, "remote-server-not-found")
        self.assertIn("has no address", found[3].words)
