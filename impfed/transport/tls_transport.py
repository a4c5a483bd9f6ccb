"""TLS below a flow: Twisted's own protocol, with fewer calls for what comes and goes."""

from __future__ import annotations

from collections.abc import Callable

from twisted.protocols.tls import TLSMemoryBIOProtocol

from impfed.transport.tls_octets import AVAILABLE, decrypt, encrypt, outgoing


class TlsTransport(TLSMemoryBIOProtocol):
    """Twisted's TLS over a stream, knowing why a peer was refused, and handing on what it writes.

    Unlike Twisted's default it does not collect small writes: its user already does.  Once the
    handshake is done all records that one read of the socket brings are handed on in one piece.

    :ivar refusal: what our checks said about the peer's certificate; empty for nothing.
    :ivar send: writes octets to a stream transport; replaced by the user of this class.
    """

    refusal = ""
    send: Callable[[object, bytes], None] | None = None

    def dataReceived(self, data: bytes) -> None:
        """Twisted: octets came."""
        if not (AVAILABLE and self._handshakeDone) or self._appSendBuffer:
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted's
            return
        text, more = decrypt(self._tlsConnection, data)
        if text and not self._aborted:
            self.wrappedProtocol.dataReceived(text)
        if self._lostTLSConnection:
            return
        if more:
            self._flushSendBIO()
        else:
            self._flushReceiveBIO()  # type: ignore[no-untyped-call]  # Twisted's

    def _write(self, octets: bytes) -> None:
        if not (AVAILABLE and self._handshakeDone) or self._appSendBuffer:
            super()._write(octets)  # type: ignore[no-untyped-call]  # Twisted's
            return
        if self._lostTLSConnection:
            return
        sent = encrypt(self._tlsConnection, octets)
        self._flushSendBIO()
        if sent < len(octets):
            super()._write(octets[sent:])  # type: ignore[no-untyped-call]  # Twisted's

    def _flushSendBIO(self) -> None:
        send = self.send
        if not AVAILABLE or send is None:
            super()._flushSendBIO()  # type: ignore[no-untyped-call]  # Twisted's
            return
        data = outgoing(self._tlsConnection)
        if data:
            send(self.transport, data)

    @property
    def handshake_done(self) -> bool:
        """Whether our half of the handshake has been done."""
        return bool(self._handshakeDone)
