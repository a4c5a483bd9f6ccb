"""The User Options page behind a balancer: whichever node a browser comes to."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from impfed.admin.login import LoginLinks, Sessions
from impfed.core.ids import IdSource
from impfed.xmpp.jid import JID
from tests.cluster.kit import Cluster

ALICE = JID.parse("alice@home.example")


class LoginTests(SynchronousTestCase):
    """Three nodes that share a store."""

    def setUp(self) -> None:
        self.cluster = Cluster("n1", "n2", "n3")
        self.cluster.run(3.0)
        nodes = self.cluster.nodes.values()
        self.links = [LoginLinks(each.store, IdSource(), each.clock.seconds) for each in nodes]
        self.sessions = [
            Sessions(each.store, IdSource(), each.clock.seconds, 1800.0) for each in nodes
        ]

    def wait(self, *asked: Deferred[Any]) -> list[Any]:
        """Return what comes of several things at once."""
        self.cluster.run(0.5)
        return [self.successResultOf(each) for each in asked]

    def test_link(self) -> None:
        """A link works at any node, and once, also when it comes to all of them together."""
        (token,) = self.wait(self.links[0].issue(ALICE))
        self.assertEqual(self.wait(*(each.peek(token) for each in self.links)), [ALICE] * 3)
        users = self.wait(*(each.redeem(token) for each in self.links))
        self.assertEqual(sorted(map(str, users)), ["None", "None", str(ALICE)])
        self.assertEqual(self.wait(*(each.peek(token) for each in self.links)), [None] * 3)

    def test_newer_link(self) -> None:
        """A new link makes the older one worthless, whichever node has sent it."""
        old, new = (self.wait(each.issue(ALICE))[0] for each in self.links[:2])
        self.assertEqual(
            self.wait(self.links[2].redeem(old), self.links[2].peek(new)), [None, ALICE]
        )

    def test_session(self) -> None:
        """Who has logged in at one node is known at every other, until he logs out at any."""
        (secret,) = self.wait(self.sessions[0].begin(ALICE))
        found = self.wait(*(each.find(secret) for each in self.sessions))
        self.assertEqual([each.user for each in found], [ALICE] * 3)
        self.assertEqual(len({each.csrf for each in found}), 1)
        self.wait(self.sessions[1].end_all(ALICE))
        self.assertEqual(self.wait(*(each.find(secret) for each in self.sessions)), [None] * 3)
