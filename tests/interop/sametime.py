"""A small Sametime: insists on TLS and SASL EXTERNAL, and tries the first SRV record only.

It shares no code with the program: blocking sockets in threads, and the standard library's XML.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from twisted.names import dns

from demo.certificates import Certificate
from demo.parts import wait_until

_STREAM = "{http://etherx.jabber.org/streams}"
_SASL = "{urn:ietf:params:xml:ns:xmpp-sasl}"
_TLS = "{urn:ietf:params:xml:ns:xmpp-tls}"
_SERVER = "{jabber:server}"
_HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' from='{0}' to='{1}' {2}version='1.0'"
    " xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'>"
)
_STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'>{0}</starttls>"


class GaveUp(Exception):
    """The other server does not do what is insisted on; says what."""


class _Wire:
    """A stream's elements, over a socket that may change to TLS."""

    def __init__(self, plain: socket.socket) -> None:
        self.socket = plain
        self.socket.settimeout(20)
        self._begin()

    def _begin(self) -> None:
        self._parser = ET.XMLPullParser(("start", "end"))
        self._ready: list[ET.Element] = []
        self._root: ET.Element | None = None
        self._depth = 0

    def say(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def again(self) -> None:
        """A new stream begins on the same connection."""
        self._begin()

    def secure(self, context: ssl.SSLContext, server_side: bool, name: str = "") -> None:
        kind: dict[str, Any] = {"server_side": True} if server_side else {"server_hostname": name}
        self.socket = context.wrap_socket(self.socket, **kind)
        self._begin()

    def next(self) -> ET.Element:
        """Return the stream's root when it has begun, then each element in it.

        :raises EOFError: it is over.
        """
        while not self._ready:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._parser.feed(data)
            for event, element in self._parser.read_events():
                self._take(str(event), element)
        return self._ready.pop(0)

    def _take(self, event: str, element: Any) -> None:
        self._depth += 1 if event == "start" else -1
        if event == "start" and self._depth == 1:
            self._root = element
            self._ready.append(element)
        elif event == "end" and self._depth == 1:
            self._ready.append(element)


class Sametime:
    """One domain.

    :param name_server: port of the DNS to ask.
    :ivar port: where it listens.
    :ivar received: stanzas that came, as elements.
    :ivar tried: ports that it has connected to.
    :ivar gave_up: why it would not talk to a server.
    """

    def __init__(self, domain: str, certificate: Certificate, name_server: int) -> None:
        self.domain = domain
        self.received: list[ET.Element] = []
        self.tried: list[int] = []
        self.gave_up: list[str] = []
        self._certificate = certificate
        self._name_server = name_server
        self._out: dict[str, _Wire] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Close everything."""
        self._listener.close()
        for wire in self._out.values():
            wire.socket.close()

    # -- what a test does --------------------------------------------------------------------------

    def send(self, to: str, xml: str) -> None:
        """Send a stanza to a domain.

        :raises GaveUp: its first server cannot be reached, or does not do what is insisted on.
        """
        wire = self._out.get(to)
        if wire is None:
            try:
                wire = self._out[to] = self._connect(to)
            except (GaveUp, OSError, EOFError) as reason:
                self.gave_up.append(str(reason))
                raise GaveUp(str(reason)) from reason
        wire.say(xml)

    def expect(self, true: Callable[[ET.Element], Any]) -> ET.Element:
        """Wait for a stanza."""
        found = lambda: [each for each in list(self.received) if true(each)]  # noqa: E731
        if not wait_until(lambda: bool(found())):
            seen = "\n".join(ET.tostring(each, "unicode") for each in self.received)
            raise AssertionError(f"{self.domain} waits in vain; it has got\n{seen}")
        return found()[0]

    # -- to others ---------------------------------------------------------------------------------

    def _first_server(self, domain: str) -> int:
        query = dns.Message(id=1, recDes=1)
        query.addQuery(f"_xmpp-server._tcp.{domain}".encode(), dns.SRV)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(5)
            asking.sendto(query.toStr(), ("127.0.0.1", self._name_server))
            answer = dns.Message()
            answer.fromStr(asking.recv(4096))
        if not answer.answers:
            raise GaveUp(f"{domain} has no SRV record")
        first = min(answer.answers, key=lambda record: record.payload.priority)
        return int(first.payload.port)

    def _connect(self, to: str) -> _Wire:
        port = self._first_server(to)
        self.tried.append(port)
        wire = _Wire(socket.create_connection(("127.0.0.1", port), 10))
        features = self._open(wire, to)
        if features.find(f"{_TLS}starttls/{_TLS}required") is None:
            raise GaveUp("TLS is not required there")
        wire.say(_STARTTLS.format(""))
        if wire.next().tag != f"{_TLS}proceed":
            raise GaveUp("TLS is refused")
        context = ssl.create_default_context(cafile=str(self._certificate.ca))
        context.load_cert_chain(self._certificate.certificate, self._certificate.key)
        wire.secure(context, False, to)
        features = self._open(wire, to)
        if "EXTERNAL" not in [each.text for each in features.iter(f"{_SASL}mechanism")]:
            raise GaveUp("SASL EXTERNAL is not offered")
        wire.say("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>")
        if wire.next().tag != f"{_SASL}success":
            raise GaveUp("SASL EXTERNAL fails")
        wire.again()
        self._open(wire, to)
        threading.Thread(target=self._hear_out, args=(wire,), daemon=True).start()
        return wire

    def _open(self, wire: _Wire, to: str) -> ET.Element:
        wire.say(_HEADER.format(self.domain, to, ""))
        wire.next()
        return wire.next()

    def _hear_out(self, wire: _Wire) -> None:
        try:
            while True:
                wire.next()
        except (EOFError, OSError, ET.ParseError):
            return  # the end of the stream is the end of this thread

    # -- from others -------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(_Wire(connection),), daemon=True).start()

    def _serve(self, wire: _Wire) -> None:
        try:
            self._welcome(wire)
            while True:
                stanza = wire.next()
                if stanza.tag in (f"{_SERVER}message", f"{_SERVER}presence", f"{_SERVER}iq"):
                    self.received.append(stanza)
        except GaveUp as reason:
            self.gave_up.append(str(reason))
            wire.say("</stream:stream>")
            wire.socket.close()
        except (EOFError, OSError, ET.ParseError):
            wire.socket.close()

    def _welcome(self, wire: _Wire) -> None:
        self._answer(wire, _STARTTLS.format("<required/>"))
        if wire.next().tag != f"{_TLS}starttls":
            raise GaveUp("no TLS is wanted")
        wire.say("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._certificate.certificate, self._certificate.key)
        context.load_verify_locations(Path(self._certificate.ca))
        context.verify_mode = ssl.CERT_REQUIRED
        wire.secure(context, True)
        mechanism = "<mechanism>EXTERNAL</mechanism>"
        sasl = f"<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{mechanism}</mechanisms>"
        self._answer(wire, sasl)
        asked = wire.next()
        if asked.tag != f"{_SASL}auth" or asked.get("mechanism") != "EXTERNAL":
            raise GaveUp(f"{asked.tag} is not SASL EXTERNAL")
        wire.say("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        wire.again()
        self._answer(wire, "")

    def _answer(self, wire: _Wire, features: str) -> None:
        root = wire.next()
        wire.say(_HEADER.format(self.domain, root.get("from", ""), "id='sametime' "))
        wire.say(f"<stream:features>{features}</stream:features>")
