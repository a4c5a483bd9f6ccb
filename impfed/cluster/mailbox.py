"""Letters from node to node: numbered, bounded, in order, each handled once as far as that can be.

A letter goes into the mailbox of the node that owns its pair and stays there until that node is done
with it.  A dead node's letters are handled by those who own the pairs then.  Who posts and gets no
answer posts again; who reads a letter twice handles it once, by its sender's number.

Nothing here does IO: :mod:`impfed.cluster.post` does.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from impfed.cluster.ownership import Pair

#: Letters that a mailbox holds at most.
BOX_LIMIT = 10_000
#: Letters for one node that wait here at most, and as many whose node is not known yet; who writes them
#: stops reading from where they come long before, when :data:`PAUSE_AT` wait for whomever.
WAITING_LIMIT, PAUSE_AT, GO_ON_AT = 10_000, 5_000, 2_500
#: So many of these are not for presence: when thousands of subscriptions move texts find room.
RESERVE = 2_000
#: Seconds for which a letter that is in a mailbox is kept here, too: the store may lose its last writes.
KEPT_FOR = 15.0
#: Letters posted in one operation.
POSTED_AT_ONCE = 200
#: Numbers of a source that are remembered, and sources, to know a letter that comes twice.
_REMEMBERED, _SOURCES = 2 * BOX_LIMIT, 64
_KEPT = 1 << 30
#: Letters under way here at most; while there are more none are read.
READ_LIMIT = 4_000


class Envelope(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A letter with what is needed to bring it to the right node, once.

    :ivar sender: name of the node that wrote it.
    :ivar epoch: its epoch then.
    :ivar box: node in whose mailbox it was put first.
    :ivar number: rises by 1 with each letter of this sender, epoch and box, and from process to process.
    :ivar generation: the generation by which the box was chosen; who is behind waits for it.
    :ivar hops: how often it was passed on, because its pair had moved.
    """

    sender: str
    epoch: int
    box: str
    number: int
    generation: int
    local: str
    foreign: str
    payload: bytes
    hops: int = 0

    @property
    def pair(self) -> Pair:
        """The pair that it belongs to."""
        return self.local, self.foreign


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


def sealed(envelope: Envelope) -> bytes:
    """Return an envelope as octets."""
    return _encode(envelope)


def opened(data: bytes) -> Envelope:
    """Return the envelope of :func:`sealed` octets.

    :raises msgspec.DecodeError: when they are none.
    """
    return _decode(data)


