"""Finding a domain's servers: Microsoft's record, RFC 3263, the cache, and the route ``srv``."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from impfed.config.model import SipDomainConfig
from impfed.core.dns import Answer, Outcome, Question, RecordType
from impfed.core.metrics import Metrics
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import IRoute, Reject, RouteQuery
from impfed.routing.dnscache import DnsCache
from impfed.routing.locate import Located, Plan, locate, run
from impfed.routing.order import heaviest_first
from impfed.routing.srv import SrvRoute
from tests.routing.scripted_dns import ScriptedDns

ALL = ("tls", "tcp", "udp")
FED = "_sipfederationtls._tcp.x.example"


def found(dns: ScriptedDns, domain: str = "x.example", **fields) -> Located:
    """Search a domain."""
    answers: list[Located] = []
    plan = Plan(domain, **{"transports": ALL, "standard": True, **fields})
    run(locate(plan, heaviest_first), dns.lookup, answers.append)
    [answer] = answers
    return answer


def spots(located: Located) -> list[str]:
    """Return the places as text."""
    return [f"{each.transport}:{each.host}:{each.port}" for each in located.places]


class LocateTests(SynchronousTestCase):
    """What is asked, and what is made of the answers."""

    def test_microsoft(self) -> None:
        """The federation record comes first; priorities order, each server gives all its addresses."""
        dns = ScriptedDns(
            f"""
            {FED} 300 SRV 20 0 5061 b.x.example.
            {FED} 300 SRV 10 0 5061 a.x.example.
            a.x.example 60 A 192.0.2.1
            a.x.example 60 A 192.0.2.2
            a.x.example 60 AAAA 2001:db8::1
            b.x.example 60 A 192.0.2.3
            """
        )
        located = found(dns, standard=False)
        self.assertEqual(
            spots(located),
            ["tls:2001:db8::1:5061", "tls:192.0.2.1:5061", "tls:192.0.2.2:5061",
             "tls:192.0.2.3:5061"],
        )  # fmt: skip
        self.assertEqual(located.ttl, 60)
        self.assertEqual(located.places[0].name, "a.x.example")
        self.assertIn(f"SRV {FED} priority 10", located.places[0].why)
        self.assertEqual(dns.asked[0], f"{FED} SRV")

    def test_microsoft_only(self) -> None:
        """Without the standard nothing else is asked, and the reason names the record."""
        dns = ScriptedDns("_sips._tcp.x.example 60 SRV 1 1 5061 a.x.example")
        located = found(dns, standard=False)
        self.assertEqual(dns.asked, [f"{FED} SRV"])
        self.assertIn("has no SRV record _sipfederationtls._tcp", located.reason)

    def test_naptr(self) -> None:
        """NAPTR decides on transports, in its order; what we cannot speak is passed over."""
        dns = ScriptedDns(
            """
            x.example 60 NAPTR 20 1 s SIP+D2T _sip._tcp.srv.example
            x.example 60 NAPTR 10 2 s SIPS+D2T _sips._tcp.srv.example
            x.example 60 NAPTR 5 1 s SIP+D2S _sip._sctp.srv.example
            x.example 60 NAPTR 5 1 u E2U+sip nothing.example
            _sips._tcp.srv.example 60 SRV 1 1 5061 a.srv.example
            _sip._tcp.srv.example 60 SRV 1 1 5060 a.srv.example
            a.srv.example 60 A 192.0.2.1
            """
        )
        self.assertEqual(spots(found(dns)), ["tls:192.0.2.1:5061", "tcp:192.0.2.1:5060"])
        self.assertEqual(spots(found(dns, transports=("tcp",))), ["tcp:192.0.2.1:5060"])
        self.assertNotIn("_sip._sctp.srv.example SRV", dns.asked)

    def test_srv_without_naptr(self) -> None:
        """Without NAPTR each transport of ours is looked for, TLS first."""
        dns = ScriptedDns(
            """
            _sip._udp.x.example 60 SRV 1 1 5060 a.x.example
            _sips._tcp.x.example 60 SRV 1 1 5071 a.x.example
            a.x.example 60 A 192.0.2.1
            """
        )
        self.assertEqual(spots(found(dns)), ["tls:192.0.2.1:5071", "udp:192.0.2.1:5060"])

    def test_addresses_of_the_domain(self) -> None:
        """Without any record the domain's own addresses serve, by the transport we prefer."""
        dns = ScriptedDns("x.example 60 A 192.0.2.1")
        self.assertEqual(spots(found(dns)), ["tls:192.0.2.1:5061"])
        self.assertEqual(spots(found(dns, transports=("udp",))), ["udp:192.0.2.1:5060"])

    def test_a_given_port_skips_srv(self) -> None:
        """With a port, or an address for a name, only addresses are asked for (section 4.2)."""
        dns = ScriptedDns("x.example 60 A 192.0.2.1\n_sips._tcp.x.example 60 SRV 1 1 1 b.example")
        self.assertEqual(spots(found(dns, port=5099)), ["tls:192.0.2.1:5099"])
        self.assertEqual(dns.asked, ["x.example AAAA", "x.example A"])
        self.assertEqual(spots(found(ScriptedDns(), "192.0.2.9")), ["tls:192.0.2.9:5061"])

    def test_target_dot(self) -> None:
        """A target "." says that there is no such service: nobody is dialled, and the reason says so."""
        dns = ScriptedDns(f"{FED} 60 SRV 0 0 0 .\nx.example 60 A 192.0.2.1")
        for standard in (True, False):
            located = found(dns, standard=standard)
            self.assertEqual(located.places, ())
            self.assertIn('says that there is no such service (target ".")', located.reason)

    def test_nothing(self) -> None:
        """A domain that does not exist, one without records, and a DNS that fails: told apart."""
        dns = ScriptedDns()
        self.assertIn("no NAPTR, SRV or address record", found(dns).reason)
        dns.fail("x.example", RecordType.A, Outcome.NO_NAME)
        self.assertIn("does not exist", found(dns).reason)
        dns.fail(FED, RecordType.SRV)
        located = found(dns)
        self.assertTrue(located.failed)
        self.assertIn("SERVFAIL", located.reason)

    def test_server_without_address(self) -> None:
        """An SRV record that leads to a name without address is named."""
        located = found(ScriptedDns(f"{FED} 60 SRV 1 1 5061 gone.x.example"))
        self.assertIn("leads to gone.x.example, which has no address", located.reason)


