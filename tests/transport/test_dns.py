"""The DNS over real packets: a name server on loopback, and what its answers and refusals become."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IHostnameResolver
from twisted.names import authority, dns, server
from twisted.names.error import DNSNameError, DNSServerError
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from demo.parts import free_ports
from impfed.core.dns import Answer, Naptr, Outcome, Question, RecordType, Srv
from impfed.transport.dns import DnsClient, DnsHostnames, read_failure, system_servers


class Zone(authority.FileAuthority):
    """x.example, from this file."""

    def __init__(self) -> None:
        super().__init__("")

    def loadFile(self, filename: object) -> None:
        """Hold the records."""
        self.soa = (
            b"x.example",
            dns.Record_SOA(b"ns.x.example", b"root.x.example", 1, 60, 60, 60, minimum=33, ttl=44),
        )
        many = [dns.Record_A(f"192.0.2.{number}", ttl=60) for number in range(1, 200)]
        self.records = {
            b"x.example": [
                self.soa[1],
                dns.Record_NAPTR(10, 20, b"S", b"sips+d2t", b"", b"_sips._tcp.X.example", ttl=60),
            ],
            b"a.x.example": [dns.Record_A("192.0.2.1", ttl=30), dns.Record_AAAA("2001:db8::1", 60)],
            b"alias.x.example": [dns.Record_CNAME(b"a.x.example", ttl=5)],
            b"many.x.example": many,
            b"_sips._tcp.x.example": [dns.Record_SRV(1, 2, 5061, b"A.x.example", ttl=60)],
            b"_none._tcp.x.example": [dns.Record_SRV(0, 0, 0, b"", ttl=60)],
        }


class DnsCase(TestCase):
    def setUp(self) -> None:
        factory = server.DNSServerFactory(authorities=[Zone()])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory)
        (self.port,) = free_ports(1)
        udp = reactor.listenUDP(self.port, protocol, interface="127.0.0.1")
        self.addCleanup(udp.stopListening)
        tcp = reactor.listenTCP(self.port, factory, interface="127.0.0.1")
        self.addCleanup(tcp.stopListening)
        self.client = DnsClient(reactor, [("127.0.0.1", self.port)], 1.0)

    def ask(self, name: str, kind: RecordType) -> Deferred[Answer]:
        answer: Deferred[Answer] = Deferred()
        self.client.lookup(Question(name, kind), answer.callback)
        return answer


class DnsClientTests(DnsCase):
    """Questions and answers."""

    @inlineCallbacks
    def test_records(self):
        """Every kind of record is read, names in lower case."""
        answer = yield self.ask("a.x.example", RecordType.A)
        self.assertEqual(answer, Answer(Outcome.FOUND, ("192.0.2.1",), 30.0))
        answer = yield self.ask("a.x.example", RecordType.AAAA)
        self.assertEqual(answer.records, ("2001:db8::1",))
        answer = yield self.ask("_sips._tcp.x.example", RecordType.SRV)
        self.assertEqual(answer.records, (Srv(1, 2, 5061, "a.x.example"),))
        answer = yield self.ask("_none._tcp.x.example", RecordType.SRV)
        self.assertEqual(answer.records, (Srv(0, 0, 0, ""),))
        answer = yield self.ask("x.example", RecordType.NAPTR)
        self.assertEqual(answer.records, (Naptr(10, 20, "s", "SIPS+D2T", "_sips._tcp.x.example"),))

    @inlineCallbacks
    def test_alias(self):
        """An alias is followed, and lives no longer than its shortest link."""
        answer = yield self.ask("alias.x.example", RecordType.A)
        self.assertEqual((answer.records, answer.ttl), (("192.0.2.1",), 5.0))

    @inlineCallbacks
    def test_large_answers(self):
        """An answer too large for a datagram comes over TCP."""
        answer = yield self.ask("many.x.example", RecordType.A)
        self.assertEqual(len(answer.records), 199)

    @inlineCallbacks
    def test_no(self):
        """No such record and no such name are told apart."""
        answer = yield self.ask("a.x.example", RecordType.SRV)
        self.assertEqual(answer.outcome, Outcome.NO_DATA)
        answer = yield self.ask("nobody.x.example", RecordType.A)
        self.assertEqual(answer.outcome, Outcome.NO_NAME)

    def test_how_long_a_no_holds(self) -> None:
        """The SOA of a refusal says how long it holds: the lesser of its two numbers."""
        message = dns.Message(answer=True)
        soa = dns.Record_SOA(b"ns.x.example", b"root.x.example", 1, 60, 60, 60, minimum=33)
        message.authority = [dns.RRHeader(b"x.example", dns.SOA, ttl=44, payload=soa)]
        answer = read_failure(Failure(DNSNameError(message)))
        self.assertEqual((answer.outcome, answer.ttl), (Outcome.NO_NAME, 33.0))
        answer = read_failure(Failure(DNSServerError(message)))
        self.assertEqual(answer.outcome, Outcome.FAILED)
        self.assertIn("SERVFAIL", answer.reason)

    @inlineCallbacks
    def test_failures(self):
        """A server that is silent is a failure with its reason in words."""
        silent = reactor.listenUDP(0, dns.DNSDatagramProtocol(_Silent()), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        self.client = DnsClient(reactor, [("127.0.0.1", silent.getHost().port)], 0.3)
        answer = yield self.ask("a.x.example", RecordType.A)
        self.assertEqual((answer.outcome, answer.reason),
                         (Outcome.FAILED, "the name server did not answer"))  # fmt: skip

    @inlineCallbacks
    def test_second_server(self):
        """When the first server is silent the second is asked."""
        silent = reactor.listenUDP(0, dns.DNSDatagramProtocol(_Silent()), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        servers = [("127.0.0.1", self.port), ("127.0.0.1", silent.getHost().port)]
        self.client = DnsClient(reactor, servers, 0.6)
        for _ in range(2):
            answer = yield self.ask("a.x.example", RecordType.A)
            self.assertEqual(answer.outcome, Outcome.FOUND)

    @inlineCallbacks
    def test_name_that_cannot_be_asked(self):
        """A name that is no ASCII does not exist."""
        answer = yield self.ask("dömäin.example", RecordType.A)
        self.assertEqual(answer.outcome, Outcome.NO_NAME)

    def test_system_servers(self) -> None:
        """The system's file names the servers; without one this machine is asked."""
        path = Path(self.mktemp())
        self.assertEqual(system_servers(path), [("127.0.0.1", 53)])
        path.write_text(
            "# x\nsearch a\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver\n"
        )
        self.assertEqual(system_servers(path), [("192.0.2.53", 53), ("fe80::1", 53)])


