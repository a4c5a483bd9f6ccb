"""Child process of the kill test: writes as fast as it can and prints what has been confirmed."""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.internet import reactor

from impfed.store.api import Enter, Put
from impfed.store.records import LedgerEntry, OutboxRecord
from impfed.store.sqlite import SqliteStore


def main() -> None:
    store = SqliteStore(Path(sys.argv[1]), reactor)  # type: ignore[arg-type]
    number = 0

    def write() -> None:
        nonlocal number
        id = f"m{number:06d}"
        number += 1
        changes = [
            Put(OutboxRecord(id, "carol@company.example", "bob@lync.example", "hello")),
            Enter(LedgerEntry(id, "out", "carol@company.example", "bob@lync.example")),
        ]
        store.write(changes, lambda error: confirmed(id, error))

    def confirmed(id: str, error: BaseException | None) -> None:
        sys.stdout.write(f"{id} {error}\n")
        sys.stdout.flush()
        write()

    def started(_: None) -> None:
        for _ in range(8):
            write()

    store.start().addCallback(started)
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
