"""The node's end of the control socket."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.log import EventLog
from impfed.core.logformat import HIDDEN, is_secret
from impfed.core.trace import TraceLine
from impfed.ctl.api import (
    COMMANDS,
    OPERATIONS,
    REQUEST_LIMIT,
    ControlError,
    NodeView,
    Whereabouts,
)
from impfed.ctl.follow import as_item, concerns
from impfed.store.records import LedgerEntry

#: Longest path that the system takes for a Unix socket, in octets.
_PATH_LIMIT = 107

#: Most clients at a time.
CLIENT_LIMIT = 32

_log = EventLog("impfed.ctl")


def plain(value: Any) -> Any:
    """Return a value as JSON carries it, with everything that is named like a secret hidden."""
    return _hidden(msgspec.to_builtins(value, str_keys=True, enc_hook=str))


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: HIDDEN if is_secret(key) else _hidden(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(item) for item in value]
    return value


def told_once(found: Iterable[LedgerEntry]) -> list[dict[str, Any]]:
    """Return an item for each message, put together of all that is known of it.

    A text on its way is told of by the gateway and by the ledger; one that has moved to another node of
    a cluster by the ledgers of both.
    """
    known: dict[str, list[LedgerEntry]] = {}
    for entry in found:
        known.setdefault(entry.id, []).append(entry)
    items = []
    for entries in known.values():
        item: dict[str, Any] = plain(
            next((each for each in entries if each.finished_at), entries[0])
        )
        for entry in entries:
            item |= {key: value for key, value in plain(entry).items() if not item[key]}
        items.append(item)
    return items


@implementer(IPushProducer)
class ControlProtocol(LineOnlyReceiver):
    """One client: answers its requests in the order they come."""

    transport: Any
    delimiter = b"\n"
    MAX_LENGTH = REQUEST_LIMIT

    def __init__(self, view: NodeView, leave: Callable[[ControlProtocol], None]) -> None:
        self._view = view
        self._leave = leave
        self._stop_watching: Callable[[], None] | None = None
        self._paused = False
        self._dropped = 0

    def connectionMade(self) -> None:
        """Learn from the transport when the client is slow."""
        self.transport.registerProducer(self, True)

    def lineReceived(self, line: bytes) -> None:
        """Answer one request."""
        try:
            request = json.loads(line)
            command, arguments = request["command"], request.get("arguments", [])
            if not isinstance(arguments, list) or not all(isinstance(a, str) for a in arguments):
                raise TypeError("arguments are texts")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._say({"error": f"not a request: {error}"})
            return
        answers: dict[str, Callable[..., Any]] = {
            "status": self._status,
            "sessions": self._sessions,
            "subscriptions": self._subscriptions,
            "where": self._where,
            "route": self._route,
            "learned": self._learned,
            "forget": self._forget,
            "trace": self._trace,
        }
        if isinstance(command, str) and command in OPERATIONS:
            operated = maybeDeferred(self._view.perform, command, arguments)
            operated.addCallback(self._all).addErrback(self._failed, command)
            return
        answer = answers.get(command) if isinstance(command, str) else None
        if answer is None:
            known = ", ".join(COMMANDS)
            self._say({"error": f"there is no command {command!r}; the node knows {known}"})
            return
        wanted = 1 if COMMANDS[command][0] else 0
        more = 1 if command == "route" else 0  # from whom
        if not wanted <= len(arguments) <= wanted + more or not all(arguments):
            usage = f"{command} {COMMANDS[command][0]}".strip()
            self._say({"error": f"usage: {usage}"})
            return
        maybeDeferred(answer, *arguments).addErrback(self._failed, command)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a request that is too long, and hang up."""
        self._say({"error": f"a request may have {self.MAX_LENGTH} octets"})
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Stop watching for a client that is gone."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        self._leave(self)

    def pauseProducing(self) -> None:
        """The client is slow: what it traces now is dropped, and counted."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The client has caught up: tell it what it missed."""
        self._paused = False
        if self._dropped:
            self._say({"item": {"dropped": self._dropped}})
            self._dropped = 0

    def stopProducing(self) -> None:
        """The client is gone."""

    # The commands.

    def _status(self) -> None:
        self._all([self._view.status()])

    def _sessions(self) -> None:
        self._all(self._view.sessions())

    def _subscriptions(self) -> None:
        self._all(self._view.subscriptions())

    def _where(self, text: str) -> Deferred[None]:
        def again(found: Whereabouts) -> Any:
            other = text.lower()
            return self._view.where(other) if not found.found and other != text else found

        def answer(found: Whereabouts) -> None:
            silent = [{"silent": name} for name in found.silent]
            self._all([*told_once(found.found), *silent])

        return self._view.where(text).addCallback(again).addCallback(answer)

    def _route(self, address: str, sender: str = "") -> Deferred[None] | None:
        user, at, domain = address.rpartition("@")
        if not (user and at and domain):
            self._say({"error": f"{address} is no address; usage: route USER@DOMAIN"})
            return None
        found = self._view.route(f"{user}@{domain.lower().rstrip('.')}", sender.lower())
        return found.addCallback(lambda story: self._all([story]))

    def _learned(self) -> None:
        self._all(self._view.learned())

    def _forget(self, domain: str) -> None:
        self._all([{"domain": domain, "forgotten": self._view.forget_domain(domain)}])

    def _trace(self, user: str) -> None:
        def watch(line: TraceLine) -> None:
            if not concerns(line, user):
                return
            if self._paused:
                self._dropped += 1
            else:
                self._say({"item": as_item(line)})

        if self._stop_watching is not None:
            self._stop_watching()
        self._stop_watching = self._view.tracer.watch(watch)
        self._say({"watching": user})

    def _all(self, items: Iterable[Any]) -> None:
        self.transport.writeSequence([_line({"item": plain(item)}) for item in items])
        self._say({"end": True})

    def _failed(self, failure: Failure, command: str) -> None:
        if failure.check(ControlError) is not None:
            self._say({"error": failure.getErrorMessage()})
            return
        _log.failure("command_failed", "{command} failed", failure, command=command)
        self._say({"error": f"{command} failed in the node: {failure.getErrorMessage()}"})

    def _say(self, message: dict[str, Any]) -> None:
        self.transport.write(_line(message))


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=True).encode("ascii") + b"\n"


