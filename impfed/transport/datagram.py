"""SIP over UDP: a listener, its flows, and ``received`` and ``rport`` (RFC 3261, RFC 3581)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from twisted.internet.protocol import DatagramProtocol

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


class DatagramListener(DatagramProtocol):
    """One UDP listener."""

    def __init__(self, owner: FlowOwner, config: ListenerConfig) -> None:
        self.config = config
        self._owner = owner

    def flow(self, remote: tuple[str, int]) -> DatagramFlow:
        """Return a flow to an address."""
        return DatagramFlow(self, remote)

    def send(self, data: bytes, address: tuple[str, int]) -> bool:
        """Send a datagram; returns False when it is too large or the network refuses it at once."""
        if self.transport is None or len(data) > LARGEST:
            return False
        try:
            self.transport.write(data, address)
        except OSError:
            self._owner.count("sip.udp_send_errors")
            return False
        return True

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        """Twisted: a datagram came."""
        if not datagram.strip(b"\r\n\0 \t"):
            return  # a keep-alive
        flow = self.flow((addr[0], addr[1]))
        try:
            message = parse_datagram(datagram, self._owner.limits.framing)
            if isinstance(message, SipRequest):
                message = with_source(message, *flow.remote)
                flow.reply = reply_address(message, *flow.remote)
        except SipParseError as error:
            if isinstance(error.head, SipRequest):
                flow.reply = _reply_or(error.head, flow.remote)
            self._owner.datagram_failed(flow, error)
            return
        self._owner.message_arrived(message, flow)


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
