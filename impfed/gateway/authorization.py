"""What the two people of a pair have allowed each other; durable (SPEC section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from impfed.gateway.surroundings import Writes
from impfed.store.api import Delete, Put
from impfed.store.records import AuthorizationRecord, Decision, Memo, pair_key
from impfed.xmpp.jid import JID

#: Local and foreign bare address.
Pair = tuple[JID, JID]


class Authorizations:
    """Decisions by pair; every change is written down at once.

    :param seconds: the time, in seconds since the epoch.
    """

    def __init__(self, store: Writes, seconds: Callable[[], float]) -> None:
        self._store = store
        self._seconds = seconds
        self._records: dict[JID, dict[JID, AuthorizationRecord]] = {}  # by local, then by foreign
        self._pending: dict[str, set[Pair]] = {}  # by foreign domain

    def load(self, records: Iterable[AuthorizationRecord], memo: Memo) -> None:
        """Take in what the store kept, sharing by ``memo``."""
        for record in records:
            record.share(memo)
            local, foreign = JID.parse(record.local), JID.parse(record.foreign)
            record.local, record.foreign = local.text, foreign.text  # one copy of each
            of_local = self._records.get(local)
            if of_local is None:
                of_local = self._records[local] = {}
            of_local[foreign] = record
            if record.inbound == "pending" or foreign.domain in self._pending:
                self._note_pending((local, foreign), record)

    def merge(self, theirs: AuthorizationRecord) -> None:
        """Take in what another node has written; what this one has decided after that stays, and goes there."""
        pair = (JID.parse(theirs.local), JID.parse(theirs.foreign))
        mine, later = self._found(pair), False
        if mine is not None and mine.inbound_at > theirs.inbound_at:
            later = mine.inbound != theirs.inbound
            theirs.inbound, theirs.inbound_at = mine.inbound, mine.inbound_at
        if mine is not None and mine.outbound_at > theirs.outbound_at:
            later = later or mine.outbound != theirs.outbound
            theirs.outbound, theirs.outbound_at = mine.outbound, mine.outbound_at
        self.load([theirs], {})
        if later:
            self._store.write([Put(theirs)])

    def gone(self, key: str) -> None:
        """Another node has removed a record.

        :param key: the record's, see :func:`~impfed.store.records.pair_key`.
        """
        local, _, foreign = key.partition("|")
        pair = (JID.parse(local), JID.parse(foreign))
        record = self._records.get(pair[0], {}).pop(pair[1], None)
        if record is not None:
            record.inbound = record.outbound = "none"
            self._note_pending(pair, record)

    def inbound(self, pair: Pair) -> Decision:
        """May the foreign user see the local one?"""
        record = self._found(pair)
        return record.inbound if record is not None else "none"

    def outbound(self, pair: Pair) -> Decision:
        """May the local user see the foreign one?"""
        record = self._found(pair)
        return record.outbound if record is not None else "none"

    def of(self, local: JID) -> list[AuthorizationRecord]:
        """Return a local user's records, in order of the foreign addresses."""
        return sorted(self._records.get(local, {}).values(), key=lambda record: record.foreign)

    def all(self) -> Iterator[AuthorizationRecord]:
        """Return every record."""
        return (record for records in self._records.values() for record in records.values())

    def locals(self) -> Iterable[JID]:
        """Return the local users of whom there are records."""
        return self._records.keys()

    def pending(self, domain: str, since: float = 0.0) -> int:
        """Return how many local users have not answered a request of a foreign domain.

        :param since: only requests of this time (seconds since the epoch) or later.
        """
        pairs = self._pending.get(domain, ())
        records = (self._records[local][foreign] for local, foreign in pairs)
        return sum(record.changed_at >= since for record in records)

    def domains_pending(self) -> dict[str, int]:
        """Return the number of unanswered requests by foreign domain."""
        return {domain: len(pairs) for domain, pairs in self._pending.items()}

    def forget(self, local: JID) -> int:
        """Forget everything about a local user who is no more; returns how many pairs."""
        records = list(self._records.get(local, {}).items())
        for foreign, record in records:
            record.inbound = record.outbound = "none"
            self._keep((local, foreign), record)
        return len(records)

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
            record.inbound_at = self._after(record.inbound_at)
            self._keep(pair, record)

    def decide_outbound(self, pair: Pair, decision: Decision) -> None:
        """Note what the foreign user decided."""
        record = self._record(pair)
        if record.outbound != decision:
            record.outbound = decision
            record.outbound_at = self._after(record.outbound_at)
            self._keep(pair, record)

    def _after(self, before: float) -> float:
        """Return the time, or a later one than another node's clock has said."""
        return max(self._seconds(), before + 0.001)

    def _found(self, pair: Pair) -> AuthorizationRecord | None:
        records = self._records.get(pair[0])
        return records.get(pair[1]) if records is not None else None

    def _record(self, pair: Pair) -> AuthorizationRecord:
        record = self._found(pair)
        return record or AuthorizationRecord(local=str(pair[0]), foreign=str(pair[1]))

    def _keep(self, pair: Pair, record: AuthorizationRecord) -> None:
        record.changed_at = max(record.inbound_at, record.outbound_at)
        self._note_pending(pair, record)
        local, foreign = pair
        if record.inbound == record.outbound == "none":
            records = self._records.get(local, {})
            records.pop(foreign, None)
            if not records:
                self._records.pop(local, None)
            self._store.write([Delete(AuthorizationRecord, pair_key(*map(str, pair)))])
        else:
            self._records.setdefault(local, {})[foreign] = record
            self._store.write([Put(record)])

    def _note_pending(self, pair: Pair, record: AuthorizationRecord) -> None:
        domain = pair[1].domain
        if record.inbound == "pending":
            self._pending.setdefault(domain, set()).add(pair)
        elif domain in self._pending:
            self._pending[domain].discard(pair)
            if not self._pending[domain]:
                del self._pending[domain]
