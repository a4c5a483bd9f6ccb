"""What a routing node costs that passes in-dialog MESSAGEs on, beside Kamailio with the same load.

Both relay between two TLS connections, by Via, Record-Route and transactions; the node also decides
for each request whether it may pass.  One of them runs at a time, pinned to core 1.  After the four
loads come what an idle TLS connection takes of memory, and what a mutual handshake takes of CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import ssl
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.run import FOREIGN, LOCAL, TESTED, Bench, Result, children
from demo.node import TWISTD
from demo.parts import ROOT, Part, PartFailed

CONFIGURATION = """\
[node]
state_directory = "{directory}/state"
control_socket = "{directory}/control.sock"

[tls]
ca = "{near.ca}"

[[tls.certificate]]
name = "federation"
certificate = "{near.certificate}"
key = "{near.key}"

[[listener]]
name = "edge"
transport = "tls"
bind = "127.0.0.1:{port}"

[[domain]]
name = "{foreign}"
next_hop = {{ address = "127.0.0.1:9", tls_name = "sip.{foreign}" }}

[[neighbour]]
name = "load"
domains = ["{local}"]
address = "127.0.0.1:{far_port}"
tls_name = "localhost"
peer_names = ["nobody.{local}"]  # both ends of the load show one certificate
"""


@dataclass(frozen=True)
class Row:
    """One load, and what the node may take of Kamailio's figures.

    :ivar rate: messages a second; 0 for as many as the proxy bears.
    :ivar cpu: ratio of CPU: at most, and the goal.
    :ivar p99: the same of the slowest hundredth; None where nothing is asked.
    """

    name: str
    rate: int
    connections: int
    sessions: int
    cpu: tuple[float, float]
    p99: tuple[float, float] | None = None


ROWS = (
    Row("saturated, 4 connections", 0, 4, 100, (1.0, 0.5)),
    Row("saturated, 64 connections", 0, 64, 128, (1.0, 0.85)),
    Row("4,000/s", 4000, 4, 100, (1.3, 1.05), (1.5, 1.0)),
    Row("300/s", 300, 4, 100, (1.3, 1.05), (1.5, 1.0)),
)
IDLE = (0.4, 0.25)
HANDSHAKE = (1.3, 1.0)


def start_node(bench: Bench) -> Part:
    """Start a node that has no users of its own."""
    directory = bench.directory / "node"
    (directory / "state").mkdir(parents=True)
    path = directory / "impfed.toml"
    values = {"near": bench.near, "port": bench.node_port, "far_port": bench.far_port}
    text = CONFIGURATION.format(directory=directory, foreign=FOREIGN, local=LOCAL, **values)
    path.write_text(text)
    command: list[str | Path] = [*TESTED, *TWISTD, "-n", "--pidfile=", "impfed", "--config", path]
    node = Part("node", command, directory)
    bench.parts.append(node.stop)
    node.await_port(bench.node_port)
    return node


def measure(bench: Bench, row: Row, pid: int, port: int, *more: str) -> Result:
    """Put one load on a proxy."""
    return bench.load(
        children(pid), "--proxy", f"127.0.0.1:{port}", "--from-domain", FOREIGN,
        "--conns", str(row.connections), "--dialogs", str(row.sessions), "--msgs", "0",
        "--rate", str(row.rate), "--uas", f"127.0.0.1:{bench.far_port}", *more,
    )  # fmt: skip


def settle(bench: Bench, pid: int, port: int, target: str) -> None:
    """Wait until the node has found that there is somebody behind it again."""
    for _ in range(30):
        result = bench.begin(
            [pid], "--proxy", f"127.0.0.1:{port}", "--from-domain", FOREIGN, "--conns", "1",
            "--dialogs", "1", "--msgs", "0", "--rate", "20", "--ramp", "1",
            "--uas", f"127.0.0.1:{bench.far_port}", "--ruri", target, "--to", target,
            seconds=0.5, warmup=1.0,
        ).communicate(timeout=60)  # fmt: skip
        if json.loads(result[0])["messages"]:
            return
    raise PartFailed("the node passes nothing on")


# -------------------------------------------------------------- idle connections, and handshakes


def client(bench: Bench) -> ssl.SSLContext:
    """Return a client's side of mutual TLS that resumes nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(bench.far.ca)
    context.load_cert_chain(bench.far.certificate, bench.far.key)
    return context


