"""Records of the release before and of the one after can be read."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from impfed.store.encoding import decode, encode
from impfed.store.records import (
    AuthorizationRecord,
    InboundSubscriptionRecord,
    Memo,
    OutboundSubscriptionRecord,
    OutboxRecord,
    Record,
)
from tests.store.contract import BOB, CAROL, dialog, samples, subscription


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


class SharingTests(SynchronousTestCase):
    def test_subscriptions_of_both_directions(self) -> None:
        """What two people have in common who watch each other is one object."""
        memo: Memo = {}
        theirs = decode(InboundSubscriptionRecord, encode(subscription("a")))
        ours = OutboundSubscriptionRecord(CAROL, BOB, dialog("b"), "ACTIVE")
        ours = decode(OutboundSubscriptionRecord, encode(ours))
        theirs.share(memo)
        ours.share(memo)
        assert ours.dialog is not None
        self.assertIs(theirs.dialog.local, ours.dialog.local)
        self.assertIs(theirs.dialog.route_set, ours.dialog.route_set)

    def test_times_of_an_authorization(self) -> None:
        """Equal times are one object, such as those of decisions that were never made."""
        record = AuthorizationRecord(CAROL, BOB, "approved", "none", 4.5, 4.5)
        record = decode(AuthorizationRecord, encode(record))
        record.share({})
        self.assertIs(record.changed_at, record.inbound_at)