class CacheTests(SynchronousTestCase):
    """The cache before the DNS."""

    def setUp(self) -> None:
        self.clock, self.metrics = Clock(), Metrics()
        self.dns = ScriptedDns("a.example 60 A 192.0.2.1")
        self.cache = DnsCache(self.dns.lookup, self.clock.seconds, self.metrics, 3)

    def ask(self, name: str = "a.example") -> Answer:
        answers: list[Answer] = []
        self.cache.lookup(Question(name, RecordType.A), answers.append)
        return answers[0]

    def test_time_to_live(self) -> None:
        """An answer serves for its time to live, which runs down, and is then asked for anew."""
        self.assertEqual(self.ask().ttl, 60)
        self.clock.advance(59)
        self.assertEqual(self.ask().ttl, 1)
        self.assertEqual(len(self.dns.asked), 1)
        self.clock.advance(2)
        self.ask()
        self.assertEqual(len(self.dns.asked), 2)

    def test_negative_and_failed(self) -> None:
        """A "no" is kept as its zone says, a failure for a moment only."""
        self.dns.fail("bad.example", RecordType.A)
        self.ask("none.example")
        self.ask("bad.example")
        self.clock.advance(6)
        self.ask("none.example")
        self.ask("bad.example")
        self.assertEqual(self.dns.asked, ["none.example A", "bad.example A", "bad.example A"])

    def test_one_question_at_a_time(self) -> None:
        """Who asks what is being asked already waits for the same answer."""
        self.dns.held = True
        answers: list[Answer] = []
        question = Question("a.example", RecordType.A)
        self.cache.lookup(question, answers.append)
        self.cache.lookup(question, answers.append)
        self.dns.release()
        self.assertEqual((len(answers), len(self.dns.asked)), (2, 1))

    def test_bound(self) -> None:
        """Beyond its capacity the entry unused for the longest time goes."""
        for name in ("a.example", "b.example", "c.example", "a.example", "d.example"):
            self.ask(name)
        self.assertEqual(len(self.cache), 3)
        self.ask("a.example")
        self.assertEqual(len(self.dns.asked), 4)
        self.ask("b.example")
        self.assertEqual(len(self.dns.asked), 5)


