"""One link to a home server: keeps a component connection up and carries stanzas over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from impfed.config.model import HomeConfig
from impfed.core.errors import LocalError
from impfed.core.timers import Timer
from impfed.transport.backoff import Backoff
from impfed.transport.component import ComponentConnection
from impfed.transport.directory import Existence
from impfed.transport.handover import HandOver
from impfed.transport.inbox import Inbox
from impfed.transport.link_api import LinkContext, LinkState
from impfed.transport.link_base import LinkBase
from impfed.xmpp.barrier import AcceptanceBarrier, Delivery, not_sent
from impfed.xmpp.component import Closed, ComponentStream, Event, Opened, explain
from impfed.xmpp.jid import JID
from impfed.xmpp.reader import BadStanza
from impfed.xmpp.stanza import OutStanza, Stanza, iq

NS_PING = "urn:xmpp:ping"

_LASTING = {"not-authorized", "conflict", "host-unknown", "invalid-from", "invalid-namespace"}


class _OneConnection(Factory):
    noisy = False

    def __init__(self, connection: ComponentConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: object) -> ComponentConnection:
        return self._connection


class HomeLink(LinkBase):
    """A component connection, kept up.

    :ivar domain: the component's domain: a foreign domain, or the node's own address.
    """

    def __init__(self, owner: Any, home: HomeConfig, domain: str, context: LinkContext) -> None:
        self.carries_all = home.kind == "prosody"
        module = JID.parse(domain if self.carries_all else home.domains[0])
        super().__init__(owner, home, domain, module, context)
        if not self.carries_all:
            self.name = f"{home.name}/{domain}"
        self._barrier: AcceptanceBarrier = AcceptanceBarrier(
            context.limits.acceptance, self._callback_failed
        )
        self._inbox = Inbox(self, owner, context, self._barrier, self._directory, self._rosters)
        self._handover = HandOver(context.settle, self.write, context.timers)
        self._backoff = Backoff(context.ids)
        self._connection: ComponentConnection | None = None
        self._attempt: Deferred[Any] | None = None
        self._retry: Timer | None = None
        self._watch: Timer | None = None
        self._reading = True
        self._pressed = False
        self._unread = 0
        self._out: list[str] = []
        self._passing: list[OutStanza] = []
        self._resumed = 0.0
        self._open: set[ComponentConnection] = set()

    # -- life ----------------------------------------------------------------------------------

    @property
    def keeps(self) -> bool:
        """Whether the home server keeps what it has for us while nobody is connected."""
        return self._handover.on

    def retire(self) -> Deferred[None]:
        """Connect no more; fires when the connection that stands is gone, or not to be waited for."""
        self._connect_no_more()
        retired: Deferred[None] = Deferred(lambda _: retired.callback(None))

        def gone(_: object) -> None:
            if not retired.called:
                retired.callback(None)

        if self._connection is None:
            retired.callback(None)
        else:
            self._connection.gone.addCallback(gone)
        return retired

    def _connect_no_more(self) -> None:
        self._stopping = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._attempt is not None:
            self._attempt.cancel()

    def _end(self) -> None:
        self._connect_no_more()
        if self._connection is not None:
            self._connection.pause_reading()
        self._handover.close(self._close)

    def _close(self) -> None:
        self.flush()
        gone = [connection.close() for connection in list(self._open)]
        self._set_state(LinkState.STOPPED, "stopped")
        gatherResults(gone).addCallback(self._ended)

    def _begin(self) -> None:
        self._retry = None
        self._set_state(LinkState.CONNECTING, self.reason)
        stream = ComponentStream(self.domain, self.home.secret, self._context.limits.reader)
        connection = ComponentConnection(self, stream, self._context.timers)
        if not self._reading:
            connection.pause_reading()
        factory = _OneConnection(connection)
        self._attempt = self._context.connect(self.home, factory, self._context.limits.connect)
        self._attempt.addCallbacks(self._connected, self._not_connected, (connection,))

    def _connected(self, _: object, connection: ComponentConnection) -> None:
        self._attempt = None
        self._open.add(connection)
        connection.gone.addCallback(lambda _: self._open.discard(connection))
        self._connection = connection
        self._set_state(LinkState.HANDSHAKE, self.reason)

    def _not_connected(self, failure: Failure) -> None:
        self._attempt = None
        if not self._stopping:
            self._down(_connect_words(failure, self.home), lasting=False)

    def events_arrived(self, connection: ComponentConnection, events: list[Event]) -> None:
        """Take what a connection has brought (called by the connection)."""
        self._connection = connection
        for event in events:
            if isinstance(event, Stanza | BadStanza):
                self._take(event)
            elif isinstance(event, Opened):
                self._opened()
            else:
                self._closed(event)
        if self._out:
            self.flush()

    def _take(self, item: Stanza | BadStanza) -> None:
        number = self._handover.number(item) if self._handover.on else 0
        if number and self._handover.needless(item, number):
            pass
        elif isinstance(item, Stanza):
            self._inbox.stanza_arrived(item)
        else:
            self._inbox.bad_stanza(item)
        if number and self._handover.on:
            self._handover.handled(item, number)

    def numbered(self, queue: str) -> None:
        """The module keeps what it sends from now on until we acknowledge it."""
        self._handover.begin(queue)

    def write_pressure(self, connection: ComponentConnection, high: bool) -> None:
        """Take note of the transport's buffer (called by the connection)."""
        self._pressed = high
        if not high:
            self._unread = 0

    def _opened(self) -> None:
        self._set_state(LinkState.UP, "")
        self._pressed = False
        self._unread = 0
        context = self._context
        self._watch = context.timers.after(context.limits.keepalive, self._keep_alive)
        limit = context.limits.reader.stanza
        id, now = "d" + context.ids.token(), context.timers.seconds()
        greeting = self._directory.greeting(id, now, limit)
        self._ask(greeting)
        self._tell_up()

    def _closed(self, closed: Closed) -> None:
        reason = explain(closed, self.domain)
        self._connection = None
        if self._closing:
            self._fail_open_work("this node is stopping")
            return
        self._down(reason, lasting=closed.condition in _LASTING)

    def _down(self, reason: str, lasting: bool) -> None:
        was_up = self.up
        now = self._context.timers.seconds()
        if was_up and now - self.since >= self._context.limits.stable:
            self._backoff.reset()
        self._out.clear()
        self._set_state(LinkState.WAITING, reason)
        delay = self._backoff.next(lasting)
        self._retry = self._context.timers.after(delay, self._begin)
        self._tell_down(was_up, reason, delay)
        self._fail_open_work(reason)
        self._hand_back()
        if was_up:
            self.guard(self._owner.user.link_down, self, reason)

    def _hand_back(self) -> None:
        """Give the relay back what the link did not live to write."""
        passing, self._passing = self._passing, []
        for stanza in passing:
            self.guard(self._owner.relay.not_written, stanza)

    def _fail_open_work(self, reason: str) -> None:
        for timer in (self._watch, self._alarm):
            if timer is not None:
                timer.cancel()
        self._watch = self._alarm = None
        self._handover.lost()
        self._barrier.lost(reason)
        self._directory.lost()
        self._rosters.lost(reason)

    def _keep_alive(self) -> None:
        """Ping a silent home server; give a link up that stays silent."""
        limits, timers, connection = self._context.limits, self._context.timers, self._connection
        self._watch = None
        if connection is None:
            return
        silent = self._silence(connection)
        if silent >= 2 * limits.keepalive:
            connection.abort(f"nothing heard for {silent:.0f} s")
            return
        wait = limits.keepalive - silent
        if silent >= limits.keepalive:
            self.write(self._ping("k" + self._context.ids.token()))
            wait += limits.keepalive
        self._watch = timers.after(max(wait, 1.0), self._keep_alive)

    def _silence(self, connection: ComponentConnection) -> float:
        """Return the seconds for which nothing was heard; while we do not read that says nothing."""
        now = self._context.timers.seconds()
        return now - max(connection.heard if self._reading else now, self._resumed)

    def _time_out(self) -> None:
        """Give a link up that has said nothing at all while it was to confirm messages: it is half open.

        That comes before any message is given up, so that all that the link may have lost is told
        of a link that is down, and goes again in one order.
        """
        connection, due = self._connection, self._barrier.deadline
        if connection is not None and due is not None and due <= self._context.timers.seconds():
            silent = self._silence(connection)
            if silent >= self._context.limits.acceptance:
                words = f"no message was confirmed, and nothing was heard for {silent:.0f} s"
                connection.abort(words)
                return
        super()._time_out()

    # -- out -----------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether whoever brings messages had better wait."""
        return (
            self.state is not LinkState.UP
            or self._pressed
            or len(self._barrier) >= self._context.limits.congested
        )

    @property
    def full(self) -> bool:
        """Whether nothing more is taken at all."""
        return self._unread >= self._context.limits.queue

    def write(self, xml: str) -> None:
        """Write a stanza at the end of this reactor turn."""
        if not self._out:
            self._owner.flush_later(self)
        self._out.append(xml)

    def send(self, stanza: OutStanza) -> bool:
        """Write a stanza without confirmation; False if there is no link, or no room.

        For the last word on a hand-over there is always room: the home server hands over so much
        and no more before it has read that.
        """
        if self.state is not LinkState.UP or (self.full and not stanza.answers):
            return False
        self.trace(False, stanza.xml)
        self.write(stanza.xml)
        self._handover.answered(stanza.answers)
        return True

    def pass_on(self, stanza: OutStanza) -> bool:
        """Write a relayed stanza; False if there is no link, or no room.

        The relay gets it back if the link breaks before it is written.
        """
        sent = self.send(stanza)
        if sent:
            self._passing.append(stanza)
        return sent

    def deliver(self, stanza: OutStanza, done: Callable[[Delivery], None]) -> None:
        """Write a message; ``done`` is told, once, what became of it (perhaps at once)."""
        if not stanza.id:
            raise LocalError("a message to be confirmed needs an id")
        if self.state is not LinkState.UP:
            done(not_sent("recipient-unavailable", f"no home link: {self.reason}"))
            return
        if self.full:
            done(not_sent("resource-constraint", "the home server does not keep up"))
            return
        self.trace(False, stanza.xml)
        self.write(stanza.xml)
        self._barrier.sent(stanza, done, self._context.timers.seconds())
        if self._alarm is None:
            self._set_alarm()

    def _ask(self, stanza: OutStanza) -> None:
        """Write a question whose answer is waited for."""
        self.trace(False, stanza.xml)
        self.write(stanza.xml)
        self._set_alarm()

    @property
    def knows_users(self) -> bool:
        """Whether there is a module to ask who exists, as far as we know."""
        return self.up and (self.carries_all or self._directory.greeted)

    def exists(self, user: JID, done: Callable[[Existence], None]) -> None:
        """Ask the home server's module whether a user exists."""
        if not self.knows_users:
            done(Existence.UNKNOWN)
            return
        self._directory.ask(user, done)
        if not self._out:
            self._owner.flush_later(self)

    def flush(self) -> None:
        """Write what has gathered, and after messages the ping that confirms them: one write."""
        connection = self._connection
        if connection is None or self.state is not LinkState.UP:
            self._out.clear()
            return
        context = self._context
        while self._directory.waiting:
            id = "d" + context.ids.token()
            self._out.append(self._directory.next_query(id, context.timers.seconds()).xml)
            self._set_alarm()
        if self._barrier.wants_ping:
            id = "b" + context.ids.token()
            self._barrier.ping_sent(id)
            self._out.append(self._ping(id))
        if not self._out:
            return
        data = "".join(self._out).encode("utf-8", "replace")
        self._out.clear()
        self._passing.clear()
        if self._pressed:
            self._unread += len(data)
        connection.write(data)

    def _ping(self, id: str) -> str:
        payload = f"<ping xmlns='{NS_PING}'/>"
        return iq(self._ping_target, self._own, id=id, type="get", payload=payload).xml

    # -- in ------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more from the home server for now."""
        self._reading = False
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._reading = True
        self._resumed = self._context.timers.seconds()
        if self._connection is not None:
            self._connection.resume_reading()

    # -- helpers -------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """Return what an operator wants to know."""
        hosts = self._directory.hosts
        status = self._status(len(self._barrier), self.congested)
        if self.carries_all or hosts is not None:
            status["module"] = "there" if hosts is not None else "no answer"
            status["hand_over"] = "acknowledged" if self._handover.on else "not acknowledged"
            status["unacknowledged"] = self._handover.unacknowledged
        if self._retry is not None:
            status["retry_at"] = self._retry.when
        return status


def _connect_words(failure: Failure, home: HomeConfig) -> str:
    where = f"{home.host}:{home.port}"
    if failure.check(error.ConnectionRefusedError):
        return f"nothing listens at {where}: is the home server running, and its component port?"
    if failure.check(error.TimeoutError):
        return f"no answer from {where}"
    if failure.check(error.DNSLookupError):
        return f"{home.host} has no address"
    return f"no connection to {where}: {failure.getErrorMessage()}"
