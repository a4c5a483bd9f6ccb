"""A foreign XMPP enterprise with people who log in, and a DNS in a thread for it."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from twisted.names import dns

from demo.certificates import Authority, Certificate
from demo.home import Prosody, xmpp_user
from demo.parts import Talker, free_ports
from tests.interop.s2s_peer import MODULES, MODULES_ENABLED


class NameServer:
    """Answers over UDP from a table, in a thread of its own, so that tests may block.

    :ivar services: domain -> port of its XMPP server on this machine; of several, the first counts
        most.
    """

    def __init__(self) -> None:
        self.services: dict[str, int | tuple[int, ...]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, source = self._socket.recvfrom(4096)
            except OSError:
                return  # closed
            message = dns.Message()
            message.fromStr(data)
            self._answer(message)
            self._socket.sendto(message.toStr(), source)

    def _answer(self, message: dns.Message) -> None:
        query = message.queries[0]
        name = query.name.name.decode().lower()
        message.answer, message.recAv, message.additional = 1, 1, []
        records: list[dns.Record_SRV | dns.Record_A] = []
        host = name.removeprefix("_xmpp-server._tcp.")
        if query.type == dns.SRV and host != name and host in self.services:
            ports = self.services[host]
            records = [
                dns.Record_SRV(priority, 0, port, f"xmpp.{host}".encode(), 5)
                for priority, port in enumerate(ports if isinstance(ports, tuple) else (ports,))
            ]
        elif query.type == dns.A and name.removeprefix("xmpp.") in self.services:
            records = [dns.Record_A("127.0.0.1", 5)]
        elif not any(each in name for each in self.services):
            message.rCode = dns.ENAME
        message.answers = [
            dns.RRHeader(query.name.name, query.type, dns.IN, 5, record, auth=True)
            for record in records
        ]

    def stop(self) -> None:
        """Answer no more."""
        self._socket.close()


@dataclass
class ForeignProsody(Prosody):
    """A Prosody that federates by S2S over TLS with certificates; its users log in.

    :ivar certificate: carries all its domains.
    :ivar others: further domains, each with the same users.
    :ivar extra_modules: modules of the tests' own.
    :ivar dns_host: address of the name server that it asks.
    :ivar secure_auth: whether others must prove their domains by certificates, and dialback is not enough.
    """

    certificate: Certificate | None = None
    others: tuple[str, ...] = ()
    dns_host: str = "127.0.0.1"
    dns_port: int = 0
    s2s_port: int = 0
    extra_modules: tuple[str, ...] = ()
    secure_auth: bool = True

    def start(self) -> ForeignProsody:
        """Start it; on the same ports after a kill."""
        if not self.s2s_port:
            (self.s2s_port,) = free_ports(1)
        for domain in self.others:
            folder = self.directory / "data" / domain.replace(".", "%2e") / "accounts"
            folder.mkdir(parents=True, exist_ok=True)
            for name, password in self.users.items():
                (folder / f"{name}.dat").write_text(f'return {{ ["password"] = "{password}"; }};\n')
        super().start()
        assert self.part is not None
        self.part.await_port(self.s2s_port)
        return self

    def _configuration(self) -> str:
        assert self.certificate is not None
        issued = self.certificate
        modules = ", ".join(
            f'"{name}"' for name in (*MODULES_ENABLED, "vcard", *self.extra_modules)
        )
        text = super()._configuration()
        text = text.replace('plugin_paths = { "', f'plugin_paths = {{ "{MODULES}", "', 1)
        text = text.replace("s2s_ports = { }", f"s2s_ports = {{ {self.s2s_port} }}", 1)
        text = text.replace('modules_disabled = { "s2s", "tls", "http" }',
                            'modules_disabled = { "s2s_auth_dane_in", "http" }')  # fmt: skip
        text = text.replace("modules_enabled = { ", f"modules_enabled = {{ {modules}, ", 1)
        hosts = "".join(f'VirtualHost "{domain}"\n' for domain in (self.domain, *self.others))
        return text.replace(f'VirtualHost "{self.domain}"\n', f"""\
s2s_require_encryption = true
s2s_secure_auth = {str(self.secure_auth).lower()}
ssl = {{ key = "{issued.key}", certificate = "{issued.certificate}", cafile = "{issued.ca}" }}
unbound = {{ resolvconf = false, hoststxt = false, forward = "{self.dns_host}@{self.dns_port}",
  options = {{ ["do-not-query-localhost:"] = "no" }} }}
{hosts}""")  # fmt: skip


class Enterprise:
    """A foreign Prosody with its name server.

    :param reach: our domains with the port of the node's S2S listener.
    :param modules: of the tests' own, for its server.
    """

    def __init__(
        self, directory: Path, authority: Authority, domain: str, *others: str,
        users: dict[str, str], reach: dict[str, int], modules: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.directory = directory
        self.names = NameServer()
        self.names.services.update(reach)
        self.server = ForeignProsody(
            directory / "server",
            domain,
            users,
            components=(f"components.{domain}",),  # without one its port does not listen
            certificate=authority.issue(domain, *others),
            others=others,
            dns_port=self.names.port,
            extra_modules=modules,
        )
        self.server.s2s_port, self.server.c2s_port, self.server.component_port = free_ports(3)
        for each in (domain, *others):
            self.names.services[each] = self.server.s2s_port

    def log_in(self, name: str, domain: str = "") -> Talker:
        """Log a user in, at the first domain or at another."""
        home = self.server
        if domain:
            home = ForeignProsody(home.directory, domain, home.users, c2s_port=home.c2s_port)
        return xmpp_user(self.directory / (domain or home.domain), home, name)

    def stop(self) -> None:
        """Stop everything."""
        self.server.stop()
        self.names.stop()
