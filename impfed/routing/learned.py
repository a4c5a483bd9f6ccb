"""The domains that open federation has learned: kept in the store, listed, removable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

from twisted.internet.defer import Deferred

from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.store.api import Change, Delete, Done, Put
from impfed.store.records import LearnedDomainRecord, Record

log = EventLog("impfed.routing")

Protocols = Literal["xmpp", "sip"]

#: Most domains that are remembered: strangers must not fill the memory.
CAPACITY = 10000


class Records(Protocol):
    """The part of the store that is used here."""

    def load(self, kind: type[LearnedDomainRecord]) -> Deferred[list[LearnedDomainRecord]]:
        """Return every record of a kind."""
        ...

    def write(self, changes: Sequence[Change], done: Done | None = None) -> None:
        """Make changes."""
        ...


class LearnedDomains:
    """What worked for domains that nobody configured.

    A finding that no traffic has proven is kept for a while only, in memory; what has worked goes to
    the store and stays until somebody removes it.

    :param seconds: tells the time.
    :param remember: seconds for which an unproven finding is kept.
    """

    def __init__(
        self,
        store: Records,
        seconds: Callable[[], float],
        metrics: Metrics,
        remember: float = 600.0,
        capacity: int = CAPACITY,
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._metrics = metrics
        self._remember = remember
        self._capacity = capacity
        self._proven: dict[str, LearnedDomainRecord] = {}
        self._found: dict[str, tuple[Protocols, float]] = {}

    def load(self) -> Deferred[None]:
        """Read what an earlier life has learned."""

        def loaded(records: list[LearnedDomainRecord]) -> None:
            self._proven = {record.domain: record for record in records}

        return self._store.load(LearnedDomainRecord).addCallback(loaded)

    def protocol(self, domain: str) -> Protocols | None:
        """Return what is known of a domain, proven or just found."""
        record = self._proven.get(domain)
        if record is not None:
            return record.protocol
        found = self._found.get(domain)
        if found is None:
            return None
        if found[1] <= self._seconds():
            del self._found[domain]
            return None
        return found[0]

    def proven(self, domain: str) -> bool:
        """Say whether something has worked with a domain."""
        return domain in self._proven

    def found(self, domain: str, protocol: Protocols) -> None:
        """Note what a probe said, for a while."""
        if len(self._found) >= self._capacity:
            now = self._seconds()
            self._found = {key: value for key, value in self._found.items() if value[1] > now}
            if len(self._found) >= self._capacity:
                self._metrics.count("routing.learned_full")
                return
        self._found[domain] = (protocol, self._seconds() + self._remember)

    def worked(self, domain: str, protocol: Protocols) -> None:
        """Note that something reached a domain: the first protocol that does so is written down."""
        if domain in self._proven or self._found.get(domain, (None,))[0] != protocol:
            return
        if len(self._proven) >= self._capacity:
            self._metrics.count("routing.learned_full")
            return
        del self._found[domain]
        record = LearnedDomainRecord(domain, protocol, self._seconds())
        self._proven[domain] = record
        self._store.write([Put(record)])
        log.info(
            "domain_learned",
            "{domain} is reached over {protocol} from now on (open federation)",
            domain=domain,
            protocol=protocol,
        )

    def remove(self, domain: str) -> bool:
        """Forget a domain, so that it is tried anew; says whether it was known."""
        known = self._found.pop(domain, None) is not None
        if self._proven.pop(domain, None) is not None:
            self._store.write([Delete(LearnedDomainRecord, domain)])
            known = True
        return known

    # -- in a cluster (a :class:`impfed.gateway.commons.Keeper`) -----------------------------------

    kinds: tuple[type[Record], ...] = (LearnedDomainRecord,)

    def records(self, kind: type[Record]) -> Iterable[Record]:
        """Return what has worked."""
        return self._proven.values()

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        """Another node has learned a domain, or was told to forget it."""
        self._found.pop(key, None)
        if isinstance(record, LearnedDomainRecord):
            self._proven[key] = record
        else:
            self._proven.pop(key, None)

    # -- for operators -----------------------------------------------------------------------------

    def view(self) -> list[dict[str, Any]]:
        """Return a dict for each domain: name, protocol, since when, and whether it is proven."""
        now = self._seconds()
        lines = [
            (each.domain, each.protocol, each.learned_at, True) for each in self._proven.values()
        ]
        for domain, (protocol, until) in self._found.items():
            if until > now:
                lines.append((domain, protocol, until - self._remember, False))
        names = ("domain", "protocol", "learned_at", "proven")
        return [dict(zip(names, line, strict=True)) for line in sorted(lines)]
