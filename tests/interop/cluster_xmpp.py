"""The cluster with a partner that is reached over XMPP: a foreign Prosody by S2S, and texts with its people."""

from __future__ import annotations

from pathlib import Path

from demo.certificates import Authority
from demo.node import Node
from demo.parts import PartFailed, Talker, free_ports
from tests.interop.cluster import NAMES, Cluster
from tests.interop.cluster_load import Load
from tests.interop.foreign import Enterprise
from tests.interop.scene import HOME

VERONA = "verona.example"
FOREIGNERS = dict.fromkeys(("romeo", "tybalt", "benvolio", "prince", "mercutio"), "on both")

CONFIGURATION = """
[s2s]
bind = "127.0.0.1:{port}"
secret = "between our nodes"

[[s2s.domain]]
name = "{domain}"
connect = "127.0.0.1:{foreign}"
"""


class XmppCluster(Cluster):
    """Three nodes, each with S2S; the foreign server finds them by SRV, one before the other.

    :ivar foreign: the people of the partner, logged in.
    """

    def __init__(self, name: str) -> None:
        ports = free_ports(len(NAMES))
        self.s2s_ports = dict(zip(NAMES, ports, strict=True))
        self._foreign_port = 0
        super().__init__(name, standing=20)
        verona = Authority(self.directory / "verona-pki", "Verona CA")
        self.verona = Enterprise(
            self.directory / "verona", verona, VERONA, users=FOREIGNERS, reach={},
            modules=("smacks",),
        )  # fmt: skip
        self.verona.names.services[HOME] = tuple(ports)
        for node in self.nodes.values():
            node.extra = node.extra.replace(_LATER, str(self.verona.server.s2s_port))
        # One authority for S2S both ways: each side's roots hold the other's.
        ours = Path(self.authority.path)
        both = ours.read_text() + verona.path.read_text()
        ours.write_text(both)
        verona.path.write_text(both)
        self.foreign: dict[str, Talker] = {}

    def _node(self, name: str, port: int) -> Node:
        node = super()._node(name, port)
        node.extra += CONFIGURATION.format(port=self.s2s_ports[name], domain=VERONA, foreign=_LATER)
        return node

    def start(self) -> XmppCluster:
        """Start everything; stops it again when a part fails."""
        try:
            self.verona.server.start()
            super().start()
            for name in FOREIGNERS:
                self.foreign[name] = self.verona.log_in(name)
        except PartFailed:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop everything."""
        for talker in self.foreign.values():
            talker.stop()
        super().stop()
        self.verona.stop()


#: Stands for a port that is not known yet.
_LATER = "VERONA-PORT"


class XmppLoad(Load):
    """Texts between the local users and the foreign ones, at a rate each way."""

    domain = VERONA

    def __init__(self, cluster: XmppCluster, rate: float) -> None:
        self._foreign = cluster.foreign
        self._since = {name: talker.position for name, talker in cluster.foreign.items()}
        super().__init__(cluster, rate)

    def foreigners(self) -> tuple[str, ...]:
        """Return who writes and is written to."""
        return tuple(self._foreign)

    def write_in(self, foreign: str, local: str, body: str) -> str:
        """Have a foreign user write; nobody reports on that but the local user."""
        self._foreign[foreign].send("message", to=f"{local}@{HOME}", body=body)
        return ""

    def came_out(self) -> list[str]:
        """Return the bodies that came to foreign users."""
        return [
            each["body"]
            for name, talker in self._foreign.items()
            for each in talker.seen(self._since[name], event="message")
        ]

    def refused_in(self) -> dict[str, str]:
        """Return what foreign users were told of texts that were not delivered."""
        return {
            each["body"]: f"{each['condition']} {each['text']}"
            for name, talker in self._foreign.items()
            for each in talker.seen(self._since[name], event="refused")
        }
