"""HAProxy doing mutual TLS for peers that have none.

Two ways: what connects to ``plain`` is carried to the node in TLS, under the far side's
certificate; what connects to ``secure`` in mutual TLS is carried to a plain port.
"""

from __future__ import annotations

from pathlib import Path

from demo.certificates import Certificate
from demo.parts import Part, free_ports

CONFIGURATION = """\
global
  maxconn 2000
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode tcp
  timeout connect 3s
  timeout client 300s
  timeout server 300s
frontend plain
  bind 127.0.0.1:{plain}
  default_backend node
backend node
  server node 127.0.0.1:{node} ssl verify required ca-file {ca} crt {both} \
verifyhost {node_name} sni str({node_name})
frontend secure
  bind 127.0.0.1:{secure} ssl crt {both} ca-file {ca} verify required
  default_backend peer
backend peer
  server peer 127.0.0.1:{peer}
"""


class MutualTls:
    """A running HAProxy.

    :param certificate: the far side's, shown both ways.
    :param node: port of the node; ``node_name`` must be in its certificate.
    :param peer: plain port of the answering peer.
    :param secure: port for the node to connect to; a free one by default.
    """

    def __init__(
        self,
        directory: Path,
        certificate: Certificate,
        node: int,
        node_name: str,
        peer: int,
        secure: int = 0,
    ) -> None:
        self.plain, free = free_ports(2)
        self.secure, self.peer = secure or free, peer
        directory.mkdir(parents=True, exist_ok=True)
        configuration = directory / "haproxy.cfg"
        configuration.write_text(
            CONFIGURATION.format(
                plain=self.plain,
                secure=self.secure,
                node=node,
                peer=peer,
                ca=certificate.ca,
                both=certificate.both,
                node_name=node_name,
            )
        )
        self.part = Part("haproxy", ["haproxy", "-db", "-f", configuration], directory)
        self.part.await_port(self.plain)
        self.part.await_port(self.secure)

    def stop(self) -> None:
        """Stop it."""
        self.part.stop()
