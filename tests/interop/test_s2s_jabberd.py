"""XMPP federation with a real jabberd2, which proves domains by dialback only."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.testing.pki import Issued
from impfed.transport.s2s import Security, Tls
from tests.interop.s2s_jabberd import PeerJabberd
from tests.interop.test_s2s_ejabberd import OURS, NetworkCase
from tests.transport.s2s_kit import Node, text

Steps = Generator[Deferred[Any], Any, None]
THEIRS = "jabberd.example"


class JabberdTests(NetworkCase):
    """A jabberd2 as the foreign domain."""

    timeout = 120

    def jabberd(self, certificate: Issued | None, required: bool = False) -> None:
        folder = self.world.directory / "jabberd"
        self.peer = PeerJabberd(folder, THEIRS, self.world.ca.path, certificate, required)
        self.addCleanup(self.peer.stop)
        self.peer.start()
        self.zone.domain(THEIRS, self.peer.port)

    @inlineCallbacks
    def echo(self, node: Node) -> Steps:
        """Send a text and wait for its echo."""
        node.s2s.send(text(f"alice@{OURS}", f"{THEIRS}/echo"))
        yield self.until(lambda: node.user.stanzas)
        stanza = node.user.stanzas[-1]
        words = f"{node.s2s.status()}\n{self.peer.log[-3000:]}"
        self.assertEqual((stanza.type, stanza.text("body")), ("chat", "hi"), words)

    @inlineCallbacks
    def test_dialback_in_clear(self) -> Steps:
        """Without TLS on its side dialback proves both domains."""
        self.jabberd(None)
        node = self.ours(security=Security(Tls.OPTIONAL, certificates=False))
        yield self.echo(node)
        self.assertEqual({one["tls"] for one in node.s2s.status()}, {""})

    @inlineCallbacks
    def test_dialback_over_tls(self) -> Steps:
        """With a self-signed certificate it is dialback over TLS, both ways."""
        self.jabberd(self.world.self_signed(THEIRS), required=True)
        node = self.ours(security=Security(Tls.REQUIRED, certificates=False))
        yield self.echo(node)
        self.assertNotIn("", {one["tls"] for one in node.s2s.status()})
