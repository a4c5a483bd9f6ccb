"""What a shared store needs of the server that keeps it: named operations, each done as a whole.

The operations are the Lua scripts in ``lua/``; each says what it takes and answers.  Redis runs them
(:class:`impfed.store.redislink.RedisLink`), and a model in memory does the same in Python
(:class:`impfed.store.modellink.ModelLink`), for tests and simulations; one suite of tests holds for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Protocol, TypeAlias

from twisted.internet.defer import Deferred

#: Milliseconds without a heartbeat after which single records of a node may be taken over.
SUSPECT_MS = 2000
#: Milliseconds without a heartbeat after which a node's lease is over: it is dead.
LEASE_MS = 4000
#: Milliseconds without a heartbeat of anybody after which it was the store that was away.
DEAF_MS = 1000

_NUMBERS = {"SUSPECT_MS": SUSPECT_MS, "LEASE_MS": LEASE_MS, "DEAF_MS": DEAF_MS}

Argument: TypeAlias = str | bytes | int
#: What an operation answers: a list of octets, whole numbers, None, and lists of these.
Answer: TypeAlias = list[Any]
#: Entries of a stream: (id, fields).
Entries: TypeAlias = list[tuple[str, dict[str, bytes]]]


class Link(Protocol):
    """A connection to the server, made again by itself whenever it is lost."""

    @property
    def place(self) -> str:
        """What it is connected to, in words."""
        ...

    @property
    def up(self) -> bool:
        """Whether operations can be asked for now."""
        ...

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Call ``changed(up)`` whenever the connection is there or has gone."""
        ...

    def start(self) -> Deferred[None]:
        """Connect; fails with a :class:`~impfed.store.api.StoreError` in words."""
        ...

    def stop(self) -> Deferred[None]:
        """Disconnect; what is outstanding fails."""
        ...

    def call(self, operation: str, *arguments: Argument, timeout: float = 2.0) -> Deferred[Answer]:
        """Do an operation.

        Fails with a :class:`~impfed.store.api.StoreError`: UNAVAILABLE when it was certainly not
        done, UNSURE when the answer did not come, in time or at all; the connection is then given
        up, so that nothing sent on it can still come first.
        """
        ...

    def wait(self, after: Mapping[str, str], seconds: float) -> Deferred[dict[str, Entries]]:
        """Return what has come into streams after the given ids, as soon as there is something.

        The names are without the prefix ("mail:node1", "feed").  Nothing in time is an empty
        answer.  One wait at a time; its connection is its own.
        """
        ...


def _scripts() -> dict[str, str]:
    folder = files("impfed.store") / "lua"
    head = (folder / "head.lua").read_text("utf-8")
    found = {}
    for file in folder.iterdir():
        name, _, kind = file.name.partition(".")
        if kind != "lua" or name == "head":
            continue
        first, _, rest = file.read_text("utf-8").partition("\n")
        text = f"{first}\n{head}{rest}"
        for word, value in _NUMBERS.items():
            text = text.replace(word, str(value))
        found[name] = text
    # What only removes is let through when the memory is full.
    found["erase"] = found["write"].replace("flags=", "flags=allow-oom", 1)
    return found


#: The text of every operation, by name.
SCRIPTS: dict[str, str] = _scripts()


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return a flat list of names and values as pairs."""
    return list(zip(flat[::2], flat[1::2], strict=True))
