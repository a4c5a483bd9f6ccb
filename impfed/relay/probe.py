"""Finds out for open federation whether a domain can be reached over XMPP."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from impfed.core.ids import IdSource
from impfed.routing.openfederation import IXmppProbe
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, iq

_PING = "<ping xmlns='urn:xmpp:ping'/>"


@implementer(IXmppProbe)
class XmppProbe:
    """Pings a domain; any answer over a stream of its own, an error included, says that it is there.

    S2S returns the ping when no stream comes about in time, so every question is answered.
    """

    def __init__(self, ids: IdSource) -> None:
        self._ids = ids
        self._send: Callable[[OutStanza], None] | None = None
        self._refusal: Callable[[str, bool], str] = lambda domain, incoming: ""
        self._own = JID.parse("localhost")
        self._asked: dict[str, Deferred[bool]] = {}

    def bind(
        self, own: str, send: Callable[[OutStanza], None], refusal: Callable[[str, bool], str]
    ) -> None:
        """Say for which local domain to ask, how, and whom not to ask."""
        self._own, self._send, self._refusal = JID.parse(own), send, refusal

    def reachable(self, domain: str) -> Deferred[bool]:
        """Fire with whether a domain answers."""
        if self._send is None or self._refusal(domain, False):
            return succeed(False)
        id = "probe-" + self._ids.token()

        def cancelled(_: Deferred[bool]) -> None:
            self._asked.pop(id, None)

        answer: Deferred[bool] = Deferred(cancelled)
        self._asked[id] = answer
        self._send(iq(JID.parse(domain), self._own, id=id, type="get", payload=_PING))
        return answer

    def answered(self, stanza: Stanza, from_stream: bool) -> bool:
        """Take an answer; returns whether it was one."""
        if not self._asked or stanza.kind != "iq" or stanza.type not in ("result", "error"):
            return False
        answer = self._asked.pop(stanza.id, None)
        if answer is None:
            return False
        answer.callback(from_stream)
        return True
