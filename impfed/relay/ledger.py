"""Relayed texts in the delivery ledger: who, when, which way, and what became of each; never the body.

What is known of a text on its way out ends at the foreign server: it has acknowledged the stanza
(XEP-0198), or we have written it to a stream that acknowledges nothing.  An error that comes back for
it is entered then.  A text that has to wait is written down, and outlives this process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.store.api import Change, Delete, Done, Enter, Put
from impfed.store.records import LedgerEntry, Outcome, RelayedTextRecord
from impfed.transport.s2s_api import Fate
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, error_of

#: Seconds that a line may wait for others: a crash costs so much history, no text.
_GATHERED = 0.1
#: Texts remembered, so that an error that comes back can be told of.
_REMEMBERED = 20_000
_NO_TEXT = ("error", "groupchat")  # what is said in a room is between nobody in particular


class Writes(Protocol):
    """The part of the store that is used here."""

    def write(
        self, changes: list[Change], done: Done | None = None, *, within: float = 0.0
    ) -> None:
        """Make changes, all or none; see :class:`impfed.store.api.IStore`."""
        ...


class NotedStanza(OutStanza):
    """A text on its way out, with its line of the ledger.

    :ivar kept: whether it is in the store, in case this process dies.
    :ivar handed: marks its hand-over by the home server; see :class:`.Stanza`.
    """

    entry: LedgerEntry
    kept: bool = False
    handed: str = ""


_Key = tuple[str, str, str, str]


class TextLedger:
    """Enters relayed texts.

    :param node: the node's name.
    :param seconds: the time, in seconds since the epoch.
    :ivar kept: is told of each text that waits and would now survive this process.
    :ivar waiting: texts that wait for a stream, by their ids.
    :ivar diverts: whether what S2S returns may go another way, and no error comes of it.
    """

    kept: Callable[[OutStanza], None] = staticmethod(lambda stanza: None)
    diverts = False

    def __init__(
        self,
        store: Writes,
        node: str,
        ids: IdSource,
        seconds: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._node = node
        self._ids = ids
        self._seconds = seconds
        self._metrics = metrics
        self._open: dict[str, LedgerEntry] = {}
        self._recent: OrderedDict[_Key, LedgerEntry] = OrderedDict()
        self.waiting: dict[str, NotedStanza] = {}
        # Texts that are returned, by the errors that tell of them.
        self._returning: dict[tuple[str, str, str], str] = {}

    def find(self, text: str) -> list[LedgerEntry]:
        """Return texts whose end is open, by an id or an address, newest first."""
        found = [
            entry
            for entry in self._open.values()
            if text in (entry.id, entry.stanza_id, entry.local, entry.foreign)
        ]
        return found[::-1]

    # -- to foreign servers ------------------------------------------------------------------------

    def leaving(self, stanza: Stanza, xml: str) -> OutStanza:
        """Return a local user's message for S2S; a text is noted."""
        entry = self._entry(stanza, "out", stanza.from_.bare, stanza.to.bare)
        fields = (stanza.kind, stanza.to, stanza.from_, stanza.id, xml)
        if entry is None:
            return OutStanza(*fields)
        noted = NotedStanza(*fields)
        noted.entry, noted.handed = entry, stanza.handed
        entry.detail = f"waiting for a stream to {stanza.to.domain}"
        return noted

    def fate(self, stanza: OutStanza, fate: Fate, condition: str, words: str) -> None:
        """Take what S2S tells of a stanza; see :data:`impfed.transport.s2s_api.FateTeller`."""
        if not isinstance(stanza, NotedStanza):
            return
        if fate is Fate.WAITING:
            self._keep(stanza)
            return
        self.waiting.pop(stanza.entry.id, None)
        outcome: Outcome = "written" if fate is Fate.WRITTEN else "acknowledged"
        if fate is Fate.RETURNED:
            outcome = "bounced"
        if stanza.kept:
            stanza.kept = False
            if fate is Fate.RETURNED and stanza.id and not self.diverts:
                # Until its sender knows: this process may die before that.
                error = (stanza.id, stanza.from_.text, stanza.to.text)
                self._returning[error] = stanza.entry.id
            else:
                self._drop(stanza.entry.id)
        self.end(stanza.entry, outcome, condition, words)

    def returning(self, error: Stanza) -> Callable[[], None] | None:
        """Return what to call when an error of S2S has told the sender of a kept text; None for others."""
        id = self._returning.pop((error.id, error.to.text, error.from_.text), None)
        return None if id is None else partial(self._drop, id)

    def _drop(self, id: str) -> None:
        self._store.write([Delete(RelayedTextRecord, id)], within=_GATHERED)

    def _keep(self, stanza: NotedStanza) -> None:
        entry = stanza.entry
        entry.outcome, entry.detail = "queued", f"waiting for a stream to {stanza.to.domain}"
        self._open[entry.id] = entry
        self.waiting[entry.id] = stanza
        if stanza.kept:
            return
        stanza.kept = True

        def written(error: BaseException | None) -> None:
            if error is None:
                self.kept(stanza)

        self._store.write([Put(_record(stanza))], written)

    def kept_texts(self) -> Iterator[Change]:
        """Yield the texts that wait, as they have to be in the store."""
        for stanza in list(self.waiting.values()):
            if stanza.kept and self.waiting.get(stanza.entry.id) is stanza:
                yield Put(_record(stanza))

    def forget(self, stanza: OutStanza) -> None:
        """A text that waits is another node's now, with its record."""
        if isinstance(stanza, NotedStanza):
            self.waiting.pop(stanza.entry.id, None)
            self._open.pop(stanza.entry.id, None)

    def restored(self, record: RelayedTextRecord) -> NotedStanza:
        """Return a text that an earlier process has left behind, noted as before."""
        local, foreign = JID.parse(record.local), JID.parse(record.foreign)
        stanza = NotedStanza("message", foreign, local, record.stanza_id, record.xml)
        stanza.kept, stanza.handed = True, record.handed
        self.waiting[record.id] = stanza
        stanza.entry = self._noted(
            LedgerEntry(
                id=record.id,
                direction="out",
                local=local.bare.text,
                foreign=foreign.bare.text,
                stanza_id=record.stanza_id,
                node=self._node,
                received_at=record.received_at,
                detail="left by the last process",
                far="xmpp",
            )
        )
        return stanza

    def refused(self, stanza: Stanza, condition: str, words: str) -> None:
        """A local user's message was refused here."""
        entry = self._entry(stanza, "out", stanza.from_.bare, stanza.to.bare)
        if entry is not None:
            self.end(entry, "bounced", condition, words)

    # -- to home servers ---------------------------------------------------------------------------

    def arriving(self, stanza: Stanza) -> LedgerEntry | None:
        """Note a foreign user's text; None for what is none."""
        return self._entry(stanza, "in", stanza.to.bare, stanza.from_.bare)

    def end(
        self, entry: LedgerEntry, outcome: Outcome, condition: str = "", words: str = ""
    ) -> None:
        """Enter what became of a text."""
        self._open.pop(entry.id, None)
        entry.outcome, entry.xmpp_condition, entry.detail = outcome, condition, words
        entry.finished_at = self._seconds()
        self._metrics.count(f"relay.texts.{entry.direction}.{outcome}")
        self._store.write([Enter(entry)], within=_GATHERED)

    # -- errors that come back ---------------------------------------------------------------------

    def error_passed(self, stanza: Stanza, inward: bool) -> None:
        """Take note of a message of type error on its way to who has written the text.

        :param inward: whether it is on its way to a local user.
        """
        local, foreign = (stanza.to, stanza.from_) if inward else (stanza.from_, stanza.to)
        key = ("out" if inward else "in", stanza.id, local.bare.text, foreign.bare.text)
        entry = self._recent.pop(key, None)
        if entry is not None:
            error = error_of(stanza)
            who = "the foreign server" if inward else "the home server"
            words = f"{who} returned it" + (f": {error.text}" if error.text else "")
            self.end(entry, "bounced", error.condition, words)

    def _entry(
        self, stanza: Stanza, direction: str, local: JID, foreign: JID
    ) -> LedgerEntry | None:
        if stanza.type in _NO_TEXT or stanza.text("body") is None:
            return None
        now = self._seconds()
        entry = LedgerEntry(
            id=self._ids.ordered(now),
            direction="out" if direction == "out" else "in",
            local=local.text,
            foreign=foreign.text,
            stanza_id=stanza.id,
            node=self._node,
            received_at=now,
            far="xmpp",
        )
        return self._noted(entry)

    def _noted(self, entry: LedgerEntry) -> LedgerEntry:
        self._open[entry.id] = entry
        if entry.stanza_id:
            key = (entry.direction, entry.stanza_id, entry.local, entry.foreign)
            self._recent[key] = entry
            if len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)
        return entry


def _record(stanza: NotedStanza) -> RelayedTextRecord:
    return RelayedTextRecord(
        id=stanza.entry.id,
        local=stanza.from_.text,
        foreign=stanza.to.text,
        stanza_id=stanza.id,
        xml=stanza.xml,
        received_at=stanza.entry.received_at,
        handed=stanza.handed,
    )
