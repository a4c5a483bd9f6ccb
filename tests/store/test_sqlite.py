"""The SQLite store: the contract, and what only a file has: batches, locks, full disks, kills."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

import impfed
from impfed.store.api import Delete, Enter, Put, StoreError, StoreFault
from impfed.store.records import InboundSubscriptionRecord, OutboxRecord
from impfed.store.sqlite import SqliteStore
from impfed.store.sqlitefile import APPLICATION_ID, SCHEMA, SqliteFile
from tests.store.contract import BOB, CAROL, StoreContract, entry, subscription


class SqliteStoreContractTests(StoreContract, TestCase):
    def make_store(self) -> SqliteStore:
        return SqliteStore(Path(self.mktemp()) / "impfed.sqlite", reactor)  # type: ignore[arg-type]


class InlineReactor(Clock):
    """A clock whose other thread's answers wait in a list, to be fetched by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[Any, tuple[Any, ...]]] = []
        self.advance(1000.0)

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        self.answers.append((call, arguments))


class GatheringTests(SynchronousTestCase):
    """When a commit is made; the store's thread is not started, its jobs are looked at."""

    def setUp(self) -> None:
        self.reactor = InlineReactor()
        self.store = SqliteStore(self.mktemp(), self.reactor, gather=0.005, backlog_limit=100)
        self.store._file = SqliteFile(Path("unused"))
        self.confirmed: list[BaseException | None] = []

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            self.store.write([Delete(OutboxRecord, "0")], self.confirmed.append)

    def batches(self) -> list[int]:
        """Confirm the batches handed to the thread, and return their sizes."""
        sizes = []
        while not self.store._jobs.empty():
            job = self.store._jobs.get()
            assert job is not None
            _, (writes,), answer = job
            sizes.append(len(writes))
            answer([None] * len(writes))
        return sizes

    def test_one_turn_shares_a_commit(self) -> None:
        """Everything written in one turn of the reactor is one batch."""
        self.write(30)
        self.assertEqual(self.batches(), [])
        self.reactor.advance(0)
        self.assertEqual(self.batches(), [30])
        self.assertEqual(len(self.confirmed), 30)

    def test_single_write_does_not_wait(self) -> None:
        """A write that comes alone is committed at the end of its turn, time after time."""
        for _ in range(3):
            self.reactor.advance(0.1)
            self.write()
            self.reactor.advance(0)
            self.assertEqual(self.batches(), [1])

    def test_dense_writes_share_commits(self) -> None:
        """While writes come densely a commit waits, but never longer than the gathering time."""
        self.write(10)
        self.reactor.advance(0)
        self.reactor.advance(0.001)
        self.assertEqual(self.batches(), [10])
        sizes = []
        for _ in range(20):
            self.write()
            self.reactor.advance(0.001)
            sizes += self.batches()
        self.assertLessEqual(len(sizes), 10)
        self.reactor.advance(0.005)
        self.batches()
        self.assertEqual(self.store.backlog, 0)

    def test_patient_writes_wait_for_company(self) -> None:
        """A write that may wait does, and goes at once with one that may not."""
        self.store.write([Delete(OutboxRecord, "0")], self.confirmed.append, within=0.1)
        self.reactor.advance(0.09)
        self.assertEqual(self.batches(), [])
        self.reactor.advance(0.02)
        self.assertEqual(self.batches(), [1])
        self.store.write([Delete(OutboxRecord, "0")], self.confirmed.append, within=0.1)
        self.write()
        self.reactor.advance(0)
        self.assertEqual(self.batches(), [2])
        self.store.write([Delete(OutboxRecord, "0")], self.confirmed.append, within=0.1)
        self.reactor.advance(0.05)
        self.assertEqual(self.batches(), [])
        self.store.write([Delete(OutboxRecord, "0")], self.confirmed.append, within=1.0)
        self.reactor.advance(0.06)
        self.assertEqual(self.batches(), [2])

    def test_backlog_is_bounded(self) -> None:
        """Over the limit a write is refused with OVERLOADED, in a later turn; the others stay."""
        self.write(101)
        self.assertEqual((self.store.backlog, self.confirmed), (100, []))
        self.reactor.advance(0)
        [error] = self.confirmed
        assert isinstance(error, StoreError)
        self.assertIs(error.fault, StoreFault.OVERLOADED)
        self.assertEqual(self.batches(), [100])
        self.assertEqual(self.store.backlog, 0)

    def test_large_batches_are_cut(self) -> None:
        """More writes than fit one transaction follow in the next."""
        self.store._queue._batch_limit = 40
        self.write(100)
        self.reactor.advance(0)
        sizes = self.batches()
        while self.store.backlog:
            self.reactor.advance(0.005)
            sizes += self.batches()
        self.assertEqual(sizes, [40, 40, 20])

    def test_trouble_is_logged_once_and_recovery_too(self) -> None:
        """Of a lasting trouble there is one log line, and one when it is over."""
        full = StoreError(StoreFault.FULL, "the disk is full")
        for result in (full, full, None):
            self.write()
            self.reactor.advance(1)
            job = self.store._jobs.get()
            assert job is not None
            job[2]([result])
            self.assertIs(self.store.trouble, full.fault if result else None)
        self.assertEqual(self.confirmed, [full, full, None])


