"""A real Redis that is killed, paused, full, read-only, cut off, failed over; TLS, users, Sentinel."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.trial.unittest import TestCase

from demo.certificates import Authority
from demo.parts import Part, free_ports, listening, wait_until
from impfed.config.model import CertificateConfig
from impfed.config.store import StoreConfig
from impfed.store import redislink
from impfed.store.api import Change, Delete, Put, StoreError, StoreFault, StoreState
from impfed.store.records import OutboxRecord
from impfed.store.redislink import RedisLink
from impfed.store.shared import SharedStore
from tests.store.redis_server import RedisServer
from tests.store.shared_contract import text
from tests.store.test_redis import make_store


class FaultCase(TestCase):
    """A server of the test's own, and a store on it."""

    timeout = 120
    options: tuple[str, ...] = ()
    store: SharedStore

    def setUp(self) -> Any:
        self.server = RedisServer(*self.options).start()
        self.addCleanup(self.server.stop)
        self.states: list[StoreState] = []
        return self.begin()

    @inlineCallbacks
    def begin(self, **changes: Any) -> Any:
        self.store = make_store(self, self.server, "t", **changes)
        self.store.observe(self.states.append)
        yield self.store.start()
        self.addCleanup(self.store.stop)

    def written(self, *changes: Change) -> Deferred[None]:
        confirmed: Deferred[None] = Deferred()

        def done(error: BaseException | None) -> None:
            (confirmed.callback if error is None else confirmed.errback)(error)

        self.store.write(changes, done)
        return confirmed

    @inlineCallbacks
    def until(self, true: Callable[[], bool]) -> Any:
        """Wait, with the reactor running, until something holds; the test's own limit ends it."""
        while not true():
            yield task.deferLater(reactor, 0.02)  # type: ignore[arg-type]

    @inlineCallbacks
    def ids(self) -> Any:
        records = yield self.store.load(OutboxRecord)
        return [record.id for record in records]

    @inlineCallbacks
    def fault(self, answer: Deferred[Any]) -> Any:
        error = yield self.assertFailure(answer, StoreError)
        return error.fault


class OutageTests(FaultCase):
    options = ("--appendonly", "yes", "--appendfsync", "always")

    @inlineCallbacks
    def test_restart(self) -> Any:
        """Writes that meet a restart wait for it, and are made once; what was confirmed is there."""
        yield self.written(Put(text("a")))
        self.server.kill()
        waiting = self.written(Put(text("b")))
        self.server.start()
        yield waiting
        self.assertEqual((yield self.ids()), ["a", "b"])

    @inlineCallbacks
    def test_gone_and_back(self) -> Any:
        """When it stays away the store says so, and refuses at once; then it says that it is back."""
        self.server.kill()
        yield self.until(lambda: StoreState.GONE in self.states)
        began = self.now()
        self.assertIs((yield self.fault(self.written(Put(text("a"))))), StoreFault.UNAVAILABLE)
        self.assertIs((yield self.fault(self.store.load(OutboxRecord))), StoreFault.UNAVAILABLE)
        self.assertLess(self.now() - began, 1.0)
        self.server.start()
        yield self.until(lambda: self.store.state is StoreState.UP)
        yield self.written(Put(text("b")))
        self.assertEqual(self.states, [StoreState.UP, StoreState.GONE, StoreState.UP])

    def now(self) -> float:
        return reactor.seconds()  # type: ignore[attr-defined, no-any-return]

    @inlineCallbacks
    def test_waiting_write_ends(self) -> Any:
        """A write that was waiting when the store went fails in time, and certainly was not made."""
        self.server.kill()
        yield self.until(lambda: not self.store.link.up)
        self.assertIs((yield self.fault(self.written(Put(text("a"))))), StoreFault.UNAVAILABLE)

    @inlineCallbacks
    def test_pause(self) -> Any:
        """A write that a paused server keeps is unsure in time, and never comes after a later one."""
        self.server.kill(signal.SIGSTOP)
        self.assertIs((yield self.fault(self.written(Put(text("a", "old"))))), StoreFault.UNSURE)
        self.server.kill(signal.SIGCONT)
        yield self.until(lambda: self.store.state is StoreState.UP)
        yield self.written(Put(text("a", "new")))
        [record] = yield self.store.load(OutboxRecord)
        self.assertEqual(record.body, "new")

    @inlineCallbacks
    def test_short_pause(self) -> Any:
        """A write that meets a short pause is made once, and nobody notices."""
        self.server.kill(signal.SIGSTOP)
        waiting = self.written(Put(text("a")))
        yield task.deferLater(reactor, 0.5)  # type: ignore[arg-type]
        self.server.kill(signal.SIGCONT)
        yield waiting
        self.assertEqual(self.states, [StoreState.UP])

    @inlineCallbacks
    def test_connections_that_are_cut_again_and_again(self) -> Any:
        """200 writes over 40 cut connections are all confirmed, and made in order."""
        confirmed = []
        for number in range(200):
            confirmed.append(self.written(Put(text("a", str(number))), Put(text(f"n{number:03}"))))
            if number % 5 == 0:
                self.server.command("CLIENT", "KILL", "TYPE", "normal")
            yield task.deferLater(reactor, 0.01)  # type: ignore[arg-type]
        yield gatherResults(confirmed)
        records = yield self.store.load(OutboxRecord)
        self.assertEqual(
            [record.id for record in records], ["a", *(f"n{n:03}" for n in range(200))]
        )
        self.assertEqual(records[0].body, "199")

    @inlineCallbacks
    def test_waiting_for_letters_survives(self) -> Any:
        """Who waits for a stream is told when the connection goes, and can wait again."""
        link = self.store.link
        waiting = link.wait({"feed": "0-0"}, 20.0)
        yield self.until(lambda: "blocked_clients:1" in self.server.answer("INFO", "clients"))
        self.server.command("CLIENT", "KILL", "TYPE", "normal")
        self.assertIs((yield self.fault(waiting)), StoreFault.UNAVAILABLE)
        self.assertEqual((yield link.wait({"feed": "0-0"}, 0.05)), {})

    @inlineCallbacks
    def test_scripts_forgotten(self) -> Any:
        """A server that has forgotten our scripts is told them again."""
        self.server.command("SCRIPT", "FLUSH")
        yield self.written(Put(text("a")))
        self.assertEqual((yield self.ids()), ["a"])


