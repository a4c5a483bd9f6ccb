"""A second description of the four transactions, written from the RFCs and not from our tables.

Each machine is a text in four columns: state, event, next state, what is seen outside (``-`` for
nothing, ``+`` between two things).  Timers stand apart: which one runs in which state, and how long.
"""

from __future__ import annotations

T1, T2, T4 = 0.5, 4.0, 5.0
LONG = 64 * T1

INVITE_CLIENT = """
calling      A       calling      send-INVITE
calling      B       terminated   failed-timeout+ended
calling      1xx     proceeding   up
calling      2xx     accepted     up
calling      486     completed    send-ACK+up
calling      error   terminated   failed-transport+ended
calling      cancel  waiting      -
waiting      A       waiting      send-INVITE
waiting      B       terminated   failed-timeout+ended
waiting      1xx     cancelling   up+send-CANCEL
waiting      2xx     accepted     up
waiting      486     completed    send-ACK+up
waiting      error   terminated   failed-transport+ended
waiting      cancel  waiting      -
proceeding   1xx     proceeding   up
proceeding   2xx     accepted     up
proceeding   486     completed    send-ACK+up
proceeding   error   proceeding   -
proceeding   cancel  cancelling   send-CANCEL
cancelling   1xx     cancelling   up
cancelling   2xx     accepted     up
cancelling   486     completed    send-ACK+up
cancelling   error   cancelling   -
cancelling   cancel  cancelling   -
cancelling   X       terminated   failed-timeout+ended
accepted     1xx     accepted     -
accepted     2xx     accepted     up-or-ack
accepted     486     accepted     -
accepted     error   accepted     -
accepted     cancel  accepted     -
accepted     M       terminated   ended
completed    1xx     completed    -
completed    2xx     completed    -
completed    486     completed    send-ACK
completed    error   terminated   ended
completed    cancel  completed    -
completed    D       terminated   ended
"""

CLIENT = """
trying       E       trying       send-MESSAGE
trying       F       terminated   failed-timeout+ended
trying       1xx     proceeding   up
trying       2xx     completed    up
trying       486     completed    up
trying       error   terminated   failed-transport+ended
trying       cancel  trying       -
proceeding   E       proceeding   send-MESSAGE
proceeding   F       terminated   failed-timeout+ended
proceeding   1xx     proceeding   up
proceeding   2xx     completed    up
proceeding   486     completed    up
proceeding   error   terminated   failed-transport+ended
proceeding   cancel  proceeding   -
completed    1xx     completed    -
completed    2xx     completed    -
completed    486     completed    -
completed    error   completed    -
completed    cancel  completed    -
completed    K       terminated   ended
"""

INVITE_SERVER = """
proceeding   INVITE  proceeding   again
proceeding   ACK     proceeding   -
proceeding   CANCEL  proceeding   send-200+CANCEL
proceeding   100     proceeding   send-100
proceeding   tu180   proceeding   send-180
proceeding   tu200   accepted     send-200
proceeding   tu486   completed    send-486
proceeding   error   proceeding   failed-transport
accepted     INVITE  accepted     -
accepted     ACK     acked        ACK
accepted     CANCEL  accepted     send-200
accepted     tu180   accepted     -
accepted     tu200   accepted     -
accepted     tu486   accepted     -
accepted     error   accepted     failed-transport
accepted     U       accepted     send-200
accepted     L       terminated   failed-no-ACK+ended
acked        INVITE  acked        -
acked        ACK     acked        -
acked        CANCEL  acked        send-200
acked        tu180   acked        -
acked        tu200   acked        -
acked        tu486   acked        -
acked        error   acked        -
acked        L       terminated   ended
completed    INVITE  completed    send-486
completed    ACK     confirmed    -
completed    CANCEL  completed    send-200
completed    tu180   completed    -
completed    tu200   completed    -
completed    tu486   completed    -
completed    error   completed    failed-transport
completed    G       completed    send-486
completed    H       terminated   failed-timeout+ended
confirmed    INVITE  confirmed    -
confirmed    ACK     confirmed    -
confirmed    CANCEL  confirmed    send-200
confirmed    tu180   confirmed    -
confirmed    tu200   confirmed    -
confirmed    tu486   confirmed    -
confirmed    error   confirmed    -
confirmed    I       terminated   ended
"""

SERVER = """
trying       MESSAGE trying       -
trying       tu100   proceeding   send-100
trying       tu200   completed    send-200
trying       tu486   completed    send-486
trying       error   trying       -
trying       X       terminated   failed-timeout+ended
proceeding   MESSAGE proceeding   send-100
proceeding   tu100   proceeding   send-100
proceeding   tu200   completed    send-200
proceeding   tu486   completed    send-486
proceeding   error   proceeding   failed-transport
proceeding   X       terminated   failed-timeout+ended
completed    MESSAGE completed    again
completed    tu100   completed    -
completed    tu200   completed    -
completed    tu486   completed    -
completed    error   completed    failed-transport
completed    J       terminated   ended
"""

