"""A restart with 260,000 subscriptions: time until all are served, and memory, beside plain dicts.

The store is SQLite, or the Redis of a cluster, with as many records as a full node has; loading them and
making every dialog known is the node's own code, without a network.  Each measurement is a process of
its own.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import inlineCallbacks

from impfed.config.model import (
    Config,
    HomeConfig,
    ListenerConfig,
    NextHopConfig,
    NodeConfig,
    SipDomainConfig,
    TlsConfig,
)
from impfed.config.store import StoreConfig
from impfed.core.metrics import Metrics
from impfed.gateway.dialogs import DialogTable
from impfed.gateway.presence import PresenceGateway
from impfed.gateway.surroundings import Surroundings
from impfed.interwork.address import Aliases
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import Reject
from impfed.sip.dialog import Dialog
from impfed.store.api import Put
from impfed.store.coordination import Coordination
from impfed.store.records import (
    AuthorizationRecord,
    InboundSubscriptionRecord,
    OutboundSubscriptionRecord,
    PolicyDefaultRecord,
    Record,
)
from impfed.store.setup import make_store
from impfed.store.shared import SharedStore
from impfed.testing.fakes import FakeHome, FakeStack, counting_ids
from impfed.transport.timers import ReactorTimers
from tests.store.redis_server import RedisServer

reactor: Any = installed
USERS = 25_000
ROUTES = (
    "<sip:sip.lync.example:5061;transport=tls;lr;ms-key-info=jAAAAExlZGdlS2V5MDE;ms-route-sig=aaR0>",
    "<sip:pool01.lync.example:5061;transport=tls;opaque=state:T:F:Ci.R2a4f00;lr;ms-route-sig=bbR0>",
)
ACCEPT = (
    "application/msrtc-event-categories+xml, application/xpidf+xml, text/xml+msrtc.pidf,"
    " application/pidf+xml, application/rlmi+xml, multipart/related"
)
DOMAINS = tuple(
    SipDomainConfig(name, next_hop=NextHopConfig(f"sip.{name}"))
    for name in ("lync.example", *(f"partner{number}.example" for number in range(30)))
)


def records(count: int, now: float) -> Iterator[Record]:
    """Make records of a full node: half of the subscriptions theirs, half ours."""
    state = '[true,"away","Busy",0,"Romeo Montague"]'
    for number in range(count // 2):
        local = f"user{number % USERS}@home.example"
        foreign = f"person{number % 40_000}@{DOMAINS[number % len(DOMAINS)].name}"
        dialog = Dialog(
            call_id=f"{number:032x}",
            local_tag=f"{number:016x}",
            remote_tag=f"c0ffee{number:08x}",
            local=f"<sip:{local}>",
            remote=f'"Romeo Montague"<sip:{foreign}>;epid=4b7e19f0a2',
            remote_target=f"sip:{foreign};opaque=user:epid:Qm9yZWQtUm9tZW8tRXBpZABB;gruu",
            route_set=ROUTES,
            local_cseq=3,
            remote_cseq=2,
        )
        yield InboundSubscriptionRecord(
            local=local, foreign=foreign, dialog=dialog, state="active", event_id="",
            expires_at=now + 7000, accept=ACCEPT, last_state=state,
        )  # fmt: skip
        yield OutboundSubscriptionRecord(
            local=local, foreign=foreign, dialog=dialog_of_ours(dialog, number), state="ACTIVE",
            expires_at=now + 7000, last_state=state, wanted=True, last_used=now - number % 1000,
        )  # fmt: skip
        yield AuthorizationRecord(
            local=local, foreign=foreign, inbound="approved", outbound="approved"
        )


def dialog_of_ours(dialog: Dialog, number: int) -> Dialog:
    """Return a dialog that we began."""
    return Dialog(
        call_id=f"out{number:032x}", local_tag=f"a{number:016x}", remote_tag=dialog.remote_tag,
        local=dialog.local, remote=dialog.remote, remote_target=dialog.remote_target,
        route_set=ROUTES, local_cseq=3, remote_cseq=2,
    )  # fmt: skip


def rss_mib() -> float:
    """Return this process's resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


#: The socket of Redis in the state directory, where that is the store.
SOCKET = "redis.sock"


def configuration(path: Path) -> Config:
    """Return that of a node whose state directory this is."""
    socket = path / SOCKET
    return Config(
        path=Path("bench.toml"),
        node=NodeConfig(name="node1", state_directory=path),
        store=StoreConfig("redis", socket=socket) if socket.exists() else StoreConfig(),
        tls=TlsConfig(),
        listeners=(ListenerConfig("edge", "tls", "0.0.0.0", 5061, "fed.home.example", 5061),),
        domains=tuple(replace(domain, presence_pace=1) for domain in DOMAINS),
        homes=(HomeConfig("home", "component", ("home.example",)),),
    )


