"""Asks the DNS, over twisted.names, and gives the answers as plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.names import client, dns
from twisted.names.error import AuthoritativeDomainError, DNSNameError
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.dns import Answer, Lookup, Naptr, Outcome, Question, RecordType, Srv
from impfed.core.hosts import is_address
from impfed.core.log import EventLog

log = EventLog("impfed.dns")

#: Seconds for which a "no" is kept when the answer does not say.
NEGATIVE = 60.0

_TYPES = {
    RecordType.A: dns.A,
    RecordType.AAAA: dns.AAAA,
    RecordType.SRV: dns.SRV,
    RecordType.NAPTR: dns.NAPTR,
}


class DnsClient:
    """Asks name servers.

    :param servers: (address, port); empty for those of the system, read again when they change.
    :param timeout: seconds for one question; the next server is asked after a third of it.
    """

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[tuple[str, int]] = (),
        timeout: float = 5.0,
        system: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._reactor = reactor
        self._servers = list(servers)
        self._spacing = (timeout / 3, timeout * 2 / 3)
        self._system = system
        self._stamp: tuple[int, int] | None = None
        self._resolver: Any = None

    def lookup(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Ask one question; ``done`` is called once."""
        try:
            query = dns.Query(question.name.encode("ascii"), _TYPES[question.type], dns.IN)
        except UnicodeEncodeError:
            done(Answer(Outcome.NO_NAME, ttl=NEGATIVE))
            return
        asked = self._asker().query(query)
        asked.addCallbacks(lambda sections: read_answer(question, *sections), read_failure)
        asked.addErrback(_unexpected)
        asked.addCallback(done)

    def _asker(self) -> Any:
        # client.Resolver, for client.createResolver(servers=...) still reads the system's list;
        # with a list of its own it keeps no timer that looks after the system's file.
        stamp = None
        if not self._servers:
            try:
                status = self._system.stat()
                stamp = (status.st_mtime_ns, status.st_ino)
            except OSError:
                stamp = (0, 0)
        if self._resolver is None or stamp != self._stamp:
            servers = self._servers or system_servers(self._system)
            self._resolver = client.Resolver(
                servers=servers, timeout=self._spacing, reactor=self._reactor
            )
            self._stamp = stamp
        return self._resolver


def system_servers(path: Path) -> list[tuple[str, int]]:
    """Return the name servers of a resolv.conf(5); this machine where it names none."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    found = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
    servers = [
        (each.partition("%")[0], dns.PORT) for each in found if is_address(each.partition("%")[0])
    ]
    return servers or [("127.0.0.1", dns.PORT)]


def _unexpected(failure: Failure) -> Answer:
    log.failure("lookup_failed", "a DNS answer could not be read", failure)
    return Answer(Outcome.FAILED, reason=failure.getErrorMessage())


def read_answer(
    question: Question, answers: Sequence[Any], authority: Sequence[Any], additional: Sequence[Any]
) -> Answer:
    """Return what the sections of a reply say; aliases (CNAME) in it have been followed by the server."""
    wanted = _TYPES[question.type]
    found = [each for each in answers if each.type == wanted]
    if not found:
        return Answer(Outcome.NO_DATA, ttl=_negative_ttl(authority))
    # The chain of aliases that leads to the records lives no longer than its shortest part.
    ttl = float(min(each.ttl for each in answers))
    return Answer(Outcome.FOUND, tuple(_record(each.payload) for each in found), ttl)


def read_failure(failure: Failure) -> Answer:
    """Return what the failure of a question means."""
    if failure.check(DNSNameError, AuthoritativeDomainError):
        message = next(iter(getattr(failure.value, "args", ())), None)
        return Answer(Outcome.NO_NAME, ttl=_negative_ttl(getattr(message, "authority", ())))
    return Answer(Outcome.FAILED, reason=_words(failure))


def _words(failure: Failure) -> str:
    name = failure.type.__name__ if failure.type is not None else "failure"
    known = {
        "DNSServerError": "the name server failed (SERVFAIL)",
        "DNSQueryRefusedError": "the name server refused (REFUSED)",
        "DNSQueryTimeoutError": "the name server did not answer",
        "TimeoutError": "the name server did not answer",
        "DNSFormatError": "the name server did not understand the question",
        "DNSNotImplementedError": "the name server does not know this kind of question",
    }
    return known.get(name, name)


def _negative_ttl(authority: Sequence[Any]) -> float:
    """Return how long a "no" holds: the lesser of the SOA's two numbers (RFC 2308 section 5)."""
    for each in authority:
        if each.type == dns.SOA:
            return float(min(each.ttl, each.payload.minimum))
    return NEGATIVE


def _record(payload: Any) -> str | Srv | Naptr:
    if isinstance(payload, dns.Record_A):
        return str(payload.dottedQuad())
    if isinstance(payload, dns.Record_AAAA):
        return str(ip_address(payload.address))
    if isinstance(payload, dns.Record_SRV):
        return Srv(payload.priority, payload.weight, payload.port, _name(payload.target))
    return Naptr(
        payload.order,
        payload.preference,
        payload.flags.string.decode("latin-1").lower(),
        payload.service.string.decode("latin-1").upper(),
        _name(payload.replacement),
    )


def _name(name: Any) -> str:
    return bytes(name.name).decode("latin-1").lower().rstrip(".")


@implementer(IHostResolution)
class _Resolution:
    """One name that is being looked up for the reactor."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Nothing is done about it: the answer serves the cache."""


@implementer(IHostnameResolver)
class DnsHostnames:
    """Resolves the reactor's host names by our own look-ups, so that one set of servers serves all.

    Names without a dot are left to the system (its hosts file).

    :param system: the resolver that was in its place.
    """

    def __init__(self, lookup: Lookup, system: Any) -> None:
        self._lookup = lookup
        self._system = system

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        """Twisted: find the addresses of a host."""
        if "." not in hostName.rstrip("."):
            return self._system.resolveHostName(
                resolutionReceiver, hostName, portNumber, addressTypes, transportSemantics
            )
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        name = hostName.rstrip(".").lower()
        wanted = [
            kind
            for kind, address in ((RecordType.AAAA, IPv6Address), (RecordType.A, IPv4Address))
            if addressTypes is None or address in addressTypes
        ]
        missing = [len(wanted)]

        def arrived(answer: Answer) -> None:
            for each in answer.records:
                family = IPv6Address if isIPv6Address(str(each)) else IPv4Address
                resolutionReceiver.addressResolved(
                    family(transportSemantics, str(each), portNumber)  # type: ignore[arg-type]  # "TCP" or "UDP"
                )
            missing[0] -= 1
            if missing[0] == 0:
                resolutionReceiver.resolutionComplete()

        for kind in wanted:
            self._lookup(Question(name, kind), arrived)
        if not wanted:
            resolutionReceiver.resolutionComplete()
        return resolution
