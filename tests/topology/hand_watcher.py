"""A watcher at a partner whose edge is worked by hand: it goes on writing to the Contact that it saw first."""

from __future__ import annotations

import threading
from collections.abc import Callable

from demo.parts import PATIENCE, PartFailed, wait_until

from .hand_peer import HandPeer, Received, Wire


class HandWatcher:
    """Somebody at the partner who watches one of our users. What nodes send is answered with 200.

    :param edge: closed with the watcher.
    :param address: bare address of the watcher.
    :param whom: bare address of the user.
    :ivar tag: the user's.
    :ivar contact: where what belongs to the subscription goes, as the first answer said.
    :ivar heard: every message that came.
    :ivar refused: connections that did not come about.
    """

    def __init__(self, edge: HandPeer, address: str, whom: str) -> None:
        self._edge, self.address, self.whom = edge, address, whom
        self.heard: list[Received] = []
        self.refused: list[Exception] = []
        self.contact = self.tag = ""
        self._wires: list[Wire] = []
        self._cseq = 0
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        self._edge.close()
        for wire in self._wires:
            wire.close()

    def subscribe(self, host: str, port: int, name: str, patience: float = PATIENCE) -> Received:
        """Ask, or refresh, over a new connection to a place; return the answer.

        :param name: what the certificate there has to carry.
        :param patience: seconds to wait for it.
        :raises OSError: there is nobody.
        :raises PartFailed: no answer comes.
        """
        wire = self._edge.connect(host, port, name)
        self._cseq += 1
        here = f"{self._edge.address}:{self._edge.port}"
        number = f"{self._cseq} SUBSCRIBE"
        since = len(self.heard)
        wire.send(
            f"SUBSCRIBE {self.contact or f'sip:{self.whom}'} SIP/2.0",
            f"Via: SIP/2.0/TLS {here};branch=z9hG4bK{self.address.partition('@')[0]}{self._cseq}",
            f"From: <sip:{self.address}>;tag=watcher",
            f"To: <sip:{self.whom}>" + (f";tag={self.tag}" if self.tag else ""),
            f"Call-ID: {self.address}",
            f"CSeq: {number}",
            "Max-Forwards: 70",
            f"Contact: <sip:{self.address};opaque=user:epid:far;gruu>",
            "Event: presence",
            "Accept: application/pidf+xml",
            "Expires: 3600",
        )
        self._take(wire)  # from now on one thread has it to itself, as TLS in Python needs
        answer = self.expect(lambda it: it.get("CSeq") == number, since, patience)
        if not self.tag:
            self.contact, self.tag = answer.contact, answer.tag("To")
        return answer

    def notified(self, since: int, *contains: str) -> Received:
        """Wait for a NOTIFY that came after a position with these words in it."""
        return self.expect(
            lambda it: (
                it.start.startswith("NOTIFY")
                and all(word in it.body + it.contact for word in contains)
            ),
            since,
        )

    def expect(
        self, fits: Callable[[Received], bool], since: int = 0, patience: float = PATIENCE
    ) -> Received:
        """Wait for a message; raises PartFailed when none comes."""
        found: list[Received] = []

        def came() -> bool:
            found[:] = filter(fits, self.heard[since:])
            return bool(found)

        if not wait_until(came, patience):
            heard = [message.start for message in self.heard[since:]]
            raise PartFailed(f"{self.address} has heard nothing of the kind: {heard}")
        return found[0]

    def _accept(self) -> None:
        while not self._closed:
            try:
                self._take(self._edge.accept())
            except (OSError, ValueError) as error:  # nobody came, or he left at once
                if not self._closed:
                    self.refused.append(error)

    def _take(self, wire: Wire) -> None:
        self._wires.append(wire)
        threading.Thread(target=self._read, args=(wire,), daemon=True).start()

    def _read(self, wire: Wire) -> None:
        try:
            while True:
                message = wire.read()
                if not message.start.startswith("SIP/2.0"):
                    wire.answer(message, "200 OK")
                self.heard.append(message)
        except (OSError, ValueError):
            return  # its other end is gone, or this one is
