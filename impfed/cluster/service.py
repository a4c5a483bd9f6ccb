"""This node's place in the cluster, on Twisted: joins, beats, notices deaths, takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from impfed.cluster.api import ClusterUser, Others
from impfed.cluster.balance import Balance
from impfed.cluster.feed import Feed
from impfed.cluster.membership import (
    BEAT_EVERY,
    BEATING,
    OWN_LEASE,
    SUSPECTED_AFTER,
    Action,
    Event,
    Membership,
    Sight,
    Standing,
)
from impfed.cluster.ownership import Enabled, Pair, Placement
from impfed.cluster.post import PostOffice
from impfed.cluster.rewriting import Rewriting
from impfed.core.log import EventLog
from impfed.store.api import PASSING, Done, Fenced, StoreError, StoreState
from impfed.store.coordination import Beat, Coordination, NodeRow, Unknown
from impfed.store.gather import Clock
from impfed.store.records import Record, RecordType
from impfed.store.shared import SharedStore

_log = EventLog("impfed.cluster")


class ClusterService:
    """One node of a cluster.

    The order: ``store.start()``, :meth:`start`, :meth:`load`, :meth:`ready`; at the end
    :meth:`drain` (if there is time), :meth:`stop`, ``store.stop()``.

    :param others: asks other nodes directly whether they see the store.
    :param elapsed: seconds on an axis that never jumps and goes on while the machine sleeps.
    :param info: what this node tells the others of itself, for example where it listens.
    :param enabled: which nodes alone may have some pairs.
    :ivar instance: stays the same when this node is restarted, and no other node has it
        (:func:`impfed.store.setup.instance_of`); may be set until :meth:`start`.
    :ivar user: who owns records; to be set before :meth:`start`.
    :ivar placement: who owns what.
    :ivar nodes: what the store said of every node in its last answer.
    """

    def __init__(
        self,
        clock: Clock,
        store: SharedStore,
        name: str,
        instance: str,
        others: Others,
        elapsed: Callable[[], float],
        info: Callable[[], bytes] = lambda: b"",
        enabled: Enabled | None = None,
    ) -> None:
        self.user: ClusterUser | None = None
        self.name = name
        self.placement = Placement(name, enabled=enabled)
        self.nodes: tuple[NodeRow, ...] = ()
        self.coordination = Coordination(store.link)
        feed = Feed(
            store,
            lambda: self.owner_of_records,
            lambda call: self.post.later(BEAT_EVERY, call),
        )
        self.post = PostOffice(name, self.coordination, clock, self, feed.arrived)
        self._clock = clock
        self._store = store
        self.instance = instance
        self._others = others
        self._elapsed = elapsed
        self._info = info
        self._member = Membership()
        self._tick_call: IDelayedCall | None = None
        self._beating = self._asking = self._joining = False
        self._ready = False
        self._balance = Balance(self, store)
        self._rewriting = Rewriting(lambda: self.owner_of_records.rewrite())
        self._heard_at = 0.0
        self._seen: list[tuple[str, str]] = []
        self._feed_id = "0-0"
        self._joined: list[Deferred[None]] = []
        self._viewers: list[Deferred[None]] = []

    # -- what others ask ---------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """Where this node stands."""
        return self._member.standing

    @property
    def epoch(self) -> int:
        """This node's epoch; 0 before it has joined."""
        return self._member.epoch

    @property
    def may_act(self) -> bool:
        """Whether this node may act on what it owns, at this moment."""
        return self._member.may_act(self._elapsed())

    @property
    def sees_store(self) -> bool:
        """What to answer to :class:`~impfed.cluster.api.Others` of another node."""
        return self._store.link.up and self._elapsed() < self._heard_at + SUSPECTED_AFTER

    def owner(self, pair: Pair) -> str:
        """Return the node of a pair; "" when nobody is enabled."""
        return self.placement.owner(pair)

    def suspected(self, name: str) -> bool:
        """Whether single records of a node may be taken over."""
        since = self._elapsed() - self._heard_at
        for row in self.nodes:
            if row.name == name:
                return not row.lives or row.age + since > SUSPECTED_AFTER
        return True

    def send(
        self, pair: Pair, payload: bytes, done: Done | None = None, *, presence: bool = False
    ) -> bool:
        """Bring a letter to the node that owns a pair; see :meth:`PostOffice.send`."""
        return self.post.send(pair, payload, done, presence=presence)

    def stuck(self, pair: Pair) -> bool:
        """Whether letters for a pair would lie here for long: none can leave this node."""
        elsewhere = self.placement.owner(pair) != self.name
        return elsewhere and (self.post.stuck(pair) or not self.sees_store)

    def waits(self, pair: Pair) -> bool:
        """Whether a letter for a pair of this node would wait here; see :meth:`PostOffice.waits`."""
        return self.post.waits(pair)

    def touch(self, kind: type[RecordType], key: str) -> Deferred[Any]:
        """Find a record of which somebody has asked here, and take it over if its owner is silent.

        Returns (owner, record or None), or None when there is no such record.  When the owner is
        this node, the record is ours now: serve it as if it had been adopted.  Else the request is
        for the owner.
        """
        return self._store.take(kind, key)

    def give(
        self, kind: type[Record], to: str, keys: Sequence[str], generation: int
    ) -> Deferred[list[str]]:
        """Give records to another node; see :meth:`SharedStore.give`.

        When that fails they are still this node's, and are adopted again.
        """
        given = self._store.give(kind, to, keys, generation)
        return given.addErrback(self._balance.not_given)

    def given(self, kind: str, keys: list[str]) -> Deferred[Any]:
        """Another node has given us records: serve them; fires when that is done."""
        return self._balance.given(kind, keys)

    def give_back(self) -> None:
        """Give what is served here only for the time being to whose it is."""
        self._balance.again()

    def take_lease(self, name: str) -> Deferred[str]:
        """Take a lease, for example of a home link; returns its holder."""
        return self.coordination.take_lease(self.name, self.epoch, name)

    def free_lease(self, name: str) -> Deferred[None]:
        """Give a lease back."""
        return self.coordination.free_lease(self.name, self.epoch, name)

    def tell(self) -> None:
        """Let the others have what ``info`` says now, before the next heartbeat."""
        self._beat()

    def status(self) -> dict[str, Any]:
        """Return plain values for the control room."""
        since = self._elapsed() - self._heard_at
        return {
            "standing": self.standing.value,
            "epoch": self.epoch,
            "generation": self.placement.generation,
            "settled": self._balance.settled,
            "letters_waiting": self.post.waiting,
            "nodes": [
                {
                    "name": row.name,
                    "state": row.state,
                    "epoch": row.epoch,
                    "age": round(row.age + since, 3),
                    "ready": bool(row.info),
                }
                for row in self.nodes
            ],
        }

    # -- life --------------------------------------------------------------------------------------

    @inlineCallbacks
    def start(self) -> Any:
        """Join; fires when this node has an epoch and knows the others.

        Fails with a :class:`StoreError` in words.
        """
        self._store.observe(self._store_changed)
        while True:
            try:
                [self._feed_id] = yield self.coordination.last("feed")
                break
            except StoreError as error:
                if error.fault not in PASSING:
                    raise
            yield self.post.sleep(BEAT_EVERY)
        self._do(self._member.happens(Event.JOIN))
        yield self._next_epoch()
        self._tick()
        yield self.next_view()

    @inlineCallbacks
    def load(self, load: Callable[[], Deferred[Any]]) -> Any:
        """Have the records loaded; fires with what ``load`` does.

        A node that has lost its place meanwhile loads again: others may have what it has read.
        """
        while True:
            epoch = self.epoch
            loaded = yield load()
            if self.standing is Standing.JOINING:
                yield self._next_epoch()
            if self.epoch == epoch:
                return loaded
            self.owner_of_records.drop()

    def _next_epoch(self) -> Deferred[None]:
        joined: Deferred[None] = Deferred()
        self._joined.append(joined)
        return joined

    def ready(self) -> None:
        """The records are loaded: take what is free, and read letters, from now on."""
        self._ready = True
        self.post.start(self._feed_id)
        self._balance.begin()

    @inlineCallbacks
    def drain(self) -> Any:
        """Own nothing new, give everything away; fires when nothing is left to give.

        Fires at once where nothing can be given, or when :meth:`work_again` is called.
        """
        if not self._member.possible(Event.DRAIN):
            return
        self._do(self._member.happens(Event.DRAIN))
        generation = self.placement.generation
        self._beat()
        while self.standing is Standing.DRAINING:
            enabled = self.placement.now.names
            if self.placement.generation > generation and not enabled:
                return  # nobody is there to give to
            if self.drained:
                return
            yield self.next_view()

    @property
    def drained(self) -> bool:
        """Whether this node has given everything away, and every other node has seen that."""
        placement = self.placement
        given = placement.settled and self._balance.settled == placement.generation
        gone = given and self.name not in placement.now.names
        return gone and self.standing is Standing.DRAINING and not self.post.waiting

    def work_again(self) -> bool:
        """Take pairs again instead of draining; False when this node does not drain."""
        if not self._member.possible(Event.RETURN):
            return False
        self._do(self._member.happens(Event.RETURN))
        self._beat()
        return True

    @inlineCallbacks
    def stop(self) -> Any:
        """Leave the cluster; what this node still owns is the others' at once."""
        self.post.stop()
        if self._tick_call is not None and self._tick_call.active():
            self._tick_call.cancel()
        self._tick_call = None
        if self._member.possible(Event.LEAVE):
            actions = self._member.happens(Event.LEAVE)
            if Action.SAY_LEAVE in actions:
                left = self.coordination.leave(self.name, self.epoch)
                yield left.addErrback(lambda failure: failure.trap(StoreError))

    # -- the heartbeat -----------------------------------------------------------------------------

    def _tick(self) -> None:
        self._tick_call = self._clock.callLater(BEAT_EVERY, self._tick)
        self._pass_time()
        self._beat()

    def _pass_time(self) -> None:
        now = self._elapsed()
        self._do(self._member.passes(now))
        if self._member.in_doubt(now) and not self._asking:
            self._asking = True
            # A dead one, too: it may have come back since we last heard.
            names = [
                row.name for row in self.nodes if row.name != self.name and row.state != "left"
            ]
            maybeDeferred(self._others.sights, names).addBoth(self._sights)

    def _sights(self, sights: list[Sight] | Failure) -> None:
        self._asking = False
        if isinstance(sights, Failure):
            _log.failure("asking_failed", "asking the other nodes raised", sights)
            return
        living = {row.name for row in self.nodes if row.lives}
        heard = [each for each in sights if each.sees_store is not None or each.name in living]
        self._member.others_say(heard, self._elapsed())

    def _beat(self) -> None:
        if self._beating or self.standing not in BEATING:
            return
        self._beating = True
        sent_at, epoch, number = self._elapsed(), self.epoch, self._member.next_beat()
        seen, self._seen = self._seen, []
        asked = self.coordination.beat(
            self.name,
            epoch,
            number,
            draining=self.standing is Standing.DRAINING,
            settled=self._balance.settled,
            known=self.placement.generation,
            info=self._info(),
            seen=seen,
            timeout=SUSPECTED_AFTER,
        )
        asked.addCallbacks(
            partial(self._confirmed, epoch, number, sent_at),
            partial(self._not_confirmed, epoch, seen),
        )
        asked.addErrback(lambda failure: _log.failure("beat_raised", "a beat raised", failure))

    def _confirmed(self, epoch: int, number: int, sent_at: float, beat: Beat) -> None:
        self._beating = False
        if epoch != self.epoch or self.standing not in BEATING:
            return
        # Time first: a process that slept has lost its lease, whatever an old answer says.
        now = self._elapsed()
        self._do(self._member.passes(now))
        if now >= sent_at + OWN_LEASE:
            return
        self._heard_at = now
        self._do(self._member.beat_confirmed(number, beat.before, sent_at))
        self._look(beat)

    def _not_confirmed(self, epoch: int, seen: list[tuple[str, str]], failure: Failure) -> None:
        self._beating = False
        self._seen += seen
        if failure.check(StoreError) is None:
            failure.raiseException()
        if epoch != self.epoch or self.standing not in BEATING:
            return
        self._pass_time()
        if failure.check(Unknown):
            self._do(self._member.happens(Event.UNKNOWN))
        elif failure.check(Fenced):
            _log.warn("fenced", "others have taken over what this node owned; it joins anew")
            self._do(self._member.happens(Event.FENCED))

    def _look(self, beat: Beat) -> None:
        self.nodes = beat.nodes
        user = self.owner_of_records
        for kind, key, owner in beat.lost:
            user.lost(kind, key, owner)
            self._seen.append((kind, key))
        living = {row.name: row.settled for row in beat.nodes if row.lives}
        living[self.name] = self._balance.settled
        enabled = [row.name for row in beat.nodes if row.state == "live"]
        before = self.placement
        self.placement = before.seen(beat.generation, enabled, living)
        if self.placement != before:
            if self.placement.now.names != before.now.names:
                names = ", ".join(enabled) or "nobody"
                _log.info("nodes", "the cluster has another shape: {names}", names=names)
            self.post.placed()
        self.post.viewed()
        if self._ready:
            self._balance.begin()
        waiters, self._viewers = self._viewers, []
        for waiter in waiters:
            waiter.callback(None)

    def next_view(self) -> Deferred[None]:
        """Fire when the next beat has told what the nodes are like."""
        waiter: Deferred[None] = Deferred()
        self._viewers.append(waiter)
        return waiter

    # -- what the table says -----------------------------------------------------------------------

    @property
    def owner_of_records(self) -> ClusterUser:
        """The :attr:`user`, who is there once this node has started."""
        assert self.user is not None
        return self.user

    def _do(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            _log.debug("action", "the cluster says: {what}", what=action.value)
            if action is Action.RESUME:
                self.owner_of_records.resume()
            elif action is Action.PAUSE:
                self.owner_of_records.pause()
            elif action is Action.DROP:
                self.owner_of_records.drop()
            elif action is Action.ASK_EPOCH:
                self._join()
            elif action is Action.RESTORE:
                self._restore()
                return  # what is left is done when the store knows us again
            elif action is Action.REPEAT:
                self.post.repeat()
            elif action is Action.REWRITE:
                self._rewrite()

    def _join(self) -> None:
        if self._joining or self.standing is not Standing.JOINING:
            return
        self._joining = True
        asked_at = self._elapsed()
        # Whoever owned nothing with this epoch has nothing to lose by another.
        asked = self.coordination.join(self.name, self.instance, self._info(), self.epoch)
        asked.addCallbacks(partial(self._granted, asked_at), self._not_granted)

    def _granted(self, asked_at: float, epoch: int) -> None:
        self._joining = False
        if self.standing is not Standing.JOINING:
            return
        again = self.epoch > 0
        self._store.act_as(self.name, epoch)
        self._balance.settled = 0
        self._heard_at = self._elapsed()
        self.placement = Placement(self.name, enabled=self.placement.enabled)
        self.post.user = self.user
        self._do(self._member.granted(epoch, asked_at))
        _log.info(
            "joined", "node {name} has joined with epoch {epoch}", name=self.name, epoch=epoch
        )
        if again:
            self.post.begin_again()
            if self._ready:
                self._balance.reload()
        joined, self._joined = self._joined, []
        for waiter in joined:
            waiter.callback(None)

    def _not_granted(self, failure: Failure) -> None:
        self._joining = False
        error = failure.value
        passing = isinstance(error, StoreError) and error.fault in PASSING
        if self._joined and not passing:
            joined, self._joined = self._joined, []
            for waiter in joined:
                waiter.errback(failure)
            return
        if not isinstance(error, StoreError):
            _log.failure("join_raised", "joining raised", failure)
        self.post.later(BEAT_EVERY, self._join)

    @inlineCallbacks
    def _restore(self) -> Any:
        asked_at = self._elapsed()
        try:
            yield self.coordination.restore(self.name, self.epoch, self.instance, self._info())
        except StoreError:
            return  # the next beat will say how things are
        self._member.restored(asked_at)
        self._balance.settled = 0
        self.post.repeat()
        self._rewrite()

    def _rewrite(self) -> None:
        if self._ready:
            self._rewriting.begin()

    def _store_changed(self, state: StoreState) -> None:
        self._pass_time()
        if self._rewriting.store_changed(state):
            self._rewrite()
