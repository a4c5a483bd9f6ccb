"""The name server: it knows where the XMPP partner is."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import DatagramProtocol
from twisted.names import dns

from tests.simulation.cast import XMPP_DOMAIN, XMPP_PARTNER
from tests.simulation.loop import SimReactor

#: Seconds for which an answer may be kept.
_TTL = 30
_HOST = f"server.{XMPP_DOMAIN}"
_RECORDS: dict[tuple[str, int], Any] = {
    (f"_xmpp-server._tcp.{XMPP_DOMAIN}", dns.SRV): dns.Record_SRV(0, 0, 5269, _HOST, _TTL),
    (_HOST, dns.A): dns.Record_A(XMPP_PARTNER, _TTL),
}


class NameServer(DatagramProtocol):
    """Answers from a table; there are no other names, and the names have no other records."""

    def __init__(self, reactor: SimReactor) -> None:
        self._reactor = reactor

    def start(self) -> None:
        """Answer from now on."""
        self._reactor.listenUDP(dns.PORT, self)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Answer a question."""
        message = dns.Message()
        message.fromStr(datagram)
        asked = message.queries[0]
        name = asked.name.name.decode().lower()
        message.answer = message.recAv = 1
        record = _RECORDS.get((name, asked.type))
        if record is not None:
            header = dns.RRHeader(asked.name.name, asked.type, dns.IN, _TTL, record, auth=True)
            message.answers = [header]
        elif name not in {each for each, _ in _RECORDS}:
            message.rCode = dns.ENAME
        self.transport.write(message.toStr(), addr)
