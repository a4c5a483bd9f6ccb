"""What comes over S2S for domains at home in another cluster of ours: it is passed on to that cluster.

A foreign server finds the wrong cluster where only that one is published, or where a domain's home has
moved.  Between clusters a stanza goes by an S2S service of its own, over which a node speaks for foreign
domains: the other one takes its word, for its certificate is that of a neighbour.  What comes by such a
stream is never passed on again.  Answers leave at the other cluster itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from impfed.config.model import Config, NeighbourConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.relay.delivery import SETTLE
from impfed.relay.departures import Departures
from impfed.routing.neighbours import Neighbours
from impfed.transport.s2s import S2S
from impfed.transport.s2s_api import AllBut, Fate, IS2SUser, S2SLimits
from impfed.transport.s2s_connection import S2SConnection
from impfed.transport.s2s_targets import HostsByDomain, resolver
from impfed.transport.timers import ReactorTimers
from impfed.transport.tls import TlsStore
from impfed.xmpp.jid import JID
from impfed.xmpp.s2s_security import Security, Tls
from impfed.xmpp.stanza import OutStanza, Stanza, answerable, error_reply


def elsewhere(config: Config) -> dict[str, NeighbourConfig]:
    """Return the domains that another cluster takes XMPP for, as in JIDs, with the way into it.

    Domains of our own are among them where single users are at home there.
    """
    return {
        JID.parse(domain).domain: neighbour
        for neighbour in config.neighbours
        if neighbour.xmpp
        for domain in (*neighbour.domains, *(config.local_domains if neighbour.users else ()))
    }


def vouchers(config: Config) -> tuple[str, ...]:
    """Return the names in certificates of nodes whose word is taken for every foreign domain."""
    names = (neighbour.certificate_names for neighbour in elsewhere(config).values())
    return tuple(dict.fromkeys(name for each in names for name in each))


class InnerSettings:
    """Security of the streams to nodes of other clusters.

    :param neighbours: by domain.
    """

    def __init__(self, neighbours: dict[str, NeighbourConfig]) -> None:
        self._neighbours = neighbours
        self._security = Security(Tls.REQUIRED, True, sasl_in=False, sasl_out=True, dialback=False)

    def security(self, local: str, remote: str) -> Security:
        """Return what is the same for all: certificates prove both sides."""
        return self._security

    def anchors(self, remote: str) -> Path | None:
        """Return None: they are signed as all of ours are."""
        return None

    def vouchers(self, remote: str) -> tuple[str, ...]:
        """Return the names by which the cluster of a domain is known."""
        return self._neighbours[remote].certificate_names

    def certificate(self, remote: str) -> str:
        """Return "": none of our certificates is for a foreign domain, so the first is shown."""
        return ""

    def refusal(self, local: str, remote: str, incoming: bool) -> str:
        """Lead nowhere else."""
        return "" if remote in self._neighbours else f"{remote} is at home in no other cluster"


@implementer(IS2SUser)
class Crossing:
    """User of the S2S service on a node that knows other clusters.

    :param relay: takes everything that is for this cluster; provider of IS2SUser.
    :param outer: the service that foreign servers speak with.
    :param neighbours: know which single users are at home in another cluster.
    :param settle: what ``outer`` asked before; see :class:`~impfed.transport.s2s.S2S`.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        tls: TlsStore,
        ids: IdSource,
        metrics: Metrics,
        tracer: Tracer,
        relay: Any,
        outer: S2S,
        settle: Callable[[Callable[[], None], str], None],
        neighbours: Neighbours,
    ) -> None:
        self._relay = relay
        self._outer = outer
        self._settle = settle
        self._metrics = metrics
        self._domains = elsewhere(config)
        self._own = frozenset(JID.parse(domain).domain for domain in config.local_domains)
        self._neighbours = neighbours
        self._nodes = vouchers(config)
        self._timers = ReactorTimers(reactor)
        self._departures = Departures(self._timers, SETTLE)
        hosts = {domain: each.xmpp for domain, each in self._domains.items()}
        own = (JID.parse(domain).domain for domain in config.own_domains)
        patience = S2SLimits(patience=config.s2s.patience) if config.s2s is not None else None
        inner = self._inner = S2S(
            reactor,
            (),
            (),
            tls,
            ids.token(32),
            HostsByDomain(hosts, resolver(reactor)),
            ids,
            metrics,
            tracer,
            InnerSettings(self._domains),
            patience,
            serving=AllBut(own),
            purpose="XMPP to other clusters",
        )
        inner.user, inner.fate = _Returns(outer.send), self._fate

    def start(self) -> None:
        """Be ready to pass things on."""
        self._inner.startService()

    def stop(self) -> Deferred[Any]:
        """Close all streams to other clusters in good order."""
        self._timers.stop()
        return self._inner.stopService()

    def status(self) -> list[dict[str, Any]]:
        """Return what an operator wants to know of each way to another cluster."""
        return self._inner.status()

    def stanza_arrived(self, stanza: Stanza, stream: S2SConnection | None) -> None:
        """Take a stanza of a foreign domain."""
        if stream is None or not self._passes_on(stanza.to):
            self._relay.stanza_arrived(stanza, stream)
        elif stream.stream.certificate.is_one_of(self._nodes):
            self._metrics.count("relay.crossed_twice")
            if answerable(stanza):
                words = f"no cluster is the home of {stanza.to.domain}: each takes it for another's"
                self._outer.send(error_reply(stanza, "remote-server-not-found", text=words))
        else:
            self._metrics.count("relay.crossed")
            out = OutStanza(stanza.kind, stanza.to, stanza.from_, stanza.id, stanza.to_xml())
            self._inner.send(self._departures.leaves(out) if stanza.kind == "message" else out)

    def _passes_on(self, to: JID) -> bool:
        if to.domain in self._own:
            return self._neighbours.home_of(to.bare.text) is not None
        return to.domain in self._domains

    def settle(self, call: Callable[[], None], local: str) -> None:
        """Call when what came so far for a domain would survive this process."""

        def departed() -> None:
            if local in self._own:
                self._settle(call, local)
            else:
                call()

        if local in self._domains:
            self._departures.settle(local, departed)
        else:
            self._settle(call, local)

    def _fate(self, stanza: OutStanza, fate: Fate, condition: str, words: str) -> None:
        if fate is not Fate.WAITING:
            self._departures.fate(stanza, fate)


@implementer(IS2SUser)
class _Returns:
    """Takes the errors of what could not be passed on, for those who have sent it."""

    def __init__(self, send: Callable[[OutStanza], None]) -> None:
        self._send = send

    def stanza_arrived(self, stanza: Stanza, stream: S2SConnection | None) -> None:
        """Return an error to its foreign sender; nothing else comes, for nobody connects here."""
        self._send(OutStanza(stanza.kind, stanza.to, stanza.from_, stanza.id, stanza.to_xml()))
