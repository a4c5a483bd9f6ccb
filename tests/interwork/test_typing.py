"""Typing notices in both dialects."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from impfed.interwork.typing import iscomposing, keyboard_activity, read_typing
from impfed.sip.headers import parse_media_type
from impfed.sip.message import parse_message

DATA = Path(__file__).parent.parent / "data"
XML = parse_media_type("application/xml")
ISCOMPOSING = parse_media_type("application/im-iscomposing+xml")


class TypingTests(SynchronousTestCase):
    """KeyboardActivity and RFC 3994."""

    def test_wire_samples(self) -> None:
        """The samples of the Microsoft dialect are read."""
        for name, state in (
            ("info-typing-in", "composing"),
            ("info-idle-in", "active"),
            ("message-iscomposing-active-in", "composing"),
            ("message-iscomposing-idle-in", "active"),
        ):
            message = parse_message((DATA / f"wire/lync/{name}.sip").read_bytes())
            self.assertEqual(read_typing(message.content_type, message.body), state)

    def test_rfc3994_examples(self) -> None:
        """The documents printed in RFC 3994 are read."""
        for name, state in (("01", "composing"), ("02", "active")):
            data = (DATA / f"presence/rfc3994-{name}-isComposing.xml").read_bytes()
            self.assertEqual(read_typing(ISCOMPOSING, data), state)

    def test_written(self) -> None:
        """What we write is byte for byte what Microsoft writes, and is read back."""
        for name, composing in (("info-typing-out", True), ("info-idle-out", False)):
            message = parse_message((DATA / f"wire/lync/{name}.sip").read_bytes())
            self.assertEqual(keyboard_activity(composing), message.body)
        for composing, state in ((True, "composing"), (False, "active")):
            self.assertEqual(read_typing(XML, keyboard_activity(composing)), state)
            self.assertEqual(read_typing(ISCOMPOSING, iscomposing(composing)), state)

    def test_anything_else(self) -> None:
        """What is no typing notice is none, and never an error."""
        for media, body in (
            (None, b""),
            (parse_media_type("text/plain"), b"hello"),
            (XML, b"not xml"),
            (XML, b"<other/>"),
            (XML, b"<KeyboardActivity/>"),
            (XML, b"<KeyboardActivity><status status='sleeps'/></KeyboardActivity>"),
            (ISCOMPOSING, b"<!DOCTYPE x><isComposing/>"),
        ):
            self.assertIsNone(read_typing(media, body))
