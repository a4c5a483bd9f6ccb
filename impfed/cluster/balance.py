"""Takes what is a node's own now, and has what is not given away, whenever the cluster has another shape."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.python.failure import Failure

from impfed.cluster.api import ClusterUser
from impfed.cluster.membership import BEAT_EVERY, BEATING, Standing
from impfed.cluster.ownership import Pair, Placement
from impfed.cluster.post import PostOffice
from impfed.core.log import EventLog
from impfed.store.api import PASSING, StoreError
from impfed.store.coordination import NodeRow
from impfed.store.records import KINDS
from impfed.store.shared import SharedStore

_OWNED = tuple(kind for kind in KINDS.values() if kind.owned)

_log = EventLog("impfed.cluster")


class Member(Protocol):
    """The node as it stands in the cluster."""

    name: str
    placement: Placement
    nodes: tuple[NodeRow, ...]
    post: PostOffice

    @property
    def standing(self) -> Standing:
        """Where it stands."""
        ...

    @property
    def owner_of_records(self) -> ClusterUser:
        """Who serves the records."""
        ...

    def tell(self) -> None:
        """Beat at once."""
        ...

    def next_view(self) -> Deferred[None]:
        """Fire when the next beat has told what the nodes are like."""
        ...


class Balance:
    """What has been taken and given of each generation.

    :ivar settled: the last generation of which this node has taken and given everything; 0 for none.
    """

    __slots__ = ("_again", "_doubtful", "_member", "_running", "_store", "settled")

    def __init__(self, member: Member, store: SharedStore) -> None:
        self._member = member
        self._store = store
        self._running = self._again = self._doubtful = False
        self.settled = 0

    def begin(self) -> None:
        """Take and give, unless that is done, or being done."""
        settled = self.settled == self._member.placement.generation
        if self._running or (settled and not self._again and not self._doubtful):
            return
        self._running = True
        done = self._rebalance()
        done.addErrback(self._failed)
        done.addCallback(lambda _: self._ended())

    def again(self) -> None:
        """Take and give once more: something is here only for the time being."""
        self._again = True
        self.begin()

    @inlineCallbacks
    def _rebalance(self) -> Generator[Deferred[Any], Any, None]:
        member = self._member
        placement = member.placement
        self._again = False
        if self._doubtful:
            self._doubtful = False
            yield self._adopt(member.name)
        # What was given to us must be known before the others hear that we have given it on.
        yield member.post.caught_up()
        yield maybeDeferred(member.owner_of_records.release, placement)
        # Who died first comes first: what came later for its pairs lies with one that died after it.
        gone = sorted((row for row in member.nodes if not row.lives), key=lambda row: -row.age)
        dead = [row.name for row in gone]
        for owner in ("", *dead):
            yield self._adopt(owner)
        for name in dead:
            yield member.post.inherit(name)
        yield member.post.flush.wait()
        if member.placement.generation == placement.generation and member.standing in BEATING:
            self.settled = placement.generation

    @inlineCallbacks
    def _adopt(self, owner: str) -> Generator[Deferred[Any], Any, None]:
        """Take this node's share of what another had; of its own name, everything."""
        member = self._member
        for kind in _OWNED:
            records = yield self._store.load_of(owner, kind)
            if owner != member.name:
                mine = member.placement.mine
                records = [record for record in records if mine(record.pair)]
                if not records:
                    continue
                keys = [record.key for record in records]
                taken = frozenset((yield self._store.adopt(kind, owner, keys)))
                records = [record for record in records if record.key in taken]
            if records:
                _log.info(
                    "adopted",
                    "{count} {kind} records of node {owner} are ours now",
                    count=len(records),
                    kind=kind.kind,
                    owner=owner or "(nobody)",
                )
                yield maybeDeferred(member.owner_of_records.adopt, records)

    def not_given(self, failure: Failure) -> Failure:
        """Something could not be given away: with the next beat what is ours by the store is served."""
        self._doubtful = True
        return failure

    def _failed(self, failure: Failure) -> None:
        # Records may be ours by an attempt whose answer was lost.
        self._doubtful = True
        error = failure.value
        if isinstance(error, StoreError):
            _log.warn("balance_failed", "cannot take over yet: {why}", why=error.text)
        else:
            _log.failure("balance_raised", "taking over raised", failure)

    def _ended(self) -> None:
        self._running = False
        if self.settled == self._member.placement.generation:
            self._member.tell()  # the others wait for this word

    @inlineCallbacks
    def reload(self) -> Generator[Deferred[Any], Any, None]:
        """After a fence: what the others have not taken is ours again."""
        try:
            yield self._adopt(self._member.name)
        except StoreError as error:
            _log.warn("reload_failed", "cannot load what is left: {why}", why=error.text)
            if self._member.standing is Standing.MEMBER:
                self._member.post.later(BEAT_EVERY, self.reload)

    @inlineCallbacks
    def given(self, kind: str, keys: list[str]) -> Generator[Deferred[Any], Any, None]:
        """Another node has given us records: serve them; fires when that is done."""
        member = self._member
        while kind in KINDS and member.standing in BEATING:
            try:
                found = yield self._store.get(KINDS[kind], keys)
            except StoreError as error:
                if error.fault not in PASSING:
                    raise
                yield member.post.sleep(BEAT_EVERY)
                continue
            if found:
                yield maybeDeferred(member.owner_of_records.adopt, list(found.values()))
                self._reconsider([record.pair for record in found.values()])
            return

    @inlineCallbacks
    def _reconsider(self, pairs: list[Pair]) -> Generator[Deferred[Any], Any, None]:
        """Have what was given go on if we had settled before the word of it came, and it is not ours.

        Who gave it may know more of the nodes than we do yet: the beat after the next one knows as much.
        """
        member = self._member
        if not all(map(member.placement.mine, pairs)):
            yield member.next_view()
            yield member.next_view()
            if not all(map(member.placement.mine, pairs)):
                self._doubtful = True
                self.begin()
