"""The section [store]: what it becomes, and what is said about what cannot be."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.config.samples import GOOD, Workshop

REDIS = """
[store]
kind = "redis"
addresses = ["redis1.company.example:6379", "redis2.company.example:6379"]
"""


class StoreSectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.shop = Workshop(self.mktemp())

    def said(self, text: str) -> list[str]:
        return [f"{problem.key}: {problem.message}" for problem in self.shop.problems(GOOD + text)]

    def test_default(self) -> None:
        """Without the section records lie in a file."""
        self.assertEqual(self.shop.load().store.kind, "sqlite")

    def test_everything(self) -> None:
        """Addresses, TLS, user, password, Sentinel: everything arrives, and no secret is shown."""
        self.shop.put("password", "s3cr3t\n")
        self.shop.put("watchers", "w4tch\n")
        config = self.shop.load(
            GOOD + REDIS + 'tls = true\ntls_name = "redis.company.example"\nca = "ca.pem"\n'
            'client_certificate = "company"\nuser = "impfed"\npassword_file = "password"\n'
            'sentinel = "main"\nsentinel_user = "s"\nsentinel_password_file = "watchers"\n'
            'prefix = "cluster1"\n'
        )
        store = config.store
        self.assertEqual(store.addresses[1], ("redis2.company.example", 6379))
        self.assertEqual((store.user, store.password), ("impfed", "s3cr3t"))
        self.assertEqual((store.sentinel, store.sentinel_password), ("main", "w4tch"))
        self.assertEqual((store.tls, store.tls_name), (True, "redis.company.example"))
        self.assertNotIn("s3cr3t", repr(config))
        self.assertNotIn("w4tch", repr(config))

    def test_password_from_the_environment(self) -> None:
        """A password may stand in the environment, but not in both places."""
        text = GOOD + REDIS + 'password_env = "REDIS_PASSWORD"\n'
        self.assertEqual(self.shop.load(text, REDIS_PASSWORD="x").store.password, "x")
        [problem] = self.shop.problems(text)
        self.assertIn("REDIS_PASSWORD is not set", problem.message)
        self.shop.put("password", "y\n")
        both = REDIS + 'password_env = "HOME"\npassword_file = "password"\n'
        self.assertIn("store.password_env: password_file is there too", self.said(both))

    def test_no_place(self) -> None:
        """Redis without a place is a problem."""
        self.assertEqual(
            self.said('[store]\nkind = "redis"\n'), ["store: there is no word on where Redis is"]
        )

    def test_what_means_nothing(self) -> None:
        """Keys that count for nothing are named."""
        self.assertEqual(
            self.said('[store]\naddresses = ["h:1"]\n'),
            ["store.addresses: means nothing with an SQLite file"],
        )
        self.assertEqual(
            self.said(REDIS + 'ca = "ca.pem"\n'), ["store.ca: means nothing without TLS"]
        )
        self.assertEqual(
            self.said(REDIS + 'socket = "redis.sock"\n'),
            ["store.socket: a Unix socket goes with neither addresses, sentinel nor tls"],
        )

    def test_user_without_password_and_unknown_certificate(self) -> None:
        """A user needs a password; a certificate must be there."""
        text = REDIS + 'tls = true\nuser = "u"\nclient_certificate = "node"\n'
        self.assertEqual(
            self.said(text),
            [
                "store.user: a user needs a password",
                'store.client_certificate: there is no certificate "node"',
            ],
        )
