"""Many runs, spread over the processors; whatever fails is told at the end, with how it is replayed."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TypeAlias

from twisted.logger import LogEvent, formatEvent, globalLogPublisher

#: One run: takes its number, returns what is wrong afterwards, in words.
Run: TypeAlias = Callable[[int], list[str]]

#: Whether this is a long run with somebody who watches, and wants all of it.
SOAK = bool(os.environ.get("IMPFED_SOAK"))
_PROGRESS = 100  # runs from one line to the next
_SHOWN = 10


def failures(run: Run, numbers: Sequence[int], replay: str, what: str) -> str:
    """Do every run; returns what failed, in words, "" for nothing.

    The first is done here, so that what is made once is made before the workers are.

    :param run: can be pickled.
    :param replay: the environment variable that has one run alone done.
    :param what: what the runs are, for who watches a long one.
    """
    if not numbers:
        return ""
    done = [(numbers[0], run(numbers[0]))]
    if len(numbers) > 1:
        with ProcessPoolExecutor(_processors(), get_context("fork")) as pool:
            for result in pool.map(partial(_told, run), numbers[1:]):
                done.append(result)
                if SOAK and len(done) % _PROGRESS == 0:
                    _say(f"{what}: {len(done)} of {len(numbers)}, {_count(done)} failed")
    failed = [(number, problems) for number, problems in done if problems]
    return "\n".join(
        [f"{len(failed)} of {len(numbers)}: {[number for number, _ in failed]}"] * bool(failed)
        + ["\n".join((f"{replay}={number}", *found[:_SHOWN])) for number, found in failed[:_SHOWN]]
    )


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _count(done: Sequence[tuple[int, list[str]]]) -> int:
    return sum(bool(problems) for _, problems in done)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _told(run: Run, number: int) -> tuple[int, list[str]]:
    """Do one run in a worker, where trial does not see what a node logs as a failure."""
    raised: list[str] = []

    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            raised.append(f"{formatEvent(event)}\n{failure.getTraceback()}")

    globalLogPublisher.addObserver(observe)
    try:
        problems = run(number)
    except Exception:
        problems = [traceback.format_exc()]
    finally:
        globalLogPublisher.removeObserver(observe)
    gc.collect()  # else thousands of worlds stay: what nodes froze is not weighed against them
    return number, problems + raised
