"""Letters do not overtake each other when the owner of their pair changes.

What this node sent to the owner before lies in that one's mailbox, or is on its way there, and is passed
on from there.  A later letter would be at the new owner first: so it waits until none of those is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.cluster.mailbox import opened
from impfed.cluster.ownership import Pair, Placement
from impfed.core.log import EventLog
from impfed.store.api import StoreError
from impfed.store.coordination import Coordination
from impfed.store.gather import Clock

#: Seconds between two looks, and for which a letter waits at most.
_AGAIN, _PATIENCE = 0.02, 5.0

_log = EventLog("impfed.cluster")


class Sender(Protocol):
    """What is asked of the post office."""

    @property
    def placement(self) -> Placement:
        """Who owns what now."""
        ...

    def unposted(self, node: str) -> Iterator[Pair]:
        """Return the pairs of letters that are not in a node's mailbox yet."""
        ...

    def has_read(self, id: str) -> bool:
        """Whether this node has read its own mailbox up to an entry."""
        ...

    def sleep(self, seconds: float) -> Deferred[None]:
        """Fire after some seconds."""
        ...


class Flush:
    """Knows whether letters have to wait for earlier ones.

    :param done: called when they have to wait no longer.
    :ivar under_way: whether they have to.
    """

    def __init__(
        self,
        me: str,
        coordination: Coordination,
        clock: Clock,
        sender: Sender,
        done: Callable[[], None],
    ) -> None:
        self.under_way = False
        self._me = me
        self._coordination = coordination
        self._clock = clock
        self._sender = sender
        self._done = done
        self._end = 0.0
        self._read: dict[str, str] = {}  # how far a mailbox holds nothing that has to be passed on
        self._last = ""  # what this node's own mailbox held when the others' were clean
        self._waiters: list[Deferred[None]] = []

    def keeps(self, pair: Pair) -> bool:
        """Whether a letter for a pair has to wait."""
        return self.under_way and self._sender.placement.moved(pair)

    def placed(self) -> None:
        """The pairs have been placed anew."""
        self._end = self._clock.seconds() + _PATIENCE
        self.forget()
        if not self.under_way and self._sender.placement.losing:
            self.under_way = True
            self._run()

    def forget(self) -> None:
        """The mailboxes may not be what they were when they were read."""
        self._read, self._last = {}, ""

    def wait(self) -> Deferred[None]:
        """Fire when no letter has to wait; at once if none has."""
        waiter: Deferred[None] = Deferred()
        if self.under_way:
            self._waiters.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    @inlineCallbacks
    def _run(self) -> Any:
        while not (yield self._clean()):
            if self._clock.seconds() >= self._end:
                _log.warn(
                    "not_flushed", "letters for pairs that have moved wait for others no longer"
                )
                break
            yield self._sender.sleep(_AGAIN)
        self.under_way = False
        self._done()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    @inlineCallbacks
    def _clean(self) -> Any:
        """Return whether all that this node has sent to owners before is at the owners of now."""
        read = self._read
        try:
            if not self._last:
                losing = self._sender.placement.losing
                # To and fro, for one may be on its way from a node seen later to one seen already.
                for node in (*losing, *losing[-2::-1]):
                    if any(self._strays(node, pair) for pair in self._sender.unposted(node)):
                        return False
                    if (yield self._left(node, read)):
                        return False
                [last] = yield self._coordination.last(f"mail:{self._me}")
                if read is not self._read:
                    return False  # the pairs have been placed anew meanwhile
                self._last = last
        except StoreError:
            return False
        # What has come to ourselves that way has been read, too.
        return self._sender.has_read(self._last)

    def _strays(self, node: str, pair: Pair) -> bool:
        return self._sender.placement.owner(pair) != node

    @inlineCallbacks
    def _left(self, node: str, read: dict[str, str]) -> Any:
        """Return whether a mailbox has a letter of ours that its node has to pass on.

        :param read: by node up to where there was none; what comes later is behind that.
        """
        while letters := (yield self._coordination.letters(node, read.get(node, "0-0"))):
            for letter in letters:
                try:
                    envelope = opened(letter.data)
                except msgspec.MsgspecError:
                    pass  # word of given records
                else:
                    if envelope.sender == self._me and self._strays(node, envelope.pair):
                        return True
                read[node] = letter.id
        return False