class Outgoing:
    """What this node has for one other node: a queue of which a batch at a time is being posted.

    With each letter goes a token of whoever wants to know when it is posted.

    :param number: of the letter before the first.  Higher than any of a process before this one, for a store
        that has lost its last writes may give an epoch twice.
    """

    __slots__ = ("_box", "_number", "_posted", "_posting", "_sender", "_waiting")

    def __init__(self, sender: str, box: str, number: int = 0) -> None:
        self._sender = sender
        self._box = box
        self._number = number
        self._waiting: deque[tuple[Envelope, object]] = deque()
        self._posting = 0
        #: What is in the mailbox, or has been, and since when.
        self._posted: deque[tuple[float, Envelope]] = deque(maxlen=BOX_LIMIT)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(
        self,
        pair: Pair,
        payload: bytes,
        epoch: int,
        generation: int,
        token: object = None,
        spare: int = 0,
    ) -> bool:
        """Add a letter; False when there are too many already.

        :param spare: room that is to stay.
        """
        if len(self._waiting) >= WAITING_LIMIT - spare:
            return False
        self._number += 1
        number = self._number
        envelope = Envelope(self._sender, epoch, self._box, number, generation, *pair, payload)
        self._waiting.append((envelope, token))
        return True

    def forward(self, envelope: Envelope, generation: int, token: object = None) -> None:
        """Add a letter that came to the wrong node, with its number; there is always room."""
        hops = envelope.hops + 1
        passed = msgspec.structs.replace(envelope, generation=generation, hops=hops)
        self._waiting.append((passed, token))

    def pairs(self) -> Iterator[Pair]:
        """Return the pair of each letter that is not posted yet."""
        return (envelope.pair for envelope, _ in self._waiting)

    def batch(self) -> list[Envelope]:
        """Return what to post now; empty while something is being posted."""
        if self._posting:
            return []
        self._posting = min(len(self._waiting), POSTED_AT_ONCE)
        return [self._waiting[index][0] for index in range(self._posting)]

    def posted(self, now: float) -> list[object]:
        """The batch is in the mailbox; returns its tokens."""
        self._forget_posted(now)
        done = [self._waiting.popleft() for _ in range(self._posting)]
        self._posted += [(now, envelope) for envelope, _ in done]
        self._posting = 0
        return [token for _, token in done]

    def repeat(self, now: float) -> None:
        """The mailbox has lost something: have what was posted lately posted again, before all else."""
        self._forget_posted(now)
        under_way = [self._waiting.popleft() for _ in range(self._posting)]
        self._waiting.extendleft((envelope, None) for _, envelope in reversed(self._posted))
        self._waiting.extendleft(reversed(under_way))
        self._posted.clear()

    def _forget_posted(self, now: float) -> None:
        while self._posted and self._posted[0][0] < now - KEPT_FOR:
            self._posted.popleft()

    def again(self) -> None:
        """The batch is to be posted again."""
        self._posting = 0

    def take_back(self) -> list[tuple[Envelope, object]]:
        """The other node is gone: return everything, in order, to be brought by another way."""
        found = list(self._waiting)
        self._waiting.clear()
        self._posting = 0
        return found