class SrvRouteTests(SynchronousTestCase):
    """The route: configured domains only, and names that prove something."""

    def setUp(self) -> None:
        self.dns = ScriptedDns(
            f"""
            {FED} 60 SRV 1 1 5061 sip.x.example
            sip.x.example 60 A 192.0.2.1
            _sipfederationtls._tcp.hosted.example 60 SRV 1 1 5061 edge.elsewhere.example
            edge.elsewhere.example 60 A 192.0.2.2
            _sipfederationtls._tcp.cloud.example 60 SRV 1 1 5061 sipfed.online.lync.com
            sipfed.online.lync.com 60 A 192.0.2.3
            """
        )
        domains = [
            SipDomainConfig("x.example", client_certificate="partner"),
            SipDomainConfig("hosted.example"),
            SipDomainConfig("cloud.example", kind="office365"),
            SipDomainConfig("none.example"),
            SipDomainConfig("plain.example", kind="simple"),
        ]
        self.route = SrvRoute(
            {each.name: each for each in domains}.get,
            PeerPolicy(domains).may_prove,
            self.dns.lookup,
            ["udp", "tls"],
            heaviest_first,
        )

    def resolve(self, domain: str):
        return self.route.resolve(RouteQuery("INVITE", "a@home.example", f"bob@{domain}"))

    def test_interface(self) -> None:
        """It provides what a route has to."""
        verifyObject(IRoute, self.route)

    def test_names(self) -> None:
        """A server's own name is asked of its certificate only if the domain accepts it anyway."""
        for domain, name in (
            ("x.example", "sip.x.example"),
            ("hosted.example", "hosted.example"),
            ("cloud.example", "sipfed.online.lync.com"),
        ):
            (hop,) = self.resolve(domain)
            self.assertEqual(hop.tls_name, name)
        self.assertEqual(self.resolve("x.example")[0].certificate, "partner")

    def test_unknown_domains(self) -> None:
        """A domain that nobody configured is not looked up."""
        self.assertIsNone(self.resolve("stranger.example"))
        self.assertEqual(self.dns.asked, [])

    def test_nothing_found(self) -> None:
        """A domain without record is a 404 with the reason; a DNS that fails a 408."""
        self.assertEqual(self.resolve("none.example").status, 404)
        self.dns.fail("_sipfederationtls._tcp.none.example", RecordType.SRV)
        answer = self.resolve("none.example")
        self.assertIsInstance(answer, Reject)
        self.assertEqual(answer.status, 408)

    def test_kind_decides(self) -> None:
        """Only kind simple goes by RFC 3263, over the transports that we listen on."""
        self.dns.add(Question("plain.example", RecordType.A), 60, ["192.0.2.9"])
        self.dns.add(Question("hosted.example", RecordType.A), 60, ["192.0.2.9"])
        self.assertEqual(
            [str(hop) for hop in self.resolve("plain.example")], ["tls:192.0.2.9:5061"]
        )
        self.assertNotIn("_sip._tcp.plain.example SRV", self.dns.asked)
        self.assertIn("_sip._udp.plain.example SRV", self.dns.asked)

    def test_waits(self) -> None:
        """While the DNS is asked the answer is a Deferred."""
        self.dns.held = True
        answer = self.resolve("x.example")
        self.assertNoResult(answer)
        self.dns.release()
        self.dns.release()
        (hop,) = self.successResultOf(answer)
        self.assertEqual(hop.host, "192.0.2.1")
