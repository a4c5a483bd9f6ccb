"""Writing very many records again, without filling the store's queue."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.gateway.surroundings import Writes
from impfed.store.api import Change

#: Records that are under way at one time.
PORTION = 500


@inlineCallbacks
def write_all(store: Writes, changes: Iterable[Change]) -> Generator[Deferred[Any], Any, None]:
    """Make each of many changes by itself, a portion at a time.

    The changes are asked for when it is their turn, so that they say what is true then.  One that the
    store refuses is left out: it belongs to another node now, or the store goes away once more and all is
    written again when it is back.
    """
    changes = iter(changes)
    while portion := list(islice(changes, PORTION)):
        settled: Deferred[None] = Deferred()
        left = len(portion)

        def done(_: BaseException | None, settled: Deferred[None] = settled) -> None:
            nonlocal left
            left -= 1
            if not left:
                settled.callback(None)

        for change in portion:
            store.write([change], done)
        yield settled
