"""Texts and sessions that come from other nodes of a cluster, and go to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from impfed.cluster.ownership import Pair
from impfed.gateway.im import ImGateway
from impfed.gateway.im_session import ImSession
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

    def surrender(self, leaves: Leaves) -> dict[str, list[str]]:
        """Give up the texts of leaving pairs that are not under way; returns their keys by node."""
        given: dict[str, list[str]] = {}
        for session, owner in self._leaving(leaves):
            for record in session.surrender():
                self._im.outbox.forget(record.id)
                given.setdefault(owner, []).append(record.key)
        return given

    def finishing(self, leaves: Leaves) -> bool:
        """End the sessions of leaving pairs that are quiet; returns whether there are others."""
        busy = False
        for session, _ in self._leaving(leaves):
            if session.queue or session.on_its_way is not None:
                busy = True
            else:
                session.close(_LINGER)
                self._im.closed(session)
        return busy

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

    def rewrite(self) -> None:
        """Write everything that is owned again."""
        self._im.outbox.rewrite()

    def _leaving(self, leaves: Leaves) -> list[tuple[ImSession, str]]:
        found = [
            (session, leaves((session.local.text, session.foreign.text)))
            for session in self._im.sessions()
        ]
        return [(session, owner) for session, owner in found if owner]
