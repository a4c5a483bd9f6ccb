"""The live trace: every SIP message and XMPP stanza, offered to whoever is watching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Stands before the peer of a SIP message when that is one of our own machines, at an edge.
INSIDE = "inside "


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One message on its way.

    :ivar when: seconds since the epoch.
    :ivar protocol: ``sip`` or ``xmpp``.
    :ivar inbound: whether it came to this node.
    :ivar peer: whom it came from or goes to, in words.
    :ivar text: the message as it stands on the wire, decoded with replacement.
    """

    when: float
    protocol: str
    inbound: bool
    peer: str
    text: str


class Tracer:
    """Hands messages to watchers.  Costs one attribute look-up per message while nobody watches.

    :ivar watching: whether anybody is watching; test it before calling :meth:`record`.
    """

    __slots__ = ("_watchers", "watching")

    def __init__(self) -> None:
        self._watchers: list[Callable[[TraceLine], None]] = []
        self.watching = False

    def watch(self, watcher: Callable[[TraceLine], None]) -> Callable[[], None]:
        """Add a watcher; returns the function that removes it."""
        self._watchers.append(watcher)
        self.watching = True

        def stop() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)
            self.watching = bool(self._watchers)

        return stop

    def record(self, when: float, protocol: str, inbound: bool, peer: str, data: bytes) -> None:
        """Show a message to the watchers."""
        line = TraceLine(when, protocol, inbound, peer, data.decode("utf-8", "replace"))
        for watcher in list(self._watchers):
            watcher(line)