class RefusalTests(FaultCase):
    @inlineCallbacks
    def test_memory_full(self) -> Any:
        """A full memory refuses what is new, wholly, and lets removals pass; then all goes on."""
        yield self.written(Put(text("a")))
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        adding = self.written(Put(text("b")), Delete(OutboxRecord, "z"))
        removing = self.written(Delete(OutboxRecord, "a"))
        self.assertIs((yield self.fault(adding)), StoreFault.OUT_OF_MEMORY)
        yield removing
        self.assertIn(StoreState.REFUSING, self.states)
        self.assertEqual((yield self.ids()), [])
        self.server.command("CONFIG", "SET", "maxmemory", "0")
        yield self.written(Put(text("c")))
        self.assertIs(self.store.state, StoreState.UP)

    @inlineCallbacks
    def test_becomes_a_replica(self) -> Any:
        """A server that is made a replica is left; while there is no master the store is gone."""
        self.server.command("REPLICAOF", "127.0.0.1", "1")
        self.assertIs((yield self.fault(self.written(Put(text("a"))))), StoreFault.READ_ONLY)
        self.assertIs(self.store.state, StoreState.GONE)
        self.server.command("REPLICAOF", "NO", "ONE")
        yield self.until(lambda: self.store.state is StoreState.UP)
        yield self.written(Put(text("a")))

    def test_words(self) -> None:
        """What Redis refuses with becomes a fault and a sentence that names the place."""
        for message, fault in (
            ("MISCONF Redis is configured to save RDB snapshots, but", StoreFault.FULL),
            ("NOREPLICAS Not enough good replicas to write.", StoreFault.READ_ONLY),
            ("LOADING Redis is loading the dataset in memory", StoreFault.UNAVAILABLE),
            ("ERR AUTH <password> called without any password configured", StoreFault.DENIED),
            ("ERR something else", StoreFault.OTHER),
        ):
            error = redislink.in_words("Redis at h:1", message)
            self.assertIs(error.fault, fault)
            self.assertTrue(error.text.startswith("Redis at h:1: "), error.text)


class AccessTests(FaultCase):
    #: As docs/store.md has it.
    rights = (
        "~t", "~t:*", "-@all", "+auth", "+role", "+info", "+script|load", "+eval", "+evalsha", "+xread",
        "+time", "+hget", "+hset", "+hmget", "+hdel", "+hexists", "+hlen", "+hscan", "+hgetall",
        "+hincrby", "+smembers", "+sadd", "+exists", "+del", "+pexpire", "+xadd", "+xlen",
        "+xrange", "+xrevrange", "+xtrim", "+xdel",
    )  # fmt: skip

    @inlineCallbacks
    def test_user_with_these_rights_only(self) -> Any:
        """The user of the documentation may do everything that the store does."""
        self.server.command("ACL", "SETUSER", "impfed", "on", ">secret", *self.rights)
        yield self.store.stop()
        yield self.begin(user="impfed", password="secret")
        yield self.written(Put(text("a")))
        self.assertEqual((yield self.ids()), ["a"])
        self.assertEqual((yield self.store.link.wait({"feed": "0-0"}, 0.01)), {})

    @inlineCallbacks
    def test_wrong_password(self) -> Any:
        """A wrong password fails the start at once, in words that do not hold it."""
        self.server.command("ACL", "SETUSER", "impfed", "on", ">secret", *self.rights)
        store = make_store(self, self.server, "t", user="impfed", password="wr0ng")
        error = yield self.assertFailure(store.start(), StoreError)
        self.assertIs(error.fault, StoreFault.DENIED)
        self.assertIn("does not accept the user and password", error.text)
        self.assertNotIn("wr0ng", error.text)

    @inlineCallbacks
    def test_missing_password(self) -> Any:
        """A server that wants a password says so, and the store which key is missing."""
        self.server.command("CONFIG", "SET", "requirepass", "secret")
        error = yield self.assertFailure(make_store(self, self.server).start(), StoreError)
        self.assertIn("password_file", error.text)

    @inlineCallbacks
    def test_missing_right(self) -> Any:
        """A user who lacks a right is told of the documentation."""
        self.server.command("ACL", "SETUSER", "impfed", "on", ">secret", *self.rights, "-hset")
        yield self.store.stop()
        yield self.begin(user="impfed", password="secret")
        error = yield self.assertFailure(self.written(Put(text("a"))), StoreError)
        self.assertIs(error.fault, StoreFault.DENIED)
        self.assertIn("docs/store.md", error.text)

    @inlineCallbacks
    def test_nobody_there(self) -> Any:
        """A server that is not there fails the start after some patience, with its place."""
        self.patch(redislink, "_PATIENCE_AT_START", 0.5)
        store = make_store(self, self.server, socket=Path("/nonexistent/redis.sock"))
        error = yield self.assertFailure(store.start(), StoreError)
        self.assertIn("/nonexistent/redis.sock", error.text)


class TlsTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        authority = Authority(directory)
        mine, self.other = authority.issue("redis.example"), authority.issue("node.example")
        [self.port] = free_ports(1)
        self.ca = authority.path
        self.server = RedisServer(
            "--tls-port", str(self.port), "--tls-cert-file", str(mine.certificate.resolve()),
            "--tls-key-file", str(mine.key.resolve()), "--tls-ca-cert-file", str(self.ca.resolve()),
        ).start()  # fmt: skip
        self.addCleanup(self.server.stop)

    def link(self, tls_name: str, certificate: bool = True) -> RedisLink:
        config = StoreConfig(
            "redis", (("127.0.0.1", self.port),), tls=True, tls_name=tls_name, ca=self.ca
        )
        own = CertificateConfig("node", self.other.certificate, self.other.key)
        return RedisLink(reactor, config, own if certificate else None)

    @inlineCallbacks
    def test_mutual(self) -> Any:
        """Over TLS with a certificate of our own everything works, waiting too."""
        link = self.link("redis.example")
        yield link.start()
        self.assertEqual((yield link.call("last", "feed")), [b"0-0"])
        self.assertEqual((yield link.wait({"feed": "0-0"}, 0.01)), {})
        yield link.stop()

    @inlineCallbacks
    def test_wrong_name_and_missing_certificate(self) -> Any:
        """A certificate of another name is not believed, and without ours it believes us not."""
        self.patch(redislink, "_PATIENCE_AT_START", 0.5)
        for link in (self.link("another.example"), self.link("redis.example", certificate=False)):
            error = yield self.assertFailure(link.start(), StoreError)
            self.assertIn(f"127.0.0.1:{self.port}", error.text)


class SentinelTests(TestCase):
    timeout = 120

    @inlineCallbacks
    def test_fail_over(self) -> Any:
        """When the master dies the store goes on with the one that the Sentinels choose."""
        ports = free_ports(3)
        first = RedisServer("--port", str(ports[0])).start()
        second = RedisServer("--port", str(ports[1])).start()
        sentinel = self.sentinel(ports[2], ports[0])
        for part in (first, second):
            self.addCleanup(part.stop)
        self.addCleanup(sentinel.stop)
        second.command("REPLICAOF", "127.0.0.1", str(ports[0]))
        self.assertTrue(
            wait_until(lambda: "master_link_status:up" in second.answer("INFO", "replication"))
        )
        place = (("127.0.0.1", ports[2]),)
        store = make_store(self, first, "t", socket=None, addresses=place, sentinel="main")
        yield store.start()
        self.addCleanup(store.stop)
        yield self.written(store, "a")
        yield self.until(lambda: "slaves=1" in self.told(sentinel, ports[2]))
        first.kill()
        while True:  # as a node does: what cannot be written is tried again later
            try:
                yield self.written(store, "b")
                break
            except StoreError:
                yield task.deferLater(reactor, 0.1)  # type: ignore[arg-type]
        records = yield store.load(OutboxRecord)
        self.assertEqual([record.id for record in records], ["a", "b"])
        self.assertIn(str(ports[1]), store.link.place)

    def written(self, store: SharedStore, id: str) -> Deferred[None]:
        confirmed: Deferred[None] = Deferred()

        def done(error: BaseException | None) -> None:
            (confirmed.callback if error is None else confirmed.errback)(error)

        store.write([Put(text(id))], done)
        return confirmed

    @inlineCallbacks
    def until(self, true: Callable[[], bool]) -> Any:
        while not true():
            yield task.deferLater(reactor, 0.1)  # type: ignore[arg-type]

    def told(self, sentinel: Part, port: int) -> str:
        return RedisServer.ask(("127.0.0.1", port), "INFO", "sentinel")

    def sentinel(self, port: int, master: int) -> Part:
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )
        part = Part("sentinel", ["redis-sentinel", config.resolve()], directory)
        self.assertTrue(wait_until(lambda: listening(port)))
        return part
