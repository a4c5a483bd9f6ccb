"""``make bench``: CPU per MESSAGE through the gateway beside Kamailio's, and memory.

The system under test runs on core 1, load generators and Prosody on core 0. Kamailio as TLS
proxy and the node take turns in every round, with the same generator (``sipload``) at the same
rate; what is printed is the median of the rounds. ``--help`` for the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.certificates import Authority
from demo.home import Prosody
from demo.node import Node
from demo.parts import ROOT, Part, PartFailed, Talker, free_ports, listening, wait_until

HERE = Path(__file__).resolve().parent
TESTED, LOAD = ("taskset", "-c", "1"), ("taskset", "-c", "0")
LOCAL, FOREIGN = "load.example", "lync.example"
USERS = 1000
Result = dict[str, Any]


def rss_kib(pids: list[int]) -> int:
    """Return the resident memory of processes."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


def children(pid: int) -> list[int]:
    """Return a process and those it started."""
    found = [pid]
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == pid:
            found += children(int(entry.parent.name))
    return found


@dataclass
class Bench:
    """All parts of a run.

    :ivar rate: messages a second.
    :ivar seconds: length of one measurement, after ``warmup``.
    """

    directory: Path
    rate: float
    seconds: float
    warmup: float
    pairs: int
    parts: list[Callable[[], object]] = field(default_factory=list)
    rounds: dict[str, list[Result]] = field(default_factory=dict)

    def build(self) -> None:
        """Compile the load generator and make the certificates."""
        self.directory.mkdir(parents=True)
        self.sipload = self.directory / "sipload"
        subprocess.run(["make", "-s", "-C", str(HERE), f"OUT={self.sipload}"], check=True, cwd=ROOT)
        authority = Authority(self.directory / "pki", "bench CA")
        self.far = authority.issue(f"sip.{FOREIGN}", FOREIGN, "localhost")
        self.near = authority.issue(f"fed.{LOCAL}", LOCAL)
        self.far_port, self.kamailio_port, self.node_port = free_ports(3)

    # --------------------------------------------------------------- parts

    def start_kamailio(self) -> None:
        """Start Kamailio as a TLS proxy with one worker."""
        values = {
            "@PORT@": str(self.kamailio_port), "@DIRECTORY@": str(self.directory),
            "@KEY@": str(self.far.key), "@CERTIFICATE@": str(self.far.certificate),
            "@CA@": str(self.far.ca),
        }  # fmt: skip
        for name in ("proxy.cfg", "tls.cfg"):
            text = (HERE / "kamailio" / f"{name}.in").read_text()
            for word, value in values.items():
                text = text.replace(word, value)
            (self.directory / name).write_text(text)
        command = [
            *TESTED, "kamailio", "-f", str(self.directory / "proxy.cfg"), "-A", "WORKERS=1",
            "-x", "tlsf", "-X", "tlsf", "-m", "4096", "-M", "64", "-DD", "-E",
            "-P", str(self.directory / "kamailio.pid"), "-w", str(self.directory),
        ]  # fmt: skip
        self.kamailio = Part("kamailio", command, self.directory)
        self.parts.append(self.kamailio.stop)
        self.kamailio.await_port(self.kamailio_port)

    def start_home(self) -> None:
        """Start Prosody with the load component as a second local domain."""
        self.prosody = Prosody(
            self.directory / "prosody", components=(FOREIGN, LOCAL), prefix=LOAD
        ).start()
        self.parts.append(self.prosody.stop)
        self.xmpp = Talker(
            "xmppload",
            [
                *LOAD, sys.executable, "-m", "bench.xmppload", LOCAL, self.prosody.secret,
                f"127.0.0.1:{self.prosody.component_port}",
            ],
            self.directory,
        )  # fmt: skip
        self.parts.append(self.xmpp.stop)
        self.xmpp.expect(event="ready")

    def start_node(self) -> Node:
        """Start a node with empty state."""
        directory = self.directory / f"node-{time.monotonic_ns()}"
        node = Node(
            directory, self.prosody, self.near, self.node_port, ("127.0.0.1", self.far_port),
            name=f"fed.{LOCAL}", prefix=TESTED,
            extra="[presence]\nnew_per_minute = 100000",
        )  # fmt: skip
        node.write()
        text = node.configuration.read_text()
        text = text.replace('domains = ["home.example"]', f'domains = ["home.example", "{LOCAL}"]')
        node.configuration.write_text(text)
        with (directory / "users").open("a") as users:
            users.writelines(f"u{number}@{LOCAL}\n" for number in range(USERS))
        node.start()
        self.parts.append(node.stop)
        return node

    # -------------------------------------------------------- measurements

    def begin(
        self, pids: list[int], *arguments: str, seconds: float = 0.0, warmup: float = 0.0
    ) -> subprocess.Popen[str]:
        """Start sipload."""
        command = [
            *LOAD, str(self.sipload), "--duration", str(seconds or self.seconds),
            "--warmup", str(warmup or self.warmup), "--cert", str(self.far.certificate),
            "--key", str(self.far.key), "--ca", str(self.far.ca),
            "--pids", ",".join(map(str, pids)), *arguments,
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, process: subprocess.Popen[str]) -> Result:
        """Return what sipload printed when it ended."""
        try:
            out, errors = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            raise PartFailed("sipload did not end") from None
        if process.returncode:
            raise PartFailed(f"sipload: {errors[-2000:]}")
        result: Result = json.loads(out)
        if result["errors"] or result["timeouts"]:
            print(
                f"  ! {result['errors']} errors (last {result['last_error']}), "
                f"{result['timeouts']} timeouts",
                flush=True,
            )
        texts = result["messages"]
        result["us"] = result["cpu_s"] * 1e6 / texts if texts else float("nan")
        return result

    def load(
        self, pids: list[int], *arguments: str, seconds: float = 0.0, warmup: float = 0.0
    ) -> Result:
        """Run sipload and return what it printed."""
        return self.end(self.begin(pids, *arguments, seconds=seconds, warmup=warmup))

    def keep(self, name: str, result: Result) -> None:
        """Note a round's result."""
        self.rounds.setdefault(name, []).append(result)
        print(
            f"  {name:<24} {result['us']:7.1f} µs CPU  {result['messages_per_s']:7.0f}/s  "
            f"p50 {result['p50_ms']:6.2f} ms  p99 {result['p99_ms']:7.2f} ms",
            flush=True,
        )

    def caller(self, port: int, *more: str) -> list[str]:
        """Return the arguments of a calling side in sessions that stay."""
        return [
            "--proxy", f"127.0.0.1:{port}", "--from-domain", FOREIGN, "--conns", "4",
            "--dialogs", str(self.pairs), "--msgs", "0", "--rate", str(self.rate), *more,
        ]  # fmt: skip

    def measure_kamailio(self) -> None:
        """The peer: the same load relayed."""
        result = self.load(
            children(self.kamailio.pid),
            *self.caller(self.kamailio_port, "--uas", f"127.0.0.1:{self.far_port}"),
        )
        self.keep("kamailio, proxied", result)

    def measure_inwards(self, node: Node) -> None:
        """SIP over TLS to the component link."""
        before = self.report()
        target = f"sip:u%d@{LOCAL}"
        assert node.part is not None
        result = self.load(
            [node.part.pid], *self.caller(node.port, "--ruri", target, "--to", target)
        )
        result["arrived"] = self.report()["texts"] - before["texts"]
        if result["arrived"] < result["messages"]:
            print(f"  ! only {result['arrived']} texts arrived", flush=True)
        self.keep("impfed, SIP to component", result)

    def measure_outwards(self, node: Node) -> None:
        """The component link to SIP over TLS."""
        assert node.part is not None
        before = self.report()
        answering = self.begin(
            [node.part.pid], "--uas", f"127.0.0.1:{self.far_port}", "--dialogs", "0",
            "--linger", "2",
        )  # fmt: skip
        if not wait_until(lambda: listening(self.far_port), 5):
            raise PartFailed("sipload does not listen")
        # The sender goes on a little beyond the window, and is heard to the end.
        self.xmpp.send(
            "send", to_domain=FOREIGN, rate=str(self.rate), pairs=str(self.pairs),
            seconds=str(self.warmup + self.seconds + 0.5), body="120",
        )  # fmt: skip
        result = self.end(answering)
        self.xmpp.expect(self.sent_before, 30, event="sent")
        self.sent_before = self.xmpp.position
        result["refused"] = self.report()["errors"] - before["errors"]
        if result["refused"]:
            print(f"  ! {result['refused']} texts came back", flush=True)
        self.keep("impfed, component to SIP", result)

    sent_before = 0

    def report(self) -> Result:
        """Ask the XMPP end for its counts."""
        since = self.xmpp.position
        number = self.xmpp.send("report")
        return self.xmpp.expect(since, event="report", id=number)

    def measure_memory(self, count: int) -> Result:
        """Resident memory for idle subscriptions in a node that has done nothing else."""
        node = self.start_node()
        assert node.part is not None
        time.sleep(2)
        before = rss_kib([node.part.pid])
        target = f"sip:u%d@{LOCAL}"
        result = self.load(
            [node.part.pid], "--proxy", f"127.0.0.1:{node.port}", "--from-domain", FOREIGN,
            "--conns", "4", "--dialogs", str(count), "--subscribe", "--ruri", target,
            "--to", target, "--ramp", "500", "--users", str(USERS),
            seconds=3, warmup=count / 500 + 5,
        )  # fmt: skip
        after = rss_kib([node.part.pid])
        node.stop()
        return {
            "subscriptions": result["active"], "notified": result["notified"],
            "before_mib": before / 1024, "after_mib": after / 1024,
            "kib_each": (after - before) / max(1, result["active"]),
        }  # fmt: skip

    def close(self) -> None:
        """Stop everything."""
        for stop in reversed(self.parts):
            stop()


