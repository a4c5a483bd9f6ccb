"""What every link to a home server is, whatever carries its stanzas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from impfed.config.model import HomeConfig
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.transport.directory import DirectoryQueries
from impfed.transport.link_api import LinkContext, LinkState
from impfed.transport.pair_barriers import PairBarriers
from impfed.transport.rosters import Deed, RosterAnswer, RosterRequests, unavailable
from impfed.xmpp.barrier import AcceptanceBarrier
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza

log = EventLog("impfed.home")


class LinkBase:
    """A link to a home server: its state, its requests, its words.

    :param owner: provider of ILinkOwner.
    :param domain: the address that the link's own questions come from.
    :param module: where our module on the home server answers, if it is there.
    :ivar home: the home server's configuration.
    :ivar name: the home server's name, with the domain where there are several links.
    :ivar carries_all: whether it carries every foreign domain.
    :ivar state: where it stands.
    :ivar reason: why it does not stand, in words; "" while it does.
    :ivar module_address: where our module answers.
    """

    carries_all = True
    _barrier: AcceptanceBarrier | PairBarriers

    def __init__(
        self, owner: Any, home: HomeConfig, domain: str, module: JID, context: LinkContext
    ) -> None:
        self.home = home
        self.domain = domain
        self.name = home.name
        self.state = LinkState.STOPPED
        self.reason = "not started"
        self.since = context.timers.seconds()
        self.module_address = module
        self._owner = owner
        self._context = context
        self._own = JID.parse(domain)
        self._ping_target = JID.parse(home.domains[0])
        self._alarm: Timer | None = None
        self._stopping = False
        self._stops: list[Deferred[None]] = []  # who waits for the end of what is being closed
        self._directory = DirectoryQueries(self._own, module, self._callback_failed)
        self._rosters = RosterRequests(
            self._own, context.ids, self._ask, context.timers.seconds, self._callback_failed
        )

    @property
    def domains(self) -> frozenset[str]:
        """The local domains of the home server, normalized."""
        return frozenset(JID.parse(domain).domain for domain in self.home.domains)

    @property
    def up(self) -> bool:
        """Whether stanzas can pass."""
        return self.state is LinkState.UP

    @property
    def keeps(self) -> bool:
        """Whether the home server keeps what it has for us while nobody is connected."""
        return True

    @property
    def unconfirmed(self) -> int:
        """Messages that the home server has not confirmed yet."""
        return len(self._barrier)

    def start(self) -> None:
        """Connect, and stay connected; what is just being closed ends first."""
        self._stopping = False
        if not self._stops:
            self._begin()

    def stop(self) -> Deferred[None]:
        """Disconnect in good order; fires when every connection is gone."""
        self._stopping = True
        stopped: Deferred[None] = Deferred()
        self._stops.append(stopped)
        if len(self._stops) == 1:
            self._end()
        return stopped

    @property
    def _closing(self) -> bool:
        """Whether nothing may begin: the link is not wanted, or what it had is still being closed."""
        return self._stopping or bool(self._stops)

    def _begin(self) -> None:
        """Connect."""
        raise NotImplementedError

    def _end(self) -> None:
        """Close everything, and say when that is done by :meth:`_ended`."""
        raise NotImplementedError

    def _ended(self, _: object) -> None:
        stops, self._stops = self._stops, []
        if not self._stopping:
            self._begin()
        for stopped in stops:
            stopped.callback(None)

    def retire(self) -> Deferred[None]:
        """Connect no more; fires when the connection that stands is gone."""
        return succeed(None)

    def pings(self, address: JID) -> bool:
        """Whether an address is the one that the link's own pings go to."""
        return address == self._ping_target

    def asks_as(self, address: JID) -> bool:
        """Whether the link's own questions may come from an address."""
        return address == self._own

    def flush(self) -> None:
        """Write what has gathered."""
        raise NotImplementedError

    def _ask(self, stanza: OutStanza) -> None:
        """Write a question whose answer is waited for."""
        raise NotImplementedError

    def _set_alarm(self) -> None:
        """See that one timer stands for the earliest time-out."""
        parts = (self._barrier, self._directory, self._rosters)
        due = [part.deadline for part in parts if part.deadline]
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if due:
            delay = max(0.0, min(due) - self._context.timers.seconds())
            self._alarm = self._context.timers.after(delay, self._time_out)

    def _time_out(self) -> None:
        self._alarm = None
        now = self._context.timers.seconds()
        count = self._barrier.expire(now)
        if count:
            self._unconfirmed(count)
        self._directory.expire(now)
        self._rosters.expire(now)
        self._set_alarm()
        self.flush()

    def _set_state(self, state: LinkState, reason: str) -> None:
        if state is not self.state:
            self.since = self._context.timers.seconds()
        self.state = state
        self.reason = reason

    def _tell_up(self) -> None:
        """Say that the link stands, to the log and to whoever uses it."""
        self._context.metrics.count("home.connected")
        log.info("link_up", "home link {link} to {host}:{port} is up", **self.fields())
        self.guard(self._owner.user.link_up, self)
        if self._owner.relay is not None:
            self.guard(self._owner.relay.link_up, self.domains)

    def _tell_down(self, was_up: bool, reason: str, delay: float) -> None:
        """Say that it does not, or still not."""
        self._context.metrics.count("home.disconnected" if was_up else "home.connect_failed")
        log.warn(
            "link_down",
            "home link {link} to {host}:{port}: {reason}; next try in {delay:.1f} s",
            reason=reason,
            delay=delay,
            **self.fields(),
        )

    def _unconfirmed(self, count: int) -> None:
        """Say that messages have not been confirmed in time."""
        self._context.metrics.count("home.unconfirmed", count)
        log.warn(
            "unconfirmed",
            "home link {link}: {count} messages not confirmed within {seconds:g} s",
            count=count,
            seconds=self._context.limits.acceptance,
            **self.fields(),
        )

    # -- rosters -------------------------------------------------------------------------------

    def roster_obstacle(self, domain: str, deed: Deed) -> str:
        """Say why nothing can be done to rosters of a local domain; "" if it can."""
        if self.state is not LinkState.UP:
            return f"no home link: {self.reason}"
        return self._rosters.obstacle(domain, deed)

    def change_roster(
        self, deed: Deed, local: JID, foreign: JID, name: str, done: Callable[[RosterAnswer], None]
    ) -> None:
        """Have something done to a local user's roster; ``done`` is called once."""
        obstacle = self.roster_obstacle(local.domain, deed)
        if obstacle:
            done(unavailable(obstacle))
            return
        self._rosters.ask(deed, local, foreign, name, done)

    # -- helpers -------------------------------------------------------------------------------

    def _status(self, unconfirmed: int, congested: bool) -> dict[str, object]:
        status: dict[str, object] = {
            "link": self.name,
            "home": self.home.name,
            "kind": self.home.kind,
            "server": f"{self.home.host}:{self.home.port}",
            "component": self.domain,
            "domains": list(self.home.domains),
            "state": self.state.value,
            "since": self.since,
            "reason": self.reason,
            "unconfirmed": unconfirmed,
            "congested": congested,
        }
        if self.up:
            domains = sorted(self.domains)
            status["rosters"] = {domain: self._rosters.describe(domain) for domain in domains}
        return status

    def trace(self, inbound: bool, xml: str) -> None:
        """Show a stanza to whoever watches."""
        tracer = self._context.tracer
        if tracer.watching:
            now = self._context.timers.seconds()
            tracer.record(now, "xmpp", inbound, self.home.name, xml.encode("utf-8", "replace"))

    def fields(self) -> dict[str, Any]:
        """Return what log events say of the link."""
        home = self.home
        return {"link": self.name, "host": home.host, "port": home.port, "domain": self.domain}

    def guard(self, call: Callable[..., None], *arguments: Any) -> bool:
        """Call somebody whose fault must not cost the link; returns whether it went well."""
        try:
            call(*arguments)
        except Exception:  # see above
            self._callback_failed()
            return False
        return True

    def _callback_failed(self) -> None:
        self._context.metrics.count("home.faults")
        log.failure("fault", "home link {link}: a user of the link failed", link=self.name)