def connect(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    """Return a connection on which a keep-alive has been answered, so that both ends stand."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    secured = context.wrap_socket(plain)
    secured.sendall(b"\r\n\r\n")
    if secured.recv(2) != b"\r\n":
        raise PartFailed("a keep-alive was not answered")
    return secured


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time of processes, exact to the nanosecond."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def own_kib(pids: list[int]) -> int:
    """Return the memory of processes; pages that several share count once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def idle_memory(bench: Bench, pid: int, port: int, count: int) -> float:
    """Return KiB for each of many idle connections."""
    context, pids = client(bench), children(pid)
    held = [connect(context, port) for _ in range(20)]  # whatever the first ones bring with them
    before = own_kib(pids)
    held += [connect(context, port) for _ in range(count - len(held))]
    grown = own_kib(pids) - before
    for each in held:
        each.close()
    time.sleep(0.5)
    return grown / (count - 20)


def handshakes(bench: Bench, pid: int, port: int, seconds: float) -> float:
    """Return µs CPU for one mutual handshake, keep-alive and end included."""
    context, pids = client(bench), children(pid)
    count, before = 0, cpu_seconds(pids)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connect(context, port).close()
        count += 1
    return (cpu_seconds(pids) - before) * 1e6 / count


# ------------------------------------------------------------------------------------- the table


def median(results: list[Result], name: str) -> float:
    """Return the median of one figure over the rounds."""
    return float(statistics.median(result[name] for result in results))


def judged(ratio: float, limits: tuple[float, float]) -> str:
    """Return a ratio beside what it may be."""
    most, goal = limits
    word = "goal" if ratio <= goal else "met" if ratio <= most else "MISSED"
    return f"{ratio:7.2f}{most:9.2f}{goal:7.2f}  {word}"


def lines_of(row: Row, ours: list[Result], theirs: list[Result]) -> list[str]:
    """Return what a load says."""
    here, there = median(ours, "us"), median(theirs, "us")
    lines = [f"{row.name + ', CPU µs':<38}{here:9.1f}{there:10.1f}" + judged(here / there, row.cpu)]
    for name, limits in (("p50_ms", None), ("p99_ms", row.p99)):
        here, there = median(ours, name), median(theirs, name)
        text = f"{'  ' + name[:3] + ' ms':<38}{here:9.2f}{there:10.2f}"
        lines.append(text + (judged(here / there, limits) if limits else ""))
    return lines


def run(bench: Bench, rounds: int, idle: int) -> str:
    """Take all measurements in turns; return the table."""
    bench.start_kamailio()
    node = start_node(bench)
    target = f"sip:u%d@{LOCAL}"
    peers = {
        "kamailio": (bench.kamailio.pid, bench.kamailio_port, ()),
        "impfed": (node.pid, bench.node_port, ("--ruri", target, "--to", target)),
    }
    loads: dict[tuple[str, str], list[Result]] = {}
    shakes: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    settle(bench, node.pid, bench.node_port, target)
    # First, for neither gives memory back that a load has once had.
    for name, (pid, port, _) in peers.items():
        memory[name] = idle_memory(bench, pid, port, idle)
    settle(bench, node.pid, bench.node_port, target)
    for number in range(rounds):
        print(f"round {number + 1}", flush=True)
        for row in ROWS:
            for name, (pid, port, more) in peers.items():
                result = measure(bench, row, pid, port, *more)
                loads.setdefault((row.name, name), []).append(result)
                print(
                    f"  {name:<9} {row.name:<26} {result['us']:7.1f} µs CPU"
                    f"  {result['messages_per_s']:7.0f}/s  p50 {result['p50_ms']:6.2f} ms"
                    f"  p99 {result['p99_ms']:7.2f} ms",
                    flush=True,
                )
        for name, (pid, port, _) in peers.items():
            shakes.setdefault(name, []).append(handshakes(bench, pid, port, 2.0))
    lines = [f"\n{'':<38}{'impfed':>9}{'Kamailio':>10}{'ratio':>7}{'at most':>9}{'goal':>7}"]
    for row in ROWS:
        lines += lines_of(row, *(loads[row.name, name] for name in ("impfed", "kamailio")))
    here, there = (statistics.median(shakes[name]) for name in ("impfed", "kamailio"))
    lines.append(
        f"{'mutual-TLS handshake, CPU µs':<38}{here:9.0f}{there:10.0f}"
        + judged(here / there, HANDSHAKE)
    )
    lines.append(f"{'  a second and core':<38}{1e6 / here:9.0f}{1e6 / there:10.0f}")
    here, there = memory["impfed"], memory["kamailio"]
    lines.append(
        f"{f'one of {idle} idle TLS connections, KiB':<38}{here:9.1f}{there:10.1f}"
        + judged(here / there, IDLE)
    )
    return "\n".join(lines)


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench_proxy", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warmup", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, default=1000, help="idle connections")
    options = parser.parse_args()
    os.sched_setaffinity(0, {0})  # what this process does itself is load
    directory = ROOT / "run" / "bench" / f"proxy-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    bench = Bench(directory, 0.0, options.seconds, options.warmup, 100)
    try:
        bench.build()
        print(run(bench, options.rounds, options.idle))
    except PartFailed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
