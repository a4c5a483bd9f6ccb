"""Where a message goes: a next hop to connect to, or a flow that already stands."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop.

    :ivar transport: "tls", "tcp" or "udp".
    :ivar host: name or address to connect to.
    :ivar port: port number.
    :ivar tls_name: name that the peer's certificate must carry (RFC 5922); empty without TLS.
    :ivar certificate: name of the certificate that we show; "" the default, "none" for none.
    :ivar priority: lower is tried first.
    :ivar weight: share among hops of equal priority.
    :ivar source: which route it came from, so that a trace can say why.
    :ivar others: whether there is another hop to go to instead, so that this one is not waited for
        long.
    :ivar lane: which of several connections there; the address and port are the same.
    """

    transport: str
    host: str
    port: int
    tls_name: str = ""
    certificate: str = ""
    priority: int = 1
    weight: int = 1
    source: str = ""
    lane: int = 0
    others: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}:{host}:{self.port}"
