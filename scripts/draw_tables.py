"""Draw the state machines from the very tables that run them, as Mermaid diagrams.

Writes ``docs/state-machines.md``.  With ``--check`` it writes nothing and fails if that file is not
what it would write.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from impfed.sip.subscription_tables import NOTIFIER, SUBSCRIBER, Phase, Watch  # noqa: E402
from impfed.sip.transaction_tables import TABLES, State  # noqa: E402
from impfed.xmpp import s2s_in, s2s_out  # noqa: E402
from impfed.xmpp.s2s_base import Input, S2SStream  # noqa: E402
from impfed.xmpp.s2s_in import IncomingStream  # noqa: E402
from impfed.xmpp.s2s_out import OutgoingStream  # noqa: E402

TARGET = ROOT / "docs" / "state-machines.md"

INTRODUCTION = """\
# State machines

Written by `scripts/draw_tables.py` from the tables in `impfed/sip/transaction_tables.py`,
`impfed/sip/subscription_tables.py`, `impfed/xmpp/s2s_in.py` and `impfed/xmpp/s2s_out.py`; do not edit.
An arrow shows what happens and, after the slash, what is done on the way. What a state takes note of and
ignores is listed below each diagram; anything else in that state is a fault of the program and raises
`StateError`.
"""


def identifier(state: Enum) -> str:
    """Return a state's name as Mermaid wants identifiers."""
    return state.name.lower()


def text(value: str) -> str:
    """Return text that does not disturb Mermaid."""
    return value.replace(":", " ").replace(";", ",").replace("#", "")


def diagram(
    table: Mapping[Any, Mapping[Any, tuple[Enum | None, tuple[Enum, ...]]]],
    first: Enum,
    last: Enum | None,
) -> list[str]:
    """Return the lines of one machine's diagram and of its list of what is ignored."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {identifier(first)}"]
    lines += [f'    state "{state.value}" as {identifier(state)}' for state in table]
    ignored = []
    for state, row in table.items():
        arrows: dict[tuple[str, str], list[str]] = {}
        quiet = []
        for event, (following, actions) in row.items():
            if following is None and not actions:
                quiet.append(str(event.value))
                continue
            done = ", ".join(str(action.value) for action in actions)
            arrows.setdefault((identifier(following or state), done), []).append(str(event.value))
        for (target, done), events in arrows.items():
            label = text(" or ".join(events) + (f" / {done}" if done else ""))
            lines.append(f"    {identifier(state)} --> {target}: {label}")
        if quiet:
            ignored.append(f"* {state.value} ignores: {', '.join(quiet)}.")
    if last is not None:
        lines.append(f"    {identifier(last)} --> [*]")
    return [*lines, "```", "", *ignored, ""]


STREAMS = """\
## XMPP streams between servers

An action may itself decide what comes next ("TLS chosen", "refused by us"): that is an input like
those from outside, taken at once. What ends a stream in every state is listed, not drawn; so is what
a state takes without being left. A state that does not foresee an input raises `LocalError`; a test
shows that whatever a peer sends is foreseen in every state.
"""


#: What actions are that leave a stream where it is, or end it as a breach of the rules.
_BROKEN = "ends the stream with an error for"
_KINDS = {"_ignore": "ignores", "_unknown": _BROKEN, "_early": _BROKEN, "_sasl_again": _BROKEN}


def stream_diagram(kind: type[S2SStream], first: Enum) -> list[str]:
    """Return the same for one side of an XMPP stream."""
    last, table = (
        kind.CLOSED,
        {one: row for one, row in kind.TABLE.items() if one is not kind.CLOSED},
    )
    ending = [
        given
        for given in Input
        if all(row[given][0] is last for row in table.values() if given in row)
        and sum(given in row for row in table.values()) >= len(table) - 2
    ]
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {identifier(first)}"]
    lines += [f'    state "{state.value}" as {identifier(state)}' for state in kind.TABLE]
    listed = []
    for state, row in table.items():
        arrows: dict[str, list[str]] = {}
        stays: dict[str, list[str]] = {}
        for given, (following, action) in row.items():
            if given in ending:
                continue
            if following is state:
                stays.setdefault(_KINDS.get(action.__name__, "takes"), []).append(given.value)
            else:
                arrows.setdefault(identifier(following), []).append(given.value)
        for target, events in arrows.items():
            lines.append(f"    {identifier(state)} --> {target}: {text(' or '.join(events))}")
        listed += [f"* {state.value} {verb}: {', '.join(what)}." for verb, what in stays.items()]
    lines.append(f"    {identifier(last)} --> [*]")
    ends = f"* The stream ends, wherever these can come: {', '.join(one.value for one in ending)}."
    return [*lines, "```", "", ends, *listed, ""]


def document() -> str:
    """Return the whole text of the file."""
    parts = [INTRODUCTION]
    for machine, table in TABLES.items():
        parts += [f"## {machine.value}", "", *diagram(table, State.NEW, State.TERMINATED)]
    parts += ["## Subscriber (RFC 6665)", "", *diagram(SUBSCRIBER, Phase.IDLE, None)]
    parts += ["## Notifier (RFC 6665)", "", *diagram(NOTIFIER, Watch.NEW, Watch.ENDED)]
    parts += [STREAMS]
    parts += ["### Incoming", "", *stream_diagram(IncomingStream, s2s_in.State.IDLE)]
    parts += ["### Outgoing", "", *stream_diagram(OutgoingStream, s2s_out.State.IDLE)]
    return "\n".join(parts).rstrip("\n") + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or check it."""
    fresh = document()
    if arguments == ["--check"]:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == fresh:
            return 0
        print(f"{TARGET} is stale: run scripts/draw_tables.py", file=sys.stderr)
        return 1
    TARGET.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
