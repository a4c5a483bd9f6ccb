"""Structured log events: a stable name, a conversation id, fields, and a sentence for people.

Every event has a name that never changes (``impfed.sip.peer_refused``) and may have a conversation id
that ties the SIP and the XMPP half of one exchange together.  The sentence is a format string of
:mod:`twisted.logger` over the same fields, so nothing is formatted unless somebody reads it.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger, LogLevel


class EventLog:
    """Writes events of one room.

    :param room: the room's dotted name, for example ``impfed.sip``; prefix of every event name.
    """

    __slots__ = ("_logger", "_room")

    def __init__(self, room: str, logger: Logger | None = None) -> None:
        self._room = room
        self._logger = logger or Logger(namespace=room)

    def _emit(self, level: Any, event: str, text: str, fields: dict[str, Any]) -> None:
        self._logger.emit(level, text, event=f"{self._room}.{event}", **fields)

    def debug(self, event: str, text: str, /, **fields: Any) -> None:
        """Record a detail that only a developer needs."""
        self._emit(LogLevel.debug, event, text, fields)

    def info(self, event: str, text: str, /, **fields: Any) -> None:
        """Record a normal event of an operator's interest."""
        self._emit(LogLevel.info, event, text, fields)

    def warn(self, event: str, text: str, /, **fields: Any) -> None:
        """Record something that an operator should look at."""
        self._emit(LogLevel.warn, event, text, fields)

    def error(self, event: str, text: str, /, **fields: Any) -> None:
        """Record a fault that needs an operator."""
        self._emit(LogLevel.error, event, text, fields)

    def failure(self, event: str, text: str, failure: Any = None, /, **fields: Any) -> None:
        """Record an unexpected exception with its traceback: a bug of ours."""
        self._logger.failure(
            text, failure, LogLevel.critical, event=f"{self._room}.{event}", **fields
        )
