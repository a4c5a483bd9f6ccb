"""Records as lines of JSON: to look at, to keep, and to bring from one store to another.

Each line is ``{"kind": …, "owner": …, "record": {…}}``; the owner is null for a kind without owners,
and "" for a record that nobody has claimed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks

from impfed.store.api import Fenced, Put
from impfed.store.records import KINDS, Record
from impfed.store.shared import SharedStore

#: Records written before their confirmation is awaited.
_AT_ONCE = 2000


@inlineCallbacks
def owners_of(store: Any, kind: type[Record]) -> Any:
    """Return {owner: number of records} of a kind; a store of one node has the owner None."""
    if isinstance(store, SharedStore):
        counted = yield store.counts(kind)
        return {None if owner == "=" else owner: count for owner, count in counted.items()}
    records = yield store.load(kind)
    return {None: len(records)}


@inlineCallbacks
def export(store: Any, kinds: Iterable[str], say: Callable[[str], None]) -> Any:
    """Say a line for each record of some kinds; returns how many there were."""
    total = 0
    for name in kinds:
        kind = KINDS[name]
        for owner in (yield owners_of(store, kind)):
            if owner is None:
                records = yield store.load(kind)
            else:
                records = yield store.load_of(owner, kind)
            for record in records:
                line = {"kind": name, "owner": owner, "record": msgspec.to_builtins(record)}
                say(json.dumps(line))
            total += len(records)
    return total


class ImportProblem(ValueError):
    """A line that cannot be taken; the text says which, and why."""


def read_line(number: int, line: str) -> Record | None:
    """Return the record of a line; None for an empty one.

    :raises ImportProblem: for anything else.
    """
    if not line.strip():
        return None
    try:
        found = json.loads(line)
        kind = KINDS[found["kind"]]
        return msgspec.convert(found["record"], kind)
    except KeyError as error:
        raise ImportProblem(f"line {number}: {error} is not there, or no kind of record") from None
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise ImportProblem(f"line {number}: {error}") from None


@inlineCallbacks
def take_in(store: Any, lines: Iterable[str]) -> Any:
    """Write the records of lines, each in the place of the one with its key.

    In a shared store those with owners are then unclaimed, and the nodes divide them.  Returns
    (written, left as they are because a live node owns them).

    :raises ImportProblem: at the first line that cannot be taken; what came before is written.
    """
    written = left = 0
    waiting: list[Deferred[bool]] = []
    for number, line in enumerate(lines, 1):
        record = read_line(number, line)
        if record is not None:
            waiting.append(_written(store, record))
        if len(waiting) >= _AT_ONCE:
            made = yield gatherResults(waiting, consumeErrors=True)
            written, left, waiting = written + sum(made), left + made.count(False), []
    made = yield gatherResults(waiting, consumeErrors=True)
    return written + sum(made), left + made.count(False)


def _written(store: Any, record: Record) -> Deferred[bool]:
    answer: Deferred[bool] = Deferred()

    def done(error: BaseException | None) -> None:
        if error is None or isinstance(error, Fenced):
            answer.callback(error is None)
        else:
            answer.errback(error)

    store.write([Put(record)], done)
    return answer
