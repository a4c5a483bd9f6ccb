"""Streams of XML as the played XMPP servers read them."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from twisted.internet.protocol import Protocol

STREAMS = "http://etherx.jabber.org/streams"


class XmlStream(Protocol):
    """One connection; what comes is told element by element."""

    transport: Any

    def __init__(self) -> None:
        self._parser = ElementTree.XMLPullParser(("start", "end"))
        self._depth = 0

    def dataReceived(self, data: bytes) -> None:
        self._parser.feed(data)
        for event, element in self._parser.read_events():
            if event == "start":
                self._depth += 1
                if self._depth == 1:
                    self.began(element)
                continue
            self._depth -= 1
            if self._depth == 1:
                self.came(element)
            elif self._depth == 0:
                self.transport.loseConnection()

    def say(self, xml: str) -> None:
        """Send."""
        self.transport.write(xml.encode())

    def began(self, root: Any) -> None:
        """The peer has sent its header."""

    def came(self, element: Any) -> None:
        """The peer has sent an element."""
        raise NotImplementedError
