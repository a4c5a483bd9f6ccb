"""Presence through restarts: thousands of subscriptions, ``kill -9``, and how soon all is right.

Half of the subscriptions are theirs (the far side watches local users), half are ours. A real
Prosody stands between the node and the local users, a far side of its own kind
(:mod:`bench.presencefar`) is the partner, and the node's store is SQLite.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.certificates import Authority
from demo.home import Prosody
from demo.node import UP, Node
from demo.parts import ROOT, Part, PartFailed, Talker, free_ports, wait_until

LOCAL, FOREIGN = "load.example", "lync.example"
Figures = dict[str, Any]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


@dataclass
class PresenceStage:
    """A node between a Prosody and a far side, with as many subscriptions as wanted.

    :ivar count: subscriptions of each direction.
    :ivar pace: the node's ``presence_pace`` for the far side, as its configuration says it.
    :ivar cores: words before the commands of the node and of everything else.
    """

    directory: Path
    count: int
    pace: str = '"none"'
    cores: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    parts: list[Part | Prosody | Node] = field(default_factory=list)

    def start(self) -> None:
        """Start everything; :meth:`close` ends it, also after a failure."""
        shutil.rmtree(self.directory, ignore_errors=True)
        authority = Authority(self.directory / "pki", "presence CA")
        self.far_port, node_port = free_ports(2)
        self.prosody = Prosody(
            self.directory / "prosody", components=(FOREIGN, LOCAL), prefix=self.cores[1]
        ).start()
        self.parts.append(self.prosody)
        self.start_users()
        near = authority.issue(f"fed.{LOCAL}", LOCAL)
        self.node = Node(
            self.directory / "node", self.prosody, near, node_port, ("127.0.0.1", self.far_port),
            name=f"fed.{LOCAL}", prefix=self.cores[0], foreign=FOREIGN,
            extra='[presence]\nnew_per_minute = "none"\npending_per_domain = "none"\n',
        )  # fmt: skip
        self.node.write()
        text = self.node.configuration.read_text()
        text = text.replace('domains = ["home.example"]', f'domains = ["home.example", "{LOCAL}"]')
        text = text.replace(
            'kind = "microsoft"', f'kind = "microsoft"\npresence_pace = {self.pace}'
        )
        self.node.configuration.write_text(text)
        users = "".join(f"u{number}@{LOCAL}\n" for number in range(self.count))
        (self.node.directory / "users").write_text(users)
        self.parts.append(self.node)
        self.node.start()
        certificate = authority.issue(f"sip.{FOREIGN}", FOREIGN)
        self.far = Talker(
            "far",
            [
                *self.cores[1], sys.executable, "-m", "bench.presencefar", str(self.far_port),
                str(node_port), f"fed.{LOCAL}", FOREIGN, str(certificate.certificate),
                str(certificate.key), str(certificate.ca),
            ],
            self.directory,
        )  # fmt: skip
        self.parts.append(self.far)
        self.far.expect(event="ready")

    def start_users(self, show: str = "") -> None:
        """Start the local users, all with the same show."""
        self.users = Talker(
            "users",
            [
                *self.cores[1], sys.executable, "-m", "bench.xmppload", LOCAL, self.prosody.secret,
                f"127.0.0.1:{self.prosody.component_port}", show,
            ],
            self.directory,
        )  # fmt: skip
        self.parts.append(self.users)
        self.users.expect(event="ready")

    def close(self) -> None:
        """Stop everything."""
        for part in reversed(self.parts):
            part.stop()

    # -- asking and telling ------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The node's process."""
        assert self.node.part is not None
        return self.node.part.pid

    def ask(self, part: Talker, do: str = "report", **details: str) -> Figures:
        """Send a command and return what comes back."""
        since = part.position
        number = part.send(do, **details)
        return part.expect(since, 60, id=number)

    def until(self, part: Talker, seconds: float, **wanted: int) -> Figures:
        """Ask for reports until some figures are reached; raises PartFailed."""
        report: Figures = {}

        def reached() -> bool:
            report.update(self.ask(part))
            return all(report.get(name, 0) >= value for name, value in wanted.items())

        if not wait_until(reached, seconds, 0.2):
            raise PartFailed(f"{part.name}: {wanted} not reached in {seconds:.0f} s: {report}")
        return report

    def shown(self, state: str) -> int:
        """Return how many watchers see a state such as "active open busy"."""
        return int(self.ask(self.far)["states"].get(state, 0))

    # -- scenes ------------------------------------------------------------------------------------

    def fill(self, rate: float = 500.0) -> None:
        """Make all subscriptions and wait until each has its first state."""
        slack = 2 * self.count / rate + 20
        self.ask(
            self.far, "watch", count=str(self.count), users=str(self.count), domain=LOCAL,
            rate=str(rate),
        )  # fmt: skip
        if not wait_until(lambda: self.shown("active open") >= self.count, slack, 0.2):
            raise PartFailed(f"not all watchers were served: {self.ask(self.far)}")
        self.users.send("subscribe", to_domain=FOREIGN, count=str(self.count), rate=str(rate))
        self.until(self.users, slack, subscribed=self.count, presences=self.count)

    def kill_and_restart(self, activity: str = "away", show: str = "dnd") -> Figures:
        """``kill -9``; everybody's state changes; start; wait until both sides know.

        :return: seconds from the start of the process: ``listening``, ``served`` (100 refreshes of
            the far side answered), ``notified``, ``refreshed``; ``cpu`` until then, ``rss``.
        """
        self.ask(self.users, "show", show=show)
        self.ask(self.far, "state", activity=activity)
        assert self.node.part is not None
        self.node.part.kill()
        self.node.part.process.wait()
        before = self.ask(self.users)["presences"]
        size = self.node.part.log.stat().st_size
        self.ask(self.far, "mark")
        begin = time.monotonic()
        self.node.start()
        figures: Figures = {"linked": time.monotonic() - begin}
        since = self.far.position
        self.far.send("refresh", count="100")
        served = self.far.expect(since, 30, event="served")
        figures["served"] = served["at"]
        figures["answer_ms"] = served["took"] * 1000
        busy = "active open busy" if show == "dnd" else f"active open {show}".strip()
        if not wait_until(lambda: self.shown(busy) >= self.count, 60, 0.2):
            raise PartFailed(f"not all watchers were told: {self.ask(self.far)}")
        report = self.until(self.far, 60, refreshed=self.count)
        figures["notified"] = report["last_notified"]
        figures["refreshed"] = report["last_refreshed"]
        figures["fresh"] = report["fresh"]
        self.until(self.users, 30, presences=before + self.count)
        figures["cpu"] = cpu_seconds(self.pid)
        figures["rss"] = rss_mib(self.pid)
        log = self.node.part.log.read_bytes()[size:]
        figures["up"] = all(word in log for word in UP)
        return figures

    def steady(self, rate: float = 41.0, seconds: float = 15.0) -> Figures:
        """The far side refreshes what it watches, at the rate of a node that has 260,000 subscriptions.

        :return: ``cpu`` as a share of one core.
        """
        since, cpu, begin = self.far.position, cpu_seconds(self.pid), time.monotonic()
        self.far.send("refresh", count=str(int(rate * seconds)), rate=str(rate))
        served = self.far.expect(since, seconds + 30, event="served")
        took = time.monotonic() - begin
        return {"cpu": (cpu_seconds(self.pid) - cpu) / took, "answer_ms": served["took"] * 1000}

    def restart_far_side(self, away: float = 3.0) -> Figures:
        """The far side goes, forgets our subscriptions, and comes back."""
        self.ask(self.far, "close")
        time.sleep(away)
        self.ask(self.far, "forget")
        self.ask(self.far, "mark")
        cpu = cpu_seconds(self.pid)
        self.ask(self.far, "open")
        report = self.until(self.far, 120, fresh=self.count)
        return {"fresh": report["last_fresh"], "cpu": cpu_seconds(self.pid) - cpu}

    def restart_home_server(self, show: str = "away") -> Figures:
        """Prosody goes and comes back with everybody in another state."""
        self.users.stop()
        self.prosody.stop()
        self.ask(self.far, "mark")
        # Its users are a component of their own: they have to be there before the node asks for them.
        assert self.node.part is not None
        self.node.part.kill(signal.SIGSTOP)
        try:
            self.prosody.start()
            self.start_users(show)
        finally:
            self.node.part.kill(signal.SIGCONT)
        begin = time.monotonic()
        if not wait_until(lambda: self.shown(f"active open {show}") >= self.count, 90, 0.2):
            raise PartFailed(f"not all watchers were told: {self.ask(self.far)}")
        return {"notified": time.monotonic() - begin, "probes": self.ask(self.users)["probes"]}


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.bench_presence", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="subscriptions of each direction")
    parser.add_argument("--pace", default='"none"')
    parser.add_argument("--keep", action="store_true", help="only fill, then kill and restart")
    options = parser.parse_args()
    cores = (("taskset", "-c", "1"), ("taskset", "-c", "0"))
    stage = PresenceStage(
        ROOT / "run" / "bench-presence" / str(os.getpid()), options.count, options.pace, cores
    )
    found: dict[str, Figures] = {}
    try:
        stage.start()
        empty = rss_mib(stage.pid)
        stage.fill()
        full = rss_mib(stage.pid)
        found["filled"] = {"rss": full, "kib_each": (full - empty) * 1024 / options.count / 2}
        print("filled", found["filled"], flush=True)
        found["steady"] = stage.steady()
        print("41 refreshes a second", found["steady"], flush=True)
        found["kill -9"] = stage.kill_and_restart()
        print("kill -9", found["kill -9"], flush=True)
        if not options.keep:
            found["far side"] = stage.restart_far_side()
            print("far side", found["far side"], flush=True)
            found["home server"] = stage.restart_home_server()
            print("home server", found["home server"], flush=True)
    except PartFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        stage.close()
    (stage.directory / "presence.json").write_text(json.dumps(found, indent=1))
    print(table(found, options.count))
    return 0


def table(found: dict[str, Figures], count: int) -> str:
    """Return the figures beside what they should be at most."""
    killed = found["kill -9"]
    rows = [
        ("ready and serving", killed["served"], 2.0),
        ("all watchers told", killed["notified"], 10.0),
        ("all of ours refreshed", killed["refreshed"], 10.0),
    ]
    if "far side" in found:
        rows.append(("far side back, all anew", found["far side"]["fresh"], 10.0))
    if "home server" in found:
        rows.append(("home server back, all told", found["home server"]["notified"], 10.0))
    lines = [f"\n{2 * count} subscriptions{'':<12}{'s':>8}{'at most':>9}"]
    lines += [f"{name:<30}{value:8.2f}{most:9.1f}" for name, value, most in rows]
    lines.append(f"41 refreshes a second: {found['steady']['cpu']:.1%} of one core")
    lines.append(
        f"CPU {killed['cpu']:.2f} s, {killed['rss']:.0f} MiB after the restart;"
        f" {found['filled']['rss']:.0f} MiB before it,"
        f" {found['filled']['kib_each']:.2f} KiB a subscription"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
