"""SIP over UDP: a listener, its flows, and ``received`` and ``rport`` (RFC 3261, RFC 3581)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IResolutionReceiver
from twisted.internet.protocol import DatagramProtocol
from zope.interface import implementer

from impfed.core.hosts import is_address
from impfed.sip.errors import SipParseError
from impfed.sip.framing import parse_datagram
from impfed.sip.headers import split_values
from impfed.sip.message import SipRequest, parse_message
from impfed.transport.flow import Flow, FlowOwner

if TYPE_CHECKING:
    from impfed.config.model import ListenerConfig

#: Greatest datagram that IPv4 carries; larger requests belong on TCP (RFC 3261 section 18.1.1).
LARGEST = 65507

_TOP_VIA = re.compile(
    r"^(?:via|v)[ \t]*:((?:[^\r\n]|\r\n[ \t])*)\r\n", re.IGNORECASE | re.MULTILINE
)
_RPORT = re.compile(r";\s*rport\s*(?==\s*[0-9]*|;|$)(?:=\s*[0-9]*)?", re.IGNORECASE)
_RECEIVED = re.compile(r";\s*received\s*=[^;]*", re.IGNORECASE)


class DatagramFlow(Flow):
    """Datagrams between one of our UDP listeners and one address.

    :ivar reply: where answers to the request that came over it go.
    """

    def __init__(self, socket: DatagramListener, remote: tuple[str, int]) -> None:
        super().__init__("udp", socket.config.name, remote)
        self.reply = remote
        self._socket = socket

    @property
    def alive(self) -> bool:
        """Whether the listener is open."""
        return self._socket.transport is not None

    @property
    def down(self) -> str:
        """Why nothing can be sent."""
        return "" if self.alive else "the UDP listener is closed"

    def write(self, data: bytes) -> bool:
        """Send one datagram at once."""
        return self._socket.send(data, self.reply)


@implementer(IResolutionReceiver)
class NamedDatagramFlow(DatagramFlow):
    """Datagrams to a host whose address is being looked up; they wait for it, up to a bound."""

    def __init__(self, socket: DatagramListener, remote: tuple[str, int], limit: int) -> None:
        super().__init__(socket, remote)
        self._limit = limit
        self._waiting: list[bytes] = []
        self._address = ""
        self._reason = ""

    @property
    def alive(self) -> bool:
        """Whether the listener is open and the host may have an address."""
        return not self._reason and super().alive

    @property
    def down(self) -> str:
        """Why nothing can be sent."""
        return self._reason or super().down

    def write(self, data: bytes) -> bool:
        """Send one datagram, at once or when the address is known."""
        if self._address:
            return super().write(data)
        if not self.alive or sum(map(len, self._waiting)) + len(data) > self._limit:
            return False
        self._waiting.append(data)
        return True

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        """Twisted: the resolver is at work."""

    def addressResolved(self, address: Any) -> None:
        """Twisted: the host has this address; the first one is used."""
        if not self._address:
            self._address = address.host
            self.reply = (address.host, self.reply[1])

    def resolutionComplete(self) -> None:
        """Twisted: there are no more addresses."""
        waiting, self._waiting = self._waiting, []
        if self._address:
            for data in waiting:
                super().write(data)
        else:
            self._reason = f"the host name {self.remote[0]} has no address"
            self._socket.owner.path_lost(self, self._reason)


class DatagramListener(DatagramProtocol):
    """One UDP listener."""

    def __init__(self, owner: FlowOwner, config: ListenerConfig, reactor: Any) -> None:
        self.config = config
        self.owner = owner
        self._reactor = reactor

    def flow(self, remote: tuple[str, int]) -> DatagramFlow:
        """Return a flow to an address, or to a host by name."""
        if is_address(remote[0]):
            return DatagramFlow(self, remote)
        flow = NamedDatagramFlow(self, remote, self.owner.limits.queue)
        self._reactor.nameResolver.resolveHostName(flow, remote[0], remote[1])
        return flow

    def send(self, data: bytes, address: tuple[str, int]) -> bool:
        """Send a datagram; returns False when it is too large or the network refuses it at once."""
        if self.transport is None or len(data) > LARGEST:
            return False
        try:
            self.transport.write(data, address)
        except OSError:
            self.owner.count("sip.udp_send_errors")
            return False
        return True

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        """Twisted: a datagram came."""
        if not datagram.strip(b"\r\n\0 \t"):
            return  # a keep-alive
        flow = self.flow((addr[0], addr[1]))
        try:
            message = parse_datagram(datagram, self.owner.limits.framing)
            if isinstance(message, SipRequest):
                message = with_source(message, *flow.remote)
                flow.reply = reply_address(message, *flow.remote)
        except SipParseError as error:
            if isinstance(error.head, SipRequest):
                flow.reply = _reply_or(error.head, flow.remote)
            self.owner.datagram_failed(flow, error)
            return
        self.owner.message_arrived(message, flow)


def reply_address(request: SipRequest, host: str, port: int) -> tuple[str, int]:
    """Return where the answer to a datagram goes (RFC 3261 section 18.2.2, RFC 3581 section 4).

    It is always the address that the request came from; ``maddr`` is not followed, for it would let
    a sender aim our answers at others.

    :param host: source address of the request.
    :param port: source port of the request.
    """
    via = request.via
    if via.param("rport") is not None:
        return host, port
    return host, via.port or 5060


def with_source(request: SipRequest, host: str, port: int) -> SipRequest:
    """Return a request whose top Via says where it came from (RFC 3261 section 18.2.1, RFC 3581).

    ``received`` is added when the sent-by differs from the source address, and always beside
    ``rport``, which is given the source port.  If nothing is to add the request is returned itself.

    :raises SipParseError: if the top Via cannot be read.
    """
    via = request.via
    wants_port = via.param("rport") is not None
    if not wants_port and via.host.strip("[]").lower() == host.lower():
        return request
    found = _TOP_VIA.search(request.head)
    if found is None:
        return request
    values = split_values(found.group(1).replace("\r\n", ""))
    top = _RECEIVED.sub("", values[0])
    if wants_port:
        top = _RPORT.sub(f";rport={port}", top, count=1)
    line = "Via: " + ", ".join([f"{top};received={host}", *values[1:]]) + "\r\n"
    head = request.head[: found.start()] + line + request.head[found.end() :]
    data = head.encode("utf-8", "surrogateescape") + b"\r\n" + request.body
    edited = parse_message(data)
    return edited if isinstance(edited, SipRequest) else request


def _reply_or(request: SipRequest, source: tuple[str, int]) -> tuple[str, int]:
    try:
        return reply_address(request, *source)
    except SipParseError:
        return source