class HostnameTests(DnsCase):
    """The reactor's names, looked up by the configured servers."""

    def resolve(self, name: str, kinds=None) -> Deferred[list]:
        done: Deferred[list] = Deferred()
        hostnames = DnsHostnames(self.client.lookup, _System())
        verifyObject(IHostnameResolver, hostnames)
        hostnames.resolveHostName(_Receiver(done), name, 5061, kinds)
        return done

    @inlineCallbacks
    def test_both_families(self):
        """Both families' addresses are found, with the port."""
        found = yield self.resolve("A.x.example.")
        self.assertEqual(
            {(type(each), each.host, each.port) for each in found},
            {(IPv4Address, "192.0.2.1", 5061), (IPv6Address, "2001:db8::1", 5061)},
        )
        found = yield self.resolve("a.x.example", [IPv4Address])
        self.assertEqual([each.host for each in found], ["192.0.2.1"])

    @inlineCallbacks
    def test_no_address(self):
        """A name without address ends without one."""
        found = yield self.resolve("nobody.x.example")
        self.assertEqual(found, [])

    @inlineCallbacks
    def test_names_of_this_machine(self):
        """A name without a dot is the system's business."""
        found = yield self.resolve("localhost")
        self.assertEqual(found, ["system localhost"])


class _Silent:
    noisy = False

    def messageReceived(self, *arguments: object) -> None:
        """Say nothing."""


class _Receiver:
    def __init__(self, done: Deferred[list]) -> None:
        self._done = done
        self._found: list = []

    def resolutionBegan(self, resolution: object) -> None:
        pass

    def addressResolved(self, address: object) -> None:
        self._found.append(address)

    def resolutionComplete(self) -> None:
        self._done.callback(self._found)


class _System:
    def resolveHostName(self, receiver, name, *arguments):
        receiver.addressResolved(f"system {name}")
        receiver.resolutionComplete()
