"""Where a domain's XMPP servers are: SRV of both kinds mixed, else the domain's own addresses.

RFC 6120 section 3.2 and XEP-0368.  The finder is handed to the service, so that another one, such as
a fixed table, can stand in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.interfaces import IResolutionReceiver
from zope.interface import Interface, implementer

from impfed.core.dns import Answer, Lookup, Outcome, Question, RecordType, Srv
from impfed.core.hosts import is_address
from impfed.core.ids import IdSource
from impfed.xmpp.jid import JidError
from impfed.xmpp.s2s_names import ascii_domain

#: The port without SRV records.
PORT = 5269

#: SRV records, and addresses of one host, that are looked at.
_MOST = 10

_DIRECT, _PLAIN = "_xmpps-server._tcp.", "_xmpp-server._tcp."


@dataclass(frozen=True, slots=True)
class Target:
    """A server to try.

    :ivar address: IP address.
    :ivar direct: whether TLS begins at once.
    :ivar host: the name it has in DNS, for words.
    """

    address: str
    port: int
    direct: bool = False
    host: str = ""

    def __str__(self) -> str:
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.host or shown}:{self.port}" + (f" ({shown})" if self.host else "")


@dataclass(frozen=True, slots=True)
class Found:
    """What looking for a domain's servers brought.

    :ivar targets: in the order in which they are to be tried.
    :ivar condition: stanza error condition when there is none.
    :ivar words: why there is none.
    """

    targets: tuple[Target, ...] = ()
    condition: str = ""
    words: str = ""


Resolve = Callable[[str, Callable[[list[str]], None]], None]
"""Looks up the addresses of a host."""


class ITargetFinder(Interface):
    """Finds the servers of a domain."""

    def find(domain: str, done: Callable[[Found], None]) -> None:
        """Look for them; ``done`` is called once, perhaps before this returns."""


@implementer(ITargetFinder)
class FixedTargets:
    """Servers by domain, as given; other domains are looked for elsewhere, or do not exist.

    :param otherwise: an :class:`ITargetFinder`.
    """

    def __init__(self, table: Mapping[str, Sequence[Target]], otherwise: object = None) -> None:
        self.table = dict(table)
        self._otherwise = otherwise

    def find(self, domain: str, done: Callable[[Found], None]) -> None:
        """Look into the table."""
        targets = self.table.get(domain)
        if targets is not None:
            done(Found(tuple(targets)))
        elif self._otherwise is not None:
            ITargetFinder(self._otherwise).find(domain, done)
        else:
            done(Found((), "remote-server-not-found", f"no server of {domain} is known"))


@implementer(ITargetFinder)
class DnsTargets:
    """Asks the DNS.

    :param lookup: asks one question.
    :param ids: source of the chance that weights need.
    :param direct: whether direct TLS is used.
    """

    def __init__(self, lookup: Lookup, ids: IdSource, direct: bool = True) -> None:
        self._lookup = lookup
        self._ids = ids
        self._direct = direct

    def find(self, domain: str, done: Callable[[Found], None]) -> None:
        """Ask for SRV records of both kinds, then for addresses."""
        try:
            name = ascii_domain(domain)
        except JidError as error:
            done(Found((), "remote-server-not-found", str(error)))
            return
        address = name.strip("[]")  # IPv6 has them in a domainpart (RFC 7622 section 3.2)
        if is_address(address):
            done(Found((Target(address, PORT),)))
            return
        search = _Search(name, self._lookup, self._ids, done)
        search.start(self._direct)


@implementer(ITargetFinder)
class HostTarget:
    """One server, whatever the domain.

    :param host: name or IP address.
    :param resolve: looks up the addresses of a name.
    """

    def __init__(self, host: str, port: int, resolve: Resolve, direct: bool = False) -> None:
        self._host = host
        self._port = port
        self._resolve = resolve
        self._direct = direct

    def find(self, domain: str, done: Callable[[Found], None]) -> None:
        """Look up its addresses."""
        host, port, direct = self._host, self._port, self._direct

        def resolved(addresses: list[str]) -> None:
            if addresses:
                targets = [Target(address, port, direct, host) for address in addresses]
                done(Found(tuple(targets)))
            else:
                words = f"the configured server {host} of {domain} has no address"
                done(Found((), "remote-server-timeout", words))

        if is_address(host):
            done(Found((Target(host, port, direct),)))
        else:
            self._resolve(host, resolved)


@implementer(ITargetFinder)
class HostsByDomain:
    """Several servers for each of some domains, to be tried in order.

    :param hosts: (host, port) by domain.
    :param resolve: looks up the addresses of a name.
    """

    def __init__(self, hosts: Mapping[str, Sequence[tuple[str, int]]], resolve: Resolve) -> None:
        self._hosts = dict(hosts)
        self._resolve = resolve

    def find(self, domain: str, done: Callable[[Found], None]) -> None:
        """Look up all their addresses, one host after the other."""
        self._look_up(domain, list(self._hosts[domain]), [], done)

    def _look_up(
        self,
        domain: str,
        left: list[tuple[str, int]],
        targets: list[Target],
        done: Callable[[Found], None],
    ) -> None:
        host, port = left.pop(0)

        def found(one: Found) -> None:
            targets.extend(one.targets)
            if left:
                self._look_up(domain, left, targets, done)
            else:
                done(Found(tuple(targets)) if targets else one)

        HostTarget(host, port, self._resolve).find(domain, found)


def resolver(reactor: Any) -> Resolve:
    """Return what looks up the addresses of a host as the system does."""

    def resolve(host: str, done: Callable[[list[str]], None]) -> None:
        reactor.nameResolver.resolveHostName(_Addresses(done), host)

    return resolve


@implementer(IResolutionReceiver)
class _Addresses:
    """Gathers the addresses of a host."""

    def __init__(self, done: Callable[[list[str]], None]) -> None:
        self._done = done
        self._found: list[str] = []

    def resolutionBegan(self, resolution: Any) -> None:
        pass

    def addressResolved(self, address: Any) -> None:
        self._found.append(address.host)

    def resolutionComplete(self) -> None:
        self._done(list(dict.fromkeys(self._found)))


class _Search:
    """One search."""

    def __init__(
        self, name: str, lookup: Lookup, ids: IdSource, done: Callable[[Found], None]
    ) -> None:
        self._name = name
        self._lookup = lookup
        self._ids = ids
        self._done = done
        self._services: dict[bool, Answer] = {}
        self._hosts: list[tuple[str, int, bool]] = []
        self._addresses: dict[tuple[str, RecordType], Answer] = {}
        self._wanted = 0

    def start(self, direct: bool) -> None:
        """Ask for the services."""
        if not direct:
            self._services[True] = Answer(Outcome.NO_DATA)
        if direct:
            self._ask(_DIRECT + self._name, RecordType.SRV, partial(self._service, True))
        self._ask(_PLAIN + self._name, RecordType.SRV, partial(self._service, False))

    def _ask(self, name: str, type: RecordType, done: Callable[[Answer], None]) -> None:
        self._lookup(Question(name, type), done)

    def _service(self, direct: bool, answer: Answer) -> None:
        self._services[direct] = answer
        if len(self._services) < 2:
            return
        records = [
            (record, kind)
            for kind, found in self._services.items()
            for record in found.records
            if isinstance(record, Srv)
        ]
        offered = [(record, kind) for record, kind in records if record.target]
        if records and not offered:
            words = f"DNS says that {self._name} offers no XMPP federation (SRV target .)"
            self._done(Found((), "remote-server-not-found", words))
            return
        if not records and self._services[False].outcome is Outcome.FAILED:
            reason = self._services[False].reason
            words = f"DNS did not answer for {_PLAIN}{self._name}: {reason}"
            self._done(Found((), "remote-server-timeout", words))
            return
        self._hosts = _order(offered, self._ids) or [(self._name, PORT, False)]
        self._ask_addresses()

    def _ask_addresses(self) -> None:
        del self._hosts[_MOST:]
        names = sorted({host for host, _, _ in self._hosts if not is_address(host)})
        self._wanted = 2 * len(names)
        if not names:
            self._finish()
        for name in names:
            for type in (RecordType.AAAA, RecordType.A):
                self._ask(name, type, partial(self._address, name, type))

    def _address(self, name: str, type: RecordType, answer: Answer) -> None:
        self._addresses[name, type] = answer
        if len(self._addresses) == self._wanted:
            self._finish()

    def _finish(self) -> None:
        targets = []
        for host, port, direct in self._hosts:
            if is_address(host):
                targets.append(Target(host, port, direct))
            for type in (RecordType.AAAA, RecordType.A):
                answer = self._addresses.get((host, type))
                for address in answer.records[:_MOST] if answer else ():
                    targets.append(Target(str(address), port, direct, host))
        if targets:
            self._done(Found(tuple(targets)))
            return
        failed = [one for one in self._addresses.values() if one.outcome is Outcome.FAILED]
        hosts = ", ".join(sorted({host for host, _, _ in self._hosts}))
        if failed:
            words = f"DNS did not answer for {hosts}: {failed[0].reason}"
            self._done(Found((), "remote-server-timeout", words))
        else:
            words = (
                f"DNS knows no XMPP server for {self._name}: no SRV records, no address of {hosts}"
            )
            self._done(Found((), "remote-server-not-found", words))


def _order(records: list[tuple[Srv, bool]], ids: IdSource) -> list[tuple[str, int, bool]]:
    """Put records of both kinds in one order: by priority, by chance and weight within one."""
    ordered = []
    left = sorted(records, key=lambda entry: (entry[0].priority, entry[0].weight))
    while left:
        same = [entry for entry in left if entry[0].priority == left[0][0].priority]
        total = sum(record.weight for record, _ in same)
        mark = ids.uniform(0, total)
        for entry in same:
            mark -= entry[0].weight
            if mark <= 0:
                break
        left.remove(entry)
        record, direct = entry
        ordered.append((record.target, record.port, direct))
    return ordered
