"""Thousands of subscriptions each way that stand while other things fail, and whether they are right.

The local ones are a component of the home server that speaks for all of them, the foreign ones a far
side of their own domain; both are the benchmarks' (:mod:`bench.xmppload`, :mod:`bench.presencefar`).
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from demo.certificates import Certificate
from demo.home import Prosody
from demo.parts import Event, PartFailed, Talker, wait_until
from tests.store.redis_server import RedisServer

LOCAL, FOREIGN = "crowd.home.example", "crowd.example"
#: New subscriptions a second.
FILL = 150.0
KINDS = ("inbound_subscription", "outbound_subscription")

#: What a node's configuration says of it, ``next_hop`` being the way there.
CONFIGURATION = """
[[domain]]
name = "{domain}"
kind = "microsoft"
listed = true
presence_pace = "none"
next_hop = {{ address = "127.0.0.1:{next_hop}", tls_name = "sip.{domain}" }}

[presence]
new_per_minute = "none"
pending_per_domain = "none"
"""


class Crowd:
    """The people of both sides.

    :param count: subscriptions, half of them each way.
    :param rate: of what all of them do, each way, a second.
    :param listen: where its far side listens; ``node``: port and name of the nodes.
    """

    def __init__(
        self,
        directory: Path,
        home: Prosody,
        certificate: Certificate,
        listen: int,
        node: tuple[int, str],
        count: int,
        rate: float = 250.0,
    ) -> None:
        self.count, self._rate = count // 2, rate
        self._shows = 0
        self.users = Talker(
            "crowd-users",
            [
                sys.executable, "-m", "bench.xmppload", LOCAL, home.secret,
                f"127.0.0.1:{home.component_port}",
            ],
            directory,
        )  # fmt: skip
        files = (certificate.certificate, certificate.key, certificate.ca)
        self.far = Talker(
            "crowd-far",
            [
                sys.executable, "-m", "bench.presencefar", str(listen), str(node[0]), node[1],
                FOREIGN, *files,
            ],
            directory,
        )  # fmt: skip

    def stop(self) -> None:
        """Stop both sides."""
        self.users.stop()
        self.far.stop()

    def ask(self, part: Talker, do: str = "report", **details: str) -> Event:
        """Have a side do something, and return what it says."""
        since = part.position
        return part.expect(since, id=part.send(do, **details))

    def fill(self) -> None:
        """Make all subscriptions, and wait until each has its state."""
        self.users.expect(event="ready")
        self.far.expect(event="ready")
        number, rate, patience = str(self.count), str(FILL), self.count / FILL + 60
        self.ask(self.far, "watch", count=number, users=number, domain=LOCAL, rate=rate)
        self._await(patience, {"active open": self.count}, {})
        self.users.send("subscribe", to_domain=FOREIGN, count=number, rate=rate)
        self._await(patience, {"active open": self.count}, {"": self.count})

    def _await(self, seconds: float, near: Event, far: Event) -> None:
        """Wait until watchers see the users, and users see their contacts, like this."""

        def right() -> bool:
            states, shows = self.seen()
            return (states, shows) == (near, far)

        if not wait_until(right, seconds, 0.5):
            reports = self.ask(self.far), self.ask(self.users)
            raise PartFailed(f"presence is not right after {seconds:.0f} s: {reports}")

    def seen(self) -> tuple[Event, Event]:
        """Return how many watchers see what, and how many users."""
        return self.ask(self.far)["states"], self.ask(self.users)["shows"]

    def changes(self) -> float:
        """Have all people change how they are, and wait until all who watch them know.

        :return: the seconds that it took.
        """
        self._shows += 1
        away = bool(self._shows % 2)
        show, rate = "away" if away else "", str(self._rate)
        begin = time.monotonic()
        self.ask(self.users, "announce", show=show, rate=rate)
        self.ask(self.far, "announce", activity=show, rate=rate)
        near = {"active open away" if away else "active open": self.count}
        self._await(self.count / self._rate + 60, near, {show: self.count})
        return time.monotonic() - begin

    def owners(self, redis: RedisServer, names: Iterable[str]) -> dict[str, int]:
        """Return how many subscriptions each node owns ("": nobody); each has one owner, or it fails.

        :raises PartFailed: for a subscription that two own.
        """
        found: Counter[str] = Counter()
        keys: Counter[tuple[str, str]] = Counter()
        for kind in KINDS:
            for name in (*names, ""):
                mine = redis.lines("HKEYS", f"impfed:rec:{kind}:{name}")
                found[name] += len(mine)
                keys.update((kind, key) for key in mine)
        twice = [key for key, times in keys.items() if times > 1]
        if twice:
            raise PartFailed(f"{len(twice)} subscriptions have two owners: {twice[:5]}")
        return dict(found)
