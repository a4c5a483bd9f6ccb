"""What the cluster wants of those whose work it places, and what it asks of other nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from impfed.cluster.membership import Sight
from impfed.cluster.ownership import Pair, Placement
from impfed.store.records import Record


class ClusterUser(Protocol):
    """Who owns records: the gateway.  Every method is called in the reactor thread.

    Those that return a Deferred are waited for; what they fail with is logged, and the step is taken
    again with the next heartbeat.
    """

    def adopt(self, records: Sequence[Record]) -> Deferred[Any] | None:
        """These records, of a dead node, given by a live one or unclaimed, are ours now; serve them.

        One that is served already stays as it is.

        Fire as soon as they are served (requests for them are understood); what goes to the wire
        may follow later, at the partners' pace.
        """
        ...

    def release(self, placement: Placement) -> Deferred[Any] | None:
        """Pairs have moved to other nodes: finish what is under way for each and give its records.

        For each pair of ours with ``placement.owner(pair)`` another node: stop, then
        ``ClusterService.give(kind, owner, keys, placement.generation)``, then forget it.  Fire when all
        are given.  A placement that is over gives nothing; one that has been seen since may be used.
        """
        ...

    def pause(self) -> None:
        """The lease is over, or may be: act on nothing that has an owner until :meth:`resume`.

        Requests get 500 or 480 with Retry-After; ``ClusterService.may_act`` says the same at any time.
        """
        ...

    def resume(self) -> None:
        """Go on; called before the first :meth:`adopt`, too."""
        ...

    def drop(self) -> None:
        """Others have taken over: forget everything that has an owner, at once, sending nothing."""
        ...

    def lost(self, kind: str, key: str, owner: str) -> None:
        """One record was taken over by another node: forget it, sending nothing."""
        ...

    def rewrite(self) -> Deferred[Any] | None:
        """The store has lost writes, or could not take them: write everything that is owned again."""
        ...

    def letter(self, pair: Pair, payload: bytes) -> Deferred[Any] | None:
        """Handle a letter; it leaves the mailbox when this fires (success or failure)."""
        ...

    def undelivered(self, pair: Pair, payload: bytes) -> None:
        """A letter that :meth:`ClusterService.send` took could not be brought to anybody."""
        ...

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        """Another node has changed a record that belongs to all; None: it is gone."""
        ...

    def reload(self) -> Deferred[Any] | None:
        """Changes of such records may have been missed: load them again."""
        ...


class Others(Protocol):
    """Asks other nodes directly, by a way that does not lead over the store."""

    def sights(self, names: Sequence[str]) -> Deferred[list[Sight]]:
        """Ask each node whether it sees the store; fires within a second, with one for each.

        Dead nodes are asked, too, for one may have come back.
        """
        ...
