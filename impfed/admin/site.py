"""The web server below the page: TLS or a proxy before it, and bounds on what a browser may send."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from impfed.admin.web import UserOptionsWeb
from impfed.config.model import WebConfig
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.transport.tls import TlsStore

log = EventLog("impfed.admin")

#: Octets that the largest form may have.
BODY_LIMIT = 64 * 1024
CONNECTIONS = 500
#: Seconds that a browser may be silent.
PATIENCE = 60


class _Request(Request):
    """A request whose body is bounded."""

    _too_large = False

    def gotLength(self, length: int | None) -> None:
        """Twisted: the head has been read."""
        # A browser says how long its form is; without a length nobody knows when to stop.
        if length is None or length > BODY_LIMIT:
            self._too_large = True
            channel: Any = self.channel
            channel.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n")
            channel.loseConnection()
            length = 0
        super().gotLength(length)  # type: ignore[no-untyped-call]  # Twisted's

    def handleContentChunk(self, data: bytes) -> None:
        """Twisted: a part of the body has been read."""
        if not self._too_large:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]  # Twisted's

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Twisted: all of it has been read."""
        if not self._too_large:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]  # Twisted's

    def process(self) -> None:
        """Twisted: find the page."""
        try:
            unquote_to_bytes(self.path).decode("utf-8")
        except UnicodeDecodeError:
            self.setResponseCode(400)
            self.finish()  # type: ignore[no-untyped-call]  # Twisted's
            return
        super().process()  # type: ignore[no-untyped-call]  # Twisted's


class _Site(Site):
    """HTTP/1.1, a bounded number of connections, and no access log: paths hold one-time tokens."""

    requestFactory = _Request
    noisy = False

    def __init__(self, resource: IResource, metrics: Metrics, reactor: Any) -> None:
        super().__init__(resource, timeout=PATIENCE, reactor=reactor)  # type: ignore[no-untyped-call]  # Twisted's
        self.displayTracebacks = False
        self._metrics = metrics
        self._connections = 0

    def log(self, request: object) -> None:
        """Twisted: a request was answered."""
        self._metrics.count("admin.requests")

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted: a browser has connected; None refuses."""
        if self._connections >= CONNECTIONS:
            self._metrics.count("admin.connections_refused")
            return None
        protocol = super().buildProtocol(addr)  # type: ignore[no-untyped-call]  # Twisted's
        self._connections += 1
        lost = protocol.connectionLost

        def connection_lost(reason: Any) -> None:
            self._connections -= 1
            lost(reason)

        protocol.connectionLost = connection_lost
        return protocol


class _TlsFactory(TLSMemoryBIOFactory):
    """Puts TLS below HTTP; Twisted's own cannot refuse a connection."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted: a browser has connected; None refuses."""
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)


class WebService(Service):
    """Listens for browsers.

    :param tls: the certificates; not used behind a proxy.
    :ivar port: the port that it listens on, 0 before the start.
    """

    port = 0

    def __init__(
        self,
        reactor: Any,
        config: WebConfig,
        web: UserOptionsWeb,
        tls: TlsStore,
        metrics: Metrics,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._tls = tls
        self._factory: Any = _Site(_root(web), metrics, reactor)
        self._listening: IListeningPort | None = None

    def startService(self) -> None:
        """Listen.

        :raises CannotListenError: the address is not to be had.
        :raises TlsFileError: the certificate is not there.
        """
        config, factory = self._config, self._factory
        if config.certificate != "none":
            creator = self._tls.web(config.certificate)
            factory = _TlsFactory(creator, False, factory, self._reactor)
        listening: IListeningPort = self._reactor.listenTCP(config.port, factory, 128, config.host)
        self._listening = listening
        bound: Any = listening.getHost()
        self.port = bound.port
        Service.startService(self)
        log.info(
            "listening",
            "the User Options page is at {url} (bound to {host}:{port})",
            url=config.public_url,
            host=bound.host,
            port=bound.port,
        )

    def stopService(self) -> Deferred[Any]:
        """Listen no more."""
        Service.stopService(self)
        listening, self._listening = self._listening, None
        return maybeDeferred(lambda: None if listening is None else listening.stopListening())


def _root(web: UserOptionsWeb) -> IResource:
    """Hang the pages below the path that the public address has."""
    pages: Any = web.app.resource()
    parts = [part.encode() for part in web.base.split("/") if part]
    for part in reversed(parts):
        above = Resource()
        above.putChild(part, pages)
        pages = above
    found: IResource = pages
    return found
