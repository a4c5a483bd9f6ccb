"""What two servers' settings lead to, foretold by one function and seen with a real Prosody."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.xmpp.s2s_security import Certificate, Direction, outcome
from tests.interop.s2s_matrix import OUR_SETTINGS, PEER_SETTINGS, PROSODY, make, selection
from tests.interop.test_s2s_prosody import OURS, THEIRS, ProsodyCase
from tests.transport.s2s_kit import Node, text

Steps = Generator[Deferred[Any], Any, None]


class MatrixTests(ProsodyCase):
    """A pairwise selection of settings and certificates; all of them in a soak."""

    timeout = 120

    @inlineCallbacks
    def play(self, ours: str, theirs: str, mine: Certificate, peers: Certificate) -> Steps:
        own, peer = OUR_SETTINGS[ours], PEER_SETTINGS[theirs]
        out = outcome(own, peer, mine, peers, Direction.OUT)
        back = outcome(own, peer, mine, peers, Direction.IN)
        prosody = self.prosody(certificate=make(self.world, peers, THEIRS), **PROSODY[theirs])
        node: Node = self.ours(security=own, certificate=make(self.world, mine, OURS))
        what = f"{ours} / {theirs} / {mine.value} / {peers.value}: {out}; {back}"
        try:
            node.s2s.send(text(f"alice@{OURS}", f"bob@{THEIRS}"))
            user = node.user
            if out.up and back.up:
                yield self.until(lambda: user.stanzas)
                self.assertEqual(user.bodies, ["echo: hi"], f"{what}\n{self.words(node)}")
            elif out.up:
                # He has it, but his answer cannot come: Prosody returns it to him.
                yield self.until(lambda: "echo: hi" in prosody.log)
                self.assertEqual(user.stanzas, [], what)
            else:
                yield self.until(lambda: user.stanzas, 45)
                self.assertEqual(len(user.errors), 1, f"{what}\n{self.words(node)}")
            if out.up:
                status = next(one for one in node.s2s.status() if one["direction"] == "out")
                self.assertEqual(bool(status["tls"]), out.tls, what)
        except AssertionError as problem:
            raise AssertionError(f"{what}\n{problem}\n{self.words(node)}") from problem
        finally:
            prosody.stop()
            self.nodes.remove(node)
            yield node.stop()


def _story(ours: str, theirs: str, mine: Certificate, peers: Certificate) -> Any:
    def test(self: MatrixTests) -> Any:
        return self.play(ours, theirs, mine, peers)

    test.__doc__ = f"{ours} here, {theirs} there; ours {mine.value}, theirs {peers.value}."
    return test


for _number, _case in enumerate(selection(PROSODY)):
    setattr(MatrixTests, f"test_{_number:03d}", _story(*_case))
