"""Messages on their way to home servers: confirmed, sent again, or returned, never silently gone.

Each goes under the acceptance barrier.  One that was on its way when the link broke goes again, first
of all, when the link is back, and may so come twice; after a while it is returned to its sender.  An
error that tells a local user that his message has not arrived cannot be returned to anybody: it waits
for longer, and goes again, too, when a link that still seems to stand has not confirmed it, or has no
room for it.  An error stanza of the home server passes by itself, like everything that it sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.timers import Timer
from impfed.relay.ledger import TextLedger
from impfed.store.records import LedgerEntry
from impfed.transport.home import Delivery, HomeLinks, Outcome
from impfed.xmpp.stanza import OutStanza

log = EventLog("impfed.relay")

#: Seconds for which a message whose link broke waits for the link to come back.
HOLD = 30.0
#: Seconds from its coming on for which a link that breaks has it sent again: a home server may take links
#: and messages, and confirm nothing.
LAST_AGAIN = 60.0
#: Seconds for which an error waits that tells a local user that his message has not arrived.
HOLD_ERRORS = 600.0
#: Messages that may wait so, altogether.
HELD_LIMIT = 10_000
#: Seconds after which a foreign server is told what we have taken, though a home server has not
#: confirmed it yet: it would give our stream up.
SETTLE = 10.0

#: Notes the error that goes to a foreign server now, and returns it.
Leaving = Callable[[OutStanza], OutStanza]


class Return(Protocol):
    """Returns a message to its foreign sender."""

    def __call__(self, stanza: OutStanza, condition: str, words: str, leaving: Leaving, /) -> bool:
        """Send an error, noted by ``leaving``; False if the message is one that gets none."""
        ...


class Deliveries:
    """Hands messages to home servers.

    :param timers: tells the time and calls later.
    :param give_back: returns a message to its foreign sender.
    """

    def __init__(
        self,
        home: HomeLinks,
        ledger: TextLedger,
        give_back: Return,
        ids: IdSource,
        metrics: Metrics,
        timers: Any,
    ) -> None:
        self._home = home
        self._ledger = ledger
        self._give_back = give_back
        self._ids = ids
        self._metrics = metrics
        self._timers = timers
        self._count = 0
        # Messages without an end by their numbers, oldest first: when they came.
        self._open: dict[int, float] = {}
        self._ends: dict[int, Callable[[], None]] = {}
        self._held: deque[tuple[float, int, OutStanza, LedgerEntry | None]] = deque()
        self._timer: Timer | None = None
        # By identity, as S2S tells their fate: errors on their way, with the numbers of the messages.
        self._returning: dict[int, tuple[int, OutStanza]] = {}
        self._settling: deque[tuple[int, Callable[[], None], Timer]] = deque()

    def deliver(
        self,
        stanza: OutStanza,
        entry: LedgerEntry | None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        """Hand a message over; its sender hears of it if that cannot be.

        :param entry: its line of the ledger, None for what has none.
        :param ended: called when the message has come to its end.
        """
        self._count += 1
        self._open[self._count] = self._timers.seconds()
        if ended is not None:
            self._ends[self._count] = ended
        self._send(self._count, stanza, entry)

    def _send(self, number: int, stanza: OutStanza, entry: LedgerEntry | None) -> None:
        # The barrier tells messages apart by their id, which is here their sender's affair.
        own = stanza._replace(id="r" + self._ids.token(6))
        self._home.deliver(own, lambda delivery: self._decided(number, stanza, entry, delivery))

    def _decided(
        self, number: int, stanza: OutStanza, entry: LedgerEntry | None, delivery: Delivery
    ) -> None:
        outcome = delivery.outcome
        if outcome is Outcome.ACCEPTED:
            if entry is not None and entry.outcome == "queued":  # else an error came before
                self._ledger.end(entry, "delivered")
            self._done(number)
        elif self._goes_again(number, stanza, outcome):
            self._hold(number, stanza, entry)
        elif outcome is Outcome.UNSURE:
            words = f"the home server says nothing: {delivery.text}; it may have it all the same"
            self._fail(number, stanza, entry, "recipient-unavailable", words, unsure=True)
        elif delivery.condition == "recipient-unavailable":
            words = "the home server is out of reach"
            self._fail(number, stanza, entry, delivery.condition, words)
        else:
            self._fail(number, stanza, entry, delivery.condition, delivery.text)

    def _up(self, stanza: OutStanza) -> bool:
        link = self._home.link(stanza.to.domain, stanza.from_.domain)
        return link is not None and link.up

    def _fail(
        self,
        number: int,
        stanza: OutStanza,
        entry: LedgerEntry | None,
        condition: str,
        words: str,
        unsure: bool = False,
    ) -> None:
        if entry is not None and entry.outcome == "queued":
            self._ledger.end(entry, "unsure" if unsure else "bounced", condition, words)
        if not self._give_back(stanza, condition, words, partial(self._leaves, number)):
            self._done(number)

    def _leaves(self, number: int, error: OutStanza) -> OutStanza:
        self._returning[id(error)] = number, error
        return error

    def fate(self, stanza: OutStanza) -> None:
        """Take what S2S tells of a stanza: the error is not ours any more, and the message done with."""
        number, _ = self._returning.pop(id(stanza), (None, None))
        if number is not None:
            self._done(number)

    # -- links that broke --------------------------------------------------------------------------

    def _goes_again(self, number: int, stanza: OutStanza, outcome: Outcome) -> bool:
        if self._waits(number, stanza):
            return outcome is not Outcome.REFUSED
        in_time = self._timers.seconds() < self._open[number] + LAST_AGAIN
        return outcome is Outcome.UNSURE and in_time and not self._up(stanza)

    def _waits(self, number: int, stanza: OutStanza) -> bool:
        """Say whether a message is an error whose reader is still waited for."""
        return stanza.tells_of_failure and self._timers.seconds() < self._open[number] + HOLD_ERRORS

    def _hold(self, number: int, stanza: OutStanza, entry: LedgerEntry | None) -> None:
        if len(self._held) >= HELD_LIMIT:
            words = "the home server went away with it; it may have it all the same"
            self._fail(number, stanza, entry, "recipient-unavailable", words, unsure=True)
            return
        self._metrics.count("relay.held")
        if entry is not None:
            entry.detail = "the home link broke; it goes again when the link is back"
        self._held.append((self._timers.seconds() + HOLD, number, stanza, entry))
        if self._timer is None:
            self._timer = self._timers.after(HOLD, self._expire)

    def link_up(self, domains: frozenset[str]) -> None:
        """The home server of these local domains is there: send again what it may not have got."""
        held, self._held = self._held, deque()
        again = [each for each in held if each[2].to.domain in domains and self._up(each[2])]
        self._held.extend(each for each in held if each not in again)
        if again:
            self._metrics.count("relay.sent_again", len(again))
            log.info("sent_again", "{count} messages go again to a home server", count=len(again))
        for _, number, stanza, entry in again:
            self._send(number, stanza, entry)

    def _expire(self) -> None:
        self._timer = None
        now = self._timers.seconds()
        words = (
            "the home server went away with it, and is out of reach; it may have it all the same"
        )
        while self._held and self._held[0][0] <= now:
            _, number, stanza, entry = self._held.popleft()
            if not self._waits(number, stanza):
                self._fail(number, stanza, entry, "recipient-unavailable", words, unsure=True)
            elif self._up(stanza):
                self._send(number, stanza, entry)
            else:
                self._held.append((now + HOLD, number, stanza, entry))
        if self._held:
            self._timer = self._timers.after(self._held[0][0] - now, self._expire)

    # -- what foreign servers are told that we have ------------------------------------------------

    def settle(self, call: Callable[[], None]) -> None:
        """Call when all messages so far have come to their end, or time is up."""
        if not self._open:
            call()
            return
        timer = self._timers.after(SETTLE, self._settle_late, self._count)
        self._settling.append((self._count, call, timer))

    def _settle_late(self, count: int) -> None:
        self._settled(count)

    def _done(self, number: int) -> None:
        del self._open[number]
        if (ended := self._ends.pop(number, None)) is not None:
            ended()
        if self._settling:
            self._settled(next(iter(self._open)) - 1 if self._open else self._count)

    def _settled(self, count: int) -> None:
        settling = self._settling
        while settling and settling[0][0] <= count:
            _, call, timer = settling.popleft()
            timer.cancel()
            call()
