"""TLS contexts of a node: certificates by SNI and by route, trust, and their live replacement.

One :class:`TlsStore` serves all listeners and all outgoing connections.  It re-reads its files when
they change: new connections use the new ones, standing connections go on; files that are broken are
told of in the log and the old ones stay in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
)
from zope.interface import implementer

from impfed.config.model import TlsConfig
from impfed.core.hosts import is_address
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.transport.identity import date, serves_tls
from impfed.transport.tls_files import (
    Chain,
    TlsFileError,
    read_certificates,
    read_chain,
    signature,
)
from impfed.transport.tls_transport import TlsTransport
from impfed.transport.tls_words import explain_check

log = EventLog("impfed.tls")

#: No anonymous, null, pre-shared or outdated ciphers; OpenSSL's own order otherwise.
CIPHERS = b"HIGH:!aNULL:!eNULL:!PSK:!SRP:!3DES:!MD5:!kDH:!kECDH"

#: Seconds for which a session may be resumed without showing certificates again.
SESSION_LIFETIME = 3600

#: Client sessions kept for resumption, over all peers.
SESSION_LIMIT = 4096

_CLIENT_VERIFY = {
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
    "optional": SSL.VERIFY_PEER,
    "none": SSL.VERIFY_NONE,
}
_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """One of our certificates, for status output.

    :ivar names: names it carries, lower case, sorted.
    :ivar not_after: end of validity.
    """

    name: str
    path: Path
    names: tuple[str, ...]
    not_after: datetime


class TlsStore:
    """Makes the TLS connections of all listeners and routes.

    :param config: certificates and trust.
    :param metrics: counts ``tls.reloads``, ``tls.reload_failures`` and ``tls.peers_refused``.
    :param reactor: checks the files every ``interval`` seconds between :meth:`start` and
        :meth:`stop`; without one they are re-read on :meth:`check` only.
    :raises TlsFileError: when a file cannot be used.
    """

    def __init__(
        self,
        config: TlsConfig,
        metrics: Metrics | None = None,
        reactor: IReactorTime | None = None,
        interval: float = 10.0,
    ) -> None:
        self._config = config
        self._metrics = metrics or Metrics()
        self._reactor = reactor
        self._interval = interval
        self._call: IDelayedCall | None = None
        self._signature = signature(self._paths())
        self._generation = _Generation(config, self._metrics)

    def server(
        self, client_certificates: str = "required", certificate: str = ""
    ) -> IOpenSSLServerConnectionCreator:
        """Return what a listener needs; it always uses the newest files.

        :param client_certificates: "required" (mutual TLS), "optional" or "none" (server-only).
        :param certificate: name of the only one to show; "" for the one asked for, else the first.
        :raises TlsFileError: when there is no certificate of that name.
        """
        if client_certificates not in _CLIENT_VERIFY:
            raise ValueError(f"client certificates cannot be {client_certificates!r}")
        if certificate:
            self._generation.server_context(client_certificates, certificate)
        return _ServerCreator(self, client_certificates, certificate)

    def web(self, certificate: str) -> IOpenSSLServerConnectionCreator:
        """Return what accepts browsers: one certificate ("" for the first), none asked for.

        :raises TlsFileError: when there is no certificate of that name.
        """
        self._generation.web_context(certificate)
        return _WebCreator(self, certificate)

    def client(self, certificate: str, server_name: str, peer: str = "") -> ClientCreator:
        """Return what an outgoing connection needs.

        The chain is verified here; the name is checked by the caller, after the handshake.

        :param certificate: name of the certificate to show: "" the default, "none" for none.
        :param server_name: name for SNI; an IP address is not sent.
        :param peer: key under which a session is kept for resumption; "" for no resumption.
        :raises TlsFileError: when there is no such certificate.
        """
        self._generation.client_context(certificate)
        return ClientCreator(self, certificate, server_name, peer)

    def certificates(self) -> list[CertificateStatus]:
        """Return our certificates, the default first."""
        return [
            CertificateStatus(chain.name, chain.path, tuple(sorted(chain.names)), chain.not_after)
            for chain in self._generation.chains
        ]

    @property
    def generation(self) -> object:
        """What stands for the files in use: another object once new ones are."""
        return self._generation

    @property
    def default(self) -> str:
        """The name of our certificate that is shown where nothing else is chosen; "" without any."""
        chains = self._generation.chains
        return chains[0].name if chains else ""

    def shown(self, connection: SSL.Connection) -> str:
        """Return the name of our certificate that an accepted connection has shown.

        "" for one that was accepted with files that are in use no longer.
        """
        return self._generation.shown.get(connection.get_context(), "")

    @property
    def chains(self) -> list[Chain]:
        """Our certificates with their keys, the default first."""
        return self._generation.chains

    def fresh_context(self, chain: Chain | None) -> SSL.Context:
        """Return a new context with our versions, ciphers and trust, for users with checks of their own."""
        return self._generation.new_context(chain)

    def start(self) -> None:
        """Watch the files from now on."""
        if self._reactor is not None and self._call is None:
            self._call = self._reactor.callLater(self._interval, self._tick)

    def stop(self) -> None:
        """Watch the files no longer."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def check(self) -> bool:
        """Re-read the files if one has changed; returns whether new ones are in use now."""
        found = signature(self._paths())
        if found == self._signature:
            return False
        self._signature = found
        return self.reload()

    def reload(self) -> bool:
        """Re-read the files; broken ones leave the old in use and are told of in the log."""
        try:
            self._generation = _Generation(self._config, self._metrics)
        except TlsFileError as error:
            self._metrics.count("tls.reload_failures")
            log.error(
                "reload_failed",
                "the new TLS files are not usable, the old ones stay in use: {reason}",
                reason=str(error),
            )
            return False
        self._metrics.count("tls.reloads")
        for status in self.certificates():
            log.info(
                "certificate_loaded",
                "certificate {name} ({path}) for {names}, valid until {until}",
                name=status.name,
                path=str(status.path),
                names=", ".join(status.names),
                until=date(status.not_after),
            )
        return True

    def _tick(self) -> None:
        self._call = None
        try:
            self.check()
        finally:
            self.start()

    def _paths(self) -> list[Path]:
        paths = [] if self._config.ca is None else [self._config.ca]
        for certificate in self._config.certificates:
            paths += [certificate.certificate, certificate.key]
        return paths


