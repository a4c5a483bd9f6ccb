"""What two servers' settings lead to, foretold by one function and seen with a real Prosody."""

from __future__ import annotations

from collections.abc import Generator
from itertools import product
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.testing.pki import Issued
from impfed.transport.s2s import Security, Tls
from impfed.xmpp.s2s_security import Certificate, Direction, outcome
from tests.interop.test_s2s_prosody import OURS, THEIRS, ProsodyCase
from tests.transport.s2s_kit import Node, text

Steps = Generator[Deferred[Any], Any, None]

OUR_SETTINGS = {
    "strict": Security(Tls.REQUIRED),
    "TLS without certificates": Security(Tls.REQUIRED, certificates=False),
    "optional": Security(Tls.OPTIONAL, certificates=False),
    "clear": Security(Tls.NONE, certificates=False),
    "no SASL": Security(Tls.REQUIRED, certificates=False, sasl_in=False, sasl_out=False),
}
# Prosody's settings, and what they are in our words.
PEER_SETTINGS: dict[str, tuple[dict[str, Any], Security]] = {
    "strict": ({}, Security(Tls.REQUIRED)),
    "TLS without certificates": (
        {"secure_auth": False},
        Security(Tls.REQUIRED, certificates=False),
    ),
    "optional": (
        {"secure_auth": False, "require_encryption": False},
        Security(Tls.OPTIONAL, certificates=False),
    ),
    "clear": (
        {"secure_auth": False, "require_encryption": False, "disabled": ("tls",)},
        Security(Tls.NONE, certificates=False),
    ),
}
CERTIFICATES = [
    Certificate.VALID,
    Certificate.EXPIRED,
    Certificate.WRONG_NAME,
    Certificate.SELF_SIGNED,
    Certificate.UNKNOWN_CA,
]


def selection() -> list[tuple[str, str, Certificate, Certificate]]:
    """Return every pair of settings, with certificates that come round in turn."""
    chosen = []
    for number, (ours, theirs) in enumerate(product(OUR_SETTINGS, PEER_SETTINGS)):
        mine = CERTIFICATES[number % 5] if number % 3 else Certificate.VALID
        peers = CERTIFICATES[(2 * number + 1) % 5] if number % 4 else Certificate.VALID
        chosen.append((ours, theirs, mine, peers))
    return chosen


class MatrixTests(ProsodyCase):
    """A pairwise selection of settings and certificates."""

    timeout = 120

    def certificate(self, state: Certificate, name: str) -> Issued:
        world = self.world
        if state is Certificate.EXPIRED:
            return world.issue(name, days=-1)
        if state is Certificate.WRONG_NAME:
            return world.issue("other.example")
        if state is Certificate.SELF_SIGNED:
            return world.self_signed(name)
        if state is Certificate.UNKNOWN_CA:
            return world.issue(name, ca=world.other_ca)
        return world.issue(name)

    @inlineCallbacks
    def play(self, ours: str, theirs: str, mine: Certificate, peers: Certificate) -> Steps:
        options, peer = PEER_SETTINGS[theirs]
        own = OUR_SETTINGS[ours]
        out = outcome(own, peer, mine, peers, Direction.OUT)
        back = outcome(own, peer, mine, peers, Direction.IN)
        prosody = self.prosody(certificate=self.certificate(peers, THEIRS), **options)
        node: Node = self.ours(security=own, certificate=self.certificate(mine, OURS))
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


for _number, _case in enumerate(selection()):
    setattr(MatrixTests, f"test_{_number:02d}", _story(*_case))
