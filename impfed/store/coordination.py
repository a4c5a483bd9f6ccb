"""What the nodes of a cluster agree upon in their store: who lives, leases, letters, portions.

A thin layer of types over :class:`~impfed.store.link.Link`; it decides nothing.  Every method returns a
Deferred that fails with a :class:`~impfed.store.api.StoreError`, with
:class:`~impfed.store.api.Fenced` when the node has lost its rights, and with :class:`Unknown` when the
store has lost the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from impfed.store.api import Fenced, StoreError, StoreFault
from impfed.store.link import Answer, Argument, Link, pairs


class Unknown(Fenced):
    """The store knows no such node: it has been emptied, or has lost what was written last."""


class NameTaken(StoreError):
    """Another live node has the same name."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """What the store says of a node.

    :ivar state: "live", "draining", "dead" or "left".
    :ivar age: seconds since its last heartbeat, by the store's clock.
    :ivar settled: the generation up to which it has taken and given what it had to.
    :ivar info: what it tells the others of itself.
    """

    name: str
    epoch: int
    state: str
    age: float
    settled: int
    info: bytes

    @property
    def lives(self) -> bool:
        """Whether it has neither died nor left."""
        return self.state in ("live", "draining")


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat.

    :ivar before: number of the beat that the store had from us before; another one than the last
        that it confirmed means that it has lost writes.
    :ivar generation: rises whenever a node comes, drains, dies or leaves.
    :ivar lost: records that others took from us: (kind, key, new owner).
    """

    before: int
    generation: int
    nodes: tuple[NodeRow, ...]
    lost: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter in a mailbox.

    :ivar id: rises within the mailbox.
    """

    id: str
    data: bytes


class Coordination:
    """Asks the server.

    :param link: the way to it.
    """

    def __init__(self, link: Link) -> None:
        self.link = link

    def join(self, node: str, instance: str, info: bytes, floor: int) -> Deferred[int]:
        """Make a node live; returns its new epoch.

        Fails with :class:`NameTaken` while another instance of the name lives.

        :param instance: stays the same when the node is restarted, and no other node has it.
        :param floor: the new epoch is higher than this, too.
        """

        def joined(answer: Answer) -> int:
            if answer[0] == b"taken":
                words = f"another node named {node} was heard {answer[1] / 1000:.1f} s ago"
                words += "; give this one another [node] name"
                raise NameTaken(StoreFault.LOCKED, f"{self.link.place}: {words}")
            return int(answer[1])

        return self._asked(node, joined, "join", node, instance, info, floor)

    def restore(self, node: str, epoch: int, instance: str, info: bytes) -> Deferred[int]:
        """Make a live node known again to a store that has lost it; returns the epoch."""
        return self._asked(node, lambda _: epoch, "restore", node, epoch, instance, info)

    def beat(
        self,
        node: str,
        epoch: int,
        number: int,
        *,
        draining: bool = False,
        settled: int = 0,
        known: int = 0,
        info: bytes = b"",
        seen: Iterable[tuple[str, str]] = (),
        timeout: float = 1.0,
    ) -> Deferred[Beat]:
        """Say that the node lives; ends the lease of those that have not for long.

        :param known: the highest generation that the node knows; one that the store has lost does not
            come again.
        :param seen: (kind, key) of taken records that the node has let go of.
        """
        marks = [f"{kind} {key}".encode() for kind, key in seen]
        state = "draining" if draining else "live"
        words: tuple[Argument, ...] = (node, epoch, number, state, settled, known, info, *marks)
        return self._asked(node, _beat, "beat", *words, timeout=timeout)

    def leave(self, node: str, epoch: int) -> Deferred[None]:
        """End the node's lease at its own wish."""
        return self._asked(node, lambda _: None, "leave", node, epoch)

    def take_lease(self, node: str, epoch: int, name: str) -> Deferred[str]:
        """Take a lease; returns its holder.  It lasts as long as the holder's epoch."""

        def holder(answer: Answer) -> str:
            return node if answer[0] == b"mine" else answer[1].decode()

        return self._asked(node, holder, "lease", node, epoch, name, "take")

    def free_lease(self, node: str, epoch: int, name: str) -> Deferred[None]:
        """Give a lease back, if the node has it."""
        return self._asked(node, lambda _: None, "lease", node, epoch, name, "free")

    def post(
        self, node: str, epoch: int, to: str, letters: Sequence[bytes], limit: int
    ) -> Deferred[bool | None]:
        """Put letters into a node's mailbox, all or none; returns whether there was room.

        None: the other is not live.

        :param limit: letters that the mailbox may hold.
        """

        def posted(answer: Answer) -> bool | None:
            return None if answer[0] == b"gone" else bool(answer[0] == b"posted")

        return self._asked(node, posted, "post", node, epoch, to, limit, *letters)

    def letters(self, whose: str, after: str = "0", count: int = 500) -> Deferred[list[Letter]]:
        """Return what lies in a mailbox after an id, oldest first."""
        asked = self.link.call("letters", whose, after, count)
        return asked.addCallback(
            lambda flat: [Letter(id.decode(), data) for id, data in pairs(flat)]
        )

    def last(self, *streams: str) -> Deferred[list[str]]:
        """Return the id of the last entry of each stream ("feed", "mail:NODE"), "0-0" for none."""
        return self.link.call("last", *streams).addCallback(
            lambda answer: [id.decode() for id in answer]
        )

    def trim(self, node: str, epoch: int, id: str) -> Deferred[None]:
        """Remove what lies in the node's own mailbox before an id."""
        return self._asked(node, lambda _: None, "trim", node, epoch, id)

    def strike(self, node: str, epoch: int, dead: str, ids: Sequence[str]) -> Deferred[list[str]]:
        """Remove letters from the mailbox of a dead node; returns the ids that were still there.

        Fails with :class:`Fenced` when that node lives.
        """

        def struck(answer: Answer) -> list[str]:
            if answer[0] == b"alive":
                raise Fenced(f"{self.link.place}: node {dead} lives", dead)
            return [id.decode() for id in answer[1:]]

        return self._asked(node, struck, "strike", node, epoch, dead, *ids)

    def portion(
        self, node: str, epoch: int, pool: str, wanted: int, most: int, seconds: float
    ) -> Deferred[int]:
        """Borrow a part of a pool for some seconds; returns how much (thousandths).

        What the node borrowed before comes back first.

        :param most: what the pool has, in thousandths.
        """
        words = (node, epoch, pool, wanted, most, int(seconds * 1000))
        return self._asked(node, lambda answer: int(answer[1]), "portion", *words)

    def _asked(
        self,
        node: str,
        read: Callable[[Answer], Any],
        operation: str,
        *arguments: Argument,
        timeout: float = 2.0,
    ) -> Deferred[Any]:
        def answered(answer: Answer) -> Any:
            if answer[0] == b"unknown":
                raise Unknown(f"{self.link.place}: it does not know node {node}")
            if answer[0] == b"fenced":
                raise Fenced(f"{self.link.place}: it has taken the rights from node {node}")
            return read(answer)

        return self.link.call(operation, *arguments, timeout=timeout).addCallback(answered)


def _beat(answer: Answer) -> Beat:
    _, _, before, generation, rows, lost = answer
    nodes = tuple(
        NodeRow(name.decode(), int(epoch), state.decode(), age / 1000, int(settled), info)
        for name, epoch, state, age, settled, info in rows
    )
    marks = [(*mark.decode().partition(" "), owner.decode()) for mark, owner in pairs(lost)]
    taken = tuple((kind, key, owner) for kind, _, key, owner in marks)
    return Beat(int(before), int(generation), nodes, taken)
