"""Relay tokens: what they say, and every way in which one may count for nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.headers import parse_name_addr
from impfed.sip.relay_token import Flaw, RelayTokens, token_of
from impfed.sip.uri import SipUri

NOW = 1_790_000_000.0
SECRET = b"only the nodes know this"


class RelayTokenTests(SynchronousTestCase):
    """Two nodes of one organisation."""

    def setUp(self) -> None:
        self.node2 = RelayTokens("node2", SECRET, 3600.0)
        self.router = RelayTokens("router", SECRET, 3600.0)
        self.token = self.node2.token("call", "tag", NOW)

    def test_any_node_reads_it(self) -> None:
        """A node finds the owner of another one's dialog, and the owner itself does."""
        for node in (self.router, self.node2):
            self.assertEqual(node.owner(self.token, "call", "tag", NOW), "node2")

    def test_in_a_contact(self) -> None:
        """The token is a parameter of the Contact's URI, which stays one that anybody can read."""
        contact = self.node2.contact(
            "<sip:bob@203.0.113.10:45062;transport=tls>", "call", "tag", NOW
        )
        uri = parse_name_addr(contact).uri
        assert isinstance(uri, SipUri)
        self.assertEqual((uri.user, uri.port, uri.param("transport")), ("bob", 45062, "tls"))
        self.assertEqual(token_of(uri), self.token)
        self.assertLess(len(self.token), 50)

    def test_forged(self) -> None:
        """What was changed anywhere, made up, or signed with another secret is forged."""
        other = RelayTokens("node2", b"another secret altogether", 3600.0)
        signature, minutes, _ = self.token.split("-")
        attempts = [
            f"{signature}-{minutes}-router",  # another owner
            f"{signature}-{int(minutes, 16) + 600:x}-node2",  # a longer life
            f"{signature[:-1]}{'a' if signature[-1] != 'a' else 'b'}-{minutes}-node2",
            f"{'a' * 30}-{minutes}-node2",
            other.token("call", "tag", NOW),
            self.token.upper(),
            f"{self.token}x",
            "",
            "node2",
            "10.0.0.66:5062",
            f"{self.token}\r\nRoute: <sip:x>",
            "a" * 100_000,
        ]
        for attempt in attempts:
            self.assertIs(self.router.owner(attempt, "call", "tag", NOW), Flaw.FORGED, attempt[:50])

    def test_replayed_into_another_dialog(self) -> None:
        """A good token counts in its own dialog only: Call-ID and our tag are in it."""
        for call_id, tag in (("other", "tag"), ("call", "other"), ("tag", "call"), ("callt", "ag")):
            found = self.router.owner(self.token, call_id, tag, NOW)
            self.assertIs(found, Flaw.OTHER_DIALOG, (call_id, tag))

    def test_expired(self) -> None:
        """It is good for its whole lifetime, and not a minute and a half longer."""
        self.assertEqual(self.router.owner(self.token, "call", "tag", NOW + 3599.0), "node2")
        found = self.router.owner(self.token, "call", "tag", NOW + 3690.0)
        self.assertIs(found, Flaw.EXPIRED)

    def test_every_flaw_has_its_words(self) -> None:
        """No two reasons read the same."""
        self.assertEqual(len({flaw.value for flaw in Flaw}), len(Flaw))

    def test_branches(self) -> None:
        """A branch tells whose it is, the gateway's as the proxy's, and nobody can put in another name."""
        proxied = "z9hG4bK1a" + self.node2.mark + f".{'0' * 16}"
        for branch in ("z9hG4bK00ff" + self.node2.mark, proxied):
            self.assertTrue(branch.startswith("z9hG4bK"))
            self.assertEqual(self.router.branch_owner(branch), "node2")
            self.assertEqual(self.router.branch_owner(branch.replace("node2", "router")), "")
        for strange in ("", "z9hG4bK00ff", f"z9hG4bK00ff-{'0' * 20}-node2", "x" * 100_000):
            self.assertEqual(self.router.branch_owner(strange), "")

    def test_a_token_is_no_branch(self) -> None:
        """What was signed for one purpose counts for no other."""
        signature = self.token[10:30]
        self.assertEqual(self.router.branch_owner(f"z9hG4bK00ff-{signature}-node2"), "")
        self.assertNotEqual(self.node2.sign("a", "b"), self.node2.sign("ab"))

    @given(st.text(min_size=1, max_size=40).filter(str.strip), st.text(max_size=20))
    def test_any_name(self, name: str, call_id: str) -> None:
        """Any node name survives the way through a URI and a Via."""
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            return
        node = RelayTokens(name, SECRET)
        uri = SipUri.parse(f"sip:a@h;relay={node.token(call_id, 't', NOW)}")
        self.assertEqual(self.router.owner(token_of(uri) or "", call_id, "t", NOW), name)
        branch = "z9hG4bK0a" + node.mark
        self.assertTrue(branch.isascii())
        self.assertEqual(self.router.branch_owner(branch), name)

    @given(st.text(max_size=80))
    def test_nonsense(self, text: str) -> None:
        """Whatever a peer makes up is refused, and breaks nothing."""
        self.assertIsInstance(self.router.owner(text, "call", "tag", NOW), Flaw)
        self.assertEqual(self.router.branch_owner(text), "")
