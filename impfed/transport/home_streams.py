"""A link to a home server by S2S inside the house: its resolver sends every foreign domain to us.

To the home server we are the server of each foreign domain; to us it is the server of its own local
domains, and nothing else.  The link's own state hangs on one pair: the node's own address pings the
first local domain, and the answer shows that streams come about both ways.

A text counts as accepted when its stream has acknowledged it (XEP-0198), where errors come by the same
stream (XEP-0288) and so before; else by a ping on its own pair of domains.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from impfed.config.model import HomeConfig
from impfed.core.errors import LocalError
from impfed.core.timers import Timer
from impfed.transport.backoff import Backoff
from impfed.transport.directory import Existence
from impfed.transport.inbox import Inbox
from impfed.transport.link_api import LinkContext, LinkState
from impfed.transport.link_base import LinkBase
from impfed.transport.pair_barriers import Pair, PairBarriers, bare_domain
from impfed.transport.s2s import S2S
from impfed.transport.s2s_api import AllBut, S2SLimits, S2SListener
from impfed.transport.s2s_bounce import read_stanza
from impfed.transport.s2s_connection import S2SConnection
from impfed.transport.s2s_targets import HostTarget, resolver
from impfed.transport.tls import TlsStore
from impfed.xmpp.barrier import ACCEPTED, AcceptanceBarrier, Delivery, not_sent
from impfed.xmpp.jid import JID
from impfed.xmpp.s2s_security import Security, Tls
from impfed.xmpp.stanza import OutStanza, Stanza, iq

_PING = "<ping xmlns='urn:xmpp:ping'/>"

#: Seconds after the end of a stream in which the link's own shows whether the home server has died.
UNSURE_AFTER = 0.5

#: Seconds that a stanza may wait for a stream to the home server.
PATIENCE = 10.0


class HomeSettings:
    """Security and policy of the streams of one home server.

    :param home: its configuration.
    """

    def __init__(self, home: HomeConfig) -> None:
        self._domains = frozenset(JID.parse(domain).domain for domain in home.domains)
        self._security = Security(Tls(home.tls), home.require_certificates)
        self._home = home

    def security(self, local: str, remote: str) -> Security:
        """Return what the home server's section says."""
        return self._security

    def anchors(self, remote: str) -> Path | None:
        """Return its own trusted roots."""
        return self._home.ca

    def vouchers(self, remote: str) -> tuple[str, ...]:
        """Return none: the home server shows certificates of its domains."""
        return ()

    def certificate(self, remote: str) -> str:
        """Return "": none of our certificates is for a foreign domain, so the first is shown."""
        return ""

    def refusal(self, local: str, remote: str, incoming: bool) -> str:
        """Let the home server speak for its own local domains only."""
        if not remote or remote in self._domains:
            return ""
        return f"{remote} is not hosted by home server {self._home.name}"


