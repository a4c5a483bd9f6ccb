"""A foreign Prosody that federates by S2S, and a DNS for it and for us."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.names import common, dns, error, server

from demo.parts import Part, free_ports
from impfed.testing.pki import Issued
from tests.interop.namespace import mortal

MODULES = Path(__file__).with_name("prosody_modules")
MODULES_ENABLED = ("tls", "dialback", "disco", "ping", "s2s", "s2s_auth_certs", "saslauth")


class Zone(common.ResolverBase):
    """Answers from tables.

    :ivar services: SRV name -> (priority, weight, port, target).
    :ivar addresses: name -> IPv4 address.
    """

    def __init__(self) -> None:
        super().__init__()
        self.services: dict[str, list[tuple[int, int, int, str]]] = {}
        self.addresses: dict[str, str] = {}

    def domain(self, name: str, port: int, direct: int = 0) -> None:
        """Let a domain's server listen on a port of this machine."""
        self.services[f"_xmpp-server._tcp.{name}"] = [(10, 1, port, f"xmpp.{name}")]
        if direct:
            self.services[f"_xmpps-server._tcp.{name}"] = [(5, 1, direct, f"xmpp.{name}")]
        self.addresses[f"xmpp.{name}"] = "127.0.0.1"

    def _lookup(self, name: bytes, cls: int, type: int, timeout: Any) -> Deferred[Any]:
        asked = name.decode().lower().rstrip(".")
        answers = []
        if type == dns.SRV:
            for priority, weight, port, target in self.services.get(asked, []):
                payload = dns.Record_SRV(priority, weight, port, target.encode(), 5)
                answers.append(dns.RRHeader(name, dns.SRV, dns.IN, 5, payload, auth=True))
        elif type == dns.A and asked in self.addresses:
            payload = dns.Record_A(self.addresses[asked], 5)
            answers.append(dns.RRHeader(name, dns.A, dns.IN, 5, payload, auth=True))
        known = any(each.endswith(asked) for each in [*self.services, *self.addresses])
        if not answers and not known:
            return defer.fail(error.AuthoritativeDomainError(name))
        return defer.succeed((answers, [], []))


class _Server(server.DNSServerFactory):
    """Says in its answers that recursion was desired: Erlang drops others."""

    def sendReply(self, protocol: Any, message: dns.Message, address: Any) -> None:
        message.recDes = True
        super().sendReply(protocol, message, address)


def serve_dns(reactor: Any, zone: Zone, number: int = 0) -> tuple[Any, int]:
    """Serve a zone over UDP; return the port object and its number.

    :param number: 0 for one that is free.
    """
    factory = _Server(clients=[zone])
    factory.noisy = False
    port = reactor.listenUDP(number, dns.DNSDatagramProtocol(factory), "127.0.0.1")
    return port, port.getHost().port


@dataclass
class PeerProsody:
    """A Prosody whose people echo.

    :ivar hosts: its domains, each with its certificate.
    :ivar component: a domain of an external component, secret "secret".
    """

    directory: Path
    hosts: dict[str, Issued | None]
    ca: Path
    dns_port: int
    require_encryption: bool = True
    secure_auth: bool = True
    modules: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    port: int = 0
    direct: int = 0
    component: str = ""
    log_level: str = "debug"
    dialback_secret: str = "the secret of this Prosody"
    component_port: int = 0
    part: Part | None = field(default=None, repr=False)

    def start(self) -> PeerProsody:
        """Write the configuration and start."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.port:
            self.port, self.direct = free_ports(2)
        (self.directory / "certs").mkdir(exist_ok=True)
        for host, issued in self.hosts.items():
            if issued is not None:  # where Prosody looks for the certificates of direct TLS
                shutil.copy(issued.certificate, self.directory / "certs" / f"{host}.crt")
                shutil.copy(issued.key, self.directory / "certs" / f"{host}.key")
        configuration = self.directory / "prosody.cfg.lua"
        configuration.write_text(self._configuration())
        command = mortal(["prosody", "-F", "--config", str(configuration)])
        self.part = Part("prosody", command, self.directory)
        self.part.await_port(self.port)
        return self

    def stop(self) -> None:
        """Stop it."""
        if self.part is not None:
            self.part.stop()

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.directory / "prosody.log").read_text(errors="replace")

    def _configuration(self) -> str:
        def lua(on: bool) -> str:
            return "true" if on else "false"

        def names(of: tuple[str, ...]) -> str:
            return ", ".join(f'"{name}"' for name in of)

        base = self.directory
        text = f"""\
run_as_root = true
daemonize = false
pidfile = "{base}/prosody.pid"
data_path = "{base}/data"
certificates = "{base}/certs"
plugin_paths = {{ "{MODULES}" }}
interfaces = {{ "127.0.0.1" }}
s2s_ports = {{ {self.port} }}
s2s_direct_tls_ports = {{ {self.direct} }}
c2s_ports = {{ }}
c2s_direct_tls_ports = {{ }}
component_ports = {{ {self.component_port or ""} }}
component_interfaces = {{ "127.0.0.1" }}
http_ports = {{ }}
https_ports = {{ }}
network_settings = {{ nagle = false }}
log = {{ {self.log_level} = "{base}/prosody.log" }}
storage = "memory"
modules_enabled = {{ {names((*MODULES_ENABLED, *self.modules))} }}
modules_disabled = {{ {names(("s2s_auth_dane_in", "http", "c2s", *self.disabled))} }}
s2s_require_encryption = {lua(self.require_encryption)}
s2s_secure_auth = {lua(self.secure_auth)}
dialback_secret = "{self.dialback_secret}"
ssl = {{ cafile = "{self.ca}" }}
unbound = {{ resolvconf = false, hoststxt = false, forward = "127.0.0.1@{self.dns_port}",
  options = {{ ["do-not-query-localhost:"] = "no" }} }}
"""
        for host, issued in self.hosts.items():
            text += f'VirtualHost "{host}"\n  modules_enabled = {{ "echo_test" }}\n'
            if issued is not None:
                text += f'  ssl = {{ key = "{issued.key}", certificate = "{issued.certificate}",'
                text += f' cafile = "{self.ca}" }}\n'
        if self.component:
            text += f'Component "{self.component}"\n  component_secret = "secret"\n'
        return text
