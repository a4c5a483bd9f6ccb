"""Two local domains with a certificate and a host name each, and a peer that checks both (SPEC section 8)."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from impfed.config.model import SipDomainConfig, TlsConfig
from impfed.core.metrics import Metrics
from impfed.policy.peers import PeerPolicy
from impfed.routing.api import RouteQuery
from impfed.routing.router import Resolution, Router
from impfed.routing.static import StaticRoute
from impfed.sip.message import OutgoingRequest
from impfed.sip.target import Hop
from impfed.transport.sip import SipStack
from tests.transport.sip_kit import Outcome, outgoing, real_stack, tls_config
from tests.transport.test_tls_matrix import Loopback, plain_client

FIRST, SECOND = "first.example", "second.example"


def of(domain: str) -> OutgoingRequest:
    """Return a request of a user of a local domain."""
    model = outgoing(call_id=domain)
    headers = [
        (name, value.replace("home.example", domain) if name == "From" else value)
        for name, value in model.headers
    ]
    return OutgoingRequest("MESSAGE", model.uri, headers, b"hi", 1, domain)


class LocalDomains(Loopback):
    """Our stack with two domains, and a peer's stack."""

    def setUp(self) -> None:
        super().setUp()
        self.ours = tls_config(
            self.ca,
            ("first", self.issue(FIRST, [FIRST, f"sip.{FIRST}"])),
            ("second", self.issue(SECOND, [SECOND, f"sip.{SECOND}"])),
        )
        self.peer_config = tls_config(self.ca, ("peer", self.issue("peer.example")))

    def pair(self) -> tuple[SipStack, SipStack, Any]:
        """Return our stack, the peer's, and what the peer's user has heard."""
        client, _, _ = real_stack(reactor, self.ours)
        server, user, _ = real_stack(reactor, self.peer_config)
        self.stacks += [client, server]
        client.hosts = {SECOND: f"sip.{SECOND}"}
        return client, server, user

    def hops(self, server: SipStack, sender: str, **options: Any) -> list[Hop]:
        """Return where a request of a local domain goes, as the routes say."""
        next_hop = Hop("tls", "127.0.0.1", server.ports["outside"], "peer.example", **options)

        class Fixed(StaticRoute):
            def resolve(self, query: RouteQuery) -> list[Hop]:
                return [next_hop]

        found: list[Resolution] = []
        router = Router([Fixed()], Metrics(), certificates={SECOND: "second"})
        router.resolve(RouteQuery("MESSAGE", f"x@{sender}", "bob@peer.example"), found.append)
        assert isinstance(found[0], list)
        return found[0]

    async def test_peer_that_checks_names(self) -> None:
        """Each domain has a connection whose certificate proves it, and no other domain."""
        client, server, user = self.pair()
        for domain in (FIRST, SECOND, FIRST):
            outcome = Outcome()
            client.request(of(domain), self.hops(server, domain)[0], outcome)
            await outcome.done
            self.assertEqual(outcome.statuses, [200])
        policy = PeerPolicy([SipDomainConfig(FIRST), SipDomainConfig(SECOND)])
        self.assertEqual(len(client.pool), 2)
        for _, request, flow in user.requests:
            sender = request.from_.uri.host
            other = SECOND if sender == FIRST else FIRST
            peer = (flow.peer.names, flow.peer.proven, "tls", flow.remote[0])
            self.assertIsNone(policy.may_speak_for(sender, *peer))
            self.assertIsNotNone(policy.may_speak_for(other, *peer))
            advertised = "127.0.0.1" if sender == FIRST else f"sip.{SECOND}"
            self.assertEqual(request.via.host, advertised)

    async def test_the_route_has_the_last_word(self) -> None:
        """A certificate that a route or the foreign domain names is shown whoever writes."""
        _, server, _ = self.pair()
        (hop,) = self.hops(server, SECOND, certificate="first")
        self.assertEqual(hop.certificate, "first")
        (hop,) = self.hops(server, SECOND, certificate="none")
        self.assertEqual(hop.certificate, "none")
        self.assertEqual(self.hops(server, SECOND)[0].certificate, "second")

    async def test_contact(self) -> None:
        """Contact and the session description name the domain's host with the listener's port."""
        client, _, _ = self.pair()
        port = client.ports["outside"]
        self.assertEqual(
            client.contact("bob", "tls", domain=SECOND),
            f"<sip:bob@sip.{SECOND}:{port};transport=tls>",
        )
        self.assertEqual(client.advertised("tls", domain=SECOND), (f"sip.{SECOND}", port))
        self.assertEqual(client.advertised("tls", domain=FIRST), ("127.0.0.1", port))

    async def asked(self, config: TlsConfig, name: str) -> str:
        """Connect and ask for a name; return the common name of the certificate that is shown."""
        server, _, _ = real_stack(reactor, config, "none")
        self.stacks.append(server)
        context = SSL.Context(SSL.TLS_METHOD)
        layer = await plain_client(server, context, name.encode())
        await layer.wrappedProtocol.answer
        shown = layer.getHandle().get_peer_certificate(as_cryptography=True)
        layer.loseConnection()
        return str(shown.subject.rfc4514_string()).removeprefix("CN=")

    async def test_incoming(self) -> None:
        """A peer that asks for a name of the second domain sees its certificate; others the first."""
        self.assertEqual(await self.asked(self.ours, f"sip.{SECOND}"), SECOND)
        self.assertEqual(await self.asked(self.ours, "whatever.example"), FIRST)

    async def test_incoming_as_configured(self) -> None:
        """Which certificate is shown for a name may be said, whatever the certificates carry."""
        config = TlsConfig(
            self.ours.certificates, self.ours.ca, asked=((f"sip.{FIRST}", "second"),)
        )
        self.assertEqual(await self.asked(config, f"sip.{FIRST}"), SECOND)
        self.assertEqual(await self.asked(config, FIRST), FIRST)

    async def test_answer_over_a_new_connection(self) -> None:
        """An answer whose connection is gone goes over one that shows the domain's certificate."""
        client, server, _ = self.pair()
        client.certificates = {SECOND: "second"}
        client.user.answer = 0
        arrived = client.user.arrival = Deferred()
        model = of(SECOND)
        request = OutgoingRequest(
            "MESSAGE", f"sip:bob@{SECOND}",
            [(n, f"<sip:bob@{SECOND}>" if n == "To" else v) for n, v in model.headers], b"", 1,
            "back",
        )  # fmt: skip
        hop = Hop("tls", "127.0.0.1", client.ports["outside"], FIRST)
        outcome = Outcome()
        server.request(request, hop, outcome)
        transaction, _, flow = await arrived
        flow.abort("gone")
        client.respond(transaction, 200)
        await outcome.done
        self.assertEqual(outcome.statuses, [200])
        names = [flow.peer.names for flow in server.incoming.flows]
        self.assertIn(frozenset({SECOND, f"sip.{SECOND}"}), names)
