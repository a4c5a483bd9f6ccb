"""Texts on their way to foreign users: written down first, and never silently gone (SPEC section 3)."""

from __future__ import annotations

from collections.abc import Callable

from impfed.core.log import EventLog
from impfed.gateway.im_inbox import CHAT_STATES, NICK, RETRY
from impfed.gateway.im_text import OutText, ledger_entry, receipt, returned
from impfed.gateway.surroundings import Surroundings, message_id
from impfed.interwork.errors import Condition, explain, sip_to_xmpp
from impfed.sip.message import SipResponse
from impfed.store.api import Delete, Enter, Put, StoreError, StoreFault
from impfed.store.records import LedgerEntry, OutboxRecord, Outcome
from impfed.transport.handover import HandedOver
from impfed.transport.home import Delivery
from impfed.transport.home import Outcome as Handover
from impfed.xmpp.stanza import Stanza, error_reply

log = EventLog("impfed.gateway")

#: What our own routes say when they lead nowhere; the same of a far side is about the user.
_NO_WAY = frozenset((404, 482, 500))

_RECEIPTS = "urn:xmpp:receipts"
#: Texts that the node may have waiting before senders are told to try later.
_FULL = 50_000
#: Seconds that the end of a text may wait to be written: a crash within them sends it once more.
_REPEATED = 0.1
#: Writes waiting for the disk at which home servers are read no further, and read again.
_PAUSE_AT, _RESUME_AT = 4000, 1000


