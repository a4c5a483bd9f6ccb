"""The end of a process that cannot do what it was started for."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from impfed.core.errors import ImpfedError
from impfed.core.log import EventLog

log = EventLog("impfed.service")


def cannot_start(failure: Failure, reactor: Any, what: str) -> None:
    """Log why a start has failed, and end the process with exit code 1.

    :param what: what was to be started, "node" or "edge".
    """
    if failure.check(ImpfedError, CannotListenError) is None:
        log.failure("start_failed", "the {what} cannot start", failure, what=what)
    else:
        log.error(
            "cannot_start", "the {what} cannot start: {why}", what=what, why=str(failure.value)
        )
    reactor.addSystemEventTrigger("after", "shutdown", _end_with_failure)
    reactor.stop()


def _end_with_failure() -> None:
    # The reactor has stopped and twistd would end with 0; a supervisor has to know better.
    sys.stdout.flush()
    os._exit(1)
