"""A peer that vanishes without a word, on real packets: in a network of the test's own that goes away."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from impfed.transport.s2s import S2SLimits
from impfed.xmpp.s2s_parts import StreamLimits
from tests.interop.namespace import Network
from tests.transport.s2s_kit import S2SCase, text

Steps = Generator[Deferred[Any], Any, None]


class HalfOpenTests(S2SCase):
    """Neither side hears the other any more, and no packet says so."""

    timeout = 120

    def setUp(self) -> None:
        super().setUp()
        network = Network()
        self.addCleanup(network.leave)

    def network(self, state: str) -> None:
        subprocess.run(["ip", "link", "set", "lo", state], check=True)

    @inlineCallbacks
    def vanish(self, limits: S2SLimits, write: bool) -> Steps:
        """Cut the network under a stream; both sides must notice, and recover."""
        a, b = self.node("a.example", limits=limits), self.node("b.example", limits=limits)
        a.s2s.send(text("x@a.example", "y@b.example", "0"))
        yield self.until(lambda: b.user.bodies == ["0"])
        yield self.until(lambda: not a.s2s.status()[0]["unacknowledged"])
        self.network("down")
        if write:
            a.s2s.send(text("x@a.example", "y@b.example", "1"))
        stands = lambda: [  # noqa: E731
            one
            for one in a.s2s.status() + b.s2s.status()
            if one["state"] in ("a stream stands", "open, a domain proven")
        ]
        yield self.until(lambda: not stands(), 60)
        self.network("up")
        a.s2s.send(text("x@a.example", "y@b.example", "2"))
        yield self.until(lambda: b.user.bodies[-1:] == ["2"])
        self.assertEqual(b.user.bodies, ["0", "1", "2"] if write else ["0", "2"])
        self.assertEqual(a.user.errors, [])

    def test_kernel(self) -> Deferred[None]:
        """An idle stream that nobody asks anything on: the kernel gives it up."""
        never = StreamLimits(silence=1e6, acknowledgement=1e6)
        return self.vanish(S2SLimits(dead=4.0, stream=never), write=False)

    def test_silence(self) -> Deferred[None]:
        """One with acknowledgements is given up when the peer does not answer; nothing is lost."""
        quick = StreamLimits(silence=1.0, acknowledgement=1.0)
        return self.vanish(S2SLimits(dead=1000.0, stream=quick), write=True)
