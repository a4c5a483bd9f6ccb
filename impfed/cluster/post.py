"""The post between nodes, on Twisted: puts letters into mailboxes, reads this node's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from impfed.cluster.api import ClusterUser
from impfed.cluster.flush import Flush
from impfed.cluster.mailbox import (
    BOX_LIMIT,
    RESERVE,
    WAITING_LIMIT,
    Envelope,
    Incoming,
    Outgoing,
    opened,
    sealed,
)
from impfed.cluster.ownership import Pair, Placement, of_node
from impfed.core.log import EventLog
from impfed.store.api import Done, Fenced, StoreError, call_done
from impfed.store.coordination import Coordination, Letter
from impfed.store.gather import Clock

#: Seconds until a mailbox that took nothing, or a store that did not answer, is tried again.
_AGAIN = 0.2
#: Seconds for which the store is asked to wait for letters: a dead connection is noticed soon after.
_WAIT = 1.0
#: Seconds between two looks whether this node's own mailbox has been read.
_CATCHING_UP = 0.05
#: Seconds for which letters that are done gather before they are removed from the mailbox.
_TRIM_AFTER = 0.05

_log = EventLog("impfed.cluster")


class Center(Protocol):
    """What the post asks of the cluster service."""

    @property
    def placement(self) -> Placement:
        """Who owns what now."""
        ...

    @property
    def epoch(self) -> int:
        """This node's epoch."""
        ...

    def given(self, kind: str, keys: list[str]) -> Deferred[None]:
        """Another node has given us records; fires when they are served."""
        ...


