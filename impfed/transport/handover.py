"""Acknowledged hand-over: what our module on the home server keeps until we have it safely.

The module gives each stanza a number (attribute ``n``) and keeps the stanza until the number is
acknowledged.  What it keeps goes again, under the same number, to whoever connects next: to this process
or its successor, or to another node.

::

    <query xmlns='urn:xmpp:impfed:directory:0' acknowledges='true' limit='262144'/>   the greeting
    <can name='urn:xmpp:impfed:handover:0' queue='Lq8K…'/>                            in its answer
    <message n='17' …>…</message>
    <a xmlns='urn:xmpp:impfed:handover:0' n='1-16 18'/>

A number is acknowledged once its stanza would survive this process: a text for SIP when its record is in
the store, a message for an XMPP domain when it is that server's, what is returned at once when that is
written, anything else when it has been handled.
Acknowledgements are gathered, and come in any order: one slow domain holds up nobody else's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from impfed.core.timers import Timer
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.reader import BadStanza
from impfed.xmpp.stanza import Stanza

NS_HANDOVER = "urn:xmpp:impfed:handover:0"

#: Seconds, and stanzas, after which what has come is acknowledged.
GATHER, BATCH = 0.05, 256

#: Seconds that a link which is closed waits for what it has taken to be safe.
LAST = 2.0

#: Hand-overs that are remembered, so that the same one is known again.
REMEMBERED = 30_000

#: Calls a function once what has come so far for a foreign domain would survive this process.
Settle = Callable[[Callable[[], None], str], None]


class HandedOver:
    """What has been taken over lately, by the marks of the hand-overs (:attr:`.Stanza.handed`)."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._marks: OrderedDict[str, str] = OrderedDict()

    def __contains__(self, mark: str) -> bool:
        return mark in self._marks

    def add(self, mark: str, id: str = "") -> bool:
        """Remember what became of a hand-over; False if it became something else before.

        :param mark: "" is none, and never known.
        :param id: of the record that it became.
        """
        if not mark:
            return True
        known = self._marks.setdefault(mark, id)
        if len(self._marks) > self._limit:
            self._marks.popitem(last=False)
        return known == id

    def remove(self, mark: str) -> None:
        """Forget one that was not taken over after all."""
        self._marks.pop(mark, None)


class HandOver:
    """The numbers of one link.

    :param settle: see :data:`Settle`.
    :param write: writes XML to the home server.
    """

    def __init__(self, settle: Settle, write: Callable[[str], None], timers: ReactorTimers) -> None:
        self._settle = settle
        self._write = write
        self._timers = timers
        self._queue = ""
        self._highest: dict[str, int] = {}  # of each queue: handled in this process
        self._open: dict[str, list[int]] = {}  # by foreign domain: handled, nobody asked yet
        self._count = 0
        self._asked = 0  # numbers of which we have asked whether they are safe
        self._timer: Timer | None = None
        self._connection = 0
        self._closing: Callable[[], None] | None = None
        self._last: Timer | None = None

    @property
    def on(self) -> bool:
        """Whether the module numbers what it sends."""
        return bool(self._queue)

    @property
    def unacknowledged(self) -> int:
        """How many stanzas have been handled and not acknowledged yet."""
        return self._count + self._asked

    def begin(self, queue: str) -> None:
        """The module has said that it numbers what comes from now on.

        :param queue: the name of its queue, without which a number means nothing.
        """
        self._queue = queue
        self._highest = {queue: self._highest.get(queue, 0)}

    def lost(self) -> None:
        """The connection is gone: all that is not acknowledged comes again by the next."""
        self._connection += 1
        self._queue = ""
        self._open.clear()
        self._count = self._asked = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._closed()

    def number(self, item: Stanza | BadStanza) -> int:
        """Take the number off a stanza, and mark it with it; 0 for none."""
        text = item.element.attrib.pop("n", "")
        if not text.isdecimal():
            return 0
        if isinstance(item, Stanza):
            item.handed = f"{self._queue}:{text}"
        return int(text)

    def needless(self, item: Stanza | BadStanza, number: int) -> bool:
        """Whether a stanza was handled by this process, and nothing more can come of it.

        What may have been answered is handled again: the answer may have died with the connection.
        """
        if isinstance(item, BadStanza) or item.type not in ("error", "result"):
            return False
        return number <= self._highest[self._queue]

    def handled(self, item: Stanza | BadStanza, number: int) -> None:
        """A stanza has been dealt with; what it has caused may still be on its way to the disk."""
        if number > self._highest[self._queue]:
            self._highest[self._queue] = number
        domain = item.to.domain if isinstance(item, Stanza) else ""
        self._open.setdefault(domain, []).append(number)
        self._count += 1
        if self._count >= BATCH:
            self._ask()
        elif self._timer is None:
            self._timer = self._timers.after(GATHER, self._ask)

    def answered(self, mark: str) -> None:
        """The last word on a hand-over has been written: it must not come again.

        :param mark: "" is none.
        """
        # What came with it may have to wait for a store that this node alone has lost, and would go
        # to another node, which would deliver what its sender has had back.
        queue, _, number = mark.rpartition(":")
        if self._queue and queue == self._queue:
            self._acknowledge(number)

    def close(self, call: Callable[[], None]) -> None:
        """Call once all that was handled is acknowledged, or soon in any case."""
        self._closing = call
        self._last = self._timers.after(LAST, self._closed)
        self._ask()
        self._maybe_closed()

    def _ask(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._open, self._count = self._open, {}, 0
        for domain, numbers in waiting.items():
            self._asked += len(numbers)
            self._settle(partial(self._settled, self._connection, numbers), domain)

    def _settled(self, connection: int, numbers: list[int]) -> None:
        if connection != self._connection:
            return
        self._asked -= len(numbers)
        self._acknowledge(ranges(numbers))
        self._maybe_closed()

    def _acknowledge(self, numbers: str) -> None:
        self._write(f"<a xmlns='{NS_HANDOVER}' n='{numbers}'/>")

    def _maybe_closed(self) -> None:
        if not self.unacknowledged:
            self._closed()

    def _closed(self) -> None:
        call, self._closing = self._closing, None
        if self._last is not None:
            self._last.cancel()
            self._last = None
        if call is not None:
            call()


def ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers as ranges: ``1-3 7``."""
    parts: list[str] = []
    first = before = numbers[0]
    for number in [*numbers[1:], 0]:
        if number == before + 1:
            before = number
            continue
        parts.append(f"{first}-{before}" if before > first else str(first))
        first = before = number
    return " ".join(parts)