class StreamLink(LinkBase):
    """All streams to and from one home server.

    :param locals: every local domain of the node.
    :param settle: calls a function once what came so far for a foreign domain would survive this process.
    """

    def __init__(
        self,
        owner: Any,
        home: HomeConfig,
        context: LinkContext,
        reactor: Any,
        tls: TlsStore,
        locals: frozenset[str],
        settle: Callable[[Callable[[], None], str], None],
    ) -> None:
        super().__init__(owner, home, home.address, JID.parse(home.domains[0]), context)
        self._barrier: PairBarriers = PairBarriers(context.limits.acceptance, self._callback_failed)
        self._inbox = Inbox(self, owner, context, self._barrier, self._directory, self._rosters)
        self._backoff = Backoff(context.ids)
        self._unsure: list[AcceptanceBarrier] = []  # of streams that are gone
        self._grace: Timer | None = None  # for the end of their being unsure
        self._probe = ""  # id of the ping whose answer is waited for
        self._timer: Timer | None = None  # for the next ping, or the end of waiting
        self._heard = 0.0
        self._pinged = 0.0
        self._flushing = False
        self._paused = False
        streams = self._streams = S2S(
            reactor,
            [S2SListener(home.bind_host, home.bind_port)],
            (),
            tls,
            home.secret or context.ids.token(32),
            HostTarget(home.host, home.port, resolver(reactor)),
            context.ids,
            context.metrics,
            context.tracer,
            HomeSettings(home),
            S2SLimits(patience=PATIENCE, connect=context.limits.connect),
            serving=AllBut(locals),
            purpose=f"home server {home.name}: S2S",
        )
        streams.user = streams.watcher = self
        streams.settle = settle

    def asks_as(self, address: JID) -> bool:
        """Whether the link's own questions may come from an address: pings come from each domain."""
        return bare_domain(address)

    # -- life ----------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Listen, and find out whether the home server answers."""
        self._streams.startService()
        self._connect()

    def _end(self) -> None:
        self._set_timer(None)
        self._probe = ""
        self._fail_open_work("this node is stopping")
        self._set_state(LinkState.STOPPED, "stopped")
        self._streams.stopService().addCallback(self._ended)

    def _connect(self) -> None:
        self._set_state(LinkState.CONNECTING, self.reason)
        self._ping_home()

    def _ping_home(self) -> None:
        """Ask whether the home server is there; give it up if it does not answer."""
        limits = self._context.limits
        self._probe = "k" + self._context.ids.token()
        self._pinged = self._context.timers.seconds()
        self._set_timer(max(PATIENCE, limits.connect) + 1.0, self._unanswered)
        self._streams.send(
            iq(self._ping_target, self._own, id=self._probe, type="get", payload=_PING)
        )

    def _unanswered(self) -> None:
        self._down("no answer to a ping: does its resolver send our address to us?", False)

    def _answered(self) -> None:
        self._probe = ""
        self._set_timer(self._context.limits.keepalive, self._keep_alive)
        if self.up:
            return
        self._set_state(LinkState.UP, "")
        self._tell_up()

    def _keep_alive(self) -> None:
        now, keepalive = self._context.timers.seconds(), self._context.limits.keepalive
        silent = now - self._heard
        # Whatever else comes and goes, the stream that the link hangs on is not to be idle for long.
        quiet = now - self._pinged >= 8 * keepalive
        if (silent >= keepalive or quiet) and not self._paused:
            self._ping_home()
        else:
            self._set_timer(max(keepalive - silent, 1.0), self._keep_alive)

    def _down(self, reason: str, lasting: bool) -> None:
        was_up, probe, self._probe = self.up, self._probe, ""
        target = self._ping_target.domain
        self._streams.withdraw(self._own.domain, target, lambda stanza: stanza.id == probe)
        limits, now = self._context.limits, self._context.timers.seconds()
        if was_up and now - self.since >= limits.stable:
            self._backoff.reset()
        self._set_state(LinkState.WAITING, reason)
        delay = self._backoff.next(lasting)
        self._set_timer(delay, self._connect)
        self._tell_down(was_up, reason, delay)
        self._fail_open_work(reason)
        if was_up:
            self.guard(self._owner.user.link_down, self, reason)

    def _fail_open_work(self, reason: str) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for pair in self._barrier.pairs():
            self._withdraw(pair)
        self._give_up(reason)
        self._directory.lost()
        self._rosters.lost(reason)

    def _withdraw(self, pair: Pair) -> None:
        """Take open texts back: what is unsure is not sent again by itself, or it could come twice."""
        local, foreign = pair
        self._streams.withdraw(foreign, local, self._barrier.waits_for)
        barrier = self._barrier.take(pair)
        if barrier is not None:
            self._unsure.append(barrier)

    def _give_up(self, reason: str) -> None:
        unsure, self._unsure = self._unsure, []
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        for barrier in unsure:
            barrier.lost(reason)

    def _set_timer(self, delay: float | None, call: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay is not None and call is not None and not self._closing:
            self._timer = self._context.timers.after(delay, call)

    # -- what the streams tell -----------------------------------------------------------------

    def stanza_arrived(self, stanza: Stanza, stream: S2SConnection | None) -> None:
        """Take a stanza of the home server's; its domains are proven."""
        self._heard = self._context.timers.seconds()
        if self._probe and stanza.kind == "iq" and stanza.id == self._probe:
            if stanza.type in ("result", "error") and stanza.from_ == self._ping_target:
                self._answered()
                return
        elif not self.up and not self._probe and not self._closing:
            self._connect()  # it is there, before we have asked again
        self._inbox.stanza_arrived(stanza)

    def acknowledged(self, stanzas: list[OutStanza]) -> None:
        """The home server has taken stanzas, and no error has come before."""
        for stanza in stanzas:
            if stanza.kind == "message":
                self._barrier.decided(stanza, ACCEPTED)

    def returned(self, stanza: OutStanza, condition: str, words: str) -> None:
        """No stream came about in time for a stanza."""
        if self._probe and stanza.id == self._probe:
            self._down(words, condition != "remote-server-timeout")
            return
        if stanza.kind == "message" and self._barrier.decided(stanza, not_sent(condition, words)):
            return
        self._context.metrics.count("home.returned")
        relay = self._owner.relay
        if relay is not None and relay.takes(stanza.from_.domain) and not self._stopping:
            self.guard(relay.not_written, stanza)

    def stream_lost(self, local: str, remote: str, words: str) -> None:
        """A stream is gone: what it may have carried is unsure; is the home server gone, too?"""
        self._withdraw((remote, local))
        if self._closing:
            self._give_up(words)
            return
        if self._unsure and self._grace is None:
            # Who hears that a text is unsure asks whether the link still stands, so that is to be
            # known first: where the home server has died its streams end one after the other.
            self._grace = self._context.timers.after(UNSURE_AFTER, self._give_up, words)
        if local == self._own.domain and (self.up or self._probe):
            self._down(words, False)  # it may have been started anew, and remember nothing
        elif self.up and not self._probe:
            self._ping_home()

    def stream_failed(self, local: str, remote: str, words: str, lasting: bool) -> None:
        """The home server cannot be reached."""
        if self._probe and local == self._own.domain:
            self._down(words, lasting)

    # -- out -----------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether whoever brings messages had better wait."""
        return not self.up or len(self._barrier) >= self._context.limits.congested

    def write(self, xml: str) -> None:
        """Write an answer that was made as text."""
        stanza = read_stanza(xml)
        if stanza is not None:
            self._streams.send(OutStanza(stanza.kind, stanza.to, stanza.from_, stanza.id, xml))

    def send(self, stanza: OutStanza) -> bool:
        """Write a stanza without confirmation; False if there is no link."""
        if not self.up:
            return False
        self._streams.send(stanza)
        return True

    def pass_on(self, stanza: OutStanza) -> bool:
        """Write a relayed stanza; the relay gets it back if it cannot be delivered."""
        return self.send(stanza)

    def deliver(self, stanza: OutStanza, done: Callable[[Delivery], None]) -> None:
        """Write a message; ``done`` is told, once, what became of it (perhaps at once)."""
        if not stanza.id:
            raise LocalError("a message to be confirmed needs an id")
        if not self.up:
            done(not_sent("recipient-unavailable", f"no home link: {self.reason}"))
            return
        acked = self._streams.acknowledges(stanza.from_.domain, stanza.to.domain)
        self._streams.send(stanza)
        self._barrier.sent(stanza, done, self._context.timers.seconds(), acked)
        if not acked and not self._flushing:
            self._flushing = True
            self._owner.flush_later(self)
        if self._alarm is None:
            self._set_alarm()

    def flush(self) -> None:
        """Write the pings that confirm what no acknowledgement will."""
        self._flushing = False
        for local, foreign in self._barrier.pairs_to_ping():
            id = "b" + self._context.ids.token()
            self._barrier.ping_sent((local, foreign), id)
            to, from_ = JID.parse(local), JID.parse(foreign)
            self._streams.send(iq(to, from_, id=id, type="get", payload=_PING))

    def _ask(self, stanza: OutStanza) -> None:
        self._streams.send(stanza)
        self._set_alarm()

    # -- the rest ------------------------------------------------------------------------------

    def numbered(self, queue: str) -> None:
        """Nothing to do: these streams count by themselves (XEP-0198)."""

    @property
    def knows_users(self) -> bool:
        """Whether there is a module to ask who exists: never, a module answers components only."""
        return False

    def exists(self, user: JID, done: Callable[[Existence], None]) -> None:
        """Say that nothing is known."""
        done(Existence.UNKNOWN)

    def pause(self) -> None:
        """Read no more from the home server for now."""
        self._paused = True
        self._streams.pause()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        self._heard = self._context.timers.seconds()
        self._streams.resume()

    def status(self) -> dict[str, object]:
        """Return what an operator wants to know."""
        status = self._status(len(self._barrier), self.congested)
        streams = self._streams.status()
        status["streams"] = f"{len(streams)}, {self._streams.acknowledged} of them acknowledged"
        if self.state is LinkState.WAITING and self._timer is not None:
            status["retry_at"] = self._timer.when
        return status
