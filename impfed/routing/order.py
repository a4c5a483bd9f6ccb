"""The order in which next hops are tried: by priority, and among equals by lot (RFC 2782)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

#: Returns a number between two bounds; :meth:`impfed.core.ids.IdSource.uniform`.
Uniform = Callable[[float, float], float]


class Weighted(Protocol):
    """Whatever has a priority and a weight."""

    @property
    def priority(self) -> int:
        """Lower is tried first."""
        ...

    @property
    def weight(self) -> int:
        """Share among equals."""
        ...


_Entry = TypeVar("_Entry", bound=Weighted)


def heaviest_first(low: float, high: float) -> float:
    """Stand in for a lot: the heavier of equals comes first, every time."""
    return low


def in_order(entries: Iterable[_Entry], uniform: Uniform = heaviest_first) -> list[_Entry]:
    """Return entries by rising priority; equals in an order drawn by their weights.

    An entry of weight 0 comes after those that have one.
    """
    ordered: list[_Entry] = []
    groups: dict[int, list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.priority, []).append(entry)
    for priority in sorted(groups):
        ordered += _drawn(groups[priority], uniform)
    return ordered


def _drawn(group: Sequence[_Entry], uniform: Uniform) -> list[_Entry]:
    left = sorted(group, key=lambda entry: -entry.weight)
    drawn: list[_Entry] = []
    while len(left) > 1:
        total = sum(entry.weight for entry in left)
        point = uniform(0.0, float(total))
        for position, entry in enumerate(left):
            point -= entry.weight
            if point < 0 or position == len(left) - 1 or (point == 0 and total == 0):
                drawn.append(left.pop(position))
                break
    return drawn + left
