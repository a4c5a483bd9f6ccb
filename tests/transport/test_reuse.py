"""One connection for both directions (RFC 5923), and everything that must not lead to one."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor

from impfed.config.model import TlsConfig
from impfed.sip.message import SipRequest, parse_message
from impfed.sip.target import Hop
from impfed.testing.pki import make_ca
from impfed.transport.flow import SipLimits
from impfed.transport.pool import Target
from impfed.transport.sip import SipStack
from tests.transport.sip_kit import Outcome, outgoing, real_stack, tls_config
from tests.transport.test_tls_matrix import Loopback


def saying_alias(request: SipRequest) -> SipRequest:
    """Return the same request with ``alias`` in its topmost Via."""
    changed = parse_message(request.to_bytes().replace(b";branch=", b";alias;branch=", 1))
    assert isinstance(changed, SipRequest)
    return changed


class ReuseTests(Loopback):
    """A peer has opened a connection and sent a request; now we send one to it."""

    def setUp(self) -> None:
        super().setUp()
        self.ours = tls_config(
            self.ca, ("first", self.issue("home.example")), ("second", self.issue("other.example"))
        )
        self.theirs = tls_config(self.ca, ("peer", self.issue("peer.example")))

    async def opened(
        self, theirs: TlsConfig | None = None, mode: str = "required", certificate: str = "",
        limits: SipLimits | None = None,
    ) -> None:  # fmt: skip
        """Let the peer open a connection and send a request over it."""
        theirs = self.theirs if theirs is None else theirs
        self.us, self.heard, _ = real_stack(reactor, self.ours, mode, limits)
        self.peer, self.peer_heard, _ = real_stack(reactor, theirs)
        self.stacks += [self.us, self.peer]
        await self.sends(self.peer, self.hop(self.us, "home.example", certificate=certificate))

    def hop(self, stack: SipStack, name: str, **options: Any) -> Hop:
        return Hop("tls", "127.0.0.1", stack.ports["outside"], name, **options)

    async def sends(self, stack: SipStack, hop: Hop) -> Outcome:
        outcome = Outcome()
        stack.request(outgoing(call_id=f"{id(outcome)}"), hop, outcome)
        await outcome.done
        return outcome

    async def reused(self, **options: Any) -> bool:
        """Send something to the peer; return whether that went over the peer's own connection."""
        outcome = await self.sends(self.us, self.hop(self.peer, "peer.example", **options))
        self.assertEqual(outcome.statuses, [200], outcome.failures)
        return not len(self.us.pool)

    async def test_both_ways(self) -> None:
        """Both sides say alias over a connection of theirs; one connection then serves both."""
        await self.opened()
        (_, request, flow) = self.heard.requests[0]
        self.assertIsNotNone(request.via.param("alias"))
        self.assertTrue(await self.reused())
        self.assertIsNone(self.peer_heard.requests[0][1].via.param("alias"))
        self.assertEqual(len(self.peer.incoming), 0)
        flow.abort("gone")
        await self.sends(self.us, self.hop(self.peer, "peer.example"))
        self.assertEqual(len(self.us.pool), 1)

    async def test_nothing_offered(self) -> None:
        """A peer that does not say alias is not sent anything over its connection."""
        self.us, self.heard, _ = real_stack(reactor, self.ours)
        self.peer, _, _ = real_stack(reactor, self.theirs, limits=SipLimits(reuse=False))
        self.stacks += [self.us, self.peer]
        await self.sends(self.peer, self.hop(self.us, "home.example"))
        self.assertIsNone(self.heard.requests[0][1].via.param("alias"))
        self.assertFalse(await self.reused())

    async def test_switched_off(self) -> None:
        """Nor is one that does, where we are told not to."""
        await self.opened(limits=SipLimits(reuse=False, close_timeout=0.5))
        self.assertFalse(await self.reused())

    async def test_not_proven(self) -> None:
        """Whoever shows no certificate says no alias, and is believed nothing if he does."""
        await self.opened(mode="optional", certificate="none")
        self.assertIsNone(self.heard.requests[0][1].via.param("alias"))
        (_, request, flow) = self.heard.requests[0]
        self.us.pool.reuse.offered(flow, saying_alias(request))
        self.assertFalse(await self.reused())

    async def test_another_name(self) -> None:
        """A next hop that has to prove another name is connected to, whoever sits at that address."""
        both = self.issue("peer.example", ["peer.example", "second.peer.example"])
        await self.opened(tls_config(self.ca, ("peer", both)))
        self.assertTrue(await self.reused())
        await self.sends(self.us, self.hop(self.peer, "third.peer.example"))
        self.assertEqual(len(self.us.pool.resting()), 1)

    async def test_another_address(self) -> None:
        """The port is that of the Via, and an address that of the connection."""
        await self.opened()
        other, _, _ = real_stack(reactor, self.theirs)
        self.stacks.append(other)
        await self.sends(self.us, self.hop(other, "peer.example"))
        self.assertEqual(len(self.us.pool), 1)
        port = self.peer.ports["outside"]
        target = self.us.pool.reuse.find
        self.assertIsNotNone(target(Target("tls", "127.0.0.1", port, ("peer.example",))))
        for host in ("127.0.0.2", "edge.example"):
            self.assertIsNone(target(Target("tls", host, port, ("peer.example",))), host)
        self.assertIsNotNone(target(Target("tls", "PEER.example", port, ("peer.example",))))
        self.assertIsNone(target(Target("tcp", "127.0.0.1", port, ("peer.example",))))

    async def test_another_certificate_of_ours(self) -> None:
        """Where we would show another certificate than the connection has, one of our own is made."""
        await self.opened()
        self.assertFalse(await self.reused(certificate="second"))

    async def test_after_new_files(self) -> None:
        """Of a connection that was made before a reload nobody knows what it has shown: not used."""
        await self.opened()
        (_, request, flow) = self.heard.requests[0]
        self.us.pool.reuse.lost(flow)
        self.us._tls.reload()
        self.us.pool.reuse.offered(flow, request)
        self.assertFalse(await self.reused())

    async def test_a_stranger(self) -> None:
        """A certificate of nobody's authority never gets so far as to offer anything."""
        stranger = make_ca(self.folder / "strange", "Stranger")
        issued = self.issue("peer.example", ca=stranger)
        self.us, self.heard, _ = real_stack(reactor, self.ours)
        self.peer, _, _ = real_stack(reactor, tls_config(self.ca, ("peer", issued)))
        self.stacks += [self.us, self.peer]
        outcome = await self.sends(self.peer, self.hop(self.us, "home.example"))
        self.assertEqual(outcome.statuses, [])
        self.assertEqual(self.heard.requests, [])