def median(results: list[Result], name: str) -> float:
    """Return the median of one figure over the rounds."""
    return float(statistics.median(result[name] for result in results))


def table(bench: Bench, memory: Result | None) -> str:
    """Return the figures beside their targets."""
    lines = [
        f"\n{bench.rate:.0f} MESSAGE/s, {bench.pairs} sessions, median of "
        f"{max(map(len, bench.rounds.values()), default=0)} rounds of {bench.seconds:.0f} s",
        f"{'':<26}{'CPU µs':>8}{'ratio':>8}{'at most':>9}{'goal':>6}{'p50 ms':>9}{'p99 ms':>9}",
    ]
    peer = bench.rounds.get("kamailio, proxied")
    base = median(peer, "us") if peer else float("nan")
    for name, results in bench.rounds.items():
        us = median(results, "us")
        targets = f"{'1.5':>9}{'1.0':>6}" if name.startswith("impfed") else " " * 15
        lines.append(
            f"{name:<26}{us:8.1f}{us / base:8.2f}{targets}"
            f"{median(results, 'p50_ms'):9.2f}{median(results, 'p99_ms'):9.2f}"
        )
    if memory is not None:
        lines.append(
            f"\n{memory['subscriptions']} idle subscriptions: {memory['before_mib']:.1f} MiB "
            f"before, {memory['after_mib']:.1f} MiB with them: {memory['kib_each']:.2f} KiB each"
        )
    return "\n".join(lines)


