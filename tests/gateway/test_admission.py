"""Who may pass: the gate in front of everything else (SPEC section 8)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.testing.fakes import FakeFlow
from tests.gateway.harness import World


class AdmissionTests(SynchronousTestCase):
    """From outside in: a proven foreign sender, an exactly local recipient, no way beyond us."""

    def status(self, flow=None, **invitation) -> int:
        self.world = World()
        self.world.romeo_invites_only(flow=flow, **invitation)
        return self.world.stack.last_answer().status

    def test_welcome(self) -> None:
        """The ordinary case passes."""
        self.assertEqual(self.status(), 200)

    def test_open_relay_attempts(self) -> None:
        """Every way to be sent somewhere else, or to be somebody else, is refused."""
        for why, expected, invitation in (
            ("recipient of another domain", 404, {"to": "x@elsewhere.example"}),
            ("recipient under a local domain", 404, {"to": "x@sub.home.example"}),
            ("recipient by IP address", 404, {"to": "alice@192.0.2.1"}),
            ("maddr", 403, {"to": "alice@home.example;maddr=192.0.2.1"}),
            ("sips", 416, {"scheme": "sips"}),
            ("another route", 403, {"extra": "Route: <sip:elsewhere.example;lr>"}),
            ("sender of a local domain", 403, {"sender": "carol@home.example"}),
            ("sender of an unknown domain", 403, {"sender": "x@unknown.example"}),
            ("sender under the foreign domain", 403, {"sender": "x@sub.lync.example"}),
            ("contradicting identity", 403, {"extra": "P-Asserted-Identity: <sip:x@bank.example>"}),
        ):
            self.assertEqual(self.status(**invitation), expected, why)
            self.assertEqual(self.world.im.view(), [], why)

    def test_our_own_route(self) -> None:
        """A Route that names us is no way beyond us."""
        self.assertEqual(self.status(extra="Route: <sip:fed.home.example:5061;lr>"), 200)

    def test_certificate_of_another(self) -> None:
        """A certificate of somebody else is refused, and the log names expected and found."""
        self.assertEqual(self.status(flow=FakeFlow(["mallory.example"])), 403)
        self.assertEqual(self.world.metrics.value("gateway.sender_refused"), 1)

    def test_nobody_speaks_in_anothers_session(self) -> None:
        """A request inside a dialog from another sender gets 481."""
        self.assertEqual(self.status(), 200)
        tag = self.world.stack.last_answer().message.to_tag
        self.world.far_sends(
            f"""MESSAGE sip:alice@fed.home.example SIP/2.0
            Via: SIP/2.0/TLS 192.0.2.10:5061;branch=z9hG4bKother
            Max-Forwards: 70
            From: <sip:tybalt@lync.example>;tag=r1
            To: <sip:alice@home.example>;tag={tag}
            Call-ID: c1
            CSeq: 2 MESSAGE
            Content-Type: text/plain""",
            "I am Romeo",
        )
        self.assertEqual(self.world.stack.last_answer().status, 481)
        self.assertEqual(self.world.home.deliveries, [])
