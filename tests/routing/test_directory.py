"""The directories of local users."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from impfed.core.metrics import Metrics
from impfed.routing.api import Existence, IDirectory
from impfed.routing.directory import Directory, FileDirectory


class FileDirectoryTests(SynchronousTestCase):
    """A file of users is the whole truth for its domains."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("# people\nalice\n\nBob@other.example\n")
        self.directory = FileDirectory(self.path, ["home.example", "other.example"])

    def test_interface(self) -> None:
        """It provides what a directory plugin has to."""
        verifyObject(IDirectory, self.directory)

    def test_lookup(self) -> None:
        """A bare name exists in every domain of the file, a full address only in its own."""
        for address, existence in (
            ("alice@home.example", Existence.EXISTS),
            ("ALICE@other.example", Existence.EXISTS),
            ("bob@other.example", Existence.EXISTS),
            ("bob@home.example", Existence.ABSENT),
            ("alice@elsewhere.example", Existence.UNKNOWN),
        ):
            self.assertIs(self.directory.lookup(address), existence, address)

    def test_changes_are_noticed(self) -> None:
        """A user added to the file exists from the next look-up on."""
        self.path.write_text("carol\n")
        os.utime(self.path, (1, 1))
        self.assertIs(self.directory.lookup("carol@home.example"), Existence.EXISTS)

    def test_the_last_content_serves_on(self) -> None:
        """While the file cannot be read, what it said last still holds."""
        self.path.unlink()
        self.assertIs(self.directory.lookup("alice@home.example"), Existence.EXISTS)


class ScriptedDirectory:
    """A directory that answers what the test says."""

    name = "scripted"

    def __init__(self, answer) -> None:
        self.answer = answer

    def lookup(self, address):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class DirectoryTests(SynchronousTestCase):
    """The directory of the user's domain is asked, and a broken one tells nothing."""

    def ask(self, answer, address="alice@home.example"):
        answers = []
        metrics = Metrics()
        Directory({"home.example": ScriptedDirectory(answer)}, metrics).lookup(
            address, answers.append
        )
        return answers

    def test_no_directory(self) -> None:
        """A domain without a directory is unknown ground."""
        self.assertEqual(self.ask(None, "x@other.example"), [Existence.UNKNOWN])

    def test_answers(self) -> None:
        """An answer passes, at once or late."""
        self.assertEqual(self.ask(Existence.ABSENT), [Existence.ABSENT])
        later: Deferred = Deferred()
        answers = self.ask(later)
        self.assertEqual(answers, [])
        later.callback(Existence.EXISTS)
        self.assertEqual(answers, [Existence.EXISTS])

    def test_failures(self) -> None:
        """A directory that raises or fails is logged, and the user's existence stays unknown."""
        self.assertEqual(self.ask(ValueError("bug")), [Existence.UNKNOWN])
        later: Deferred = Deferred()
        answers = self.ask(later)
        later.errback(ValueError("bug"))
        self.assertEqual(answers, [Existence.UNKNOWN])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
