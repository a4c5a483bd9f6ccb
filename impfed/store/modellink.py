"""Ways to a server in memory, for tests and simulations.

One :class:`~impfed.store.model.Model` stands for the server, and each node has a :class:`ModelLink` of
its own to it, which can be cut, slowed down and made to lose answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from impfed.store.api import StoreError, StoreFault
from impfed.store.link import Answer, Argument, Entries
from impfed.store.model import Model

#: Seconds for which a link waits for each of the server's answers when it connects.
_CONNECT = 2.0
#: How many of these there are, one after the other.
_GREETINGS = 3


class ModelLink:
    """One node's way to the :class:`Model`.

    :param clock: with one, answers come in a later turn; without, at once.
    :ivar before: asked for each operation, and for each wait ("wait"); True loses it on the way there.
    :ivar afterwards: asked for each operation, and wait; True loses the answer on the way back.
    :ivar delay: seconds that an answer takes.
    """

    def __init__(self, model: Model, clock: IReactorTime | None = None) -> None:
        self.place = "model"
        self.before: Callable[[str], bool] = lambda operation: False
        self.afterwards: Callable[[str], bool] = lambda operation: False
        self.delay = 0.0
        self._model = model
        self._clock = clock
        self._up = False
        self._running = False
        self._reachable = True
        self._watchers: list[Callable[[bool], None]] = []
        self._waiting: tuple[dict[str, str], Deferred[Any], IDelayedCall | None] | None = None
        self._outstanding: dict[Deferred[Any], None] = {}  # oldest first
        model.waiters.append(self.wake)

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._up

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Call ``changed(up)`` whenever the connection is there or has gone."""
        self._watchers.append(changed)

    def start(self) -> Deferred[None]:
        """Connect."""
        if not self._reachable:
            return fail(_error(StoreFault.UNAVAILABLE, "it cannot be reached"))
        self._running = True
        self._become(True)
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """Disconnect."""
        self._running = False
        self._become(False)
        return succeed(None)

    def cut(self) -> None:
        """Lose the connection, with what is under way on it, until :meth:`heal`."""
        self._reachable = False
        self._become(False)

    def heal(self) -> None:
        """Connect again."""
        self._reachable = True
        self._connect()

    def call(self, operation: str, *arguments: Argument, timeout: float = 2.0) -> Deferred[Answer]:
        """Do an operation; see :class:`~impfed.store.link.Link`."""
        if not self._up:
            return fail(_error(StoreFault.UNAVAILABLE, "there is no connection"))
        unsure = _error(StoreFault.UNSURE, f"it gave no answer to {operation}")
        asked: Deferred[Answer] = Deferred()
        self._outstanding[asked] = None
        slow = self._model.slow
        if self.before(operation):
            self._answer_later(asked, unsure, timeout, True)
        elif slow:
            # It is done some time, whether or not anybody waits for the answer still.
            self._model.later(slow, lambda: self._done_late(asked, operation, arguments))
            self._answer_later(asked, unsure, timeout, True)
        else:
            answer = self._do(operation, arguments)
            lost = self.afterwards(operation)
            self._answer_later(
                asked, unsure if lost else answer, timeout if lost else self.delay, lost
            )
        return asked

    def _do(self, operation: str, arguments: tuple[Argument, ...]) -> Answer | StoreError:
        try:
            return self._model.do(operation, *arguments)
        except StoreError as error:
            return error

    def _done_late(
        self, asked: Deferred[Answer], operation: str, arguments: tuple[Argument, ...]
    ) -> None:
        answer = self._do(operation, arguments)
        if not self.afterwards(operation):
            self._answer_later(asked, answer, self.delay, False)

    def _answer_later(
        self, asked: Deferred[Answer], answer: Answer | StoreError, delay: float, lost: bool
    ) -> None:
        if self._clock is None:
            self._answer(asked, answer, lost)
        else:
            self._clock.callLater(delay, self._answer, asked, answer, lost)

    def _answer(self, asked: Deferred[Answer], answer: Answer | StoreError, lost: bool) -> None:
        if asked not in self._outstanding:
            return
        self._outstanding.pop(asked, None)
        if isinstance(answer, StoreError):
            asked.errback(answer)
        else:
            asked.callback(answer)
        if lost and self._running:  # as a connection that is given up, and made anew
            self._become(False)
            if self._clock is None or not self._model.slow:
                self._connect()
            elif self._model.slow < _CONNECT:
                self._clock.callLater(_GREETINGS * self._model.slow, self._connect)

    def _connect(self) -> None:
        if self._running and self._reachable:
            self._become(True)

    def wait(self, after: Mapping[str, str], seconds: float) -> Deferred[dict[str, Entries]]:
        """Return what comes into streams; see :class:`~impfed.store.link.Link`."""
        if not self._up:
            return fail(_error(StoreFault.UNAVAILABLE, "there is no connection"))
        waited: Deferred[Any] = Deferred()
        if self.before("wait"):
            self._give_up_later(waited, seconds + 2.0)
            return waited
        end = self._clock.callLater(seconds, self.wake, True) if self._clock is not None else None
        self._waiting = (dict(after), waited, end)
        self.wake()
        return waited

    def _give_up_later(self, waited: Deferred[Any], seconds: float) -> None:
        """The connection of who waits, which is its own, is given up."""
        gone = _error(StoreFault.UNAVAILABLE, "it is gone")
        if self._clock is None:
            waited.errback(gone)
        else:
            self._clock.callLater(seconds, waited.errback, gone)

    def wake(self, anyway: bool = False) -> None:
        """Look whether something has come for who waits."""
        if self._waiting is None:
            return
        ids, waited, end = self._waiting
        found = {
            stream: entries for stream, id in ids.items() if (entries := self._after(stream, id))
        }
        if not found and not anyway:
            return
        self._waiting = None
        if end is not None and end.active():
            end.cancel()
        if self.afterwards("wait"):
            self._give_up_later(waited, 2.0)
        elif self._clock is not None:
            self._clock.callLater(0, waited.callback, found)
        else:
            waited.callback(found)

    def _after(self, stream: str, id: str) -> Entries:
        return self._model.after(stream, id)

    def _become(self, up: bool) -> None:
        if up is self._up:
            return
        self._up = up
        if not up:
            outstanding, self._outstanding = self._outstanding, {}
            for asked in outstanding:
                asked.errback(_error(StoreFault.UNSURE, "the connection was lost"))
            if self._waiting is not None:
                _, waited, end = self._waiting
                self._waiting = None
                if end is not None and end.active():
                    end.cancel()
                waited.errback(_error(StoreFault.UNAVAILABLE, "the connection was lost"))
        for changed in self._watchers:
            changed(up)


def _error(fault: StoreFault, words: str) -> StoreError:
    return StoreError(fault, f"model: {words}")
