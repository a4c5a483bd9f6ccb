"""Where a domain's servers are: SRV records of both kinds, in one order, else its addresses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twisted.trial import unittest

from impfed.core.dns import Answer, Outcome, Question, RecordType, Srv
from impfed.core.ids import IdSource
from impfed.transport.s2s_targets import DnsTargets, FixedTargets, Found, HostsByDomain, Target

A, AAAA, SRV = RecordType.A, RecordType.AAAA, RecordType.SRV
PLAIN, DIRECT = "_xmpp-server._tcp.b.example", "_xmpps-server._tcp.b.example"
FAILED = Answer(Outcome.FAILED, reason="the name server did not answer")


class TargetTests(unittest.SynchronousTestCase):
    """Answers from a table."""

    def setUp(self) -> None:
        self.answers: dict[tuple[str, RecordType], Answer] = {}
        self.asked: list[str] = []
        self.direct = True

    def lookup(self, question: Question, done: Callable[[Answer], None]) -> None:
        self.asked.append(str(question))
        done(self.answers.get((question.name, question.type), Answer(Outcome.NO_NAME)))

    def srv(self, name: str, *records: tuple[int, int, int, str]) -> None:
        found = tuple(Srv(*record) for record in records)
        self.answers[name, SRV] = Answer(Outcome.FOUND, found, 60)

    def host(self, name: str, *addresses: str) -> None:
        for type, colon in ((A, False), (AAAA, True)):
            found = tuple(one for one in addresses if (":" in one) is colon)
            if found:
                self.answers[name, type] = Answer(Outcome.FOUND, found, 60)

    def find(self, domain: str = "b.example") -> Found:
        found: list[Found] = []
        DnsTargets(self.lookup, IdSource(), self.direct).find(domain, found.append)
        self.assertEqual(len(found), 1)
        return found[0]

    def where(self, domain: str = "b.example") -> list[tuple[str, int, bool]]:
        return [(one.address, one.port, one.direct) for one in self.find(domain).targets]

    def test_mixed(self) -> None:
        """Direct TLS and STARTTLS stand in one list by priority; IPv6 before IPv4."""
        self.srv(PLAIN, (5, 0, 5269, "one.example"), (20, 0, 5270, "two.example"))
        self.srv(DIRECT, (10, 0, 5223, "one.example"))
        self.host("one.example", "192.0.2.1", "2001:db8::1")
        self.host("two.example", "192.0.2.2")
        self.assertEqual(
            self.where(),
            [
                ("2001:db8::1", 5269, False), ("192.0.2.1", 5269, False),
                ("2001:db8::1", 5223, True), ("192.0.2.1", 5223, True),
                ("192.0.2.2", 5270, False),
            ],
        )  # fmt: skip

    def test_weights(self) -> None:
        """Within one priority the first is drawn by weight; weight 0 comes seldom but can."""
        self.srv(PLAIN, (1, 30, 1, "one.example"), (1, 10, 2, "two.example"))
        self.srv(DIRECT, (1, 0, 3, "one.example"))
        self.host("one.example", "192.0.2.1")
        self.host("two.example", "192.0.2.2")
        first = Counter(self.where()[0][1] for _ in range(2000))
        self.assertTrue(0.69 < first[1] / 2000 < 0.81, first)
        self.assertTrue(0.19 < first[2] / 2000 < 0.31, first)
        self.assertEqual({port for _, port, _ in self.where()}, {1, 2, 3})

    def test_no_srv(self) -> None:
        """Without SRV records the domain's own addresses count, at port 5269."""
        self.host("b.example", "192.0.2.7")
        self.assertEqual(self.where(), [("192.0.2.7", 5269, False)])

    def test_not_offered(self) -> None:
        """A target "." says that there is no such service: no direct TLS, or none at all."""
        self.host("b.example", "192.0.2.7")
        self.srv(DIRECT, (0, 0, 0, ""))
        found = self.find()
        self.assertEqual((found.targets, found.condition), ((), "remote-server-not-found"))
        self.assertIn("offers no XMPP federation", found.words)
        self.srv(PLAIN, (1, 1, 5269, "b.example"))
        self.assertEqual(self.where(), [("192.0.2.7", 5269, False)])

    def test_nothing(self) -> None:
        """A domain that DNS does not know is not found; a silent DNS is another matter."""
        self.assertEqual(self.find().condition, "remote-server-not-found")
        self.answers[PLAIN, SRV] = FAILED
        found = self.find()
        self.assertEqual(found.condition, "remote-server-timeout")
        self.assertIn("the name server did not answer", found.words)
        self.srv(PLAIN, (1, 1, 5269, "one.example"))
        self.answers["one.example", A] = FAILED
        self.assertEqual(self.find().condition, "remote-server-timeout")

    def test_one_kind_failing(self) -> None:
        """Where one kind of SRV cannot be had, the other serves."""
        self.answers[DIRECT, SRV] = FAILED
        self.srv(PLAIN, (1, 1, 5269, "one.example"))
        self.host("one.example", "192.0.2.1")
        self.assertEqual(len(self.where()), 1)

    def test_names(self) -> None:
        """International domains are asked for by their A-labels, addresses not at all."""
        self.find("bücher.example")
        self.assertIn("_xmpp-server._tcp.xn--bcher-kva.example SRV", self.asked)
        self.assertEqual(self.where("[2001:db8::5]"), [("2001:db8::5", 5269, False)])
        self.assertEqual(self.where("192.0.2.9"), [("192.0.2.9", 5269, False)])
        self.direct = False
        self.asked.clear()
        self.find()
        self.assertEqual(self.asked[0], f"{PLAIN} SRV")

    def test_bounds(self) -> None:
        """A DNS that answers with very much is not followed everywhere."""
        self.srv(PLAIN, *[(1, 1, port, f"h{port}.example") for port in range(1, 60)])
        for port in range(1, 60):
            self.host(f"h{port}.example", *[f"192.0.2.{low}" for low in range(1, 40)])
        self.assertLessEqual(len(self.where()), 100)

    def test_fixed(self) -> None:
        """A table may stand in the place of DNS, or before it."""
        self.host("c.example", "192.0.2.3")
        dns = DnsTargets(self.lookup, IdSource())
        fixed = FixedTargets({"b.example": [Target("127.0.0.1", 1)]}, dns)
        found: list[Found] = []
        for domain in ("b.example", "c.example"):
            fixed.find(domain, found.append)
        FixedTargets({}).find("d.example", found.append)
        self.assertEqual([one.condition for one in found], ["", "", "remote-server-not-found"])
        self.assertEqual(str(found[0].targets[0]), "127.0.0.1:1")
        self.assertEqual(str(found[1].targets[0]), "c.example:5269 (192.0.2.3)")

    def test_hosts_by_domain(self) -> None:
        """Of several configured hosts every address is tried, in order; one without any is passed over."""
        known = {"b1.example": ["10.0.0.3", "fd00::3"], "b2.example": []}
        hosts = [("b2.example", 5269), ("10.0.0.9", 5270), ("b1.example", 5269)]
        table = {"works.example": hosts, "gone.example": hosts[:1]}
        finder = HostsByDomain(table, lambda host, done: done(known[host]))
        told: list[Found] = []
        finder.find("works.example", told.append)
        targets = [(target.address, target.port) for target in told[0].targets]
        self.assertEqual(targets, [("10.0.0.9", 5270), ("10.0.0.3", 5269), ("fd00::3", 5269)])
        finder.find("gone.example", told.append)
        self.assertEqual(told[1].condition, "remote-server-timeout")
