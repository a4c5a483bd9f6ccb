"""Sessions and texts that come from other nodes of a cluster, and go to them.

A session in use goes with its dialog, and a re-INVITE of the new node tells the peer so; a quiet one
ends by BYE, and the next text begins another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from impfed.cluster.ownership import Leaves
from impfed.gateway.im import ImGateway
from impfed.gateway.im_session import ImSession
from impfed.store.api import Change, Put
from impfed.store.records import HeldTextRecord, OutboxRecord, SessionRecord

#: Seconds for which a text is still taken that was on its way when its session was ended here.
_LINGER = 1.0
#: Seconds since the last text or typing notice after which a session is not in use any more.
IN_USE = 120.0


@dataclass
class Given:
    """What goes to one node: keys of records."""

    sessions: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class ImMoves:
    """Takes sessions and texts in, and gives them away."""

    def __init__(self, im: ImGateway) -> None:
        self._im = im

    def adopt(
        self,
        sessions: Sequence[SessionRecord],
        outbox: Sequence[OutboxRecord],
        held: Sequence[HeldTextRecord],
    ) -> None:
        """Go on with sessions of another node, and send its texts in the order of their arrival."""
        self._im.resume(list(sessions))
        self._im.restore(list(outbox), list(held))

    def count(self) -> int:
        """Return how many sessions there are."""
        return len(self._im.sessions())

    def surrender(self, leaves: Leaves, *, late: bool = False) -> dict[str, Given]:
        """Give up the sessions of leaving pairs that have nothing under way, and their texts.

        Texts of one that has go nowhere yet, for they must not overtake the one under way.

        :param late: the patience with those is over: they keep the one text, and go on with it.
        :return: what goes to each node.
        """
        given: dict[str, Given] = {}
        for session, owner in self._leaving(leaves):
            session.hold()
            under_way = session.under_way
            if under_way and not late:
                continue
            found = given.setdefault(owner, Given())
            for record in session.surrender():
                self._im.outbox.forget(record.id)
                found.texts.append(record.key)
            if not under_way:
                self._part(session, found)
                session.close(_LINGER)
                self._im.closed(session)
        return given

    def _part(self, session: ImSession, given: Given) -> None:
        """Let the dialog of a session that is in use go on at another node."""
        now = self._im.around.timers.seconds()
        if now - session.last_activity <= IN_USE and (dialog := session.part()) is not None:
            record = dialog.record()
            self._im.around.store.write([Put(record)])
            given.sessions.append(record.key)

    def busy(self, leaves: Leaves) -> bool:
        """Return whether there are sessions of leaving pairs still."""
        return bool(self._leaving(leaves))

    def lost(self, kind: str, key: str) -> None:
        """Another node has taken over a text, or a session."""
        if kind == OutboxRecord.kind:
            self._im.outbox.forget(key)
        else:
            self._im.session_lost(key)

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
            yield from (Put(each.record()) for each in session.dialogs if each.recorded)

    def _leaving(self, leaves: Leaves) -> list[tuple[ImSession, str]]:
        found = [
            (session, leaves((session.local.text, session.foreign.text)))
            for session in self._im.sessions()
        ]
        return [(session, owner) for session, owner in found if owner]