class Outbox:
    """Takes texts over from home servers and settles their fate.

    :param send: sends a record that is safely written; the second argument says whether its
        sender's client uses chat states.
    """

    def __init__(self, around: Surroundings, send: Callable[[OutboxRecord, bool], None]) -> None:
        self._around = around
        self._send = send
        self._waiting: dict[str, OutboxRecord] = {}
        self._handed = HandedOver()
        self._paused = False

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more should be taken over."""
        return len(self._waiting) >= _FULL

    def __len__(self) -> int:
        return len(self._waiting)

    def find(self, text: str) -> list[LedgerEntry]:
        """Return texts that are still on their way, by an id or an address, as ledger entries."""
        return [
            LedgerEntry(
                id=record.id,
                direction="out",
                local=record.local,
                foreign=record.foreign,
                stanza_id=record.stanza_id,
                node=self._around.config.node.name,
                received_at=record.received_at,
                detail="waiting for an answer of the far side",
            )
            for record in self._waiting.values()
            if text in (record.id, record.stanza_id, record.local, record.foreign)
        ]

    def has(self, stanza: Stanza) -> bool:
        """Whether a text has been taken over before: its home server did not hear of that."""
        if stanza.handed not in self._handed:
            return False
        self._around.metrics.count("im.out.came_again")
        return True

    def take_over(self, stanza: Stanza, body: str) -> None:
        """Write a text down; only then it is ours, and only then it goes on."""
        record = OutboxRecord(
            id=message_id(self._around),
            local=stanza.from_.bare.text,
            foreign=stanza.to.bare.text,
            body=body,
            stanza_id=stanza.id,
            stanza_from=stanza.from_.text,
            nick=stanza.text("nick", NICK) or "",
            lang=stanza.lang,
            receipt=bool(stanza.id) and stanza.child("request", _RECEIPTS) is not None,
            received_at=self._around.timers.seconds(),
            handed=stanza.handed,
        )
        chat_states = stanza.child("active", CHAT_STATES) is not None
        self._waiting[record.id] = record
        self._handed.add(record.handed, record.id)

        def written(error: BaseException | None) -> None:
            self._ease()
            if error is None:
                self._send(record, chat_states)
                return
            self._handed.remove(record.handed)  # so it is new when it comes again
            if self._waiting.pop(record.id, None) is None:
                return  # this node has lost its rights meanwhile; another one has what it had
            if isinstance(error, StoreError) and error.fault is StoreFault.UNSURE:
                # It may be there, and whoever restores it would send what its sender has back.
                self._around.store.write([Delete(OutboxRecord, record.key)])
            words = "the gateway cannot store it now"
            self.refuse(stanza, "resource-constraint", "wait", words)

        self._around.store.write([Put(record)], written)
        self._press()

    def refuse(self, stanza: Stanza, condition: str, type: str, words: str) -> None:
        """Send a stanza back that was never taken over."""
        self._around.metrics.count("im.out.refused")
        if not self._around.home.send(error_reply(stanza, condition, type, words)):
            log.warn("refusal_lost", "the home link went down before a refusal could be told")

    def restore(self, records: list[OutboxRecord]) -> None:
        """Send again what the last process left, in the order of its arrival."""
        for record in sorted(records, key=lambda each: each.id):
            if record.id in self._waiting:
                continue
            if not self._handed.add(record.handed, record.id):
                # The home server has sent it here, too, before this came from a node that died.
                self._around.store.write([Delete(OutboxRecord, record.key)])
                continue
            self._waiting[record.id] = record
            self._send(record, False)

    # -- in a cluster ------------------------------------------------------------------------------

    def waiting(self) -> list[OutboxRecord]:
        """Return the records of the texts without an end yet."""
        return list(self._waiting.values())

    def forget(self, id: str) -> None:
        """A text goes on from another node."""
        self._waiting.pop(id, None)

    def waits(self, record: OutboxRecord) -> bool:
        """Whether a text is without an end yet."""
        return self._waiting.get(record.id) is record

    # -- the end of a text -------------------------------------------------------------------------

    def keep(self, record: OutboxRecord) -> None:
        """Write down that a text goes once more."""
        self._around.store.write([Put(record)])

    def delivered(self, text: OutText, status: int) -> None:
        """The far side's server has taken all of a text."""
        record = text.record
        if record is None:
            return
        if record.receipt:
            self._around.home.send(receipt(record))
        words = "sent twice; the first attempt may have arrived too" if record.unsure else ""
        self._settle(text, record, "delivered", status, "", words)

    def refused(self, text: OutText, response: SipResponse) -> None:
        """The far side refused a text: its sender is told why."""
        condition = sip_to_xmpp(response.status)
        self.give_back(text, condition, response.status, explain(response))

    def unanswered(self, text: OutText, words: str, status: int = 408) -> None:
        """The far side could not be reached, or never answered.

        :param status: what the routes say of it; some of these say that there is no way to the domain.
        """
        condition = sip_to_xmpp(status)
        if status in _NO_WAY:
            condition = Condition("remote-server-not-found", "cancel")
        self.give_back(text, condition, 0, words)

    def held_back(self, text: OutText, words: str) -> None:
        """The partner's budget did not allow it: the sender may try again later."""
        self.give_back(text, Condition("resource-constraint", "wait"), 0, words)

    def give_back(self, text: OutText, condition: Condition, status: int, words: str) -> None:
        """Return a text to its sender; it stays written down until his server has the error."""
        record = text.record
        if record is None:
            return
        if text.sent:
            words = f"{words} (the first {text.sent} of {len(text.parts)} parts were delivered)"
        if record.unsure:
            words = f"{words} (an earlier attempt may have been delivered)"
        self._give_back(text, record, condition, status, words)

    def _give_back(
        self, text: OutText, record: OutboxRecord, condition: Condition, status: int, words: str
    ) -> None:
        def decided(delivery: Delivery) -> None:
            if delivery.outcome in (Handover.UNSURE, Handover.NOT_SENT):
                self._around.timers.after(
                    RETRY, self._give_back, text, record, condition, status, words
                )
                return
            outcome: Outcome = "unsure" if record.unsure else "bounced"
            self._settle(text, record, outcome, status, condition.condition, words)

        self._around.home.deliver(returned(record, condition, words), decided)

    def _settle(
        self,
        text: OutText,
        record: OutboxRecord,
        outcome: Outcome,
        status: int,
        condition: str,
        words: str,
    ) -> None:
        around = self._around
        self._waiting.pop(record.id, None)
        around.metrics.count(f"im.out.{outcome}")
        node, now = around.config.node.name, around.timers.seconds()
        entry = ledger_entry(
            text, record, outcome, node, now, sip_status=status, condition=condition, detail=words
        )
        around.store.write([Delete(OutboxRecord, record.key), Enter(entry)], within=_REPEATED)

    # -- back-pressure -----------------------------------------------------------------------------

    def _press(self) -> None:
        if not self._paused and self._around.store.backlog > _PAUSE_AT:
            self._paused = True
            self._around.home.pause()

    def _ease(self) -> None:
        if self._paused and self._around.store.backlog < _RESUME_AT:
            self._paused = False
            self._around.home.resume()
