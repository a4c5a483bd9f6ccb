"""``impfedctl store``: looks into a node's store, and brings records from one to another."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.python.failure import Failure

from impfed.config.load import load
from impfed.config.model import Config
from impfed.config.problems import ConfigErrors
from impfed.core.errors import ImpfedError
from impfed.core.ids import IdSource
from impfed.ctl import words
from impfed.ctl.api import ControlError
from impfed.store.memory import MemoryStore
from impfed.store.records import KINDS
from impfed.store.setup import make_ledger, make_shared
from impfed.store.transfer import ImportProblem, export, owners_of, take_in


def add_parser(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add the command to those of ``impfedctl``."""
    parser = commands.add_parser(
        "store",
        help="look into a node's store, export and import its records; needs no running node",
        description="Works on the store that a configuration names: on Redis at any time, on an"
        " SQLite file only while its node does not run.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect", parents=parents, help="how many records there are of each kind, and whose"
    )
    out = actions.add_parser("export", help="write records as JSON, an object a line")
    take = actions.add_parser("import", help="read such lines; they replace what has their keys")
    for action in (inspect, out, take):
        action.add_argument("file", metavar="CONFIG", type=Path, help="the node's configuration")
    out.add_argument("kinds", metavar="KIND", nargs="*", help=f"{', '.join(KINDS)}; all by default")
    take.add_argument(
        "lines", metavar="FILE", nargs="?", default="-", help="where to read; standard input (-)"
    )


def run(options: argparse.Namespace, out: TextIO) -> int:
    """Do what the command line says, in a reactor of its own; returns the exit code."""
    from twisted.internet import reactor  # only here: nothing else of impfedctl needs one

    outcome: list[Any] = []

    def ended(result: Any) -> None:
        outcome.append(result)
        reactor.stop()

    def begin() -> None:
        perform(reactor, options, out).addBoth(ended)

    reactor.callWhenRunning(begin)
    reactor.run()
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return int(outcome[0])


@inlineCallbacks
def perform(reactor: Any, options: argparse.Namespace, out: TextIO) -> Any:
    """Do one action; returns the exit code.

    :raises ControlError: when it cannot be done, in words.
    """
    try:
        config = load(options.file)
    except ConfigErrors as errors:
        raise ControlError(
            f"{errors.problems[0]}; try impfedctl check-config {options.file}"
        ) from None
    store = _open(reactor, config)
    action: Callable[[Any, argparse.Namespace, TextIO], Deferred[int]] = _ACTIONS[options.action]
    try:
        yield store.start()
        try:
            return (yield action(store, options, out))
        finally:
            yield store.stop()
    except (ImpfedError, ImportProblem, OSError) as error:
        raise ControlError(str(error)) from None


def _open(reactor: Any, config: Config) -> Any:
    if config.store.kind == "sqlite":
        return make_ledger(reactor, config)
    # The node's own file, with the ledger, stays with the node, which may be running.
    return make_shared(reactor, config, IdSource(), MemoryStore(reactor))


@inlineCallbacks
def _inspect(store: Any, options: argparse.Namespace, out: TextIO) -> Any:
    items = []
    for name, kind in KINDS.items():
        for owner, count in sorted((yield owners_of(store, kind)).items(), key=str):
            whose = {None: "(all)", "": "(nobody)"}.get(owner, owner)
            items.append({"kind": name, "owner": whose, "records": count})
    if options.json:
        for item in items:
            print(json.dumps(item), file=out)
    else:
        out.write(words.listing(items, "no records", 100))
    return 0


@inlineCallbacks
def _export(store: Any, options: argparse.Namespace, out: TextIO) -> Any:
    kinds = options.kinds or list(KINDS)
    for name in kinds:
        if name not in KINDS:
            raise ControlError(f"there is no kind {name}; there are {', '.join(KINDS)}")
    count = yield export(store, kinds, lambda line: print(line, file=out))
    print(f"{count} records", file=sys.stderr)
    return 0


@inlineCallbacks
def _import(store: Any, options: argparse.Namespace, out: TextIO) -> Any:
    def lines() -> Iterable[str]:
        if options.lines == "-":
            yield from sys.stdin
        else:
            with Path(options.lines).open(encoding="utf-8") as file:
                yield from file

    written, left = yield take_in(store, lines())
    print(f"{written} records written", file=out)
    if left:
        print(f"{left} left as they are: live nodes own them", file=out)
    return 0


_ACTIONS: dict[str, Any] = {"inspect": _inspect, "export": _export, "import": _import}
