"""Records of the release before and of the one after can be read."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from impfed.store.encoding import decode, encode
from impfed.store.records import (
    OutboxRecord,
    Record,
)
from tests.store.contract import BOB, CAROL, samples


class Newer(Record, gc=False):
    """An outbox record as a later release may have it."""

    kind: ClassVar[str] = "outbox"
    id: str
    local: str
    foreign: str
    body: str
    urgency: int = 3

    @property
    def key(self) -> str:
        return self.id


class VersionTests(SynchronousTestCase):
    def test_next_layout(self) -> None:
        """A record of the next layout is read without what we do not know, and written as ours."""
        for body in ("hello", "odd \udcff"):
            newer = Newer("m", CAROL, BOB, body, v=OutboxRecord.version + 1)
            record = decode(OutboxRecord, encode(newer))
            self.assertEqual(record, OutboxRecord("m", CAROL, BOB, body))
            self.assertEqual(record.v, OutboxRecord.version)

    def test_layout_before(self) -> None:
        """A record that lacks newer fields has their defaults."""
        old = OutboxRecord("m", CAROL, BOB, "hello")
        self.assertEqual(decode(Newer, encode(old)).urgency, 3)

    def test_layout_too_new(self) -> None:
        """Two layouts ahead nobody can know what a record says: it is left alone."""
        newer = Newer("m", CAROL, BOB, "hello", v=OutboxRecord.version + 2)
        with self.assertRaises(msgspec.ValidationError):
            decode(OutboxRecord, encode(newer))

    def test_owned_kinds_have_a_pair(self) -> None:
        """What has an owner in a cluster has the two addresses that decide on it."""
        for record in samples():
            if record.owned:
                self.assertEqual(record.pair, (CAROL, BOB))
        full = OutboxRecord("m", f"{CAROL}/phone", f"{BOB}/pc", "hello")
        self.assertEqual(full.pair, (CAROL, BOB))