class FileTests(TestCase):
    """The file itself, through the store with the real reactor."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "state" / "impfed.sqlite"
        self.store = SqliteStore(self.path, reactor)  # type: ignore[arg-type]

    def started(self) -> Deferred[None]:
        def stop() -> Deferred[None]:
            return self.store.stop()

        opened = self.store.start()
        opened.addCallback(lambda _: self.addCleanup(stop))
        return opened

    @inlineCallbacks
    def refused(self, fault: StoreFault, *words: str) -> Any:
        error = yield self.assertFailure(self.store.start(), StoreError)
        self.assertIs(error.fault, fault)
        for word in (str(self.path), *words):
            self.assertIn(word, error.text)

    def write(self, *changes: Any, store: SqliteStore | None = None) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        (store or self.store).write(changes, answer.callback)
        return answer

    @inlineCallbacks
    def test_only_the_owner_may_read(self) -> Any:
        """Database, log and lock have mode 0600, even if the file was wide open before."""
        self.path.parent.mkdir(parents=True)
        self.path.touch(0o666)
        os.chmod(self.path, 0o666)
        yield self.started()
        yield self.write(Put(subscription()))
        for path in self.path.parent.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)
        self.assertGreaterEqual(len(list(self.path.parent.iterdir())), 3)

    @inlineCallbacks
    def test_second_process_is_refused_in_words(self) -> Any:
        """A store in use says by which process, and what to do."""
        yield self.started()
        other, self.store = self.store, SqliteStore(self.path, reactor)  # type: ignore[arg-type]
        yield self.refused(StoreFault.LOCKED, f"process {os.getpid()}", "state_directory")
        self.store = other

    @inlineCallbacks
    def test_foreign_lock_is_told_in_words(self) -> Any:
        """A database that another program holds locked says so at the start."""
        yield self.started()
        yield self.store.stop()
        self._cleanups.clear()
        holder = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(holder.close)
        holder.execute("BEGIN EXCLUSIVE")
        yield self.refused(StoreFault.LOCKED, "another program")

    @inlineCallbacks
    def test_newer_layout_is_refused_and_left_alone(self) -> Any:
        """A file written by a later release is refused with both versions, and not touched."""
        self.path.parent.mkdir(parents=True)
        with sqlite3.connect(self.path) as db:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {len(SCHEMA) + 6}")
        db.close()
        before = self.path.read_bytes()
        yield self.refused(StoreFault.NEWER, f"layout {len(SCHEMA) + 6}", "newer impfed")
        self.assertEqual(self.path.read_bytes(), before)

    @inlineCallbacks
    def test_someone_elses_database_is_refused(self) -> Any:
        """An SQLite file that is not impfed's is refused."""
        self.path.parent.mkdir(parents=True)
        with sqlite3.connect(self.path) as db:
            db.execute("CREATE TABLE recipes (name)")
        db.close()
        yield self.refused(StoreFault.FOREIGN, "not one of impfed's")

    @inlineCallbacks
    def test_not_a_database(self) -> Any:
        """A file that is no database is refused with the advice to restore it."""
        self.path.parent.mkdir(parents=True)
        self.path.write_bytes(b"something else altogether" * 100)
        yield self.refused(StoreFault.CORRUPT, "backup")

    @inlineCallbacks
    def test_directory_in_the_way(self) -> Any:
        """A path that cannot be opened is refused in words."""
        self.path.mkdir(parents=True)
        yield self.refused(StoreFault.OTHER, "directory")

    @inlineCallbacks
    def pragma(self, statement: str) -> Any:
        assert self.store._file is not None
        yield self.store._ask(self.store._file._read, f"PRAGMA {statement}", ())

    @inlineCallbacks
    def test_no_room(self) -> Any:
        """Without room a write fails with FULL in words; one that fits is made again later."""
        yield self.started()
        yield self.pragma("max_page_count = 60")
        error = yield self.write(Put(OutboxRecord("big", CAROL, BOB, "x" * 2_000_000)))
        self.assertIs(error.fault, StoreFault.FULL)
        self.assertIn("make room", error.text)
        self.assertIs(self.store.trouble, StoreFault.FULL)
        self.assertIsNone((yield self.write(Put(OutboxRecord("m", CAROL, BOB, "x")))))
        self.assertIsNone(self.store.trouble)
        loaded = yield self.store.load(OutboxRecord)
        self.assertEqual([record.id for record in loaded], ["m"])

    @inlineCallbacks
    def test_read_only(self) -> Any:
        """A database that may not be written reports READ_ONLY with the remedy."""
        yield self.started()
        yield self.pragma("query_only = ON")
        error = yield self.write(Put(OutboxRecord("m", CAROL, BOB, "x")))
        self.assertIs(error.fault, StoreFault.READ_ONLY)
        self.assertIn("mounted read-only", error.text)

    @inlineCallbacks
    def test_unreadable_record_is_left_out(self) -> Any:
        """A record that cannot be decoded is left out and stays; the others are loaded."""
        yield self.started()
        yield self.write(Put(subscription("a")), Put(subscription("b")))
        assert self.store._file is not None
        kind = InboundSubscriptionRecord.kind
        broken = ([(kind, "a|lt", b"\x93\x01")], [])
        yield self.store._ask(self.store._file.commit, [broken])
        loaded = yield self.store.load(InboundSubscriptionRecord)
        self.assertEqual([record.dialog.call_id for record in loaded], ["b"])
        rows = yield self.store._ask(lambda: list(self.store._file.rows(kind)))
        self.assertEqual([key for key, _ in rows], ["a|lt", "b|lt"])

    @inlineCallbacks
    def test_value_that_sqlite_refuses_fails_its_write_only(self) -> Any:
        """An entry that passes the first check but not the database fails alone."""
        yield self.started()
        bad = self.write(Enter(entry("bad", cseq=2**63)))
        good = self.write(Enter(entry("good", cseq=2**31)))
        self.assertIsInstance((yield bad), StoreError)
        self.assertIsNone((yield good))
        entries = yield self.store.ledger()
        self.assertEqual([found.id for found in entries], ["good"])

    @inlineCallbacks
    def test_large_purge_goes_in_steps(self) -> Any:
        """A purge of many entries removes all of them, with writes in between."""
        yield self.started()
        self.store.write([Enter(entry(f"m{number}", 1.0)) for number in range(4500)])
        purged = self.store.purge_ledger(2.0)
        between = self.write(Enter(entry("new", 9.0)))
        self.assertEqual((yield purged), 4500)
        self.assertIsNone((yield between))
        self.assertEqual(len((yield self.store.ledger())), 1)


