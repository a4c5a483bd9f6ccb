"""What befalls the shared store, and the ways of the nodes to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from impfed.store.api import StoreError, StoreFault
from impfed.store.model import Model
from tests.simulation.keeping import PATIENCE
from tests.simulation.loop import Loop

_REFUSALS = (StoreFault.OUT_OF_MEMORY, StoreFault.READ_ONLY, StoreFault.FULL)
#: Seconds within which every node has found out about a loss and written again what it holds.
_REWRITTEN = 15.0
#: Shares of the calls, or of the answers, that get lost while a way is bad.
_BAD = (0.05, 0.3)


class Reaches(Protocol):
    """A node, as far as its way to the store goes.

    :ivar before: says of a call that it gets lost on its way there.
    :ivar afterwards: the same of its answer.
    """

    @property
    def epoch(self) -> int:
        """That of the living process; 0 for none."""
        ...

    before: Callable[[str], bool]
    afterwards: Callable[[str], bool]

    def cut_off(self) -> None:
        """Lose the connection, and get no other."""
        ...

    def heal(self) -> None:
        """Get a connection again."""
        ...


@dataclass
class Loss:
    """The store lost what was written between two moments, in seconds of the loop.

    :ivar back: when it can be reached again.
    :ivar forgotten: whether a node forgot at that time what it held and would have written again.
    """

    since: float
    at: float
    back: float = 0.0
    forgotten: bool = False

    def excuses(self, written: float) -> bool:
        """Whether a text of a time may have gone with it, and nobody is left to know of that."""
        return self.forgotten and self.since - PATIENCE <= written <= self.back


class Outages:
    """Brings them, one kind after the other.

    :param nodes: whoever has the store.
    :param losing: whether it may lose what it has confirmed.
    :ivar losses: when it has, in order.
    """

    def __init__(self, loop: Loop, model: Model, nodes: Sequence[Reaches], losing: bool) -> None:
        self._loop = loop
        self._model = model
        self._nodes = nodes
        self._kinds = [self._out_of_reach, self._reset, self._bad_way, self._slow, self._refusing]
        self._kinds += [self._restarted, self._failed_over, self._emptied] if losing else []
        self._going_on = True
        self.losses: list[Loss] = []

    @property
    def _random(self) -> Random:
        return self._loop.random

    def bring(self) -> None:
        """Bring one, which ends by itself."""
        self._random.choice(self._kinds)()

    def end(self) -> None:
        """Everything is well from now on."""
        self._going_on = False
        self.mend()

    def mend(self) -> None:
        """Everything is well for now."""
        self._model.failing = None
        self._model.slow = 0.0
        for node in self._nodes:
            node.before = node.afterwards = _well
            node.heal()

    def _mend_after(self, seconds: float) -> None:
        self._loop.after(seconds, self.mend)

    def _some(self) -> Sequence[Reaches]:
        return self._nodes if self._random.random() < 0.5 else [self._random.choice(self._nodes)]

    # -- nothing is lost ---------------------------------------------------------------------------

    def _out_of_reach(self) -> None:
        for node in self._some():
            node.cut_off()
        self._mend_after(self._random.choice((0.5, 3.0, 20.0, 60.0)))

    def _reset(self) -> None:
        """Connections are reset, and made again at once."""
        for node in self._some():
            node.cut_off()
        self._mend_after(self._random.uniform(0.01, 0.3))

    def _bad_way(self) -> None:
        random = self._random
        for node in self._some():
            calls, answers = random.uniform(*_BAD), random.uniform(*_BAD)
            node.before = lambda _, share=calls: random.random() < share  # type: ignore[misc]
            node.afterwards = lambda _, share=answers: random.random() < share  # type: ignore[misc]
        self._mend_after(random.uniform(3.0, 30.0))

    def _slow(self) -> None:
        self._model.slow = self._random.choice((0.1, 1.0, 5.0, 30.0))
        self._mend_after(self._random.uniform(3.0, 60.0))

    def _refusing(self) -> None:
        self._model.failing = StoreError(self._random.choice(_REFUSALS), "made up")
        self._mend_after(self._random.choice((0.5, 3.0, 20.0)))

    # -- what was confirmed is lost ----------------------------------------------------------------

    def _restarted(self) -> None:
        """It is started again with what it had on its disk (appendfsync everysec)."""
        self._go_back(self._random.uniform(0.0, 1.0))

    def _failed_over(self) -> None:
        """A replica that lags behind takes its place."""
        self._go_back(self._random.uniform(0.0, 5.0))

    def _go_back(self, lag: float) -> None:
        kept, since = self._model.state(), self._loop.now
        self._loop.after(lag, lambda: self._lose(lambda: self._model.go_back(kept), since))

    def _emptied(self) -> None:
        self._lose(self._model.empty, 0.0)

    def _lose(self, lose: Callable[[], None], since: float) -> None:
        if not self._going_on:
            return
        loss = Loss(since, self._loop.now)
        self.losses.append(loss)
        before = [node.epoch for node in self._nodes]
        for node in self._nodes:
            node.cut_off()
        lose()
        away = self._random.uniform(0.2, 5.0)
        loss.back = self._loop.now + away
        self._mend_after(away)

        def look() -> None:
            loss.forgotten = before != [node.epoch for node in self._nodes] or 0 in before

        self._loop.after(_REWRITTEN, look)


def _well(operation: str) -> bool:
    return False