@inlineCallbacks
def opened(config: Config) -> Any:
    """Return the store, open; that of a cluster knows this node."""
    store = make_store(reactor, config, counting_ids())
    yield store.start()
    if isinstance(store, SharedStore):
        epoch = yield Coordination(store.link).join(config.node.name, "bench", b"", 0)
        store.act_as(config.node.name, epoch)
    return store


def surroundings(config: Config, store: Any) -> Surroundings:
    """Return what a presence gateway works with, without a network."""
    home: Any = FakeHome()
    stack: Any = FakeStack()
    return Surroundings(
        config=config,
        stack=stack,
        home=home,
        store=store,
        resolve=lambda query, done: done(Reject(404, "no network here")),
        lookup=lambda address, done: None,
        domain=PeerPolicy(config.domains).domain,
        aliases=Aliases(),
        ids=counting_ids(),
        timers=ReactorTimers(reactor),
        metrics=Metrics(),
        dialogs=DialogTable(),
    )


def fill(path: Path, count: int) -> None:
    """Write the records."""

    @inlineCallbacks
    def run() -> Any:
        store = yield opened(configuration(path))
        chunk: list[Put] = []
        for record in records(count, time.time()):
            chunk.append(Put(record))
            if len(chunk) == 5000:
                store.write(chunk)
                chunk = []
                yield store.load(
                    PolicyDefaultRecord
                )  # nothing of the kind: waits for the writes before
        store.write(chunk)
        yield store.stop()

    drive(run)


def restart(path: Path, profile: bool) -> dict[str, float]:
    """Load the records and make every dialog known; returns seconds and MiB."""
    figures: dict[str, float] = {}

    @inlineCallbacks
    def run() -> Any:
        before, begin, cpu = rss_mib(), time.monotonic(), time.process_time()
        config = configuration(path)
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        store = yield opened(config)
        around = surroundings(config, store)
        presence = PresenceGateway(around)
        yield presence.load(store)
        figures["loaded"] = time.monotonic() - begin
        presence.resume()
        if profile:
            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
        figures["ready"] = time.monotonic() - begin
        figures["cpu"] = time.process_time() - cpu
        figures["dialogs"] = len(around.dialogs)
        figures["mib"] = rss_mib() - before
        yield store.stop()

    drive(run)
    return figures


def dicts(path: Path, count: int) -> dict[str, float]:
    """The peer: the same facts as plain dicts, one for each record, found by their key."""
    import msgspec

    before = rss_mib()
    kept: dict[str, Any] = {}
    for record in records(count, time.time()):
        kept[f"{type(record).__name__}|{record.key}"] = msgspec.msgpack.decode(
            msgspec.msgpack.encode(record)
        )
    return {"mib": rss_mib() - before, "dialogs": len(kept)}


def drive(run: Any) -> None:
    """Run a coroutine in the reactor."""

    def begin() -> None:
        run().addErrback(lambda failure: failure.printTraceback()).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()


def measure(part: str, path: Path, count: int) -> dict[str, float]:
    """Run one part in a process of its own."""
    command = [sys.executable, "-m", "bench.bench_records", "--part", part]
    command += ["--path", str(path), "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def state_directory(store: str) -> Iterator[Path]:
    """A state directory, with a Redis in it if that is the store."""
    if store == "redis":
        redis = RedisServer().start()
        try:
            yield redis.directory
        finally:
            redis.stop()
    else:
        with tempfile.TemporaryDirectory(prefix="impfed-bench-") as directory:
            yield Path(directory)


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.bench_records", description=__doc__)
    parser.add_argument("--count", type=int, default=260_000)
    parser.add_argument("--store", choices=("sqlite", "redis"), default="sqlite")
    parser.add_argument("--part", choices=("fill", "restart", "dicts", "profile"))
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    if options.part == "fill":
        fill(options.path, options.count)
        print("{}")
    elif options.part in ("restart", "profile"):
        print(json.dumps(restart(options.path, options.part == "profile")))
    elif options.part == "dicts":
        print(json.dumps(dicts(options.path, options.count)))
    else:
        with state_directory(options.store) as path:
            measure("fill", path, options.count)
            plain = measure("dicts", path, options.count)
            found = measure("restart", path, options.count)
        print(
            f"{options.count} subscriptions in {options.store}: ready in {found['ready']:.2f} s"
            f" (at most 5, goal 1.5), of it loading {found['loaded']:.2f} s, CPU {found['cpu']:.2f} s"
        )
        print(
            f"memory {found['mib']:.0f} MiB with dialogs, timers and authorizations; plain dicts"
            f" {plain['mib']:.0f} MiB: {found['mib'] / plain['mib']:.2f} (at most 0.6, goal 0.4);"
            f" {found['mib'] * 1024 / options.count:.2f} KiB each"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
