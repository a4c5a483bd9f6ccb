"""Asks authoritative servers whether dialback keys are theirs, for the incoming streams."""

from __future__ import annotations

from typing import Protocol

from impfed.transport.s2s_api import S2SContext
from impfed.transport.s2s_connection import S2SConnection
from impfed.transport.s2s_dial import Dialer
from impfed.xmpp.s2s_in import IncomingStream
from impfed.xmpp.s2s_out import OutgoingStream, State
from impfed.xmpp.s2s_parts import S2SEvent, StreamClosed, VerifyAnswered, VerifyWanted


class VerifierOwner(Protocol):
    """What a verifier needs of the service."""

    def verifier_done(self, verifier: Verifier) -> None:
        """Forget it: nothing is asked any more."""


class Verifier:
    """All open questions to the authoritative server of ``remote``.

    They go by our standing stream there, else by a connection of their own, which proves nothing and
    carries nothing else.
    """

    def __init__(self, owner: VerifierOwner, context: S2SContext, local: str, remote: str) -> None:
        self.local = local
        self.remote = remote
        self._owner = owner
        self._context = context
        self._asked: dict[str, list[tuple[S2SConnection, VerifyWanted]]] = {}  # by stream id
        self._carriers: dict[str, S2SConnection] = {}
        self._dialer: Dialer | None = None
        self._own: S2SConnection | None = None

    def ask(
        self, connection: S2SConnection, event: VerifyWanted, carrier: S2SConnection | None
    ) -> None:
        """Ask about a key.

        :param connection: the stream that it came on.
        :param carrier: our standing stream to the authoritative server, None without one.
        """
        self._asked.setdefault(event.stream_id, []).append((connection, event))
        carrier = carrier or self._own
        if carrier is not None and not carrier.closing:
            self._carriers[event.stream_id] = carrier
            stream = carrier.stream
            assert isinstance(stream, OutgoingStream)
            now = self._context.timers.seconds()
            carrier.act(stream.verify(event.local, event.remote, event.stream_id, event.key, now))
            carrier.flush()
            return
        if self._dialer is None:
            self._dialer = Dialer(self, self._context, self.local, self.remote, verify_only=True)
            self._dialer.ask(event.local, event.remote, event.stream_id, event.key)
            self._dialer.start()
        else:
            self._dialer.ask(event.local, event.remote, event.stream_id, event.key)

    def answered(self, event: VerifyAnswered) -> None:
        """The authoritative server has said whether a key is its own."""
        self._carriers.pop(event.stream_id, None)
        for connection, wanted in self._asked.pop(event.stream_id, []):
            self._tell(connection, wanted, event.valid, event.condition)
        self._finish()

    def lost(self, connection: S2SConnection) -> None:
        """A stream is gone: who asked needs no answer, and who was asked gives none."""
        for stream_id, waiting in list(self._asked.items()):
            left = [entry for entry in waiting if entry[0] is not connection]
            if self._carriers.get(stream_id) is connection:
                del self._carriers[stream_id]
                del self._asked[stream_id]
                for asker, wanted in left:
                    self._tell(asker, wanted, False, "remote-server-timeout")
            elif left:
                self._asked[stream_id] = left
            else:
                del self._asked[stream_id]
        self._finish()

    def stop(self) -> None:
        """Ask no more."""
        self._asked.clear()
        self._finish()

    # -- a connection of its own ---------------------------------------------------------------

    def dial_opened(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """The connection is open, and the first answer has come."""
        self._dialer = None
        self._own = connection
        for stream_id in self._asked:
            self._carriers.setdefault(stream_id, connection)
        connection.owner = self
        self.stream_events(connection, events)

    def dial_failed(self, condition: str, words: str, lasting: bool) -> None:
        """There is nobody to ask."""
        self._dialer = None
        known = condition if condition.startswith("remote-server-") else "remote-connection-failed"
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            for connection, wanted in waiting:
                self._tell(connection, wanted, False, known)
        self._finish()

    def stream_events(self, connection: S2SConnection, events: list[S2SEvent]) -> None:
        """Take answers."""
        for event in events:
            if isinstance(event, VerifyAnswered):
                self.answered(event)
            elif isinstance(event, StreamClosed):
                if self._own is connection:
                    self._own = None
                self.lost(connection)

    def stream_ready(self, connection: S2SConnection) -> None:
        """Nothing waits here."""

    def stream_gone(self, connection: S2SConnection) -> None:
        """The end has been told already."""

    def _tell(
        self, connection: S2SConnection, wanted: VerifyWanted, valid: bool, condition: str
    ) -> None:
        stream = connection.stream
        if isinstance(stream, IncomingStream) and not connection.closing:
            now = self._context.timers.seconds()
            connection.act(stream.verdict(wanted.local, wanted.remote, valid, condition, now))

    def _finish(self) -> None:
        if self._asked:
            return
        self._owner.verifier_done(self)
        if self._dialer is not None:
            self._dialer.cancel()
            self._dialer = None
        own, self._own = self._own, None
        if own is not None and own.stream.state is State.OPEN:
            own.close("nothing left to ask")


class Verifiers:
    """All authoritative servers that are being asked, by pair of domains."""

    def __init__(self, context: S2SContext) -> None:
        self._context = context
        self._all: dict[tuple[str, str], Verifier] = {}

    def ask(
        self, connection: S2SConnection, event: VerifyWanted, carrier: S2SConnection | None
    ) -> None:
        """Ask about a key that came on a stream.

        :param carrier: the stream that carries our stanzas to that domain; None without one.
        """
        pair = (event.local, event.remote)
        verifier = self._all.get(pair)
        if verifier is None:
            if len(self._all) >= self._context.limits.verifications:
                self._context.metrics.count("s2s.verifications_refused")
                self._refuse(connection, event)
                return
            verifier = self._all[pair] = Verifier(self, self._context, *pair)
        if carrier is not None and not isinstance(carrier.stream, OutgoingStream):
            carrier = None  # never by a stream that the peer has opened
        verifier.ask(connection, event, carrier)

    def answered(self, event: VerifyAnswered) -> None:
        """An authoritative server has answered."""
        verifier = self._all.get((event.local, event.remote))
        if verifier is not None:
            verifier.answered(event)

    def lost(self, connection: S2SConnection) -> None:
        """A stream is gone."""
        for verifier in list(self._all.values()):
            verifier.lost(connection)

    def stop(self) -> None:
        """Ask no more."""
        for verifier in list(self._all.values()):
            verifier.stop()

    def verifier_done(self, verifier: Verifier) -> None:
        """Nothing is asked of an authoritative server any more."""
        self._all.pop((verifier.local, verifier.remote), None)

    def _refuse(self, connection: S2SConnection, event: VerifyWanted) -> None:
        stream = connection.stream
        if isinstance(stream, IncomingStream) and not connection.closing:
            now = self._context.timers.seconds()
            connection.act(
                stream.verdict(event.local, event.remote, False, "resource-constraint", now)
            )
