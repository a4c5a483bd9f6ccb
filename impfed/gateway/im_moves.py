"""Texts and sessions that come from other nodes of a cluster, and go to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from impfed.cluster.ownership import Pair
from impfed.gateway.im import ImGateway
from impfed.gateway.im_session import ImSession
from impfed.store.api import Change, Put
from impfed.store.records import HeldTextRecord, OutboxRecord

#: Says which other node a pair goes to; "" for none.
Leaves = Callable[[Pair], str]

#: Seconds for which a text is still taken that was on its way when its session was ended here.
_LINGER = 1.0


class ImMoves:
    """Takes texts in and gives them away.  Sessions themselves stay: they end, and begin elsewhere."""

    def __init__(self, im: ImGateway) -> None:
        self._im = im

    def adopt(self, outbox: Sequence[OutboxRecord], held: Sequence[HeldTextRecord]) -> None:
        """Send texts of another node, in the order in which they were taken over."""
        self._im.restore(list(outbox), list(held))

    def count(self) -> int:
        """Return how many sessions there are."""
        return len(self._im.sessions())

    def surrender(self, leaves: Leaves, *, all: bool = False) -> dict[str, list[str]]:
        """End the sessions of leaving pairs that have nothing under way, and give up their texts.

        Texts of one that has go nowhere yet, for they must not overtake the one under way.

        :param all: the patience with those is over: they keep the one text, and go on with it.
        :return: the keys of the texts by the node that sends them now.
        """
        given: dict[str, list[str]] = {}
        for session, owner in self._leaving(leaves):
            session.hold()
            under_way = session.under_way
            if under_way and not all:
                continue
            for record in session.surrender():
                self._im.outbox.forget(record.id)
                given.setdefault(owner, []).append(record.key)
            if not under_way:
                session.close(_LINGER)
                self._im.closed(session)
        return given

    def busy(self, leaves: Leaves) -> bool:
        """Return whether there are sessions of leaving pairs still."""
        return bool(self._leaving(leaves))

    def lost(self, key: str) -> None:
        """Another node has taken over a text."""
        self._im.outbox.forget(key)

    def drop(self) -> None:
        """Forget everything, telling nobody."""
        for session in self._im.sessions():
            session.abandon()
            self._im.closed(session)
        for record in self._im.outbox.waiting():
            self._im.outbox.forget(record.id)

    def kept(self) -> Iterator[Change]:
        """Yield what has to be in the store, as it is when it is asked for."""
        outbox = self._im.outbox
        yield from (Put(record) for record in outbox.waiting() if outbox.waits(record))
        yield from map(Put, self._im.inbox.held())
        for session in self._im.sessions():
            yield from (Put(each.held) for each in session.dialogs if each.held is not None)

    def _leaving(self, leaves: Leaves) -> list[tuple[ImSession, str]]:
        found = [
            (session, leaves((session.local.text, session.foreign.text)))
            for session in self._im.sessions()
        ]
        return [(session, owner) for session, owner in found if owner]
