"""Planned runs of a cluster: in them only happens what the story says."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from impfed.cluster.membership import Standing
from tests.simulation.cast import Cast
from tests.simulation.cluster import ClusterNode, ClusterWorld
from tests.simulation.world import QUIET, Faults

NONE = Faults()


class Story(ClusterWorld):
    """A run of a minute or so in which only happens what :meth:`at` is told.

    :cvar home_kinds: what the home server may be.
    :cvar xmpp: whether there is a partner that speaks XMPP.
    :ivar seen: where each node stood when :meth:`look` was called.
    """

    home_kinds: tuple[str, ...] = ("component", "prosody")
    xmpp = True

    def __init__(
        self, seed: int, troubled: float = 60.0, faults: Faults = NONE, quiet: float = QUIET
    ) -> None:
        kind = self.home_kinds[seed % len(self.home_kinds)]
        super().__init__(seed, faults, troubled, Cast.of(kind, xmpp=self.xmpp), quiet)
        self.seen: list[list[Standing]] = []

    def at(self, seconds: float, call: Callable[[], object]) -> None:
        """Have something happen some seconds after the beginning."""
        self.loop.after(seconds, call)

    def process(self, number: int) -> ClusterNode:
        """Return a node's process, counted from 0."""
        return cast(ClusterNode, self.nodes[number])

    def look(self) -> None:
        """Note where each node stands."""
        found = []
        for process in self.nodes:
            assert process.node is not None and process.node.cluster is not None
            found.append(process.node.cluster.service.standing)
        self.seen.append(found)

    def change(self) -> None:
        """Everybody whom the SIP partner has changes his state, so that the nodes are told of it."""
        assert self.partner is not None
        for user, state in self.partner.users.items():
            self.partner.show(user, "busy" if state == "away" else "away")

    def cut(self, *numbers: int) -> None:
        """Cut nodes off from the store."""
        for number in numbers:
            self.process(number).cut_off()

    def restart(self, number: int) -> None:
        """Stop a node as ``twistd`` does when it is told to end, and start it again when it has."""
        process = self.process(number)
        node = process.node
        if node is None:
            return  # something has killed it

        def gone(_: object) -> None:
            if process.node is node:
                process.kill()
                process.start()

        node.stopService().addCallback(gone)


class BusyStory(Story):
    """One with six texts a second."""

    def _talk(self) -> None:
        super()._talk()
        for delay in (0.3, 0.6, 0.9, 1.2):
            self.loop.after(delay, super()._talk)


class KeepingStory(BusyStory):
    """One whose home server keeps what no node has safely."""

    home_kinds = ("prosody",)