class ControlServer(Factory):
    """Listens on the control socket.

    :param reactor: a reactor that can listen on Unix sockets.
    :param path: the socket; its directory is made when it is not there.
    :param view: what is shown.
    """

    noisy = False

    def __init__(self, reactor: Any, path: Path | str, view: NodeView) -> None:
        self._reactor = reactor
        self._path = Path(path)
        self._view = view
        self._clients: set[ControlProtocol] = set()
        self._port: IListeningPort | None = None

    def start(self) -> None:
        """Listen.

        :raises ControlError: in words, when the socket cannot be made or another node has it.
        """
        path = os.fsencode(self._path)
        if len(path) > _PATH_LIMIT:
            raise ControlError(
                f"control socket {self._path}: the path has {len(path)} octets, the system takes"
                f" {_PATH_LIMIT}; choose a shorter one ([node] control_socket)"
            )
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._clear()
            # Nobody but the owner from the first moment on, not only once the mode is set.
            before = os.umask(0o177)
            try:
                self._port = self._reactor.listenUNIX(str(self._path), self, mode=0o600)
            finally:
                os.umask(before)
        except OSError as error:
            raise ControlError(
                f"control socket {self._path}: {error.strerror}; see [node] control_socket"
            ) from error

    def stop(self) -> Deferred[None]:
        """Hang up on everybody and listen no longer."""
        for client in list(self._clients):
            client.transport.abortConnection()
        port, self._port = self._port, None
        stopped: Deferred[None] = succeed(None)
        return stopped.addCallback(lambda _: port.stopListening() if port is not None else None)

    def buildProtocol(self, address: object) -> ControlProtocol | None:
        """Take a client, up to a number."""
        if len(self._clients) >= CLIENT_LIMIT:
            _log.warn("clients", "{count} control clients, no more are taken", count=CLIENT_LIMIT)
            return None
        client = ControlProtocol(self._view, self._clients.discard)
        self._clients.add(client)
        return client

    def _clear(self) -> None:
        """Take away the socket that a dead node left behind."""
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ControlError(
                f"control socket {self._path}: a file is in its place; take it away, or choose"
                " another path ([node] control_socket)"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                self._path.unlink(missing_ok=True)
                return
            except BlockingIOError:
                pass
        raise ControlError(
            f"control socket {self._path}: another node listens there; stop it, or give this one"
            " another path ([node] control_socket)"
        )
