"""A node of a cluster dies by ``kill -9``: how soon others own and serve what it had, and presence is right.

Three nodes share a Redis, with thousands of subscriptions, half of them each way.  A real Prosody stands
between the nodes and the local users, a far side of its own kind (:mod:`bench.presencefar`) is the
partner, which connects to one of the nodes that live on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from typing import Any

from bench.bench_presence import FOREIGN, LOCAL, Figures, PresenceStage, cpu_seconds, rss_mib
from demo.certificates import Authority
from demo.home import Prosody
from demo.node import Node
from demo.parts import ROOT, Part, PartFailed, Talker, free_ports, wait_until
from impfed.ctl.api import ControlError
from impfed.ctl.client import ControlClient
from tests.store.redis_server import RedisServer

NAMES = ("node1", "node2", "node3")
#: Where the far side connects to; it lives on.
ENTRY = NAMES[0]
OWNED = ("inbound_subscription", "outbound_subscription")

CONFIGURATION = """
[presence]
new_per_minute = "none"
pending_per_domain = "none"

[store]
kind = "redis"
addresses = ["127.0.0.1:{redis}"]
"""
NEIGHBOUR = """
[[neighbour]]
name = "{name}"
address = "127.0.0.1:{port}"
tls_name = "{name}.{local}"
"""


class TakeoverStage(PresenceStage):
    """Three nodes in the place of one."""

    def start(self) -> None:
        """Start everything; :meth:`close` ends it, also after a failure."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        authority = Authority(self.directory / "pki", "takeover CA")
        self.far_port, self.redis_port, *ports = free_ports(2 + len(NAMES))
        self.ports = dict(zip(NAMES, ports, strict=True))
        self.start_redis()
        self.prosody = Prosody(
            self.directory / "prosody", components=(FOREIGN, LOCAL), prefix=self.cores[1]
        ).start()
        self.parts.append(self.prosody)
        self.start_users()
        self.nodes = {name: self.make_node(name, authority) for name in NAMES}
        for node in self.nodes.values():
            self.parts.append(node)
            node.start()
        self.until_settled(NAMES, 60)
        certificate = authority.issue(f"sip.{FOREIGN}", FOREIGN)
        self.far = Talker(
            "far",
            [
                *self.cores[1], sys.executable, "-m", "bench.presencefar", str(self.far_port),
                str(self.ports[ENTRY]), f"fed.{LOCAL}", FOREIGN, str(certificate.certificate),
                str(certificate.key), str(certificate.ca),
            ],
            self.directory,
        )  # fmt: skip
        self.parts.append(self.far)
        self.far.expect(event="ready")

    def start_redis(self) -> None:
        """Start a Redis that keeps nothing on the disk."""
        command = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--dir", str(self.directory)]
        redis = Part("redis", [*self.cores[1], *command], self.directory)
        self.parts.append(redis)
        redis.await_port(self.redis_port)

    def make_node(self, name: str, authority: Authority) -> Node:
        """Return a node that is configured."""
        others = [other for other in NAMES if other != name]
        extra = CONFIGURATION.format(redis=self.redis_port)
        for other in others:
            extra += NEIGHBOUR.format(name=other, port=self.ports[other], local=LOCAL)
        certificate = authority.issue(f"{name}.{LOCAL}", f"fed.{LOCAL}", LOCAL)
        node = Node(
            self.directory / name, self.prosody, certificate, self.ports[name],
            ("127.0.0.1", self.far_port), name=f"fed.{LOCAL}", advertised=self.ports[ENTRY],
            upstreams=tuple(f"{other}.{LOCAL}" for other in others), foreign=FOREIGN,
            prefix=self.cores[0], extra=extra, called=name,
            node='relay_secret = "0123456789abcdef0123456789abcdef"',
            up=(b"impfed.service.started",),
        )  # fmt: skip
        node.write()
        text = node.configuration.read_text()
        text = text.replace('domains = ["home.example"]', f'domains = ["home.example", "{LOCAL}"]')
        text = text.replace(
            'kind = "microsoft"', f'kind = "microsoft"\npresence_pace = {self.pace}'
        )
        node.configuration.write_text(text)
        users = "".join(f"u{number}@{LOCAL}\n" for number in range(self.count))
        (node.directory / "users").write_text(users)
        return node

    # -- looking -----------------------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any]:
        """Return what a node says of itself; empty when it does not answer."""
        try:
            client = ControlClient(self.nodes[name].socket, timeout=20.0)
            try:
                (found,) = client.ask("status")
            finally:
                client.close()
        except ControlError:
            return {}
        status: Figures = found
        return status

    def settled(self, names: tuple[str, ...]) -> bool:
        """Whether these nodes and no others live, and own all that there is."""
        for name in names:
            seen = self.status(name).get("cluster")
            if not seen or seen["settled"] != seen["generation"]:
                return False
            if {each["name"] for each in seen["nodes"] if each["state"] == "live"} != set(names):
                return False
        return True

    def until_settled(self, names: tuple[str, ...], seconds: float) -> None:
        """Wait for that; raises PartFailed."""
        if not wait_until(lambda: self.settled(names), seconds, 0.1):
            views = {name: self.status(name).get("cluster") for name in names}
            raise PartFailed(f"the nodes have not settled in {seconds:.0f} s: {views}")

    def said(self, *words: str) -> str:
        """Return what Redis answers, without troubling a node."""
        return RedisServer.ask(("127.0.0.1", self.redis_port), *words).replace("\r\n", " ")

    def owned(self, names: tuple[str, ...], victim: str) -> bool:
        """Whether nothing is a dead node's any more, and the others serve what they have taken."""
        if any(self.said("HLEN", f"impfed:rec:{kind}:{victim}") != ":0 " for kind in OWNED):
            return False
        generation = self.said("HGET", "impfed:meta", "generation")
        settled = {self.said("HGET", f"impfed:node:{name}", "settled") for name in names}
        return settled == {generation}

    def served(self, names: tuple[str, ...]) -> int:
        """Return how many subscriptions these nodes serve."""
        return sum(int(self.status(name).get("subscriptions", 0)) for name in names)

    def pid_of(self, name: str) -> int:
        """Return a node's process."""
        part = self.nodes[name].part
        assert part is not None
        return part.pid

    # -- the scene ---------------------------------------------------------------------------------

    def take_over(self, victim: str, show: str) -> Figures:
        """``kill -9``; everybody's state changes; wait until both sides know.

        :return: seconds from the kill: ``owned`` (all that it had is others', and served),
            ``notified`` (all its watchers have been told how everybody is now), ``refreshed`` (all its
            own subscriptions have been refreshed from where they are now); ``had`` records.
        """
        rest = tuple(name for name in NAMES if name != victim)
        had = int(self.status(victim)["subscriptions"])
        before = {name: cpu_seconds(self.pid_of(name)) for name in rest}
        part = self.nodes[victim].part
        assert part is not None
        self.calm()
        self.ask(self.far, "mark")
        begin = time.monotonic()
        part.kill()
        part.process.wait()
        self.ask(self.users, "show", show=show)
        self.ask(self.far, "state", activity="away")

        if not wait_until(lambda: self.owned(rest, victim), 60, 0.05):
            raise PartFailed(f"not all is served: {self.served(rest)} of {2 * self.count}")
        figures: Figures = {"had": had, "owned": time.monotonic() - begin}
        figures.update(self.presence_is_right(had))
        served = self.served(rest)
        if served != 2 * self.count:
            raise PartFailed(f"{served} of {2 * self.count} subscriptions are served")
        figures["cpu"] = sum(cpu_seconds(self.pid_of(name)) - before[name] for name in rest)
        figures["rss"] = max(rss_mib(self.pid_of(name)) for name in rest)
        return figures

    def calm(self) -> None:
        """Wait until nobody tells anybody anything any more."""
        before: list[Figures] = [{}]

        def quiet() -> bool:
            report = self.ask(self.far)
            same = [report[name] for name in ("notified", "refreshed", "fresh", "counts")]
            before.append({"seen": same})
            return before[-1] == before[-2]

        if not wait_until(quiet, 60, 2.0):
            raise PartFailed("it never becomes quiet")

    def presence_is_right(self, had: int) -> Figures:
        """Wait until watchers and presentities of the dead node have heard of another one."""
        found: Figures = {}

        def quiet() -> bool:
            report = self.ask(self.far)
            same = report["notified"] + report["refreshed"] == found.get("sum", -1)
            found.update(report, sum=report["notified"] + report["refreshed"])
            return bool(same and found["sum"] >= had)

        if not wait_until(quiet, 60, 1.0):
            raise PartFailed(f"not all of {had} were told: {found}")
        return {
            "notified": found["last_notified"], "watchers": found["notified"],
            "refreshed": found["last_refreshed"], "ours": found["refreshed"],
            "fresh": found["fresh"],
        }  # fmt: skip


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.bench_takeover", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="subscriptions of each direction")
    parser.add_argument("--pace", default='"none"')
    parser.add_argument("--rate", type=float, default=200.0, help="of new ones, a second")
    options = parser.parse_args()
    stage = TakeoverStage(
        ROOT / "run" / "bench-takeover" / str(os.getpid()), options.count, options.pace
    )
    found: dict[str, Figures] = {}
    try:
        stage.start()
        stage.fill(options.rate)
        spread = {name: stage.status(name)["subscriptions"] for name in NAMES}
        print("subscriptions", spread, flush=True)
        for victim, show in zip(NAMES[1:], ("dnd", "away"), strict=True):
            found[victim] = stage.take_over(victim, show)
            print(f"kill -9 of {victim}", found[victim], flush=True)
            stage.nodes[victim].start()
            stage.until_settled(NAMES, 60)
    except PartFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        stage.close()
    (stage.directory / "takeover.json").write_text(json.dumps(found, indent=1))
    print(table(found, options.count))
    return 0


def table(found: dict[str, Figures], count: int) -> str:
    """Return the figures beside what they should be at most."""
    lines = [f"\n{2 * count} subscriptions at 3 nodes{'':<15}{'s':>8}{'at most':>9}"]
    for name, figures in found.items():
        right = max(figures["notified"], figures["refreshed"]) - figures["owned"]
        lines += [
            f"{name} killed: {figures['had']} are others'{'':<10}{figures['owned']:8.2f}{5.0:9.1f}",
            f"{'from then until presence is right':<42}{max(0.0, right):8.2f}{5.0:9.1f}",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