def parser_figures() -> None:
    """Run the parser's own benchmark, if it is there."""
    script = HERE / "bench_parser.py"
    if script.exists():
        print("\nparser", flush=True)
        subprocess.run([*TESTED, sys.executable, "-m", "bench.bench_parser"], cwd=ROOT, check=False)


def proxy_figures() -> None:
    """Run the benchmark of a routing node beside Kamailio."""
    print("\nproxied between TLS connections", flush=True)
    subprocess.run([sys.executable, "-m", "bench.bench_proxy"], cwd=ROOT, check=False)


def presence_figures() -> None:
    """Run the benchmarks of presence through restarts, and through the death of a node of a cluster."""
    for module in (
        "bench.bench_presence",
        "bench.bench_records",
        "bench.bench_records --store redis",
        "bench.bench_takeover",
    ):
        print(f"\n{module}", flush=True)
        subprocess.run([sys.executable, "-m", *module.split()], cwd=ROOT, check=False)


def federation_figures() -> None:
    """Run the benchmark of XMPP federation beside Prosody's."""
    print("\nXMPP federation", flush=True)
    subprocess.run([sys.executable, "-m", "bench.bench_s2s"], cwd=ROOT, check=False)


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1500)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--warmup", type=float, default=4)
    parser.add_argument("--pairs", type=int, default=100, help="sessions at the same time")
    parser.add_argument("--subscriptions", type=int, default=10000)
    everything = ("kamailio", "impfed", "memory", "proxy", "presence", "xmpp", "parser")
    parser.add_argument("--only", choices=everything)
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        print("bench: two cores are needed, one for the load", file=sys.stderr)
        return 1
    bench = Bench(
        ROOT / "run" / "bench" / str(os.getpid()),
        options.rate,
        options.seconds,
        options.warmup,
        options.pairs,
    )
    memory = None
    want = {options.only} if options.only else set(everything)
    try:
        if want & {"kamailio", "impfed", "memory"}:
            bench.build()
        if "kamailio" in want:
            bench.start_kamailio()
        if want & {"impfed", "memory"}:
            bench.start_home()
        node = bench.start_node() if "impfed" in want else None
        for number in range(options.rounds if want & {"kamailio", "impfed"} else 0):
            print(f"round {number + 1}", flush=True)
            if "kamailio" in want:
                bench.measure_kamailio()
            if node is not None:
                bench.measure_inwards(node)
                bench.measure_outwards(node)
        if "memory" in want:
            if node is not None:
                node.stop()
                wait_until(lambda: node.part is None or not node.part.alive, 5)
            memory = bench.measure_memory(options.subscriptions)
    except PartFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        bench.close()
    if bench.rounds or memory:
        print(table(bench, memory))
        (bench.directory.parent / "results.json").write_text(
            json.dumps({"rounds": bench.rounds, "memory": memory}, indent=1)
        )
    if "proxy" in want:
        proxy_figures()
    if "presence" in want:
        presence_figures()
    if "xmpp" in want:
        federation_figures()
    if "parser" in want:
        parser_figures()
    return 0


if __name__ == "__main__":
    sys.exit(main())
