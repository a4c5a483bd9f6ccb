"""What a stack with relay tokens writes into what it sends: each Contact and branch tells the owner."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.config.model import ListenerConfig
from impfed.sip.message import OutgoingRequest, SipMessage, parse_message
from impfed.sip.relay_token import RelayTokens, token_of
from impfed.sip.target import Hop
from impfed.sip.uri import SipUri
from tests.transport.sip_kit import MemoryStack, Outcome, answer_to, outgoing, request_bytes

HOP = Hop("tcp", "192.0.2.50", 5060)
LISTENER = ListenerConfig("a", "tcp", "::", 1, "203.0.113.10", 45062)
SHARED = ListenerConfig(
    "a", "tcp", "::", 1, "203.0.113.10", 45062,
    contact_host="federation.company.example", contact_port=5061,
)  # fmt: skip


class MarkTests(SynchronousTestCase):
    """A node called node2, read by another one."""

    def setUp(self) -> None:
        self.memory = MemoryStack([LISTENER])
        self.stack = self.memory.stack
        self.stack.tokens = RelayTokens("node2", b"shared")
        self.other = RelayTokens("router", b"shared")

    def owner(self, message: SipMessage, call_id: str, tag: str) -> object:
        """Return whom another node takes for the owner by a message's Contact."""
        contact = message.contact
        assert contact is not None and isinstance(contact.uri, SipUri)
        now = self.stack.timers.seconds()
        return self.other.owner(token_of(contact.uri) or "", call_id, tag, now)

    def sent(self, method: str, contact: str = "") -> SipMessage:
        """Return a request as it went out."""
        plain = outgoing(method)
        headers = [*plain.headers, ("Contact", contact)] if contact else plain.headers
        request = OutgoingRequest(method, plain.uri, headers, b"", 1, plain.call_id)
        self.stack.request(request, HOP, Outcome())
        return parse_message(self.memory.connected().take())

    def test_requests(self) -> None:
        """INVITE, SUBSCRIBE and NOTIFY carry the token of their dialog, each with its own."""
        for method in ("INVITE", "SUBSCRIBE", "NOTIFY"):
            self.setUp()
            contact = self.stack.contact("bob", "tcp")
            sent = self.sent(method, contact)
            self.assertEqual(self.owner(sent, "out-1", "a1"), "node2")
            self.assertIn("<sip:bob@203.0.113.10:45062;transport=tcp;relay=", sent.head)

    def test_branch(self) -> None:
        """The branch tells the owner, and the answer finds its transaction by it."""
        outcome = Outcome()
        self.stack.request(outgoing(), HOP, outcome)
        peer = self.memory.connected()
        data = peer.take()
        self.assertEqual(self.other.branch_owner(parse_message(data).via.branch), "node2")
        self.memory.receive(peer, answer_to(data))
        self.assertEqual(outcome.statuses, [200])

    def test_answers(self) -> None:
        """Our 2xx carries the token of the dialog that it makes."""
        peer = self.memory.accept()
        self.memory.receive(peer, request_bytes("INVITE"))
        transaction = self.memory.user.requests[0][0]
        headers = (("Contact", self.stack.contact("alice", "tcp")), ("Allow", "INVITE"))
        self.stack.respond(transaction, 200, to_tag="ours", headers=headers)
        self.memory.turn()
        answer = parse_message(peer.take())
        self.assertEqual(self.owner(answer, "call-1", "ours"), "node2")
        self.assertEqual(answer.get("allow"), "INVITE")

    def test_shared_contact(self) -> None:
        """With a federation routing name the Contact has that, and the Via the node's own address."""
        self.memory = MemoryStack([SHARED])
        self.stack = self.memory.stack
        self.stack.tokens = RelayTokens("node2", b"shared")
        sent = self.sent("INVITE", self.stack.contact("bob", "tcp"))
        self.assertIn("<sip:bob@federation.company.example:5061;transport=tcp;relay=", sent.head)
        self.assertEqual((sent.via.host, sent.via.port), ("203.0.113.10", 45062))
        self.assertEqual(self.owner(sent, "out-1", "a1"), "node2")

    def test_without_tokens(self) -> None:
        """A node without a secret writes what it was given."""
        self.stack.tokens = None
        contact = self.stack.contact("bob", "tcp")
        self.assertEqual(self.sent("INVITE", contact).get("contact"), contact)
