"""TLS of S2S streams: every handshake is let through, and the certificate is judged after it.

Only then it is known which domain it has to prove, by which trust anchors, and whether dialback may
stand in for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from impfed.transport.identity import describe, purposes_in_words
from impfed.transport.s2s_identity import explain_mismatch, missing_names, xmpp_names
from impfed.transport.tls import TlsStore
from impfed.transport.tls_files import Chain, read_certificates
from impfed.transport.tls_words import explain_check
from impfed.xmpp.jid import JidError
from impfed.xmpp.s2s_names import ascii_domain
from impfed.xmpp.s2s_parts import NoCertificate, PeerCertificate

ALPN = b"xmpp-server"

_TLS_PURPOSES = {
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
}


class S2STls:
    """Makes the TLS connections of S2S streams.

    :param store: our certificates, and the trusted roots.
    :param anchors: for a peer's domain the PEM file of its own trusted roots, None for the store's.
    :param vouchers: for a peer's domain the names that prove it besides its own.
    """

    def __init__(
        self,
        store: TlsStore,
        anchors: Callable[[str], Path | None] = lambda domain: None,
        vouchers: Callable[[str], Iterable[str]] = lambda domain: (),
    ) -> None:
        self._store = store
        self._anchors = anchors
        self._vouchers = vouchers
        self._generation: object = None
        self._contexts: dict[tuple[str, str], SSL.Context] = {}
        self._trust: dict[Path | None, crypto.X509Store] = {}
        self._holder: SSL.Context | None = None
        self._dummy = Factory()

    @property
    def usable(self) -> bool:
        """Whether there is a certificate at all, so that TLS can be offered."""
        return bool(self._store.chains)

    def missing(self, domains: Sequence[str]) -> dict[str, str]:
        """Return our domains that no certificate of ours proves, each with words."""
        return missing_names([chain.leaf for chain in self._store.chains], domains)

    def proves(self, domain: str) -> bool:
        """Say whether we have a certificate to show for a domain of ours."""
        return any(xmpp_names(chain.leaf).match(domain) for chain in self._store.chains)

    def server(self, local: str) -> TLSMemoryBIOFactory:
        """Return what accepts TLS; SNI chooses the certificate, else the domain asked for."""
        return self._factory(_Server(self, local), False)

    def client(
        self, local: str, remote: str, direct: bool, certificate: str
    ) -> TLSMemoryBIOFactory:
        """Return what begins TLS towards a peer.

        :param direct: whether ALPN is sent (XEP-0368).
        :param certificate: name of the certificate to show, "" for the one of ``local``, "none".
        """
        return self._factory(_Client(self, local, remote, direct, certificate), True)

    def peer(self, connection: SSL.Connection) -> PeerCertificate:
        """Return what a peer has shown in a handshake that is done."""
        certificate = connection.get_peer_certificate()
        if certificate is None:
            return NoCertificate()
        chain = connection.get_peer_cert_chain() or []
        return ShownCertificate(certificate, chain, self.trust, self._vouchers)

    def trust(self, domain: str) -> crypto.X509Store:
        """Return the trusted roots for a peer's domain.

        :raises TlsFileError: its own file cannot be used.
        """
        self._refresh()
        path = self._anchors(domain)
        store = self._trust.get(path)
        if store is None:
            if path is None:
                # The store is borrowed from its context, which therefore is kept.
                self._holder = self._store.fresh_context(None)
                found = self._holder.get_cert_store()
                assert found is not None
                store = found
            else:
                store = crypto.X509Store()
                for root in read_certificates(path):
                    store.add_cert(crypto.X509.from_cryptography(root))
            self._trust[path] = store
        return store

    def context(self, role: str, chain: Chain | None) -> SSL.Context:
        """Return the context for a role ("server", "client" or "direct") and a certificate."""
        self._refresh()
        key = (role, chain.name if chain else "")
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._store.fresh_context(chain)
            context.set_verify(SSL.VERIFY_PEER, _let_through)
            # Streams live long, and a resumed session would not show its certificate anew.
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            context.set_options(SSL.OP_NO_TICKET)
            if role == "server":
                context.set_alpn_select_callback(_select)
                context.set_tlsext_servername_callback(self._choose)
            elif role == "direct":
                context.set_alpn_protos([ALPN])
        return context

    def chain(self, local: str, name: str = "") -> Chain | None:
        """Return the certificate to show for a domain of ours; the first if none is for it."""
        chains = self._store.chains
        if name == "none":
            return None
        for chain in chains:
            if chain.name == name or (not name and xmpp_names(chain.leaf).match(local)):
                return chain
        return chains[0] if chains else None

    def _refresh(self) -> None:
        if self._store.generation is not self._generation:
            self._generation = self._store.generation
            self._contexts.clear()
            self._trust.clear()

    def _factory(self, creator: Any, client: bool) -> TLSMemoryBIOFactory:
        return TLSMemoryBIOFactory(creator, client, self._dummy)

    def _choose(self, connection: SSL.Connection) -> None:
        asked = (connection.get_servername() or b"").decode("ascii", "replace").lower()
        for chain in self._store.chains:
            if asked and xmpp_names(chain.leaf).match(asked.rstrip(".")):
                connection.set_context(self.context("server", chain))
                return


class ShownCertificate:
    """The certificate that a peer has shown, judged when a domain asks for it.

    :param trust: gives the trusted roots for a domain.
    :param vouchers: for a domain the names that prove it besides its own.
    """

    def __init__(
        self,
        certificate: crypto.X509,
        chain: Sequence[crypto.X509],
        trust: Callable[[str], crypto.X509Store],
        vouchers: Callable[[str], Iterable[str]] = lambda domain: (),
    ) -> None:
        self._certificate = certificate
        self._chain = list(chain)
        self._trust = trust
        self._vouchers = vouchers
        self._leaf = certificate.to_cryptography()
        self._names = xmpp_names(self._leaf)
        self._chain_problems: dict[int, tuple[crypto.X509Store, str]] = {}

    def problem(self, domain: str) -> str:
        """Say why it does not prove a domain: which check, which name, which date; "" if it does."""
        problem = self._chain_problem(self._trust(domain))
        if not problem and not self.is_one_of((domain, *self._vouchers(domain))):
            return explain_mismatch(self._leaf, domain)
        return problem

    def is_one_of(self, names: Iterable[str]) -> bool:
        """Say whether it carries one of these names."""
        return any(map(self._names.match, names))

    def __str__(self) -> str:
        return describe(self._leaf)

    def _chain_problem(self, store: crypto.X509Store) -> str:
        # The store is kept beside its result, so that its id stays its own.
        known = self._chain_problems.get(id(store))
        if known is None:
            known = self._chain_problems[id(store)] = (store, self._verify(store))
        return known[1]

    def _verify(self, store: crypto.X509Store) -> str:
        context = crypto.X509StoreContext(store, self._certificate, self._chain)
        try:
            verified = context.get_verified_chain()
        except crypto.X509StoreContextError as error:
            code, depth = error.errors[0], error.errors[1]
            return explain_check(error.certificate, code, depth)
        for depth, certificate in enumerate(verified[:-1]):
            # OpenSSL was told no purpose, for a client's certificate may say serverAuth only.
            if not _for_tls(certificate.to_cryptography()):
                return explain_check(
                    certificate, SSL.X509VerificationCodes.ERR_INVALID_PURPOSE, depth
                )
        return ""


@implementer(IOpenSSLServerConnectionCreator)
class _Server:
    def __init__(self, tls: S2STls, local: str) -> None:
        self._tls = tls
        self._local = local

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Twisted: TLS begins."""
        chain = self._tls.chain(self._local)
        return SSL.Connection(self._tls.context("server", chain), None)


@implementer(IOpenSSLClientConnectionCreator)
class _Client:
    def __init__(
        self, tls: S2STls, local: str, remote: str, direct: bool, certificate: str
    ) -> None:
        self._tls = tls
        self._local = local
        self._remote = remote
        self._direct = direct
        self._certificate = certificate

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Twisted: TLS begins; SNI is the peer's XMPP domain, never an SRV target."""
        chain = self._tls.chain(self._local, self._certificate)
        context = self._tls.context("direct" if self._direct else "client", chain)
        connection = SSL.Connection(context, None)
        # A name that DNS could not hold is not sent: the peer chooses its certificate without.
        with contextlib.suppress(JidError):
            connection.set_tlsext_host_name(ascii_domain(self._remote).encode())
        return connection


def _let_through(*_: object) -> bool:
    """Let a handshake go on whatever the certificate is."""
    return True


def _select(connection: SSL.Connection, offered: Sequence[bytes]) -> Any:
    """Accept ALPN ``xmpp-server``; go on without ALPN where something else is offered."""
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _for_tls(certificate: x509.Certificate) -> bool:
    if purposes_in_words(certificate) == "any":
        return True
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return bool(_TLS_PURPOSES & set(usage))
