"""What every store must do, as a mixin: each implementation's test case says how to make one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from zope.interface.verify import verifyObject

from impfed.sip.dialog import Dialog
from impfed.store.api import (
    Change,
    Delete,
    Enter,
    IStore,
    Put,
    StoreError,
    StoreFault,
    StoreState,
)
from impfed.store.records import (
    AuthorizationRecord,
    HeldTextRecord,
    HopRecord,
    InboundSubscriptionRecord,
    LedgerEntry,
    LoginLinkRecord,
    OutboundSubscriptionRecord,
    OutboxRecord,
    PauseRecord,
    PolicyDefaultRecord,
    PolicyEntryRecord,
    SessionRecord,
    WebSessionRecord,
)

CAROL = "carol@company.example"
BOB = "bob@lync.example"


def dialog(call_id: str = "c1", **fields: Any) -> Dialog:
    values = {
        "call_id": call_id,
        "local_tag": "lt",
        "remote_tag": "rt",
        "local": "<sip:carol@company.example>",
        "remote": '"Bob" <sip:bob@lync.example>;epid=01',
        "remote_target": "sip:bob@lync.example;opaque=user:epid:x;gruu",
        "route_set": ("<sip:edge.lync.example:5061;transport=tls;lr;ms-key-info=A>",),
        "local_cseq": 7,
        "remote_cseq": 3,
    }
    return Dialog(**{**values, **fields})


def subscription(call_id: str = "c1", **fields: Any) -> InboundSubscriptionRecord:
    """Return one with these values in its dialog."""
    within = dialog(call_id, **fields)
    return InboundSubscriptionRecord(CAROL, BOB, within, "active", "", 99.0, "")


def samples() -> list[Any]:
    return [
        SessionRecord(CAROL, BOB, dialog("c4"), True, True, "first", "f00d"),
        OutboxRecord("m1", CAROL, BOB, "hi \N{SNOWMAN}\n", receipt=True, received_at=12.5),
        HeldTextRecord("h1", CAROL, BOB, "c1", "first", 22.25),
        InboundSubscriptionRecord(
            CAROL, BOB, dialog("c2"), "active", "", 99.0, "application/pidf+xml", "open|busy",
            HopRecord("tls", "edge.lync.example", 5061, "sip.lync.example"),
        ),
        OutboundSubscriptionRecord(CAROL, BOB, dialog("c3"), "active", 5.0, "away", False, 4.0),
        AuthorizationRecord(CAROL, BOB, "approved", "declined", 3.0),
        PolicyEntryRecord(CAROL, "lync.example", "block", 4.0),
        PolicyDefaultRecord(CAROL, "block", 4.5),
        LoginLinkRecord("u1", CAROL, "d1", 6.0),
        WebSessionRecord("d2", CAROL, "csrf", 7.0, 8.0, ["Done."]),
    ]  # fmt: skip


def entry(id: str, received_at: float = 1.0, **fields: Any) -> LedgerEntry:
    values = {"direction": "in", "local": CAROL, "foreign": BOB, "received_at": received_at}
    return LedgerEntry(id=id, **{**values, **fields})


class StoreContract:
    """The tests; :meth:`make_store` returns a store that is not started."""

    store: Any

    def make_store(self) -> Any:
        raise NotImplementedError

    @inlineCallbacks
    def setUp(self) -> Any:
        self.store = self.make_store()
        self.running = True
        yield self.store.start()
        self.addCleanup(self.stop)  # type: ignore[attr-defined]

    def stop(self) -> Deferred[None] | None:
        if self.running:
            self.running = False
            return self.store.stop()
        return None

    def written(self, *changes: Change) -> Deferred[None]:
        confirmed: Deferred[None] = Deferred()

        def done(error: BaseException | None) -> None:
            if error is None:
                confirmed.callback(None)
            else:
                confirmed.errback(error)

        self.store.write(changes, done)
        return confirmed

    def test_interface(self) -> None:
        """The store provides the whole interface."""
        verifyObject(IStore, self.store)

    @inlineCallbacks
    def test_state_is_told(self) -> Any:
        """A running store is up; who observes it hears of its end and of its return."""
        heard: list[StoreState] = []
        self.store.observe(heard.append)
        self.assertIs(self.store.state, StoreState.UP)
        yield self.store.stop()
        yield self.store.start()
        self.assertEqual(heard, [StoreState.CLOSED, StoreState.UP])

    @inlineCallbacks
    def test_every_kind_comes_back_equal(self) -> Any:
        """A record of each kind is loaded as it was written."""
        yield self.written(*(Put(record) for record in samples()))
        for record in samples():
            loaded = yield self.store.load(type(record))
            self.assertEqual(loaded, [record])

    @inlineCallbacks
    def test_load_is_in_order_of_keys(self) -> Any:
        """Records come in order of keys, whatever the order they were written in."""
        for id in ("b", "c", "a"):
            self.store.write([Put(OutboxRecord(id, CAROL, BOB, "x"))])
        loaded = yield self.store.load(OutboxRecord)
        self.assertEqual([record.id for record in loaded], ["a", "b", "c"])

    @inlineCallbacks
    def test_get(self) -> Any:
        """Of the records that are asked for by their keys those come that are there."""
        yield self.written(*(Put(PauseRecord(key, "lync.example", 5.0)) for key in "abc"))
        found = yield self.store.get(PauseRecord, ["a", "c", "d"])
        self.assertEqual({key: each.key for key, each in found.items()}, {"a": "a", "c": "c"})
        self.assertEqual((yield self.store.get(PauseRecord, [])), {})

    @inlineCallbacks
    def test_pull(self) -> Any:
        """Of several that pull a record one gets it, and it is there no longer."""
        record = PauseRecord("a", "lync.example", 5.0)
        self.store.write([Put(record)])
        pulled = yield gatherResults([self.store.pull(PauseRecord, "a") for _ in range(5)])
        self.assertEqual([each for each in pulled if each is not None], [record])
        self.assertEqual((yield self.store.load(PauseRecord)), [])
        self.assertIsNone((yield self.store.pull(PauseRecord, "b")))

    @inlineCallbacks
    def test_put_replaces(self) -> Any:
        """A second record of one key takes the place of the first."""
        yield self.written(Put(OutboxRecord("m", CAROL, BOB, "x")))
        yield self.written(Put(OutboxRecord("m", CAROL, BOB, "x", attempts=1)))
        loaded = yield self.store.load(OutboxRecord)
        self.assertEqual([record.attempts for record in loaded], [1])

    @inlineCallbacks
    def test_delete_of_one_kind_leaves_the_other(self) -> Any:
        """Removing a record touches no record of another kind with the same key."""
        outbound = OutboundSubscriptionRecord(CAROL, BOB)
        yield self.written(Put(AuthorizationRecord(CAROL, BOB)), Put(outbound))
        yield self.written(Delete(OutboundSubscriptionRecord, outbound.key))
        self.assertEqual((yield self.store.load(OutboundSubscriptionRecord)), [])
        self.assertEqual(len((yield self.store.load(AuthorizationRecord))), 1)

    @inlineCallbacks
    def test_delete_of_nothing_is_confirmed(self) -> Any:
        """Removing what is not there is no error."""
        yield self.written(Delete(OutboxRecord, "nothing"))

    @inlineCallbacks
    def test_last_change_of_a_key_counts(self) -> Any:
        """Within one write, and in writes that share a commit, the last change of a key counts."""
        record = OutboxRecord("m", CAROL, BOB, "x")
        self.store.write([Put(record), Delete(OutboxRecord, "m")])
        self.store.write([Delete(OutboxRecord, "n"), Put(OutboxRecord("n", CAROL, BOB, "y"))])
        loaded = yield self.store.load(OutboxRecord)
        self.assertEqual([record.id for record in loaded], ["n"])

    @inlineCallbacks
    def test_later_change_of_the_record_is_not_seen(self) -> Any:
        """The store keeps what the record said when write was called."""
        record = OutboxRecord("m", CAROL, BOB, "x")
        self.store.write([Put(record)])
        record.attempts = 9
        loaded = yield self.store.load(OutboxRecord)
        self.assertEqual(loaded[0].attempts, 0)

    @inlineCallbacks
    def test_confirmations_keep_the_order(self) -> Any:
        """Each done is called once, in the order of the writes, and then nothing is outstanding."""
        order: list[tuple[int, BaseException | None]] = []
        for number in range(50):
            self.store.write(
                [Put(OutboxRecord(str(number), CAROL, BOB, "x"))],
                lambda error, number=number: order.append((number, error)),
            )
        yield self.written(Delete(OutboxRecord, "0"))
        self.assertEqual(order, [(number, None) for number in range(50)])
        self.assertEqual(self.store.backlog, 0)

    @inlineCallbacks
    def test_raising_callback_stops_nobody(self) -> Any:
        """A done that raises is logged, and the next ones are called."""

        def raising(error: BaseException | None) -> None:
            raise RuntimeError("a bug of the caller")

        self.store.write([Delete(OutboxRecord, "0")], raising)
        yield self.written(Delete(OutboxRecord, "1"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)  # type: ignore[attr-defined]

    @inlineCallbacks
    def test_each(self) -> Any:
        """Many records come in portions, all of them once."""
        count = 4500
        texts = [OutboxRecord(f"{number:05}", CAROL, BOB, "x") for number in range(count)]
        for begin in range(0, count, 500):
            yield self.written(*map(Put, texts[begin : begin + 500]))
        found: list[OutboxRecord] = []
        yield self.store.each(OutboxRecord, found.extend)
        self.assertEqual(sorted(found, key=lambda record: record.key), texts)
        yield self.store.each(AuthorizationRecord, found.extend)
        self.assertEqual(len(found), count)

    @inlineCallbacks
    def test_each_fails_with_who_takes(self) -> Any:
        """What the taker raises comes back, and he gets nothing more."""
        yield self.written(Put(OutboxRecord("a", CAROL, BOB, "x")))

        def refuse(records: list[OutboxRecord]) -> None:
            raise ValueError(len(records))

        yield self.assertFailure(self.store.each(OutboxRecord, refuse), ValueError)  # type: ignore[attr-defined]

    @inlineCallbacks
    def test_octets_that_are_no_utf8_survive(self) -> Any:
        """A dialog with undecodable octets in its headers comes back with the same octets."""
        odd = subscription(
            remote='"\udcfcber\udc80" <sip:bob@lync.example>', route_set=("<sip:\udcff>",)
        )
        yield self.written(Put(odd))
        self.assertEqual((yield self.store.load(InboundSubscriptionRecord)), [odd])

    @inlineCallbacks
    def test_impossible_value_fails_its_own_write_only(self) -> Any:
        """A record that cannot be written down makes its own write fail, wholly, and no other."""
        bad = OutboxRecord("bad", CAROL, BOB, object())  # type: ignore[arg-type]
        first = self.written(Put(OutboxRecord("a", CAROL, BOB, "x")), Put(bad))
        second = self.written(Put(OutboxRecord("b", CAROL, BOB, "x")))
        yield self.assertFailure(first, StoreError)  # type: ignore[attr-defined]
        yield second
        loaded = yield self.store.load(OutboxRecord)
        self.assertEqual([record.id for record in loaded], ["b"])

    @inlineCallbacks
    def test_stop_confirms_everything_first(self) -> Any:
        """What was written before the stop is confirmed by the time the stop is over, and kept."""
        confirmed: list[BaseException | None] = []
        for number in range(20):
            self.store.write([Put(OutboxRecord(str(number), CAROL, BOB, "x"))], confirmed.append)
        yield self.store.stop()
        self.assertEqual(confirmed, [None] * 20)
        yield self.store.start()
        self.assertEqual(len((yield self.store.load(OutboxRecord))), 20)

    @inlineCallbacks
    def test_stop_twice(self) -> Any:
        """Stopping what does not run does nothing."""
        yield self.stop()
        yield self.store.stop()
        yield self.make_store().stop()

    @inlineCallbacks
    def test_stopped_store_refuses_in_words(self) -> Any:
        """After the stop writes and questions fail with STOPPED."""
        yield self.stop()
        for answer in (
            self.written(Delete(OutboxRecord, "0")),
            self.store.load(OutboxRecord),
            self.store.ledger(),
            self.store.purge_ledger(1.0),
        ):
            error = yield self.assertFailure(answer, StoreError)  # type: ignore[attr-defined]
            self.assertIs(error.fault, StoreFault.STOPPED)

    @inlineCallbacks
    def found(self, **query: Any) -> Any:
        entries: Sequence[LedgerEntry] = yield self.store.ledger(**query)
        return [found.id for found in entries]

    @inlineCallbacks
    def test_ledger_entry_comes_back_equal(self) -> Any:
        """Every field of a ledger entry is kept."""
        full = LedgerEntry(
            "m1", "out", CAROL, BOB, "s1", "c1", 4, "node1", 1.5, 2.25, "bounced", 480,
            "recipient-unavailable", "the far side says: not here",
        )  # fmt: skip
        yield self.written(Enter(full))
        self.assertEqual((yield self.store.ledger(id="m1")), [full])

    @inlineCallbacks
    def test_ledger_entry_is_brought_up_to_date(self) -> Any:
        """A second entry of an id updates legs and outcome; who, when and which stanza stay."""
        yield self.written(Enter(entry("m", 5.0, stanza_id="s")))
        later = entry("m", 9.0, stanza_id="other", call_id="c", finished_at=9.0, sip_status=200)
        later.outcome = "delivered"
        yield self.written(Enter(later))
        [kept] = yield self.store.ledger(id="m")
        self.assertEqual((kept.received_at, kept.stanza_id), (5.0, "s"))
        self.assertEqual((kept.call_id, kept.finished_at, kept.sip_status), ("c", 9.0, 200))
        self.assertEqual(kept.outcome, "delivered")

    @inlineCallbacks
    def test_ledger_update_within_one_commit(self) -> Any:
        """The same holds when both entries share a commit."""
        self.store.write([Enter(entry("m", 5.0, stanza_id="s"))])
        self.store.write([Enter(entry("m", 9.0, stanza_id="t", call_id="c", outcome="unsure"))])
        [kept] = yield self.store.ledger()
        self.assertEqual(kept, entry("m", 5.0, stanza_id="s", call_id="c", outcome="unsure"))

    @inlineCallbacks
    def test_ledger_is_found_by_any_id(self) -> Any:
        """A message is found by our id, by the stanza's, and by the Call-ID, never by none."""
        yield self.written(
            Enter(entry("m1", 1.0, stanza_id="s1", call_id="c")),
            Enter(entry("m2", 2.0, stanza_id="s2", call_id="c")),
            Enter(entry("m3", 3.0)),
        )
        self.assertEqual((yield self.found(id="m1")), ["m1"])
        self.assertEqual((yield self.found(id="s2")), ["m2"])
        self.assertEqual((yield self.found(id="c")), ["m2", "m1"])
        self.assertEqual((yield self.found(id="nothing")), [])

    @inlineCallbacks
    def test_ledger_is_found_by_address_on_either_side(self) -> Any:
        """An address is looked for on both sides; since and limit hold there too."""
        yield self.written(
            Enter(entry("m1", 1.0)),
            Enter(entry("m2", 2.0, local="alice@company.example")),
            Enter(entry("m3", 3.0, foreign="dave@lync.example")),
        )
        self.assertEqual((yield self.found(address=BOB)), ["m2", "m1"])
        self.assertEqual((yield self.found(address=CAROL)), ["m3", "m1"])
        self.assertEqual((yield self.found(address=CAROL, since=2.0)), ["m3"])
        self.assertEqual((yield self.found(address=CAROL, limit=1)), ["m3"])
        self.assertEqual((yield self.found(address=CAROL, id="m1")), ["m1"])
        self.assertEqual((yield self.found(address="eve@lync.example")), [])

    @inlineCallbacks
    def test_ledger_newest_first(self) -> Any:
        """Without conditions the newest come first, as many as asked for."""
        yield self.written(*(Enter(entry(f"m{number}", number)) for number in (2, 9, 4, 7)))
        self.assertEqual((yield self.found()), ["m9", "m7", "m4", "m2"])
        self.assertEqual((yield self.found(limit=2)), ["m9", "m7"])
        self.assertEqual((yield self.found(since=7.0)), ["m9", "m7"])

    @inlineCallbacks
    def test_ledger_is_purged_by_age(self) -> Any:
        """Entries received before a time go, the others stay, and the number removed is told."""
        yield self.written(*(Enter(entry(f"m{number}", number)) for number in range(5)))
        self.assertEqual((yield self.store.purge_ledger(3.0)), 3)
        self.assertEqual((yield self.found()), ["m4", "m3"])
        self.assertEqual((yield self.store.purge_ledger(3.0)), 0)

    @inlineCallbacks
    def test_ledger_of_a_user_moves_or_goes(self) -> Any:
        """A renamed user's entries are found under the new address; a removed one's are gone."""
        new = "carola@company.example"
        dave = "dave@company.example"
        yield self.written(Enter(entry("a")), Enter(entry("b")), Enter(entry("c", local=dave)))
        moved = yield self.store.move_ledger(CAROL, new)
        found = yield self.store.ledger(address=new)
        left = yield self.store.ledger(address=CAROL)
        self.assertEqual((moved, {each.id for each in found}, left), (2, {"a", "b"}, []))
        removed = yield self.store.move_ledger(new, "")
        everything = yield self.store.ledger()
        self.assertEqual((removed, [each.id for each in everything]), (2, ["c"]))

    @inlineCallbacks
    def test_ledger_octets_that_are_no_utf8(self) -> Any:
        """A Call-ID with undecodable octets is kept readable and found as it came."""
        yield self.written(Enter(entry("m", call_id="c\udcff")))
        [kept] = yield self.store.ledger(id="c\udcff")
        self.assertEqual(kept.call_id, "c\N{REPLACEMENT CHARACTER}")
