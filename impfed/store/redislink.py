"""The way to Redis: one connection for operations, made anew whenever it is lost, one for waiting.

txredisapi speaks the protocol; its pools are not used, for they let commands wait without limit while
the server is away.  Here a command fails at once when there is no connection, and gives the connection
up when its answer does not come in time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import txredisapi
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, inlineCallbacks
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from impfed.config.model import CertificateConfig
from impfed.config.store import StoreConfig
from impfed.config.values import show_address
from impfed.core.log import EventLog
from impfed.store.api import StoreError, StoreFault
from impfed.store.link import SCRIPTS, Answer, Argument, Entries, pairs

_CONNECT = 2.0  # seconds, for each step
_PATIENCE_AT_START = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_OLDEST = (7, 0)

_log = EventLog("impfed.store")

_RIGHTS = "its user may not do this; docs/store.md has the ACL line"
#: What an error of Redis begins with, what it means for us, and what helps.
_FAULTS: tuple[tuple[str, StoreFault, str], ...] = (
    ("OOM", StoreFault.OUT_OF_MEMORY, "its memory is full; raise maxmemory, or look what fills it"),
    ("READONLY", StoreFault.READ_ONLY, "it is a replica, and takes no writes"),
    ("MISCONF", StoreFault.FULL, "it cannot write to its disk and takes no writes; see its log"),
    ("NOREPLICAS", StoreFault.READ_ONLY, "it has fewer replicas than it is told to have"),
    ("LOADING", StoreFault.UNAVAILABLE, "it is still loading its data"),
    ("BUSY", StoreFault.UNAVAILABLE, "a script keeps it busy"),
    ("MASTERDOWN", StoreFault.UNAVAILABLE, "it is a replica that has lost its master"),
    ("WRONGPASS", StoreFault.DENIED, "it does not accept the user and password"),
    ("NOAUTH", StoreFault.DENIED, "it wants a password: [store] password_file"),
    ("NOPERM", StoreFault.DENIED, _RIGHTS),
    ("The user executing the script", StoreFault.DENIED, _RIGHTS),
)


def in_words(place: str, message: str) -> StoreError:
    """Return the error that tells an operator what Redis refused and what helps."""
    for start, fault, words in _FAULTS:
        if message.startswith((start, f"ERR {start}")):
            return StoreError(fault, f"{place}: {words} ({message})")
    if "without any password configured" in message or "invalid password" in message:
        words = "it does not accept the user and password"
        return StoreError(StoreFault.DENIED, f"{place}: {words} ({message})")
    return StoreError(StoreFault.OTHER, f"{place}: it refused: {message}")


class _Protocol(txredisapi.RedisProtocol):  # type: ignore[misc]  # txredisapi has no types
    def __init__(self) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.lost: Callable[[], None] = lambda: None

    def connectionLost(self, why: Any) -> None:
        super().connectionLost(why)
        self.lost()

    def abort(self) -> Deferred[None]:
        """Give the connection up; fires when it is gone."""
        gone: Deferred[None] = Deferred()
        before = self.lost

        def lost() -> None:
            before()
            gone.callback(None)

        self.lost = lost
        self.transport.abortConnection()
        return gone

    def _build_command(self, *words: Argument, **_: Any) -> bytes:
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            octets = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(octets), octets))
        return b"".join(parts)

    def tryConvertData(self, data: Any) -> Any:
        return data  # octets stay what they are, and lists of thousands of them need no look

    def ask(self, *words: Argument, timeout: float, clock: Any) -> Deferred[Any]:
        """Send a command; without an answer in time the connection is given up."""
        asked: Deferred[Any] = self.execute_command(*words)
        asked.addTimeout(timeout, clock)
        return asked.addErrback(self._not_answered)

    def _not_answered(self, failure: Failure) -> Failure:
        if failure.check(TimeoutError, CancelledError):
            self.transport.abortConnection()
        return failure


class _Dialer:
    """Makes connections that are ready for use.

    :ivar place: what was tried last, in words.
    """

    def __init__(
        self, reactor: Any, config: StoreConfig, certificate: CertificateConfig | None
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._certificate = certificate
        self._next = 0
        self.place = f"Redis at {config.place}"

    @inlineCallbacks
    def dial(self, scripts: bool) -> Any:
        """Return a connection that has been greeted; fails with a StoreError in words."""
        host, port = yield self._master()
        name = host if not port else show_address(host, port)
        self.place = f"Redis at {name}"
        protocol = yield self._connect(host, port)
        try:
            yield self._greet(protocol, self._config.user, self._config.password)
            role = yield self._ask(protocol, "ROLE")
            if role[0] != b"master":
                raise StoreError(
                    StoreFault.READ_ONLY, f"{self.place}: it is a {role[0].decode()}, not a master"
                )
            if scripts:
                yield self._prepare(protocol)
        except Exception as error:
            protocol.transport.abortConnection()
            raise self._told(error) from error
        return protocol

    @inlineCallbacks
    def _master(self) -> Any:
        config = self._config
        if config.socket is not None:
            return str(config.socket), 0
        if not config.sentinel:
            address = config.addresses[self._next % len(config.addresses)]
            self._next += 1  # one of several that fails is not asked twice in a row
            return address
        problem = ""
        for _ in config.addresses:
            host, port = config.addresses[self._next % len(config.addresses)]
            self.place = f"Sentinel at {show_address(host, port)}"
            protocol = None
            try:
                protocol = yield self._connect(host, port)
                user, password = config.sentinel_user, config.sentinel_password
                yield self._greet(protocol, user, password)
                words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", config.sentinel)
                found = yield self._ask(protocol, *words)
                if found:
                    return found[0].decode(), int(found[1])
                problem = f"{self.place}: it knows no master {config.sentinel}"
            except Exception as error:
                problem = self._told(error).text
            finally:
                if protocol is not None:
                    protocol.transport.abortConnection()
            self._next += 1
        raise StoreError(StoreFault.UNAVAILABLE, problem)

    @inlineCallbacks
    def _connect(self, host: str, port: int) -> Any:
        endpoint: Any
        if not port:
            endpoint = UNIXClientEndpoint(self._reactor, host, timeout=_CONNECT)
        else:
            endpoint = HostnameEndpoint(self._reactor, host, port, timeout=_CONNECT)
            if self._config.tls:
                endpoint = wrapClientTLS(self._tls(self._config.tls_name or host), endpoint)
        try:
            protocol = yield endpoint.connect(Factory.forProtocol(_Protocol))
        except Exception as error:
            raise self._told(error) from error
        return protocol

    def _tls(self, name: str) -> Any:
        roots = None
        if self._config.ca is not None:
            text = self._config.ca.read_text("utf-8")
            mark = "-----{} CERTIFICATE-----"
            found = re.findall(mark.format("BEGIN") + ".*?" + mark.format("END"), text, re.S)
            roots = ssl.trustRootFromCertificates(map(ssl.Certificate.loadPEM, found))
        own = None
        if self._certificate is not None:
            key = self._certificate.key.read_bytes()
            own = ssl.PrivateCertificate.loadPEM(key + self._certificate.certificate.read_bytes())
        return ssl.optionsForClientTLS(name, trustRoot=roots, clientCertificate=own)

    @inlineCallbacks
    def _greet(self, protocol: _Protocol, user: str, password: str) -> Any:
        if password:
            words = ("AUTH", user, password) if user else ("AUTH", password)
            yield self._ask(protocol, *words)

    @inlineCallbacks
    def _prepare(self, protocol: _Protocol) -> Any:
        info = yield self._ask(protocol, "INFO", "server")
        found = re.search(rb"redis_version:(\d+)\.(\d+)", info)
        version = (int(found[1]), int(found[2])) if found else _OLDEST
        if version < _OLDEST:
            raise StoreError(
                StoreFault.OTHER,
                f"{self.place}: it is version {version[0]}.{version[1]};"
                f" impfed needs {_OLDEST[0]}.{_OLDEST[1]} or newer",
            )
        protocol.shas = {}
        asked = {
            name: self._ask(protocol, "SCRIPT", "LOAD", text) for name, text in SCRIPTS.items()
        }
        problem: Exception | None = None
        for name, answer in asked.items():
            try:
                protocol.shas[name] = yield answer
            except Exception as error:
                problem = problem or error
        if problem is not None:
            raise problem

    def _ask(self, protocol: _Protocol, *words: Argument) -> Deferred[Any]:
        return protocol.ask(*words, timeout=_CONNECT, clock=self._reactor)

    def _told(self, error: BaseException) -> StoreError:
        if isinstance(error, StoreError):
            return error
        if isinstance(error, txredisapi.ResponseError):
            return in_words(self.place, str(error))
        if isinstance(error, (TimeoutError, CancelledError)):
            return StoreError(StoreFault.UNAVAILABLE, f"{self.place}: it does not answer")
        if isinstance(error, txredisapi.ConnectionError):
            words = "it closed the connection"
            words += ", which with TLS may mean that it refuses our certificate or speaks none"
            return StoreError(StoreFault.UNAVAILABLE, f"{self.place}: {words}")
        if isinstance(error, (ConnectError, DNSLookupError, OSError)):
            return StoreError(StoreFault.UNAVAILABLE, f"{self.place}: {error}")
        return StoreError(StoreFault.OTHER, f"{self.place}: {error or type(error).__name__}")


class RedisLink:
    """A :class:`~impfed.store.link.Link` to Redis.

    :param certificate: shown to Redis; None for none.
    """

    def __init__(
        self, reactor: Any, config: StoreConfig, certificate: CertificateConfig | None = None
    ) -> None:
        self._reactor = reactor
        self._prefix = config.prefix
        self._dialer = _Dialer(reactor, config, certificate)
        self._waiter = _Dialer(reactor, config, certificate)
        self._protocol: _Protocol | None = None
        self._waiting: _Protocol | None = None
        self._watchers: list[Callable[[bool], None]] = []
        self._dialing: Deferred[Any] | None = None
        self._redial: IDelayedCall | None = None
        self._pause = _FIRST_PAUSE
        self._running = False
        self._told = ""

    @property
    def place(self) -> str:
        """What it is connected to, in words."""
        return self._dialer.place

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._protocol is not None and bool(self._protocol.connected)

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Call ``changed(up)`` whenever the connection is there or has gone."""
        self._watchers.append(changed)

    @inlineCallbacks
    def start(self) -> Any:
        """Connect, with some patience; what cannot get better by waiting fails at once."""
        self._running = True
        end = self._reactor.seconds() + _PATIENCE_AT_START
        while True:
            try:
                self._dialing = self._dialer.dial(scripts=True)
                protocol = yield self._dialing
            except StoreError as error:
                hopeless = error.fault in (StoreFault.DENIED, StoreFault.OTHER)
                if hopeless or self._reactor.seconds() >= end:
                    self._running = False
                    raise
                yield self._sleep(0.5)
            else:
                self._connected(protocol)
                return

    @inlineCallbacks
    def stop(self) -> Any:
        """Disconnect."""
        self._running = False
        if self._redial is not None:
            self._redial.cancel()
            self._redial = None
        if self._dialing is not None:
            self._dialing.cancel()
        for protocol in (self._protocol, self._waiting):
            if protocol is not None:
                yield protocol.abort()

    def call(self, operation: str, *arguments: Argument, timeout: float = 2.0) -> Deferred[Answer]:
        """Do an operation; see :class:`~impfed.store.link.Link`."""
        protocol = self._protocol
        if protocol is None or not protocol.connected:
            return _failed(StoreFault.UNAVAILABLE, f"{self.place}: there is no connection")
        words = ("EVALSHA", protocol.shas[operation], 1, self._prefix, *arguments)
        asked = protocol.ask(*words, timeout=timeout, clock=self._reactor)
        return asked.addErrback(self._call_failed, protocol, operation, arguments, timeout)

    def _call_failed(
        self,
        failure: Failure,
        protocol: _Protocol,
        operation: str,
        arguments: tuple[Argument, ...],
        timeout: float,
    ) -> Any:
        error = failure.value
        if failure.check(txredisapi.ResponseError):
            text = str(error)
            if text.startswith("NOSCRIPT") and operation in SCRIPTS:  # SCRIPT FLUSH, by somebody
                words = ("EVAL", SCRIPTS[operation], 1, self._prefix, *arguments)
                asked = protocol.ask(*words, timeout=timeout, clock=self._reactor)
                return asked.addErrback(self._call_failed, protocol, "", arguments, timeout)
            if text.startswith(("READONLY", "MASTERDOWN", "LOADING")):
                protocol.transport.abortConnection()  # another may be master now
            raise in_words(self.place, text) from None
        if failure.check(TimeoutError, CancelledError, txredisapi.ConnectionError):
            raise StoreError(
                StoreFault.UNSURE, f"{self.place}: it gave no answer to {operation}"
            ) from None
        return failure

    def wait(self, after: Mapping[str, str], seconds: float) -> Deferred[dict[str, Entries]]:
        """Return what comes into streams; see :class:`~impfed.store.link.Link`."""
        return self._wait(after, seconds)

    @inlineCallbacks
    def _wait(self, after: Mapping[str, str], seconds: float) -> Any:
        protocol = self._waiting
        if protocol is None or not protocol.connected:
            protocol = yield self._waiter.dial(scripts=False)
            if not self._running:
                protocol.transport.abortConnection()
                raise StoreError(StoreFault.STOPPED, f"{self.place}: stopped")
            self._waiting = protocol
            protocol.lost = self._waiting_lost
        keys = [f"{self._prefix}:{name}" for name in after]
        words = ("XREAD", "COUNT", 500, "BLOCK", max(1, int(seconds * 1000)), "STREAMS")
        try:
            found = yield protocol.ask(
                *words, *keys, *after.values(), timeout=seconds + 2.0, clock=self._reactor
            )
        except txredisapi.ResponseError as error:
            raise in_words(self.place, str(error)) from None
        except (TimeoutError, CancelledError, txredisapi.ConnectionError):
            raise StoreError(StoreFault.UNAVAILABLE, f"{self.place}: it is gone") from None
        start = len(self._prefix) + 1
        return {
            key.decode()[start:]: [
                (id.decode(), {name.decode(): value for name, value in pairs(fields)})
                for id, fields in entries
            ]
            for key, entries in found or ()
        }

    def _waiting_lost(self) -> None:
        if self._waiting is not None and not self._waiting.connected:
            self._waiting = None

    # -- one connection, always --------------------------------------------------------------------

    def _connected(self, protocol: _Protocol) -> None:
        self._dialing = None
        self._pause = _FIRST_PAUSE
        if not protocol.connected:
            self._again()
            return
        if self._told:
            _log.info("store_back", "{place} is back", place=self.place)
            self._told = ""
        self._protocol = protocol
        protocol.lost = self._connection_lost
        self._tell(True)

    def _connection_lost(self) -> None:
        self._protocol = None
        if self._running:
            self._say(f"{self.place}: the connection is lost")
            self._redial = self._reactor.callLater(0, self._dial)
        self._tell(False)

    def _dial(self) -> None:
        self._redial = None
        self._dialing = self._dialer.dial(scripts=True)
        self._dialing.addCallbacks(self._connected, self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        self._dialing = None
        if self._running:
            self._say(getattr(failure.value, "text", str(failure.value)))
            self._again()

    def _again(self) -> None:
        self._redial = self._reactor.callLater(self._pause, self._dial)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _say(self, text: str) -> None:
        if text != self._told:
            self._told = text
            _log.error("store_gone", "{why}", why=text)

    def _tell(self, up: bool) -> None:
        for changed in self._watchers:
            changed(up)

    def _sleep(self, seconds: float) -> Deferred[None]:
        slept: Deferred[None] = Deferred()
        self._reactor.callLater(seconds, slept.callback, None)
        return slept


def _failed(fault: StoreFault, text: str) -> Deferred[Any]:
    failed: Deferred[Any] = Deferred()
    failed.errback(StoreError(fault, text))
    return failed
