"""When everything that was begun so far is done: for an acknowledgement that covers many letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Settling:
    """Knows which of many things are still under way."""

    __slots__ = ("_last", "_open", "_waiting")

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, None] = {}  # by number, in order
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def begin(self) -> Callable[[object], None]:
        """Begin one; what is returned has to be called (with anything) when it is done."""
        self._last += 1
        number = self._last
        self._open[number] = None

        def done(_: object = None) -> None:
            if number in self._open:
                del self._open[number]
                self._call()

        return done

    def wait(self, call: Callable[[], None]) -> None:
        """Call as soon as all that was begun until now is done; at once if it is."""
        self._waiting.append((self._last, call))
        self._call()

    def _call(self) -> None:
        lowest = next(iter(self._open), self._last + 1)
        while self._waiting and self._waiting[0][0] < lowest:
            self._waiting.popleft()[1]()
