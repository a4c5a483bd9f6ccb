"""An ejabberd linked by S2S inside the house."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from demo.certificates import Certificate
from demo.ejabberd import READY, mapper_command, server_command
from demo.parts import Part, PartFailed, free_ports
from tests.interop.home_streams import S2S_PORT
from tests.interop.namespace import with_resolver

_CONFIGURATION = """\
hosts: [{domain}]
loglevel: debug
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    starttls_required: false
    access: c2s
  - port: {s2s_port}
    ip: "127.0.0.1"
    module: ejabberd_s2s_in
auth_method: internal
s2s_max_retry_delay: 1 second
auth_password_format: plain
{tls}
access_rules:
  c2s: {{allow: all}}
modules:
  mod_roster: {{}}
  mod_disco: {{}}
  mod_offline: {{}}
  mod_muc: {{}}
  mod_ping: {{}}
  mod_s2s_dialback: {{}}
  mod_stream_mgmt: {{}}
"""


@dataclass
class StreamEjabberd:
    """An ejabberd that federates only with the node; of the same shape as a demo home server.

    :ivar certificate: its certificate; None for none, and so no TLS.
    """

    directory: Path
    domain: str = "home.example"
    users: dict[str, str] = field(default_factory=lambda: {"alice": "wonder", "carol": "singing"})
    secret: str = "between us"
    components: tuple[str, ...] = ()
    module: str = ""
    knows_users: bool = False
    certificate: Certificate | None = None
    c2s_port: int = 0
    component_port: int = S2S_PORT
    part: Part | None = None
    mapper: Part | None = None
    _mapper_port: int = 0

    def start(self) -> StreamEjabberd:
        """Write the configuration, start with a resolver file of its own."""
        base = self.directory.absolute()
        base.mkdir(parents=True, exist_ok=True)
        if not self.c2s_port:
            self.c2s_port, self._mapper_port = free_ports(2)
        tls = "s2s_use_starttls: false"
        if self.certificate is not None:
            tls = f'ca_file: "{self.certificate.ca}"\ncertfiles: ["{self.certificate.both}"]\n'
            tls += "s2s_use_starttls: optional"
        (base / "ejabberd.yml").write_text(
            _CONFIGURATION.format(
                domain=self.domain, port=self.c2s_port, s2s_port=S2S_PORT, tls=tls
            )
        )
        try:
            if self.mapper is None or not self.mapper.alive:
                self.mapper = Part("epmd", mapper_command(self._mapper_port), base)
                self.mapper.await_port(self._mapper_port)
            command = server_command(base, self._mapper_port, self.domain, self.users)
            self.part = Part("ejabberd.out", with_resolver(base, command), base)
            self.part.await_logged(READY)
            self.part.await_port(self.c2s_port)
        except PartFailed:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it, and then its port mapper."""
        for part in (self.part, self.mapper):
            if part is not None:
                part.stop()
