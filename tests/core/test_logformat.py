"""Log lines: their parts, their names, and what never gets into them."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from impfed.config.model import HomeConfig
from impfed.core.log import EventLog
from impfed.core.logformat import log_observer


class LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stream = StringIO()

    def log(self, form: str = "text", level: str = "info", room: str = "impfed.sip") -> EventLog:
        observer = log_observer(self.stream, form, level)
        verifyObject(ILogObserver, observer)

        def at_a_fixed_time(event: Any) -> None:
            observer({**event, "log_time": 1700000000.25})

        return EventLog(room, Logger(room, observer=at_a_fixed_time))  # type: ignore[arg-type]

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


class TextTests(LogCase):
    def test_line(self) -> None:
        """A line has time, level, stable name, conversation and sentence."""
        self.log().info("peer_refused", "{peer} was refused", peer="a.example", conversation="c1")
        self.assertEqual(
            self.stream.getvalue(),
            "2023-11-14T22:13:20.250Z info     impfed.sip.peer_refused [c1] a.example was refused"
            "\n",
        )

    def test_nobody_forges_a_line(self) -> None:
        """Line ends and escape sequences from outside are written as escapes."""
        self.log().warn("odd", "got {what}", what="x\r\n2023 error \x1b[2J", conversation="a\nb")
        self.assertEqual(self.stream.getvalue().count("\n"), 1)
        self.assertIn("x\\r\\n2023 error \\x1b[2J", self.stream.getvalue())
        self.assertIn("[a\\nb]", self.stream.getvalue())

    def test_level(self) -> None:
        """Events below the level are left out."""
        log = self.log(level="warn")
        log.info("a", "not this")
        log.warn("b", "this")
        log.error("c", "and this")
        lines = self.stream.getvalue().splitlines()
        self.assertEqual([line.split()[2] for line in lines], ["impfed.sip.b", "impfed.sip.c"])

    def test_libraries_are_quieter(self) -> None:
        """What a library calls info is a detail; its warnings are shown under its namespace."""
        observer = log_observer(self.stream)
        logger = Logger("twisted.internet", observer=observer)  # type: ignore[arg-type]
        logger.emit(LogLevel.info, "Starting factory")
        logger.emit(LogLevel.warn, "something is odd")
        self.assertEqual(self.stream.getvalue().count("\n"), 1)
        self.assertIn("twisted.internet something is odd", self.stream.getvalue())

    def test_traceback(self) -> None:
        """A failure's traceback follows its line, indented."""
        log = self.log()
        try:
            raise RuntimeError("a\x1bbug")
        except RuntimeError:
            log.failure("raised", "a call raised")
        first, *rest = self.stream.getvalue().splitlines()
        self.assertIn("critical impfed.sip.raised a call raised", first)
        self.assertTrue(all(line.startswith("    ") for line in rest))
        self.assertIn("RuntimeError: a\\x1bbug", rest[-1])

    def test_sentence_that_cannot_be_made(self) -> None:
        """A sentence whose fields are missing still gives a line."""
        self.log().info("odd", "{nothing} there")
        self.assertEqual(self.stream.getvalue().count("\n"), 1)
        self.assertIn("impfed.sip.odd", self.stream.getvalue())


class JsonTests(LogCase):
    def test_object(self) -> None:
        """An object has the same parts, and the event's fields with their types."""
        self.log("json").info(
            "refused", "{peer} got {status}", peer="a", status=403, conversation="c1", names={"n"}
        )
        [entry] = self.objects()
        self.assertEqual(
            entry,
            {
                "time": "2023-11-14T22:13:20.250Z",
                "level": "info",
                "event": "impfed.sip.refused",
                "conversation": "c1",
                "text": "a got 403",
                "peer": "a",
                "status": 403,
                "names": ["n"],
            },
        )

    def test_other_types_become_text(self) -> None:
        """Fields of other types are written as text; an object is always one line."""
        self.log("json").info("odd", "x\ny", path=Path("/x"), table={"a": b"b"})
        [entry] = self.objects()
        self.assertEqual((entry["path"], entry["table"]), ("/x", {"a": "b'b'"}))
        self.assertEqual(entry["text"], "x\ny")

    def test_field_cannot_take_the_place_of_a_part(self) -> None:
        """A field called like a part of the line does not replace it."""
        self.log("json").info("odd", "x", time="none", text="none")
        [entry] = self.objects()
        self.assertEqual((entry["time"], entry["text"]), ("2023-11-14T22:13:20.250Z", "x"))

    def test_traceback(self) -> None:
        """A failure's traceback is a field."""
        log = self.log("json")
        try:
            raise RuntimeError("bug")
        except RuntimeError:
            log.failure("raised", "a call raised")
        [entry] = self.objects()
        self.assertEqual(entry["level"], "critical")
        self.assertIn("RuntimeError: bug", entry["traceback"])


class SecretTests(LogCase):
    def test_secrets_are_never_written(self) -> None:
        """Neither a field with a secret's name, nor a home server's settings, shows the secret."""
        home = HomeConfig("p", "component", ("company.example",), secret="hush-hush")
        for form in ("text", "json"):
            log = self.log(form)
            log.info("a", "{secret} {home}", secret="hush-hush", home=home)
            log.info("b", "x", component_password="hush-hush", table={"secret": "hush-hush"})
            log.info("c", "{homes}", homes=[home])
        self.assertNotIn("hush-hush", self.stream.getvalue())
        self.assertIn("(hidden)", self.stream.getvalue())
