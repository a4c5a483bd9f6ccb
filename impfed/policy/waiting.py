"""Requests that wait for their partner's budget: in order of urgency, fair between users, bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from impfed.policy.budget import Urgency

Item = TypeVar("Item")

#: Seconds that a request of each urgency may wait, in the order of :class:`Urgency`.
PATIENCE = (30.0, 30.0, 120.0, 300.0)
#: Requests of one urgency that may wait, however fast they go.
_CAPACITY = 5000
#: Part of the room for one urgency that one user may fill, and how many he always may.
_USER_SHARE, _USER_LEAST = 8, 8


class Ticket(Generic[Item]):
    """One request that waits.

    :ivar over: whether it waits no longer.
    """

    __slots__ = ("dialog", "item", "over", "since", "urgency", "user")

    def __init__(self, item: Item, urgency: int, user: str, dialog: str, since: float) -> None:
        self.item = item
        self.urgency = urgency
        self.user = user
        self.dialog = dialog
        self.since = since
        self.over = False


class WaitingRoom(Generic[Item]):
    """What waits for one domain.

    The most urgent goes first; among equals the users take turns, and each user's requests go in
    the order of their arrival.  A request never overtakes another one of its dialog, so it waits
    with the least urgent of them.

    :ivar lengths: how many wait, by urgency.
    """

    __slots__ = ("_arrivals", "_dialogs", "_turns", "lengths")

    def __init__(self) -> None:
        self.lengths = [0] * len(Urgency)
        self._turns: list[dict[str, deque[Ticket[Item]]]] = [{} for _ in Urgency]
        self._arrivals: list[deque[Ticket[Item]]] = [deque() for _ in Urgency]
        self._dialogs: dict[str, list[Ticket[Item]]] = {}

    def __len__(self) -> int:
        return sum(self.lengths)

    def wait(self, urgency: int, rate: float) -> float:
        """Return how long a request of that urgency would wait, in seconds, at a rate."""
        return (sum(self.lengths[: urgency + 1]) + 1) / rate

    def has_room(self, urgency: int, user: str, rate: float) -> bool:
        """Whether one more may wait: none waits so long that it would be pointless."""
        capacity = min(_CAPACITY, rate * PATIENCE[urgency])
        if self.lengths[urgency] >= capacity or self.wait(urgency, rate) > PATIENCE[urgency]:
            return False
        own = self._turns[urgency].get(user)
        return own is None or len(own) < max(_USER_LEAST, capacity / _USER_SHARE)

    def push(
        self, item: Item, urgency: Urgency, user: str, dialog: str, now: float
    ) -> Ticket[Item]:
        """Let a request wait.

        :param user: who takes turns with the others.
        :param dialog: its Call-ID.
        """
        rank = int(urgency)
        others = self._dialogs.setdefault(dialog, [])
        if others:
            rank = max(rank, others[-1].urgency)
            user = others[-1].user
        ticket = Ticket(item, rank, user, dialog, now)
        others.append(ticket)
        self._turns[rank].setdefault(user, deque()).append(ticket)
        self._arrivals[rank].append(ticket)
        self.lengths[rank] += 1
        return ticket

    def pop(self) -> Item:
        """Return the request that goes next.

        :raises LookupError: when none waits.
        """
        for turns in self._turns:
            if turns:
                user = next(iter(turns))
                ticket = turns[user][0]
                self._end(ticket)
                if user in turns:  # his next one goes after everybody else's
                    turns[user] = turns.pop(user)
                return ticket.item
        raise LookupError("nothing waits")

    def remove(self, ticket: Ticket[Item]) -> bool:
        """Take a request out; returns whether it still waited."""
        if ticket.over:
            return False
        self._end(ticket)
        return True

    def of(self, dialog: str) -> list[Ticket[Item]]:
        """Return what waits of a dialog, in the order of arrival."""
        return list(self._dialogs.get(dialog, ()))

    def _end(self, ticket: Ticket[Item]) -> None:
        ticket.over = True
        rank, turns = ticket.urgency, self._turns[ticket.urgency]
        queue = turns[ticket.user]
        queue.remove(ticket)  # nearly always the first
        if not queue:
            del turns[ticket.user]
        others = self._dialogs[ticket.dialog]
        others.remove(ticket)
        if not others:
            del self._dialogs[ticket.dialog]
        self.lengths[rank] -= 1
        arrivals = self._arrivals[rank]
        while arrivals and arrivals[0].over:
            arrivals.popleft()

    def expired(self, now: float) -> Iterator[Item]:
        """Take out, one by one, the requests that have waited too long."""
        for arrivals, patience in zip(self._arrivals, PATIENCE, strict=True):
            while arrivals and arrivals[0].since + patience <= now:
                ticket = arrivals[0]
                self._end(ticket)
                yield ticket.item

    @property
    def next_expiry(self) -> float | None:
        """When the first one will have waited too long; None when nothing waits."""
        ends = [
            arrivals[0].since + patience
            for arrivals, patience in zip(self._arrivals, PATIENCE, strict=True)
            if arrivals
        ]
        return min(ends, default=None)
