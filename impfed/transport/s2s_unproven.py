"""Incoming connections that have proven no domain yet: so many, and so many from one address."""

from __future__ import annotations

from collections import Counter


class Unproven:
    """Counts connections by the address that they come from.

    :param most: connections altogether.
    :param most_per_address: and from one address.
    """

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._connections: dict[object, str] = {}
        self._by_address: Counter[str] = Counter()

    def room(self, address: str) -> bool:
        """Whether one more may come from an address."""
        few = len(self._connections) < self._most
        return few and self._by_address[address] < self._most_per_address

    def add(self, connection: object, address: str) -> None:
        """Count one."""
        self._connections[connection] = address
        self._by_address[address] += 1

    def discard(self, connection: object) -> None:
        """Count one no longer: it has proven a domain, or is gone; nothing happens twice."""
        address = self._connections.pop(connection, None)
        if address is None:
            return
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def __contains__(self, connection: object) -> bool:
        return connection in self._connections
