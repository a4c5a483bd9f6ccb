"""What an operator asks one node of a cluster and all of them answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults

from impfed.ctl.api import Whereabouts
from impfed.gateway.cluster_questions import Questions, decoded
from impfed.gateway.people import Ended, People
from impfed.store.records import LedgerEntry
from impfed.xmpp.jid import JID

_WHERE, _GONE = "where", "user gone"


class ClusterView:
    """Puts together what this node and the others say.

    :param others: returns the names of the other nodes, those that are away included.
    :param where: finds messages at this node.
    """

    def __init__(
        self,
        questions: Questions,
        others: Callable[[], list[str]],
        where: Callable[[str], Deferred[Whereabouts]],
        people: People,
    ) -> None:
        self._questions = questions
        self._others = others
        self._where = where
        self._people = people
        people.elsewhere = self._gone_elsewhere
        questions.answers[_WHERE] = self._where_here
        questions.answers[_GONE] = self._gone_here

    def where(self, text: str) -> Deferred[Whereabouts]:
        """Find messages at all nodes, for each has a ledger of its own."""
        asked = self._questions.ask(_WHERE, [text], self._others())
        both: Deferred[list[Any]] = gatherResults([self._where(text), asked])

        def together(found: list[Any]) -> Whereabouts:
            here, said = found
            lists, silent = decoded(said, list[LedgerEntry])
            return Whereabouts([*here.found, *(each for one in lists for each in one)], silent)

        return both.addCallback(together)

    def _where_here(self, words: list[str]) -> Deferred[bytes]:
        found = self._where(words[0])
        return found.addCallback(lambda here: msgspec.msgpack.encode(here.found))

    def _gone_elsewhere(self, local: JID, new: JID | None) -> Deferred[Any]:
        words = [local.text, "" if new is None else new.text]
        asked = self._questions.ask(_GONE, words, self._others())
        return asked.addCallback(decoded, Ended)

    def _gone_here(self, words: list[str]) -> Deferred[bytes]:
        local, new = words
        ended = self._people.end(JID.parse(local), JID.parse(new) if new else None)
        return ended.addCallback(msgspec.msgpack.encode)
