"""Whether this node belongs to the cluster and may act: heartbeats, leases, epochs, as a table.

A node that beats every half second is live.  The others suspect it after 2 s without a beat, and end
its lease after 4 s (by the store's clock, so that nobody's own clock matters).  The node itself stops
acting one second earlier, counted from when it sent the last beat that was confirmed, by a clock that
goes on while the process or the machine sleeps.

While the store is gone for every node, all go on with what they own ("holding"): a node asks the others
directly, and steps down as soon as one of them sees the store, or does not answer though it lived when
the store was last heard.

Nothing here reads a clock: ``now`` is seconds on an axis that never jumps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

#: Seconds from one heartbeat to the next.
BEAT_EVERY = 0.5
#: Seconds without a beat after which others suspect a node, and after which its lease is over.
SUSPECTED_AFTER, LEASE = 2.0, 4.0
#: Seconds for which a node itself relies on a confirmed beat, from when it was sent.
OWN_LEASE = 3.0
#: Seconds without a confirmed beat after which the others are asked whether they see the store.
DOUBT_AFTER = 1.0
#: Seconds for which the others' answers count.
ANSWERS_LAST = 2.0


class Standing(Enum):
    """Where this node stands."""

    OUT = "out"
    JOINING = "joining"
    MEMBER = "member"
    DRAINING = "draining"
    HOLDING = "holding"  # the store is gone for everybody
    ASIDE = "aside"  # the lease is over, or may be: nothing is done until the store has answered
    LEFT = "left"


class Event(Enum):
    """What can happen to it."""

    JOIN = "join"
    GRANTED = "granted"  # the store gave us an epoch
    CONFIRMED = "confirmed"  # a beat
    FENCED = "fenced"  # a beat, or a write: others have taken over
    UNKNOWN = "unknown"  # the store does not know us: it was emptied
    BLIND = "blind"  # our lease is over, and nobody sees the store
    LAPSED = "lapsed"  # our lease is over, and somebody may see the store
    DRAIN = "drain"
    RETURN = "return"  # to work, instead of leaving
    LEAVE = "leave"


class Action(Enum):
    """What is to be done about it."""

    ASK_EPOCH = "ask for an epoch"
    RESUME = "go on"
    PAUSE = "do nothing"
    DROP = "forget what was owned"
    RESTORE = "make ourselves known again"
    REWRITE = "write again what we own"
    REPEAT = "post again what we posted lately"
    SAY_LEAVE = "end the lease"


_S, _E, _A = Standing, Event, Action
_REJOIN = (_A.PAUSE, _A.DROP, _A.ASK_EPOCH)
_AGAIN = (_A.RESTORE, _A.REPEAT, _A.REWRITE)

#: (standing, event) to the standing after it and what to do; a pair that is not here cannot be.
TABLE: Mapping[tuple[Standing, Event], tuple[Standing, tuple[Action, ...]]] = {
    (_S.OUT, _E.JOIN): (_S.JOINING, (_A.ASK_EPOCH,)),
    (_S.OUT, _E.LEAVE): (_S.LEFT, ()),
    (_S.JOINING, _E.GRANTED): (_S.MEMBER, (_A.RESUME,)),
    (_S.JOINING, _E.LEAVE): (_S.LEFT, ()),
    (_S.MEMBER, _E.CONFIRMED): (_S.MEMBER, ()),
    (_S.MEMBER, _E.FENCED): (_S.JOINING, _REJOIN),
    (_S.MEMBER, _E.UNKNOWN): (_S.MEMBER, _AGAIN),
    (_S.MEMBER, _E.BLIND): (_S.HOLDING, ()),
    (_S.MEMBER, _E.LAPSED): (_S.ASIDE, (_A.PAUSE,)),
    (_S.MEMBER, _E.DRAIN): (_S.DRAINING, ()),
    (_S.MEMBER, _E.LEAVE): (_S.LEFT, (_A.PAUSE, _A.SAY_LEAVE)),
    # Whoever drains and is fenced has nothing left to give: it need not join again.
    (_S.DRAINING, _E.CONFIRMED): (_S.DRAINING, ()),
    (_S.DRAINING, _E.FENCED): (_S.LEFT, (_A.PAUSE, _A.DROP)),
    (_S.DRAINING, _E.UNKNOWN): (_S.DRAINING, _AGAIN),
    (_S.DRAINING, _E.BLIND): (_S.DRAINING, ()),
    (_S.DRAINING, _E.LAPSED): (_S.LEFT, (_A.PAUSE, _A.DROP)),
    (_S.DRAINING, _E.DRAIN): (_S.DRAINING, ()),
    (_S.DRAINING, _E.RETURN): (_S.MEMBER, ()),
    (_S.DRAINING, _E.LEAVE): (_S.LEFT, (_A.PAUSE, _A.SAY_LEAVE)),
    (_S.HOLDING, _E.CONFIRMED): (_S.MEMBER, (_A.REWRITE,)),
    (_S.HOLDING, _E.FENCED): (_S.JOINING, _REJOIN),
    (_S.HOLDING, _E.UNKNOWN): (_S.MEMBER, _AGAIN),
    (_S.HOLDING, _E.BLIND): (_S.HOLDING, ()),
    (_S.HOLDING, _E.LAPSED): (_S.ASIDE, (_A.PAUSE,)),
    (_S.HOLDING, _E.DRAIN): (_S.DRAINING, ()),
    (_S.HOLDING, _E.LEAVE): (_S.LEFT, (_A.PAUSE, _A.SAY_LEAVE)),
    # Nobody has ended our lease, so nobody has taken more than the single records that the beat
    # names: we may go on.
    (_S.ASIDE, _E.CONFIRMED): (_S.MEMBER, (_A.RESUME, _A.REWRITE)),
    (_S.ASIDE, _E.FENCED): (_S.JOINING, (_A.DROP, _A.ASK_EPOCH)),
    # An emptied store cannot tell whether others took over before it was: begin anew.
    (_S.ASIDE, _E.UNKNOWN): (_S.JOINING, (_A.DROP, _A.REPEAT, _A.ASK_EPOCH)),
    (_S.ASIDE, _E.BLIND): (_S.ASIDE, ()),
    (_S.ASIDE, _E.LAPSED): (_S.ASIDE, ()),
    (_S.ASIDE, _E.DRAIN): (_S.ASIDE, ()),
    (_S.ASIDE, _E.LEAVE): (_S.LEFT, (_A.SAY_LEAVE,)),
}

#: Standings in which the node beats.
BEATING = frozenset({_S.MEMBER, _S.DRAINING, _S.HOLDING, _S.ASIDE})
#: Standings in which the node acts, as long as its lease or the others' answers allow.
ACTING = frozenset({_S.MEMBER, _S.DRAINING, _S.HOLDING})


@dataclass(frozen=True, slots=True)
class Sight:
    """What another node says when it is asked directly.

    :ivar sees_store: None when it gave no answer.
    """

    name: str
    sees_store: bool | None


class Membership:
    """This node's own standing.

    :ivar standing: where it stands.
    :ivar epoch: 0 before the first was granted.
    :ivar confirmed: number of the last beat that the store confirmed in this epoch.
    """

    __slots__ = (
        "_answered_at",
        "_blind",
        "_heard_at",
        "_lease_until",
        "_number",
        "confirmed",
        "epoch",
        "standing",
    )

    def __init__(self) -> None:
        self.standing = Standing.OUT
        self.epoch = 0
        self.confirmed = 0
        self._number = 0
        self._lease_until = 0.0
        self._heard_at = 0.0  # when the last confirmed beat was sent
        self._answered_at = -ANSWERS_LAST
        self._blind = False

    def happens(self, event: Event) -> tuple[Action, ...]:
        """Take an event; returns what to do, in order.

        :raises KeyError: for one that cannot be in this standing.
        """
        self.standing, actions = TABLE[self.standing, event]
        return actions

    def possible(self, event: Event) -> bool:
        """Whether an event means anything now (an answer may come when all is over)."""
        return (self.standing, event) in TABLE

    # -- beats -------------------------------------------------------------------------------------

    def granted(self, epoch: int, asked_at: float) -> tuple[Action, ...]:
        """The store gave us an epoch."""
        self.epoch = epoch
        self.confirmed = self._number = 0
        self._rely_on(asked_at)
        return self.happens(Event.GRANTED)

    def next_beat(self) -> int:
        """Return the number of a beat that is about to be sent."""
        self._number += 1
        return self._number

    def beat_confirmed(self, number: int, before: int, sent_at: float) -> tuple[Action, ...]:
        """The store confirmed a beat.

        :param before: the number that it had from us before.
        """
        # Beats are sent one at a time, so any lower number than confirmed means lost writes.
        went_back = before < self.confirmed
        self.confirmed = number
        self._rely_on(sent_at)
        actions = self.happens(Event.CONFIRMED)
        if went_back:
            rewrite = () if Action.REWRITE in actions else (Action.REWRITE,)
            actions = (*actions, Action.REPEAT, *rewrite)
        return actions

    def restored(self, asked_at: float) -> None:
        """The store knows us again, with the epoch that we had; it counts our beats from 0."""
        self.confirmed = self._number = 0
        self._rely_on(asked_at)

    def _rely_on(self, sent_at: float) -> None:
        self._heard_at = sent_at
        self._lease_until = sent_at + OWN_LEASE
        self._blind = False

    # -- time --------------------------------------------------------------------------------------

    def in_doubt(self, now: float) -> bool:
        """Whether the others should be asked if they see the store."""
        return self.standing in ACTING and now >= self._heard_at + DOUBT_AFTER

    def others_say(self, sights: list[Sight], now: float) -> None:
        """The others have answered: all that lived when the store was last heard, and who else did."""
        self._blind = all(sight.sees_store is False for sight in sights)
        self._answered_at = now

    def passes(self, now: float) -> tuple[Action, ...]:
        """Time has passed; to be called whenever the node wakes, before it does anything else."""
        if self.standing not in ACTING or now < self._lease_until:
            return ()
        blind = self._blind and now < self._answered_at + ANSWERS_LAST
        event = Event.BLIND if blind else Event.LAPSED
        return self.happens(event)

    def may_act(self, now: float) -> bool:
        """Whether the node may act on what it owns, at this moment."""
        if self.standing not in ACTING:
            return False
        if now < self._lease_until:
            return True
        return self._blind and now < self._answered_at + ANSWERS_LAST
