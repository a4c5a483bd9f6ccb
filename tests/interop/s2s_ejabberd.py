"""A foreign ejabberd with many domains, each with its own policy and certificate; all of them echo.

It asks the name server of the network namespace that it is started in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from demo.ejabberd import mapper_command, server_command
from demo.parts import Part, PartFailed, free_ports
from impfed.testing.pki import Issued
from tests.interop.namespace import mortal, with_resolver

#: ``s2s_use_starttls``, and for whom mod_s2s_dialback is: while it is, no certificate is insisted on.
Policy = tuple[str, str]
STRICT: Policy = ("required", "none")

_CONFIGURATION = """\
hosts: [{hosts}]
loglevel: {level}
log_rotate_size: infinity
log_burst_limit_count: 1000000
hide_sensitive_log_data: false
ca_file: "{ca}"
certfiles: [{certificates}]
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_s2s_in
s2s_dns_retries: 1
s2s_timeout: 1 hour
modules: {{}}
host_config:
{policies}
"""

_POLICY = """\
  {name}:
    s2s_use_starttls: {tls}
    modules:
      mod_s2s_dialback: {{access: {dialback}}}
"""
_READY = "everything echoes"
# A route to a process that turns stanzas round; ejabberd has no mod_echo any more. An identifier
# of two addresses, "from to", has it sent between those instead. What comes back as an error is told
# on standard output, for the log drops lines when many come at once.
_ECHO = """\
Turn = fun(Packet) ->
    case {xmpp:get_type(Packet), binary:split(xmpp:get_id(Packet), <<" ">>)} of
        {error, _} -> io:format("returned from ~s: ~s~n", [
            jid:encode(jid:remove_resource(xmpp:get_from(Packet))),
            xmpp:format_stanza_error(xmpp:get_error(Packet))]);
        {_, [From, To]} -> ejabberd_router:route(
            xmpp:set_from_to(Packet, jid:decode(From), jid:decode(To)));
        _ -> ejabberd_router:route(
            xmpp:set_from_to(Packet, xmpp:get_to(Packet), xmpp:get_from(Packet)))
    end
end,
spawn(fun() ->
    [ejabberd_router:register_route(<<"echo.", Host/binary>>, Host) || Host <- [%s]],
    io:format("%s~n"),
    (fun Loop() -> receive {route, Packet} -> Turn(Packet), Loop() end end)()
end)."""


@dataclass
class PeerEjabberd:
    """An ejabberd whose domains echo.

    :ivar hosts: its domains, each with its policy and its certificate. What echoes is
        ``echo.`` of them, and that is the name for the certificate.
    """

    directory: Path
    hosts: dict[str, tuple[Policy, Issued | None]]
    ca: Path
    log_level: str = "debug"
    port: int = 0
    part: Part | None = field(default=None, repr=False)
    mapper: Part | None = field(default=None, repr=False)

    def start(self) -> PeerEjabberd:
        """Write the configuration, start, wait until it is up."""
        base = self.directory.absolute()
        base.mkdir(parents=True)
        self.port, mapper = free_ports(2)
        (base / "ejabberd.yml").write_text(
            _CONFIGURATION.format(
                hosts=", ".join(self.hosts),
                ca=self.ca,
                level=self.log_level,
                certificates=", ".join(str(path) for path in self._bundles(base)),
                port=self.port,
                policies="\n".join(
                    _POLICY.format(name=name, tls=tls, dialback=dialback)
                    for name, ((tls, dialback), _) in self.hosts.items()
                ),
            )
        )
        try:
            self.mapper = Part("epmd", mortal(mapper_command(mapper)), base)
            self.mapper.await_port(mapper)
            echo = _ECHO % (", ".join(f'<<"{name}">>' for name in self.hosts), _READY)
            command = server_command(base, mapper, next(iter(self.hosts)), {})
            command = mortal(with_resolver(base, [*command, "-eval", echo]))
            self.part = Part("ejabberd.out", command, base)
            self.part.await_logged(_READY)
            self.part.await_port(self.port)
        except PartFailed:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it, and then its port mapper."""
        for part in (self.part, self.mapper):
            if part is not None:
                part.stop()

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.directory / "ejabberd.log").read_text(errors="replace")

    def _bundles(self, base: Path) -> list[Path]:
        """Write each certificate with its key into one file, as ejabberd wants them."""
        bundles = []
        for name, (_, issued) in self.hosts.items():
            if issued is not None:
                bundle = base / f"{name}.pem"
                bundle.touch(mode=0o600)
                bundle.write_bytes(issued.certificate.read_bytes() + issued.key.read_bytes())
                bundles.append(bundle)
        return bundles
