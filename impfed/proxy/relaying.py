"""Whose is a request or an answer that came to this node: by the relay token, else by the address in it.

What belongs to another node is relayed to it.  What came here only because a port is mapped to the wrong
node is *misrouted*: counted, explained and remembered for the status, for the mapping has to be corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from impfed.config.model import Config, ListenerConfig
from impfed.core.errors import RemoteError
from impfed.core.hosts import bracketed
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.proxy.way import Way
from impfed.routing.neighbours import Neighbours, address_of
from impfed.sip.message import REASONS, SipRequest, SipResponse
from impfed.sip.relay_token import Flaw, RelayTokens, token_of
from impfed.sip.target import Hop
from impfed.sip.uri import SipUri
from impfed.transport.flow import Flow

log = EventLog("impfed.proxy")

#: Seconds between two lines in the log about the same trouble.
_SAY_AGAIN = 60.0

#: Troubles remembered for that; a peer must not fill memory with new ones.
_SAID_LIMIT = 200

#: Dialogs of other nodes that are remembered; after so many all are looked for again.
_FOUND_LIMIT = 10_000

#: What is answered to a token that counts for nothing. 481 has a peer begin anew, at no cost; who
#: makes tokens up, or takes those of other dialogs, is refused.
_ANSWERS = {Flaw.FORGED: 403, Flaw.OTHER_DIALOG: 403, Flaw.EXPIRED: 481}

_COUNTERS = {
    Flaw.FORGED: "relay.forged",
    Flaw.OTHER_DIALOG: "relay.other_dialog",
    Flaw.EXPIRED: "relay.expired",
}


def relay_tokens(config: Config) -> RelayTokens | None:
    """Return what a node writes into its Contacts; None, and a word about it, without a shared secret."""
    node = config.node
    if node.relay_secret:
        return RelayTokens(node.name, node.relay_secret.encode("utf-8"), node.relay_lifetime)
    if config.neighbours:
        log.warn(
            "no_relay_secret",
            "there is no [node] relay_secret_file, so this node writes no relay tokens: what belongs"
            " to another node is found by its address alone, and an answer that comes to the wrong"
            " node is lost",
        )
    return None


@dataclass(slots=True)
class Misrouted:
    """What came to this node by a mapping that should lead to another one.

    :ivar address: the public address that was called.
    :ivar owner: the node that it should lead to.
    :ivar listener: where it came in.
    :ivar last_at: when the last one came, in seconds since the epoch.
    """

    address: str
    owner: str
    listener: str
    requests: int = 0
    answers: int = 0
    last_at: float = 0.0
    advice: str = ""


class Relaying:
    """Finds the owners of what came to this node, and tells of what should not have come.

    :param ours: says whether a URI is an address of this node, or one that all nodes share.
    :param seconds: what time it is.
    :ivar placed: names the other node of a cluster that a new request belongs to, or says "".
    """

    placed: Callable[[SipRequest], str] | None = None

    def __init__(
        self,
        tokens: RelayTokens | None,
        neighbours: Neighbours,
        listeners: Sequence[ListenerConfig],
        ours: Callable[[SipUri], bool],
        seconds: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._tokens = tokens
        self._neighbours = neighbours
        self._listeners = {each.name: each for each in listeners}
        self._ours = ours
        self._seconds = seconds
        self._metrics = metrics
        self._said: dict[tuple[str, ...], float] = {}
        self._found: dict[tuple[str, str], str] = {}  # node by Call-ID and our tag
        self._misrouted: dict[tuple[str, str, str], Misrouted] = {}

    def by_token(self, request: SipRequest, way: Way, uri: SipUri, flow: Flow) -> Hop | None:
        """Return the node that a request within a dialog belongs to by its token; None if it says none.

        Asked of what names this node, or an address that all nodes share, and of what names another
        node's address and came without a Route of ours.  The token names a node, which is looked up
        among the neighbours: no address in a request is ever gone to.

        :param uri: what is next on its way.
        :raises RemoteError: 403 for a token that is forged or of another dialog; 481 for one that has
            expired or names a node that is not there.
        """
        if not request.to_tag:
            return None if way.routes else self.by_placement(request, flow)
        name = self._found.get((request.call_id, request.to_tag), "") if self._found else ""
        if name and not self._neighbours.gone(name) and name != self._who(flow):
            return self._neighbours.named(name)
        token = token_of(uri)
        if token is None or self._tokens is None or way.routes or not request.to_tag:
            return None
        ours = self._ours(uri)
        if not ours and (way.ours or self._neighbours.at(uri) is None):
            return None
        found = self._tokens.owner(token, request.call_id, request.to_tag, self._seconds())
        if isinstance(found, Flaw):
            raise self._refused(request, flow, _COUNTERS[found], found.value, _ANSWERS[found])
        if found == self._tokens.node:
            if ours:
                return None  # a dialog that is over, or that a dead process took with it
            why = (
                f"it names this node, but a dialog that is over, and the address of {uri.hostport}"
            )
            raise self._refused(request, flow, "relay.over", why, 481)
        if self._neighbours.gone(found) or found == self._who(flow):
            return None  # it is dead, or has given the dialog away: the store knows whose it is
        hop = self._neighbours.named(found)
        if hop is None:
            why = f"it names {found}, and no [[neighbour]] is called so"
            raise self._refused(request, flow, "relay.unknown_node", why, 481)
        return hop

    def belongs(self, request: SipRequest, name: str, flow: Flow) -> bool:
        """Remember whose a dialog is, as the cluster's store has said; False if that leads nowhere.

        A third node may have sent the request here by a token of ours, before the dialog went on.
        """
        if self._neighbours.named(name) is None or name == self._who(flow):
            return False
        if len(self._found) >= _FOUND_LIMIT:
            self._found.clear()
        self._found[request.call_id, request.to_tag] = name
        return True

    def back(self, request: SipRequest, hop: Hop, flow: Flow) -> bool:
        """Say whether a way leads back to the node that has passed on a request within a dialog."""
        return bool(request.to_tag) and hop.source.removeprefix("neighbour ") == self._who(flow)

    def _who(self, flow: Flow) -> str:
        """Return which of the nodes a connection is from; "" for none."""
        return self._neighbours.who(flow.peer.names)

    def by_placement(self, request: SipRequest, flow: Flow) -> Hop | None:
        """Return the node of a cluster that a new request belongs to; None when it is this one's.

        What another node of the cluster has passed on stays here, so that it never goes round in a circle.
        """
        if self.placed is None or self._neighbours.is_member(flow.peer.names):
            return None
        name = self.placed(request)
        return self._neighbours.named(name) if name else None

    def answer_owner(self, response: SipResponse, flow: Flow) -> Hop | None:
        """Return the node that a response belongs to which is no answer to this one; None for nobody's.

        It is where its branch says that it is, which only a node of ours can have written.  What comes
        from another node is never relayed again.
        """
        via = response.via
        names = self._neighbours
        address = (via.host.strip("[]").lower(), via.port or 5061)
        owner = self._tokens.branch_owner(via.branch) if self._tokens is not None else ""
        hop = names.named(owner) if owner else None
        neighbour = owner if hop is not None else names.advertising(address)
        if not neighbour:
            return None
        self._metrics.count("proxy.misrouted_answers")
        told = f"{bracketed(address[0])}:{address[1]}"
        # What else its Via says is the peer's affair, and must not fill the list.
        known = names.advertising(address) == neighbour
        entry = self._entry(told if known else "another address", neighbour, flow)
        entry.answers += 1
        again = bool(flow.peer.proven and names.who(flow.peer.names))
        fate = "is relayed to it"
        if hop is None:
            fate = "is dropped, for its branch does not prove whose it is"
        elif again:
            fate = "is dropped, for another node has relayed it already"
        self._say(
            ("answer", entry.address, entry.listener),
            "misrouted",
            "an answer ({status}) for {address}, an address of {owner}, came to this node and {fate}:"
            " {advice}",
            status=response.status,
            address=entry.address,
            owner=neighbour,
            fate=fate,
            advice=entry.advice,
            conversation=response.call_id,
        )
        return None if again else hop

    def misrouted(self, request: SipRequest, uri: SipUri, hop: Hop, flow: Flow) -> None:
        """Note a request for another node's Contact that came here without a Route of ours."""
        self._metrics.count("proxy.misrouted")
        host, port = address_of(uri)
        entry = self._entry(
            f"{bracketed(host)}:{port}", hop.source.removeprefix("neighbour "), flow
        )
        entry.requests += 1
        self._say(
            ("request", entry.address, entry.listener),
            "misrouted",
            "{method} for {contact}, an address of {owner}, came to this node and is relayed to it:"
            " {advice}",
            method=request.method,
            contact=f"{uri.scheme}:{uri.user}@{uri.hostport}",
            owner=entry.owner,
            advice=entry.advice,
            conversation=request.call_id,
        )

    def view(self) -> list[dict[str, Any]]:
        """Return a dict for each mapping that seems to be wrong."""
        return [asdict(each) for each in self._misrouted.values()]

    def _entry(self, address: str, owner: str, flow: Flow) -> Misrouted:
        key = (address, owner, flow.listener)
        entry = self._misrouted.get(key)
        if entry is None:
            # Owner, address and listener are all configured here, so there are few.
            entry = self._misrouted[key] = Misrouted(address, owner, flow.listener)
            entry.advice = self._advice(address, owner, flow)
        entry.last_at = self._seconds()
        return entry

    def _advice(self, address: str, owner: str, flow: Flow) -> str:
        there = self._neighbours.named(owner)
        inside = f"{bracketed(there.host)}:{there.port}" if there is not None else "its listener"
        listener = self._listeners.get(flow.listener)
        if listener is None:
            return f"map {address} to {owner} ({inside})"
        here = f"{bracketed(listener.host)}:{listener.port}"
        return (
            f"{address} seems to be mapped to this node ({here}, listener {listener.name});"
            f" map it to {owner} ({inside})"
        )

    def _refused(
        self, request: SipRequest, flow: Flow, counter: str, why: str, status: int
    ) -> RemoteError:
        self._metrics.count(counter)
        self._say(
            (counter, flow.remote[0]),
            "token_refused",
            "{method} from {peer} has a relay token that counts for nothing: {why} (answered {status})",
            method=request.method,
            peer=str(flow),
            why=why,
            status=status,
            conversation=request.call_id,
        )
        return RemoteError(status, REASONS[status])

    def _say(self, about: tuple[str, ...], event: str, text: str, **fields: Any) -> None:
        now = self._seconds()
        if now < self._said.get(about, float("-inf")) + _SAY_AGAIN:
            return
        if len(self._said) >= _SAID_LIMIT:
            self._said.clear()
        self._said[about] = now
        log.warn(event, text, **fields)
