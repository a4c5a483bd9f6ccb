"""The relay on a node of a cluster: each pair's stanzas leave by the streams of the pair's own node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from zope.interface import implementer

from impfed.cluster.ownership import Leaves
from impfed.store.api import Change
from impfed.store.records import RelayedTextRecord
from impfed.transport.link_api import IForeignRelay
from impfed.xmpp.stanza import OutStanza, Stanza


class RelayMoves(Protocol):
    """What is asked of XMPP federation in a cluster; :class:`impfed.relay.setup.XmppFederation` has it."""

    def restore(self, records: list[RelayedTextRecord]) -> None:
        """Go on with texts of another node; those that are here already stay as they are."""
        ...

    def surrender(self, leaves: Leaves) -> dict[str, list[str]]:
        """Give up the texts that wait for pairs of other nodes; returns their keys by node."""
        ...

    def departed(self, domain: str, call: Callable[[], None]) -> None:
        """Call when local users' messages to a foreign domain so far are not ours any more."""
        ...

    def kept(self) -> Iterator[Change]:
        """Yield the texts that wait, as they have to be in the store."""
        ...

    def abandon(self) -> None:
        """Forget every text that waits, telling nobody: others have taken over."""
        ...


@implementer(IForeignRelay)
class PlacedRelay:
    """Stands where the home links of a single node have their relay.

    :ivar relay: this node's own, an IForeignRelay.
    :param take: brings a stanza of a local user to the node of its pair.
    """

    def __init__(self, relay: Any, moves: RelayMoves, take: Callable[[Stanza], None]) -> None:
        self.relay = relay
        self.moves = moves
        self._take = take

    def takes(self, domain: str) -> bool:
        """Say whether a domain is reached over XMPP, or may be."""
        return bool(self.relay.takes(domain))

    def reaches(self, domain: str) -> bool:
        """Say whether policy lets stanzas out to such a domain, too."""
        return bool(self.relay.reaches(domain))

    def from_home(self, stanza: Stanza) -> None:
        """Bring a stanza to the node of its pair, which may be this one."""
        self._take(stanza)

    def link_up(self, domains: frozenset[str]) -> None:
        """Nothing: every node hears of links by the cluster, the one that holds them included."""

    def not_written(self, stanza: OutStanza) -> None:
        """Have this node's relay see to what its link did not live to write."""
        self.relay.not_written(stanza)

    def adopt(self, records: Sequence[RelayedTextRecord]) -> None:
        """Serve texts of another node."""
        self.moves.restore(list(records))
