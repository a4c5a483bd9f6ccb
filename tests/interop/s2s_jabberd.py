"""A foreign jabberd2, of three processes; what is written to ``<domain>/echo`` comes back.

It asks the name server of the network namespace that it is started in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from demo.parts import Part, PartFailed, free_ports, wait_until
from impfed.testing.pki import Issued
from tests.interop.namespace import with_resolver

_LOG = "<log type='file'><file>{base}/{part}.log</file></log><pidfile>{base}/{part}.pid</pidfile>"
_LINK = """\
  <router><ip>127.0.0.1</ip><port>{router}</port><user>jabberd</user><pass>secret</pass>
    <retry><init>20</init><lost>3</lost><sleep>1</sleep></retry></router>
"""
_PARTS = {
    "router": """\
<router><id>router</id>{log}
  <local><ip>127.0.0.1</ip><port>{router}</port><users>{base}/users.xml</users>
    <secret>secret</secret></local>
  <aci><acl type='all'><user>jabberd</user></acl></aci>
</router>
""",
    "sm": """\
<sm><id>sm</id>{log}{link}
  <local><id>{domain}</id></local>
  <storage><path>{modules}</path><driver>fs</driver><fs><path>{base}/data</path></fs></storage>
  <modules><path>{modules}</path>
    <chain id='in-router'><module>session</module><module>validate</module></chain>
    <chain id='pkt-sm'><module>echo</module></chain>
    <chain id='pkt-user'><module>deliver</module></chain>
    <chain id='pkt-router'><module>session</module></chain>
  </modules>
</sm>
""",
    "s2s": """\
<s2s><id>s2s</id>{log}{link}
  <local><ip>127.0.0.1</ip><port>{port}</port><secret>of this jabberd</secret>{tls}</local>
  <lookup><srv>xmpp-server</srv></lookup>
  <security>{required}</security>
</s2s>
""",
}
_USERS = "<users><user><name>jabberd</name><secret>secret</secret></user></users>\n"


@dataclass
class PeerJabberd:
    """A jabberd2.

    :ivar certificate: None for no TLS.
    :ivar required: whether nothing passes without TLS.
    """

    directory: Path
    domain: str
    ca: Path
    certificate: Issued | None = None
    required: bool = False
    port: int = 0
    parts: list[Part] = field(default_factory=list, repr=False)

    def start(self) -> PeerJabberd:
        """Write the configuration and start; it is up when all parts have found each other."""
        base = self.directory.absolute()
        (base / "data").mkdir(parents=True)
        self.port, router = free_ports(2)
        (base / "users.xml").write_text(_USERS)
        values = {
            "base": base,
            "router": router,
            "port": self.port,
            "domain": self.domain,
            "modules": next(Path("/usr/lib").glob("*/jabberd2")),
            "link": _LINK.format(router=router),
            "tls": self._tls(base),
            "required": "<require_tls/>" if self.required else "",
        }
        try:
            for name, text in _PARTS.items():
                file = base / f"{name}.xml"
                log = _LOG.format(base=base, part=name)
                file.write_text(text.format(log=log, **values))
                command = with_resolver(base, [f"/usr/sbin/jabberd2-{name}", "-c", str(file)])
                self.parts.append(Part(f"{name}.out", command, base))
                if name == "router":
                    self.parts[0].await_port(router)
            self.parts[-1].await_port(self.port)
            if not wait_until(lambda: f"[{self.domain}] online" in self.log):
                raise PartFailed(f"jabberd2 did not start\n{self.log}")
        except PartFailed:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all parts."""
        for part in reversed(self.parts):
            part.stop()

    @property
    def log(self) -> str:
        """What all parts have logged."""
        logs = (self.directory / f"{name}.log" for name in _PARTS)
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())

    def _tls(self, base: Path) -> str:
        if self.certificate is None:
            return ""
        bundle = base / "own.pem"
        bundle.touch(mode=0o600)
        issued = self.certificate
        bundle.write_bytes(issued.certificate.read_bytes() + issued.key.read_bytes())
        return f"<pemfile>{bundle}</pemfile><cachain>{self.ca}</cachain>"