class _Seen:
    """Numbers of one source that were read: the last so many."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        #: Each with the hops at which it was passed on from here, or _KEPT.
        self._numbers: dict[int, int] = {}

    def first(self, envelope: Envelope) -> bool:
        """Whether a letter is new here, or has come back after it was passed on."""
        if envelope.hops <= self._numbers.get(envelope.number, -1):
            return False
        self._numbers[envelope.number] = _KEPT
        if len(self._numbers) > _REMEMBERED:
            del self._numbers[next(iter(self._numbers))]
        return True

    def passed_on(self, envelope: Envelope) -> None:
        """A letter is not for us after all."""
        self._numbers[envelope.number] = envelope.hops


@dataclass(slots=True)
class _Read:
    box: str
    id: str
    envelope: Envelope
    done: bool = False


class Incoming:
    """What this node reads from its mailbox, and from those of dead nodes.

    :param held: whether a letter has to wait, because its pair does
        (:meth:`impfed.cluster.ownership.Placement.held`), or for a newer view.
    """

    def __init__(self, me: str, held: Callable[[Envelope], bool]) -> None:
        self._me = me
        self._held = held
        self._seen: dict[tuple[str, int, str], _Seen] = {}
        self._own: deque[_Read] = deque()
        self._others: dict[tuple[str, str], _Read] = {}
        self._by_envelope: dict[int, _Read] = {}
        self._waiting: list[_Read] = []
        self._pairs: Counter[Pair] = Counter()  # of those that wait

    @property
    def full(self) -> bool:
        """Whether nothing more should be read now."""
        return len(self._own) >= READ_LIMIT

    @property
    def under_way(self) -> int:
        """Letters read and not done."""
        return len(self._by_envelope)

    @property
    def from_others(self) -> int:
        """Letters from dead nodes' boxes that are not done."""
        return sum(not entry.done for entry in self._others.values())

    def read(self, box: str, id: str, envelope: Envelope) -> Envelope | None:
        """Take a letter from a mailbox; returns it when it can be handled now.

        A letter that was seen before is done at once; one whose pair has to wait comes out of
        :meth:`released`.
        """
        if (box, id) in self._others:
            return None
        entry = _Read(box, id, envelope)
        if box == self._me:
            self._own.append(entry)
        else:
            self._others[box, id] = entry
        if not self._first(envelope):
            entry.done = True
            return None
        self._by_envelope[_mark(envelope)] = entry
        return self._now_or_later(entry) if box == self._me else envelope

    def local(self, envelope: Envelope) -> Envelope | None:
        """Take a letter of this node to itself, which lies in no mailbox."""
        return self._now_or_later(_Read("", "", envelope))

    def _now_or_later(self, entry: _Read) -> Envelope | None:
        if self._must_wait(entry.envelope):
            self._waiting.append(entry)
            self._pairs[entry.envelope.pair] += 1
            return None
        return entry.envelope

    def _first(self, envelope: Envelope) -> bool:
        source = (envelope.sender, envelope.epoch, envelope.box)
        seen = self._seen.pop(source, None) or _Seen()
        self._seen[source] = seen  # at the end: the one that has been silent longest goes first
        if len(self._seen) > _SOURCES:
            del self._seen[next(iter(self._seen))]
        return seen.first(envelope)

    def passed_on(self, envelope: Envelope) -> None:
        """A letter is another's: should it come back, it is new."""
        seen = self._seen.get((envelope.sender, envelope.epoch, envelope.box))
        if seen is not None:
            seen.passed_on(envelope)

    def _must_wait(self, envelope: Envelope) -> bool:
        return self.waits(envelope.pair) or self._held(envelope)

    def waits(self, pair: Pair) -> bool:
        """Whether a letter of a pair waits: the next one waits behind it."""
        return pair in self._pairs

    def released(self) -> list[Envelope]:
        """Return the letters that have to wait no longer, in order."""
        still: list[_Read] = []
        free: list[Envelope] = []
        kept: Counter[Pair] = Counter()
        for entry in self._waiting:
            pair = entry.envelope.pair
            if pair in kept or self._held(entry.envelope):
                still.append(entry)
                kept[pair] += 1
            else:
                free.append(entry.envelope)
        self._waiting, self._pairs = still, kept
        return free

    def overtaken(self, envelope: Envelope) -> list[Envelope]:
        """Return those of its pair that a dead node's letter would overtake, in order; they wait no longer.

        They wait in our own mailbox since an older generation, in which the pair was ours.
        """
        if not self.waits(pair := envelope.pair):
            return []
        still: list[_Read] = []
        earlier: list[Envelope] = []
        for entry in self._waiting:
            each = entry.envelope
            if each.pair == pair and each.generation < envelope.generation:
                earlier.append(each)
            else:
                still.append(entry)
        self._waiting = still
        self._pairs[pair] -= len(earlier)
        self._pairs += Counter()  # without those of which none is left
        return earlier

    def done(self, envelope: Envelope) -> None:
        """A letter has been handled, or passed on."""
        entry = self._by_envelope.pop(_mark(envelope), None)
        if entry is not None:
            entry.done = True

    def trim(self) -> str:
        """Return the id of the oldest letter of our own box that must stay; "" when nothing can go.

        When all can go, it is the id after the last one.
        """
        last = ""
        while self._own and self._own[0].done:
            last = self._own.popleft().id
        if not last:
            return ""
        return self._own[0].id if self._own else _after(last)

    def struck(self, box: str) -> list[str]:
        """Return the ids of a dead node's letters that can go."""
        gone = [key for key, entry in self._others.items() if key[0] == box and entry.done]
        for key in gone:
            del self._others[key]
        return [id for _, id in gone]

    def forget(self) -> None:
        """Forget what is under way: this node has lost its rights, others will read it."""
        self._own.clear()
        self._others.clear()
        self._by_envelope.clear()
        self._waiting.clear()
        self._pairs.clear()
        self._seen.clear()


def _mark(envelope: Envelope) -> int:
    return id(envelope)  # two letters with the same words are two letters


def _after(id: str) -> str:
    number, _, part = id.partition("-")
    return f"{number}-{int(part or 0) + 1}"
