"""Texts: what is read from SIP bodies, what leaves in stanzas, long ones in pieces."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from impfed.interwork.text import (
    EncryptedOnly,
    UnsupportedMedia,
    embedded_text,
    outgoing_text,
    read_text,
    split_text,
)
from impfed.interwork.xhtml import reduce_html
from impfed.sip.headers import parse_media_type
from impfed.sip.message import SipRequest, parse_message
from impfed.testing.fakes import stanza

WIRE = Path(__file__).parent.parent / "data/wire/lync"


PIECES = [*"<>/\"'=&;!- abpi#x0\x00", "<a href=", "'https://x/'", "<b>", "</b>", "<p ", "<!--"]


def sample(name: str) -> SipRequest:
    """A request of the Microsoft dialect."""
    message = parse_message((WIRE / f"{name}.sip").read_bytes())
    assert isinstance(message, SipRequest)
    return message


def plain(media: str, body: bytes) -> str:
    """The plain text of a body."""
    return read_text(parse_media_type(media), body).plain


class ReadTests(SynchronousTestCase):
    """MESSAGE bodies."""

    def test_wire_samples(self) -> None:
        """The samples of the Microsoft dialect give the texts that their index names."""
        for name, text in (
            ("message-in-text-plain", "But soft, what light – ça va? 😀"),
            ("message-in-text-plain-msgr", "It is the east"),
            ("message-in-text-html", "and Juliet is the sun & moon\nsecond line"),
            ("message-in-multipart-alternative", "parting is such"),
        ):
            message = sample(name)
            self.assertEqual(read_text(message.content_type, message.body).plain, text)

    def test_unsupported(self) -> None:
        """Other types are 415 and say what is read."""
        for name in ("message-in-image-gif", "message-in-text-rtf", "message-in-x-msmsgsinvite"):
            message = sample(name)
            error = self.assertRaises(
                UnsupportedMedia, read_text, message.content_type, message.body
            )
            self.assertEqual(error.status, 415)
            self.assertEqual(
                error.headers, (("Accept", "text/plain, text/html, multipart/alternative"),)
            )

    def test_charsets(self) -> None:
        """Any charset parameter is honoured; an unknown or unfit one is read as UTF-8."""
        for media, body, text in (
            ("text/plain", "ça".encode(), "ça"),
            ("text/plain; charset=iso-8859-1", "ça".encode("latin-1"), "ça"),
            ('Text/Plain; Charset="Windows-1252"', "“ça”".encode("cp1252"), "“ça”"),
            ("text/plain; charset=utf-16", "ça".encode("utf-16"), "ça"),
            ("text/plain; charset=shift_jis", "今日".encode("shift_jis"), "今日"),
            ("text/plain; charset=us-ascii", "ça".encode(), "ça"),
            ("text/plain; charset=rot13", b"abc", "abc"),
            ("text/plain; charset=punycode", b"abc-", "abc-"),
            ("text/plain; charset=../../x", b"abc", "abc"),
            ("text/plain", b"\xef\xbb\xbfabc\xff", "abc\ufffd"),
        ):
            self.assertEqual(plain(media, body), text, media)

    def test_control_characters(self) -> None:
        """What XML forbids becomes U+FFFD; line ends are LF; the last one is dropped."""
        self.assertEqual(
            plain("text/plain", b"a\x00b\x1bc\td\r\ne\rf\r\n"), "a\ufffdb\ufffdc\td\ne\nf"
        )

    def test_no_type(self) -> None:
        """A body without a type is plain text."""
        self.assertEqual(read_text(None, b"hello").plain, "hello")

    def test_multipart(self) -> None:
        """The plain part is the body and the HTML part its XHTML; either may be missing."""
        boundary = 'multipart/alternative; boundary="x y"'
        html = b"--x y\r\nContent-Type: text/html\r\n\r\n<p>one<br>two</p>\r\n"
        text = b"--x y\r\nContent-Type: text/plain\r\n\r\none\r\n"
        quoted = (
            b"--x y\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A7a\r\n"
        )
        coded = (
            b"--x y\r\nContent-Type: text/plain;\r\n charset=utf-8\r\n"
            b"Content-Transfer-Encoding: BASE64\r\n\r\n" + base64.b64encode(b"secret") + b"\r\n"
        )
        end = b"--x y--\r\n"
        self.assertEqual(plain(boundary, text + html + end), "one")
        self.assertEqual(plain(boundary, html + end), "one\ntwo")
        self.assertEqual(plain(boundary, b"preamble\r\n" + quoted + end), "ça")
        self.assertEqual(plain(boundary, coded + end), "secret")
        self.assertEqual(plain(boundary, text.rstrip()), "one")
        self.assertEqual(plain(boundary, b"--x y\r\n\r\nbare\r\n" + end), "bare")
        gif = b"--x y\r\nContent-Type: image/gif\r\n\r\nGIF\r\n"
        self.assertRaises(UnsupportedMedia, plain, boundary, gif + end)
        found = read_text(parse_media_type(boundary), text + html + end)
        self.assertIn("<br/>", found.xhtml)


class HtmlTests(SynchronousTestCase):
    """HTML to plain text and XHTML-IM."""

    def test_plain(self) -> None:
        """Line breaks, lists and link targets are kept; scripts and styles are not."""
        for source, text in (
            ("a<br>b<BR/>c", "a\nb\nc"),
            ("<p>a</p><p>b</p>", "a\nb"),
            ("<div>a<div>b</div></div>c", "a\nb\nc"),
            ("a\n  b\t c", "a b c"),
            ("<pre>a\n  b</pre>", "a\n  b"),
            ("<ul><li>a</li><li>b</li></ul>", "• a\n• b"),
            ('<a href="https://x.example/y">here</a>!', "here (https://x.example/y)!"),
            ('<a href="https://x.example/">https://x.example</a>', "https://x.example"),
            ('<a href="mailto:a@b.example">a@b.example</a>', "a@b.example"),
            ('<a href="javascript:alert(1)">x</a>', "x"),
            ('<a href="https://x.example/y">open', "open (https://x.example/y)"),
            ("<style>p{}</style><script>if (a<b) c()</script>x", "x"),
            ("&lt;b&gt; &amp; &eacute;&#x1F600;&nbsp;x", "<b> & é😀 x"),
            ("1 < 2 <b>and</b> 3 > 2", "1 < 2 and 3 > 2"),
            ("<!-- no --><!DOCTYPE x>yes", "yes"),
            ("<img src=x alt=smile>", "smile"),
            ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
            ("a <b unclosed", "a <b unclosed"),
            ("<span></span>", ""),
        ):
            self.assertEqual(reduce_html(source)[0], text, source)

    def test_allow_list(self) -> None:
        """Nothing but the allow-list gets through, whatever the source tries."""
        for source in (
            "<script>alert(1)</script>x",
            '<img src="https://x.example/track.gif" onerror=alert(1)>x',
            '<a href="javascript:alert(1)" onclick="x()">x</a>',
            '<p style="background: url(https://x.example/)">x</p>',
            '<p style="color: expression(alert(1))">x</p>',
            '<iframe src="https://x.example"></iframe>x',
            "<svg><script>alert(1)</script></svg>x",
            '<a href="data:text/html,x">x</a>',
            '<a href="java\nscript:x">x</a>',
        ):
            xhtml = reduce_html(source)[1]
            for word in ("script", "alert", "url(", "onerror", "onclick", "iframe", "img", "data:"):
                self.assertNotIn(word, xhtml, source)

    def test_formatting_kept(self) -> None:
        """What is harmless stays."""
        xhtml = reduce_html('<B>a</B> <I>b</I> <u>c</u> <font style="COLOR:#ff0000">d</font>')[1]
        self.assertIn("<strong>a</strong> <em>b</em>", xhtml)
        self.assertIn("text-decoration: underline", xhtml)
        self.assertIn("color: #ff0000", xhtml)

    @given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
    def test_always_well_formed(self, source: str) -> None:
        """The XHTML is well-formed XML with allowed elements, whatever the source is."""
        _, xhtml = reduce_html(source)
        if xhtml:
            allowed = {"html", "body", "p", "span", "strong", "em", "a", "br", "blockquote"}
            for element in ElementTree.fromstring(xhtml).iter():
                self.assertIn(element.tag.rpartition("}")[2], allowed | {"cite", "ul", "ol", "li"})

    def test_linear_time(self) -> None:
        """Hostile input of 64 KiB costs well under a second, and twice of it about twice."""
        for piece in (
            "<a ",
            '<a "',
            "<!--",
            "<",
            "&#",
            "<b>",
            "<a href='x'>",
            "&#9999999999999999;",
        ):
            source = piece * (65536 // len(piece))
            start = time.process_time()
            reduce_html(source)
            self.assertLess(time.process_time() - start, 2.0, piece)


class EmbeddedTests(SynchronousTestCase):
    """The first text inside an INVITE."""

    def test_sample(self) -> None:
        """The plain form is read, the HTML form offered beside it."""
        found = embedded_text(sample("invite-in-first-message"))
        assert found is not None
        self.assertEqual(found.plain, "But soft, what light – ça va?")
        self.assertIn("But soft", found.xhtml)

    def test_none(self) -> None:
        """An INVITE without it has none."""
        self.assertIsNone(embedded_text(sample("invite-in-plain")))

    def test_broken(self) -> None:
        """What cannot be decoded is none; unpadded base64 can."""
        raw = (WIRE / "invite-in-first-message.sip").read_bytes()
        start, end = raw.index(b"ms-text-format"), raw.index(b"Content-Type: application/sdp")
        for value, text in (
            (b"text/plain; charset=UTF-8; ms-body=!!!", None),
            (b"text/plain; charset=UTF-8", None),
            (b";;;ms-body=QQ", None),
            (b"image/gif; ms-body=QUJD", None),
            (b"text/plain; charset=UTF-8; ms-body=QQ", "A"),
            (b"text/html; ms-body=" + base64.b64encode(b"<b>x</b>"), "x"),
        ):
            head = raw[:start] + b"ms-text-format: " + value + b"\r\n" + raw[end:]
            message = parse_message(head)
            assert isinstance(message, SipRequest)
            found = embedded_text(message)
            self.assertEqual(found.plain if found else None, text, value)


class SplitTests(SynchronousTestCase):
    """Long texts."""

    def test_between_words(self) -> None:
        """Cut between words where there are any."""
        self.assertEqual(split_text("one two three", 7), ["one two", "three"])
        self.assertEqual(split_text("one two three", 8), ["one two", "three"])
        self.assertEqual(split_text("abcdefgh", 3), ["abc", "def", "gh"])
        self.assertEqual(split_text("", 3), [""])

    @given(st.text(st.sampled_from("ab \n😀"), max_size=80), st.integers(1, 20))
    def test_nothing_lost(self, text: str, limit: int) -> None:
        """No piece is too long, and no word is lost or changed places."""
        pieces = split_text(text, limit)
        self.assertTrue(all(len(piece) <= limit for piece in pieces))
        self.assertEqual("".join("".join(pieces).split()), "".join(text.split()))


class OutgoingTests(SynchronousTestCase):
    """What a stanza sends."""

    def text(self, children: str) -> str | None:
        """The text that a message with these children sends."""
        head = "<message from='a@b.example/r' to='c@d.example' type='chat'>"
        return outgoing_text(stanza(f"{head}{children}</message>"))

    def test_texts(self) -> None:
        """Bodies go, corrections marked; what is no text goes nowhere."""
        for children, text in (
            ("<body>hello</body>", "hello"),
            ("<body/>", None),
            ("", None),
            ("<composing xmlns='http://jabber.org/protocol/chatstates'/>", None),
            ("<body>x</body><active xmlns='http://jabber.org/protocol/chatstates'/>", "x"),
            (
                "<body>better</body><replace id='1' xmlns='urn:xmpp:message-correct:0'/>",
                "Correction: better",
            ),
            ("<body>👍</body><reactions id='1' xmlns='urn:xmpp:reactions:0'/>", None),
            ("<body>gone</body><retract id='1' xmlns='urn:xmpp:message-retract:1'/>", None),
            ("<displayed id='1' xmlns='urn:xmpp:chat-markers:0'/>", None),
            ("<body>x</body><markable xmlns='urn:xmpp:chat-markers:0'/>", "x"),
        ):
            self.assertEqual(self.text(children), text, children)

    def test_encrypted(self) -> None:
        """Encrypted content goes back, with words for its sender."""
        for children in (
            "<body>I sent you an OMEMO message</body>"
            "<encrypted xmlns='eu.siacs.conversations.axolotl'/>",
            "<encrypted xmlns='urn:xmpp:omemo:2'/>",
            "<body>x</body><openpgp xmlns='urn:xmpp:openpgp:0'/>",
            "<body>?OTR:AAMC</body>",
        ):
            error = self.assertRaises(EncryptedOnly, self.text, children)
            self.assertEqual(error.condition, "not-acceptable")
            self.assertIn("encrypted", error.text)
