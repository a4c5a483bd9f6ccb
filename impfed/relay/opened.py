"""Before the relay on a node with open federation: unknown domains are asked about first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from impfed.core.metrics import Metrics
from impfed.routing.opened import OpenDomains
from impfed.transport.link_api import IForeignRelay
from impfed.transport.s2s_api import Fate, IS2SUser
from impfed.xmpp.stanza import OutStanza, Stanza, error_reply

#: Presence that asks nothing: not worth finding out how a domain is reached.
_ASKS_NOTHING = frozenset({"unavailable", "unsubscribe", "unsubscribed", "error"})


@implementer(IS2SUser, IForeignRelay)
class OpenRelay:
    """Stands between home links and streams on one side, and the relay on the other.

    What a local user sends to an unknown domain waits until it is known how the domain is reached;
    then the relay takes it, or the SIP gateway.

    :param relay: provider of both interfaces.
    :param gateway: takes a stanza for a domain that is reached over SIP.
    :param home: writes to local users.
    :param send: writes to foreign domains.
    """

    def __init__(
        self,
        relay: Any,
        opened: OpenDomains,
        gateway: Callable[[Stanza], None],
        home: Callable[[OutStanza], Any],
        send: Callable[[OutStanza], None],
        metrics: Metrics,
    ) -> None:
        self._relay = relay
        self._opened = opened
        self._gateway = gateway
        self._home = home
        self._send = send
        self._metrics = metrics

    # -- from home servers -------------------------------------------------------------------------

    def takes(self, domain: str) -> bool:
        """Say whether a domain is reached over XMPP, or may be."""
        return bool(self._relay.takes(domain))

    def reaches(self, domain: str) -> bool:
        """Say whether policy lets stanzas out to such a domain, too."""
        return bool(self._relay.reaches(domain))

    def from_home(self, stanza: Stanza) -> None:
        """Take a stanza of a local user: at once if it is known where it goes."""
        domain = stanza.to.domain
        quiet = stanza.type in _ASKS_NOTHING or (stanza.kind == "iq" and stanza.type == "result")
        if quiet or not self._opened.unknown(domain) or self._opened.protocol(domain) == "xmpp":
            self._relay.from_home(stanza)
            return
        # A home server that keeps the stanza must keep it until it is known whose it is.
        departures = self._relay.departures
        waiting = OutStanza(stanza.kind, stanza.to, stanza.from_, stanza.id, "")

        def decided(protocol: str | None, why: str) -> None:
            self._decided(stanza, protocol, why)
            departures.fate(waiting, Fate.RETURNED)

        departures.leaves(waiting)
        if not self._opened.decide(stanza.from_.bare.text, stanza.to.bare.text, decided):
            departures.fate(waiting, Fate.RETURNED)
            words = f"too much waits to find out how {domain} is reached"
            self._home(error_reply(stanza, "resource-constraint", "wait", words))

    def _decided(self, stanza: Stanza, protocol: str | None, why: str) -> None:
        if protocol == "xmpp":
            self._relay.from_home(stanza)
        elif protocol == "sip":
            self._gateway(stanza)
        else:
            self._metrics.count("relay.no_way")
            self._home(error_reply(stanza, "remote-server-not-found", text=why))

    def link_up(self, domains: frozenset[str]) -> None:
        """The relay's business."""
        self._relay.link_up(domains)

    def not_written(self, stanza: OutStanza) -> None:
        """The relay's business."""
        self._relay.not_written(stanza)

    # -- from foreign domains ----------------------------------------------------------------------

    def stanza_arrived(self, stanza: Stanza, stream: Any) -> None:
        """Take a stanza of a foreign domain, which is reached over XMPP from now on."""
        domain = stanza.from_.domain
        if stream is not None and self._opened.unknown(domain):
            why = self._opened.came_by_xmpp(domain)
            if why:
                self._metrics.count("relay.refused_in")
                if stanza.type not in ("error", "result"):
                    self._send(error_reply(stanza, "not-allowed", text=why))
                return
        self._relay.stanza_arrived(stanza, stream)
