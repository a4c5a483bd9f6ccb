"""XMPP federation: all S2S streams of a node, both ways, behind one service."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory

from impfed.core.errors import LocalError
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.transport.s2s_api import (
    Fate,
    FateTeller,
    FixedSettings,
    IS2SUser,
    LiveConnections,
    S2SContext,
    S2SLimits,
    S2SListener,
    S2SSettings,
    StreamWatcher,
)
from impfed.transport.s2s_bounce import bad_stanza_reply, bounced
from impfed.transport.s2s_connection import S2SConnection
from impfed.transport.s2s_route import Route
from impfed.transport.s2s_targets import Found, ITargetFinder, Target
from impfed.transport.s2s_tls import S2STls
from impfed.transport.s2s_unproven import Unproven
from impfed.transport.s2s_verify import Verifiers
from impfed.transport.s2s_world import NodeWorld
from impfed.transport.timers import ReactorTimers
from impfed.transport.tls import TlsStore
from impfed.xmpp.dialback import DialbackKeys
from impfed.xmpp.reader import BadStanza
from impfed.xmpp.s2s_in import IncomingStream
from impfed.xmpp.s2s_names import domain_of
from impfed.xmpp.s2s_out import OutgoingStream
from impfed.xmpp.s2s_parts import (
    Acknowledged,
    CountWanted,
    PairProven,
    PairRefused,
    S2SEvent,
    StreamClosed,
    VerifyAnswered,
    VerifyWanted,
)
from impfed.xmpp.s2s_security import Security, Tls
from impfed.xmpp.stanza import OutStanza, Stanza

__all__ = [
    "S2S",
    "FixedSettings",
    "Found",
    "IS2SUser",
    "ITargetFinder",
    "S2SLimits",
    "S2SListener",
    "S2SSettings",
    "Security",
    "Target",
    "Tls",
]

log = EventLog("impfed.s2s")

#: Connections that may wait to be accepted.
_BACKLOG = 511


class _Incoming(Factory):
    """Accepts connections to one listener."""

    noisy = False

    def __init__(self, service: S2S, direct: bool) -> None:
        self._service = service
        self._direct = direct

    def buildProtocol(self, addr: Any) -> S2SConnection | None:
        """Twisted: somebody has connected; None refuses."""
        return self._service.admit(addr.host, self._direct)


class S2S(Service):
    """All streams to and from other servers.

    :param reactor: provides time, TCP.
    :param listeners: where other servers connect to.
    :param domains: our domains.
    :param tls: our certificates and the trusted roots.
    :param secret: dialback secret, the same on all nodes.
    :param targets: provider of :class:`~impfed.transport.s2s_targets.ITargetFinder`.
    :param settings: security and policy by domain.
    :param serving: the domains that we speak for, where those are not just ``domains``.
    :param purpose: what it is for, in the log.
    :ivar names: what our certificates are to carry.
    :ivar user: provider of IS2SUser; to be set before the start.
    :ivar watcher: a StreamWatcher; None for nobody.
    :ivar fate: is told what became of each stanza; None for nobody.
    :ivar settle: calls a function once what came so far for a domain of ours would survive this
        process, before which no count of stanzas is told; None to tell it at once.
    :ivar ports: ports that the listeners are bound to, in their order.
    :ivar stopping: whether no new stream is opened any more.
    """

    user: Any = None
    watcher: StreamWatcher | None = None
    fate: FateTeller | None = None
    settle: Callable[[Callable[[], None], str], None] | None = None

    def __init__(
        self,
        reactor: Any,
        listeners: Sequence[S2SListener],
        domains: Sequence[str],
        tls: TlsStore,
        secret: str,
        targets: Any,
        ids: IdSource,
        metrics: Metrics,
        tracer: Tracer,
        settings: S2SSettings | None = None,
        limits: S2SLimits | None = None,
        serving: Container[str] | None = None,
        purpose: str = "XMPP federation",
    ) -> None:
        settings = settings or FixedSettings()
        limits = limits or S2SLimits()
        self.domains = frozenset(domain_of(domain) for domain in domains)
        self.names = self.domains
        self.serving: Container[str] = self.domains if serving is None else serving
        self.ports: list[int] = []
        self._purpose = purpose
        self._reactor = reactor
        self._listeners = tuple(listeners)
        self._metrics = metrics
        self._tracer = tracer
        self._limits = limits
        self._timers = ReactorTimers(reactor)
        self._tls = S2STls(tls, settings.anchors, settings.vouchers)
        world = NodeWorld(self.serving, settings, DialbackKeys(secret), ids, self._tls, limits)
        self._live = LiveConnections()
        self._context = S2SContext(
            reactor,
            self._timers,
            ids,
            metrics,
            tracer,
            limits,
            settings,
            self._tls,
            targets,
            world,
            self._live,
        )
        self._routes: dict[tuple[str, str], Route] = {}  # (local, remote)
        self._incoming: dict[S2SConnection, str] = {}  # connections with their addresses
        self._unproven = Unproven(limits.unproven, limits.unproven_per_address)
        self._verifiers = Verifiers(self._context)
        self._dirty: list[S2SConnection] = []
        self._bounces: list[Stanza] = []
        self._open_ports: list[Any] = []
        self._paused = False
        self.stopping = False

    # -- life ----------------------------------------------------------------------------------

    def startService(self) -> None:
        """Listen.  Names that our certificates lack are told of in the log.

        :raises twisted.internet.error.CannotListenError: an address is not to be had.
        """
        if self.user is None:
            raise LocalError("S2S.user must be set before the start")
        Service.startService(self)
        self.stopping = False
        for problem in self.missing_names().values():
            log.warn("name_missing", "{problem}", problem=problem)
        for listener in self._listeners:
            factory = _Incoming(self, listener.direct)
            port = self._reactor.listenTCP(listener.port, factory, _BACKLOG, listener.host)
            self._open_ports.append(port)
            self.ports.append(port.getHost().port)
            log.info(
                "listening",
                "{purpose} on {host}:{port}{direct}",
                purpose=self._purpose,
                host=listener.host,
                port=self.ports[-1],
                direct=" (direct TLS)" if listener.direct else "",
            )

    def stopService(self) -> Deferred[Any]:
        """Close all streams in good order; what waits is returned."""
        Service.stopService(self)
        self.stopping = True
        words = "this node is stopping"
        waits = [port.stopListening() for port in self._open_ports]
        self._open_ports, self.ports = [], []
        self._flush()
        for route in self._routes.values():
            route.stop(words)
        self._verifiers.stop()
        waits.append(self._live.close(words, "system-shutdown"))
        stopped = gatherResults([wait for wait in waits if wait is not None])
        stopped.addCallback(lambda _: self._timers.stop())
        return stopped

    # -- for the user --------------------------------------------------------------------------

    def send(self, stanza: OutStanza) -> None:
        """Send a stanza from one of our domains to a foreign one.

        What cannot be delivered comes back to the user as an error stanza, in a later turn.
        """
        route = self._routes.get((stanza.from_.domain, stanza.to.domain))
        if route is None:
            route = self._new_route(stanza.from_.domain, stanza.to.domain)
        if self._tracer.watching:
            self._trace(False, stanza.to.domain, stanza.xml)
        route.send(stanza)

    def pause(self) -> None:
        """Stop reading: whoever takes the stanzas is behind."""
        self._paused = True
        for connection in self._incoming:
            connection.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        self._paused = False
        for connection in self._incoming:
            connection.resume_reading()

    def missing_names(self) -> dict[str, str]:
        """Return the names that none of our certificates carries, each with words."""
        return self._tls.missing(sorted(self.names))

    def status(self) -> list[dict[str, Any]]:
        """Return what an operator wants to know of each way out, and of each stream in."""
        status = [route.status() for route in self._routes.values()]
        return status + [connection.status() for connection in self._incoming]

    def acknowledges(self, local: str, remote: str) -> bool:
        """Say whether what is sent now is acknowledged, on a stream that errors come by, too."""
        route = self._routes.get((local, remote))
        carrier = route.carrier if route is not None else None
        if carrier is None or not carrier.stream.bidi:
            return False
        acks = carrier.stream.acks
        return acks.sending and acks.receiving  # it has agreed

    @property
    def acknowledged(self) -> int:
        """How many streams stand on which what we send is acknowledged."""
        carriers = {route.carrier for route in self._routes.values()}
        return sum(1 for one in carriers if one is not None and one.stream.acks.sending)

    def withdraw(self, local: str, remote: str, unwanted: Callable[[OutStanza], bool]) -> None:
        """Forget what waits for a pair and is not to be sent any more; nobody is told."""
        route = self._routes.get((local, remote))
        if route is not None:
            route.withdraw(unwanted)

    def _new_route(self, local: str, remote: str) -> Route:
        if local not in self.serving:
            raise LocalError(f"{local} is no domain of ours")
        if remote in self.serving:
            raise LocalError(f"{remote} is a domain of ours")
        if len(self._routes) >= self._limits.routes:
            for pair in [pair for pair, route in self._routes.items() if route.idle]:
                del self._routes[pair]
        route = self._routes[local, remote] = Route(self, self._context, local, remote)
        return route

    # -- for routes ----------------------------------------------------------------------------

    def flush_later(self, connection: S2SConnection) -> None:
        """Write a stream's output at the end of this reactor turn."""
        if not self._dirty:
            self._reactor.callLater(0, self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def stream_opened(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """Take over an outgoing stream that is open."""
        connection.owner = self
        connection.stream.settles = self.settle is not None
        self._metrics.count("s2s.streams_out")
        self.stream_events(connection, events)

    def bounce(self, stanza: OutStanza, condition: str, words: str) -> None:
        """Return a stanza to its sender, in a later turn; errors and results are never answered."""
        self._metrics.count("s2s.bounced")
        if self.fate is not None:
            self.fate(stanza, Fate.RETURNED, condition, words)
        if self.watcher is not None:
            self._reactor.callLater(0, self.watcher.returned, stanza, condition, words)
            return
        error = bounced(stanza, condition, words)
        if error is None:
            self._metrics.count("s2s.dropped")
            return
        if not self._bounces:
            self._reactor.callLater(0, self._give_back)
        self._bounces.append(error)

    def _give_back(self) -> None:
        bounces, self._bounces = self._bounces, []
        for error in bounces:
            self._guard(error, None)

    def route_failed(self, route: Route, words: str, lasting: bool) -> None:
        """No stream came about."""
        if self.watcher is not None:
            self.watcher.stream_failed(route.local, route.remote, words, lasting)

    # -- incoming connections ------------------------------------------------------------------

    def admit(self, address: str, direct: bool) -> S2SConnection | None:
        """Return what takes a new connection; None when there are too many."""
        limits = self._limits
        if (
            len(self._incoming) >= limits.connections
            or not self._unproven.room(address)
            or (direct and not self._tls.usable)
        ):
            self._metrics.count("s2s.connections_refused")
            return None
        connection = S2SConnection(
            self,
            IncomingStream(self._context.world),
            self._timers,
            self._tls,
            direct=direct,
            dead_after=limits.dead,
            idle=limits.idle_in,
            live=self._live,
        )
        connection.stream.settles = self.settle is not None
        self._incoming[connection] = address
        self._unproven.add(connection, address)
        if self._paused:
            connection.pause_reading()
        return connection

    # -- what streams tell ---------------------------------------------------------------------

    def stream_events(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """Take what came of octets or of time."""
        for event in events:
            if type(event) is Stanza:
                if self._tracer.watching:
                    self._trace(True, event.from_.domain, event.to_xml())
                self._guard(event, connection)
            else:
                self._event(connection, event)

    def _event(self, connection: S2SConnection, event: S2SEvent) -> None:
        if isinstance(event, PairProven):
            self._pair_proven(connection, event)
        elif isinstance(event, Acknowledged):
            self._acknowledged(connection, event)
        elif isinstance(event, CountWanted):
            self._settled(connection, event.count)
        elif isinstance(event, VerifyWanted):
            route = self._routes.get((event.local, event.remote))
            self._verifiers.ask(connection, event, route.carrier if route is not None else None)
        elif isinstance(event, VerifyAnswered):
            self._verifiers.answered(event)
        elif isinstance(event, BadStanza):
            self._bad_stanza(event)
        elif isinstance(event, StreamClosed):
            self._closed(connection, event)
        elif isinstance(event, PairRefused):
            self._pair_refused(connection, event)

    def _pair_proven(self, connection: S2SConnection, event: PairProven) -> None:
        self._unproven.discard(connection)
        log.info(
            "pair_proven",
            "stream {direction} between {local} and {remote} by {method}, {tls}, {address}",
            local=event.local,
            remote=event.remote,
            direction="in" if connection in self._incoming else "out",
            method=event.method,
            tls=connection.encryption or "in clear",
            address=connection.remote_address,
        )
        if connection in self._incoming:
            self._metrics.count("s2s.pairs_in")
        if event.sending:
            pair = (event.local, event.remote)
            route = self._routes.get(pair) or self._new_route(*pair)
            route.use(connection)

    def _pair_refused(self, connection: S2SConnection, event: PairRefused) -> None:
        incoming = connection in self._incoming
        if incoming:
            self._metrics.count("s2s.pairs_refused")
        log.warn(
            "pair_refused",
            "stream {direction} between {local} and {remote} at {address}: {words}",
            local=event.local,
            remote=event.remote,
            direction="in" if incoming else "out",
            address=connection.remote_address,
            words=event.words,
        )

    def _settled(self, connection: S2SConnection, count: int) -> None:
        """Tell the peer what we have taken, when that would survive us."""
        assert self.settle is not None

        def settled() -> None:
            if not connection.closing:
                connection.act(connection.stream.tell_count(count, self._timers.seconds()))

        self.settle(settled, connection.stream.local)

    def tell(self, stanza: OutStanza, fate: Fate) -> None:
        """Tell whoever wants to know how a stanza stands."""
        if self.fate is not None:
            self.fate(stanza, fate, "", "")

    def _acknowledged(self, connection: S2SConnection, event: Acknowledged) -> None:
        if self.watcher is not None and connection.stream.bidi:
            self.watcher.acknowledged(event.stanzas)
        for stanza in event.stanzas:
            self.tell(stanza, Fate.ACKNOWLEDGED)
        self.stream_ready(connection)

    def stream_ready(self, connection: S2SConnection) -> None:
        """The peer reads again, or has acknowledged: hand over what waits."""
        for route in self._carried(connection):
            route.pump()

    def _carried(self, connection: S2SConnection) -> list[Route]:
        if isinstance(connection.stream, OutgoingStream):
            route = self._routes.get((connection.stream.local, connection.stream.remote))
            return [route] if route is not None and route.carrier is connection else []
        if not connection.stream.bidi:
            return []
        return [route for route in self._routes.values() if route.carrier is connection]

    def _closed(self, connection: S2SConnection, event: StreamClosed) -> None:
        incoming = connection in self._incoming
        known = connection not in self._unproven
        if event.condition and event.by_us:
            self._metrics.count("s2s.stream_errors")
        tell = log.info if known or not event.condition else log.warn
        tell(
            "stream_closed",
            "stream {direction} {remote} at {address}: {reason}",
            direction="from" if incoming else "to",
            remote=connection.stream.remote or "somebody",
            address=connection.remote_address,
            reason=event.reason,
        )
        self._verifiers.lost(connection)
        for route in self._carried(connection):
            route.lost(connection, event.words)
            if self.watcher is not None:
                self.watcher.stream_lost(route.local, route.remote, event.words)

    def stream_gone(self, connection: S2SConnection) -> None:
        """The TCP connection is gone."""
        self._unproven.discard(connection)
        self._incoming.pop(connection, None)

    # -- small things --------------------------------------------------------------------------

    def _bad_stanza(self, bad: BadStanza) -> None:
        self._metrics.count("s2s.bad_stanza")
        reply = bad_stanza_reply(bad)
        if reply is not None:
            self.send(reply)

    def _guard(self, stanza: Stanza, connection: S2SConnection | None) -> None:
        """Hand a stanza to the user, whose fault must not cost the stream."""
        try:
            self.user.stanza_arrived(stanza, connection)
        except Exception:  # see above
            self._metrics.count("s2s.faults")
            log.failure("fault", "the user of S2S failed on a stanza")

    def _trace(self, inbound: bool, peer: str, xml: str) -> None:
        now = self._timers.seconds()
        self._tracer.record(now, "xmpp", inbound, peer, xml.encode("utf-8", "replace"))
