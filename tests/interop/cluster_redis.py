"""The Redis of a cluster under test: one server, or three that Sentinels watch, as docs/store.md says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from demo.parts import ROOT, Part, PartFailed, free_ports, wait_until
from tests.store.redis_server import RedisServer

PASSWORD = "a-password-for-redis"
PLACE = '"10.0.0.8:6379"'
#: Makes a link of the relay to a port; returns the port to connect to.
Lead = Callable[[str, int], int]

SENTINEL = """
port {port}
bind 127.0.0.1
sentinel monitor impfed 127.0.0.1 {master} 2
sentinel down-after-milliseconds impfed 1000
sentinel failover-timeout impfed 10000
"""


def rights() -> list[str]:
    """Return the options of Redis for the user that docs/store.md shows."""
    text = (ROOT / "docs" / "store.md").read_text("utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("user impfed on"))
    return ["--user", *line.replace(">PASSWORD", f">{PASSWORD}").split()[1:]]


def server(port: int, *more: str) -> RedisServer:
    """Return a server that keeps everything on its disk."""
    return RedisServer(
        "--port", str(port), "--appendonly", "yes", "--appendfsync", "always", *rights(), *more
    )  # fmt: skip


class OneRedis:
    """One server, which the nodes reach through the relay.

    :ivar master: the server that is written to.
    """

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        self.master = server(self._port)

    def places(self, name: str, lead: Lead) -> dict[str, str]:
        """Return what stands in the sample of a node's configuration -> what takes its place."""
        return {PLACE: f'"127.0.0.1:{lead(f"{name}-redis", self._port)}"'}

    def start(self) -> None:
        """Start it."""
        self.master.start()

    def stop(self) -> None:
        """Stop it."""
        self.master.stop()


class WatchedRedis:
    """Three servers, each with a Sentinel.  The nodes are told by these which is the master."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = free_ports(3)
        self._watching = free_ports(3)
        lasting = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "5")
        self._servers = [server(port, *lasting) for port in self._ports]
        self._sentinels: list[Part] = []
        self.master = self._servers[0]

    def places(self, name: str, lead: Lead) -> dict[str, str]:
        """Return what stands in the sample of a node's configuration -> what takes its place."""
        addresses = ", ".join(f'"127.0.0.1:{port}"' for port in self._watching)
        return {f"[{PLACE}]": f'[{addresses}]\nsentinel = "impfed"'}

    def start(self) -> None:
        """Start all, and wait until the Sentinels know of both replicas and of each other."""
        for number, each in enumerate(self._servers):
            each.start()
            if number:
                each.command("REPLICAOF", "127.0.0.1", str(self._ports[0]))
        for port in self._watching:
            config = self._directory / f"sentinel-{port}.conf"
            config.write_text(SENTINEL.format(port=port, master=self._ports[0]))
            name = f"sentinel-{port}"
            sentinel = Part(name, ["redis-sentinel", config], self._directory)
            self._sentinels.append(sentinel)
            sentinel.await_port(port)
        if not wait_until(lambda: all(map(self._knows, self._watching)) and self._copied()):
            raise PartFailed("the Sentinels do not know each other, or a replica is not there")

    @staticmethod
    def _knows(port: int) -> bool:
        told = RedisServer.ask(("127.0.0.1", port), "INFO", "sentinel")
        return "slaves=2,sentinels=3" in told

    def _copied(self) -> bool:
        return "min_slaves_good_slaves:2" in self.master.answer("INFO", "replication")

    def fail_over(self) -> None:
        """Kill the master, and wait until there is another one."""
        dead = self.master
        dead.kill()
        rest = [each for each in self._servers if each is not dead]
        roles: dict[str, RedisServer] = {}

        def promoted() -> bool:
            for each in rest:
                roles[each.answer("ROLE").split("\r\n")[2:3][0]] = each
            return "master" in roles

        if not wait_until(promoted):
            raise PartFailed("the Sentinels promote nobody")
        self.master = roles["master"]
        dead.start()

    def stop(self) -> None:
        """Stop all."""
        for sentinel in self._sentinels:
            sentinel.stop()
        for each in self._servers:
            each.stop()
