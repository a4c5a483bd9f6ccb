"""Brings an outgoing stream up: looks for the servers of a domain and tries one after the other."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet import error
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from impfed.transport.s2s_api import S2SContext
from impfed.transport.s2s_connection import S2SConnection
from impfed.transport.s2s_targets import Found, Target
from impfed.xmpp.s2s_out import OutgoingStream, State
from impfed.xmpp.s2s_parts import Retry, S2SEvent, StreamClosed
from impfed.xmpp.s2s_security import Tls


class DialUser(Protocol):
    """Who wants the stream."""

    def dial_opened(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """Take the stream over; these events came with its opening."""

    def dial_failed(self, condition: str, words: str, lasting: bool) -> None:
        """Take note that no server could be used.

        :param condition: stanza error condition for what waits.
        :param lasting: whether the next attempt is likely to end the same way.
        """


class _Factory(ClientFactory):
    noisy = False

    def __init__(self, dialer: Dialer, connection: S2SConnection) -> None:
        self._dialer = dialer
        self._connection = connection

    def buildProtocol(self, addr: object) -> S2SConnection:
        return self._connection

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self._dialer.connection_failed(reason)


class Dialer:
    """One attempt over all servers of a domain.

    :param verify_only: for a question about a dialback key.
    :ivar target: the server that is being tried.
    """

    def __init__(
        self,
        user: DialUser,
        context: S2SContext,
        local: str,
        remote: str,
        verify_only: bool = False,
    ) -> None:
        self.target: Target | None = None
        self.stream: OutgoingStream | None = None
        self._user: DialUser | None = user
        self._context = context
        self._local = local
        self._remote = remote
        self._verify_only = verify_only
        self._left: list[Target] = []
        self._words: list[str] = []
        self._connection: S2SConnection | None = None
        self._connector: Any = None
        self._waiting: list[tuple[str, str, str, str]] = []

    def start(self) -> None:
        """Look for the servers."""
        refusal = self._context.settings.refusal(self._local, self._remote, False)
        if refusal:
            self._fail("not-allowed", refusal, True)
            return
        self._context.targets.find(self._remote, self._found)

    def ask(self, local: str, remote: str, stream_id: str, key: str) -> None:
        """Ask about a key as soon as there is a stream."""
        if self.stream is not None and self._connection is not None:
            now = self._context.timers.seconds()
            self._connection.act(self.stream.verify(local, remote, stream_id, key, now))
        self._waiting.append((local, remote, stream_id, key))

    def cancel(self, words: str = "not wanted any more") -> None:
        """Try no longer; nobody is told."""
        self._user = None
        if self._connector is not None:
            self._connector.disconnect()
        if self._connection is not None:
            self._connection.close(words)

    # -- targets -------------------------------------------------------------------------------

    def _found(self, found: Found) -> None:
        if self._user is None:
            return
        if not found.targets:
            self._fail(found.condition, found.words, found.condition == "remote-server-not-found")
            return
        self._left = list(found.targets)
        self._next(Retry.LATER)

    def _next(self, retry: Retry) -> None:
        target = self.target
        direct = target is not None and target.direct
        again = retry is Retry.WITHOUT_SASL or (retry is Retry.WITHOUT_TLS and not direct)
        if again and target is not None:
            self._connect(target, retry)
            return
        security = self._context.settings.security(self._local, self._remote)
        while self._left:
            target = self._left.pop(0)
            if target.direct and security.tls is Tls.NONE:
                self._words.append(f"{target}: TLS is off here")
                continue
            self._connect(target, Retry.LATER)
            return
        words = "; ".join(dict.fromkeys(self._words)) or "no server to try"
        self._fail("remote-server-timeout", words, False)

    def _connect(self, target: Target, retry: Retry) -> None:
        self.target = target
        context = self._context
        certificate = context.settings.certificate(self._remote)
        shown = context.tls.chain(self._local, certificate)
        stream = self.stream = OutgoingStream(
            context.world,
            self._local,
            self._remote,
            verify_only=self._verify_only,
            in_clear=retry is Retry.WITHOUT_TLS,
            without_sasl=retry is Retry.WITHOUT_SASL,
            external=shown is not None,
        )
        now = context.timers.seconds()
        for question in self._waiting:
            stream.verify(*question, now)
        client = context.tls.client(self._local, self._remote, target.direct, certificate)
        connection = self._connection = S2SConnection(
            self,
            stream,
            context.timers,
            context.tls,
            client=client,
            direct=target.direct,
            dead_after=context.limits.dead,
            idle=context.limits.idle,
            live=context.live,
        )
        factory = _Factory(self, connection)
        self._connector = context.reactor.connectTCP(
            target.address, target.port, factory, context.limits.connect
        )

    def connection_failed(self, reason: Failure) -> None:
        """No TCP connection."""
        self._connection = self._connector = None
        if self._user is not None:
            self._words.append(f"{self.target}: {_connect_words(reason)}")
            self._next(Retry.LATER)

    # -- the stream, until it is open ----------------------------------------------------------

    def stream_events(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """Hand the stream on when it is open; try on when it ends."""
        user = self._user
        if user is None:
            return
        last = events[-1]
        if isinstance(last, StreamClosed):
            self._connection = self._connector = None
            self._words.append(f"{self.target}: {last.words}")
            if last.retry is Retry.NEVER:
                self._fail("remote-server-timeout", "; ".join(self._words), True)
            else:
                self._next(last.retry)
        elif isinstance(connection.stream, OutgoingStream) and (
            connection.stream.state is State.OPEN
        ):
            self._user = None
            user.dial_opened(connection, events)

    def stream_ready(self, connection: S2SConnection) -> None:
        """Nothing waits here for the peer to read."""

    def stream_gone(self, connection: S2SConnection) -> None:
        """The stream has told of its end already."""

    def _fail(self, condition: str, words: str, lasting: bool) -> None:
        user, self._user = self._user, None
        if user is not None:
            user.dial_failed(condition, words, lasting)


def _connect_words(failure: Failure) -> str:
    if failure.check(error.ConnectionRefusedError):
        return "nothing listens there"
    if failure.check(error.TimeoutError, error.TCPTimedOutError):
        return "no answer"
    if failure.check(error.NoRouteError):
        return "no route there"
    return failure.getErrorMessage()
