"""What a node has under way, and how much that may be: at any time, and when all is quiet.

Nobody writes more than four texts at a time here, so a queue that grows beyond what the longest fault
lets pile up is one that nobody empties.  A text is up to three writes to the store, for what has waited
through a pause comes at once: it is kept until there is a stream, and taken out, and entered in the ledger.
And it is up to two messages for a home server, for it comes again when its stream breaks meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from impfed.service import Node


@dataclass(frozen=True)
class Bound:
    """One kind of thing.

    :ivar most: how many there may be.
    :ivar quiet: how many long after the last event.
    """

    what: str
    most: int
    quiet: int
    count: Callable[[Node], int]


def _streams(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.federation.status().get("xmpp_streams", [])
    return found


def _orphans(node: Node) -> int:
    """Count dialogs that neither a session nor a subscription has."""
    sessions = sum(len(each.dialogs) for each in node.im.sessions())
    return max(0, node.gateway.dialogs - sessions - len(node.presence.view()))


def _watched(node: Node) -> int:
    return len({(one["direction"], one["local"], one["foreign"]) for one in node.presence.view()})


def _unconfirmed(node: Node) -> int:
    return sum(node.home.unconfirmed(home.name) for home in node.config.homes)


def _handed_over(node: Node) -> int:
    return sum(int(link.get("unacknowledged", 0)) for link in node.home.status())


def _waiting(node: Node) -> int:
    return sum(each.get("waiting", 0) + each.get("unacknowledged", 0) for each in _streams(node))


BOUNDS = (
    Bound("SIP transactions", 100, 0, lambda node: len(node.stack.transactions)),
    Bound("texts on their way to SIP", 100, 0, lambda node: len(node.im.outbox)),
    Bound("texts in sessions", 100, 0, lambda node: sum(len(s.queue) for s in node.im.sessions())),
    Bound("sessions", 15, 15, lambda node: len(node.im.sessions())),
    Bound("watched pairs", 10, 10, _watched),
    Bound("subscriptions", 40, 40, lambda node: len(node.presence.view())),
    Bound("dialogs of nobody", 20, 0, _orphans),
    Bound(
        "requests that wait for a budget", 50, 0,
        lambda node: sum(len(lane.tickets) for lane in node.paced.lanes.values()),
    ),
    Bound("messages that no home server has confirmed", 200, 0, _unconfirmed),
    Bound("stanzas that no home server knows to be safe", 100, 0, _handed_over),
    Bound("stanzas for foreign XMPP servers", 150, 0, _waiting),
    Bound("XMPP streams", 20, 20, lambda node: len(_streams(node))),
    Bound("writes to the store", 300, 0, lambda node: node.store.backlog),
    Bound(
        "letters", 50, 0,
        lambda node: node.cluster.service.post.waiting if node.cluster is not None else 0,
    ),
)  # fmt: skip


def excess(node: Node, quiet: bool) -> Iterator[str]:
    """Yield what a node has too much of, in words."""
    for bound in BOUNDS:
        count = bound.count(node)
        if count > (bound.quiet if quiet else bound.most):
            yield f"has {count} {bound.what}"