class Child(ProcessProtocol):
    """Collects the child's lines and kills it, without warning, after some of them."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.output = b""
        self.errors = b""
        self.ended: Deferred[Any] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data
        if self.output.count(b"\n") >= self.enough and self.transport.pid:
            self.transport.signalProcess("KILL")

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(reason.value.signal)


class KillTests(TestCase):
    """A process that dies without warning."""

    @inlineCallbacks
    def test_what_was_confirmed_is_there_after_kill(self) -> Any:
        """After SIGKILL in the middle of many writes, all that were confirmed are found whole."""
        path = Path(self.mktemp()).absolute() / "impfed.sqlite"
        child = Child(enough=200)
        root = Path(impfed.__file__).resolve().parent.parent
        arguments = [sys.executable, "-m", "tests.store.confirming_writer", str(path)]
        reactor.spawnProcess(  # type: ignore[attr-defined]
            child, sys.executable, arguments, env={**os.environ, "PYTHONPATH": str(root)}
        )
        self.assertEqual((yield child.ended), signal.SIGKILL, child.errors)
        lines = child.output.decode("ascii").splitlines(keepends=True)
        confirmed = {line.split()[0] for line in lines if line.endswith("None\n")}
        self.assertGreaterEqual(len(confirmed), 200)
        store = SqliteStore(path, reactor)  # type: ignore[arg-type]
        yield store.start()
        self.addCleanup(store.stop)
        texts = {record.id for record in (yield store.load(OutboxRecord))}
        entries = {found.id for found in (yield store.ledger(limit=100_000))}
        self.assertEqual(confirmed - texts, set())
        self.assertEqual(texts, entries)
