"""Answers of a node in words: tables, the ledger's story of a message, the ladder of a trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from impfed.core.trace import INSIDE

_TIMES = (
    "since",
    "retry_at",
    "expires_at",
    "last_activity",
    "last_at",
    "last_used",
    "changed_at",
    "received_at",
    "learned_at",
    "slowed_since",
    "waiting_since",
    "until",
)

_OUTCOMES = {
    "queued": "on its way",
    "held": "held: it waits for the peer's MESSAGE that repeats it",
    "delivered": "delivered",
    "acknowledged": "taken by the foreign server; no error has come back",
    "written": "written to the foreign server, which acknowledges nothing; no error has come back",
    "bounced": "not delivered; its sender was told",
    "discarded": "thrown away: its recipient has blocked the sender",
    "unsure": "not known: it may have been delivered, an answer never came",
}


def printable(text: str) -> str:
    """Return a text that cannot steer a terminal; line ends and tabs become escapes, too."""
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode("ascii")
        for mark in text
    )


def moment(seconds: float) -> str:
    """Return a time in words: "2026-11-22 15:23:58.123Z"."""
    when = datetime.fromtimestamp(seconds, UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def lasting(seconds: float) -> str:
    """Return a duration in words: "3.210 s", "2:03:04"."""
    return f"{seconds:.3f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def cell(name: str, value: Any) -> str:
    """Return one value of an answer in words."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in _TIMES and isinstance(value, (int, float)):
        return moment(value)[:19] + "Z" if value else "-"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(cell(name, item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{printable(str(k))} {cell(str(k), v)}" for k, v in value.items())
    return printable(str(value))


def table(items: Sequence[dict[str, Any]], nothing: str) -> str:
    """Return items as a table with a head, columns in the order of the first item's keys."""
    if not items:
        return nothing + "\n"
    names = list(dict.fromkeys(name for item in items for name in item))
    rows = [[name.replace("_", " ").upper() for name in names]]
    rows += [[cell(name, item.get(name)) for name in names] for item in items]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    return "".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


def listing(items: Sequence[dict[str, Any]], nothing: str, width: int) -> str:
    """Return items as a table, or one below the other where the table would be too wide."""
    text = table(items, nothing)
    if max(map(len, text.splitlines())) <= width:
        return text
    return "".join(_lines_of(item) for item in items)


def _lines_of(item: dict[str, Any]) -> str:
    (first, value), *others = item.items()
    lines = [f"{first.replace('_', ' ')} {cell(first, value)}"]
    lines += [f"  {name.replace('_', ' ')}: {cell(name, other)}" for name, other in others]
    return "\n".join(lines) + "\n"


def status(answer: dict[str, Any], width: int = 100) -> str:
    """Return the status of a node: its values, then its lists, then its counters."""
    lines, tables = [], []
    for name, value in answer.items():
        title = name.replace("_", " ")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            tables.append(f"\n{title}\n{listing(value, '', width)}")
        elif isinstance(value, dict):
            rows = "".join(f"  {printable(k)}  {cell(k, v)}\n" for k, v in value.items() if v)
            tables.append(_block(title, rows))
        else:
            lines.append(f"{title}: {cell(name, value)}\n")
    return "".join(lines) + "".join(tables)


def _block(title: str, rows: str) -> str:
    return f"\n{title}\n{rows}" if rows else f"\n{title}\n  none\n"


def silence(nodes: Iterable[str]) -> str:
    """Return a line for each node of the cluster that did not answer."""
    words = "did not answer: what it has handled is missing here"
    return "".join(f"node {printable(name)} {words}\n" for name in nodes)


def whereabouts(items: Iterable[dict[str, Any]]) -> str:
    """Return what the ledger knows of messages, each as a short story of both legs."""
    return "\n".join(_story(item) for item in items)


def _story(item: dict[str, Any]) -> str:
    inward = item["direction"] == "in"
    sender, recipient = item["foreign"], item["local"]
    if not inward:
        sender, recipient = recipient, sender
    outcome = _OUTCOMES.get(item["outcome"], item["outcome"])
    lines = [
        f"{printable(item['id'])}: {printable(sender)} → {printable(recipient)}: {outcome}",
        f"  received  {moment(item['received_at'])} from the"
        + (" far side" if inward else " home server")
        + (f", node {printable(item['node'])}" if item["node"] else ""),
    ]
    far = _stream_leg if item.get("far") == "xmpp" else _sip_leg
    legs = [far(item, inward), _xmpp_leg(item, inward)]
    lines += legs if inward else legs[::-1]
    if item["finished_at"]:
        spent = lasting(item["finished_at"] - item["received_at"])
        lines.append(f"  finished  {moment(item['finished_at'])}, after {spent}")
    else:
        lines.append("  finished  not yet")
    if item["detail"]:
        lines.append(f"  detail    {printable(item['detail'])}")
    return "\n".join(lines) + "\n"


def _sip_leg(item: dict[str, Any], inward: bool) -> str:
    place = f"Call-ID {printable(item['call_id'])}" if item["call_id"] else "no dialog yet"
    if item["cseq"]:
        place += f", CSeq {item['cseq']}"
    who = "we answered" if inward else "the far side answered"
    answer = f"{who} {item['sip_status']}" if item["sip_status"] else "no answer"
    return f"  SIP leg   {answer} ({place})"


def _stream_leg(item: dict[str, Any], inward: bool) -> str:
    """Return what is known of the leg to a foreign domain that is reached over XMPP."""
    condition = printable(item["xmpp_condition"])
    if inward:
        told = f"returned to its server with {condition}" if condition else "came from its server"
    else:
        told = {
            "acknowledged": "its server has taken it (XEP-0198)",
            "written": "written to the stream of its server, which acknowledges nothing",
            "bounced": "not delivered",
        }.get(item["outcome"], "on no stream yet")
    return f"  S2S leg   {told}"


def _xmpp_leg(item: dict[str, Any], inward: bool) -> str:
    stanza = f"stanza id {printable(item['stanza_id'])}" if item["stanza_id"] else "no stanza id"
    condition = printable(item["xmpp_condition"])
    if inward:
        if condition and item["outcome"] != "unsure":
            # Of a relayed text the other leg says with what it was returned, be it by us.
            relayed = item.get("far") == "xmpp"
            answer = "not accepted" if relayed else f"the home server answered {condition}"
        elif item["outcome"] == "delivered":
            answer = "the home server accepted it"
        else:
            answer = "no word from the home server"
    else:
        answer = (
            f"we returned it with {condition}" if condition else "taken over, no error returned"
        )
    return f"  XMPP leg  {answer} ({stanza})"


def _outside(item: dict[str, Any]) -> bool:
    """Whether a message goes between us and the far side."""
    return item["protocol"] == "sip" and not str(item.get("peer", "")).startswith(INSIDE)


class Ladder:
    """Draws messages as arrows between the far side, the node and the home server.

    :param width: of the terminal, in columns.
    :param full: whether whole messages are shown below their arrow, not just what matters.
    :param names: who stands where, from left to right.
    """

    _GUTTER = 14  # the time and two blanks

    def __init__(
        self,
        width: int = 100,
        full: bool = False,
        names: tuple[str, str, str] = ("far side", "node", "home server"),
    ) -> None:
        self._names = names
        self._span = max(16, min(44, (width - self._GUTTER - 3) // 2))
        self._full = full

    def head(self) -> str:
        """Return the head: who stands where."""
        gap = self._span + 1
        left, middle, right = self._names
        names = f"{left:<{gap}}{middle:<{gap}}{right}"
        return " " * self._GUTTER + names + "\n" + self._lines(" " * self._GUTTER, ("|", "|", "|"))

    def draw(self, item: dict[str, Any]) -> str:
        """Return a message: its arrow, and what it carries."""
        if "dropped" in item:
            return f"{'':{self._GUTTER}}({item['dropped']} messages passed too fast to be shown)\n"
        time = moment(item["when"])[11:23]
        arrow = self._arrow(printable(item["label"]), self._rightwards(item))
        empty = " " * self._span
        spans = (arrow, empty) if _outside(item) else (empty, arrow)
        line = f"{time:<{self._GUTTER}}|{spans[0]}|{spans[1]}|\n"
        return line + "".join(f"{'':{self._GUTTER}}  {text}\n" for text in self._carried(item))

    def _rightwards(self, item: dict[str, Any]) -> bool:
        # The far side stands to the left of the node, the home server (or the inside) to its right.
        inbound: bool = item["inbound"]
        return inbound is _outside(item)

    def _arrow(self, text: str, rightwards: bool) -> str:
        text = text[: self._span - 6]
        left = (self._span - len(text) - 2) // 2
        right = self._span - len(text) - 2 - left
        if rightwards:
            return "-" * left + f" {text} " + "-" * (right - 1) + ">"
        return "<" + "-" * (left - 1) + f" {text} " + "-" * right

    def _lines(self, gutter: str, marks: tuple[str, str, str]) -> str:
        gap = " " * self._span
        return gutter + gap.join(marks) + "\n"

    def _carried(self, item: dict[str, Any]) -> list[str]:
        text: str = item["text"]
        if item["protocol"] == "xmpp":
            return [printable(line) for line in text.splitlines() or [text]]
        head, _, body = text.replace("\r\n", "\n").partition("\n\n")
        lines = head.split("\n")
        if not self._full:
            first, *headers = lines
            shown = ("from:", "f:", "to:", "t:", "call-id:", "i:", "content-type:", "c:", "event:",
                     "subscription-state:", "reason:", "warning:", "ms-diagnostics:")  # fmt: skip
            lines = [first, *(line for line in headers if line.lower().startswith(shown))]
        return [printable(line) for line in (*lines, *(f"  {line}" for line in body.splitlines()))]
