"""What Prosody does with our module: stanzas are numbered, and kept until the node has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import quoteattr

from tests.simulation.loop import Loop

DIRECTORY = "urn:xmpp:impfed:directory:0"
HANDOVER = "urn:xmpp:impfed:handover:0"
#: Seconds for which messages wait for a node.
PATIENCE = 60.0


class Keeper:
    """The queue of the module.

    :param give_back: returns a kept message to its sender.
    """

    def __init__(self, loop: Loop, give_back: Callable[[str], None]) -> None:
        self._loop = loop
        self._give_back = give_back
        self._kept: dict[int, str] = {}
        self._heard = loop.now
        self._close: Callable[[], None] = lambda: None
        self.begin_queue()
        loop.after(1.0, self._look)

    def begin_queue(self) -> list[str]:
        """The server has a new process, which knows nothing of what was kept; returns that."""
        forgotten, self._kept = self._kept, {}
        self._name = f"{self._loop.random.getrandbits(32):08x}"
        self._last = 0
        self._say: Callable[[str], None] | None = None
        self._away = self._loop.now
        return list(forgotten.values())

    def hand_over(self, xml: str) -> None:
        """Keep a stanza, and send it if there is anybody."""
        self._last += 1
        self._kept[self._last] = xml
        if self._say is not None:
            self._say(self._numbered(self._last))

    @property
    def ability(self) -> str:
        """What is said to a node of this queue."""
        return f"<can name='{HANDOVER}' queue='{self._name}'/>"

    def begin(self, say: Callable[[str], None], close: Callable[[], None]) -> None:
        """A node that acknowledges is there: it gets what no other has acknowledged.

        :param close: breaks the connection.
        """
        self._say, self._close, self._heard = say, close, self._loop.now
        for number in sorted(self._kept):
            say(self._numbered(number))

    def heard(self) -> None:
        """Something has come from the node."""
        self._heard = self._loop.now

    def lost(self) -> None:
        """The connection is gone."""
        self._say, self._away = None, self._loop.now

    def acknowledged(self, element: Any) -> None:
        """The node has stanzas safely."""
        for part in element.get("n", "").split():
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                self._kept.pop(number, None)

    def _numbered(self, number: int) -> str:
        kind, space, rest = self._kept[number].partition(" ")
        return f"{kind} n={quoteattr(str(number))}{space}{rest}"

    def _look(self) -> None:
        self._loop.after(1.0, self._look)
        now = self._loop.now
        if self._say is not None:
            if self._kept and now - self._heard >= PATIENCE:
                self._close()
        elif now - self._away >= PATIENCE:
            for number, xml in list(self._kept.items()):
                if xml.startswith("<message") and "type='error'" not in xml:
                    self._give_back(xml)
                    del self._kept[number]
                elif "type='subscribe'" not in xml and "type='probe'" not in xml:
                    del self._kept[number]
