"""What the two people of a pair have allowed each other; durable (SPEC section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from impfed.gateway.surroundings import Writes
from impfed.store.api import Delete, Put
from impfed.store.records import AuthorizationRecord, Decision, pair_key
from impfed.xmpp.jid import JID

Pair = tuple[JID, JID]
"""Local and foreign bare address."""


class Authorizations:
    """Decisions by pair; every change is written down at once.

    :param seconds: the time, in seconds since the epoch.
    """

    def __init__(self, store: Writes, seconds: Callable[[], float]) -> None:
        self._store = store
        self._seconds = seconds
        self._records: dict[Pair, AuthorizationRecord] = {}
        self._pending: dict[str, set[Pair]] = {}  # by foreign domain

    def load(self, records: Iterable[AuthorizationRecord]) -> None:
        """Take in what the store kept."""
        for record in records:
            pair = (JID.parse(record.local), JID.parse(record.foreign))
            self._records[pair] = record
            self._note_pending(pair, record)

    def inbound(self, pair: Pair) -> Decision:
        """May the foreign user see the local one?"""
        record = self._records.get(pair)
        return record.inbound if record is not None else "none"

    def outbound(self, pair: Pair) -> Decision:
        """May the local user see the foreign one?"""
        record = self._records.get(pair)
        return record.outbound if record is not None else "none"

    def of(self, local: JID) -> list[AuthorizationRecord]:
        """Return a local user's records, in order of the foreign addresses."""
        found = [record for (owner, _), record in self._records.items() if owner == local]
        return sorted(found, key=lambda record: record.foreign)

    def pending(self, domain: str, since: float = 0.0) -> int:
        """Return how many local users have not answered a request of a foreign domain.

        :param since: only requests of this time (seconds since the epoch) or later.
        """
        pairs = self._pending.get(domain, ())
        return sum(self._records[pair].changed_at >= since for pair in pairs)

    def domains_pending(self) -> dict[str, int]:
        """Return the number of unanswered requests by foreign domain."""
        return {domain: len(pairs) for domain, pairs in self._pending.items()}

    def forget(self, local: JID) -> int:
        """Forget everything about a local user who is no more; returns how many pairs."""
        pairs = [pair for pair in self._records if pair[0] == local]
        for pair in pairs:
            record = self._records[pair]
            record.inbound = record.outbound = "none"
            self._keep(pair, record)
        return len(pairs)

    def rename(self, old: JID, new: JID) -> int:
        """Give a local user's authorizations to another address; returns how many pairs.

        What foreign users have allowed the old address is asked for again, for they have not seen
        the new one.
        """
        records = self.of(old)
        for record in records:
            pair = (new, JID.parse(record.foreign))
            if record.inbound != "none" and self.inbound(pair) == "none":
                self.decide_inbound(pair, record.inbound)
            if record.outbound == "declined" and self.outbound(pair) == "none":
                self.decide_outbound(pair, record.outbound)
        self.forget(old)
        return len(records)

    def decide_inbound(self, pair: Pair, decision: Decision) -> None:
        """Note what the local user decided."""
        record = self._record(pair)
        if record.inbound != decision:
            record.inbound = decision
            self._keep(pair, record)

    def decide_outbound(self, pair: Pair, decision: Decision) -> None:
        """Note what the foreign user decided."""
        record = self._record(pair)
        if record.outbound != decision:
            record.outbound = decision
            self._keep(pair, record)

    def _record(self, pair: Pair) -> AuthorizationRecord:
        record = self._records.get(pair)
        return record or AuthorizationRecord(local=str(pair[0]), foreign=str(pair[1]))

    def _keep(self, pair: Pair, record: AuthorizationRecord) -> None:
        record.changed_at = self._seconds()
        self._note_pending(pair, record)
        if record.inbound == record.outbound == "none":
            self._records.pop(pair, None)
            self._store.write([Delete(AuthorizationRecord, pair_key(*map(str, pair)))])
        else:
            self._records[pair] = record
            self._store.write([Put(record)])

    def _note_pending(self, pair: Pair, record: AuthorizationRecord) -> None:
        domain = pair[1].domain
        if record.inbound == "pending":
            self._pending.setdefault(domain, set()).add(pair)
        elif domain in self._pending:
            self._pending[domain].discard(pair)
            if not self._pending[domain]:
                del self._pending[domain]
