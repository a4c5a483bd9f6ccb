"""Dialogs that another node of the cluster has: found by the store, passed on, or taken over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.cluster.service import ClusterService
from impfed.cluster.settling import Settling
from impfed.core.log import EventLog
from impfed.gateway.admission import Sender
from impfed.interwork.address import jid_of
from impfed.sip.message import SipRequest
from impfed.sip.uri import SipUri
from impfed.store.api import StoreError
from impfed.store.records import (
    InboundSubscriptionRecord,
    OutboundSubscriptionRecord,
    Record,
    SessionRecord,
    pair_key,
    session_key,
)

log = EventLog("impfed.cluster")

#: Methods of requests in dialogs that another node can have.
_OF_SUBSCRIPTIONS = frozenset(("SUBSCRIBE", "NOTIFY", "BENOTIFY"))
_OF_SESSIONS = frozenset(("MESSAGE", "INFO", "BYE", "INVITE", "OPTIONS"))


class Search:
    """Gives records away, and finds again whose they are.

    :param adopt: serves what has been taken over.
    """

    def __init__(
        self, cluster: ClusterService, adopt: Callable[[Sequence[Record]], object]
    ) -> None:
        self._cluster = cluster
        self._adopt = adopt
        self._gifts = Settling()  # what is being given to other nodes

    def give(
        self, kind: type[Record], owner: str, keys: list[str], generation: int
    ) -> Deferred[Any]:
        """Give records to another node; nothing of them is served here any more.

        See :meth:`ClusterService.give`.
        """
        done = self._gifts.begin()
        given: Deferred[Any] = self._cluster.give(kind, owner, keys, generation)

        def over(result: Any) -> Any:
            done(None)
            return result

        return given.addBoth(over)

    def _given(self) -> Deferred[None]:
        """Fire when the store knows whose everything is that has been given so far."""
        known: Deferred[None] = Deferred()
        self._gifts.wait(lambda: known.callback(None))
        return known

    def search(self, request: SipRequest, sender: Sender, done: Callable[[int, str], None]) -> None:
        """Look for the dialog of a request among those of other nodes; a silent one's is taken over.

        :param done: called with the status to answer, 200 when the dialog is served here now, and
            the live node that has it, "" for none.
        """
        if not self._cluster.may_act:
            done(500, "")
            return
        local = request.to.uri
        places: tuple[tuple[type[Any], str], ...] = ()
        call_id, tag = request.call_id, request.to_tag
        if request.method in _OF_SESSIONS:
            places = ((SessionRecord, session_key(call_id, tag)),)
        elif request.method in _OF_SUBSCRIPTIONS and isinstance(local, SipUri):
            event = (request.get("event") or "").partition(";id=")[2]
            places = (
                (
                    InboundSubscriptionRecord,
                    f"{call_id}|{tag}|{event}" if event else f"{call_id}|{tag}",
                ),
                (OutboundSubscriptionRecord, pair_key(jid_of(local).text, sender.jid.bare.text)),
            )
        found = self._find(call_id, places)
        found.addErrback(self._not_found, call_id)
        found.addCallback(lambda answer: done(*answer))

    @inlineCallbacks
    def _find(self, call_id: str, places: Sequence[tuple[type[Any], str]]) -> Any:
        yield self._given()
        for kind, key in places:
            found = yield self._cluster.touch(kind, key)
            if found is None:
                continue
            owner, record = found
            if owner != self._cluster.name or record is None:
                return 500, owner
            # Whatever its dialog is: it may have been another node's until now, which serves it no more.
            self._adopt([record])
            if record.dialog is not None and record.dialog.call_id == call_id:
                return 200, ""
        return 481, ""

    @staticmethod
    def _not_found(failure: Any, call_id: str) -> tuple[int, str]:
        failure.trap(StoreError)
        log.warn(
            "search_failed",
            "a dialog cannot be looked for: {why}",
            why=failure.value.text,
            conversation=call_id,
        )
        return 500, ""  # never 481: that would end what lives
