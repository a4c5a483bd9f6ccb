"""Real servers and clients on loopback, started by tests and stopped by process id.

Nothing here sleeps: a server is ready when it says so.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from demo.parts import free_ports
from impfed.config.model import HomeConfig

reactor: Any = _reactor

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """\
{root}
daemonize = false
pidfile = "{base}/prosody.pid"
data_path = "{base}/data"
plugin_paths = {{ "{plugins}" }}
interfaces = {{ "127.0.0.1" }}
local_interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {c2s} }}
c2s_direct_tls_ports = {{ }}
s2s_ports = {{ }}
s2s_direct_tls_ports = {{ }}
component_ports = {{ {component} }}
component_interfaces = {{ "127.0.0.1" }}
http_ports = {{ }}
https_ports = {{ }}
network_settings = {{ nagle = false }}
log = {{ {{ levels = {{ min = "{level}" }}, to = "console" }} }}
authentication = "internal_plain"
storage = "internal"
modules_enabled = {{
  "roster", "saslauth", "disco", "ping", "offline", "presence", "message", "iq", "carbons"
}}
modules_disabled = {{ "s2s", "tls" }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
{extra}
{hosts}
{components}
"""


class _Process(ProcessProtocol):
    """A child whose output lines are handed on, and whose end is awaited."""

    def __init__(self, line: Callable[[str], None], ended: Callable[[Failure], None]) -> None:
        self._line = line
        self._ended = ended
        self._rest = b""

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", "replace"))

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        self._ended(reason)


class Child:
    """A process of ours.

    :ivar lines: what it has printed.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._process: Any = None
        self._ended: Deferred[None] | None = None
        self._watchers: list[tuple[Callable[[str], bool], Deferred[str]]] = []

    def spawn(self, arguments: Sequence[str], **options: Any) -> None:
        """Start it."""
        self._ended = Deferred()
        protocol = _Process(self._line_read, self._process_ended)
        self._process = reactor.spawnProcess(
            protocol, arguments[0], list(arguments), env=dict(os.environ), **options
        )

    def write(self, text: str) -> None:
        """Write to its standard input."""
        self._process.write(text.encode())

    def line(self, wanted: Callable[[str], bool], timeout: float = 60.0) -> Deferred[str]:
        """Return the next line that is wanted; fails with the last lines if none comes."""
        found: Deferred[str] = Deferred()
        entry = (wanted, found)
        self._watchers.append(entry)

        def give_up(value: Any, _: float) -> Any:
            self._watchers = [each for each in self._watchers if each is not entry]
            tail = "\n".join(self.lines[-15:])
            return Failure(AssertionError(f"not seen within {timeout} s; last lines:\n{tail}"))

        return found.addTimeout(timeout, reactor, give_up)

    def stop(self, signal: str = "TERM") -> Deferred[None]:
        """End it by its process id; fires when it is gone."""
        done: Deferred[None] = Deferred()
        if self._ended is None:
            done.callback(None)
            return done
        try:
            self._process.signalProcess(signal)
        except ProcessExitedAlready:
            self._ended.addCallback(done.callback)
            return done
        ended = self._ended
        kill = reactor.callLater(10, self._process.signalProcess, "KILL")

        def over(_: Any) -> None:
            if kill.active():
                kill.cancel()
            done.callback(None)

        ended.addCallback(over)
        return done

    def _line_read(self, line: str) -> None:
        self.lines.append(line)
        due = [entry for entry in self._watchers if entry[0](line)]
        self._watchers = [entry for entry in self._watchers if entry not in due]
        for _, found in due:
            found.callback(line)

    def _process_ended(self, reason: Failure) -> None:
        ended, self._ended = self._ended, None
        watchers, self._watchers = self._watchers, []
        for _, found in watchers:
            tail = "\n".join(self.lines[-15:])
            found.errback(AssertionError(f"the process ended; last lines:\n{tail}"))
        if ended is not None:
            ended.callback(None)


class Prosody(Child):
    """A real Prosody on free loopback ports.

    :param base: empty folder of its own.
    :param mode: "module" (one component with mod_impfed), "component" (one for each foreign
        domain), or "none".
    :ivar c2s_port: port for clients, without TLS.
    :ivar component_port: port for components.
    """

    def __init__(
        self,
        base: Path,
        *,
        mode: str = "module",
        domain: str = "home.example",
        users: Sequence[str] = ("alice", "carol"),
        password: str = "pw",
        foreign: Sequence[str] = ("lync.example",),
        address: str = "federation.home.example",
        secret: str = "secret",
        extra: str = "",
        components: str = "",
        level: str = "info",
        plugins: str | Path = ROOT / "etc" / "prosody",
    ) -> None:
        super().__init__()
        self.base = base
        self.mode = mode
        self.domain = domain
        self.password = password
        self.address = address
        self.secret = secret
        self.c2s_port, self.component_port = free_ports(2)
        accounts = base / "data" / domain.replace(".", "%2e") / "accounts"
        accounts.mkdir(parents=True)
        for user in users:
            (accounts / f"{user}.dat").write_text(f'return {{ ["password"] = "{password}"; }};')
        self.config = base / "prosody.cfg.lua"
        self.config.write_text(
            CONFIG.format(
                root="run_as_root = true" if os.geteuid() == 0 else "",
                base=base,
                plugins=plugins,
                c2s=self.c2s_port,
                component=self.component_port,
                level=level,
                extra=extra,
                hosts=f'VirtualHost "{domain}"',
                components=self._components(foreign) + components,
            )
        )

    def _components(self, foreign: Sequence[str]) -> str:
        """Return the shipped samples, with the names and the secret of this run."""
        if self.mode == "none":
            return ""
        if self.mode == "module":
            return self._sample("module", "federation.home.example", self.address)
        return "\n".join(self._sample("component", "lync.example", name) for name in foreign)

    def _sample(self, name: str, domain: str, wanted: str) -> str:
        text = (ROOT / "etc" / "prosody" / f"{name}.cfg.lua").read_text()
        return text.replace(f'"{domain}"', f'"{wanted}"').replace("change me", self.secret)

    def start(self) -> Deferred[list[Any]]:
        """Start it; fires when both ports listen."""
        ready = [
            self.line(lambda line: "Activated service 'c2s'" in line and "no ports" not in line),
            self.line(
                lambda line: "Activated service 'component'" in line and "no ports" not in line
            ),
        ]
        self.spawn(["/usr/bin/prosody", "-F", "--config", str(self.config)], path=str(self.base))
        return _all(ready)

    def home(self, **changes: Any) -> HomeConfig:
        """Return what impfed's configuration says of this server."""
        values: dict[str, Any] = {
            "name": "home",
            "kind": "prosody" if self.mode == "module" else "component",
            "domains": (self.domain,),
            "host": "127.0.0.1",
            "port": self.component_port,
            "secret": self.secret,
            "address": self.address if self.mode == "module" else "",
        }
        return HomeConfig(**{**values, **changes})


class XmppClient(Child):
    """An independent XMPP client (slixmpp) in a process of its own: ``client.py`` beside this."""

    def __init__(self, jid: str, password: str, host: str, port: int) -> None:
        super().__init__()
        self.jid = jid
        self._login = {"jid": jid, "password": password, "host": host, "port": port}
        self.seen: list[dict[str, Any]] = []

    def start(self) -> Deferred[dict[str, Any]]:
        """Log in; fires when the client is online."""
        online = self.event(event="online")
        self.spawn([sys.executable, str(Path(__file__).with_name("client.py"))], path=str(ROOT))
        self.write(json.dumps(self._login) + "\n")
        return online

    def do(self, command: str, **arguments: Any) -> None:
        """Have it do something: a function of ``client.py``."""
        self.write(json.dumps({"do": command, **arguments}) + "\n")

    def event(self, timeout: float = 60.0, **wanted: Any) -> Deferred[dict[str, Any]]:
        """Return the next event that has these values."""

        def matches(line: str) -> bool:
            try:
                event = json.loads(line)
            except ValueError:
                return False
            return isinstance(event, dict) and all(event.get(k) == v for k, v in wanted.items())

        line = self.line(matches, timeout)
        line.addErrback(_name_wanted, wanted)
        return line.addCallback(json.loads)


def _name_wanted(failure: Failure, wanted: dict[str, Any]) -> Failure:
    return Failure(AssertionError(f"{wanted}: {failure.getErrorMessage()}"))


def _all(waiting: Sequence[Deferred[Any]]) -> Deferred[list[Any]]:
    """Wait for all; fails with the first failure itself."""
    together: Deferred[list[Any]] = DeferredList(  # type: ignore[assignment]
        waiting, fireOnOneErrback=True, consumeErrors=True
    )
    together.addCallback(lambda results: [value for _, value in results])
    together.addErrback(lambda failure: failure.value.subFailure)
    return together
