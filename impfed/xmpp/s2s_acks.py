"""Acknowledged stanzas: XEP-0198 without resumption, the counting of one stream.

Stanzas sent are kept until the peer has counted them.  What is left when a stream breaks is sent
again over the next, or returned: so nothing is lost, though something may come twice.
"""

from __future__ import annotations

from collections import deque

from impfed.xmpp.reader import XmppStreamError
from impfed.xmpp.s2s_parts import NS_SM
from impfed.xmpp.stanza import OutStanza

_MODULUS = 2**32

REQUEST = f"<r xmlns='{NS_SM}'/>"
ENABLE = f"<enable xmlns='{NS_SM}'/>"
ENABLED = f"<enabled xmlns='{NS_SM}'/>"


class Acks:
    """Counts both directions of a stream.

    :ivar waiting: stanzas sent since acknowledgements were switched on, not counted by the peer yet.
    :ivar asked_at: when the open request was sent; None without one.
    :ivar sending: whether what we send is counted.
    :ivar receiving: whether what we receive is counted.
    """

    __slots__ = ("_acked", "_handled", "asked_at", "receiving", "sending", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[OutStanza] = deque()
        self.asked_at: float | None = None
        self.sending = False
        self.receiving = False
        self._acked = 0
        self._handled = 0

    def received(self) -> None:
        """A stanza came."""
        if self.receiving:
            self._handled = (self._handled + 1) % _MODULUS

    @property
    def handled(self) -> int:
        """How many stanzas have come since acknowledgements were switched on."""
        return self._handled

    def answer(self, count: int | None = None) -> str:
        """Return our count, for the peer; or an earlier one."""
        return f"<a xmlns='{NS_SM}' h='{self._handled if count is None else count}'/>"

    def request(self, now: float) -> str:
        """Ask the peer for its count, unless it has been asked already; "" for nothing to do."""
        if self.asked_at is not None:
            return ""
        self.asked_at = now
        return REQUEST

    def acknowledged(self, count: str) -> list[OutStanza]:
        """Take the peer's count; return the stanzas that it has taken since the last.

        :raises XmppStreamError: it is no number, or counts what was never sent.
        """
        self.asked_at = None
        if not (count.isascii() and count.isdigit()) or len(count) > 10:
            raise XmppStreamError("bad-format", f"{count[:20]!r} is no count of stanzas")
        fresh = (int(count) - self._acked) % _MODULUS
        if fresh > len(self.waiting):
            raise XmppStreamError("undefined-condition", "more stanzas acknowledged than sent")
        self._acked = int(count)
        take = self.waiting.popleft
        return [take() for _ in range(fresh)]

    def left(self) -> list[OutStanza]:
        """Take what the peer has not counted."""
        left = list(self.waiting)
        self.waiting.clear()
        return left
