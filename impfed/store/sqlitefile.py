"""The SQLite file itself: schema, statements, errors in words.  Blocks; for the store's thread.

Write-ahead log with ``synchronous=NORMAL``: what is committed survives the death of the process at
any moment; a power failure may take back the last commits, never damage the file.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from impfed.store.api import StoreError, StoreFault
from impfed.store.encoding import readable
from impfed.store.records import (
    LedgerEntry,
)

#: Marks the file as ours ("impf" in ASCII).
APPLICATION_ID = 0x696D7066

#: Steps from one schema version to the next; the version is the number of steps done.
SCHEMA: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
        " PRIMARY KEY (kind, key)) WITHOUT ROWID",
        "CREATE TABLE ledger (id TEXT PRIMARY KEY, direction TEXT NOT NULL, local TEXT NOT NULL,"
        " foreign_address TEXT NOT NULL, stanza_id TEXT NOT NULL, call_id TEXT NOT NULL,"
        " cseq INTEGER NOT NULL, node TEXT NOT NULL, received_at REAL NOT NULL,"
        " finished_at REAL NOT NULL, outcome TEXT NOT NULL, sip_status INTEGER NOT NULL,"
        " xmpp_condition TEXT NOT NULL, detail TEXT NOT NULL)",
        "CREATE INDEX ledger_stanza ON ledger (stanza_id) WHERE stanza_id <> ''",
        "CREATE INDEX ledger_call ON ledger (call_id) WHERE call_id <> ''",
        "CREATE INDEX ledger_local ON ledger (local, received_at)",
        "CREATE INDEX ledger_foreign ON ledger (foreign_address, received_at)",
        "CREATE INDEX ledger_time ON ledger (received_at)",
    ),
    ("ALTER TABLE ledger ADD COLUMN far TEXT NOT NULL DEFAULT 'sip'",),
)

_PUT = "INSERT OR REPLACE INTO records VALUES (?, ?, ?)"
_DELETE = "DELETE FROM records WHERE kind = ? AND key = ?"
# Who, which way, which stanza and when are settled by the first entry of an id: leaving them alone
# spares four of the six indices on the second.
_ENTER = (
    "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET call_id = excluded.call_id, cseq = excluded.cseq,"
    " node = excluded.node, finished_at = excluded.finished_at, outcome = excluded.outcome,"
    " sip_status = excluded.sip_status, xmpp_condition = excluded.xmpp_condition,"
    " detail = excluded.detail"
)
_LEDGER_ORDER = " ORDER BY received_at DESC, id DESC LIMIT ?"

#: A record's change, (kind, key, octets or None for a removal), or the columns of a ledger entry.
RecordChange: TypeAlias = tuple[str, str, bytes | None]
LedgerRow: TypeAlias = tuple[str | int | float, ...]
#: The changes of one write.
Write: TypeAlias = tuple[Sequence[RecordChange], Sequence[LedgerRow]]

_FAULTS = {
    sqlite3.SQLITE_FULL: (StoreFault.FULL, "the disk that holds it is full; make room"),
    sqlite3.SQLITE_READONLY: (
        StoreFault.READ_ONLY,
        "it cannot be written; give it and its directory to the user that impfed runs as, and see"
        " that the file system is not mounted read-only",
    ),
    sqlite3.SQLITE_PERM: (StoreFault.READ_ONLY, "the system denies access to it"),
    sqlite3.SQLITE_CORRUPT: (
        StoreFault.CORRUPT,
        "it is damaged; stop impfed, keep a copy, and restore it from a backup, or move it away to"
        " begin with an empty one (subscriptions then come back as people log in)",
    ),
    sqlite3.SQLITE_NOTADB: (
        StoreFault.CORRUPT,
        "it is not an SQLite database, or its beginning is damaged; restore it from a backup or"
        " move it away to begin with an empty one",
    ),
    sqlite3.SQLITE_BUSY: (
        StoreFault.LOCKED,
        "another program holds it locked; close the program that has it open",
    ),
    sqlite3.SQLITE_LOCKED: (StoreFault.LOCKED, "another program holds it locked"),
    sqlite3.SQLITE_CANTOPEN: (
        StoreFault.OTHER,
        "it cannot be opened; see that the directory exists and belongs to the user that impfed"
        " runs as",
    ),
    sqlite3.SQLITE_IOERR: (StoreFault.OTHER, "the disk reports an error; see the system's log"),
}


def in_words(path: Path, error: sqlite3.Error | OSError) -> StoreError:
    """Return the error that tells an operator what is wrong with the file and what helps."""
    if isinstance(error, OSError):
        return StoreError(StoreFault.OTHER, f"store {path}: {error.strerror or error}")
    code = getattr(error, "sqlite_errorcode", None)
    fault, remedy = _FAULTS.get(
        code & 0xFF if code is not None else -1, (StoreFault.OTHER, "the database refused")
    )
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreError(fault, f"store {path}: {remedy} ({name}: {error})")


class SqliteFile:
    """One open database file.

    :param path: the file; ``path.lock`` beside it tells other processes who uses it.
    :param busy: seconds to wait for a foreign program's lock before giving up.
    """

    def __init__(self, path: Path, busy: float = 1.0) -> None:
        self._path = path
        self._busy = busy
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file, making it and its schema when new.

        :raises StoreError: see :class:`~impfed.store.api.StoreFault`.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            os.chmod(self._path, 0o600)
            self._db = sqlite3.connect(self._path, timeout=self._busy, isolation_level=None)
            self._prepare(self._db)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise self._open_error(error) from error
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; closing it twice does nothing."""
        try:
            if self._db is not None:
                self._db.close()
        finally:
            self._db = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def commit(self, writes: Sequence[Write]) -> list[StoreError | None]:
        """Make writes in one transaction; return for each of them None or why it was not made.

        Of several changes to one key only the last reaches the file.  When a value in one write
        cannot be stored, the others are made nevertheless.
        """
        records: dict[tuple[str, str], bytes | None] = {}
        entries: dict[str | int | float, LedgerRow] = {}
        for changes, rows in writes:
            for kind, key, value in changes:
                records[kind, key] = value
            for row in rows:
                entries[row[0]] = row if row[0] not in entries else _merged(entries[row[0]], row)
        try:
            self._transaction(records, entries)
        except sqlite3.OperationalError as error:
            return [in_words(self._path, error)] * len(writes)
        except (sqlite3.Error, OverflowError, ValueError, TypeError) as error:
            if len(writes) > 1 and not _damaged(error):
                return [self.commit((write,))[0] for write in writes]
            return [self._refusal(error)] * len(writes)
        return [None] * len(writes)

    def rows(self, kind: str, after: str = "", limit: int = -1) -> list[tuple[str, bytes]]:
        """Return key and octets of records of a kind, in order of keys.

        :param after: only of keys behind this one.
        :param limit: at most so many; all of them if it is negative.
        """
        statement = "SELECT key, value FROM records WHERE kind = ? AND key > ? ORDER BY key LIMIT ?"
        return self._read(statement, (kind, after, limit))

    def row(self, kind: str, key: str) -> bytes | None:
        """Return the octets of a record, None when it is not there."""
        rows = self._read("SELECT value FROM records WHERE kind = ? AND key = ?", (kind, key))
        return rows[0][0] if rows else None

    def pull(self, kind: str, key: str) -> bytes | None:
        """Remove a record; returns its octets, None when it was not there."""
        rows = self._read(f"{_DELETE} RETURNING value", (kind, key))
        return rows[0][0] if rows else None

    def ledger(self, id: str, address: str, since: float, limit: int) -> list[LedgerEntry]:
        """Return ledger entries, newest first; parameters as in ``IStore.ledger``."""
        where = "received_at >= ?"
        arguments: list[str | float] = [since]
        if id:
            where += " AND (id = ? OR (stanza_id = ? AND stanza_id <> '')"
            where += " OR (call_id = ? AND call_id <> ''))"
            arguments += [id, id, id]
        if address:
            halves = [
                f"SELECT * FROM (SELECT * FROM ledger WHERE {column} = ? AND {where}"
                f"{_LEDGER_ORDER})"
                for column in ("local", "foreign_address")
            ]
            half = [address, *arguments, limit]
            statement = " UNION ".join(halves) + _LEDGER_ORDER
            arguments = [*half, *half, limit]
        else:
            statement = f"SELECT * FROM ledger WHERE {where}{_LEDGER_ORDER}"
            arguments = [*arguments, limit]
        return [LedgerEntry(*row) for row in self._read(statement, arguments)]

    def purge(self, before: float, limit: int) -> int:
        """Remove at most ``limit`` entries received before a time; return how many."""
        statement = (
            "DELETE FROM ledger WHERE rowid IN"
            " (SELECT rowid FROM ledger WHERE received_at < ? ORDER BY received_at LIMIT ?)"
        )
        try:
            return self._connection.execute(statement, (before, limit)).rowcount
        except sqlite3.Error as error:
            raise in_words(self._path, error) from error

    def move(self, local: str, to: str) -> int:
        """Give a local user's entries to another address, or remove them; return how many."""
        statement = "DELETE FROM ledger WHERE local = ?"
        arguments: tuple[str, ...] = (local,)
        if to:
            statement = "UPDATE ledger SET local = ? WHERE local = ?"
            arguments = (to, local)
        try:
            return self._connection.execute(statement, arguments).rowcount
        except sqlite3.Error as error:
            raise in_words(self._path, error) from error

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(StoreFault.STOPPED, f"store {self._path}: it is not open")
        return self._db

    def _read(self, statement: str, arguments: Sequence[str | float]) -> list[Any]:
        try:
            return self._connection.execute(statement, tuple(arguments)).fetchall()
        except sqlite3.Error as error:
            raise in_words(self._path, error) from error

    def _transaction(
        self,
        records: dict[tuple[str, str], bytes | None],
        entries: dict[str | int | float, LedgerRow],
    ) -> None:
        db = self._connection
        puts = [(kind, key, value) for (kind, key), value in records.items() if value is not None]
        deletes = [name for name, value in records.items() if value is None]
        db.execute("BEGIN IMMEDIATE")
        try:
            if puts:
                db.executemany(_PUT, puts)
            if deletes:
                db.executemany(_DELETE, deletes)
            if entries:
                db.executemany(_ENTER, list(entries.values()))
            db.execute("COMMIT")
        except BaseException:  # also when the process is told to end
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _refusal(self, error: Exception) -> StoreError:
        if _damaged(error) and isinstance(error, sqlite3.Error):
            return in_words(self._path, error)
        return StoreError(StoreFault.OTHER, f"cannot write a value down: {error}")

    def _take_lock(self) -> None:
        lock_path = self._path.with_name(self._path.name + ".lock")
        self._lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            raise StoreError(
                StoreFault.LOCKED,
                f"store {self._path}: another impfed node uses it"
                + (f" (process {holder})" if holder else "")
                + "; stop that one, or give this node a state_directory of its own",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode("ascii"), 0)

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        application = int(db.execute("PRAGMA application_id").fetchone()[0])
        if version > len(SCHEMA) and application == APPLICATION_ID:
            raise StoreError(
                StoreFault.NEWER,
                f"store {self._path}: written by a newer impfed (layout {version}, this one knows"
                f" {len(SCHEMA)}); run that version again, or restore the copy made before it",
            )
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise StoreError(
                StoreFault.FOREIGN,
                f"store {self._path}: an SQLite database, but not one of impfed's; name another"
                " state_directory",
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = FAST")
        db.execute("PRAGMA cache_size = -16000")
        # A page written many times between two checkpoints goes into the file once.
        db.execute("PRAGMA wal_autocheckpoint = 8000")
        db.execute("BEGIN IMMEDIATE")
        for step in SCHEMA[version:]:
            for statement in step:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(SCHEMA)}")
        db.execute("COMMIT")

    def _open_error(self, error: sqlite3.Error | OSError) -> StoreError:
        if isinstance(error, PermissionError):
            return StoreError(
                StoreFault.READ_ONLY,
                f"store {self._path}: the system denies access ({error.filename}); give it and its"
                " directory to the user that impfed runs as",
            )
        return in_words(self._path, error)


def _merged(first: LedgerRow, second: LedgerRow) -> LedgerRow:
    # As the UPSERT does: id, direction, both addresses, stanza and reception stay the first's.
    return (*first[:5], *second[5:8], first[8], *second[9:])


def _damaged(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _FAULTS


_check = msgspec.msgpack.Encoder().encode


def row_of(entry: LedgerEntry) -> LedgerRow:
    """Return an entry's columns; octets that are no UTF-8 become U+FFFD, for people read it."""
    row = msgspec.structs.astuple(entry)
    try:
        _check(entry)
    except UnicodeEncodeError:
        return tuple(readable(value) if isinstance(value, str) else value for value in row)
    return row
