"""The server of a shared store in memory: what the Lua scripts do, in Python."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from impfed.store.api import StoreError, StoreFault
from impfed.store.link import DEAF_MS, LEASE_MS, SUSPECT_MS, Answer, Argument, Entries

_FREE = ("dead", "left")
#: Operations that a full memory refuses, and those that go where nothing can be written.
_ADDING = frozenset(("write", "post"))
_READING = frozenset(("rows", "get", "counts", "find", "letters", "last"))
#: What a copy of it consists of.
_STATE = (
    "_records", "_owned", "_nodes", "_lost", "_writers", "_leases", "_portions", "_streams",
    "_feed", "_epoch", "_generation", "_heard",
)  # fmt: skip


class _Node:
    __slots__ = ("beat", "epoch", "info", "instance", "number", "settled", "state")

    def __init__(self, instance: str, epoch: int, beat: int, info: bytes) -> None:
        self.instance = instance
        self.epoch = epoch
        self.state = "live"
        self.beat = beat
        self.number = b"0"
        self.settled = b"0"
        self.info = info


class Model:
    """The server.

    :param seconds: its own clock, seconds since the epoch.
    :param later: calls after so many seconds; for a server that is slow.
    :ivar failing: set to an error to have every operation that changes something refused with it;
        OUT_OF_MEMORY refuses only those that add something.
    :ivar slow: seconds after which it does what it is asked for.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object] = lambda seconds, call: call(),
    ) -> None:
        self._seconds = seconds
        self.later = later
        self.failing: StoreError | None = None
        self.slow = 0.0
        self.waiters: list[Callable[[], None]] = []  # called when something has come into a stream
        self._ids = 0  # rises for ever, as the server's clock does
        self.empty()

    def empty(self) -> None:
        """Lose everything."""
        self._records: dict[str, dict[bytes, bytes]] = {}
        self._owned: dict[tuple[str, str], dict[bytes, bytes]] = {}
        self._nodes: dict[str, _Node] = {}
        self._lost: dict[str, dict[bytes, bytes]] = {}
        self._writers: dict[str, tuple[int, Answer]] = {}
        self._leases: dict[str, tuple[str, int]] = {}
        self._portions: dict[str, dict[str, tuple[int, int]]] = {}
        self._streams: dict[str, Entries] = {}
        self._feed = self._epoch = self._generation = self._heard = 0

    def state(self) -> dict[str, Any]:
        """Return a copy of what it holds, for :meth:`go_back`."""
        return deepcopy({name: getattr(self, name) for name in _STATE})

    def go_back(self, state: dict[str, Any]) -> None:
        """Lose what has come since a state; ids of streams rise nevertheless."""
        for name, value in deepcopy(state).items():
            setattr(self, name, value)

    def rows(self, kind: str, owner: str) -> list[bytes]:
        """Return the records of a kind that a node owns, as written."""
        return list(self._place(kind, owner).values())

    # -- what the scripts share --------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._seconds() * 1000)

    def _guard(self, node: str, epoch: int) -> Answer | None:
        row = self._nodes.get(node)
        if row is None or row.epoch < epoch:
            return [b"unknown"]
        if row.epoch != epoch or row.state in _FREE:
            return [b"fenced", str(row.epoch).encode(), row.state.encode()]
        return None

    def _place(self, kind: str, owner: str) -> dict[bytes, bytes]:
        return self._owned.setdefault((kind, owner), {})

    def _free(self, owner: str) -> bool:
        row = self._nodes.get(owner)
        return row is None or row.state in _FREE

    def _other_holder(self, kind: str, key: bytes, node: str) -> str | None:
        for name in ("", *sorted(self._nodes)):
            if name != node and key in self._place(kind, name):
                return name
        return None

    def _deaf(self) -> int:
        silent = self._now() - self._heard if self._heard else 0
        return silent if silent > DEAF_MS else 0

    def _append(self, stream: str, **fields: bytes) -> bytes:
        self._ids += 1
        id = f"{self._ids}-0"
        self._streams.setdefault(stream, []).append((id, fields))
        for wake in self.waiters:
            wake()
        return id.encode()

    def do(self, operation: str, *arguments: Argument) -> Answer:
        """Do what the script of that name does.

        :raises StoreError: when it is refused.
        """
        if self.failing is not None and self._is_refused(operation, self.failing.fault):
            raise self.failing
        answer: Answer = getattr(self, f"_do_{operation}")(*arguments)
        return answer

    @staticmethod
    def _is_refused(operation: str, fault: StoreFault) -> bool:
        full = fault is StoreFault.OUT_OF_MEMORY
        return operation in _ADDING if full else operation not in _READING

    # -- the scripts, by name ----------------------------------------------------------------------

    def _do_write(self, writer: str, number: int, node: str, epoch: int, *rest: Any) -> Answer:
        last, answer = self._writers.get(writer, (0, []))
        if number <= last:
            return answer if number == last else [b"late"]
        if node and (refusal := self._guard(node, epoch)):
            return refusal
        answer, at = [b"done"], 1
        for index, count in enumerate(int(word) for word in rest[0].split(",")):
            words = rest[at : at + 3 * count]
            at += 3 * count
            triples = list(zip(words[::3], words[1::3], words[2::3], strict=True))
            if (owner := self._write_one(writer, node, triples)) is not None:
                answer += [index, owner.encode()]
        self._writers[writer] = (number, answer)
        return answer

    _do_erase = _do_write

    def _write_one(self, writer: str, node: str, triples: list[Any]) -> str | None:
        moves = []
        for kind, key, _ in triples:
            if not kind.startswith("="):
                continue
            kind = kind[1:]
            lost = self._lost.get(node, {}).get(f"{kind} ".encode() + key)
            if lost is not None:
                return lost.decode()
            if key in self._place(kind, node):
                continue
            owner = self._other_holder(kind, key, node)
            if owner is not None:
                if not self._free(owner):
                    return owner
                moves.append((self._place(kind, owner), key))
        for place, key in moves:
            place.pop(key, None)
        for kind, key, value in triples:
            owned = kind.startswith("=")
            rows = self._place(kind[1:], node) if owned else self._records.setdefault(kind, {})
            if value:
                rows[key] = value
            else:
                rows.pop(key, None)
            if not owned:
                self._tell(writer, kind, key)
        return None

    def _tell(self, writer: str, kind: str, key: bytes) -> None:
        """Put word of a change of what belongs to all into the feed."""
        self._feed += 1
        number = str(self._feed).encode()
        fields = {"n": number, "kind": kind.encode(), "key": key}
        self._append("feed", **fields, writer=writer.encode())

    def _do_pull(self, kind: str, key: bytes, writer: str) -> Answer:
        value = self._records.get(kind, {}).pop(key, None)
        if value is None:
            return []
        self._tell(writer, kind, key)
        return [value]

    def _do_rows(self, kind: str, whose: str, cursor: bytes, count: int) -> Answer:
        rows = self._records.get(kind, {}) if whose == "*" else self._place(kind, whose[1:])
        return [b"0", [word for pair in rows.items() for word in pair]]

    def _do_get(self, kind: str, *keys: bytes) -> Answer:
        name, owned, owner = kind.partition(":")
        rows = self._place(name, owner) if owned else self._records.get(kind, {})
        return [rows.get(key) for key in keys]

    def _do_counts(self, kind: str) -> Answer:
        answer: Answer = [b"=", len(self._records.get(kind, {}))]
        for name in ("", *sorted(self._nodes)):
            answer += [name.encode(), len(self._place(kind, name))]
        return answer

    def _do_find(self, kind: str, key: bytes) -> Answer:
        for name in ("", *sorted(self._nodes)):
            if (value := self._place(kind, name).get(key)) is not None:
                return [name.encode(), value]
        return []

    def _do_take(self, node: str, epoch: int, kind: str, key: bytes) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        mine = self._place(kind, node)
        if key in mine:
            return [b"taken", mine[key], node.encode()]
        owner = self._other_holder(kind, key, node)
        if owner is None:
            return [b"none"]
        mark = f"{kind} ".encode() + key
        if not self._free(owner):
            if self._now() - self._nodes[owner].beat - self._deaf() <= SUSPECT_MS:
                return [b"held", owner.encode()]
            self._lost.setdefault(owner, {})[mark] = node.encode()
        mine[key] = self._place(kind, owner).pop(key)
        self._lost.get(node, {}).pop(mark, None)
        return [b"taken", mine[key], owner.encode()]

    def _moved(self, kind: str, source: str, target: str, keys: tuple[bytes, ...]) -> Answer:
        answer: Answer = []
        for key in keys:
            if (value := self._place(kind, source).pop(key, None)) is not None:
                self._place(kind, target)[key] = value
                self._lost.get(target, {}).pop(f"{kind} ".encode() + key, None)
                answer.append(key)
        return answer

    def _do_adopt(self, node: str, epoch: int, kind: str, owner: str, *keys: bytes) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        if not self._free(owner):
            return [b"alive"]
        self._moved(kind, owner, node, keys)
        mine = self._place(kind, node)
        return [b"adopted", *(key for key in keys if key in mine)]

    def _do_give(
        self, node: str, epoch: int, kind: str, to: str, generation: int, *keys: bytes
    ) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        if self._free(to):
            return [b"gone"]
        if self._generation > generation:
            return [b"over"]
        moved = self._moved(kind, node, to, keys)
        if moved:
            names = {f"k{index}": key for index, key in enumerate(moved)}
            self._append(f"mail:{to}", given=kind.encode(), **names)
        there = self._place(kind, to)
        return [b"given", *(key for key in keys if key in there)]

    def _do_join(self, node: str, instance: str, info: bytes, floor: int) -> Answer:
        row = self._nodes.get(node)
        if row is not None and row.instance != instance and row.state not in _FREE:
            age = self._now() - row.beat
            if age <= LEASE_MS:
                return [b"taken", age]
        self._epoch = max(self._epoch, floor) + 1
        self._generation += 1
        self._heard = self._heard if self._deaf() else self._now()
        self._lost.pop(node, None)
        self._nodes[node] = _Node(instance, self._epoch, self._now(), info)
        return [b"joined", self._epoch]

    def _do_restore(self, node: str, epoch: int, instance: str, info: bytes) -> Answer:
        row = self._nodes.get(node)
        if row is not None and (row.epoch > epoch or (row.epoch == epoch and row.state in _FREE)):
            return [b"fenced", str(row.epoch).encode(), row.state.encode()]
        self._epoch = max(self._epoch, epoch)
        self._generation += 1
        self._heard = self._heard if self._deaf() else self._now()
        self._nodes[node] = _Node(instance, epoch, self._now(), info)
        return [b"joined", epoch]

    def _do_beat(self, node: str, epoch: int, number: int, state: str, *rest: Any) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        settled, known, info, *seen = rest
        row, now, gap = self._nodes[node], self._now(), self._deaf()
        self._heard = now
        before, changed = row.number, row.state != state or self._generation < known
        self._generation = max(self._generation, known)
        row.beat, row.number, row.state = now, str(number).encode(), state
        row.settled, row.info = str(settled).encode(), info
        lost = self._lost.get(node, {})
        for mark in seen:
            lost.pop(mark, None)
        rows = []
        for name, other in sorted(self._nodes.items()):
            other.beat += gap if name != node else 0
            age = max(0, now - other.beat)
            if other.state not in _FREE and age > LEASE_MS:
                other.state = "dead"
                self._lost.pop(name, None)
                changed = True
            number_, text = str(other.epoch).encode(), other.state.encode()
            rows.append([name.encode(), number_, text, age, other.settled, other.info])
        self._generation += changed
        generation = str(self._generation).encode()
        return [b"ok", now, before, generation, rows, [w for mark in lost.items() for w in mark]]

    def _do_leave(self, node: str, epoch: int) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        self._nodes[node].state = "left"
        self._lost.pop(node, None)
        self._generation += 1
        return [b"ok"]

    def _do_lease(self, node: str, epoch: int, name: str, what: str) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        holder = self._leases.get(name)
        if what == "free":
            if holder == (node, epoch):
                del self._leases[name]
            return [b"free"]
        if holder != (node, epoch):
            if holder is not None and self._guard(*holder) is None:
                return [b"held", holder[0].encode()]
            self._leases[name] = (node, epoch)
        return [b"mine"]

    def _do_post(self, node: str, epoch: int, to: str, limit: int, *letters: bytes) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        if self._free(to):
            return [b"gone"]
        box = self._streams.setdefault(f"mail:{to}", [])
        if len(box) + len(letters) > limit:
            return [b"full", len(box)]
        return [b"posted", *(self._append(f"mail:{to}", d=letter) for letter in letters)]

    def _do_letters(self, whose: str, after: str, count: int) -> Answer:
        found = self.after(f"mail:{whose}", after)[:count]
        return [word for id, fields in found for word in (id.encode(), fields.get("d", b""))]

    def _do_trim(self, node: str, epoch: int, id: str) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        box = self._streams.get(f"mail:{node}", [])
        kept = [entry for entry in box if _order(entry[0]) >= _order(id)]
        self._streams[f"mail:{node}"] = kept
        return [b"ok", len(box) - len(kept)]

    def _do_strike(self, node: str, epoch: int, dead: str, *ids: str) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        if not self._free(dead):
            return [b"alive"]
        box = self._streams.get(f"mail:{dead}", [])
        self._streams[f"mail:{dead}"] = [entry for entry in box if entry[0] not in ids]
        return [b"ok", *(entry[0].encode() for entry in box if entry[0] in ids)]

    def _do_portion(self, node: str, epoch: int, pool: str, *rest: int) -> Answer:
        if refusal := self._guard(node, epoch):
            return refusal
        wanted, most, milliseconds = rest
        now, lent = self._now(), self._portions.setdefault(pool, {})
        for name, (_, till) in list(lent.items()):
            if till <= now:
                del lent[name]
        left = most - sum(amount for name, (amount, _) in lent.items() if name != node)
        lent[node] = (max(0, min(wanted, left)), now + milliseconds)
        return [b"lent", lent[node][0]]

    def _do_last(self, *streams: str) -> Answer:
        return [
            entries[-1][0].encode() if (entries := self._streams.get(stream)) else b"0-0"
            for stream in streams
        ]

    # -- streams -----------------------------------------------------------------------------------

    def after(self, stream: str, id: str) -> Entries:
        """Return the entries of a stream after an id."""
        return [entry for entry in self._streams.get(stream, []) if _order(entry[0]) > _order(id)]


def _order(id: str) -> tuple[int, int]:
    number, _, part = id.partition("-")
    return int(number), int(part or 0)