class _Generation:
    """Contexts made of the files as they were at one moment."""

    def __init__(self, config: TlsConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._roots = [] if config.ca is None else read_certificates(config.ca)
        self.chains = [read_chain(certificate) for certificate in config.certificates]
        self.sessions: dict[str, SSL.Session] = {}
        self._clients: dict[str, SSL.Context] = {}
        self._by_name: dict[str, SSL.Context] = {}
        self._fronts: dict[str, SSL.Context] = {}
        self._webs: dict[str, SSL.Context] = {}
        self.shown: dict[SSL.Context, str] = {}
        if self.chains:
            self._make_server_contexts()
        self._check_pairs()
        self._warn_of_expiry()

    def server_context(self, client_certificates: str, certificate: str = "") -> SSL.Context:
        """Return the context that greets clients.

        :param certificate: name of the only one to show; "" for the one asked for, else the first.
        :raises TlsFileError: when no such certificate is configured.
        """
        if certificate:
            key = f"{client_certificates} {certificate}"
            if key not in self._fronts:
                chain, flags = self._chain(certificate), _CLIENT_VERIFY[client_certificates]
                assert chain is not None  # it has a name
                self._fronts[key] = self._server_context_for(chain, flags)
            return self._fronts[key]
        if not self._fronts:
            raise TlsFileError("a TLS listener needs at least one [[tls.certificates]]")
        return self._fronts[client_certificates]

    def web_context(self, certificate: str) -> SSL.Context:
        """Return the context that greets browsers; without ALPN they speak HTTP/1.1.

        :raises TlsFileError: when no such certificate is configured.
        """
        context = self._webs.get(certificate)
        if context is None:
            chain = self._chain(certificate)
            if chain is None:
                raise TlsFileError("a web page over TLS needs a certificate")
            context = self._webs[certificate] = self.new_context(chain)
            context.set_session_id(b"impfed-web")
        return context

    def client_context(self, certificate: str) -> SSL.Context:
        """Return the context for outgoing connections that show a certificate by name."""
        context = self._clients.get(certificate)
        if context is None:
            context = self.new_context(self._chain(certificate))
            context.set_verify(SSL.VERIFY_PEER, self._verify_server)
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # tickets are kept by ourselves
            self._clients[certificate] = context
        return context

    def _chain(self, certificate: str) -> Chain | None:
        if certificate == "none":
            return None
        if not certificate:
            return self.chains[0] if self.chains else None
        for chain in self.chains:
            if chain.name == certificate:
                return chain
        raise TlsFileError(f"there is no certificate named {certificate!r} in [[tls.certificates]]")

    def _make_server_contexts(self) -> None:
        asked: dict[str, SSL.Context] = {}
        for chain in reversed(self.chains):  # the first of several that carry a name wins
            context = self._server_context_for(chain)
            for name in chain.names:
                self._by_name[name] = context
            for name, certificate in self._config.asked:
                if certificate == chain.name:
                    asked[name] = context
        self._by_name.update(asked)
        for mode, flags in _CLIENT_VERIFY.items():
            front = self._server_context_for(self.chains[0], flags)
            front.set_tlsext_servername_callback(self._choose)
            self._fronts[mode] = front

    def _server_context_for(self, chain: Chain, flags: int = SSL.VERIFY_NONE) -> SSL.Context:
        context = self.new_context(chain)
        context.set_verify(flags, self._verify_client)
        # One id for all, so that a session begun under one name is resumed under the same front.
        context.set_session_id(b"impfed-sip")
        context.set_timeout(SESSION_LIFETIME)
        context.set_alpn_select_callback(_accept_alpn)
        self.shown[context] = chain.name
        return context

    def new_context(self, chain: Chain | None) -> SSL.Context:
        """Return a new context with our versions, ciphers and trust."""
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(_VERSIONS[self._config.minimum])
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # idle connections are many
        context.set_cipher_list(CIPHERS)
        if self._config.ca is None:
            context.set_default_verify_paths()
        else:
            store = context.get_cert_store()
            assert store is not None
            for root in self._roots:
                store.add_cert(crypto.X509.from_cryptography(root))
        if chain is not None:
            chain.install(context)
        return context

    def _choose(self, connection: SSL.Connection) -> None:
        """Choose the certificate for the name that a client asks for, else the default."""
        asked = connection.get_servername()
        if not asked:
            return
        name = asked.decode("ascii", "replace").lower().rstrip(".")
        context = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
        if context is not None:
            connection.set_context(context)

    def _verify_client(
        self, connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
    ) -> bool:
        """Judge one certificate of a client's chain: OpenSSL's word stands, but for error 26.

        That error says that the certificate does not allow clientAuth, as public authorities issue
        them now; it comes for the leaf and for each intermediate.
        """
        if ok:
            return True
        if code == SSL.X509VerificationCodes.ERR_INVALID_PURPOSE and _fits(certificate, depth):
            return True
        return self._refuse(connection, certificate, code, depth)

    def _verify_server(
        self, connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
    ) -> bool:
        return bool(ok) or self._refuse(connection, certificate, code, depth)

    def _refuse(
        self, connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int
    ) -> bool:
        self._metrics.count("tls.peers_refused")
        protocol = connection.get_app_data()
        if isinstance(protocol, TlsTransport):
            protocol.refusal = explain_check(certificate, code, depth)
        return False

    def _check_pairs(self) -> None:
        for chain in self.chains:
            self.client_context(chain.name)

    def _warn_of_expiry(self) -> None:
        now = datetime.now(UTC)
        for chain in self.chains:
            left = (chain.not_after - now).total_seconds() / 86400
            if left < 14:
                log.warn(
                    "certificate_expires",
                    "certificate {name} ({path}) {verb} on {until}",
                    name=chain.name,
                    path=str(chain.path),
                    verb="expires" if left > 0 else "expired",
                    until=date(chain.not_after),
                )


@implementer(IOpenSSLServerConnectionCreator)
class _ServerCreator:
    """Accepts TLS connections with the newest generation of a store."""

    def __init__(self, store: TlsStore, client_certificates: str, certificate: str) -> None:
        self._store = store
        self._client_certificates = client_certificates
        self._certificate = certificate

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return a connection for a client that has just come."""
        generation = self._store._generation
        context = generation.server_context(self._client_certificates, self._certificate)
        return SSL.Connection(context, None)


@implementer(IOpenSSLServerConnectionCreator)
class _WebCreator:
    """Accepts browsers with the newest generation of a store."""

    def __init__(self, store: TlsStore, certificate: str) -> None:
        self._store = store
        self._certificate = certificate

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return a connection for a browser that has just come."""
        context = self._store._generation.web_context(self._certificate)
        return SSL.Connection(context, None)


@implementer(IOpenSSLClientConnectionCreator)
class ClientCreator:
    """Opens TLS connections with the newest generation of a store."""

    def __init__(self, store: TlsStore, certificate: str, server_name: str, peer: str) -> None:
        self._store = store
        self._certificate = certificate
        self._server_name = server_name
        self._peer = peer

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return a connection to a server, resuming an earlier session if there is one."""
        generation = self._store._generation
        connection = SSL.Connection(generation.client_context(self._certificate), None)
        if self._server_name and not is_address(self._server_name):
            connection.set_tlsext_host_name(_wire_name(self._server_name))
        session = generation.sessions.pop(self._key, None)
        if session is not None:
            connection.set_session(session)
        return connection

    def remember(self, connection: SSL.Connection) -> None:
        """Keep a connection's session for the next one to the same peer.

        With TLS 1.3 tickets come after the handshake: call this when the peer has sent something.
        """
        generation = self._store._generation
        if not self._peer or connection.get_context() is not generation.client_context(
            self._certificate
        ):
            return
        session = connection.get_session()
        if session is not None:
            if len(generation.sessions) >= SESSION_LIMIT:
                generation.sessions.clear()
            generation.sessions[self._key] = session

    @property
    def _key(self) -> str:
        return f"{self._certificate}|{self._server_name}|{self._peer}"


def _wire_name(name: str) -> bytes:
    """Return a host name as it goes on the wire: internationalised labels in their ASCII form."""
    try:
        return name.encode("idna")
    except UnicodeError:  # no host name by the letter, an underscore or a long label: as it is
        return name.encode("utf-8")


def _accept_alpn(connection: SSL.Connection, offered: Sequence[bytes]) -> bytes:
    """Accept whatever application protocol a client offers: SIP negotiates nothing by ALPN."""
    return offered[0] if offered else b""


def _fits(certificate: crypto.X509, depth: int) -> bool:
    """Whether a certificate whose purpose OpenSSL refused allows serverAuth or clientAuth."""
    try:
        cert: x509.Certificate = certificate.to_cryptography()
    except ValueError:
        return False
    return serves_tls(cert, authority=depth > 0)