class PostOffice:
    """Sends and receives letters.

    :param me: name of this node.
    :param feed: called with the entries of the feed of common changes.
    :ivar user: who handles letters.
    :ivar flush: keeps letters back that would overtake others.
    """

    def __init__(
        self,
        me: str,
        coordination: Coordination,
        clock: Clock,
        center: Center,
        feed: Callable[[list[dict[str, bytes]]], Any],
    ) -> None:
        self.user: ClusterUser | None = None
        self._me = me
        self._coordination = coordination
        self._clock = clock
        self._center = center
        self._feed = feed
        self._incoming = Incoming(me, self._held)
        self._outgoing: dict[str, Outgoing] = {}
        self._stuck: set[str] = set()  # nodes whose mailbox took nothing when it was last tried
        self._stranded: list[tuple[Envelope, object]] = []
        self._tokens: dict[int, Done] = {}  # of letters to this node itself that are open
        self._mail_id = "0-0"
        self._feed_id = "0-0"
        self.flush = Flush(me, coordination, clock, self, self._unstrand)
        self._running = self._stopped = False
        self._giving = self._blanks = 0
        #: Generations that letters tell of: the highest of all, of those before the last view, and of
        #: those that we should know by now.
        self._told = self._awaited = self._overdue = 0
        self._room: Deferred[None] | None = None
        self._trimming = False
        self._quiet: Deferred[None] | None = None
        self._calls: set[IDelayedCall] = set()

    @property
    def waiting(self) -> int:
        """Letters that are not in a mailbox yet."""
        return sum(map(len, self._outgoing.values())) + len(self._stranded)

    def stuck(self, pair: Pair) -> bool:
        """Whether the mailbox of a pair's node takes nothing now: a letter would lie here for long."""
        return self._center.placement.owner(pair) in self._stuck

    def waits(self, pair: Pair) -> bool:
        """Whether a letter for a pair of this node would wait here, behind what is left of it elsewhere."""
        held = self._center.placement.held(pair) or self.flush.keeps(pair)
        return held or self._incoming.waits(pair)

    # -- sending -----------------------------------------------------------------------------------

    def send(
        self, pair: Pair, payload: bytes, done: Done | None = None, *, presence: bool = False
    ) -> bool:
        """Bring a letter to the node that owns a pair, this one included.

        Returns False, and does nothing, when too many wait for that node already: stop reading from
        where they come.  ``done(None)`` is called when the letter will outlive the death of this
        process, or has been handled by this node's own user.

        :param presence: it tells or asks how somebody is, and leaves room for texts.
        """
        placement = self._center.placement
        owner = placement.owner(pair)
        spare = RESERVE if presence else 0
        stays = not owner or self.flush.keeps(pair)
        if stays or owner == self._me:
            envelope = Envelope(self._me, 0, "", 0, placement.generation, *pair, payload)
            if placement.nobodys(pair):
                self._give_up(envelope, done)
                return True
            if stays:
                if len(self._stranded) >= WAITING_LIMIT - spare:
                    return False
                self._stranded.append((envelope, done))
                return True
            self._keep_here(envelope, done)
            return True
        queue = self._queue_for(owner)
        if not queue.put(pair, payload, self._center.epoch, placement.generation, done, spare):
            return False
        self._post_soon(owner)
        return True

    def _keep_here(self, envelope: Envelope, token: object) -> None:
        """Take a letter to this node itself; it is done when it is handled, not before."""
        if callable(token):
            self._tokens[id(envelope)] = token
        free = self._incoming.local(envelope)
        if free is not None:
            self._handle(free)

    def _give_up(self, envelope: Envelope, token: object) -> None:
        """Tell of a letter that no living node may have; it is done with."""
        assert self.user is not None
        self.user.undelivered(envelope.pair, envelope.payload)
        if callable(token):
            call_done(token, None)

    def _queue_for(self, node: str) -> Outgoing:
        queue = self._outgoing.get(node)
        if queue is None:
            milliseconds = int(1000 * self._clock.seconds())
            queue = self._outgoing[node] = Outgoing(self._me, node, milliseconds)
        return queue

    def _post_soon(self, node: str, delay: float = 0.0) -> None:
        self.later(delay, partial(self._post, node))

    def later(self, delay: float, call: Callable[[], Any]) -> None:
        """Call after a delay (seconds), unless this post office closes before."""

        def run() -> None:
            self._calls.discard(due)
            call()

        if self._stopped:
            return

        due = self._clock.callLater(delay, run)
        self._calls.add(due)

    def _post(self, node: str) -> None:
        queue = self._queue_for(node)
        if batch := queue.batch():
            asked = self._coordination.post(
                self._me, self._center.epoch, node, list(map(sealed, batch)), BOX_LIMIT
            )
            asked.addCallbacks(partial(self._posted, node), partial(self._not_posted, node))

    def _posted(self, node: str, made: bool | None) -> None:
        queue = self._queue_for(node)
        self._stuck.discard(node)
        if made:
            for token in queue.posted(self._clock.seconds()):
                if callable(token):
                    call_done(token, None)
            if len(queue):
                self._post_soon(node)
        elif made is None:
            _log.info("node_gone", "letters for node {node} go another way", node=node)
            self._stranded += queue.take_back()
        else:
            self._try_again(node)

    def _not_posted(self, node: str, failure: Failure) -> None:
        if failure.check(StoreError) is None:
            _log.failure("post_failed", "posting letters raised", failure)
        self._try_again(node)

    def _try_again(self, node: str) -> None:
        self._stuck.add(node)
        self._queue_for(node).again()
        self._post_soon(node, _AGAIN)

    def repeat(self) -> None:
        """The store has lost something: post again what it may have been, and read our mailbox anew.

        Who has had a letter already knows it by its number.
        """
        for node, queue in self._outgoing.items():
            queue.repeat(self._clock.seconds())
            self._post_soon(node)
        self._mail_id = "0-0"  # on another machine ids may have gone back with the clock
        self.flush.forget()

    # -- for what keeps letters back ---------------------------------------------------------------

    @property
    def placement(self) -> Placement:
        """Who owns what now."""
        return self._center.placement

    def unposted(self, node: str) -> Iterator[Pair]:
        """Return the pairs of letters that are not in a node's mailbox yet."""
        return self._queue_for(node).pairs()

    def has_read(self, id: str) -> bool:
        """Whether this node has read its own mailbox up to an entry."""
        return _order(id) <= _order(self._mail_id)

    # -- receiving ---------------------------------------------------------------------------------

    def start(self, feed_id: str) -> None:
        """Read from now on; of the feed what comes after an id."""
        if not self._running:
            self._running = True
            self._feed_id = feed_id
            self._read()

    @inlineCallbacks
    def caught_up(self) -> Any:
        """Fire when word of all that was given to this node until now has been taken.

        Not while there are too many letters to read on, for they may wait for this node to settle.
        """
        [last] = yield self._coordination.last(f"mail:{self._me}")
        while self._running and not self._incoming.full:
            if not self._giving and self.has_read(last):
                return
            yield self.sleep(_CATCHING_UP)

    def stop(self) -> None:
        """Read and post no more."""
        self._running = False
        self._stopped = True
        for call in list(self._calls):
            if call.active():
                call.cancel()
        self._calls.clear()

    def begin_again(self) -> None:
        """This node has joined with a new epoch: what lies in its mailbox is read from the start."""
        self._incoming.forget()
        self._tokens.clear()
        self._mail_id = "0-0"
        self._make_room()
        self._quieten()

    def placed(self) -> None:
        """The placement has changed: what waited for that goes on."""
        self.flush.placed()
        self._unstrand()
        living = self._center.placement.living
        for node, queue in list(self._outgoing.items()):
            if node not in living:  # the queue stays, for its numbers must never come again
                for envelope, token in queue.take_back():
                    self._forward(envelope, token)
        self._let_go()

    def _unstrand(self) -> None:
        """Bring what has waited here to its owner, unless it has to wait still."""
        stranded, self._stranded = self._stranded, []
        for envelope, token in stranded:
            self._forward(envelope, token)

    def viewed(self) -> None:
        """A beat has told what the nodes are like: what it does not know after two, the store has lost."""
        before, self._overdue = self._overdue, self._awaited
        self._awaited = self._told
        if before < self._overdue > self._center.placement.generation:
            self._let_go()

    def _let_go(self) -> None:
        for envelope in self._incoming.released():
            self._handle(envelope)

    def _held(self, envelope: Envelope) -> bool:
        if not envelope.pair[0] or of_node(envelope.pair):
            return False  # no letter, or one that nobody else could have
        placement = self._center.placement
        newer = envelope.generation > max(placement.generation, self._overdue)
        if newer:
            self._told = max(self._told, envelope.generation)
        return newer or bool(self._giving) or placement.held(envelope.pair)

    @inlineCallbacks
    def _read(self) -> Any:
        box = f"mail:{self._me}"
        while self._running:
            if self._incoming.full:
                self._room = Deferred()
                yield self._room
            if not self._coordination.link.up:
                yield self.sleep(_AGAIN)
                continue
            start = self._mail_id
            try:
                found = yield self._coordination.link.wait(
                    {box: start, "feed": self._feed_id}, _WAIT
                )
            except StoreError:
                yield self.sleep(_AGAIN)
                continue
            if entries := found.get("feed"):
                self._feed_id = entries[-1][0]
                self._feed([fields for _, fields in entries])
            if start == self._mail_id:  # else we have joined anew meanwhile
                for id, fields in found.get(box, ()):
                    self._mail_id = id
                    if "given" in fields:
                        yield self._given(id, fields)
                    else:
                        self._arrived(self._me, Letter(id, fields["d"]))

    def _arrived(self, box: str, letter: Letter) -> None:
        try:
            envelope = opened(letter.data)
        except msgspec.MsgspecError as problem:
            _log.error("letter_unreadable", "a letter is no letter: {why}", why=str(problem))
            self._done(self._blank(letter.id))
            return
        free = self._incoming.read(box, letter.id, envelope)
        if free is not None:
            for each in (*self._incoming.overtaken(free), free):
                self._handle(each)
        self._trim_soon()

    def _blank(self, id: str) -> Envelope:
        """Have an entry of our mailbox that is no letter stay until it is done."""
        self._blanks += 1
        envelope = Envelope("", 0, "", self._blanks, 0, "", "", b"")
        self._incoming.read(self._me, id, envelope)
        return envelope

    @inlineCallbacks
    def _given(self, id: str, fields: dict[str, bytes]) -> Any:
        """Take what another node has given; until that is done no letter is handled.

        What goes wrong with it is logged, and keeps nothing else from being read.
        """
        envelope = self._blank(id)
        keys = [value.decode() for name, value in fields.items() if name != "given"]
        self._giving += 1
        try:
            yield self._center.given(fields["given"].decode(), keys)
        except Exception:  # letters must not wait for ever for what has failed
            _log.failure("given_failed", "what another node has given is not served")
        finally:
            self._giving -= 1
            self._done(envelope)
        self._let_go()

    def _handle(self, envelope: Envelope) -> None:
        if self._center.placement.owner(envelope.pair) != self._me:
            self._incoming.passed_on(envelope)
            self._forward(envelope, lambda _: self._done(envelope))
            return
        user = self.user
        assert user is not None
        handled = maybeDeferred(user.letter, envelope.pair, envelope.payload)
        handled.addErrback(self._letter_failed)
        handled.addCallback(lambda _: self._done(envelope))

    def _letter_failed(self, failure: Failure) -> None:
        if failure.check(Fenced) is None:
            _log.failure("letter_failed", "handling a letter raised", failure)

    def _forward(self, envelope: Envelope, token: object) -> None:
        owner = self._center.placement.owner(envelope.pair)
        if self._center.placement.nobodys(envelope.pair):
            self._give_up(envelope, token)
        elif not owner or (not envelope.number and self.flush.keeps(envelope.pair)):
            self._stranded.append((envelope, token))
        elif owner == self._me:
            self._keep_here(envelope, token)
        elif envelope.number:
            self._queue_for(owner).forward(envelope, self._center.placement.generation, token)
            self._post_soon(owner)
        else:  # it was for ourselves, and has no number yet
            queue = self._queue_for(owner)
            epoch, generation = self._center.epoch, self._center.placement.generation
            if queue.put(envelope.pair, envelope.payload, epoch, generation, token):
                self._post_soon(owner)
            else:
                self._stranded.append((envelope, token))

    def _done(self, envelope: Envelope) -> None:
        self._incoming.done(envelope)
        token = self._tokens.pop(id(envelope), None)
        if token is not None:
            call_done(token, None)
        self._trim_soon()
        self._quieten()

    def _quieten(self) -> None:
        if self._quiet is not None and not self._incoming.from_others:
            quiet, self._quiet = self._quiet, None
            quiet.callback(None)

    def _trim_soon(self) -> None:
        if not self._trimming:
            self._trimming = True
            self.later(_TRIM_AFTER, self._trim)

    def _trim(self) -> None:
        self._trimming = False
        id = self._incoming.trim()
        self._make_room()
        if id:
            trimmed = self._coordination.trim(self._me, self._center.epoch, id)
            # What stays is read again after a death, and known by its number before that.
            trimmed.addErrback(lambda failure: failure.trap(StoreError))

    def _make_room(self) -> None:
        if self._room is not None and not self._incoming.full:
            room, self._room = self._room, None
            room.callback(None)

    # -- the letters of the dead -------------------------------------------------------------------

    @inlineCallbacks
    def inherit(self, dead: str) -> Any:
        """Handle what lies in a dead node's mailbox for pairs of ours; fires when that is done."""
        last = "0-0"
        while True:
            letters = yield self._coordination.letters(dead, last)
            for letter in letters:
                last = letter.id
                if self._is_mine(letter):
                    self._arrived(dead, letter)
            if self._incoming.from_others:
                self._quiet = Deferred()
                yield self._quiet
            if ids := self._incoming.struck(dead):
                yield self._coordination.strike(self._me, self._center.epoch, dead, ids)
            if not letters:
                return

    def _is_mine(self, letter: Letter) -> bool:
        try:
            return self._center.placement.heir(opened(letter.data).pair) == self._me
        except msgspec.MsgspecError:
            return False

    def sleep(self, seconds: float) -> Deferred[None]:
        """Fire after some seconds, unless this post office closes before."""
        slept: Deferred[None] = Deferred()
        self.later(seconds, lambda: slept.callback(None))
        return slept


def _order(id: str) -> tuple[int, int]:
    """Return an entry's id of a stream as it sorts."""
    number, _, part = id.partition("-")
    return int(number), int(part or 0)
