"""The four transactions of RFC 3261 section 17, with RFC 6026, as tables.

Each table is ``dict[State, dict[Input, Transition]]``.  A pair that is not in its table cannot
happen unless a caller broke the interface and raises :class:`StateError`; what may happen and must
change nothing is written out as :data:`ignored`.  The diagrams in ``docs/state-machines.md`` are
drawn from these tables.

Where the tables say more than the figures of the RFCs:

* the 2xx of an INVITE is repeated by the core of the user agent until its ACK (RFC 3261 section
  13.3.1.4); that is the timer ``REPEAT_2XX`` and the state ``ACKNOWLEDGED`` of the INVITE server;
* a CANCEL waits for the first provisional response (section 9.1): ``CANCEL_WAITING``,
  ``CANCELLING``; 64*T1 after the CANCEL the INVITE counts as dead (timer ``GIVE_UP``);
* a request other than INVITE that our own core never answers is forgotten after 64*T1, when its
  sender has given up as well (timer ``GIVE_UP``); nothing may stay for ever;
* a transport failure after the transaction user has its final response tells it nothing new and is
  not reported; a server transaction reports one and stays in its state (RFC 6026 section 7.1).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from impfed.core.errors import LocalError


class StateError(LocalError):
    """A state machine was given an input that its state does not know."""


class State(Enum):
    """States of all transactions; each table uses some of them."""

    __hash__ = object.__hash__  # by identity: the tables are looked up for every message

    NEW = "New"
    CALLING = "Calling"
    CANCEL_WAITING = "Cancel waiting"
    CANCELLING = "Cancelling"
    TRYING = "Trying"
    PROCEEDING = "Proceeding"
    COMPLETED = "Completed"
    CONFIRMED = "Confirmed"
    ACCEPTED = "Accepted"
    ACKNOWLEDGED = "Acknowledged"
    TERMINATED = "Terminated"


class Input(Enum):
    """What can happen to a transaction.  Letters: timers of RFC 3261 table 4 and RFC 6026."""

    __hash__ = object.__hash__

    START = "request from TU"
    REQUEST = "request"
    ACK = "ACK"
    CANCEL = "CANCEL"
    R1XX = "1xx"
    R2XX = "2xx"
    R3XX_6XX = "3xx-6xx"
    TU_1XX = "1xx from TU"
    TU_2XX = "2xx from TU"
    TU_3XX_6XX = "3xx-6xx from TU"
    TU_CANCEL = "cancel from TU"
    TRANSPORT_ERROR = "transport error"
    TIMER_A = "timer A"
    TIMER_B = "timer B"
    TIMER_D = "timer D"
    TIMER_E = "timer E"
    TIMER_F = "timer F"
    TIMER_G = "timer G"
    TIMER_H = "timer H"
    TIMER_I = "timer I"
    TIMER_J = "timer J"
    TIMER_K = "timer K"
    TIMER_L = "timer L"
    TIMER_M = "timer M"
    TIMER_100 = "200 ms without answer"
    REPEAT_2XX = "time to repeat 2xx"
    GIVE_UP = "64*T1 without answer"


class Do(Enum):
    """What a transaction does on the way to its next state, in the order written."""

    __hash__ = object.__hash__

    SEND_REQUEST = "send request"
    SEND_RESPONSE = "send response"
    REPEAT_RESPONSE = "repeat last response"
    SEND_TRYING = "send 100"
    SEND_ACK = "send ACK"
    SEND_CANCEL = "send CANCEL"
    PASS_REQUEST = "request to TU"
    PASS_ACK = "ACK to TU"
    PASS_CANCEL = "CANCEL to TU"
    PASS_RESPONSE = "response to TU"
    PASS_2XX = "2xx to TU, or repeat its ACK"
    START_A = "start A"
    START_B = "start B"
    START_D = "start D"
    START_E = "start E"
    START_F = "start F"
    START_G = "start G"
    START_H = "start H"
    START_I = "start I"
    START_J = "start J"
    START_K = "start K"
    START_L = "start L"
    START_M = "start M"
    START_100 = "start 200 ms"
    START_REPEAT_2XX = "start repeating 2xx"
    START_GIVE_UP = "start 64*T1"
    BACK_OFF = "double the interval"
    SLOW_DOWN = "interval T2"
    STOP_REPEATS = "stop repeating"
    STOP_TIMERS = "stop timers"
    FAIL_TIMEOUT = "timeout to TU"
    FAIL_TRANSPORT = "transport failure to TU"
    FAIL_NO_ACK = "missing ACK to TU"
    END = "end"


class Transition(NamedTuple):
    """One cell: the next state and what is done on the way.

    :ivar state: the next state; None stands for "the same".
    :ivar actions: what to do, in order.
    """

    state: State | None
    actions: tuple[Do, ...]


Table = dict[State, dict[Input, Transition]]

ignored = Transition(None, ())
"""A cell for what may happen and changes nothing."""


def go(state: State, *actions: Do) -> Transition:
    """Make a cell that leads to a state."""
    return Transition(state, actions)


def stay(*actions: Do) -> Transition:
    """Make a cell that does something and leads nowhere."""
    return Transition(None, actions)


# RFC 3261 section 17.1.1 figure 5, RFC 6026 figure 5 (Accepted, timer M); section 9.1 for CANCEL.
# Timer C is a proxy's.  In Proceeding the user of the transaction decides how long to wait: the
# connection may go meanwhile, the answer then comes over another one.
INVITE_CLIENT: Table = {
    State.NEW: {
        Input.START: go(State.CALLING, Do.SEND_REQUEST, Do.START_A, Do.START_B),
    },
    State.CALLING: {
        Input.R1XX: go(State.PROCEEDING, Do.STOP_TIMERS, Do.PASS_RESPONSE),
        Input.R2XX: go(State.ACCEPTED, Do.STOP_TIMERS, Do.START_M, Do.PASS_2XX),
        Input.R3XX_6XX: go(
            State.COMPLETED, Do.STOP_TIMERS, Do.SEND_ACK, Do.PASS_RESPONSE, Do.START_D
        ),
        Input.TU_CANCEL: go(State.CANCEL_WAITING),
        Input.TIMER_A: stay(Do.SEND_REQUEST, Do.BACK_OFF),
        Input.TIMER_B: go(State.TERMINATED, Do.FAIL_TIMEOUT, Do.END),
        Input.TRANSPORT_ERROR: go(State.TERMINATED, Do.FAIL_TRANSPORT, Do.END),
    },
    State.CANCEL_WAITING: {
        Input.R1XX: go(
            State.CANCELLING, Do.STOP_TIMERS, Do.PASS_RESPONSE, Do.SEND_CANCEL, Do.START_GIVE_UP
        ),
        Input.R2XX: go(State.ACCEPTED, Do.STOP_TIMERS, Do.START_M, Do.PASS_2XX),
        Input.R3XX_6XX: go(
            State.COMPLETED, Do.STOP_TIMERS, Do.SEND_ACK, Do.PASS_RESPONSE, Do.START_D
        ),
        Input.TU_CANCEL: ignored,
        Input.TIMER_A: stay(Do.SEND_REQUEST, Do.BACK_OFF),
        Input.TIMER_B: go(State.TERMINATED, Do.FAIL_TIMEOUT, Do.END),
        Input.TRANSPORT_ERROR: go(State.TERMINATED, Do.FAIL_TRANSPORT, Do.END),
    },
    State.PROCEEDING: {
        Input.R1XX: stay(Do.PASS_RESPONSE),
        Input.R2XX: go(State.ACCEPTED, Do.START_M, Do.PASS_2XX),
        Input.R3XX_6XX: go(State.COMPLETED, Do.SEND_ACK, Do.PASS_RESPONSE, Do.START_D),
        Input.TU_CANCEL: go(State.CANCELLING, Do.SEND_CANCEL, Do.START_GIVE_UP),
        Input.TRANSPORT_ERROR: ignored,
    },
    State.CANCELLING: {
        Input.R1XX: stay(Do.PASS_RESPONSE),
        Input.R2XX: go(State.ACCEPTED, Do.STOP_TIMERS, Do.START_M, Do.PASS_2XX),
        Input.R3XX_6XX: go(
            State.COMPLETED, Do.STOP_TIMERS, Do.SEND_ACK, Do.PASS_RESPONSE, Do.START_D
        ),
        Input.TU_CANCEL: ignored,
        Input.GIVE_UP: go(State.TERMINATED, Do.FAIL_TIMEOUT, Do.END),
        Input.TRANSPORT_ERROR: ignored,
    },
    State.COMPLETED: {
        Input.R1XX: ignored,
        Input.R2XX: ignored,
        Input.R3XX_6XX: stay(Do.SEND_ACK),
        Input.TU_CANCEL: ignored,
        Input.TIMER_D: go(State.TERMINATED, Do.END),
        Input.TRANSPORT_ERROR: go(State.TERMINATED, Do.END),
    },
    State.ACCEPTED: {
        Input.R1XX: ignored,
        Input.R2XX: stay(Do.PASS_2XX),
        Input.R3XX_6XX: ignored,
        Input.TU_CANCEL: ignored,
        Input.TIMER_M: go(State.TERMINATED, Do.END),
        Input.TRANSPORT_ERROR: ignored,
    },
    State.TERMINATED: {
        Input.TU_CANCEL: ignored,
        Input.TRANSPORT_ERROR: ignored,
    },
}

# RFC 3261 section 17.1.2 figure 6.
CLIENT: Table = {
    State.NEW: {
        Input.START: go(State.TRYING, Do.SEND_REQUEST, Do.START_E, Do.START_F),
    },
    State.TRYING: {
        Input.R1XX: go(State.PROCEEDING, Do.SLOW_DOWN, Do.PASS_RESPONSE),
        Input.R2XX: go(State.COMPLETED, Do.STOP_TIMERS, Do.PASS_RESPONSE, Do.START_K),
        Input.R3XX_6XX: go(State.COMPLETED, Do.STOP_TIMERS, Do.PASS_RESPONSE, Do.START_K),
        Input.TU_CANCEL: ignored,
        Input.TIMER_E: stay(Do.SEND_REQUEST, Do.BACK_OFF),
        Input.TIMER_F: go(State.TERMINATED, Do.FAIL_TIMEOUT, Do.END),
        Input.TRANSPORT_ERROR: go(State.TERMINATED, Do.FAIL_TRANSPORT, Do.END),
    },
    State.PROCEEDING: {
        Input.R1XX: stay(Do.PASS_RESPONSE),
        Input.R2XX: go(State.COMPLETED, Do.STOP_TIMERS, Do.PASS_RESPONSE, Do.START_K),
        Input.R3XX_6XX: go(State.COMPLETED, Do.STOP_TIMERS, Do.PASS_RESPONSE, Do.START_K),
        Input.TU_CANCEL: ignored,
        Input.TIMER_E: stay(Do.SEND_REQUEST, Do.BACK_OFF),
        Input.TIMER_F: go(State.TERMINATED, Do.FAIL_TIMEOUT, Do.END),
        Input.TRANSPORT_ERROR: go(State.TERMINATED, Do.FAIL_TRANSPORT, Do.END),
    },
    State.COMPLETED: {
        Input.R1XX: ignored,
        Input.R2XX: ignored,
        Input.R3XX_6XX: ignored,
        Input.TU_CANCEL: ignored,
        Input.TIMER_K: go(State.TERMINATED, Do.END),
        Input.TRANSPORT_ERROR: ignored,
    },
    State.TERMINATED: {
        Input.TU_CANCEL: ignored,
        Input.TRANSPORT_ERROR: ignored,
    },
}

# RFC 3261 section 17.2.1 figure 7, RFC 6026 figure 7 (Accepted, timer L); section 13.3.1.4 for the
# repetition of the 2xx.
INVITE_SERVER: Table = {
    State.NEW: {
        Input.REQUEST: go(State.PROCEEDING, Do.START_100, Do.PASS_REQUEST),
    },
    State.PROCEEDING: {
        Input.REQUEST: stay(Do.REPEAT_RESPONSE),
        Input.ACK: ignored,
        Input.CANCEL: stay(Do.PASS_CANCEL),
        Input.TIMER_100: stay(Do.SEND_TRYING),
        Input.TU_1XX: stay(Do.STOP_TIMERS, Do.SEND_RESPONSE),
        Input.TU_2XX: go(
            State.ACCEPTED, Do.STOP_TIMERS, Do.SEND_RESPONSE, Do.START_REPEAT_2XX, Do.START_L
        ),
        Input.TU_3XX_6XX: go(
            State.COMPLETED, Do.STOP_TIMERS, Do.SEND_RESPONSE, Do.START_G, Do.START_H
        ),
        Input.TRANSPORT_ERROR: stay(Do.FAIL_TRANSPORT),
    },
    State.COMPLETED: {
        Input.REQUEST: stay(Do.REPEAT_RESPONSE),
        Input.ACK: go(State.CONFIRMED, Do.STOP_TIMERS, Do.START_I),
        Input.CANCEL: ignored,
        Input.TIMER_G: stay(Do.REPEAT_RESPONSE, Do.BACK_OFF),
        Input.TIMER_H: go(State.TERMINATED, Do.FAIL_TIMEOUT, Do.END),
        Input.TU_1XX: ignored,
        Input.TU_2XX: ignored,
        Input.TU_3XX_6XX: ignored,
        Input.TRANSPORT_ERROR: stay(Do.FAIL_TRANSPORT),
    },
    State.CONFIRMED: {
        Input.REQUEST: ignored,
        Input.ACK: ignored,
        Input.CANCEL: ignored,
        Input.TIMER_I: go(State.TERMINATED, Do.END),
        Input.TU_1XX: ignored,
        Input.TU_2XX: ignored,
        Input.TU_3XX_6XX: ignored,
        Input.TRANSPORT_ERROR: ignored,
    },
    State.ACCEPTED: {
        Input.REQUEST: ignored,
        Input.ACK: go(State.ACKNOWLEDGED, Do.STOP_REPEATS, Do.PASS_ACK),
        Input.CANCEL: ignored,
        Input.REPEAT_2XX: stay(Do.REPEAT_RESPONSE, Do.BACK_OFF),
        Input.TIMER_L: go(State.TERMINATED, Do.FAIL_NO_ACK, Do.END),
        Input.TU_1XX: ignored,
        Input.TU_2XX: ignored,
        Input.TU_3XX_6XX: ignored,
        Input.TRANSPORT_ERROR: stay(Do.FAIL_TRANSPORT),
    },
    State.ACKNOWLEDGED: {
        Input.REQUEST: ignored,
        Input.ACK: ignored,
        Input.CANCEL: ignored,
        Input.TIMER_L: go(State.TERMINATED, Do.END),
        Input.TU_1XX: ignored,
        Input.TU_2XX: ignored,
        Input.TU_3XX_6XX: ignored,
        Input.TRANSPORT_ERROR: ignored,
    },
    State.TERMINATED: {
        Input.TU_1XX: ignored,
        Input.TU_2XX: ignored,
        Input.TU_3XX_6XX: ignored,
        Input.TRANSPORT_ERROR: ignored,
    },
}

# RFC 3261 section 17.2.2 figure 8.
SERVER: Table = {
    State.NEW: {
        Input.REQUEST: go(State.TRYING, Do.START_GIVE_UP, Do.PASS_REQUEST),
    },
    State.TRYING: {
        Input.REQUEST: ignored,
        Input.TU_1XX: go(State.PROCEEDING, Do.SEND_RESPONSE),
        Input.TU_2XX: go(State.COMPLETED, Do.STOP_TIMERS, Do.SEND_RESPONSE, Do.START_J),
        Input.TU_3XX_6XX: go(State.COMPLETED, Do.STOP_TIMERS, Do.SEND_RESPONSE, Do.START_J),
        Input.GIVE_UP: go(State.TERMINATED, Do.FAIL_TIMEOUT, Do.END),
        Input.TRANSPORT_ERROR: ignored,
    },
    State.PROCEEDING: {
        Input.REQUEST: stay(Do.REPEAT_RESPONSE),
        Input.TU_1XX: stay(Do.SEND_RESPONSE),
        Input.TU_2XX: go(State.COMPLETED, Do.STOP_TIMERS, Do.SEND_RESPONSE, Do.START_J),
        Input.TU_3XX_6XX: go(State.COMPLETED, Do.STOP_TIMERS, Do.SEND_RESPONSE, Do.START_J),
        Input.GIVE_UP: go(State.TERMINATED, Do.FAIL_TIMEOUT, Do.END),
        Input.TRANSPORT_ERROR: stay(Do.FAIL_TRANSPORT),
    },
    State.COMPLETED: {
        Input.REQUEST: stay(Do.REPEAT_RESPONSE),
        Input.TU_1XX: ignored,
        Input.TU_2XX: ignored,
        Input.TU_3XX_6XX: ignored,
        Input.TIMER_J: go(State.TERMINATED, Do.END),
        Input.TRANSPORT_ERROR: stay(Do.FAIL_TRANSPORT),
    },
    State.TERMINATED: {
        Input.TU_1XX: ignored,
        Input.TU_2XX: ignored,
        Input.TU_3XX_6XX: ignored,
        Input.TRANSPORT_ERROR: ignored,
    },
}


class Machine(Enum):
    """The four machines; the value is the title of the machine's diagram."""

    __hash__ = object.__hash__

    INVITE_CLIENT = "INVITE client transaction"
    CLIENT = "Non-INVITE client transaction"
    INVITE_SERVER = "INVITE server transaction"
    SERVER = "Non-INVITE server transaction"


TABLES: dict[Machine, Table] = {
    Machine.INVITE_CLIENT: INVITE_CLIENT,
    Machine.CLIENT: CLIENT,
    Machine.INVITE_SERVER: INVITE_SERVER,
    Machine.SERVER: SERVER,
}
"""The table of each machine."""
