"""Texts on their way to local users, and what their senders are told of them (SPEC section 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from impfed.core.errors import RemoteError
from impfed.core.log import EventLog
from impfed.gateway.surroundings import Surroundings, message_id
from impfed.interwork.errors import xmpp_to_sip
from impfed.interwork.text import IncomingText
from impfed.sip.message import SipRequest
from impfed.sip.transaction import ServerTransaction
from impfed.store.api import Change, Delete, Enter
from impfed.store.records import HeldTextRecord, LedgerEntry
from impfed.transport.home import Delivery, Outcome
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, error_of, message
from impfed.xmpp.xmltext import xml_attr, xml_text

log = EventLog("impfed.gateway")

CHAT_STATES = "http://jabber.org/protocol/chatstates"
NICK = "http://jabber.org/protocol/nick"
_DELAY = "urn:xmpp:delay"
#: What a peer is told when we cannot take a text now.
BUSY = (("Retry-After", "10"),)
#: Seconds after which what the home link could not take is offered again.
RETRY = 5.0
#: Seconds that a line of the ledger may wait for others: a crash costs so much history, no text.
_LEDGER = 0.1
#: Delivered texts remembered, so that an error that comes late can be told to the sender.
_REMEMBERED = 20_000


class Inbox:
    """Hands texts to home servers under the acceptance barrier.

    :param tell: says something of our own to a foreign user inside his session with a local one.
    """

    def __init__(self, around: Surroundings, tell: Callable[[JID, JID, str], None]) -> None:
        self._around = around
        self._tell = tell
        self._held: dict[str, HeldTextRecord] = {}
        self._recent: OrderedDict[str, tuple[JID, JID]] = OrderedDict()
        #: Says why a foreign user's texts to a local one are stopped; "" when they are not.
        self.stopped: Callable[[JID, JID], str] = lambda local, foreign: ""

    def deliver(
        self,
        local: JID,
        foreign: JID,
        transaction: ServerTransaction,
        request: SipRequest,
        text: IncomingText,
    ) -> None:
        """Hand a text to the home server; the MESSAGE is answered when the server has decided.

        200 means that it accepted the stanza; without a decision the answer is 480 and the ledger
        says *unsure*.

        :raises RemoteError: 480 while the home link has enough to do.
        """
        around = self._around
        blocked = self.stopped(local, foreign)
        if not blocked and around.home.congested(local.domain, foreign.domain):
            raise RemoteError(480, "Temporarily Unavailable", BUSY)
        entry = LedgerEntry(
            id=message_id(around),
            direction="in",
            local=local.text,
            foreign=foreign.text,
            call_id=request.call_id,
            cseq=request.cseq.number,
            node=around.config.node.name,
            received_at=around.timers.seconds(),
        )
        if blocked:
            self._stop_text(transaction, entry, blocked)
            return
        entry.stanza_id = entry.id

        def decided(delivery: Delivery) -> None:
            self._decided(transaction, entry, (local, foreign), delivery)

        stanza = incoming(entry.id, local, foreign, text, request.from_.display)
        around.home.deliver(stanza, decided)

    @property
    def refuses(self) -> bool:
        """Whether a blocked person's texts are refused, not taken and thrown away."""
        return self._around.config.im.blocked_texts == "refuse"

    def _stop_text(self, transaction: ServerTransaction, entry: LedgerEntry, why: str) -> None:
        """The recipient blocks the sender, who is told that it was not delivered, and not why."""
        entry.detail = f"its sender is blocked: {why}"
        entry.outcome, entry.sip_status = ("bounced", 480) if self.refuses else ("discarded", 200)
        self._around.metrics.count(f"gate.texts.{'refused' if self.refuses else 'discarded'}")
        log.info(
            "text_stopped",
            "a text from {foreign} to {local} is stopped: {why}",
            foreign=entry.foreign,
            local=entry.local,
            why=why,
            conversation=entry.call_id,
        )
        self._around.stack.respond(transaction, entry.sip_status)
        self._settle(entry, [])

    def _decided(
        self,
        transaction: ServerTransaction,
        entry: LedgerEntry,
        pair: tuple[JID, JID],
        delivery: Delivery,
    ) -> None:
        around = self._around
        if delivery.outcome is Outcome.ACCEPTED:
            entry.outcome, entry.sip_status = "delivered", 200
            self._remember(entry.id, pair)
            around.stack.respond(transaction, 200)
        elif delivery.outcome is Outcome.REFUSED:
            error = xmpp_to_sip(delivery.condition)
            entry.outcome, entry.sip_status = "bounced", error.status
            entry.xmpp_condition, entry.detail = delivery.condition, delivery.text
            around.stack.respond(transaction, error.status, error.reason, headers=error.headers)
        else:
            entry.outcome = "unsure" if delivery.outcome is Outcome.UNSURE else "bounced"
            entry.sip_status, entry.detail = 480, delivery.text
            around.stack.respond(transaction, 480, headers=BUSY)
        self._settle(entry, [])

    def held(self) -> list[HeldTextRecord]:
        """Return the texts out of INVITEs of which a home server has not decided."""
        return list(self._held.values())

    def deliver_held(self, held: HeldTextRecord) -> None:
        """Deliver a text that came only inside an INVITE; kept until a home server has decided."""
        self._held[held.id] = held
        hold = self._around.config.im.embedded_text_hold
        local, foreign = JID.parse(held.local), JID.parse(held.foreign)
        entry = LedgerEntry(
            id=held.id,
            direction="in",
            local=held.local,
            foreign=held.foreign,
            stanza_id=held.id,
            call_id=held.call_id,
            node=self._around.config.node.name,
            received_at=held.due - hold,
            detail="embedded in the INVITE, never repeated as MESSAGE",
        )
        blocked = self.stopped(local, foreign)
        if blocked:  # since the INVITE came
            self._held.pop(held.id, None)
            entry.outcome = "bounced" if self.refuses else "discarded"
            entry.detail = f"its sender is blocked: {blocked}"
            self._around.metrics.count(f"gate.texts.{'refused' if self.refuses else 'discarded'}")
            if self.refuses:
                self._refused_late(local, foreign, "recipient-unavailable", "")
            self._settle(entry, [Delete(HeldTextRecord, held.key)])
            return

        def decided(delivery: Delivery) -> None:
            if delivery.outcome in (Outcome.UNSURE, Outcome.NOT_SENT):
                self._around.timers.after(RETRY, self.retry_held, held)
                return
            self._held.pop(held.id, None)
            if delivery.outcome is Outcome.ACCEPTED:
                entry.outcome = "delivered"
                self._remember(held.id, (local, foreign))
            else:
                entry.outcome, entry.xmpp_condition = "bounced", delivery.condition
                self._refused_late(local, foreign, delivery.condition, delivery.text)
            self._settle(entry, [Delete(HeldTextRecord, held.key)])

        text = IncomingText(held.text)
        stanza = incoming(held.id, local, foreign, text, "", delayed_since=entry.received_at)
        self._around.home.deliver(stanza, decided)

    def retry_held(self, held: HeldTextRecord) -> None:
        """Try again what no home link could take."""
        if held.id in self._held:
            self.deliver_held(held)

    def error_arrived(self, stanza: Stanza) -> None:
        """The home server changed its mind about a text that it had accepted."""
        pair = self._recent.pop(stanza.id, None)
        if pair is not None:
            error = error_of(stanza)
            self._refused_late(*pair, error.condition, error.text)

    def _refused_late(self, local: JID, foreign: JID, condition: str, words: str) -> None:
        self._around.metrics.count("im.in.late_error")
        log.warn(
            "late_error",
            "a text from {foreign} to {local} was accepted and then refused: {condition}",
            foreign=foreign.text,
            local=local.text,
            condition=condition,
        )
        reason = words or condition.replace("-", " ")
        self._tell(local, foreign, f"Your last message to {local} could not be delivered: {reason}")

    def _settle(self, entry: LedgerEntry, changes: list[Change]) -> None:
        entry.finished_at = self._around.timers.seconds()
        self._around.metrics.count(f"im.in.{entry.outcome}")
        self._around.store.write([*changes, Enter(entry)], within=_LEDGER)

    def _remember(self, id: str, pair: tuple[JID, JID]) -> None:
        self._recent[id] = pair
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)


def incoming(
    id: str,
    local: JID,
    foreign: JID,
    text: IncomingText,
    display: str,
    delayed_since: float = 0.0,
) -> OutStanza:
    """Return the stanza for a text of a foreign user.

    :param display: his display name, shown as XEP-0172 says.
    :param delayed_since: when it reached us, if it goes on late (XEP-0203).
    """
    payload = f'{text.xhtml}<active xmlns="{CHAT_STATES}"/>'
    if display:
        payload += f'<nick xmlns="{NICK}">{xml_text(display)}</nick>'
    if delayed_since:
        stamp = datetime.fromtimestamp(delayed_since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        payload += f'<delay xmlns="{_DELAY}" from="{xml_attr(foreign.domain)}" stamp="{stamp}"/>'
    return message(local, foreign, id=id, body=text.plain, payload=payload)
