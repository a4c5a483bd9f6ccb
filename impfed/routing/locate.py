"""Where a SIP domain is, by its DNS records: RFC 3263, and Microsoft's federation record before it.

The decisions are a generator: it yields questions, is sent their answers, and returns the places.
So it knows no network, and a test plays the DNS from a table.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from impfed.core.dns import Answer, Lookup, Naptr, Outcome, Question, RecordType, Srv
from impfed.core.hosts import is_address
from impfed.routing.order import Uniform, in_order

#: Most names of servers, and most addresses of one, that are followed.
TARGET_LIMIT = 16
ADDRESS_LIMIT = 8

_DEFAULT_PORTS = {"tls": 5061, "tcp": 5060, "udp": 5060}
_SERVICES = {"SIPS+D2T": "tls", "SIP+D2T": "tcp", "SIP+D2U": "udp"}
_PREFIXES = {"tls": "_sips._tcp", "tcp": "_sip._tcp", "udp": "_sip._udp"}
FEDERATION = "_sipfederationtls._tcp"


@dataclass(frozen=True, slots=True)
class Plan:
    """What may be tried for a domain.

    :ivar domain: the domain, lower case, or an IP address.
    :ivar transports: those that we can speak, the preferred first.
    :ivar federation: whether Microsoft's record is looked for; it means TLS.
    :ivar standard: whether RFC 3263 is followed.
    :ivar port: a port that was given with the domain; then there is no NAPTR and no SRV
        (RFC 3263 section 4.2).
    """

    domain: str
    transports: tuple[str, ...] = ("tls",)
    federation: bool = True
    standard: bool = False
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """One address to connect to.

    :ivar host: an IP address.
    :ivar name: the server's name, which certificates must not be checked against just so.
    :ivar why: the record that led there, in words.
    """

    transport: str
    host: str
    port: int
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Located:
    """The outcome.

    :ivar places: in the order in which they are to be tried.
    :ivar ttl: seconds for which all of it holds.
    :ivar reason: why there is no place, in words.
    :ivar failed: whether the DNS failed, so that another time it may be different.
    """

    places: tuple[Place, ...]
    ttl: float = 0.0
    reason: str = ""
    failed: bool = False


Search = Generator[Sequence[Question], Mapping[Question, Answer], Located]


@dataclass(slots=True)
class _Notes:
    """What a search has seen so far, for its words and its time to live."""

    ttl: float = 86400.0
    failures: str = ""
    refused: str = ""
    unknown_name: bool = False

    def take(self, question: Question, answer: Answer) -> tuple[str | Srv | Naptr, ...]:
        """Note an answer and return its records."""
        self.ttl = min(self.ttl, answer.ttl)
        if answer.outcome is Outcome.FAILED:
            self.failures = self.failures or f"{question}: {answer.reason or 'no answer'}"
        elif answer.outcome is Outcome.NO_NAME and question.type is not RecordType.SRV:
            self.unknown_name = True
        return answer.records if answer.outcome is Outcome.FOUND else ()


def locate(plan: Plan, uniform: Uniform) -> Search:
    """Search for a domain's servers.

    :param uniform: draws lots among SRV records of equal priority.
    """
    notes = _Notes()
    if is_address(plan.domain) or plan.port is not None:
        return (yield from _direct(plan, notes))
    found: list[tuple[str, Srv, str]] = []
    if plan.federation and "tls" in plan.transports:
        found = yield from _services([("tls", f"{FEDERATION}.{plan.domain}")], notes, uniform)
    if not found and plan.standard:
        found = yield from _standard(plan, notes, uniform)
    if found:
        return (yield from _addresses(found, notes))
    if plan.standard and not notes.refused:
        return (yield from _direct(plan, notes))
    return Located((), notes.ttl, _nothing(plan, notes), bool(notes.failures))


def _standard(
    plan: Plan, notes: _Notes, uniform: Uniform
) -> Generator[Sequence[Question], Mapping[Question, Answer], list[tuple[str, Srv, str]]]:
    """NAPTR, and where there is none the SRV records of each transport (RFC 3263 section 4.1)."""
    question = Question(plan.domain, RecordType.NAPTR)
    records = notes.take(question, (yield [question])[question])
    pointers = [
        record
        for record in records
        if isinstance(record, Naptr)
        and record.flags == "s"
        and record.replacement
        and _SERVICES.get(record.service) in plan.transports
    ]
    pointers.sort(key=lambda record: (record.order, record.preference))
    names = [(_SERVICES[each.service], each.replacement) for each in pointers[:TARGET_LIMIT]]
    if names:
        found = yield from _services(names, notes, uniform)
        if found or notes.refused:
            return found
    own = [(each, f"{_PREFIXES[each]}.{plan.domain}") for each in plan.transports]
    return (yield from _services(own, notes, uniform))


def _services(
    names: Sequence[tuple[str, str]], notes: _Notes, uniform: Uniform
) -> Generator[Sequence[Question], Mapping[Question, Answer], list[tuple[str, Srv, str]]]:
    """Ask for SRV records; the names' order is kept, each one's records are put in theirs."""
    questions = [Question(name, RecordType.SRV) for _, name in names]
    answers = yield questions
    found: list[tuple[str, Srv, str]] = []
    for (transport, name), question in zip(names, questions, strict=True):
        records = [
            each for each in notes.take(question, answers[question]) if isinstance(each, Srv)
        ]
        if any(not each.target for each in records):
            notes.refused = (
                notes.refused or f'{name} says that there is no such service (target ".")'
            )
        real = [each for each in records if each.target and each.port]
        found += [(transport, each, f"SRV {name}") for each in in_order(real, uniform)]
    return found[:TARGET_LIMIT]


def _addresses(found: Sequence[tuple[str, Srv, str]], notes: _Notes) -> Search:
    """Find the addresses of the servers, and make places of them."""
    names = list(dict.fromkeys(srv.target for _, srv, _ in found))
    hosts = yield from _hosts(names, notes)
    places = tuple(
        Place(
            transport,
            host,
            srv.port,
            srv.target,
            f"{why} priority {srv.priority} weight {srv.weight}: {srv.target}",
        )
        for transport, srv, why in found
        for host in hosts[srv.target]
    )
    if places:
        return Located(places, notes.ttl)
    reason = f"{found[0][2]} leads to {', '.join(names)}, which has no address"
    if notes.failures:
        reason = f"{reason} ({notes.failures})"
    return Located((), notes.ttl, reason, bool(notes.failures))


def _direct(plan: Plan, notes: _Notes) -> Search:
    """Take the domain itself as a host (RFC 3263 section 4.2, last step)."""
    transport = plan.transports[0]
    port = plan.port or _DEFAULT_PORTS[transport]
    if is_address(plan.domain):
        return Located((Place(transport, plan.domain, port, plan.domain, "an address"),), notes.ttl)
    hosts = yield from _hosts([plan.domain], notes)
    places = tuple(
        Place(transport, host, port, plan.domain, f"address of {plan.domain}")
        for host in hosts[plan.domain]
    )
    if places:
        return Located(places, notes.ttl)
    return Located((), notes.ttl, _nothing(plan, notes), bool(notes.failures))


def _hosts(
    names: Sequence[str], notes: _Notes
) -> Generator[Sequence[Question], Mapping[Question, Answer], dict[str, list[str]]]:
    """Return the addresses of each name, IPv6 and IPv4 in turn."""
    asked = [name for name in names if not is_address(name)]
    questions = [Question(name, kind) for name in asked for kind in (RecordType.AAAA, RecordType.A)]
    answers = (yield questions) if questions else {}
    hosts = {name: [name] for name in names if is_address(name)}
    for name in asked:
        six, four = (
            [str(each) for each in notes.take(question, answers[question])]
            for question in (Question(name, RecordType.AAAA), Question(name, RecordType.A))
        )
        mixed: list[str] = []
        for position in range(max(len(six), len(four))):
            mixed += six[position : position + 1] + four[position : position + 1]
        hosts[name] = mixed[:ADDRESS_LIMIT]
    return hosts


def _nothing(plan: Plan, notes: _Notes) -> str:
    if notes.failures:
        return f"{plan.domain} cannot be looked up: {notes.failures}"
    if notes.refused:
        return notes.refused
    if not plan.standard:
        return f"{plan.domain} has no SRV record {FEDERATION}"
    if notes.unknown_name:
        return f"the domain {plan.domain} does not exist in the DNS"
    return f"{plan.domain} has no NAPTR, SRV or address record for SIP"


def run(search: Search, lookup: Lookup, done: Callable[[Located], None]) -> None:
    """Drive a search: ask its questions, each batch at once, until it ends."""
    _Run(search, lookup, done).go(None)


class _Run:
    def __init__(self, search: Search, lookup: Lookup, done: Callable[[Located], None]) -> None:
        self._search = search
        self._lookup = lookup
        self._done = done
        self._answers: dict[Question, Answer] = {}
        self._missing = 0

    def go(self, answers: Mapping[Question, Answer] | None) -> None:
        """Send answers in, ask what is wanted next."""
        try:
            questions = next(self._search) if answers is None else self._search.send(answers)
        except StopIteration as end:
            self._done(end.value)
            return
        self._answers = {}
        distinct = list(dict.fromkeys(questions))
        self._missing = len(distinct)
        if not distinct:
            self.go({})
            return
        for question in distinct:
            self._lookup(question, partial(self._arrived, question))

    def _arrived(self, question: Question, answer: Answer) -> None:
        self._answers[question] = answer
        self._missing -= 1
        if self._missing == 0:
            self.go(self._answers)
