"""S2S services of two or more enterprises in one reactor, over loopback, with certificates of a test CA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.trial import unittest

from impfed.config.model import CertificateConfig, TlsConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import Tracer
from impfed.testing.pki import Authority, Issued, make_ca, make_certificate
from impfed.transport.s2s import S2S, FixedSettings, S2SLimits, S2SListener, Target
from impfed.transport.s2s_targets import FixedTargets
from impfed.transport.tls import TlsStore
from impfed.xmpp.jid import JID
from impfed.xmpp.s2s_security import Security
from impfed.xmpp.stanza import OutStanza, Stanza, message

reactor: Any = _reactor
J = JID.parse


class User:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.stanzas: list[Stanza] = []
        self.streams: list[Any] = []
        self.hook: Callable[[Stanza], None] = lambda _: None

    def stanza_arrived(self, stanza: Stanza, stream: Any) -> None:
        self.stanzas.append(stanza)
        self.streams.append(stream)
        self.hook(stanza)

    @property
    def bodies(self) -> list[str]:
        return [stanza.text("body") or "" for stanza in self.stanzas if stanza.type != "error"]

    @property
    def errors(self) -> list[Stanza]:
        return [stanza for stanza in self.stanzas if stanza.type == "error"]


class World:
    """A DNS of the test's own, and a CA.

    :param directory: for certificates and servers; made here.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True)
        self.ca: Authority = make_ca(self.directory, "Test CA")
        self.other_ca: Authority = make_ca(self.directory, "Unknown CA")
        self.targets = FixedTargets({})
        self._count = 0

    def issue(self, *names: str, ca: Authority | None = None, **options: Any) -> Issued:
        self._count += 1
        return make_certificate(
            ca or self.ca, self.directory, names[0], names, file=f"c{self._count}", **options
        )

    def self_signed(self, *names: str) -> Issued:
        self._count += 1
        return make_certificate(None, self.directory, names[0], names, file=f"c{self._count}")


def tls_store(world: World, issued: Sequence[Issued]) -> TlsStore:
    chains = tuple(
        CertificateConfig(f"own{number}", one.certificate, one.key)
        for number, one in enumerate(issued)
    )
    return TlsStore(TlsConfig(chains, world.ca.path))


class Node:
    """One enterprise's service."""

    def __init__(
        self,
        world: World,
        *domains: str,
        security: Security | None = None,
        certificate: Issued | Sequence[Issued] | bool | None = True,
        limits: S2SLimits | None = None,
        secret: str = "",
        settings: FixedSettings | None = None,
        listeners: Sequence[bool] = (False, True),
        direct: bool = False,
    ) -> None:
        issued = world.issue(*domains) if certificate is True else certificate or ()
        self.tls = tls_store(world, (issued,) if isinstance(issued, Issued) else issued)
        self.user = User()
        self.metrics = Metrics()
        self.tracer = Tracer()
        self.s2s = S2S(
            reactor,
            [S2SListener("127.0.0.1", 0, kind) for kind in listeners],
            domains,
            self.tls,
            secret or f"secret of {domains[0]}",
            world.targets,
            IdSource(),
            self.metrics,
            self.tracer,
            settings or FixedSettings(security or Security()),
            limits or S2SLimits(),
        )
        self.s2s.user = self.user
        self.s2s.startService()
        for domain in domains:
            port = self.s2s.ports[1 if direct else 0]
            world.targets.table[domain] = [Target("127.0.0.1", port, direct)]

    def stop(self) -> Deferred[Any]:
        return self.s2s.stopService()


class S2SCase(unittest.TestCase):
    """Tests with services that are stopped at the end."""

    timeout = 120

    def setUp(self) -> None:
        self.world = World(Path(self.mktemp()))
        self.nodes: list[Node] = []

    def tearDown(self) -> Deferred[Any]:
        return gatherResults([node.stop() for node in self.nodes])

    def node(self, *domains: str, **options: Any) -> Node:
        node = Node(self.world, *domains, **options)
        self.nodes.append(node)
        return node

    def until(self, true: Callable[[], Any], seconds: float = 60.0) -> Deferred[Any]:
        """Wait until a condition holds."""
        end = reactor.seconds() + seconds
        done: Deferred[Any] = Deferred()

        def look() -> None:
            if true():
                call.stop()
                done.callback(None)
            elif reactor.seconds() > end:
                call.stop()
                done.errback(AssertionError("not in time"))

        call = LoopingCall(look)
        call.start(0.005)
        return done


def text(from_: str, to: str, body: str = "hi", id: str = "1") -> OutStanza:
    return message(J(to), J(from_), id=id, body=body)
