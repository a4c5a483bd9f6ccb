"""One attempt to connect: all addresses of a host, until the first of them answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress, IResolutionReceiver
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from impfed.core.hosts import is_address
from impfed.core.timers import Timer
from impfed.transport.stream import StreamFlow
from impfed.transport.timers import ReactorTimers

#: Seconds after which the next address of a host is tried beside one that has not answered yet
#: (RFC 8305 section 8, "Connection Attempt Delay").
STAGGER = 0.5


class ConnectFactory(ClientFactory):
    """Gives the one connection of a flow its protocol."""

    noisy = False
    attempt: Attempt | None = None

    def __init__(self, flow: StreamFlow) -> None:
        self._flow = flow

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Twisted: the connection stands."""
        if self.attempt is not None:
            self.attempt.connected(addr)
        return self._flow.wire

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Twisted: this address did not answer."""
        if self.attempt is not None:
            self.attempt.failed(reason.getErrorMessage())


@implementer(IResolutionReceiver)
class Attempt:
    """Finds the addresses of a host and connects to the first that answers.

    They are tried in order, each as soon as the one before it has failed or has been silent for
    :data:`STAGGER`, so that an address that leads nowhere costs little.

    :param limit: seconds for all of it, the look-up of the name included.
    :param over: called once, when there is a connection or there will be none.
    """

    def __init__(
        self,
        reactor: Any,
        timers: ReactorTimers,
        flow: StreamFlow,
        place: tuple[str, int],
        factory: Any,
        limit: float,
        over: Callable[[Attempt], None],
    ) -> None:
        self._reactor = reactor
        self._timers = timers
        self._flow = flow
        self._host, self._port = place
        self._factory = factory
        self._limit = limit
        self._over: Callable[[Attempt], None] | None = over
        self._addresses: list[str] = []
        self._connectors: dict[str, Any] = {}
        self._waiting = 0
        self._failures: list[str] = []
        self._deadline: Timer | None = None
        self._stagger: Timer | None = None

    def begin(self) -> None:
        """Start."""
        self._deadline = self._timers.after(self._limit, self._late)
        if is_address(self._host):
            self._addresses = [self._host]
            self._next()
        else:
            self._reactor.nameResolver.resolveHostName(self, self._host, self._port)

    def stop(self) -> None:
        """Give up."""
        self._end("")

    def connected(self, address: Any) -> None:
        """One address has answered; whatever else was tried is not needed."""
        self._end(getattr(address, "host", ""))

    def failed(self, reason: str) -> None:
        """One address did not answer."""
        if self._over is None:
            return
        self._waiting -= 1
        self._failures.append(reason)
        if self._addresses or not self._waiting:
            self._next()

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        """Twisted: the resolver is at work."""

    def addressResolved(self, address: Any) -> None:
        """Twisted: the host has this address."""
        if address.host not in self._addresses:
            self._addresses.append(address.host)

    def resolutionComplete(self) -> None:
        """Twisted: there are no more addresses."""
        if not self._addresses:
            self._failures.append(f"the host name {self._host} has no address")
        if self._over is not None:
            self._next()

    def _next(self) -> None:
        if self._stagger is not None:
            self._stagger.cancel()
            self._stagger = None
        if not self._flow.alive:
            self._end("")
        elif self._addresses:
            self._connect(self._addresses.pop(0))
        elif not self._waiting:
            self._give_up(distinct(self._failures))

    def _connect(self, address: str) -> None:
        self._waiting += 1
        if self._addresses:
            self._stagger = self._timers.after(STAGGER, self._next)
        try:
            self._connectors[address] = self._reactor.connectTCP(
                address, self._port, self._factory, timeout=self._limit
            )
        except (ConnectError, OSError) as error:
            self.failed(str(error))

    def _late(self) -> None:
        silence = f"nothing answered within {self._limit:g} s"
        self._give_up(distinct([*self._failures, silence]))

    def _give_up(self, reason: str) -> None:
        self._end("")
        self._flow.lost(reason)

    def _end(self, winner: str) -> None:
        """Nothing is tried any more.

        :param winner: the address whose connection stays; "" for none.
        """
        over, self._over = self._over, None
        if over is None:
            return
        over(self)
        for timer in (self._deadline, self._stagger):
            if timer is not None:
                timer.cancel()
        connectors, self._connectors = self._connectors, {}
        for address, connector in connectors.items():
            if address != winner:
                connector.disconnect()


def distinct(reasons: Sequence[str]) -> str:
    """Join reasons, each said once."""
    return "; ".join(dict.fromkeys(reasons)) or "no connection"
