"""One text on its way from a home server to a foreign user, and what its sender is told of it."""

from __future__ import annotations

from impfed.interwork.errors import Condition
from impfed.interwork.text import split_text
from impfed.store.records import LedgerEntry, OutboxRecord, Outcome
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, message, message_error
from impfed.xmpp.xmltext import xml_attr

_RECEIPTS = "urn:xmpp:receipts"


class OutText:
    """A text with its parts (SPEC section 3: long texts go as several MESSAGEs).

    :ivar record: the durable record; None for a notice of our own, which nobody waits for.
    :ivar sent: how many parts the far side has taken.
    :ivar call_id: Call-ID of the dialog it was last sent in.
    :ivar cseq: CSeq number of its last MESSAGE.
    """

    __slots__ = ("call_id", "cseq", "parts", "record", "sent")

    def __init__(self, record: OutboxRecord | None, body: str, limit: int) -> None:
        self.record = record
        self.parts = split_text(body, limit)
        self.sent = 0
        self.call_id = ""
        self.cseq = 0

    @property
    def part(self) -> str:
        """The part to be sent next."""
        return self.parts[self.sent]


def ledger_entry(
    text: OutText,
    record: OutboxRecord,
    outcome: Outcome,
    node: str,
    now: float,
    *,
    sip_status: int = 0,
    condition: str = "",
    detail: str = "",
) -> LedgerEntry:
    """Return the ledger's line for a text whose fate is settled."""
    return LedgerEntry(
        id=record.id,
        direction="out",
        local=record.local,
        foreign=record.foreign,
        stanza_id=record.stanza_id,
        call_id=text.call_id,
        cseq=text.cseq,
        node=node,
        received_at=record.received_at,
        finished_at=now,
        outcome=outcome,
        sip_status=sip_status,
        xmpp_condition=condition,
        detail=detail,
    )


def receipt(record: OutboxRecord) -> OutStanza:
    """Return the XEP-0184 receipt of a text that the far side's server has taken."""
    return message(
        JID.parse(record.stanza_from),
        JID.parse(record.foreign),
        id=f"{record.id}-receipt",
        type="",
        payload=f'<received xmlns="{_RECEIPTS}" id="{xml_attr(record.stanza_id)}"/>',
    )


def returned(record: OutboxRecord, condition: Condition, words: str) -> OutStanza:
    """Return the error stanza for a text, with the original id and body (RFC 7247 section 7)."""
    return message_error(
        JID.parse(record.stanza_from),
        JID.parse(record.foreign),
        id=record.stanza_id,
        condition=condition.condition,
        type=condition.type,
        text=words,
        body=record.body,
        lang=record.lang,
    )
