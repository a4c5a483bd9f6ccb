"""The two machines of RFC 6665 as tables: who watches (subscriber), who is watched (notifier).

As in :mod:`impfed.sip.transaction_tables`: an unknown pair raises
:class:`~impfed.sip.transaction_tables.StateError`, and what must change nothing is written out.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Phase(Enum):
    """States of a subscription as the subscriber sees it (RFC 6665 figure 1, and more)."""

    IDLE = "Idle"
    NOTIFY_WAIT = "Notify wait"
    PENDING = "Pending"
    ACTIVE = "Active"
    ENDING = "Ending"
    POLLING = "Polling"
    RETRY_WAIT = "Retry wait"


class Event(Enum):
    """What can happen to a subscriber."""

    SUBSCRIBE = "subscribe"
    POLL = "poll"
    UNSUBSCRIBE = "unsubscribe"
    OK = "2xx"
    TOO_BRIEF = "423 with Min-Expires"
    GONE = "481 and its like"
    REFUSED = "refused for good"
    FAILED = "other failure, or none came"
    NOTIFY_PENDING = "NOTIFY pending"
    NOTIFY_ACTIVE = "NOTIFY active"
    NOTIFY_RETRY = "NOTIFY terminated, may try again"
    NOTIFY_FINAL = "NOTIFY terminated for good"
    TIMER_N = "timer N"
    REFRESH_DUE = "time to refresh"
    EXPIRED = "expired"
    RETRY_DUE = "time to try again"


class Act(Enum):
    """What a subscriber does on the way to its next state, in the order written."""

    SEND_INITIAL = "SUBSCRIBE in a new dialog"
    SEND_LONGER = "SUBSCRIBE for longer"
    SEND_POLL = "SUBSCRIBE for 0 s in a new dialog"
    SEND_REFRESH = "SUBSCRIBE in the dialog"
    SEND_END = "SUBSCRIBE for 0 s in the dialog"
    ANSWER = "200"
    ANSWER_UNKNOWN = "481"
    NOTE_EXPIRES = "note Expires"
    NOTE_STATE = "note Subscription-State"
    TELL_STATE = "state to owner"
    TELL_DOCUMENT = "document to owner"
    TELL_END = "end to owner"
    TELL_SETBACK = "setback to owner"
    REFRESH_SOONER = "refresh again later"
    PLAN_RETRY = "plan to try again"
    CLEAR = "forget dialog and timers"


class Step(NamedTuple):
    """One cell: the next state (None: the same) and what is done on the way."""

    state: Enum | None
    actions: tuple[Enum, ...]


def go(state: Enum, *actions: Enum) -> Step:
    """Make a cell that leads to a state."""
    return Step(state, actions)


def stay(*actions: Enum) -> Step:
    """Make a cell that leads nowhere."""
    return Step(None, actions)


ignored = Step(None, ())
"""A cell for what may happen and changes nothing."""

unknown = Step(None, (Act.ANSWER_UNKNOWN,))
"""A cell for a NOTIFY that fits no subscription."""

_LATE = {
    Event.OK: ignored,
    Event.TOO_BRIEF: ignored,
    Event.GONE: ignored,
    Event.REFUSED: ignored,
    Event.FAILED: ignored,
}
_RETRY = (Act.CLEAR, Act.PLAN_RETRY, Act.TELL_END)
_LIVE: dict[Event, Step] = {
    Event.SUBSCRIBE: stay(Act.SEND_REFRESH),
    Event.POLL: stay(Act.SEND_REFRESH),
    Event.UNSUBSCRIBE: go(Phase.ENDING, Act.SEND_END),
    Event.OK: stay(Act.NOTE_EXPIRES, Act.TELL_DOCUMENT),
    Event.TOO_BRIEF: stay(Act.SEND_LONGER),
    Event.GONE: go(Phase.RETRY_WAIT, *_RETRY),
    Event.REFUSED: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
    Event.FAILED: stay(Act.REFRESH_SOONER, Act.TELL_SETBACK),
    Event.NOTIFY_PENDING: go(Phase.PENDING, Act.ANSWER, Act.NOTE_STATE, Act.TELL_STATE),
    Event.NOTIFY_ACTIVE: go(
        Phase.ACTIVE, Act.ANSWER, Act.NOTE_STATE, Act.TELL_STATE, Act.TELL_DOCUMENT
    ),
    Event.NOTIFY_RETRY: go(Phase.RETRY_WAIT, Act.ANSWER, *_RETRY),
    Event.NOTIFY_FINAL: go(Phase.IDLE, Act.ANSWER, Act.CLEAR, Act.TELL_END),
    Event.TIMER_N: go(Phase.RETRY_WAIT, *_RETRY),
    Event.REFRESH_DUE: stay(Act.SEND_REFRESH),
    Event.EXPIRED: go(Phase.RETRY_WAIT, *_RETRY),
}

# RFC 6665 section 4.1.  Refreshing keeps the state: the old subscription lives until it expires,
# unless the answer says that its dialog is gone (section 4.1.2.2).
SUBSCRIBER: dict[Phase, dict[Event, Step]] = {
    Phase.IDLE: {
        Event.SUBSCRIBE: go(Phase.NOTIFY_WAIT, Act.SEND_INITIAL),
        Event.POLL: go(Phase.POLLING, Act.SEND_POLL),
        Event.UNSUBSCRIBE: stay(Act.TELL_END),
        **_LATE,
        Event.NOTIFY_PENDING: unknown,
        Event.NOTIFY_ACTIVE: unknown,
        Event.NOTIFY_RETRY: unknown,
        Event.NOTIFY_FINAL: unknown,
    },
    Phase.NOTIFY_WAIT: {
        Event.SUBSCRIBE: ignored,
        Event.POLL: ignored,
        Event.UNSUBSCRIBE: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.OK: stay(Act.NOTE_EXPIRES, Act.TELL_DOCUMENT),
        Event.TOO_BRIEF: stay(Act.SEND_LONGER),
        Event.GONE: go(Phase.RETRY_WAIT, *_RETRY),
        Event.REFUSED: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.FAILED: go(Phase.RETRY_WAIT, *_RETRY),
        Event.NOTIFY_PENDING: go(Phase.PENDING, Act.ANSWER, Act.NOTE_STATE, Act.TELL_STATE),
        Event.NOTIFY_ACTIVE: go(
            Phase.ACTIVE, Act.ANSWER, Act.NOTE_STATE, Act.TELL_STATE, Act.TELL_DOCUMENT
        ),
        Event.NOTIFY_RETRY: go(Phase.RETRY_WAIT, Act.ANSWER, *_RETRY),
        Event.NOTIFY_FINAL: go(Phase.IDLE, Act.ANSWER, Act.CLEAR, Act.TELL_END),
        Event.TIMER_N: go(Phase.RETRY_WAIT, *_RETRY),
    },
    Phase.PENDING: dict(_LIVE),
    Phase.ACTIVE: dict(_LIVE),
    # Complete only when the last NOTIFY has come (RFC 6665 section 4.1.2.3).
    Phase.ENDING: {
        Event.SUBSCRIBE: go(Phase.NOTIFY_WAIT, Act.CLEAR, Act.SEND_INITIAL),
        Event.POLL: go(Phase.POLLING, Act.CLEAR, Act.SEND_POLL),
        Event.UNSUBSCRIBE: ignored,
        Event.OK: ignored,
        Event.TOO_BRIEF: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.GONE: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.REFUSED: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.FAILED: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.NOTIFY_PENDING: stay(Act.ANSWER),
        Event.NOTIFY_ACTIVE: stay(Act.ANSWER),
        Event.NOTIFY_RETRY: go(Phase.IDLE, Act.ANSWER, Act.CLEAR, Act.TELL_END),
        Event.NOTIFY_FINAL: go(Phase.IDLE, Act.ANSWER, Act.CLEAR, Act.TELL_END),
        Event.TIMER_N: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.REFRESH_DUE: ignored,
        Event.EXPIRED: ignored,
    },
    Phase.POLLING: {
        Event.SUBSCRIBE: go(Phase.NOTIFY_WAIT, Act.CLEAR, Act.SEND_INITIAL),
        Event.POLL: ignored,
        Event.UNSUBSCRIBE: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.OK: stay(Act.TELL_DOCUMENT),
        Event.TOO_BRIEF: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.GONE: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.REFUSED: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        Event.FAILED: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        # Whatever its state says, one NOTIFY is all that a poll gets (section 4.4.3).
        Event.NOTIFY_PENDING: go(Phase.IDLE, Act.ANSWER, Act.CLEAR, Act.TELL_END),
        Event.NOTIFY_ACTIVE: go(Phase.IDLE, Act.ANSWER, Act.TELL_DOCUMENT, Act.CLEAR, Act.TELL_END),
        Event.NOTIFY_RETRY: go(Phase.IDLE, Act.ANSWER, Act.TELL_DOCUMENT, Act.CLEAR, Act.TELL_END),
        Event.NOTIFY_FINAL: go(Phase.IDLE, Act.ANSWER, Act.TELL_DOCUMENT, Act.CLEAR, Act.TELL_END),
        Event.TIMER_N: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
    },
    Phase.RETRY_WAIT: {
        Event.SUBSCRIBE: go(Phase.NOTIFY_WAIT, Act.CLEAR, Act.SEND_INITIAL),
        Event.POLL: go(Phase.POLLING, Act.CLEAR, Act.SEND_POLL),
        Event.UNSUBSCRIBE: go(Phase.IDLE, Act.CLEAR, Act.TELL_END),
        **_LATE,
        Event.NOTIFY_PENDING: unknown,
        Event.NOTIFY_ACTIVE: unknown,
        Event.NOTIFY_RETRY: unknown,
        Event.NOTIFY_FINAL: unknown,
        Event.RETRY_DUE: go(Phase.NOTIFY_WAIT, Act.CLEAR, Act.SEND_INITIAL),
    },
}


class Watch(Enum):
    """States of a subscription as the notifier sees it (RFC 6665 section 4.2)."""

    NEW = "New"
    PENDING = "Pending"
    ACTIVE = "Active"
    ENDING = "Ending"
    ENDED = "Ended"


class Cause(Enum):
    """What can happen to a notifier."""

    SUBSCRIBE = "SUBSCRIBE, allowed"
    UNDECIDED = "SUBSCRIBE, not decided"
    POLL = "SUBSCRIBE for 0 s"
    REFRESH = "SUBSCRIBE in the dialog"
    UNSUBSCRIBE = "SUBSCRIBE for 0 s in the dialog"
    APPROVE = "allowed by owner"
    CHANGE = "state changed"
    END = "ended by owner"
    EXPIRED = "expired"
    NOTIFY_OK = "2xx to NOTIFY"
    NOTIFY_GONE = "481 and its like, or timer F"
    NOTIFY_FAILED = "other failure"
    LAST_DONE = "answer to NOTIFY terminated, or none"


class Deed(Enum):
    """What a notifier does on the way to its next state, in the order written."""

    ANSWER = "200 with Expires"
    REFUSE = "481"
    NOTIFY = "NOTIFY"
    NOTIFY_LAST = "NOTIFY terminated"
    NEXT = "send what is waiting"
    TELL_FAILURE = "failure to owner"
    TELL_END = "end to owner"


_WATCHED: dict[Cause, Step] = {
    Cause.REFRESH: stay(Deed.ANSWER, Deed.NOTIFY),
    Cause.UNSUBSCRIBE: go(Watch.ENDING, Deed.ANSWER, Deed.NOTIFY_LAST),
    Cause.END: go(Watch.ENDING, Deed.NOTIFY_LAST),
    Cause.EXPIRED: go(Watch.ENDING, Deed.NOTIFY_LAST),
    Cause.NOTIFY_OK: stay(Deed.NEXT),
    Cause.NOTIFY_GONE: go(Watch.ENDED, Deed.TELL_END),
    Cause.NOTIFY_FAILED: stay(Deed.TELL_FAILURE, Deed.NEXT),
}

# RFC 6665 section 4.2.  Every 2xx to a SUBSCRIBE is followed by a NOTIFY at once.
NOTIFIER: dict[Watch, dict[Cause, Step]] = {
    Watch.NEW: {
        Cause.SUBSCRIBE: go(Watch.ACTIVE, Deed.ANSWER, Deed.NOTIFY),
        Cause.UNDECIDED: go(Watch.PENDING, Deed.ANSWER, Deed.NOTIFY),
        Cause.POLL: go(Watch.ENDING, Deed.ANSWER, Deed.NOTIFY_LAST),
    },
    Watch.PENDING: {
        **_WATCHED,
        Cause.APPROVE: go(Watch.ACTIVE, Deed.NOTIFY),
        Cause.CHANGE: ignored,  # nothing may leak before the decision
    },
    Watch.ACTIVE: {
        **_WATCHED,
        Cause.APPROVE: ignored,
        Cause.CHANGE: stay(Deed.NOTIFY),
    },
    Watch.ENDING: {
        Cause.REFRESH: stay(Deed.REFUSE),
        Cause.UNSUBSCRIBE: stay(Deed.REFUSE),
        Cause.APPROVE: ignored,
        Cause.CHANGE: ignored,
        Cause.END: ignored,
        Cause.EXPIRED: ignored,
        Cause.NOTIFY_OK: stay(Deed.NEXT),
        Cause.NOTIFY_GONE: go(Watch.ENDED, Deed.TELL_END),
        Cause.NOTIFY_FAILED: stay(Deed.NEXT),
        Cause.LAST_DONE: go(Watch.ENDED, Deed.TELL_END),
    },
    Watch.ENDED: {
        Cause.REFRESH: stay(Deed.REFUSE),
        Cause.UNSUBSCRIBE: stay(Deed.REFUSE),
        Cause.APPROVE: ignored,
        Cause.CHANGE: ignored,
        Cause.END: ignored,
        Cause.EXPIRED: ignored,
        Cause.NOTIFY_OK: ignored,
        Cause.NOTIFY_GONE: ignored,
        Cause.NOTIFY_FAILED: ignored,
        Cause.LAST_DONE: ignored,
    },
}
