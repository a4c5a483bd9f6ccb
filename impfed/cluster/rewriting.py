"""Writing again what the store may lack: once at a time, and once more if it has lost something meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred

from impfed.core.log import EventLog
from impfed.store.api import StoreError, StoreState

_log = EventLog("impfed.cluster")


class Rewriting:
    """Calls whoever owns records to write them again.

    :param rewrite: writes them; may return a Deferred.
    """

    __slots__ = ("_lacking", "_refused", "_rewrite", "_running")

    def __init__(self, rewrite: Callable[[], Deferred[Any] | None]) -> None:
        self._rewrite = rewrite
        self._running = self._lacking = self._refused = False

    def begin(self) -> None:
        """The store lacks something."""
        self._lacking = True
        if not self._running:
            self._running = True
            self._run().addErrback(
                lambda failure: _log.failure("rewrite", "writing again raised", failure)
            )

    def store_changed(self, state: StoreState) -> bool:
        """Take in how the store is; says whether it takes writes again after it has refused some."""
        recovered = self._refused and state is StoreState.UP
        self._refused = state is StoreState.REFUSING
        return recovered

    @inlineCallbacks
    def _run(self) -> Generator[Deferred[Any], Any, None]:
        try:
            while self._lacking:
                self._lacking = False
                yield maybeDeferred(self._rewrite)
        except StoreError as error:
            # It has gone once more; all is written again when it is back.
            _log.warn("rewrite_failed", "cannot write everything again: {why}", why=error.text)
        finally:
            self._running = False
