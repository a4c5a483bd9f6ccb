"""Which node a pair of people belongs to: rendezvous hashing over the live, enabled nodes.

Every node computes the same from the same view, so nobody has to be asked.  When a node goes, only its
share moves, evenly; when it comes back, it gets the same share again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

#: (local bare address, foreign bare address).
Pair: TypeAlias = tuple[str, str]
#: Says which other node a pair goes to; "" for none.
Leaves: TypeAlias = Callable[[Pair], str]

_MASK = 0xFFFFFFFFFFFFFFFF


def _digest(text: str) -> int:
    octets = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(octets, digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Enabled:
    """Which nodes alone may have some pairs; the same on every node of a cluster.

    :ivar names: of these nodes.
    :ivar concerns: says whether a pair is one of those; never asked of made-up ones.
    """

    names: frozenset[str]
    concerns: Callable[[Pair], bool]


class Rendezvous:
    """Maps pairs to nodes, each with the same weight.

    :param names: of the nodes; with none, nobody owns anything.
    :param enabled: which of them alone may have some pairs; None where each may have every one.
    :ivar names: the same, sorted.
    """

    __slots__ = ("_enabled", "_few", "_seeds", "names")

    def __init__(self, names: Iterable[str], enabled: Enabled | None = None) -> None:
        self.names = tuple(sorted(set(names)))
        self._seeds = [(_digest(f"node {name}"), name) for name in self.names]
        self._enabled = enabled
        self._few = [seed for seed in self._seeds if enabled is None or seed[1] in enabled.names]

    def owner(self, pair: Pair) -> str:
        """Return the node of a pair; "" when there is none."""
        limited = self._enabled is not None and pair[1] and self._enabled.concerns(pair)
        return self._nearest(pair, self._few if limited else self._seeds)

    def heir(self, pair: Pair) -> str:
        """Return the node that a pair would have if every node were enabled for it."""
        return self._nearest(pair, self._seeds)

    @staticmethod
    def _nearest(pair: Pair, seeds: Iterable[tuple[int, str]]) -> str:
        key = _digest(f"{pair[0]}|{pair[1]}")
        best, found = -1, ""
        for seed, name in seeds:
            # The finaliser of SplitMix64: two multiplications spread what differs over all bits.
            score = ((key ^ seed) * 0xBF58476D1CE4E5B9) & _MASK
            score = ((score ^ score >> 29) * 0x94D049BB133111EB) & _MASK
            score ^= score >> 32
            if score > best:
                best, found = score, name
        return found


_NOBODY = Rendezvous(())
_NODE = "node "


def node_pair(name: str) -> Pair:
    """Return the made-up pair of a node itself: a letter for it goes there while the node lives.

    The second half of a made-up pair is empty.  Nothing of such a pair waits for an owner before who lives.
    """
    return _NODE + name, ""


def of_node(pair: Pair) -> bool:
    """Whether a pair is a node itself."""
    return not pair[1] and pair[0].startswith(_NODE)


@dataclass(frozen=True, slots=True)
class Placement:
    """Who owns what in one generation, seen from one node.

    Between two generations a pair may still be in the hands of an owner before.  The new one begins when
    that one has "settled" the generation, which it tells by its heartbeat: it has given what it had
    to give.  What a dead node had can be handled as soon as this node itself has settled: it has
    taken the dead one's records, and handled its letters.

    :ivar me: this node.
    :ivar generation: of the view that it was made from.
    :ivar now: who owns what in it.
    :ivar before: who owned what in the generations that were not settled by all, oldest first.
    :ivar unknown: whether there was a generation since then that this node has not seen; it is then
        sure of nothing but what was its own all the time.
    :ivar unsettled: nodes that live, this one included, and have not settled this generation.
    :ivar living: nodes that live, also those that own nothing any more.
    :ivar enabled: see :class:`Rendezvous`.
    """

    me: str
    generation: int = 0
    now: Rendezvous = _NOBODY
    before: tuple[Rendezvous, ...] = ()
    unknown: bool = False
    unsettled: frozenset[str] = frozenset()
    living: frozenset[str] = frozenset()
    enabled: Enabled | None = None

    @property
    def settled(self) -> bool:
        """Whether everybody has settled this generation."""
        return not self.unsettled

    def owner(self, pair: Pair) -> str:
        """Return whose a pair is."""
        if of_node(pair):
            name = pair[0][len(_NODE) :]
            if name in self.living:
                return name
        return self.now.owner(pair)

    def nobodys(self, pair: Pair) -> bool:
        """Whether nodes live, but none of those that may have a pair."""
        return bool(self.now.names) and not self.owner(pair)

    def heir(self, pair: Pair) -> str:
        """Return who sees to what a dead node has left of a pair: its node, or, if it is nobody's, any one."""
        return self.owner(pair) or self.now.heir(pair)

    def mine(self, pair: Pair) -> bool:
        """Whether a pair is this node's."""
        return self.owner(pair) == self.me

    def held(self, pair: Pair) -> bool:
        """Whether a pair of this node has to wait for somebody to let go of it."""
        if not self.unsettled or of_node(pair) or not self.mine(pair):
            return False
        owners = {map.owner(pair) for map in self.before}
        if not pair[1]:  # it moves at once, but what a dead node has left of it comes first
            return self.me in self.unsettled and any(name not in self.living for name in owners)
        if self.unknown and owners != {self.me}:
            return True
        others = owners - {self.me}
        # What a dead node had is free when we have taken it.
        return any(
            (owner if owner in self.living else self.me) in self.unsettled for owner in others
        )

    def moved(self, pair: Pair) -> bool:
        """Whether a pair has, or may have, another owner than in a generation not settled by all."""
        if of_node(pair):
            return False
        owner = self.now.owner(pair)
        return self.unknown or any(map.owner(pair) != owner for map in self.before)

    @property
    def losing(self) -> list[str]:
        """The other living nodes that had pairs which are another one's now."""
        now = frozenset(self.now.names)
        found: dict[str, None] = {}
        for map in self.before:
            newcomers = not now.issubset(map.names)
            found |= {name: None for name in map.names if newcomers or name not in now}
        if self.unknown:
            found |= dict.fromkeys(sorted(self.living))
        return [name for name in found if name in self.living and name != self.me]

    def seen(self, generation: int, owners: Iterable[str], settled: Mapping[str, int]) -> Placement:
        """Return the placement after a new view.

        :param owners: nodes that live and own pairs.
        :param settled: the generation that each living node has settled.
        """
        living = frozenset(settled)
        unsettled = frozenset(name for name, until in settled.items() if until < generation)
        names = tuple(sorted(owners))
        now = self.now if names == self.now.names else Rendezvous(names, self.enabled)
        if not unsettled:
            return Placement(self.me, generation, now, living=living, enabled=self.enabled)
        before, unknown = self.before, self.unknown
        if generation != self.generation:
            # Who has just joined knows nothing of what was before: its map then has no owners.
            unknown = unknown or not self.generation or generation != self.generation + 1
            if self.now not in before:
                before = (*before, self.now)
        return Placement(self.me, generation, now, before, unknown, unsettled, living, self.enabled)
