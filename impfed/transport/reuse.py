"""Connections that a peer has opened and that may carry our requests, too (RFC 5923).

A peer says so with ``alias`` in the topmost Via of a request.  It counts only on a connection of mutual TLS,
and only for a next hop whose very name its certificate proves and whose port is the one in that Via;
the connection must have shown the certificate of ours that we would show there.  The DNS is not asked
again, as the RFC has it: a name that the certificate proves says more than an address that the DNS gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from impfed.core.hosts import is_address
from impfed.sip.message import SipRequest
from impfed.transport.flow import Flow
from impfed.transport.identity import matching_name
from impfed.transport.stream import StreamFlow

if TYPE_CHECKING:
    from impfed.transport.pool import Target
    from impfed.transport.tls import TlsStore

#: Port of a Via over TLS that names none.
_PORT = 5061


@dataclass(frozen=True, slots=True)
class _Alias:
    """A connection, and what its peer says of where it listens.

    :ivar host: sent-by of its Via, lower case.
    :ivar certificate: name of the certificate that we have shown there.
    """

    flow: StreamFlow
    host: str
    port: int
    certificate: str


class Reuse:
    """The connections that peers offer for reuse, by the names that they prove.

    :param tls: knows which certificate a connection has shown.
    """

    def __init__(self, tls: TlsStore) -> None:
        self._tls = tls
        self._by_name: dict[str, _Alias] = {}

    def offered(self, flow: Flow, request: SipRequest) -> None:
        """Take note of what the first request over a connection offers."""
        flow.looked_at = True
        if not isinstance(flow, StreamFlow) or flow.target is not None or flow.transport != "tls":
            return
        if not flow.peer.proven or flow.vouched is not None:
            return  # nobody, or somebody behind a load balancer
        via = request.via
        if via.param("alias") is None:
            return
        shown = self._tls.shown(flow.wire.tls.getHandle())
        if not shown:
            return
        host = via.host.strip("[]").lower()
        alias = _Alias(flow, host, via.port or _PORT, shown)
        for name in flow.peer.names:
            self._by_name[name] = alias

    def find(self, target: Target) -> StreamFlow | None:
        """Return a connection of the peer's that may carry what goes to a target; None for none."""
        if not self._by_name or target.transport != "tls" or not target.names:
            return None
        alias = self._by_name.get(target.names[0].lower().rstrip("."))
        if alias is None or not alias.flow.alive or alias.port != target.port:
            return None
        if alias.certificate != (target.certificate or self._tls.default):
            return None
        flow, host = alias.flow, target.host.lower()
        if is_address(host):
            return flow if host == flow.remote[0] else None
        proven = host == alias.host or matching_name(flow.peer.names, (host,)) is not None
        return flow if proven else None

    def lost(self, flow: Flow) -> None:
        """A connection is gone."""
        for name in flow.peer.names:
            alias = self._by_name.get(name)
            if alias is not None and alias.flow is flow:
                del self._by_name[name]
