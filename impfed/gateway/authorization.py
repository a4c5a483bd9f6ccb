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

    def load(self, records: Iterable[AuthorizationRecord]) -> None:
        """Take in what the store kept."""
        for record in records:
            self._records[JID.parse(record.local), JID.parse(record.foreign)] = record

    def inbound(self, pair: Pair) -> Decision:
        """May the foreign user see the local one?"""
        record = self._records.get(pair)
        return record.inbound if record is not None else "none"

    def outbound(self, pair: Pair) -> Decision:
        """May the local user see the foreign one?"""
        record = self._records.get(pair)
        return record.outbound if record is not None else "none"

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
        if record.inbound == record.outbound == "none":
            self._records.pop(pair, None)
            self._store.write([Delete(AuthorizationRecord, pair_key(*map(str, pair)))])
        else:
            self._records[pair] = record
            self._store.write([Put(record)])
