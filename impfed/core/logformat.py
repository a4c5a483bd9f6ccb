"""The log's two forms: a line for people or a JSON object, with the event's stable name.

Both carry the conversation id where an event has one, stay on one line whatever a peer sent us, and
hide fields whose name says that they are secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from twisted.logger import ILogObserver, LogLevel, formatEvent
from zope.interface import implementer

#: Fields with one of these words in their name are never written.
SECRET_WORDS = ("secret", "password", "passwd", "passphrase", "credential", "private_key")

HIDDEN = "(hidden)"

_LEVELS = {"debug": 0, "info": 1, "warn": 2, "error": 3, "critical": 4}
_SKIPPED = frozenset({"event", "conversation", "format", "time", "message", "isError", "system"})


class LogStream(Protocol):
    """Where lines go: a text stream, or a log file that rotates."""

    def write(self, text: str, /) -> Any:
        """Write some text."""

    def flush(self) -> None:
        """See that it is on its way."""


def is_secret(name: str) -> bool:
    """Say whether a field's name means that its value must not be shown."""
    lowered = name.lower()
    return any(word in lowered for word in SECRET_WORDS)


def one_line(text: str) -> str:
    """Return a text with control characters written as escapes, so that nobody can forge a line."""
    if text.isprintable():
        return text
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode("ascii")
        for mark in text
    )


def level_of(event: Mapping[str, Any]) -> str:
    """Return an event's level; what libraries call info is debug here."""
    level = getattr(event.get("log_level"), "name", "info")
    if level == "info" and not _name(event).startswith("impfed"):
        return "debug"
    return level if level in _LEVELS else "info"


def text_line(event: Mapping[str, Any]) -> str:
    """Return an event as a line for people; a traceback follows on lines of its own, indented."""
    parts = [_time(event), f"{level_of(event):<8}", one_line(_name(event))]
    conversation = event.get("conversation")
    if conversation:
        parts.append(f"[{one_line(str(conversation))}]")
    parts.append(one_line(_sentence(event)))
    traceback = _traceback(event)
    if traceback:
        parts[-1] += "".join(f"\n    {one_line(line)}" for line in traceback.splitlines())
    return " ".join(parts) + "\n"


def json_line(event: Mapping[str, Any]) -> str:
    """Return an event as a JSON object on a line.

    ``time`` (RFC 3339, UTC), ``level``, ``event``, ``text``; ``conversation`` and ``traceback``
    where there are any; then the event's own fields: JSON's types as they are, others as text.
    """
    entry: dict[str, Any] = {"time": _time(event), "level": level_of(event), "event": _name(event)}
    if event.get("conversation"):
        entry["conversation"] = str(event["conversation"])
    entry["text"] = _sentence(event)
    for name, value in event.items():
        if not name.startswith("log_") and name not in _SKIPPED:
            entry.setdefault(name, HIDDEN if is_secret(name) else _plain(value))
    traceback = _traceback(event)
    if traceback:
        entry["traceback"] = traceback
    return json.dumps(entry, ensure_ascii=True) + "\n"


@implementer(ILogObserver)
class LineObserver:
    """Writes events of a level and above, a line each.

    :param stream: where to.
    :param form: "text" or "json".
    :param level: the least level that is written: debug, info, warn or error.
    """

    def __init__(self, stream: LogStream, form: str = "text", level: str = "info") -> None:
        self._stream = stream
        self._line = json_line if form == "json" else text_line
        self._least = _LEVELS[level]

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write one event."""
        if _LEVELS[level_of(event)] >= self._least:
            self._stream.write(self._line(event))
            self._stream.flush()


def log_observer(stream: LogStream, form: str = "text", level: str = "info") -> LineObserver:
    """Return the observer that the node's configuration asks for."""
    return LineObserver(stream, form, level)


def _name(event: Mapping[str, Any]) -> str:
    return str(event.get("event") or event.get("log_namespace") or "log")


def _time(event: Mapping[str, Any]) -> str:
    moment = datetime.fromtimestamp(event.get("log_time") or 0.0, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _sentence(event: Mapping[str, Any]) -> str:
    hidden = {name: HIDDEN for name in event if is_secret(name)}
    text = formatEvent({**event, **hidden})
    if not text and event.get("log_level") is LogLevel.critical:
        return "unexpected failure"
    return text


def _traceback(event: Mapping[str, Any]) -> str:
    failure = event.get("log_failure")
    return str(failure.getTraceback()) if failure is not None else ""


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(k): HIDDEN if is_secret(str(k)) else _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return str(value)
