"""What texts of local users hold on their way out, and that they are being typed."""

from __future__ import annotations

from dataclasses import replace

from impfed.config.model import NextHopConfig
from tests.gateway.harness import CONFIG, World
from tests.gateway.test_im_outward import OutwardCase


class ContentTests(OutwardCase):
    """What of a stanza becomes text, and what does not."""

    def test_encrypted_only(self) -> None:
        """A stanza that holds only encrypted content comes back with the reason."""
        self.world.alice_writes(
            "[fallback]", extra="<encrypted xmlns='eu.siacs.conversations.axolotl'/>"
        )
        self.assertIn("encrypted", self.world.home.sent[0].xml)
        self.assertEqual(self.outbox(), [])

    def test_correction(self) -> None:
        """A correction goes as new text, marked."""
        world = self.session()
        world.alice_writes("right", extra="<replace xmlns='urn:xmpp:message-correct:0' id='m0'/>")
        self.assertEqual(world.stack.take("MESSAGE").body, "Correction: right")

    def test_group_chat(self) -> None:
        """A room's message is refused."""
        self.world.home_sends(
            "<message from='alice@home.example/p' to='room@lync.example' type='groupchat' id='g'>"
            "<body>x</body></message>"
        )
        self.assertIn("<not-acceptable", self.world.home.sent[0].xml)

    def test_markers_and_errors_send_nothing(self) -> None:
        """Chat markers, and error stanzas about nothing that we know, end here without a word."""
        self.world.home_sends(
            "<message from='alice@home.example/p' to='romeo@lync.example' type='error' id='z'>"
            "<error type='cancel'/></message>"
        )
        self.world.home_sends(
            "<message from='alice@home.example/p' to='romeo@lync.example' id='z2'>"
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='x'/></message>"
        )
        self.assertEqual((self.world.home.sent, self.world.stack.sent), ([], []))

    def test_display_name(self) -> None:
        """The nickname becomes the display name, quoted so that it cannot leave its place."""
        self.world.alice_writes(
            "x",
            extra="<nick xmlns='http://jabber.org/protocol/nick'>A \"B\" &lt;sip:c@d&gt;</nick>",
        )
        invite = self.world.stack.take("INVITE").message
        self.assertEqual(invite.from_.display, 'A "B" <sip:c@d>')
        self.assertEqual(invite.from_.uri.host, "home.example")


class LocalTypingTests(OutwardCase):
    """Typing of the local user goes out in a session, and never opens one."""

    def state(self, name: str) -> None:
        self.world.home_sends(
            "<message from='alice@home.example/phone' to='romeo@lync.example' type='chat'>"
            f"<{name} xmlns='http://jabber.org/protocol/chatstates'/></message>"
        )

    def test_no_session(self) -> None:
        """Without a session nothing is sent."""
        self.state("composing")
        self.assertEqual(self.world.stack.sent, [])

    def test_typing_is_repeated(self) -> None:
        """Composing is repeated every five seconds, for a Microsoft client forgets it; pausing ends it."""
        world = self.session()
        self.state("composing")
        for _ in range(2):
            info = world.stack.take("INFO")
            self.assertIn('status="type"', info.body)
            info.answer(200)
            world.clock.advance(5)
        world.stack.take("INFO").answer(200)
        self.state("paused")
        self.assertIn('status="idle"', world.stack.take("INFO").body)
        world.clock.advance(20)
        self.assertEqual(world.stack.sent, [])

    def test_text_ends_typing(self) -> None:
        """A text ends the repetition by itself."""
        world = self.session()
        self.state("composing")
        world.stack.take("INFO").answer(200)
        world.alice_writes("done")
        world.stack.take("MESSAGE").answer(200)
        world.clock.advance(20)
        self.assertEqual(world.stack.sent, [])

    def test_typing_forgotten_by_the_client(self) -> None:
        """Composing that is never taken back is repeated for a minute only."""
        world = self.session()
        self.state("composing")
        world.clock.pump([5] * 30)
        self.assertEqual(len(world.stack.sent), 12)

    def test_simple_dialect(self) -> None:
        """A SIMPLE domain gets RFC 3994's notice by MESSAGE."""
        domain = replace(CONFIG.domains[1], next_hop=NextHopConfig("sip.simple.example"))
        self.world = World(replace(CONFIG, domains=(domain,)))
        world = self.world
        world.alice_writes("x", to="bob@simple.example")
        world.stack.take("INVITE").accept("<sip:bob@simple.example>")
        world.stack.take("MESSAGE").answer(200)
        world.home_sends(
            "<message from='alice@home.example/phone' to='bob@simple.example' type='chat'>"
            "<composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
        )
        notice = world.stack.take("MESSAGE")
        self.assertEqual(notice.message.content_type.essence, "application/im-iscomposing+xml")

    def test_gone(self) -> None:
        """A client that says "gone" ends the session."""
        world = self.session()
        self.state("gone")
        world.stack.take("BYE")
