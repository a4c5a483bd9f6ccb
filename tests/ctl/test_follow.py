"""Whose message is it, what is it called, and what stays hidden."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.trace import TraceLine
from impfed.ctl.follow import concerns, label, parties, redacted
from tests.ctl.doubles import ANSWER, INVITE, STANZA

CAROL = "carol@company.example"
BOB = "bob@lync.example"


def sip(text: str) -> TraceLine:
    return TraceLine(1.0, "sip", True, "peer", text)


def xmpp(text: str) -> TraceLine:
    return TraceLine(1.0, "xmpp", True, "peer", text)


class PartiesTests(SynchronousTestCase):
    def test_both_protocols(self) -> None:
        """From and to are found in requests, answers and stanzas, bare and in lower case."""
        for line in (sip(INVITE), sip(ANSWER), xmpp(STANZA)):
            self.assertEqual(parties(line), {CAROL, BOB})

    def test_compact_and_escaped(self) -> None:
        """Compact header names and escaped users are understood."""
        line = sip(
            "NOTIFY sip:x@a.example SIP/2.0\r\nf: <sip:o%27neil@B.example>;tag=1\r\nt:sip:c@d\r\n\r\n"
        )
        self.assertEqual(parties(line), {"x@a.example", "o'neil@b.example", "c@d"})

    def test_body_is_no_party(self) -> None:
        """An address in a body makes nobody a party."""
        line = sip(INVITE + "From: <sip:eve@company.example>\r\n")
        self.assertFalse(concerns(line, "eve@company.example"))
        line = xmpp(
            "<message from='a@b' to='c@d'><body x=' from=\"e@f\"'>to='e@f'</body></message>"
        )
        self.assertEqual(parties(line), {"a@b", "c@d"})

    def test_entities(self) -> None:
        """An address with an apostrophe is found through its entity."""
        self.assertTrue(concerns(xmpp("<iq to='o&apos;neil@b.example'/>"), "O'Neil@b.example"))

    def test_domain(self) -> None:
        """A domain stands for everybody there, exactly."""
        self.assertTrue(concerns(sip(INVITE), "lync.example"))
        self.assertFalse(concerns(sip(INVITE), "example"))
        self.assertTrue(
            concerns(xmpp("<iq from='lync.example' to='company.example'/>"), "Lync.example")
        )

    def test_nonsense(self) -> None:
        """What is no message belongs to nobody and has a name nevertheless."""
        for text in ("", "\r\n\r\n", "<", "\x00"):
            self.assertFalse(concerns(sip(text), CAROL))
            self.assertFalse(concerns(xmpp(text), CAROL))
            label(sip(text))
            self.assertEqual(label(xmpp(text)), "XML")


class RedactionTests(SynchronousTestCase):
    def test_hostile_text(self) -> None:
        """Texts made to keep a search busy are looked at in no time, and come out whole."""
        for text in ("From: " + "sip::" * 50_000, "\r\n".join(["t:" + "sip:" * 900] * 100)):
            parties(sip(text))
            self.assertEqual(redacted(sip(text)), text)
        for text in ("<auth" * 50_000, "<auth>" * 50_000, "<" * 250_000, "<a:" * 80_000):
            parties(xmpp(text))
            self.assertEqual(redacted(xmpp(text)), text)

    def test_sip_credentials(self) -> None:
        """Authorization headers are hidden in any case, folded lines included, the rest stays."""
        hidden = redacted(sip(INVITE.replace("Proxy-Authorization", "AUTHORIZATION")))
        self.assertNotIn("tops3cret", hidden)
        self.assertIn("AUTHORIZATION: (hidden)\r\nContent-Type", hidden)

    def test_xmpp_credentials(self) -> None:
        """Handshakes, passwords and SASL are hidden, texts are not."""
        for name in ("handshake", "password", "auth", "response"):
            self.assertEqual(
                redacted(xmpp(f"<{name} a='b'>x</{name}>")), f"<{name} a='b'>(hidden)</{name}>"
            )
        self.assertEqual(redacted(xmpp(STANZA)), STANZA)


class LabelTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Requests, answers and stanzas have the names that people use."""
        self.assertEqual(label(sip(INVITE)), "INVITE")
        self.assertEqual(label(sip(ANSWER)), "200 OK (INVITE)")
        self.assertEqual(label(xmpp(STANZA)), "message chat")
        self.assertEqual(label(xmpp('<presence type="subscribe" to="a@b"/>')), "presence subscribe")
        self.assertEqual(label(xmpp("<presence/>")), "presence")
