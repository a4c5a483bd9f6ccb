"""impfed as the edge of an organisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from demo.certificates import Certificate
from tests.interop.edge_scene import EdgeNode

from .node import partner


@dataclass(frozen=True)
class Inner:
    """A machine behind the edge.

    :ivar name: of the target.
    :ivar tls_name: name in its certificate.
    :ivar address: where it is.
    :ivar public: what the partners are told in its place.
    :ivar bind: where the edge listens for that.
    :ivar entrance: whether it gets new requests.
    """

    name: str
    tls_name: str
    address: str
    public: str
    bind: str
    entrance: bool

    def sections(self) -> str:
        """Return what the edge's configuration says of it."""
        return f"""
[[edge.target]]
name = "{self.name}"
address = "{self.address}"
tls_name = "{self.tls_name}"
new_requests = {str(self.entrance).lower()}
connections = 2

[[edge.port]]
public = "{self.public}"
bind = "{self.bind}"
target = "{self.name}"
inner = "{self.address}"
"""


class ImpfedEdge(EdgeNode):
    """An edge with a port table.

    :param outer: where it listens for partners.
    :param within: where it listens for nodes.
    """

    def __init__(
        self,
        directory: Path,
        outside: Certificate,
        inside: Certificate,
        outer: str,
        within: str,
        inner: tuple[Inner, ...],
        local: tuple[str, ...],
        foreign: tuple[str, ...],
        border: str,
        netns: str,
    ) -> None:
        super().__init__(directory, outside, inside, 5061, 5061, (), (), ("", 0), netns)
        self._outer, self._within, self._inner = outer, within, inner
        self._local, self._partners = local, "".join(partner(each, border) for each in foreign)

    def write(self) -> Path:
        """Write the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "edge.toml"
        path.write_text(f"""\
[node]
name = "edge"
control_socket = "{self.socket}"

[tls]
ca = "{self.outside.ca}"

[[tls.certificate]]
name = "outside"
certificate = "{self.outside.certificate}"
key = "{self.outside.key}"

[[tls.certificate]]
name = "inside"
certificate = "{self.inside.certificate}"
key = "{self.inside.key}"

[[listener]]
name = "internet"
side = "outside"
transport = "tls"
bind = "{self._outer}"
advertised = "sip.company.example:5061"

[[listener]]
name = "nodes"
side = "inside"
transport = "tls"
bind = "{self._within}"
advertised = "border.company.example:5061"

[edge]
domains = {list(self._local)}
certificate = "inside"
check_interval = "1s"
{"".join(one.sections() for one in self._inner)}
{self._partners}
""")
        return path