LATE = """
terminated   error   terminated   -
terminated   cancel  terminated   -
terminated   tu100   terminated   -
terminated   tu180   terminated   -
terminated   tu200   terminated   -
terminated   tu486   terminated   -
"""

# Repetitions: timer -> (state it starts in, states it runs on in, cap, over reliable transports too).
REPEATS = {
    "A": ({"calling"}, {"calling", "waiting"}, float("inf"), False),
    "E": ({"trying"}, {"trying", "proceeding"}, T2, False),
    "G": ({"completed"}, {"completed"}, T2, False),
    "U": ({"accepted"}, {"accepted"}, T2, True),
}

# Other timers: timer -> (states it starts in, states it runs on in, seconds, seconds if reliable).
LIMITS = {
    "invite_client": {
        "B": ({"calling"}, {"calling", "waiting"}, LONG, LONG),
        "D": ({"completed"}, {"completed"}, 32.0, 0.0),
        "M": ({"accepted"}, {"accepted"}, LONG, LONG),
        "X": ({"cancelling"}, {"cancelling"}, LONG, LONG),
    },
    "client": {
        "F": ({"trying"}, {"trying", "proceeding"}, LONG, LONG),
        "K": ({"completed"}, {"completed"}, T4, 0.0),
    },
    "invite_server": {
        "100": ({"proceeding"}, {"proceeding"}, 0.2, 0.2),
        "H": ({"completed"}, {"completed"}, LONG, LONG),
        "I": ({"confirmed"}, {"confirmed"}, T4, 0.0),
        "L": ({"accepted"}, {"accepted", "acked"}, LONG, LONG),
    },
    "server": {
        "X": ({"trying"}, {"trying", "proceeding"}, LONG, LONG),
        "J": ({"completed"}, {"completed"}, LONG, 0.0),
    },
}

MACHINES = {
    "invite_client": (INVITE_CLIENT, "calling", {"A"}),
    "client": (CLIENT, "trying", {"E"}),
    "invite_server": (INVITE_SERVER, "proceeding", {"G", "U"}),
    "server": (SERVER, "trying", set()),
}


def rows(text: str) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """Read a machine's text."""
    table = {}
    for line in text.strip().splitlines():
        state, event, following, seen = line.split()
        assert (state, event) not in table, line
        table[state, event] = (following, [] if seen == "-" else seen.split("+"))
    return table


class Model:
    """One transaction by the second description, with its own idea of time."""

    def __init__(self, machine: str, reliable: bool, now: float) -> None:
        text, first, self._repeating = MACHINES[machine]
        self._rows = rows(text) | rows(LATE)
        self._limits = LIMITS[machine]
        self.reliable = reliable
        self.state = ""
        self.timers: dict[str, float] = {}
        self.intervals: dict[str, float] = {}
        self._enter(first, now)

    def knows(self, event: str) -> bool:
        """Return whether the event may happen now."""
        return (self.state, event) in self._rows

    def happen(self, event: str, now: float) -> list[str]:
        """Let something happen and return what is seen."""
        following, seen = self._rows[self.state, event]
        seen = list(seen)
        if event in self.intervals:
            cap = REPEATS[event][2]
            slow = event == "E" and self.state == "proceeding"
            self.intervals[event] = T2 if slow else min(2 * self.intervals[event], cap)
            self.timers[event] = now + self.intervals[event]
        else:
            self.timers.pop(event, None)
        if following != self.state:
            seen += self._enter(following, now)
        elif event in ("tu180",) and "100" in self.timers:
            del self.timers["100"]  # our core has answered: no 100 any more
        return seen

    def _enter(self, state: str, now: float) -> list[str]:
        self.state = state
        for name in list(self.timers):
            runs_in = (REPEATS.get(name) or self._limits[name])[1]
            if state not in runs_in:
                del self.timers[name]
                self.intervals.pop(name, None)
        for name in self._repeating:
            starts, _, _, always = REPEATS[name]
            if state in starts and (always or not self.reliable):
                self.intervals[name] = T1
                self.timers[name] = now + T1
        for name, (starts, _, seconds, if_reliable) in self._limits.items():
            if state in starts:
                delay = if_reliable if self.reliable else seconds
                if delay == 0.0:
                    return self.happen(name, now)
                self.timers[name] = now + delay
        return []

    def next(self) -> tuple[float, str] | None:
        """Return when which timer fires next; a repetition before a limit of the same moment."""
        order = sorted((when, name in self._limits, name) for name, when in self.timers.items())
        return (order[0][0], order[0][2]) if order else None
